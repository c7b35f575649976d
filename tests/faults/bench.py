"""Ensembles on disks that fail on command, and what every story about them asks."""

import asyncio
import contextlib
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "cluster"))

import check  # noqa: E402
import client  # noqa: E402
from load import Load  # noqa: E402

import disks  # noqa: E402

# The exit codes of the server (`ringkeeper --help`).
FAULT, DAMAGED, DISK = 1, 5, 6
# A server that has met an error of its disk says so and ends in this time: a tick.
END_SECONDS = 2.0
SYSTEM_ERROR = -1
SEGMENT_4M = "ringkeeper.log.segmentSizeInKb=4096"


def writer(kind):
    return f"ringkeeper.log.writer={kind}"


@contextlib.asynccontextmanager
async def on_disks(story, count=3, make=disks.FaultyDisk, start=True, **named):
    """An ensemble (one server, alone, where `count` is 1), each server on a disk of its own: `node.disk`."""
    made = []
    try:
        async with story.ensemble(count, start=False, **named) as ensemble:
            for node in ensemble.nodes:
                made.append(make())
                node.disk = made[-1]
                node.data = node.disk.path / "data"
                node.directory.mkdir()
            if start:
                await ensemble.start()
            yield ensemble
    finally:
        for disk in made:
            disk.remove()


async def ended(node, seconds=END_SECONDS):
    """The exit code of a server that has to end by itself; its threads may not hang."""
    start = time.monotonic()
    while node.is_running:
        if time.monotonic() - start > seconds:
            raise AssertionError(f"{node} goes on {seconds} s after its disk failed")
        await asyncio.sleep(0.01)
    return node.process.returncode


async def ended_by(node, harm, tries):
    """(exit code, times that its disk failed) of a server that meets `harm`, a failure of its disk, so many times at
    most."""
    for turn in range(1, tries):
        harm(node)
        try:
            return await ended(node), turn
        except AssertionError:
            continue
    harm(node)
    return await ended(node), tries


def insist(condition, text):
    if not condition:
        raise AssertionError(text)


def said(node, *words):
    """The last lines of the server's log that have one of the words."""
    lines = [line for line in node.log_text().splitlines() if any(word in line for word in words)]
    return " | ".join(line[-220:] for line in lines[-2:])


def log_files(node):
    return sorted((node.data / "version-2").glob("ringlog.*[0-9]"))


def log_ranges(node):
    """Where on its device a server's log is; with the segment that is being made, to which it may go next."""
    while True:
        paths = [*log_files(node), *(node.data / "version-2").glob("ringlog.*.new")]
        try:
            return [piece for path in paths for piece in node.disk.ranges_of(path)]
        except FileNotFoundError:
            continue  # It is made, and has its name by now.


def load_of(story, ensemble, root="/load", seed=None, **named):
    named = {"workers": 2, "pause": 0.002, "timeout_ms": 30_000, **named}
    return Load(ensemble.addresses, story.seed if seed is None else seed, root=root, **named)


async def verify(story, load, ensemble, what, may_expire=False):
    """Everything that was told holds on every running server, and they are equal. The acknowledged writes."""
    await load.stop()
    await asyncio.sleep(0.3)
    wrong = await load.verify(ensemble, may_expire)
    if len(ensemble.nodes) > 1:
        wrong += (await check.same_trees(ensemble))[0] + (await check.same_digests(ensemble))[0]
    wrong += check.logs_clean(ensemble)
    story.check(wrong, f"{what}, seed {story.seed}")
    return len(load.acks)


async def acked_again(load, since, addresses=None, seconds=60):
    """Until a client of every one of `addresses` (default: of any server) has a write acknowledged since then.

    Clients that are not pinned stay with the servers that they have fled to."""
    end = time.monotonic() + seconds
    wanted = set(addresses or ())
    while True:
        found = {s.servers[s.at % len(s.servers)] for s in (load.sessions[i] for at, i in load.acks if at > since)}
        if found and wanted <= found:
            return time.monotonic() - since
        if time.monotonic() > end:
            raise AssertionError(f"{seconds} s later only {found} of {wanted} acknowledge writes")
        await asyncio.sleep(0.02)


def percentile(values, part):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else float("nan")


async def pace(addresses, seconds, path, width=4):
    """Sets at the given servers, `width` at a time each, and how long each took, in seconds."""
    sessions = [await client.open_session([it], timeout_ms=30_000) for it in addresses for _ in range(width)]
    await sessions[0].ensure(path)
    took, end = [], time.monotonic() + seconds

    async def one(session):
        await session.sync("/")
        while time.monotonic() < end:
            begun = time.monotonic()
            await session.set(path, b"x" * 100)
            took.append(time.monotonic() - begun)

    await asyncio.gather(*(one(session) for session in sessions))
    await asyncio.gather(*(session.close() for session in sessions))
    return took
