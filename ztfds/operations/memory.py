"""Memory of a worker: what is freed stays with the process, because each page costs its zeroing when it comes back."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Names of glibc's `mallopt` parameters (malloc.h)."""
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let images be allocated where earlier ones were, instead of on fresh pages from the kernel.

    A quadrant allocates and frees some 3 GB of images one after the other, of which 0.7 GB are alive at once. By default
    glibc takes arrays of more than 32 MB from the kernel and gives them back at once, and the kernel zeroes the same pages
    again and again. The peak grows by what cannot be fitted into the gaps.

    Returns
    -------
    bool
        False where the C library has no such setting; nothing is changed then.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))


def give_back_freed_memory() -> bool:
    """Give what lies freed between living images back to the kernel, once: between two steps that need room in other places.

    Returns
    -------
    bool
        False where nothing was given back, or the C library cannot.
    """
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (OSError, AttributeError, TypeError):
        return False
