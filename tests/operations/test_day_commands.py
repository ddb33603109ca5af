"""The shell commands of the day tasks, on a context of the tests."""

import json
from dataclasses import replace

import pytest
from test_backup import small
from typer.testing import CliRunner

from ztfds import cli
from ztfds.operations.context import Context
from ztfds.operations.day import backup, cleanup, downtime
from ztfds.operations.services.state import load_or_create
from ztfds.survey.errors import ConfigurationError

__all__ = ["small"]


@pytest.fixture
def run(small, monkeypatch):
    def context(home, places=None):
        small.places.update(places or {})
        return small

    monkeypatch.setattr(cli, "home_context", context)
    return lambda *words: CliRunner().invoke(cli.app, [str(word) for word in words])


def test_backup_says_what_it_did_and_fails_on_damage(run, small, tmp_path):
    done = run("backup", "--to", tmp_path / "second")
    assert done.exit_code == 0 and done.stdout.startswith("ok: 4 files"), done.stdout
    assert len(backup.sets(tmp_path / "second")) == 1
    (small.archive / "depot" / "1.txt").write_text("damaged!")
    again = run("backup", "--to", tmp_path / "second")
    assert again.exit_code == 1 and "depot/1.txt: damaged in the archive" in again.stdout


def test_rules_are_shown_and_set(run, small, tmp_path):
    assert "rules version 0" in run("retention").stdout
    file = tmp_path / "rules.json"
    file.write_text(json.dumps({"log_days": None}))
    done = run("retention", "--set", file, "--author", "ops", "--reason", "keep")
    assert "version 1 is in force" in done.stdout and "log_days        for ever" in done.stdout
    assert cleanup.rules(small.dsn)[0].log_days is None
    file.write_text("{not json")
    assert isinstance(run("retention", "--set", file, "--author", "o", "--reason", "r").exception, ConfigurationError)
    file.write_text('{"log_days": -3}')
    assert isinstance(run("retention", "--set", file, "--author", "o", "--reason", "r").exception, ConfigurationError)
    assert cleanup.rules(small.dsn)[1] == 1


def test_hold_and_resume(run, small):
    assert "new work is held until 20" in run("hold", "new rack", "--hours", "2").stdout
    assert downtime.current(small.dsn)["reason"] == "new rack"
    assert "work goes on" in run("resume").stdout
    assert downtime.current(small.dsn) is None


def test_restore_of_nothing_is_an_error(run, tmp_path):
    done = run("restore", tmp_path / "nowhere", "--to", tmp_path / "home")
    assert "no complete backup" in str(done.exception) and not (tmp_path / "home").exists()


def test_the_second_place_is_a_setting_that_is_remembered(tmp_path):
    state = load_or_create(tmp_path / "var")
    assert "backup" not in state.places
    state.settings = replace(state.settings, backup=str(tmp_path / "second"))
    state.save()
    again = load_or_create(tmp_path / "var")
    context = Context.build("postgresql://nobody@127.0.0.1/none", {**again.places, "camera": "tiny", "config": "tiny"})
    assert backup.place_of(context) == tmp_path / "second"
