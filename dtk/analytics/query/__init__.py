"""Queries in parts: each task runs DuckDB on some chunks, the parts are merged as a tree, the result stays lazy."""
