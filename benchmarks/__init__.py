"""Side-by-side measurements against peers that anybody can run: ``python -m benchmarks``."""
