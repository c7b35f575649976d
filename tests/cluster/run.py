#!/usr/bin/env python3
"""Stories of ensembles, told to real processes.

    run.py STORY... [--kinds KIND,...] [--beside KIND] [--rounds N] [--seed S] [--keep] [--size N]

`run.py list` names the stories. `--kinds` are the servers' kinds (ringkeeper, java38, java39), repeated for as
many servers as a story has; `--beside` is measured in the same run. What a machine does not allow is skipped,
named and counted. A failure prints the seed, the violations and the ends of the servers' logs.
"""

import argparse
import asyncio
import random
import sys
import time
import traceback

import story_basic
import story_crash
import story_damage
import story_join
import story_mixed
import story_modes
import story_network
import story_reconfig
import test_check
from ensemble import Missing
from story import Story

STORIES = {
    "checkers": test_check.checkers,
    "basic": story_basic.basic,
    "observer": story_basic.observer,
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
    flags.add_argument("stories", nargs="+")
    flags.add_argument("--kinds", type=lambda text: text.split(","), default=["ringkeeper"])
    flags.add_argument("--beside", help="a kind that is measured in the same run")
    flags.add_argument("--rounds", type=int)
    flags.add_argument("--size", type=int, default=20_000, help="transactions that catch_up is behind by")
    flags.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 20))
    flags.add_argument("--how", action="append", help="kill_leader's ways: kill, term, freeze")
    flags.add_argument("--only", action="append", help="partition's and mixed's cases, by name")
    flags.add_argument("--keep", action="store_true", help="leave the servers' directories")
    return flags.parse_args()


def tell(name, flags):
    """Runs one story; gives (passed, what was skipped)."""
    story = Story(name, flags)
    print(f"── {name} ({', '.join(flags.kinds)}), seed {flags.seed}", flush=True)
    start = time.monotonic()
    try:
        asyncio.run(STORIES[name](story))
    except Missing as missing:
        story.skip(str(missing))
        return True, story.skipped
    except Exception as failure:  # noqa: BLE001 - the other stories are still to be told
        print("".join(traceback.format_tb(failure.__traceback__, limit=-4)), flush=True)
        print(f"FAILED {name} after {time.monotonic() - start:.0f} s, seed {flags.seed}: {failure}", flush=True)
        return False, story.skipped
    print(f"   {name} passed in {time.monotonic() - start:.0f} s", flush=True)
    return True, story.skipped


def main():
    flags = parse()
    if flags.stories == ["list"]:
        for name, function in STORIES.items():
            print(f"{name:22}{(function.__doc__ or '').splitlines()[0]}")
        return 0
    names = list(STORIES) if flags.stories == ["all"] else flags.stories
    unknown = [name for name in names if name not in STORIES]
    if unknown:
        raise SystemExit(f"no such stories: {unknown}")
    told = {name: tell(name, flags) for name in names}
    skipped = [text for _, texts in told.values() for text in texts]
    failed = [name for name, (passed, _) in told.items() if not passed]
    print(f"{len(told) - len(failed)} of {len(told)} stories passed, {len(skipped)} parts skipped")
    for text in skipped:
        print(f"skipped: {text}")
    return f"FAILED: {', '.join(failed)}" if failed else 0


if __name__ == "__main__":
    sys.exit(main())
