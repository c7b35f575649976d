"""Servers of different kinds in one ensemble, and one kind replacing the other."""

import asyncio
import re
import time

import check
import client
from client import CONTAINER, EPHEMERAL, SEQUENTIAL, TTL
from load import Load
from story_crash import verify

# What a Java server's log says of the way in which a learner was brought in step: as its leader, as a learner.
WAYS = {
    "DIFF": re.compile(r"Sending DIFF|Synchronizing with Learner .*|Getting a diff from the leader"),
    "TRUNC": re.compile(r"Sending TRUNC|Truncating log to get in sync with"),
    "SNAP": re.compile(r"Sending snapshot|Getting a snapshot from leader"),
}
# Beyond its memory a Java leader sends a snapshot when it may not read its log for it, else a DIFF from the log.
FROM_SNAPSHOT, FROM_LOG = "-Dzookeeper.snapshotSizeFactor=-1", "-Dzookeeper.snapshotSizeFactor=1"
# Writes that a leader's memory of the last 500 does not reach back over.
BEYOND_MEMORY = 700


async def rolling(story):
    """Three Java servers under load become all ours, and all Java again: nothing lost, no session expired."""
    java = story.flags.beside or "java38"
    ours = story.kinds[0]
    async with story.ensemble(3, [java]) as ensemble:
        gaps = []
        async with Load(ensemble.addresses, story.seed, workers=2, pause=0.003, timeout_ms=20_000) as load:
            await asyncio.sleep(2)
            for kind in (ours, java):
                for node in await in_turn(ensemble):
                    gaps.append(await replaced(story, ensemble, load, node, kind))
                story.say(f"all are {kind}: {len(load.acks)} writes so far, {load.expired()} sessions expired")
                if kind == ours:
                    whole = await calm(2)
            trust_syncs(load, *whole)
            acks, count, compared = await verify(story, load, ensemble)
        story.say(
            f"{acks} acknowledged writes, none lost; {count} nodes equal, {compared} digests; longest gap in "
            f"writes {max(gaps):.2f} s; by step: {', '.join(f'{gap:.2f}' for gap in gaps)} s"
        )


async def calm(seconds):
    """The span of so many seconds from now."""
    start = time.monotonic()
    await asyncio.sleep(seconds)
    return start, time.monotonic()


def trust_syncs(load, start, end):
    """Outside of the span, when Java servers are about, a synced read is held to what a read is held to.

    Apache's leader answers a sync of its own client from its own tree (`CommitProcessor` there matches no syncs),
    which may be behind what a follower has applied and told of.
    """
    for op in load.history:
        if op.kind == "sync_read" and not start <= op.start <= op.end <= end:
            op.kind = "read"


async def in_turn(ensemble):
    """The followers first and the leader last, as one would do it by hand."""
    leader = await ensemble.leader()
    return [*(node for node in ensemble.nodes if node is not leader), leader]


async def replaced(story, ensemble, load, node, kind):
    """One step, its comparison, and the longest gap in writes that it made."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    await ensemble.replace(node, kind)
    await ensemble.wait()
    await asyncio.sleep(1)
    gap = load.gap(start, loop.time())
    await load.hold()
    await allow_fuzz(story, ensemble, node)
    wrong, count = await check.same_trees(ensemble)
    digests, compared = await check.same_digests(ensemble)
    wrong += digests + check.sessions_kept(load.sessions)
    story.check(wrong, f"after {node} took its place")
    load.release()
    story.say(f"{node} took its place: gap {gap:.2f} s; {count} nodes and {compared} digests equal")
    return gap


async def allow_fuzz(story, ensemble, node):
    """Apache's snapshots are taken while the tree changes: a server that a Java leader sends one under load has
    other digests until it is past it. Once it is in step no mismatch may come on top."""
    if (await ensemble.leader()).is_java:
        node.fuzzy_until = await node.zxid()
        node.mismatches_known = await check.mismatches(node)
        node.log_excused = len(node.log_text())
        if node.mismatches_known:
            story.say(f"{node} counted {node.mismatches_known:.0f} mismatches on Apache's fuzzy snapshot")


async def mixed(story):
    """Two of one kind and one of the other: each leads; DIFF, TRUNC and SNAP in both directions; all compared."""
    ours, java = story.kinds[0], story.flags.beside or "java38"
    for kinds, flag in (([java, java, ours], FROM_SNAPSHOT), ([java, ours, ours], FROM_LOG)):
        for leading in dict.fromkeys(kinds):
            name = f"{'+'.join(kinds)}, {leading} leads"
            if story.flags.only and name not in story.flags.only and leading not in story.flags.only:
                continue
            async with story.ensemble(3, kinds, flags=[flag]) as ensemble:
                await one_mix(story, ensemble, leading, name, "SNAP" if flag == FROM_SNAPSHOT else "far behind,")


async def one_mix(story, ensemble, leading, name, far):
    leader = [node for node in ensemble.nodes if node.kind == leading][-1]
    await ensemble.make_lead(leader)
    sessions = [await client.open_session([address], timeout_ms=40_000) for address in ensemble.addresses]
    for index, session in enumerate(sessions):
        await everything(session, f"/mix{index}")
    story.check(await compared(ensemble), f"{name}: writes through each server")
    for ways, step in (("DIFF", missed), (far, missed_much), (far, wiped)):
        for node in ensemble.nodes:
            if await ensemble.leader() is not node:
                await ways_told(story, ensemble, node, f"{name}: {ways} to {node}", step)
    await ensemble.make_lead(leader)
    await ways_told(story, ensemble, leader, f"{name}: TRUNC to {leader}", truncated)
    await ensemble.make_lead(leader)
    await ways_told(story, ensemble, leader, f"{name}: another history to {leader}", overwritten)
    for session in sessions:
        await session.close()
    story.check(await compared(ensemble), f"{name}: at the end")


async def ways_told(story, ensemble, node, name, step):
    """One way of falling behind and coming back; says which ways the Java logs show."""
    marks = {each: len(each.log_text()) for each in ensemble.nodes}
    await step(ensemble, node)
    await ensemble.wait()
    story.check(await compared(ensemble), name)
    told = {
        way
        for each in ensemble.nodes
        for way, pattern in WAYS.items()
        if each.is_java and pattern.search(each.log_text()[marks[each] :])
    }
    story.say(f"{name}: equal; the Java logs tell of {'/'.join(sorted(told)) or 'nothing'}")
    wanted = name.split(": ")[1].split()[0]
    if wanted in WAYS and all(each.is_java for each in ensemble.nodes):
        assert wanted in told, f"{name}: this was no {wanted}, the logs tell of {told}"


async def everything(session, root):
    """Nodes of all sorts that stay, through one session."""
    await session.ensure(root, b"of all sorts")
    for turn in range(20):
        await session.create(f"{root}/n{turn}", bytes(turn * 50))
        await session.create(f"{root}/q-", b"", SEQUENTIAL)
        await session.set(root, str(turn).encode())
    await session.create(f"{root}/e", b"", EPHEMERAL)
    await session.create(f"{root}/c", b"", CONTAINER)
    await session.create(f"{root}/c/child")
    await session.create(f"{root}/t", b"", TTL, ttl=7_200_000)
    await session.multi([
        (client.CREATE, client.create_body(f"{root}/m", b"")),
        (client.SET_DATA, client.set_body(root, b"multi")),
        (client.DELETE, client.delete_body(f"{root}/n0")),
        (client.CREATE, client.create_body(f"{root}/m/", b"", SEQUENTIAL)),
    ])
    try:
        await session.multi([(client.DELETE, client.delete_body(root)), (client.CHECK, client.text("/x") + bytes(4))])
    except client.Refused:
        pass  # It is logged as an error transaction, which has a zxid and a digest too.
    await session.set_acl(f"{root}/n1", client.acl_of((1, "world", "anyone"), (31, "ip", "127.0.0.1")))
    brief = await client.open_session(session.servers, timeout_ms=10_000)
    await brief.create(f"{root}/brief", b"", EPHEMERAL)
    await brief.close()


async def compared(ensemble):
    trees, _ = await check.same_trees(ensemble)
    digests, _ = await check.same_digests(ensemble)
    return trees + digests + check.logs_clean(ensemble)


async def write_some(ensemble, count, tag):
    """Through the leader, many at once; the sessions stay out of it."""
    leader = await ensemble.leader()
    session = await client.open_session([leader.address], timeout_ms=40_000)
    await session.ensure("/some")
    for at in range(0, count, 100):
        await asyncio.gather(*(session.set("/some", f"{tag} {at + k}".encode()) for k in range(min(100, count - at))))
    await session.create(f"/some/{tag}-", b"", SEQUENTIAL)
    await session.close()


async def missed(ensemble, node):
    """A few writes behind: a DIFF from the leader's memory."""
    node.kill()
    await ensemble.wait()
    await write_some(ensemble, 50, "few")
    node.start()
    await ensemble.wait([node])


async def missed_much(ensemble, node):
    """More behind than the leader's memory holds: from the log, or by a snapshot where that may not be."""
    node.kill()
    await ensemble.wait()
    await write_some(ensemble, BEYOND_MEMORY, "many")
    await write_some(ensemble, 1, "last")
    node.start()
    await ensemble.wait([node])


async def wiped(ensemble, node):
    """An empty server: by a snapshot."""
    node.kill()
    await ensemble.wait()
    await write_some(ensemble, BEYOND_MEMORY, "without")
    node.wipe()
    node.start()
    await ensemble.wait([node])


async def truncated(ensemble, leader):
    """A leader logs what nobody else gets, and comes back before anything else was written."""
    await tail_alone(ensemble, leader, has_moved_on=False)


async def overwritten(ensemble, leader):
    """The same, but the others have written something else meanwhile: Apache sends a snapshot then."""
    await tail_alone(ensemble, leader, has_moved_on=True)


async def tail_alone(ensemble, leader, has_moved_on):
    session = await client.open_session([leader.address], timeout_ms=40_000)
    await session.ensure("/cut", b"")
    # The next leader can tell where to cut if it remembers transactions of the same epoch.
    await write_some(ensemble, 20, "before")
    await ensemble.wait_equal()
    others = [node for node in ensemble.nodes if node is not leader]
    for node in others:
        node.freeze()
    tail = [asyncio.ensure_future(session.create(f"/cut/lost{n}")) for n in range(20)]
    await asyncio.sleep(0.7)
    assert not any(task.done() for task in tail), "a write was acknowledged without a quorum"
    # What waits in their sockets dies with them.
    for node in others:
        node.kill()
    leader.kill()
    await asyncio.gather(*tail, return_exceptions=True)
    await session.abandon()
    await ensemble.start(others)
    if has_moved_on:
        await write_some(ensemble, 10, "instead")
    leader.start()
    await ensemble.wait()
    reader = await client.open_session([leader.address], timeout_ms=40_000)
    assert await reader.children("/cut") == [], "writes that were never committed came back"
    await reader.close()
