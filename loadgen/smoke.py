#!/usr/bin/env python3
"""Runs each workload of the load generator for a moment against the server of SERVER_COMMAND.

The generator itself fails on any error reply, on replies out of order, and on watch events that are missing. This
says nothing of speed: see compare.py.
"""

import json
import pathlib
import subprocess
import sys

TREE = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TREE / "tests" / "clients"))

import server as servers  # noqa: E402

RUNS = [
    ["create", "--seconds", "1"],
    ["create", "--seconds", "1", "--directories", "50", "--root", "/spread"],
    ["set", "--seconds", "1", "--in-flight", "16"],
    ["get", "--seconds", "1", "--threads", "2"],
    ["mixed", "--seconds", "1", "--read-percent", "50"],
    ["watch", "--seconds", "1", "--connections", "1", "--watchers", "50"],
    ["watch", "--seconds", "1", "--connections", "2", "--keys", "4", "--watch", "recursive"],
    ["watch", "--seconds", "1", "--connections", "1", "--watch", "one-shot"],
    ["fill", "--count", "20000", "--fan-out", "100", "--root", "/fill"],
]


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
    return 0


if __name__ == "__main__":
    sys.exit(main())
