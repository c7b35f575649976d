#!/usr/bin/env python3
"""Stories of ensembles, told to real processes.

    run.py STORY... [--kinds KIND,...] [--beside KIND] [--rounds N] [--seed S] [--keep] [--size N]

`run.py list` names the stories. `--kinds` are the servers' kinds (ringkeeper, java38, java39), repeated for as
many servers as a story has; `--beside` is measured in the same run. What a machine does not allow is skipped,
named and counted. A failure prints the seed, the violations and the ends of the servers' logs.
"""

import argparse
import sys

import apart
import story_basic
import story_crash
import story_damage
import story_join
import story_mixed
import story_modes
import story_network
import story_observers
import story_reconfig
import test_check
from story import add_flags, chosen, tell

STORIES = {
    "checkers": test_check.checkers,
    "basic": story_basic.basic,
    "observer": story_basic.observer,
    "observer_masters": story_observers.observer_masters,
    "kill_leader": story_crash.kill_leader,
    "freeze": story_crash.freeze,
    "kill_all": story_crash.kill_all,
    "rolling": story_mixed.rolling,
    "mixed": story_mixed.mixed,
    "partition": story_network.partition,
    "sync_is_linearizable": story_network.sync_is_linearizable,
    "damaged": story_damage.damaged,
    "reconfig": story_reconfig.reconfig,
    "catch_up": story_join.catch_up,
    "read_only": story_modes.read_only,
    "local_sessions": story_modes.local_sessions,
    "leader_serves": story_modes.leader_serves,
}


def parse():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_flags(flags)
    flags.add_argument("--beside", help="a kind that is measured in the same run")
    flags.add_argument("--size", type=int, default=20_000, help="transactions that catch_up is behind by")
    flags.add_argument("--how", action="append", help="kill_leader's ways: kill, term, freeze")
    flags.add_argument("--only", action="append", help="partition's and mixed's cases, by name")
    return flags.parse_args()


def main():
    flags = parse()
    names = chosen(STORIES, flags, 22)
    if names is None:
        return 0
    failed, skipped = [], []
    for name in names:
        parts, how = tell(name, STORIES[name], flags)
        skipped += parts
        if how == "FAILED":
            failed.append(name)
        elif how != "passed":
            skipped.append(f"{name}: {how}")
    print(f"{len(names) - len(failed)} of {len(names)} stories passed, {len(skipped)} parts skipped")
    for text in skipped:
        print(f"skipped: {text}")
    if failed:
        print(f"FAILED: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    apart.leave(main())
