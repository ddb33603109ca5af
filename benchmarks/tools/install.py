"""Installing what the benchmark compares with: Debian's SExtractor, PSFEx, SCAMP and SWarp; a plain word where that is not possible.

PyZOGY, ZOGY and hotpants are in no package index: they are measured where somebody has put them (`PLACES`).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from benchmarks.tools.astromatic import SEXTRACTOR

PROGRAMS = {SEXTRACTOR: "source-extractor", "psfex": "psfex", "scamp": "scamp", "SWarp": "swarp"}
"""Program to its Debian package."""
PLACES = {
    "PyZOGY": (
        "ZTFDS_BENCH_PYZOGY",
        "PyZOGY/subtract.py",
        "the folder that holds the package PyZOGY (github.com/dguevel/PyZOGY)",
    ),
    "ZOGY": ("ZTFDS_BENCH_ZOGY", "zogy.py", "the folder that holds zogy.py (github.com/pmvreeswijk/ZOGY)"),
    "hotpants": (
        "ZTFDS_BENCH_HOTPANTS",
        "hotpants",
        "the folder that holds the program (github.com/acbecker/hotpants)",
    ),
}
"""Tools that cannot be installed from here: environment variable, the file that must be in the folder it names, what it is."""
TOOLS = Path(__file__).resolve().parents[2] / "var" / "bench" / "tools"
"""Where they are looked for without the variable, each in a folder of its name."""


def place(name: str) -> Path | None:
    """Folder of a tool of `PLACES`, None where it is not."""
    variable, file, _ = PLACES[name]
    folder = Path(os.environ.get(variable) or TOOLS / name)
    return folder if (folder / file).is_file() else None


def missing(needs: tuple[str, ...]) -> list[str]:
    """Which of some programs and Python packages are not here, in words."""
    return [f"{name} (${PLACES[name][0]})" if name in PLACES else name for name in needs if not _present(name)]


def _present(name: str) -> bool:
    if name in PLACES:
        return place(name) is not None
    return bool(shutil.which(name)) if name in PROGRAMS else importlib.util.find_spec(name) is not None


def say_what_is_missing() -> None:
    """Name the tools that nobody has put here, and how they would be found."""
    for name, (variable, _, what) in PLACES.items():
        if place(name) is None:
            print(f"{name} is not here: its rows are left out. To measure it, set {variable} to {what}")


def install() -> None:
    """Install the Debian packages that are missing, as root or through a sudo that does not ask; say what could not be done."""
    say_what_is_missing()
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
