"""The administration server's commands: the shape of each answer, and Prometheus's page.

A shape is the answer's names in order, each with the kind of its value. Names that a run makes up (sessions,
paths, times) are masked; of `environment` and `monitor`, which `words` holds, and `system_properties`, which are a
JVM's, a few names stand for all.
"""

import json
import re
import urllib.request

COMMANDS = """
configuration connections connection_stat_reset dirs dump get_trace_mask hash initial_configuration is_read_only
last_snapshot leader observer_connection_stat_reset observers ruok server_stats set_trace_mask
set_trace_mask?traceMask=abc set_trace_mask?traceMask=310 stats stat_reset voting_view watches watches_by_path
watch_summary zabstate conf config cons crst env envi gtmk icfg isro lsnp lead mntr orst obsr srvr stmk stat srst
sysp wchc wchp wchs nope
""".split()

# Answers of which only that they have these names is held.
SAMPLES = {
    "environment": ["zookeeper.version", "host.name", "os.name", "user.dir"],
    "monitor": ["version", "server_state", "znode_count", "avg_latency", "p99_readlatency", "cnt_fsynctime"],
    "system_properties": [],
}


def answer(port, command):
    """The answer as (status, content type, JSON)."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/commands/{command}", timeout=10) as reply:
        return reply.status, reply.headers["Content-Type"], json.loads(reply.read())


def mask(name):
    return "<name>" if re.fullmatch(r"-?\d+|/.*", name) else name


def leaves(value, path=""):
    """`.name.name[] kind` of each value; texts that say what is wrong stand as they are."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, f"{path}.{mask(name)}")
        if not value:
            yield f"{path} {{}}"
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner, f"{path}[]")
        if not value:
            yield f"{path} []"
    elif path in (".command", ".error"):
        yield f"{path} {json.dumps(value)}"
    else:
        kind = "number" if type(value) in (int, float) else type(value).__name__
        yield f"{path} {kind}"


def lines(port):
    """The shapes of all commands."""
    out = []
    for command in COMMANDS:
        status, kind, said = answer(port, command)
        out.append(f"== {command} {status} {kind}")
        if (names := SAMPLES.get(said["command"])) is not None:
            said = {name: said.get(name, "absent") for name in [*names, "command", "error"]}
        out += leaves(said)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/commands/", timeout=10) as reply:
        out += ["== list", *sorted(re.findall(r'href="([^"]*)"', reply.read().decode()))]
    return out
