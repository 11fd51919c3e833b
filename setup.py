"""The compiled kernel of the loader; all else is in pyproject.toml."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "dtk.loader._kernel",
            ["dtk/loader/_kernel.c"],
            extra_compile_args=["-O3"],
            py_limited_api=True,
            optional=True,  # without a compiler the wheel is the same but for speed
        )
    ],
)
