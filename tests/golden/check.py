#!/usr/bin/env python3
"""Holds the server of SERVER_COMMAND against answers recorded from Apache 3.9.5.

    check.py [probe] [shell] [words] [admin] [--record]

`probe` compares raw replies, `shell` a session of Apache's own command line, `words` the four-letter words, `admin`
the administration server's commands.
`--record` writes the recordings anew; run it with SERVER_COMMAND=tests/clients/apache and ZOOKEEPER_CLASSPATH
at that version, and review the difference.
"""

import argparse
import difflib
import os
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "clients")]

import admin  # noqa: E402
import probe  # noqa: E402
import server as servers  # noqa: E402
import words  # noqa: E402

RELEASE = "3.9.5"

SHELL_MASKS = [
    (re.compile(r"0x10[0-9a-f]{13}\b"), "<session>"),
    (re.compile(r"0x(?!0\b)[0-9a-f]{1,9}\b"), "<zxid>"),
    (re.compile(r"(ctime|mtime) = .*"), r"\1 = <time>"),
    (re.compile(r"Connecting to .*"), "Connecting to <address>"),
    (re.compile(r"127\.0\.0\.1:\d+"), "<address>"),
]


def probe_lines():
    settings = ["znode.container.checkIntervalMs=100"]
    with servers.Server(settings=settings) as server:
        return probe.facts(server.port)


def shell_lines():
    """The session's output, with the events, which come from another thread, behind the rest."""
    commands = (HERE / "shell.txt").read_text()
    shell = ["java", "-cp", servers.java_classpath()]
    with servers.Server() as server:
        shell += ["org.apache.zookeeper.ZooKeeperMain", "-server", server.address]
        run = subprocess.run(
            shell,
            input=commands,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            env=dict(os.environ, TZ="UTC"),
        )
    events = re.findall(r"WatchedEvent state:.*", run.stdout)
    # Two prints, each behind an empty line: something of the session's may come between them.
    output = re.sub(r"\n?(?:WATCHER::|WatchedEvent state:.*)\n", "", run.stdout)
    lines = []
    for line in output.splitlines() + ["", *events]:
        for pattern, mask in SHELL_MASKS:
            line = pattern.sub(mask, line)
        if re.fullmatch(r"\[.*\]", line):
            # Names stand in no order.
            line = f"[{', '.join(sorted(line[1:-1].split(', ')))}]"
        lines.append(line)
    return lines


def words_lines():
    """Shapes of all words on a server with one idle session and one watch; wrong answers are raised."""
    with servers.Server() as server:
        link = probe.Session(server.port)
        link.call(probe.CREATE, probe.create_body("/words", flags=1))
        link.call(probe.EXISTS, probe.text("/words") + b"\1")
        said = {
            word: servers.four_letter_word(server.port, word)
            for word in ["srvr", "cons", "mntr", "envi", *words.SHAPED]
        }
        wrong = words.check_parsers(said["srvr"], said["cons"], said["mntr"])
        unlisted = servers.four_letter_word(server.port, "nope")
        if unlisted:
            wrong.append(f"an unknown word is answered: {unlisted!r}")
    if wrong:
        raise AssertionError("\n".join(wrong))
    lines = []
    for word in words.SHAPED:
        shape = words.shape(said[word])
        # Connections stand in no order.
        lines += [f"== {word}", *(sorted(shape) if word == "cons" else shape)]
    lines += ["== envi, keys", *words.keys(said["envi"], "=")]
    return lines + ["== mntr, names", *words.metrics(said["mntr"])]


def admin_lines():
    """Shapes of what the administration server answers, on a server as that of `words`."""
    port = servers.free_port()
    settings = ["admin.enableServer=true", "admin.serverAddress=127.0.0.1", f"admin.serverPort={port}"]
    with servers.Server(settings=settings) as server:
        link = probe.Session(server.port)
        link.call(probe.CREATE, probe.create_body("/words", flags=1))
        link.call(probe.EXISTS, probe.text("/words") + b"\1")
        return admin.lines(port)


PARTS = {"probe": probe_lines, "shell": shell_lines, "words": words_lines, "admin": admin_lines}


def rows_on_purpose():
    """Rows of a difference that are on purpose, from `different.txt`; a row that ends in `*` is a beginning."""
    rows = (HERE / "different.txt").read_text().splitlines()
    return [row.split("\t")[0] for row in rows if row and not row.startswith("#")]


def covers(rule, row):
    return row == rule or (rule.endswith("*") and row.startswith(rule[:-1]))


def compare(part, lines, rules):
    """Prints the difference that no rule covers, and gives all of it."""
    recorded = (HERE / f"{part}-{RELEASE}.txt").read_text().splitlines()
    unified = difflib.unified_diff(recorded, lines, "Apache", "here", lineterm="", n=0)
    rows = [row for row in unified if not row.startswith(("@@", "---", "+++"))]
    wrong = [row for row in rows if not any(covers(rule, row) for rule in rules)]
    for row in wrong:
        print(f"{part}: {row}")
    on_purpose = len(rows) - len(wrong)
    print(f"{part}: {len(recorded)} lines, {on_purpose} different on purpose, {len(wrong)} otherwise")
    return rows, wrong


def main():
    flags = argparse.ArgumentParser()
    flags.add_argument("parts", nargs="*", default=list(PARTS), metavar="|".join(PARTS))
    flags.add_argument("--record", action="store_true")
    flags = flags.parse_args()
    rules, rows, wrong = rows_on_purpose(), [], []
    for part in flags.parts:
        lines = PARTS[part]()
        if flags.record:
            (HERE / f"{part}-{RELEASE}.txt").write_text("\n".join(lines) + "\n")
        else:
            found = compare(part, lines, rules)
            rows, wrong = rows + found[0], wrong + found[1]
    if not flags.record and set(flags.parts) == set(PARTS):
        # A rule that covers nothing hides the next difference.
        for rule in rules:
            if not any(covers(rule, row) for row in rows):
                print(f"different.txt: no such difference: {rule}")
                wrong.append(rule)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
