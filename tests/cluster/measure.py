#!/usr/bin/env python3
"""What an ensemble costs: CPU per set over all its servers, and one client's latency, ours and Apache's in turn.

    measure.py [--sides KIND,KIND...] [--rounds N] [--seconds S] [--json FILE]
    measure.py --floor [--rounds N] [--seconds S] [--json FILE]

Each side is three servers on 127.0.0.1 with files on one volume. Rounds alternate between the sides, what is
printed is the median. The generator shares the cores, so throughput is of both; CPU is user and system time of
the three servers' processes, divided by the sets.

--floor holds one client's set, on one of our servers and on three, against the parts that it cannot do without:
in each round a bare TCP round trip and a bare write of the log are measured too (`loadgen floor`). On one server
it needs one of each, on three one more round trip. The aim is 1.4 times their sum. Three servers on one machine wake each other's cores
and write to one disk, so that sum is also told with round trips between cores and the write of three at once.
"""

import argparse
import asyncio
import json
import pathlib
import statistics
import sys

from ensemble import Ensemble, Missing
from story_join import LOADGEN, loadgen

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


async def measure_floor(flags):
    """Rounds of: the parts, a set on one server, a set on three."""
    rounds = []
    ensembles = {count: Ensemble(["ringkeeper"] * count) for count in (1, 3)}
    try:
        for ensemble in ensembles.values():
            await ensemble.start()
        for turn in range(flags.rounds):
            told = {}
            for what in (0, 1, 3) if turn % 2 == 0 else (3, 1, 0):
                if what == 0:
                    told["floor"] = await floor(ensembles[3].directory, flags.seconds)
                    continue
                ensemble = ensembles[what]
                nodes = ensemble.nodes if what == 1 else [await ensemble.leader()]
                seconds = ["--seconds", str(flags.seconds), "--warm-up", "0.5"]
                run = await loadgen(ensemble, nodes, *ROWS["one client"], *seconds)
                told[what] = run["latency_us"]["write"]["p50"]
            rounds.append(told)
    finally:
        for ensemble in ensembles.values():
            ensemble.remove()
    return rounds


async def floor(directory, seconds):
    process = await asyncio.create_subprocess_exec(
        LOADGEN, "floor", "--dir", directory, "--seconds", str(seconds), "--json", stdout=asyncio.subprocess.PIPE
    )
    told, _ = await process.communicate()
    if process.returncode:
        raise AssertionError(f"loadgen floor failed in {directory}")
    return json.loads(told)


def show_floor(rounds):
    """Medians of the rounds; the ratio is the median of each round's own."""

    def median(figure):
        return statistics.median(figure(told) for told in rounds)

    part = {name: median(lambda told: told["floor"][name] or 0) for name in rounds[0]["floor"]}
    print(
        f"TCP round trip {part['round_trip_us']:.1f} µs, between cores {part['round_trip_between_cores_us']:.1f} µs; "
        f"write of the log {part['log_write_us']:.1f} µs, of three at once {part['log_write_of_three_us']:.1f} µs "
        f"(medians of {len(rounds)} rounds)\n"
    )
    print("| one client's set, p50 | its parts, µs | the set, µs | ratio | aim |")
    print("|---|---:|---:|---:|---:|")
    rows = [(1, "one_server_us", "one server"), (3, "three_servers_us", "three servers")]
    if part["three_servers_here_us"]:
        rows.append((3, "three_servers_here_us", "three servers, trips between cores, three logs on the disk"))
    for count, name, servers in rows:
        own = median(lambda told: told[count])
        ratio = median(lambda told: told[count] / told["floor"][name])
        print(f"| {servers} | {part[name]:.0f} | {own:.0f} | {ratio:.2f} | 1.40 |")


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
    flags.add_argument("--floor", action="store_true")
    flags.add_argument("--json", type=pathlib.Path)
    flags = flags.parse_args()
    try:
        figures = asyncio.run(measure_floor(flags) if flags.floor else measure(flags))
    except Missing as missing:
        return f"SKIPPED: {missing}"
    if flags.floor:
        show_floor(figures)
    else:
        show(figures, flags.sides)
    if flags.json:
        flags.json.write_text(json.dumps(figures, indent=1, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
