"""Observers that followers serve (observerMasterPort)."""

import asyncio
import time

import client
from client import EPHEMERAL
from ensemble import free_port
from load import Load
from story_crash import verify
from story_modes import until

SESSION_MS = 20_000


async def observer_masters(story):
    """An observer at a follower, which is killed under load, as is the leader; wiped itself: with Apache's, both ways."""
    for voters, observer in pairs(story.kinds + [story.flags.beside] * bool(story.flags.beside)):
        kinds = [voters] * 3 + [observer]
        settings = [f"observerMasterPort={free_port()}"]
        async with story.ensemble(4, kinds, observers=1, own_hosts=True, settings=settings) as ensemble:
            await told(story, ensemble, f"{observer} observing {voters}")


def pairs(kinds):
    """(the voters' kind, the observer's): ours alone, and with each of the others on either side."""
    ours, *others = kinds
    return [(ours, ours)] + [pair for other in others for pair in ((ours, other), (other, ours))]


async def told(story, ensemble, name):
    observer = ensemble.nodes[-1]
    first = await served_by(ensemble)
    sessions = [observer.address], [node.address for node in ensemble.voters]
    async with (
        Load(sessions[0], story.seed, workers=3, pause=0.003, timeout_ms=SESSION_MS, root="/o") as load,
        Load(sessions[1], story.seed, workers=1, pause=0.003, timeout_ms=SESSION_MS, root="/v") as other,
    ):
        await asyncio.sleep(1)
        waits = []
        for who in ("master", "leader"):
            leader, master = await ensemble.leader(), await served_by(ensemble)
            lost = master if who == "master" else leader
            waits.append(await until_moved_on(ensemble, load, lost))
            lost.start()
            await ensemble.wait()
            await asyncio.sleep(1)
        waits.append(await until_back(ensemble, load))
        await watched_and_owned(ensemble)
        await other.hold()
        await load.hold()
        await other.stop()
        acks, count, compared = await verify(story, load, ensemble)
        story.check(await other.verify(ensemble), f"{name}: the voters' clients")
    story.say(
        f"{name} (first at {first}): {acks} acknowledged writes through it, {count} nodes equal, {compared} digests "
        f"compared; no write for {waits[0]:.2f} s when its follower was killed, for {waits[1]:.2f} s when the leader was, for "
        f"{waits[2]:.2f} s when it was killed itself and came back with nothing"
    )


async def served_by(ensemble):
    """The follower that the observer is at: both ends say so, and the leader has no observer."""
    observer = ensemble.nodes[-1]
    found = []

    async def is_agreed():
        named = (await observer.metrics()).get("zk_observer_master_id")
        if named is None or int(named) < 1:
            return False
        leader = await ensemble.leader()
        counts = {node: (await node.metrics()).get("zk_synced_observers") for node in ensemble.voters}
        master = ensemble.nodes[int(named) - 1]
        found[:] = [master, counts]
        return master is not leader and counts[master] == "1" and counts[leader] == "0"

    try:
        await until("a follower serves the observer", is_agreed)
    except AssertionError as late:
        raise AssertionError(f"{late}: {found}") from None
    return found[0]


async def until_moved_on(ensemble, load, lost):
    """Kills a server; gives the seconds until a write goes through the observer again."""
    await asyncio.sleep(0.2)
    moment = time.monotonic()
    lost.kill()
    await until_written(load, moment)
    assert await served_by(ensemble) is not lost
    return load.gap(moment, time.monotonic())


async def until_back(ensemble, load):
    """Wipes the observer, to which a follower has to send its state under load; gives the seconds as above."""
    observer = ensemble.nodes[-1]
    moment = time.monotonic()
    observer.kill()
    observer.wipe()
    observer.start()
    await until_written(load, moment)
    await served_by(ensemble)
    return load.gap(moment, time.monotonic())


async def until_written(load, moment):
    async def has_written():
        # What the lost server had done is answered later than it is killed.
        return load.acks and load.acks[-1][0] > moment + 0.2

    await until("a write goes through the observer", has_written, 60)


async def watched_and_owned(ensemble):
    """A watch at the observer tells of another server's write; its ephemeral is seen, and gone with its session."""
    observer, voter = ensemble.nodes[-1], ensemble.nodes[0]
    events = asyncio.Queue()
    ours = client.Session(
        [observer.address], SESSION_MS, on_event=lambda kind, path: events.put_nowait(path), name="watching"
    )
    await ours.start()
    writer = await client.open_session([voter.address])
    await writer.ensure("/watched")
    await ours.sync("/")
    await ours.get("/watched", watch=True)
    await writer.set("/watched", b"changed")
    assert await asyncio.wait_for(events.get(), 10) == "/watched"
    assert (await ours.get("/watched"))[0] == b"changed"
    await ours.create("/watched/mine", b"", EPHEMERAL)
    await writer.sync("/")
    assert (await writer.exists("/watched/mine")).owner == ours.id
    await ours.close()
    await writer.sync("/")
    assert await writer.exists("/watched/mine") is None
    await writer.close()
