"""Installing what the benchmark compares with: Debian's SExtractor, PSFEx and SCAMP; a plain word where that is not possible."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess

from benchmarks.tools.astromatic import SEXTRACTOR

PROGRAMS = {SEXTRACTOR: "source-extractor", "psfex": "psfex", "scamp": "scamp"}
"""Program to its Debian package."""


def missing(needs: tuple[str, ...]) -> list[str]:
    """Which of some programs and Python packages are not here."""
    return [name for name in needs if not _present(name)]


def _present(name: str) -> bool:
    return bool(shutil.which(name)) if name in PROGRAMS else importlib.util.find_spec(name) is not None


def install() -> None:
    """Install the Debian packages that are missing, as root or through a sudo that does not ask; say what could not be done."""
    wanted = [PROGRAMS[name] for name in missing(tuple(PROGRAMS))]
    if not wanted:
        return
    prefix = _as_root()
    if prefix is None or not shutil.which("apt-get"):
        why = "apt-get is not here" if prefix is not None else "neither root nor a sudo without password"
        print(
            f"{', '.join(wanted)} not installed ({why}): their rows are left out. By hand: apt-get install {' '.join(wanted)}"
        )
        return
    print(f"installing {', '.join(wanted)}", flush=True)
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *wanted]):
        subprocess.run(
            [*prefix, "apt-get", *command],
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
            stdout=subprocess.DEVNULL,
        )
    if still := missing(tuple(PROGRAMS)):
        print(f"{', '.join(still)} could not be installed: their rows are left out")


def _as_root() -> list[str] | None:
    """What to put before a command that needs root; None where nothing helps."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        return ["sudo", "-n"]
    return None


if __name__ == "__main__":
    install()
