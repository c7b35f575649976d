#!/usr/bin/env python3
"""Apache's server and this one, side by side on one machine, with the bundled load generator.

    compare.py [SECTION...] [--rounds N] [--seconds S] [--nodes N] [--data DIR] [--json FILE]

Sections: memory, snapshot, directory (all of them by default); rates and latencies are for `loadgen compare`. The
servers run one process each on free ports of 127.0.0.1, with their data on the same volume (`--data`). Rounds alternate between them, what is
printed is the median, and the ratio says how many times better the second is. Generator and server share the
cores, so throughput is of both: CPU per operation is the server's own.

Apache's is Debian's package (3.8.0), or what ZOOKEEPER_CLASSPATH names. `--side NAME=COMMAND`, given twice,
compares any two commands that take a zoo.cfg.
"""

import argparse
import json
import os
import pathlib
import shlex
import statistics
import subprocess
import sys
import time

TREE = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TREE / "tests" / "clients"))

import server as servers  # noqa: E402

LOADGEN = TREE / "target/release/loadgen"
SIDES = [
    f"apache={TREE}/tests/clients/apache",
    f"ringkeeper={TREE}/target/release/ringkeeper server",
]

# Never a snapshot by itself, and one every few seconds of load.
SNAPSHOTS_NEVER, SNAPSHOTS_OFTEN = "snapCount=1000000000", "snapCount=50000"


class Side:
    """One of the two, with the figures that its rounds gave."""

    def __init__(self, text, data):
        self.name, command = text.split("=", 1)
        self.argv, self.data = shlex.split(command), data
        self.figures = {}

    def server(self, *settings):
        return servers.Server(settings=settings, tmp=self.data, argv=self.argv)

    def note(self, row, name, value):
        self.figures.setdefault((row, name), []).append(value)

    def median(self, row, name):
        return statistics.median(self.figures[(row, name)])

    def note_run(self, row, told):
        """What every run gives: events count where there are events."""
        kind = "events" if told["events"] else "operations"
        latency = told["latency_us"]
        latency = latency.get("event") or latency.get("write") or latency["read"]
        self.note(row, "per second", told[f"{kind}_per_second"])
        self.note(row, "server CPU, µs each", told["server_cpu_us"])
        for quantile in ("p50", "p99", "p99.9"):
            self.note(row, f"{quantile}, µs", latency[quantile])


def load(server, *arguments):
    """One run of the generator against one server."""
    where = ["--servers", server.address, "--pid", str(server.process.pid), "--json"]
    run = subprocess.run([LOADGEN, *arguments, *where], stdout=subprocess.PIPE, text=True)
    told = json.loads(run.stdout) if run.stdout else {}
    if run.returncode:
        raise SystemExit(f"loadgen {' '.join(arguments)}: {told or 'failed'}\n{server.log_tail(10)}")
    return told


def fill(server, count, root, fan_out=100):
    return load(server, "fill", "--count", str(count), "--fan-out", str(fan_out), "--root", root)


def resident_bytes(server, field="VmRSS"):
    """What is resident now; what was at its highest with `VmHWM`."""
    status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


def memory(sides, flags):
    """Nodes of 100 bytes: how fast they go in, what each takes, and how soon a restart serves."""
    row = f"{flags.nodes} nodes of 100 bytes"
    for side in sides:
        with side.server() as server:
            empty = resident_bytes(server)
            told = fill(server, flags.nodes, "/memory")
            side.note(row, "filled, per second", told["operations_per_second"])
            side.note(row, "memory each, bytes", (resident_bytes(server) - empty) / flags.nodes)
            server.stop()
            server.start(wait=False)
            side.note(row, "restart to serving, s", server.wait(300))
            grown = resident_bytes(server) - empty
            side.note(row, "memory each after a restart, bytes", grown / flags.nodes)
            server.kill()
            server.start(wait=False)
            side.note(row, "kill -9 to serving, s", server.wait(300))


def snapshot(sides, flags):
    """Sets beside a large tree, with and without a snapshot being taken."""
    nodes = flags.nodes // 2
    for side in sides:
        for name, setting in (("never", SNAPSHOTS_NEVER), ("often", SNAPSHOTS_OFTEN)):
            with side.server(setting) as server:
                fill(server, nodes, "/large")
                load(server, "set", "--seconds", str(flags.warm_up), "--warm-up", "0")
                for _ in range(flags.rounds):
                    told = load(server, "set", "--seconds", str(flags.seconds * 2))
                    side.note_run(f"set, {nodes} nodes, snapshots {name}", told)
                highest = resident_bytes(server, "VmHWM") / (1 << 20)
                side.note(f"set, {nodes} nodes, snapshots {name}", "memory at its highest, MiB", highest)


def directory(sides, flags):
    """Creates in a directory of many children, and in directories of a hundred."""
    for side in sides:
        with side.server(SNAPSHOTS_NEVER) as server:
            fill(server, flags.nodes, "/wide", fan_out=0)
            small = flags.nodes // 10
            fill(server, small, "/narrow", fan_out=100)
            first = {"/wide": flags.nodes, "/narrow": small}
            for turn in range(flags.rounds):
                for root, directories in (("/narrow", small // 100), ("/wide", 1)):
                    children = flags.nodes if root == "/wide" else 100
                    told = load(
                        server,
                        *("create", "--root", root, "--directories", str(directories)),
                        # Far enough apart that no round meets the nodes of another.
                        *("--first", str(first[root] + turn * 50_000_000)),
                        *("--seconds", str(flags.seconds)),
                    )
                    side.note_run(f"create beside {children} children", told)


SECTIONS = {"memory": memory, "snapshot": snapshot, "directory": directory}


def show(sides):
    """The table, as it goes into the README."""
    one, two = sides
    print(f"| | | {one.name} | {two.name} | ratio |\n|---|---|---:|---:|---:|")
    shown = None
    for row, name in one.figures:
        left, right = one.median(row, name), two.median(row, name)
        more_is_better = name.endswith("per second")
        better, worse = (right, left) if more_is_better else (left, right)
        ratio = f"{better / worse:.1f}" if worse else "–"
        digits = 2 if left < 100 else 0
        title = row if row != shown else ""
        print(f"| {title} | {name} | {left:,.{digits}f} | {right:,.{digits}f} | {ratio} |", flush=True)
        shown = row


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    flags.add_argument("sections", nargs="*", default=list(SECTIONS))
    flags.add_argument("--rounds", type=int, default=5)
    flags.add_argument("--seconds", type=float, default=5)
    flags.add_argument("--warm-up", type=float, default=15, help="seconds of load before the first round")
    flags.add_argument("--nodes", type=int, default=1_000_000)
    flags.add_argument("--data", default=str(TREE / "target/compare"))
    flags.add_argument("--side", action="append", metavar="NAME=COMMAND")
    flags.add_argument("--json", type=pathlib.Path)
    flags = flags.parse_args()
    unknown = set(flags.sections) - set(SECTIONS)
    if unknown or (flags.side and len(flags.side) != 2):
        raise SystemExit(f"unknown: {unknown}" if unknown else "--side is given twice or not at all")
    os.makedirs(flags.data, exist_ok=True)
    os.environ.setdefault("HEAP", "4g")
    sides = [Side(text, flags.data) for text in flags.side or SIDES]
    for section in flags.sections:
        start = time.monotonic()
        SECTIONS[section](sides, flags)
        print(f"{section}: {time.monotonic() - start:.0f} s", file=sys.stderr)
    show(sides)
    if flags.json:
        figures = {
            side.name: {f"{row}: {name}": values for (row, name), values in side.figures.items()}
            for side in sides
        }
        flags.json.write_text(json.dumps(figures, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
