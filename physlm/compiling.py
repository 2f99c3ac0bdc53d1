"""Compiling loops with numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, ParamSpec, TypeVar

import numba

_Arguments = ParamSpec("_Arguments")
_Returned = TypeVar("_Returned")


def compiled(function: Callable[_Arguments, _Returned]) -> Callable[_Arguments, _Returned]:
    """Compile with numba when first called, kept on disk if there is a folder to keep it in.

    What is kept is renewed when the file of the function changes, but not when a function that it calls does, in
    another file: delete `__pycache__` then. Divisions by zero are an error.
    """
    return _compiled(function, "python")


def compiled_for_vectors(function: Callable[_Arguments, _Returned]) -> Callable[_Arguments, _Returned]:
    """As `compiled`, but divisions by zero give infinity or NaN: a test for them keeps loops from being vectorised."""
    return _compiled(function, "numpy")


def _compiled(
    function: Callable[_Arguments, _Returned], error_model: Literal["python", "numpy"]
) -> Callable[_Arguments, _Returned]:
    try:
        return numba.njit(cache=True, error_model=error_model)(function)
    except RuntimeError:  # neither the installation nor the user's cache folder can be written
        return numba.njit(error_model=error_model)(function)
