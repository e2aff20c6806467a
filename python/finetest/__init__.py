"""The finetest program as a Python package. `python -m finetest` runs it."""

from ._find import find_finetest_bin

__all__ = ["find_finetest_bin"]
