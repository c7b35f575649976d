#!/usr/bin/env python3
"""Stories of faults, told to real processes on real file systems.

    run.py STORY... [--rounds N] [--seed S] [--keep] [--kinds KIND] [--only CASE]

`run.py list` names them; `run.py all` tells all of them. A story whose means this machine does not have (root,
FUSE, loop devices, namespaces, control groups, libfaketime) is named, counted, and fails the run.
"""

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "cluster"))

import apart  # noqa: E402
import story_disk  # noqa: E402
import story_files  # noqa: E402
import story_full  # noqa: E402
import story_host  # noqa: E402
import story_hostile  # noqa: E402
import story_links  # noqa: E402
from story import add_flags, chosen, tell  # noqa: E402

STORIES = {
    "errors_alone": story_disk.errors_alone,
    "errors": story_disk.errors,
    "latent": story_disk.latent,
    "slow": story_disk.slow,
    "power": story_disk.power,
    "power_alone": story_disk.power_alone,
    "full_alone": story_full.full_alone,
    "full_leader": story_full.full_leader,
    "full_follower": story_full.full_follower,
    "full_all": story_full.full_all,
    "full_snapshots": story_full.full_snapshots,
    "thin": story_full.thin,
    "files_alone": story_files.files_alone,
    "files": story_files.files,
    "rollback": story_files.rollback,
    "gone": story_host.gone,
    "descriptors": story_host.descriptors,
    "memory": story_host.memory,
    "frozen": story_host.frozen,
    "ephemerals": story_host.ephemerals,
    "recovering": story_host.recovering,
    "rolling_fast": story_host.rolling_fast,
    "suspended": story_host.suspended,
    "clock": story_host.clock,
    "slow_links": story_links.slow_links,
    "flapping": story_links.flapping,
    "half_open": story_links.half_open,
    "hostile": story_hostile.hostile,
}


def parse():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_flags(flags)
    flags.add_argument("--only", action="append", help="these cases of a story, by name")
    return flags.parse_args()


def main():
    flags = parse()
    names = chosen(STORIES, flags, 20)
    if names is None:
        return 0
    told = {}
    for name in names:
        skipped, how = tell(name, STORIES[name], flags)
        told[name] = "; ".join(skipped) or how if how == "passed" else how
    wrong = {name: how for name, how in told.items() if how != "passed"}
    print(f"{len(told) - len(wrong)} of {len(told)} stories of faults passed")
    for name, how in wrong.items():
        print(f"{name}: {how}")
    return 1 if wrong else 0


if __name__ == "__main__":
    apart.leave(main())
