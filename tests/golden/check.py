#!/usr/bin/env python3
"""Holds the server of SERVER_COMMAND against answers recorded from Apache 3.9.5.

    check.py [probe] [shell] [words] [--record]

`probe` compares raw replies, `shell` a session of Apache's own command line, `words` the four-letter words.
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
    output = re.sub(r"\n?WATCHER::\n\nWatchedEvent state:.*\n", "", run.stdout)
    lines = []
    for line in output.splitlines() + ["", *events]:
        for pattern, mask in SHELL_MASKS:
            line = pattern.sub(mask, line)
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
    # Apache adds names by namespace as paths are touched; those of this run are nobody's contract.
    names = [name for name in words.keys(said["mntr"], "\t") if "_per_namespace" not in name]
    return lines + ["== mntr, names", *names]


PARTS = {"probe": probe_lines, "shell": shell_lines, "words": words_lines}


def allowed():
    """Rows of a difference that are on purpose, from `different.txt`; a row that ends in `*` is a beginning."""
    rows = (HERE / "different.txt").read_text().splitlines()
    return [row.split("\t")[0] for row in rows if row and not row.startswith("#")]


def on_purpose(row):
    return any(
        row == other or (other.endswith("*") and row.startswith(other[:-1])) for other in allowed()
    )


def compare(part, lines):
    """Prints the difference; `True` when there is none that is not on purpose."""
    recorded = (HERE / f"{part}-{RELEASE}.txt").read_text().splitlines()
    different = [
        row
        for row in difflib.unified_diff(recorded, lines, "Apache", "here", lineterm="", n=0)
        if not row.startswith(("@@", "---", "+++")) and not on_purpose(row)
    ]
    for row in different:
        print(f"{part}: {row}")
    print(f"{part}: {len(recorded)} lines, {len(different)} different")
    return not different


def main():
    flags = argparse.ArgumentParser()
    flags.add_argument("parts", nargs="*", default=list(PARTS), metavar="|".join(PARTS))
    flags.add_argument("--record", action="store_true")
    flags = flags.parse_args()
    same = True
    for part in flags.parts:
        lines = PARTS[part]()
        if flags.record:
            (HERE / f"{part}-{RELEASE}.txt").write_text("\n".join(lines) + "\n")
        else:
            same = compare(part, lines) and same
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
