"""One server's disk is damaged or wiped while another is stale: the two must not forget what was committed."""

import asyncio
import random
import time

import check
import client

# Java needs its election, ours may find out at once that it must not: this long nothing may be served.
WATCH_SECONDS = 12


async def damaged(story):
    """A flipped byte in one server's log, or a wiped server, beside a stale one: no committed write forgotten."""
    forgotten = []
    for name, harm in (("flipped byte", flip), ("wiped", wipe)):
        if story.flags.only and name not in story.flags.only:
            continue
        async with story.ensemble(3) as ensemble:
            wrong = await one_damage(ensemble, harm, random.Random(story.seed))
            story.say(f"{name} beside a stale server: {wrong or 'nothing forgotten'}")
            if not wrong:
                story.check((await check.same_trees(ensemble))[0], name)
            forgotten += [f"{name}: {text}" for text in wrong]
    story.check(story.excuse(forgotten, lambda text: True), "damage")


async def one_damage(ensemble, harm, chooser):
    """What was forgotten, as texts."""
    whole, hurt, stale = ensemble.nodes
    session = await client.open_session(ensemble.addresses[:2], timeout_ms=40_000)
    await session.ensure("/kept")
    await ensemble.wait_equal()
    stale.kill()
    await ensemble.wait()
    paths = [f"/kept/marker-{number:04}-" for number in range(100)]
    for at in range(0, 100, 10):
        # In groups, so that the log has many batches.
        await asyncio.gather(*(session.create(path, path.encode()) for path in paths[at : at + 10]))
    await session.close()
    for node in (whole, hurt):
        await node.stop()
    harm(hurt, chooser)
    for node in (hurt, stale):
        node.start()
    wrong = await served_without(ensemble, [hurt, stale], paths)
    whole.start()
    await wait_all(ensemble)
    return wrong + [text for node in ensemble.running for text in await lost(node, paths)]


async def served_without(ensemble, nodes, paths):
    """Whether the two serve and do not know of acknowledged writes."""
    end = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < end:
        for node in nodes:
            if await node.mode():
                return [f"served by {nodes} alone: {text}" for text in await lost(node, paths)]
        await asyncio.sleep(0.1)
    return []


async def wait_all(ensemble):
    """A server may end itself for good (a Java one does when it is told to forget); the rest must serve."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        modes = [await node.mode() for node in ensemble.running]
        if len(modes) >= 2 and None not in modes and "leader" in modes:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{ensemble.running} do not serve again")


async def lost(node, paths):
    session = await client.open_session([node.address], timeout_ms=40_000)
    await session.sync("/")
    names = set(await session.children("/kept"))
    await session.close()
    missing = [path for path in paths if path.rsplit("/", 1)[1] not in names]
    return [f"{node} lacks {len(missing)} of {len(paths)} acknowledged nodes"] if missing else []


def flip(node, chooser):
    """One bit of the record of an acknowledged node, in the middle of the log; of a Java server's log the record's
    end mark, at which that server takes the log for ended."""
    marker = b"/kept/marker-0050-"
    for path in sorted(node.data.rglob("*")):
        if not path.is_file() or "snapshot" in path.name:
            continue
        content = bytearray(path.read_bytes())
        at = content.find(marker)
        if at >= 0:
            at = java_record_end(content, at) if node.is_java else at + chooser.randrange(-30, 30)
            content[at] ^= 1 << chooser.randrange(8)
            path.write_bytes(content)
            return
    raise AssertionError(f"no log of {node} holds the marker")


def java_record_end(content, inside):
    """Where the record that spans `inside` has its end mark: checksum, length, bytes, mark each."""
    at = 16
    while at < inside:
        start, at = at, at + 12 + int.from_bytes(content[at + 8 : at + 12], "big")
        if start < inside < at:
            return at
        at += 1
    raise AssertionError("the log's records do not line up")


def wipe(node, chooser):  # noqa: ARG001 - as `flip`
    node.wipe()
