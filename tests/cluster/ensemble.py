"""Real servers as processes: each of its own kind, directory, ports and, where wanted, network namespace.

Kinds: "ringkeeper" (SERVER_COMMAND, default the release build of this tree), "java38" (Debian's package) and
"java39" (ZOOKEEPER_CLASSPATH). Only processes started here are ever signalled, by their pid.
"""

import asyncio
import os
import pathlib
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
TREE = HERE.parent.parent
sys.path.insert(0, str(HERE.parent / "clients"))

import client  # noqa: E402
import server as standalone  # noqa: E402

KINDS = ("ringkeeper", "java38", "java39")

# Three JVMs that start at once on a busy two-core machine.
START_SECONDS_MAX = 90

# Debian's jars with a log on stderr; `apache` beside the clients' tests has them without.
DEBIAN_JARS = (
    "zookeeper zookeeper-jute netty-codec netty-resolver netty-transport-native-unix-common "
    "slf4j-api slf4j-simple snappy-java metrics-core"
).split()

# Ports are taken from below what Linux gives to outgoing connections (32768 on): a killed server's port must
# not become some client's own end while the server is down.
PORTS = range(15_000, 32_000)


class Missing(Exception):
    """This machine lacks what a story needs; the story is skipped aloud."""


def free_port(taken=set()):  # noqa: B006 - one set for the whole process
    """A port of 127.0.0.1 that can be bound, and that was not given out before."""
    while True:
        port = random.SystemRandom().choice(PORTS)
        if port in taken:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        taken.add(port)
        return port


def command(kind):
    """(argv without zoo.cfg, extra environment) of a kind."""
    if kind == "ringkeeper":
        argv = standalone.command()
        if not shutil.which(argv[0]):
            raise Missing(f"{argv[0]} is not built")
        return argv, {}
    if kind not in KINDS:
        raise SystemExit(f"a server is one of {KINDS}, not {kind}")
    if not shutil.which("java"):
        raise Missing("no java")
    classpath = os.environ.get("ZOOKEEPER_CLASSPATH")
    if kind == "java38":
        jars = [f"/usr/share/java/{name}.jar" for name in DEBIAN_JARS]
        classpath = os.pathsep.join(jars)
        if not os.path.exists(jars[0]):
            raise Missing("no libzookeeper-java")
    elif not classpath:
        raise Missing("no ZOOKEEPER_CLASSPATH with the jars of 3.9")
    return [str(HERE.parent / "clients/apache")], {"ZOOKEEPER_CLASSPATH": classpath}


def thread_states(pid):
    """One letter for each thread of a process, as /proc has them; "T" is stopped."""
    stats = pathlib.Path(f"/proc/{pid}/task").glob("*/stat")
    return [stat.read_text().rsplit(")", 1)[1].split()[0] for stat in stats]


class Node:
    """One server of an ensemble: its place stays, its process and its kind come and go."""

    def __init__(self, ensemble, number, kind, host, is_observer=False):
        self.ensemble, self.number, self.kind = ensemble, number, kind
        self.host, self.is_observer = host, is_observer
        self.directory = ensemble.directory / f"server{number}"
        self.data = self.directory / "data"
        self.config = self.directory / "zoo.cfg"
        self.log = self.directory / "log"
        self.client_port, self.quorum_port, self.election_port = (
            (2181, 2888, 3888) if ensemble.network else (free_port() for _ in range(3))
        )
        self.process, self.is_frozen = None, False
        # A Java server's digests are not those of the tree until it is past a fuzzy snapshot's zxid; what it
        # counted as mismatches until then is not held against anybody.
        # Its log is not either, up to so many characters.
        self.mismatches_known, self.fuzzy_until, self.log_excused = 0, 0, 0
        # Whether it starts from the zoo.cfg that is there, which a reconfiguration has changed.
        self.keeps_config = False
        # Settings and JVM flags of this server alone, on top of the ensemble's.
        self.settings, self.flags = [], []

    def __repr__(self):
        return f"server.{self.number} ({self.kind})"

    @property
    def address(self):
        return self.host, self.client_port

    @property
    def line(self):
        role = ":observer" if self.is_observer else ""
        return f"server.{self.number}={self.host}:{self.quorum_port}:{self.election_port}{role}"

    @property
    def is_running(self):
        return self.process is not None and self.process.poll() is None

    @property
    def is_java(self):
        return self.kind != "ringkeeper"

    def write_config(self):
        self.data.mkdir(parents=True, exist_ok=True)
        (self.data / "myid").write_text(f"{self.number}\n")
        lines = [
            "tickTime=2000",
            "initLimit=10",
            "syncLimit=5",
            f"dataDir={self.data}",
            f"clientPort={self.client_port}",
            f"clientPortAddress={self.host}",
            "maxClientCnxns=0",
            "admin.enableServer=false",
            "extendedTypesEnabled=true",
            "4lw.commands.whitelist=*",
            *([] if not self.is_observer else ["peerType=observer"]),
            *(node.line for node in self.ensemble.nodes),
        ]
        own = {line.split("=")[0]: line for line in [*self.ensemble.settings, *self.settings]}
        lines = [own.pop(line.split("=")[0], line) for line in lines] + list(own.values())
        self.config.write_text("\n".join(lines) + "\n")

    def start(self):
        """Starts the process; `Ensemble.wait` says when it serves."""
        assert not self.is_running, f"{self} runs already"
        if not self.keeps_config:
            self.write_config()
        argv, extra = command(self.kind)
        if self.ensemble.network:
            argv = self.ensemble.network.inside(self.number, argv)
        flags = [standalone.SUPER_DIGEST, *self.ensemble.flags, *self.flags]
        if self.is_java:
            flags += [f"-Dorg.slf4j.simpleLogger.defaultLogLevel={self.ensemble.java_log}"]
            flags += [f"-Dlog4j2.level={self.ensemble.java_log}"]
        environment = dict(os.environ, SERVER_JVMFLAGS=shlex.join(flags), **extra)
        environment.setdefault("HEAP", "512m")
        with open(self.log, "ab") as log:
            log.write(f"--- started as {self.kind} at {time.monotonic():.3f}\n".encode())
            log.flush()
            self.process = subprocess.Popen(
                [*argv, str(self.config)], stdout=log, stderr=log, env=environment
            )
        self.is_frozen, self.mismatches_known, self.fuzzy_until = False, 0, 0

    def signal(self, number):
        assert self.is_running, f"{self} does not run"
        self.process.send_signal(number)

    def kill(self):
        """kill -9: no chance to tidy up."""
        if self.is_running:
            self.signal(signal.SIGKILL)
        if self.process:
            self.process.wait()
        self.is_frozen = False

    def freeze(self):
        """SIGSTOP, until every thread stands still: on a busy machine the one that takes the signal may not
        run for a while, and the others go on."""
        self.signal(signal.SIGSTOP)
        self.is_frozen = True
        end = time.monotonic() + 5
        while not all(state == "T" for state in thread_states(self.process.pid)):
            assert time.monotonic() < end, f"{self} does not stop: {thread_states(self.process.pid)}"
            time.sleep(0.0005)

    def thaw(self):
        self.signal(signal.SIGCONT)
        self.is_frozen = False

    async def stop(self, seconds=20):
        """SIGTERM, and insists that it ends by that."""
        if not self.is_running:
            return
        if self.is_frozen:
            self.thaw()
        self.signal(signal.SIGTERM)
        end = time.monotonic() + seconds
        while self.is_running:
            if time.monotonic() > end:
                self.kill()
                raise AssertionError(f"{self} did not end within {seconds} s of SIGTERM")
            await asyncio.sleep(0.005)

    def wipe(self):
        """An empty data directory, as of a new machine."""
        assert not self.is_running, f"{self} runs"
        shutil.rmtree(self.data, ignore_errors=True)

    async def word(self, name, timeout=2.0):
        if not self.is_running or self.is_frozen:
            return None
        return await client.word(self.address, name, timeout)

    async def mode(self):
        """"leader", "follower", "observer", "standalone"; None while it does not serve."""
        for line in (await self.word("srvr") or "").splitlines():
            if line.startswith("Mode: "):
                return line.removeprefix("Mode: ").strip()
        return None

    async def zxid(self):
        for line in (await self.word("srvr") or "").splitlines():
            if line.startswith("Zxid: "):
                return int(line.removeprefix("Zxid: "), 16)
        return None

    async def metrics(self):
        """`mntr` as a dictionary of texts."""
        lines = (await self.word("mntr") or "").splitlines()
        return dict(line.split("\t", 1) for line in lines if "\t" in line)

    async def digests(self):
        """`hash`: the tree's digest by zxid, at each multiple of 128."""
        lines = (await self.word("hash") or "").splitlines()
        pairs = (line.split(": ") for line in lines if ": " in line)
        return {int(zxid, 16): int(digest) for zxid, digest in pairs}

    def log_text(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def log_tail(self, lines=25):
        return "\n".join(self.log_text().splitlines()[-lines:])


class Ensemble:
    """Servers that know of each other, under one temporary directory.

    `kinds` in the order of their ids; the last `observers` of them do not vote. `settings` are lines of zoo.cfg
    that replace or add to the usual ones, `flags` JVM flags (SERVER_JVMFLAGS, which ours honours too). With
    `own_hosts` each has an address of its own, and so may have a port that others have, too.
    """

    def __init__(self, kinds, settings=(), flags=(), observers=0, network=None, java_log="info", own_hosts=False):
        for kind in kinds:
            command(kind)
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="cluster-"))
        self.settings, self.flags, self.java_log = list(settings), list(flags), java_log
        self.network = network
        self.nodes = []
        for index, kind in enumerate(kinds):
            number = index + 1
            host = network.host(number) if network else f"127.0.0.{number if own_hosts else 1}"
            is_observer = index >= len(kinds) - observers
            self.nodes.append(Node(self, number, kind, host, is_observer))

    def add(self, kind, is_observer=False):
        """One more server, which is not started, and which the others do not know."""
        command(kind)
        self.nodes.append(Node(self, len(self.nodes) + 1, kind, "127.0.0.1", is_observer))
        return self.nodes[-1]

    @property
    def addresses(self):
        return [node.address for node in self.nodes]

    @property
    def running(self):
        return [node for node in self.nodes if node.is_running and not node.is_frozen]

    async def start(self, nodes=None, wait=True):
        for node in nodes or self.nodes:
            if not node.is_running:
                node.start()
        if wait:
            await self.wait()
        return self

    async def wait(self, nodes=None, seconds=START_SECONDS_MAX):
        """Until all of `nodes` (default: all that run) serve and one leads; gives the seconds that took."""
        start = time.monotonic()
        nodes = nodes or self.running
        while True:
            modes = await asyncio.gather(*(node.mode() for node in nodes))
            others = [node for node in self.running if node not in nodes]
            everyone = [*modes, *await asyncio.gather(*(node.mode() for node in others))]
            if None not in modes and ("leader" in everyone or "standalone" in everyone):
                return time.monotonic() - start
            dead = [node for node in nodes if not node.is_running]
            if dead:
                raise AssertionError(f"{dead} ended by itself, with {dead[0].process.poll()}")
            if time.monotonic() - start > seconds:
                raise AssertionError(f"after {seconds} s {nodes} are {modes}")
            await asyncio.sleep(0.02)

    async def leader(self, seconds=START_SECONDS_MAX, among=None):
        """The one server that says it leads."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            nodes = [node for node in among or self.running]
            modes = await asyncio.gather(*(node.mode() for node in nodes))
            leaders = [node for node, mode in zip(nodes, modes) if mode == "leader"]
            if len(leaders) == 1:
                return leaders[0]
            await asyncio.sleep(0.01)
        raise AssertionError(f"no leader within {seconds} s: {nodes} are {modes}")

    async def followers(self):
        leader = await self.leader()
        return [node for node in self.running if node is not leader]

    async def wait_equal(self, seconds=60):
        """Until all running servers are at one zxid; gives it."""
        end = time.monotonic() + seconds
        while True:
            zxids = await asyncio.gather(*(node.zxid() for node in self.running))
            if None not in zxids and len(set(zxids)) == 1:
                return zxids[0]
            if time.monotonic() > end:
                shown = [f"{zxid:#x}" if zxid is not None else None for zxid in zxids]
                raise AssertionError(f"after {seconds} s {self.running} are at {shown}")
            await asyncio.sleep(0.05)

    async def make_lead(self, wanted, tries=5):
        """Has `wanted` win an election: it alone of a quorum knows the last writes."""
        for _ in range(tries):
            leader = await self.leader()
            if leader is wanted:
                await self.wait()
                return
            others = [node for node in self.voters if node is not wanted]
            stale = [node for node in others if node is not leader][: len(self.voters) // 2]
            for node in stale:
                await node.stop()
            await self.wait()
            await self.write_one()
            for node in others:
                await node.stop()
            await self.start([wanted, *stale])
            await self.start()
        raise AssertionError(f"{wanted} did not come to lead in {tries} elections")

    async def write_one(self):
        """A write that all running servers have."""
        leader = await self.leader()
        session = await client.open_session([leader.address], timeout_ms=30_000)
        await session.ensure("/lead")
        await session.set("/lead", b"")
        await session.close()
        await self.wait_equal()

    @property
    def voters(self):
        return [node for node in self.nodes if not node.is_observer]

    async def replace(self, node, kind):
        """Another kind at the same address and id, with an empty data directory."""
        await node.stop()
        node.wipe()
        node.kind = kind
        node.start()
        return await self.wait([node])

    def pids(self):
        return [node.process.pid for node in self.running]

    def cpu_seconds(self):
        """User and system time of all running servers together."""
        ticks = 0
        for pid in self.pids():
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def tell_logs(self, lines=25):
        for node in self.nodes:
            print(f"--- the log of {node} ends:\n{node.log_tail(lines)}", flush=True)

    def remove(self, keep=False):
        """Ends the processes and forgets the directories, unless they are to be looked at."""
        for node in self.nodes:
            node.kill()
        if self.network:
            self.network.remove()
        if keep:
            print(f"the servers' directories are left at {self.directory}", flush=True)
        else:
            shutil.rmtree(self.directory, ignore_errors=True)
