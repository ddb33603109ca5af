"""Freed memory stays with the worker."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import resource
import numpy as np
from ztfds.operations.memory import keep_freed_memory
kept = keep_freed_memory() if {keep} else True
def touch():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.full(12_000_000, 1.5, np.float32).sum()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
touch()
print(int(kept), touch())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_an_image_made_again_needs_no_new_pages():
    def faults(keep: bool) -> int:
        command = [sys.executable, "-c", CODE.format(keep=keep)]
        # NUMPY_MADVISE_HUGEPAGE=0: count small pages, whatever the machine prefers
        environment = {"NUMPY_MADVISE_HUGEPAGE": "0", "PATH": "/usr/bin:/bin"}
        kept, count = subprocess.run(
            command, capture_output=True, text=True, check=True, env=environment
        ).stdout.split()
        assert kept == "1"
        return int(count)

    assert faults(keep=False) > 5000
    assert faults(keep=True) < 100
