"""Networks that let a part of the packets through, and leaders that do not know that they are deposed."""

import asyncio
import random
import time

import client
from load import Load
from story import spread
from story_crash import verify

# A leader that hears no quorum has to give up within syncLimit ticks; one tick and a JVM's mood on top.
SYNC_SECONDS = 5 * 2.0


async def partition(story):
    """Leaders cut off wholly, from one server, or in one direction; then healed. The history is linearizable."""
    chooser = random.Random(story.seed)
    cases = [name for name in CASES if not story.flags.only or name in story.flags.only]
    async with story.ensemble(3, with_network=True) as ensemble:
        for name in cases * story.rounds(1):
            await one_partition(story, ensemble, name, chooser)


async def one_partition(story, ensemble, name, chooser):
    network = ensemble.network
    leader = await ensemble.leader()
    others = [node for node in ensemble.nodes if node is not leader]
    chooser.shuffle(others)
    load = Load(
        ensemble.addresses,
        chooser.random(),
        workers=2,
        pause=0.004,
        pinned=True,
        timeout_ms=30_000,
        root=f"/p{chooser.randrange(1 << 30)}",
    )
    async with load:
        await asyncio.sleep(1)
        moment = time.monotonic()
        CASES[name](network, leader.number, [node.number for node in others])
        await asyncio.sleep(chooser.choice((3, SYNC_SECONDS + 6)))
        gap = load.gap(moment, time.monotonic())
        after = [at for at, index in load.acks if at > moment + SYNC_SECONDS + 4 and at_server(load, index, leader)]
        network.heal()
        healed = time.monotonic()
        await ensemble.wait(ensemble.nodes)
        await wait_for_acks(load, healed)
        back = time.monotonic() - healed
        await load.hold()
        acks, _, _ = await verify(story, load, ensemble)
    if name == "isolated" and after:
        raise AssertionError(f"an isolated leader acknowledged {len(after)} writes after it must have given up")
    story.say(f"{name}: {acks} writes, longest gap {gap:.2f} s, all served {back:.2f} s after it was healed")


def at_server(load, index, node):
    return load.sessions[index].servers[0] == node.address


async def wait_for_acks(load, since, seconds=60):
    """Until every server's clients have had a write acknowledged since then."""
    end = time.monotonic() + seconds
    while True:
        servers = {load.sessions[index].servers[0] for at, index in load.acks if at > since}
        if len(servers) == len(load.addresses):
            return
        if time.monotonic() > end:
            raise AssertionError(f"{seconds} s after the network was healed only {servers} acknowledge writes")
        await asyncio.sleep(0.05)


def isolate(network, leader, others):
    network.split([leader], others)


def cut_one(network, leader, others):
    network.split([leader], others[:1])


def deaf(network, leader, others):
    """The leader is heard and hears nobody."""
    for other in others:
        network.cut(other, leader)


def mute(network, leader, others):
    """The leader hears all and nobody hears it."""
    for other in others:
        network.cut(leader, other)


def followers_apart(network, leader, others):
    network.split(others[:1], others[1:])


CASES = {
    "isolated": isolate,
    "one follower cut off": cut_one,
    "deaf leader": deaf,
    "mute leader": mute,
    "followers apart": followers_apart,
}


async def sync_is_linearizable(story):
    """A leader is frozen, replaced and thawed: what its client asks with a sync must not be stale."""
    stale, gaps, rounds = 0, [], story.rounds(3)
    async with story.ensemble(3) as ensemble:
        for number in range(rounds):
            is_stale, gap = await thawed(ensemble, f"/thawed{number}")
            stale += is_stale
            gaps.append(gap)
    story.say(f"{stale} of {rounds} reads after a sync were stale; a frozen leader was replaced in {spread(gaps, 's', 1)}")
    if stale and not story.has_java:
        raise AssertionError(f"{stale} of {rounds} reads after a sync at a thawed leader were stale")


async def thawed(ensemble, path):
    """(whether the old leader answered with what had been overwritten, seconds until there was a new one)."""
    await ensemble.wait()
    old = await ensemble.leader()
    others = [node for node in ensemble.nodes if node is not old]
    reader = await client.open_session([old.address], timeout_ms=40_000, name="reader")
    await reader.create(path, b"old")
    link = reader.link
    old.freeze()
    frozen = time.monotonic()
    await ensemble.leader(among=others)
    gap = time.monotonic() - frozen
    writer = await client.open_session([node.address for node in others], timeout_ms=40_000, name="writer")
    await writer.set(path, b"new")
    # Both requests wait in the frozen server's socket, and were made after the write was acknowledged.
    sync = link.send(1 << 20, client.SYNC, client.text(path))
    read = link.send((1 << 20) + 1, client.GET_DATA, client.text(path) + b"\0")
    await asyncio.sleep(0.05)
    old.thaw()
    data = await answer(sync, read)
    await reader.abandon()
    await writer.close()
    await ensemble.wait()
    await ensemble.wait_equal()
    return data == b"old", gap


async def answer(sync, read):
    """The read's bytes when both were answered; None when the connection was lost, which is honest."""
    try:
        await asyncio.wait_for(sync, 30)
        _, body = await asyncio.wait_for(read, 30)
        return client.read_buffer(body)[0]
    except (client.Lost, client.Refused):
        return None
