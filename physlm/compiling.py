"""Compiling loops with numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numba

_Arguments = ParamSpec("_Arguments")
_Returned = TypeVar("_Returned")


def compiled(function: Callable[_Arguments, _Returned]) -> Callable[_Arguments, _Returned]:
    """Compile with numba when first called, kept on disk if there is a folder to keep it in.

    What is kept is renewed when the file of the function changes, but not when a function that it calls does, in
    another file: delete `__pycache__` then.
    """
    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:  # neither the installation nor the user's cache folder can be written
        return numba.njit(function)
