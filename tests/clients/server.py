"""A server under test: one command with one argument, a zoo.cfg, and JVM flags in the environment.

SERVER_COMMAND says which (default: the release build of this tree). `apache` beside this file is such a command
too, so that every test here can first be held against Apache's own server.
"""

import glob
import os
import pathlib
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
TREE = HERE.parent.parent

# The super user's password is "test", as in the stock clients' own suites.
SUPER_DIGEST = (
    "-Dzookeeper.DigestAuthenticationProvider.superDigest="
    "super:D/InIHSb7yEEbrWz8b9l71RjZJU="
)

# A server is expected to answer this long after its start, JVMs on a busy machine included.
START_SECONDS_MAX = 40


def command():
    """The server's command as a list, without its argument."""
    default = f"{TREE}/target/release/ringkeeper server"
    return shlex.split(os.environ.get("SERVER_COMMAND", default))


def java_classpath():
    """Debian's ZooKeeper client, with what its command line needs."""
    jars = "/usr/share/java/"
    names = ["zookeeper", "zookeeper-jute", "commons-cli", "slf4j-nop", "slf4j-api"]
    names += ["netty-codec", "netty-resolver", "netty-transport-native-unix-common", "netty-all"]
    names += ["netty-buffer", "netty-common", "netty-handler", "netty-transport", "snappy-java"]
    found = [path for name in names for path in glob.glob(f"{jars}{name}.jar")]
    return os.pathsep.join(found)


def free_port():
    """A port of 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def four_letter_word(port, word, timeout=5.0):
    """The server's whole answer to a four-letter word, as text."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as link:
        link.sendall(word.encode())
        chunks = []
        while chunk := link.recv(1 << 16):
            chunks.append(chunk)
    return b"".join(chunks).decode()


def wait_until_serving(process, port, seconds=START_SECONDS_MAX):
    """Whether the process answers `srvr` as serving before it ends or the time is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            if "Mode:" in four_letter_word(port, "srvr", timeout=1):
                return True
        except OSError:
            pass
        time.sleep(0.01)
    return False


class Server:
    """One standalone server with a directory of its own under `tmp` (or TMPDIR).

    `settings` are lines of zoo.cfg on top of the usual ones; `flags` JVM flags.
    """

    def __init__(self, settings=(), flags=(), tmp=None, argv=None):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="server-", dir=tmp))
        self.port = free_port()
        self.argv = argv or command()
        self.flags = [SUPER_DIGEST, *flags]
        self.process = None
        self.data = self.directory / "data"
        self.data.mkdir()
        lines = [
            "tickTime=2000",
            f"dataDir={self.data}",
            f"clientPort={self.port}",
            "clientPortAddress=127.0.0.1",
            "maxClientCnxns=0",
            "admin.enableServer=false",
            "extendedTypesEnabled=true",
            "reconfigEnabled=true",
            "4lw.commands.whitelist=*",
            *settings,
        ]
        self.config = self.directory / "zoo.cfg"
        self.config.write_text("\n".join(lines) + "\n")

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def start(self, wait=True):
        """Starts the process; with `wait`, returns when it answers `srvr` as serving."""
        environment = dict(os.environ, SERVER_JVMFLAGS=" ".join(self.flags))
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(
                [*self.argv, str(self.config)], stdout=log, stderr=log, env=environment
            )
        if wait:
            self.wait()
        return self

    def wait(self, seconds=START_SECONDS_MAX):
        """Waits until it serves; gives the seconds that took."""
        start = time.monotonic()
        if not wait_until_serving(self.process, self.port, seconds):
            raise AssertionError(f"server did not start, see its log:\n{self.log_tail()}")
        return time.monotonic() - start

    def log_tail(self, lines=40):
        text = (self.directory / "log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def kill(self):
        """kill -9: no chance to tidy up."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        """Asks it to end, and insists after a while. Gives its exit code."""
        if self.process is None or self.process.poll() is not None:
            return self.process.returncode if self.process else None
        self.process.terminate()
        try:
            return self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError("server did not end within 20 s of SIGTERM") from None

    def remove(self):
        """Stops it and forgets its directory."""
        try:
            self.stop()
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.remove()
