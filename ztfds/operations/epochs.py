"""Which epochs of a folder make references and which are differenced: decided once, kept in a file, the same ever after."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ztfds.formats.atomic import write_atomic
from ztfds.operations.context import Context
from ztfds.registry import database
from ztfds.survey.names import RawName

logger = logging.getLogger(__name__)

FILENAME = "epochs.json"
MOST_EARLY, LEAST_EARLY = 15, 6
USABLE = ("calibrated", "processed")
"""States of a file that can be in a reference."""

_STATES = "select filename, state from ccdfiles where filename = any(%s)"
_REFERENCES = """
    select distinct field, fid, rcid / 4 + 1 as ccdid from references_ where status = 1 and vbest > 0 and field = any(%s)"""


@dataclass
class Group:
    """The epochs of one field, filter and CCD.

    Attributes
    ----------
    epochs : list of str
        All known ones (``ffd`` of the file names), in order of time.
    early : list of str
        Those that make the references; the others are differenced.
    done : bool
        Whether the references were made, or found impossible to make, from the early ones.
    """

    epochs: list[str]
    early: list[str] = field(default_factory=list)
    done: bool = False


def key_of(field: int, fid: int, ccdid: int) -> str:
    """Name of a group: ``FFFFFF/<filter number>/<CCD>``."""
    return f"{field:06d}/{fid}/{ccdid:02d}"


def group_of(name: RawName) -> str:
    """The group of an on-sky file."""
    return key_of(name.field, name.fid, name.ccdid)


def first_epochs(epochs: Sequence[str]) -> list[str]:
    """Of n epochs the earliest min(15, max(6, n // 2)); in order of time."""
    return sorted(epochs)[: min(MOST_EARLY, max(LEAST_EARLY, len(epochs) // 2))]


class Epochs:
    """The groups of a folder, kept in ``epochs.json`` so that repeated runs divide the epochs in the same way.

    A group whose references exist keeps its division: epochs that come later are differenced. One without any is divided
    anew when epochs were added; all those that were calibrated before are then early, for nothing was differenced.

    Parameters
    ----------
    context : Context
    folder : Path
        Where ``epochs.json`` is.
    files : iterable of RawName
        Names of all on-sky files.
    """

    def __init__(self, context: Context, folder: Path, files: Iterable[RawName]) -> None:
        self.context, self.path, self.names = context, folder / FILENAME, list(files)
        before, states = self._stored(), self._states()
        with_reference = {
            key_of(row["field"], row["fid"], row["ccdid"])
            for row in database.fetch_all(context.dsn, _REFERENCES, (sorted({name.field for name in self.names}),))
        }
        found: dict[str, set[str]] = {}
        calibrated: dict[str, set[str]] = {}
        for name, state in self._with_states(states):
            found.setdefault(group_of(name), set()).add(name.ffd)
            calibrated.setdefault(group_of(name), set()).update([name.ffd] if state in USABLE else [])
        self.groups = dict(before)
        for key, epochs in found.items():
            old = before.get(key)
            if old is not None and (key in with_reference or old.epochs == sorted(epochs)):
                self.groups[key] = Group(sorted(epochs.union(old.epochs)), old.early, old.done)
            else:
                early = {*first_epochs(list(epochs)), *calibrated[key]}
                self.groups[key] = Group(sorted(epochs), sorted(early))
        self.save()

    def is_early(self, name: RawName) -> bool:
        """Whether a file makes references."""
        return name.ffd in self.groups[group_of(name)].early

    def top_up(self, least: int) -> list[RawName]:
        """Move later epochs to the early ones where too few of these turned out usable; returns their files."""
        usable: dict[str, int] = {}
        for name, state in self._with_states(self._states()):
            usable[group_of(name)] = usable.get(group_of(name), 0) + (self.is_early(name) and state in USABLE)
        moved: dict[str, list[str]] = {}
        for key, count in usable.items():
            group = self.groups[key]
            if not group.done and count < least:
                moved[key] = [ffd for ffd in group.epochs if ffd not in group.early][: least - count]
                group.early = sorted([*group.early, *moved[key]])
        self.save()
        return [name for name in self.names if name.ffd in moved.get(group_of(name), [])]

    def finish(self, unfinished: Iterable[str]) -> None:
        """The references of all groups are made, except those of the named ones."""
        left = set(unfinished)
        for key, group in self.groups.items():
            group.done = group.done or key not in left
        self.save()

    def save(self) -> None:
        """Write the file."""
        content = {key: asdict(group) for key, group in sorted(self.groups.items())}
        write_atomic(self.path, (json.dumps(content, indent=1) + "\n").encode())

    def _stored(self) -> dict[str, Group]:
        """What an earlier run decided."""
        if not self.path.is_file():
            return {}
        return {key: Group(**value) for key, value in json.loads(self.path.read_text()).items()}

    def _states(self) -> Mapping[str, str]:
        """States of those files that are registered, by name: with and without the end that says that they are compressed."""
        filenames = [name.filename.removesuffix(".fz") for name in self.names]
        both = [*filenames, *(f"{filename}.fz" for filename in filenames)]
        return {row["filename"]: row["state"] for row in database.fetch_all(self.context.dsn, _STATES, (both,))}

    def _with_states(self, states: Mapping[str, str]) -> list[tuple[RawName, str | None]]:
        """The files with their states, whether they are called ``.fits.fz`` or ``.fits``."""
        return [(n, states.get(n.filename) or states.get(n.filename.removesuffix(".fz"))) for n in self.names]
