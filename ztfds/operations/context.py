"""Where everything is: what the wiring of steps needs to know of its surroundings, handed in from outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ztfds.config.sets import ConfigSet, changed_set, named_set, set_for_camera, without_forced_photometry
from ztfds.formats.catalogs import StaticCatalogs
from ztfds.operations.watch.notify import Notifier
from ztfds.registry.faults import FileFaults
from ztfds.registry.runner import Runner, Task, no_fault
from ztfds.survey.camera import Camera, get_camera
from ztfds.survey.errors import ConfigurationError


@dataclass(frozen=True)
class Context:
    """Database, folders, camera and settings; built once per task.

    Attributes
    ----------
    dsn : str
        Database as the role ``ztf_pipeline`` (libpq URL or key-value string).
    archive : Path
        Root of the archive: raw files, products, quarantine, depot.
    inbox : Path
        Where files arrive.
    catalogs : Path
        Folder with the Gaia and PS1 tables.
    camera : Camera
    config : ConfigSet
        Settings of every step.
    kafka : mapping
        librdkafka settings (at least ``bootstrap.servers``); empty: alerts wait in the outbox.
    fault : callable
        Called with the name of each point at which a fault can be injected; for tests of recovery.
    places : mapping
        Every setting that it was built from; day tasks find ``home`` and ``backup`` (the second place) here.
    difference, alerts : bool
        False where an operator has switched off differencing, or the making of packets.
    again : frozenset of str
        Steps (``science``, ``difference``) that are done although their products exist: of a reprocessing.
    task : Task or None
        The task of the orchestrator that does the work.
    """

    dsn: str
    archive: Path
    inbox: Path
    catalogs: Path
    camera: Camera
    config: ConfigSet
    kafka: Mapping[str, Any] = field(default_factory=dict)
    fault: Callable[[str], None] = no_fault
    places: Mapping[str, Any] = field(default_factory=dict)
    difference: bool = True
    alerts: bool = True
    again: frozenset[str] = frozenset()
    task: Task | None = None

    @classmethod
    def build(
        cls,
        dsn: str,
        places: Mapping[str, Any],
        kafka: Mapping[str, Any] | None = None,
        fault: Callable[[str], None] = no_fault,
    ) -> Context:
        """From plain settings, such as the extra of a Connection.

        Parameters
        ----------
        dsn : str
        places : mapping
            ``archive``, ``inbox``, ``catalogs`` (folders), ``camera`` (name) and, where it is not the camera's own,
            ``config`` (name of a set of settings); ``forced_photometry``: false switches it off; ``faults``: the file of
            the faults of a drill (sandboxes only); ``webhook``, ``mail_to``, ``smtp``, ``mail_from``: who is told of things;
            ``settings``: differences of settings (rehearsals only).
        kafka : mapping, optional
            librdkafka settings.
        fault : callable, optional

        Raises
        ------
        ConfigurationError
            A place is not named, or the camera or the set is unknown.
        """
        missing = [name for name in ("archive", "inbox", "catalogs", "camera") if not places.get(name)]
        if missing:
            raise ConfigurationError(f"the settings do not say: {', '.join(missing)}")
        camera = get_camera(str(places["camera"]))
        config = named_set(str(places["config"])) if places.get("config") else set_for_camera(camera)
        if str(places.get("forced_photometry", True)).lower() in ("false", "0", "no", "off"):
            config = without_forced_photometry(config)
        if places.get("faults"):
            fault = FileFaults(Path(str(places["faults"])))
        config = changed_set(config, places.get("settings") or {})
        archive, inbox, catalogs = (Path(str(places[name])) for name in ("archive", "inbox", "catalogs"))
        return cls(dsn, archive, inbox, catalogs, camera, config, dict(kafka or {}), fault, dict(places))

    @cached_property
    def catalog(self) -> StaticCatalogs:
        """The static catalogs."""
        return StaticCatalogs(self.catalogs)

    @property
    def notifier(self) -> Notifier:
        """Who is told of what people must know."""
        return Notifier.of(self.places)

    def runner(self, run_id: str | None = None, attempt: int = 1) -> Runner:
        """The runner of steps for one attempt of one task."""
        return Runner(self.dsn, self.archive, run_id=run_id, attempt=attempt, fault=self.fault, task=self.task)
