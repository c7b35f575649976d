#!/usr/bin/env python3
"""What an ensemble costs: CPU per set over all its servers, and one client's latency, ours and Apache's in turn.

    measure.py [--sides KIND,KIND...] [--rounds N] [--seconds S] [--json FILE]

Each side is three servers on 127.0.0.1 with files on one volume. Rounds alternate between the sides, what is
printed is the median. The generator shares the cores, so throughput is of both; CPU is user and system time of
the three servers' processes, divided by the sets.
"""

import argparse
import asyncio
import json
import pathlib
import statistics
import sys

from ensemble import Ensemble, Missing
from story_join import loadgen

ROWS = {
    "48 connections × 1": ["set", "--connections", "48", "--in-flight", "1"],
    "48 connections × 16": ["set", "--connections", "48", "--in-flight", "16"],
    "one client": ["set", "--connections", "1", "--in-flight", "1"],
    "one client, at a follower": ["set", "--connections", "1", "--in-flight", "1"],
}


async def servers_for(ensemble, row):
    """All of them; one client is at the leader or at a follower."""
    if not row.startswith("one client"):
        return ensemble.nodes
    return [await ensemble.leader()] if row == "one client" else (await ensemble.followers())[:1]


async def measure(flags):
    figures = {}
    ensembles = {kind: Ensemble([kind] * 3, java_log="warn") for kind in flags.sides}
    try:
        for kind, ensemble in ensembles.items():
            await ensemble.start()
            # A JVM compiles what it does often.
            warm = ["--seconds", str(flags.warm_up), "--warm-up", "0"]
            await loadgen(ensemble, ensemble.nodes, *ROWS["48 connections × 16"], *warm)
        for turn in range(flags.rounds):
            for row, arguments in ROWS.items():
                for kind in flags.sides if turn % 2 == 0 else reversed(flags.sides):
                    nodes = await servers_for(ensembles[kind], row)
                    seconds = ["--seconds", str(flags.seconds), "--warm-up", "1"]
                    told = await loadgen(ensembles[kind], nodes, *arguments, *seconds)
                    latency = told["latency_us"]["write"]
                    note = figures.setdefault(row, {}).setdefault(kind, [])
                    note.append({
                        "cpu": told["server_cpu_us"],
                        "per second": told["operations_per_second"],
                        **{name: latency[name] for name in ("p50", "p99", "p99.9")},
                    })
    except AssertionError:
        for ensemble in ensembles.values():
            ensemble.tell_logs(40)
        raise
    finally:
        for ensemble in ensembles.values():
            ensemble.remove()
    return figures


def show(figures, sides):
    print(f"| sets on three servers | | {' | '.join(sides)} | ratio |")
    print(f"|---|---|{'---:|' * (len(sides) + 1)}")
    for row, told in figures.items():
        for name in ("cpu", "per second", "p50", "p99", "p99.9"):
            medians = [statistics.median(entry[name] for entry in told[kind]) for kind in sides]
            unit = "" if name == "per second" else ", µs of all servers a set" if name == "cpu" else ", µs"
            ratio = f"{medians[0] / medians[-1]:.2f}" if medians[-1] else "–"
            print(f"| {row} | {name}{unit} | {' | '.join(f'{m:,.1f}' for m in medians)} | {ratio} |")


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    flags.add_argument("--sides", type=lambda text: text.split(","), default=["ringkeeper", "java38"])
    flags.add_argument("--rounds", type=int, default=3)
    flags.add_argument("--seconds", type=float, default=4)
    flags.add_argument("--warm-up", type=float, default=10)
    flags.add_argument("--json", type=pathlib.Path)
    flags = flags.parse_args()
    try:
        figures = asyncio.run(measure(flags))
    except Missing as missing:
        return f"SKIPPED: {missing}"
    show(figures, flags.sides)
    if flags.json:
        flags.json.write_text(json.dumps(figures, indent=1, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
