"""The observing programs and the one rule that says who may see whose data."""

from __future__ import annotations

from dataclasses import dataclass

from ztfds.survey.errors import BadName

ENGINEERING, PUBLIC, COLLABORATION, CALTECH = 0, 1, 2, 3


@dataclass(frozen=True)
class Program:
    """One observing program.

    Attributes
    ----------
    programid : int
        0 engineering, 1 public, 2 collaboration, 3 Caltech.
    name : str
        One-word name.
    sees : frozenset of int
        Programs whose unreleased data its members may see.
    """

    programid: int
    name: str
    sees: frozenset[int]


PROGRAMS = (
    Program(ENGINEERING, "engineering", frozenset({0, 1, 2, 3})),
    Program(PUBLIC, "public", frozenset({1})),
    Program(COLLABORATION, "collaboration", frozenset({1, 2})),
    Program(CALTECH, "caltech", frozenset({1, 2, 3})),
)


def by_id(programid: int) -> Program:
    """Find a program by number; raise `BadName` if there is none."""
    for program in PROGRAMS:
        if program.programid == programid:
            return program
    raise BadName(f"no program has number {programid}: known are 0 to 3")


def may_see(audience_program: int, row_program: int, released: bool = False) -> bool:
    """Whether the audience of one program may see a row that another program took.

    The public sees public data only; the collaboration sees public and its own; Caltech, a member of the collaboration,
    sees these and its own; engineering data are seen by engineering alone. Released data are seen by all.

    Parameters
    ----------
    audience_program : int
        Program whose audience looks, e.g. the program id of the stream a packet goes to.
    row_program : int
        Program that took the data.
    released : bool
        True when the proprietary period of the row is over.
    """
    return released or row_program in by_id(audience_program).sees
