"""Compiled array kernels: arrays in, arrays out; no I/O, no classes, no state."""

from __future__ import annotations

import importlib
import pkgutil


def module_names() -> list[str]:
    """Full names of the kernel modules of this package, in alphabetical order."""
    return sorted(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__))


def warm() -> tuple[str, ...]:
    """Import every kernel module of this package, so that a worker has its compiled code before it forks.

    Kernels have explicit signatures and compile (or load their cached machine code) when they are imported.

    Returns
    -------
    tuple of str
        Names of the modules imported, in alphabetical order.
    """
    names = module_names()
    for name in names:
        importlib.import_module(name)
    return tuple(names)
