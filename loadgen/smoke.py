#!/usr/bin/env python3
"""Runs each workload of the load generator for a moment against the server of SERVER_COMMAND.

The generator itself fails on any error reply, on replies out of order, and on watch events that are missing. Then
come a server that is killed under load, a journal held against servers that keep their word and servers that do
not, and both commands that start servers of their own. This says nothing of speed: see `loadgen compare`.
"""

import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

TREE = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TREE / "tests" / "clients"))

import server as servers  # noqa: E402

LOADGEN = TREE / "target/release/loadgen"

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
    command = [LOADGEN, "mixed", "--seconds", "5", "--warm-up", "0"]
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


def generator(*arguments):
    """(exit code, standard output) of one run of the generator."""
    done = subprocess.run([LOADGEN, *arguments], stdout=subprocess.PIPE, text=True, timeout=180)
    return done.returncode, done.stdout


def verify(server, path, *arguments):
    """(exit code, faults by path) of `verify`; a contradiction has no path of its own."""
    code, out = generator("verify", path, "--servers", server.address, "--json", *arguments)
    told = json.loads(out)
    faults = {finding["path"]: finding["fault"] for finding in told["servers"][0]["findings"]}
    return code, faults | {what: "contradiction" for what in told["contradictions"]}


def forged(text):
    """(name, journal, path, fault): what `verify` must find, in journals that claim what is not so."""
    lines = text.splitlines()
    root = lines[0].split()[3]
    claim = f"ask 99 1 create:{root}/w1/never\nok 99 1 7fffffffffffffff 0\n"
    yield "a create that never was", text + claim, f"{root}/w1/never", "missing"
    # The last acknowledged change of the run's own root: its create, as operation 0 1.
    yield "another version", text + f"ask 0 99 set:{root}\nok 0 99 7ffffffffffffffe 1\n", root, "wrong"
    yield "a delete that never was", text + f"ask 0 99 delete:{root}/queue\nok 0 99 3 -\n", f"{root}/queue", "surplus"
    worker = next(line for line in lines if line.startswith("ask 0 3 "))
    left_out = "".join(f"{line}\n" for line in lines if line.split()[1:3] != ["0", "3"])
    yield "a create left out", left_out, worker.split(":", 1)[1], "surplus"


def journal(folder):
    """What a server has acknowledged is there after kill -9, and a journal that lies is found out."""
    path = folder / "journal"
    with servers.Server() as server:
        running = subprocess.Popen([LOADGEN, "journal", path, "--servers", server.address, "--seconds", "4"])
        for _ in range(2):
            time.sleep(1.2)
            server.kill()
            server.start()
        assert running.wait(timeout=60) == 0, "the journal was not written"
        text = path.read_text()
        assert text.count("\nok ") > 100 and "resumed" in text, "the kills came too late"
        assert verify(server, path) == (0, {}), verify(server, path)
        server.kill()
        server.start()
        assert verify(server, path) == (0, {}), verify(server, path)
        for name, lie, where, fault in forged(text):
            (folder / "forged").write_text(lie)
            code, faults = verify(server, folder / "forged")
            assert code == 1 and faults.get(where) == fault, f"{name}: {code} {faults}"
        # A journal whose writer is killed is good for what it holds; its sessions' nodes go by themselves.
        cut = folder / "cut"
        running = subprocess.Popen(
            [LOADGEN, "journal", cut, "--servers", server.address, "--session-timeout-ms", "4000"]
        )
        time.sleep(1)
        running.kill()
        running.wait()
        assert verify(server, cut) == (0, {}), verify(server, cut)
        print("journal →", text.count("\nok "), "acknowledged, none lost; four lies found")
    with servers.Server() as empty:
        code, faults = verify(empty, path)
        assert code == 1 and set(faults.values()) == {"missing"} and len(faults) > 10, "an empty server passes"


def comparison(folder):
    """Two local servers side by side, and an ensemble of three; nothing of them is left."""
    ours = "--data", folder / "data", "--seconds", "0.5", "--warm-up", "0.2", "--first-warm-up", "0.5"
    pages = folder / "compare.html", folder / "local.html"
    command = f"again={TREE}/target/release/ringkeeper server"
    code, out = generator(
        *("compare", "--rounds", "2", *ours, "--html", pages[0], "ringkeeper", command, "get", "set -i 4"),
        "--json",
    )
    told = json.loads(out)
    figures = {figure["name"]: figure for figure in told["rows"][1]["figures"]}
    rate = figures["operations a second"]
    assert code == 0 and len(rate["left"]) == 2 and 0 < rate["ratio"]["min"] <= rate["ratio"]["max"], out[:2000]
    code, out = generator("local", "--servers", "3", *ours, "--html", pages[1], "set -c 4", "--json")
    told = json.loads(out)
    assert code == 0 and len(told[0]["servers"]) == 3 and told[0]["operations"] > 0, out[:2000]
    for page in pages:
        text = page.read_text()
        assert text.count("<figure") >= 5 and "<script" not in text and "NaN" not in text, page
    command = [LOADGEN, "local", *ours, "get --seconds 60"]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_for(lambda: list((folder / "data").glob("*/server1/log")), "no server was started")
    servers_of = children(running.pid)
    running.send_signal(signal.SIGINT)
    assert running.wait(timeout=20) == 130, "Ctrl-C"
    wait_for(lambda: not any(map(alive, servers_of)), "Ctrl-C leaves a server behind")
    assert servers_of and not list((folder / "data").iterdir()), "Ctrl-C leaves data behind"
    print("compare, local → nothing left behind")


def wait_for(condition, what):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def children(pid):
    return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid):
    try:
        return ") Z " not in pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def main():
    with tempfile.TemporaryDirectory() as folder:
        journal(pathlib.Path(folder))
        comparison(pathlib.Path(folder))
    with servers.Server() as server:
        where = ["--servers", server.address, "--pid", str(server.process.pid)]
        for run in RUNS:
            command = [LOADGEN, *run, *where, "--warm-up", "0.2", "--json"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60)
            print(" ".join(run), "→", done.stdout.strip()[:200])
            told = json.loads(done.stdout)
            if done.returncode != 0 or not told["operations"]:
                return 1
        return restart(server)


if __name__ == "__main__":
    sys.exit(main())
