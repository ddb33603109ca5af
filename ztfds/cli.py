"""The command line, `ztfds`: thin commands over the library, which is imported only when a command runs."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from ztfds.survey.errors import ZtfdsError

if TYPE_CHECKING:
    from ztfds.operations.context import Context

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
services_app = typer.Typer(no_args_is_help=True, help="PostgreSQL, Kafka, Airflow and ingestd on this machine.")
db_app = typer.Typer(no_args_is_help=True, help="The survey's database.")
app.add_typer(services_app, name="services")
app.add_typer(db_app, name="db")
reference_app = typer.Typer(
    no_args_is_help=True, help="Reference images: what depends on one, what waits to be made anew."
)
app.add_typer(reference_app, name="reference")

Home = Annotated[Path, typer.Option("--home", help="Folder that keeps everything that runs and is made.")]
DEFAULT_HOME = Path("var")


@app.callback()
def configure(verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every event.")] = False) -> None:
    """Set up logging: one line for each event, time in UTC."""
    import time

    logging.Formatter.converter = time.gmtime
    layout = "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s %(message)s"
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format=layout, datefmt="%Y-%m-%dT%H:%M:%S", stream=sys.stderr)


@services_app.command("start")
def services_start(
    home: Home = DEFAULT_HOME,
    camera: Annotated[str | None, typer.Option(help="ZTF, CCD or TINY.")] = None,
    config_set: Annotated[str | None, typer.Option(help="Set of step configurations: ztf or tiny.")] = None,
    catalogs: Annotated[Path | None, typer.Option(help="Folder of the static catalogs.")] = None,
    patience_s: Annotated[float | None, typer.Option(help="Wait for late CCD files of an exposure [s].")] = None,
    backup_place: Annotated[
        Path | None, typer.Option("--backup", help="The second place, on another disk, where backups go.")
    ] = None,
    webhook: Annotated[
        str | None, typer.Option(help="Address that is told of alarms and reports (POST of JSON).")
    ] = None,
    mail_to: Annotated[str | None, typer.Option(help="Who gets alarms and reports by mail, comma-separated.")] = None,
    smtp: Annotated[str | None, typer.Option(help="Mail server, host:port.")] = None,
    approvers: Annotated[
        str | None,
        typer.Option(help="Accounts that may approve changes of settings, comma-separated; at first: admin."),
    ] = None,
    slots: Annotated[
        int | None, typer.Option(min=0, help="Tasks that compute at the same time; 0: one a core, at most four.")
    ] = None,
) -> None:
    """Start what does not run yet; options not given keep their last value. Calling it again is harmless."""
    from dataclasses import replace

    from ztfds.operations.services import stack
    from ztfds.operations.services.state import USERS, Settings, load

    before = load(home)
    kept = before.settings if before else Settings()
    settings = replace(
        kept,
        camera=camera or kept.camera,
        config_set=config_set or kept.config_set,
        catalogs=str(catalogs.resolve()) if catalogs else kept.catalogs,
        patience_s=kept.patience_s if patience_s is None else patience_s,
        backup=str(backup_place.resolve()) if backup_place else kept.backup,
        slots=kept.slots if slots is None else slots,
        notify=kept.notify
        | {k: v for k, v in (("webhook", webhook), ("mail_to", mail_to), ("smtp", smtp)) if v is not None},
        approvers={"change_request": [part.strip() for part in approvers.split(",")]} if approvers else kept.approvers,
    )
    state = stack.start(home, settings=settings, report=typer.echo)
    if before is None:
        typer.echo(f"Airflow accounts (shown once, kept in {state.home}/airflow/passwords.json):")
        for user, role in USERS.items():
            typer.echo(f"  {user:<9} {state.passwords[user]}  ({role})")


@services_app.command("stop")
def services_stop(home: Home = DEFAULT_HOME) -> None:
    """Stop everything; nothing is left running."""
    from ztfds.operations.services import stack

    stack.stop(home)
    typer.echo("stopped")


@services_app.command("status")
def services_status(home: Home = DEFAULT_HOME) -> None:
    """Show every service; the exit status is 1 when one should run and does not."""
    from ztfds.operations.services import stack

    rows = stack.status(home)
    for row in rows:
        typer.echo(f"{row.name:<14}{row.state:<9}{row.pid or '':<9}{row.memory_mb:7.0f} MB  {row.address}")
    if not rows:
        typer.echo(f"no services were ever started in {home}")
    raise typer.Exit(int(any(row.state == "dead" for row in rows)))


@db_app.command("migrate")
def db_migrate(
    home: Home = DEFAULT_HOME,
    dsn: Annotated[str | None, typer.Option(help="Owner's connection; default: the embedded server's.")] = None,
) -> None:
    """Bring the survey's tables up to date; repeatable."""
    from ztfds.operations.postgres import EmbeddedPostgres
    from ztfds.registry.migrate import migrate

    server = EmbeddedPostgres(home)
    ran = dsn is not None or server.status().running
    try:
        applied = migrate(dsn or server.start()["ztf_owner"])
    finally:
        if not ran:
            server.stop()
    typer.echo(f"applied: {', '.join(applied)}" if applied else "up to date")


@reference_app.command("dependants")
def reference_dependants(
    rfid: Annotated[int, typer.Argument(help="Number of the reference, as on the page References.")],
    version: Annotated[int | None, typer.Option(help="Default: the served one, or the newest.")] = None,
    home: Home = DEFAULT_HOME,
) -> None:
    """List everything that was made with a reference: products, nights, candidates, alerts."""
    from ztfds.operations.postgres import EmbeddedPostgres
    from ztfds.operations.reference_service import describe

    typer.echo(describe(EmbeddedPostgres(home).dsn("ztf_reader"), rfid, version))


@reference_app.command("queue")
def reference_queue(home: Home = DEFAULT_HOME) -> None:
    """List the references that wait to be made, with reasons, and what became of the latest."""
    from ztfds.operations.postgres import EmbeddedPostgres
    from ztfds.registry.reference_queue import latest

    for row in latest(EmbeddedPostgres(home).dsn("ztf_reader"), 50):
        where = f"{row['field']:06d} rcid {row['rcid']:02d} filter {row['fid']}"
        typer.echo(f"{row['state']:<8} {where}  {row['origin']}: {row['reason']} ({row['who']}) {row['outcome'] or ''}")


@app.command()
def warm() -> None:
    """Compile the kernels for this machine, on all cores (slow the first time only)."""
    import time
    from concurrent.futures import ProcessPoolExecutor, as_completed

    from ztfds.kernels import module_names

    began, names = time.monotonic(), [*module_names(), "ztfds.simulator.kernels"]
    with ProcessPoolExecutor() as pool:
        tasks = {pool.submit(import_module_only, name): name for name in names}
        for count, task in enumerate(as_completed(tasks), 1):
            task.result()
            typer.echo(f"  {count:2d} of {len(names)} after {time.monotonic() - began:3.0f} s: {tasks[task]}")


def import_module_only(name: str) -> None:
    """Import a module for its effect: compiled kernels are kept on disk."""
    from importlib import import_module

    import_module(name)


@app.command()
def ingestd(
    home: Home = DEFAULT_HOME,
    camera: Annotated[str, typer.Option(help="ZTF, CCD or TINY.")] = "ZTF",
    patience: Annotated[float, typer.Option(help="Wait for late CCD files of an exposure [s].")] = 60.0,
) -> None:
    """Watch the inbox and create an Airflow run for each exposure, until SIGTERM or Ctrl-C."""
    from ztfds.operations.ingestd import main as watch

    logging.getLogger("ztfds").setLevel(logging.INFO)
    watch(home, camera, patience)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False)
def simulate(context: typer.Context) -> None:
    """Let a simulated mountain send raw files (see `ztfds simulate --help`)."""
    from ztfds.simulator.night import simulate_command

    command = typer.Typer(add_completion=False)
    command.command()(simulate_command)
    command(context.args, prog_name="ztfds simulate", standalone_mode=True)


@app.command()
def night(
    size: Annotated[str, typer.Option(help="tiny, ccd or camera.")] = "ccd",
    home: Home = Path("var/night"),
) -> None:
    """Rehearse: a simulated night through Airflow, scored against the truth; exit status 1 when anything is out of bounds."""
    from ztfds.simulator.rehearsal import main as rehearse

    raise typer.Exit(rehearse(size, home, typer.echo))


@app.command()
def week(
    home: Annotated[Path, typer.Option("--home", help="Folder of the week; emptied first.")] = Path("var/week"),
) -> None:
    """Let a week of the tiny camera pass unattended; exit status 1 when a report is wrong or somebody had to do something."""
    from ztfds.simulator.week import main as pass_week

    raise typer.Exit(pass_week(home, typer.echo))


@app.command(name="approve-settings")
def approve_settings(
    who: Annotated[str, typer.Option(help="Your name: kept with the approval.")],
    home: Home = DEFAULT_HOME,
) -> None:
    """Let the settings of an installed version of the software run, after its release notes were read."""
    from ztfds.operations.control.changes import approve_shipped

    context = home_context(home)
    typer.echo(approve_shipped(context.dsn, context, who))


@app.command(name="withdraw-change")
def withdraw_change(
    change: Annotated[int, typer.Argument(help="Number of the change of settings that came last.")],
    who: Annotated[str, typer.Option(help="Your name: kept with it.")],
    why: Annotated[str, typer.Option(help="Why it is taken back.")],
    home: Home = DEFAULT_HOME,
) -> None:
    """Take a change of settings back: the settings before it run from the next task on."""
    from ztfds.operations.control.changes import withdraw

    typer.echo(withdraw(home_context(home), change, who, why))


@app.command()
def acknowledge(
    alarm: Annotated[int, typer.Argument(help="Number of an open alarm: page Alarms.")],
    who: Annotated[str, typer.Option(help="Your name: shown with the alarm.")],
    home: Home = DEFAULT_HOME,
) -> None:
    """Say that you take care of an alarm; exit status 1 when no such alarm is open."""
    from ztfds.operations.watch import alarms

    taken = alarms.acknowledge(home_context(home).dsn, alarm, who)
    typer.echo(f"alarm {alarm} is yours" if taken else f"no alarm {alarm} is open")
    raise typer.Exit(0 if taken else 1)


@app.command()
def drill(
    names: Annotated[list[str] | None, typer.Argument(help="Drills; none: all of them.")] = None,
    home: Annotated[Path, typer.Option("--home", help="Folder of the sandbox; made where it is not there.")] = Path(
        "var/drill"
    ),
) -> None:
    """Inject contingencies into nights of a sandbox and score them; exit status 1 when one was not survived."""
    from ztfds.drills.run import main as run_drills

    raise typer.Exit(run_drills(names or [], home, typer.echo))


@app.command()
def process(
    raw: Annotated[Path, typer.Argument(help="Folder of raw CCD files.")],
    catalogs: Annotated[Path, typer.Option(help="Folder of Gaia-like and PS1-like tables.")],
    out: Annotated[Path, typer.Option(help="Folder for everything that is made.")],
    workers: Annotated[int | None, typer.Option(help="Processes; default: one a core.")] = None,
) -> None:
    """Process raw files that somebody else made, without Airflow: calibrations, images, references, alerts, summary."""
    from ztfds.operations.process import main as process_folder

    raise typer.Exit(process_folder(raw, catalogs, out, typer.echo, workers=workers))


@app.command()
def explain(
    what: Annotated[
        str, typer.Argument(metavar="FILE|INFOBITS", help="A product, or a number from a header or the database.")
    ],
) -> None:
    """Say in words what quality bits mean: which limit, which value; exit status 1 for a product that is not usable."""
    from ztfds.formats.images import header_with
    from ztfds.science.header import quality_in_words
    from ztfds.survey.bits import explain as explain_bits

    if what.isdigit():
        typer.echo("\n".join(explain_bits(int(what)) or ["no bit is set"]))
        return
    header = header_with(Path(what), "INFOBITS")
    typer.echo("\n".join(quality_in_words(header)))
    raise typer.Exit(int(header.get("STATUS", 1) == 0))


@app.command()
def publish(home: Home = DEFAULT_HOME) -> None:
    """Send the alerts that wait in the outbox; exit status 75 when the broker is away and they wait on."""
    from ztfds.operations.postgres import EmbeddedPostgres
    from ztfds.operations.services.state import load
    from ztfds.registry.publisher import Publisher
    from ztfds.survey.errors import ConfigurationError

    state = load(home)
    if state is None:
        raise ConfigurationError(f"no services were ever started in {home}")
    dsn = EmbeddedPostgres(home).dsn("ztf_pipeline")
    done = Publisher(dsn, {"bootstrap.servers": state.bootstrap_servers}).publish()
    typer.echo(f"{done.sent} alerts sent, {done.found} found sent before, {done.waiting} wait")


@app.command()
def report(
    date: Annotated[str, typer.Argument(metavar="NIGHT", help="UT date, YYYYMMDD.")],
    home: Home = DEFAULT_HOME,
) -> None:
    """Write the summary of a night again, with what has changed since, and say where it is."""
    from ztfds.operations.report import write_report
    from ztfds.survey.ids import nid_of_date

    context = home_context(home)
    typer.echo(str(write_report(context, nid_of_date(date))))


@app.command()
def backup(
    home: Home = DEFAULT_HOME,
    to: Annotated[Path | None, typer.Option(help="The second place; default: that of the settings.")] = None,
    reread: Annotated[bool, typer.Option(help="Read files again that have not changed.")] = False,
    prove: Annotated[bool, typer.Option(help="Restore it into a scratch server and compare.")] = False,
) -> None:
    """Back the database and the archive up to a second place; exit status 1 when something is damaged."""
    from ztfds.operations.day.backup import back_up
    from ztfds.operations.day.restore import prove_backup

    context = home_context(home, {"backup": str(to.resolve())} if to else {})
    done = [back_up(context, reread=reread), *([prove_backup(context)] if prove else [])]
    for outcome in done:
        typer.echo(f"{outcome.state}: {outcome.line}")
    raise typer.Exit(int(any(outcome.state == "failed" for outcome in done)))


@app.command()
def restore(
    place: Annotated[Path, typer.Argument(help="The second place, where the backups are.")],
    to: Annotated[Path, typer.Option(help="Home folder to make; it must be empty.")],
    name: Annotated[str | None, typer.Option("--set", help="Which backup; default: the newest.")] = None,
) -> None:
    """Restore a backup on an empty machine and compare everything with what was backed up."""
    from ztfds.operations.day.restore import restore as restore_backup

    outcome = restore_backup(place, to, name)
    typer.echo(f"{outcome.state}: {outcome.line}")
    raise typer.Exit(int(outcome.state == "failed"))


@app.command()
def retention(
    home: Home = DEFAULT_HOME,
    change: Annotated[
        Path | None, typer.Option("--set", help="JSON file with new rules; those that it does not name are the code's.")
    ] = None,
    author: Annotated[str, typer.Option(help="Who sets them.")] = "",
    reason: Annotated[str, typer.Option(help="Why.")] = "",
) -> None:
    """Show how long files are kept, or put new rules in force (preview their effect with the DAG `cleanup`, "only look")."""
    from ztfds.operations.day import cleanup

    dsn = home_context(home).dsn
    if change:
        typer.echo(f"version {cleanup.set_rules(dsn, cleanup.read_rules(change), author, reason)} is in force")
    rules, version = cleanup.rules(dsn)
    typer.echo(f"rules version {version}")
    for name, field in type(rules).model_fields.items():
        value = getattr(rules, name)
        typer.echo(f"  {name:<16}{'for ever' if value is None else value!s:<10} {field.description}")


@app.command()
def hold(
    reason: Annotated[str, typer.Argument(help="Why; shown on the pages.")],
    home: Home = DEFAULT_HOME,
    hours: Annotated[float, typer.Option(help="Work resumes by itself after so long; 0: with `ztfds resume`.")] = 0.0,
) -> None:
    """Begin a downtime: no new work is sent, files wait in the inbox (the DAG `downtime` does the same and drains)."""
    import getpass

    from ztfds.operations.day import downtime

    typer.echo(downtime.hold(home_context(home), reason, getpass.getuser(), hours).line)


@app.command()
def resume(home: Home = DEFAULT_HOME) -> None:
    """End a downtime: what has arrived meanwhile is sent, the newest first."""
    import getpass

    from ztfds.operations.day import downtime

    typer.echo(downtime.resume(home_context(home), getpass.getuser()).line)


def home_context(home: Path, places: dict[str, str] | None = None) -> Context:
    """The library's context of a home folder whose services were started once."""
    from ztfds.operations.context import Context
    from ztfds.operations.postgres import EmbeddedPostgres
    from ztfds.operations.services.state import load
    from ztfds.survey.errors import ConfigurationError

    state = load(home)
    if state is None:
        raise ConfigurationError(f"no services were ever started in {home}")
    return Context.build(EmbeddedPostgres(home).dsn("ztf_pipeline"), {**state.places, **(places or {})})


@app.command(name="alert-schema")
def alert_schema(
    folder: Annotated[Path, typer.Argument(help="Folder to write to; the version gets a folder of its own in it.")],
) -> None:
    """Write the schema of alert packets and sample packets, for readers who want to try theirs."""
    from ztfds.alerts.samples import schema_folder
    from ztfds.formats.atomic import write_atomic

    for name, content in schema_folder().items():
        typer.echo(str(write_atomic(folder / name, content).path))


def main() -> NoReturn:
    """Run the command line; an error of the library ends with its message and its exit status, without a traceback."""
    try:
        app()
    except ZtfdsError as error:
        typer.echo(f"{error.code}: {error}", err=True)
        sys.exit(error.exit_code or 1)
    sys.exit(0)


if __name__ == "__main__":
    main()
