#!/usr/bin/env python3
"""Runs each workload of the load generator for a moment against the server of SERVER_COMMAND.

The generator itself fails on any error reply, on replies out of order, and on watch events that are missing. This
says nothing of speed: see compare.py.
"""

import json
import pathlib
import subprocess
import sys
import time

TREE = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TREE / "tests" / "clients"))

import server as servers  # noqa: E402

RUNS = [
    ["create", "--seconds", "1"],
    ["create", "--seconds", "1", "--directories", "50", "--root", "/spread"],
    ["set", "--seconds", "1", "--in-flight", "16", "--zipf", "0.99"],
    ["get", "--seconds", "1", "--threads", "2"],
    ["get", "--seconds", "1", "--rate", "2000", "--arrivals", "poisson", "--threads", "2"],
    ["delete", "--seconds", "1"],
    ["delete", "--count", "5000", "--in-flight", "4"],
    ["multi", "--seconds", "1", "--multi-size", "17"],
    ["mixed", "--seconds", "1", "--read-percent", "50"],
    ["ephemeral", "--seconds", "1"],
    ["connect", "--seconds", "1", "--rate", "200"],
    ["watch", "--seconds", "1", "--connections", "1", "--watchers", "50"],
    ["watch", "--seconds", "1", "--connections", "2", "--keys", "4", "--watch", "recursive", "--threads", "2"],
    ["watch", "--seconds", "1", "--connections", "1", "--watch", "one-shot"],
    ["watch", "--seconds", "1", "--connections", "1", "--watchers", "2000", "--paced"],
    ["lock", "--seconds", "1", "--connections", "6", "--keys", "2"],
    ["queue", "--seconds", "1", "--connections", "4", "--keys", "2"],
    ["fill", "--count", "20000", "--fan-out", "100", "--root", "/fill"],
    ["set", "--seconds", "0.5", "--connections", "2", "--find-knee", "--p99-ms", "200"],
]


def restart(server):
    """A server killed under load and started again is ridden out, and told of."""
    # Without --pid the generator finds the process by itself, and the one that follows it.
    command = [TREE / "target/release/loadgen", "mixed", "--seconds", "5", "--warm-up", "0"]
    command += ["--rate", "1000", "--servers", server.address, "--json"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    time.sleep(2)
    server.kill()
    server.start()
    told = json.loads(running.communicate(timeout=60)[0])
    disturbances, rates = told["disturbances"], told["series"]["rate_per_second"]
    print("a restart →", disturbances, f"longest wait {told['kinds']['set']['latency_us']['max'] / 1e3:.0f} ms")
    ridden_out = (
        running.returncode == 1
        and disturbances["disconnects"] == 32
        and disturbances["reattached"] + disturbances["sessions_expired"] == 32
        and disturbances["never_sent"] == 0
        # Every operation was answered, or lost with its connection.
        and told["operations"] + disturbances["in_doubt"] == 5000
        and min(rates[45:50]) > 0
        and told["servers"][0]["pid"] == server.process.pid
    )
    return 0 if ridden_out else 1


def main():
    with servers.Server() as server:
        where = ["--servers", server.address, "--pid", str(server.process.pid)]
        for run in RUNS:
            command = [TREE / "target/release/loadgen", *run, *where, "--warm-up", "0.2", "--json"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60)
            print(" ".join(run), "→", done.stdout.strip()[:200])
            told = json.loads(done.stdout)
            if done.returncode != 0 or not told["operations"]:
                return 1
        return restart(server)


if __name__ == "__main__":
    sys.exit(main())
