"""Rules as versioned data: what the rules of triggers, of alarms and of telemetry have in common; the newest version counts."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from ztfds.operations.day.outcomes import Outcome
from ztfds.registry import database
from ztfds.survey.errors import ConfigurationError

log = logging.getLogger(__name__)

Rules = TypeVar("Rules", bound=BaseModel)


@dataclass(frozen=True)
class Change(Generic[Rules]):
    """What a form asks for, checked.

    Attributes
    ----------
    rules : BaseModel
        As they would be.
    differences : list of dict
        ``rule``, ``setting``, ``before``, ``after``.
    doubts : list of str
        What is allowed but unusual.
    """

    rules: Rules
    differences: list[dict[str, Any]]
    doubts: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "; ".join(
            f"{d['rule']}: {d['setting']} {_said(d['before'])} → {_said(d['after'])}" for d in self.differences
        )


def _said(value: Any) -> str:
    return "–" if value is None else str(value)


@dataclass(frozen=True)
class Book(Generic[Rules]):
    """A kind of rules, and the table that keeps every version of them.

    Attributes
    ----------
    table : str
        With the columns ``version``, ``rules``, ``author`` and ``reason``.
    words : str
        What they are, for people.
    model : type
        What a set of rules must be.
    """

    table: str
    words: str
    model: type[Rules]

    @property
    def query(self) -> str:
        """Asks for the newest version."""
        return f"select version, rules from {self.table} order by version desc limit 1"

    def parse(self, content: Any) -> Rules:
        """Rules from JSON; raises `ConfigurationError` with what is wrong, in words."""
        try:
            return self.model.model_validate(content)
        except ValueError as error:
            raise ConfigurationError(f"these are no {self.words}: {error}") from error

    def in_force(self, dsn: str) -> Rules:
        """The newest version; without any, the rules with which a survey begins.

        Raises
        ------
        ConfigurationError
            What is in the database is not a set of rules.
        """
        row = database.fetch_one(dsn, self.query)
        return self.parse(row["rules"]) if row else self.model()

    def begin_with(self, dsn: str, version: int, present: Rules) -> dict[str, Any]:
        """The rules of a version as JSON; 0: the present ones; -1: those with which a survey begins."""
        if version <= 0:
            return (self.model() if version else present).model_dump(mode="json")
        row = database.fetch_one(dsn, f"select rules from {self.table} where version = %s", (version,))
        if row is None:
            raise ConfigurationError(f"there is no version {version}")
        return dict(row["rules"])

    def keep(self, dsn: str, rules: Rules, author: Any, reason: Any, **more: Any) -> int:
        """Put rules in force as the next version; returns its number.

        Parameters
        ----------
        dsn : str
            As a role that may insert rules.
        rules : BaseModel
        author, reason : str
        **more
            Other columns of the table.

        Raises
        ------
        ConfigurationError
            No author or no reason is given: nothing changes.
        """
        signed = {"author": str(author or "").strip(), "reason": str(reason or "").strip()}
        if not all(signed.values()):
            raise ConfigurationError("a change of rules needs an author and a reason")
        with database.transaction(dsn) as cursor:
            values = {"rules": rules.model_dump(mode="json"), **signed, **more}
            row = database.insert(cursor, self.table, values, "returning version")
        version = int(row["version"]) if row else 0
        log.info("%s, version %d (%s: %s)", self.words, version, signed["author"], signed["reason"])
        return version

    def change(self, dsn: str, change: Change[Rules], form: Mapping[str, Any]) -> Outcome:
        """Put a change in force as its form says, or only tell it; one line about it.

        Parameters
        ----------
        dsn : str
        change : Change
        form : mapping
            ``author``, ``reason``; ``only_look``: nothing is changed.
        """
        about: dict[str, Any] = {"warnings": change.doubts, "differences": change.differences}
        if form.get("only_look"):
            return Outcome.of(f"would change: {change}", **about)
        differences = json.dumps(change.differences)
        version = self.keep(dsn, change.rules, form.get("author"), form.get("reason"), differences=differences)
        return Outcome.of(f"version {version} by {form['author']}: {change}", version=version, **about)


def amended(
    entries: Iterable[Mapping[str, Any]],
    key: str,
    changed: Iterable[Any],
    drop: Collection[str] = (),
    what: str = "rules",
) -> list[dict[str, Any]]:
    """Entries with some settings of some of them changed, new ones added and some dropped.

    Parameters
    ----------
    entries : iterable of mapping
    key : str
        The setting that names an entry.
    changed : iterable of mapping
        The name, and the settings that are to differ.
    drop : collection of str
        Names.
    what : str
        What the entries are, for people.

    Raises
    ------
    ConfigurationError
        A change is not an object with a name.
    """
    found = {entry[key]: dict(entry) for entry in entries}
    for entry in changed:
        if not isinstance(entry, dict) or not entry.get(key):
            raise ConfigurationError(f"every entry of {what} is an object with its {key}")
        found[entry[key]] = {**found.get(entry[key], {}), **entry}
    return [entry for name, entry in found.items() if name not in drop]


def differences(
    before: Iterable[tuple[str, BaseModel]], after: Iterable[tuple[str, BaseModel]]
) -> list[dict[str, Any]]:
    """Settings that differ between two sets of named rules: ``rule``, ``setting``, ``before``, ``after`` (None: not there)."""
    old, new = _flat(before), _flat(after)
    return [
        {"rule": key[0], "setting": key[1], "before": old.get(key), "after": new.get(key)}
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]


def _flat(named: Iterable[tuple[str, BaseModel]]) -> dict[tuple[str, str], Any]:
    """Every setting of every rule, by rule and setting."""
    return {
        (name, setting): value
        for name, rule in named
        for setting, value in rule.model_dump(mode="json").items()
        if value is not None
    }
