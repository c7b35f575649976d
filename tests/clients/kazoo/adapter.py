"""A pytest plugin: kazoo's own suite against a server that is one command with one argument.

kazoo's harness starts Java itself and makes TLS certificates first. Here the cluster is ZOOKEEPER_CLUSTER_SIZE
times the server of SERVER_COMMAND, without TLS. Alone it runs all tests but those in `excluded.txt`, by name, each
with its reason; those whose reason begins with `ensemble:` and does not end in `(not run)` are run by more servers
than one, and only those. A name that kazoo does not have is an error, so the list cannot rot.
"""

import os
import pathlib
import subprocess
import sys
import types

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import server as ours  # noqa: E402

# kazoo imports these at its top for its certificates, which are not made here.
for name in ("jks", "OpenSSL"):
    sys.modules.setdefault(name, types.ModuleType(name))

from kazoo.testing import common  # noqa: E402


# kazoo's own default.
SIZE = int(os.environ.get("ZOOKEEPER_CLUSTER_SIZE", 3))


def run(self, wait=True):
    """Replaces ManagedZooKeeper.run: the same files, our command."""
    if self.running:
        return
    directory = pathlib.Path(self.working_path)
    data = directory / "data"
    data.mkdir(parents=True, exist_ok=True)
    lines = [
        "tickTime=2000",
        f"dataDir={data}",
        f"clientPort={self.server_info.client_port}",
        "maxClientCnxns=0",
        "admin.enableServer=false",
        *self.configuration_entries,
        *member_lines(self.server_info, self.peers),
    ]
    config = directory / "zoo.cfg"
    config.write_text("\n".join(lines) + "\n")
    (data / "myid").write_text(str(self.server_info.server_id))
    flags = ["-Dreadonlymode.enabled=true", *self.java_system_properties]
    environment = dict(os.environ, SERVER_JVMFLAGS=" ".join(flags))
    with open(directory / "zookeeper.log", "ab") as log:
        self.process = subprocess.Popen(
            [*ours.command(), str(config)], stdout=log, stderr=log, env=environment
        )
    self._running = True
    # Some tests give a restarted server five seconds; a JVM's start on a busy machine is none of their matter.
    if wait:
        ours.wait_until_serving(self.process, self.server_info.client_port)


def member_lines(info, peers):
    """What makes servers an ensemble, in kazoo's words."""
    if not peers:
        return []
    servers = [
        f"server.{it.server_id}=127.0.0.1:{it.leader_port}:{it.election_port}:{it.peer_type}"
        for it in sorted([info, *peers], key=lambda it: it.server_id)
    ]
    return ["initLimit=4", "syncLimit=2", *servers, f"peerType={info.peer_type}"]


def start(self):
    """Replaces ZookeeperCluster.start: no server of an ensemble serves before the second one is there."""
    for server in reversed(list(self)):
        run(server, wait=False)
    for server in self:
        ours.wait_until_serving(server.process, server.server_info.client_port)


common.ManagedZooKeeper.run = run
common.ZookeeperCluster.start = start
common.ZookeeperCluster.perform_ssl_certs_generation = lambda self: None


def excluded():
    """Test name → reason, from the lines `NAME  REASON` of excluded.txt."""
    names = {}
    for line in (HERE / "excluded.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, reason = line.split(maxsplit=1)
            names[name] = reason
    return names


def needs_ensemble(reason):
    return reason.startswith("ensemble:") and not reason.endswith("(not run)")


def pytest_collection_modifyitems(config, items):
    reasons = excluded()
    names = {item.nodeid.rsplit("/", 1)[-1]: item for item in items}
    unknown = sorted(set(reasons) - set(names))
    if unknown and not config.option.keyword:
        raise pytest.UsageError(f"excluded.txt names tests that kazoo does not have: {unknown}")
    if SIZE > 1:
        reasons = {name: reason for name, reason in reasons.items() if not needs_ensemble(reason)}
        wanted = [name for name, reason in excluded().items() if needs_ensemble(reason)]
        out = [item for name, item in names.items() if name not in wanted]
    else:
        out = [item for name, item in names.items() if name in reasons]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in out]
    config.excluded_here = {name: reasons[name] for name in reasons if name in names}


def pytest_report_header(config):
    return f"server: {' '.join(ours.command())}"


def pytest_terminal_summary(terminalreporter, config):
    rows = getattr(config, "excluded_here", {})
    terminalreporter.section(f"{len(rows)} tests left out on purpose")
    for name, reason in rows.items():
        terminalreporter.line(f"{name}: {reason}")
