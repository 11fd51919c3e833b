"""The compiled kernels; all else is in pyproject.toml."""

from setuptools import Extension, setup


def kernel(name: str, *flags: str) -> Extension:
    """Compile what is optional: without a compiler the wheel is the same but for speed."""
    source = name.replace(".", "/") + ".c"
    return Extension(name, [source], extra_compile_args=["-O3", *flags], py_limited_api=True, optional=True)


# without fused products sums have the same bits on every machine
setup(ext_modules=[kernel("dtk.loader._kernel"), kernel("dtk.statistics._sums", "-ffp-contract=off")])
