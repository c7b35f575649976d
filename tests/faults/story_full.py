"""Volumes without room: under the log, under the snapshots, and below a file system that thinks it has some."""

import asyncio
import contextlib
import time

import client
from bench import (
    DISK, SEGMENT_4M, SYSTEM_ERROR, acked_again, ended, insist, load_of, on_disks, said, verify, writer,
)
from disks import FaultyDisk, SmallDisk

WRITERS = ("direct", "mmap")


async def push(addresses, path, size=100_000, tries=400, until=SYSTEM_ERROR):
    """Writes of `size` bytes until one is refused with `until`; (how many were done, seconds of the longest)."""
    session = await client.open_session(addresses, timeout_ms=30_000)
    done, longest = 0, 0
    try:
        await session.ensure(path)
        for number in range(tries):
            begun = time.monotonic()
            try:
                await asyncio.wait_for(session.set(path, number.to_bytes(4, "big") * (size // 4)), 20)
                done += 1
            except client.Refused as refused:
                insist(refused.code == until, f"{path} was refused with {refused.code}")
                return done, longest
            longest = max(longest, time.monotonic() - begun)
        return done, longest
    finally:
        await session.close()


async def full_alone(story):
    """One server, no room for its log: writes are refused, the rest goes on, and writes come back with room."""
    for kind in WRITERS:
        async with on_disks(
            story, 1, make=lambda: SmallDisk(48), settings=[writer(kind), SEGMENT_4M]
        ) as ensemble:
            node = ensemble.nodes[0]
            load = load_of(story, ensemble)
            load.spared.add(SYSTEM_ERROR)
            async with load:
                await asyncio.sleep(0.3)
                for _ in range(2):
                    node.disk.fill()
                    await push(ensemble.addresses, "/full")
                    quiet = await client.open_session(ensemble.addresses, timeout_ms=30_000)
                    await quiet.get("/full")
                    await quiet.close()
                    node.disk.make_room()
                    moment = time.monotonic()
                    back = await acked_again(load, moment)
                await load.hold()
                acks = await verify(story, load, ensemble, kind)
            words = said(node, "space")
        story.say(f"{kind}: {acks} writes kept, {back:.2f} s from room to writes; {words}")


async def full_leader(story):
    """The leader's log has no room: another one leads, its clients write on, and sessions live."""
    await full_member(story, "leader")


async def full_follower(story):
    """A follower's log has no room: the others go on with bounded memory, and it is back with room."""
    await full_member(story, "follower")


async def full_member(story, place):
    for kind in WRITERS:
        # Room for a full disk's worth of log on the others.
        async with on_disks(
            story, make=lambda: SmallDisk(400), settings=[writer(kind), SEGMENT_4M, "snapCount=100000"]
        ) as ensemble:
            leader = await ensemble.leader()
            victim = leader if place == "leader" else (await ensemble.followers())[0]
            rest = [node for node in ensemble.nodes if node is not victim]
            load = load_of(story, ensemble, pause=0.005)
            load.spared.add(SYSTEM_ERROR)
            async with load:
                await asyncio.sleep(0.5)
                victim.disk.fill()
                moment = time.monotonic()
                # More than a member may hold in memory for its disk.
                done, longest = await push([node.address for node in rest], "/push", tries=1500, until=None)
                after = time.monotonic()
                gap = load.gap(moment, after)
                leads = await victim.mode() if victim.is_running else f"ended {victim.process.returncode}"
                memory = rss(victim)
                insist(memory < 250, f"it holds {memory} MiB for a disk without room")
                insist(victim.is_running, f"it has ended: {victim.log_tail(3)}")
                await acked_again(load, after, [node.address for node in rest], seconds=10)
                victim.disk.make_room()
                if not victim.is_running:
                    await ensemble.start()
                moment = time.monotonic()
                back = await acked_again(load, moment)
                await ensemble.wait_equal()
                await load.hold()
                acks = await verify(story, load, ensemble, f"{kind}, {place}")
            words = said(victim, "space")
        story.say(
            f"{kind}: {done} large writes meanwhile (longest {longest:.2f} s), longest gap {gap:.2f} s, "
            f"it is {leads} then with {memory} MiB, {back:.2f} s from room to writes; {acks} writes kept; "
            f"{words}"
        )


async def full_all(story):
    """No server has room: writes are refused or wait, reads and sessions go on, and writes come back with room."""
    settings = [SEGMENT_4M, "snapCount=100000", "tickTime=1000"]
    async with on_disks(story, make=lambda: SmallDisk(64), settings=settings) as ensemble:
        load = load_of(story, ensemble, pause=0.005, timeout_ms=6000)
        load.spared.add(SYSTEM_ERROR)
        async with load:
            await asyncio.sleep(0.5)
            # From before: a follower's log may be out of room for a session too.
            quiet = [await client.open_session([it], timeout_ms=4000) for it in ensemble.addresses]
            writing = await client.open_session(ensemble.addresses, timeout_ms=8000)
            await writing.ensure("/push")
            for node in ensemble.nodes:
                node.disk.fill()
            done = 0
            # Who leads stands back once; a client of a follower waits while nobody has room.
            with contextlib.suppress(client.Lost, client.NotSent, asyncio.TimeoutError):
                done, _ = await push([(await ensemble.leader()).address], "/push")
            refused, waited, read, end = 0, 0, 0, time.monotonic() + 8
            while time.monotonic() < end:
                for session in quiet:
                    # A read behind a write of the same session would wait for it.
                    with contextlib.suppress(client.Lost, client.NotSent):
                        read += (await session.get("/push"))[1].version >= 0
                with contextlib.suppress(client.Lost, client.NotSent, asyncio.TimeoutError):
                    try:
                        await asyncio.wait_for(writing.set("/push", b"x"), 0.2)
                    except client.Refused as error:
                        refused += error.code == SYSTEM_ERROR
                    except asyncio.TimeoutError:
                        waited += 1
                await asyncio.sleep(0.05)
            insist(all(node.is_running for node in ensemble.nodes), "a server has ended")
            insist(refused + waited, "writes are taken without room")
            kept = sum(not session.is_over for session in quiet)
            insist(kept == 3 and not load.expired(), "sessions have expired")
            for node in ensemble.nodes:
                node.disk.make_room()
            back = await acked_again(load, time.monotonic())
            await asyncio.gather(*(session.close() for session in [*quiet, writing]))
            await load.hold()
            acks = await verify(story, load, ensemble, "no room anywhere")
    story.say(
        f"{done} large writes until there was no room, {refused} refused, {waited} waited, and {read} reads then, "
        f"no session lost, "
        f"{back:.2f} s from room to writes; {acks} writes kept"
    )


def rss(node):
    if not node.is_running:
        return 0
    with open(f"/proc/{node.process.pid}/status") as status:
        return next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmRSS"))


async def full_snapshots(story):
    """No room for snapshots, the log on a volume of its own: everything goes on, and later ones are taken."""
    disk = SmallDisk(64)
    try:
        async with story.ensemble(1, start=False, settings=[SEGMENT_4M, "snapCount=500"]) as ensemble:
            node = ensemble.nodes[0]
            node.directory.mkdir()
            node.data = disk.path / "data"
            node.settings = [f"dataLogDir={node.directory / 'log-volume'}"]
            await ensemble.start()
            load = load_of(story, ensemble, pause=0)
            load.spared.add(SYSTEM_ERROR)
            async with load:
                await asyncio.sleep(0.5)
                disk.fill()
                await asyncio.sleep(1.5)
                refused = node.log_text().count("no snapshot")
                insist(refused, f"a snapshot was taken without room: {node.log_tail(5)}")
                disk.make_room()
                taken = node.log_text().count("snapshot of zxid")
                end = time.monotonic() + 20
                while node.log_text().count("snapshot of zxid") == taken:
                    insist(time.monotonic() < end, "no snapshot is taken although there is room")
                    await asyncio.sleep(0.05)
                node.kill()
                await ensemble.start()
                await asyncio.sleep(0.3)
                await load.hold()
                acks = await verify(story, load, ensemble, "full under the snapshots")
            story.say(f"{refused} snapshots had no room, {acks} writes kept; {said(node, 'no snapshot')}")
    finally:
        disk.remove()


async def thin(story):
    """The device has less room than the file system thinks: what was allocated fails later, as an error."""
    for kind in WRITERS:
        async with on_disks(story, 1, make=FaultyDisk, settings=[writer(kind), SEGMENT_4M]) as ensemble:
            node = ensemble.nodes[0]
            load = load_of(story, ensemble, pause=0)
            load.spared.add(SYSTEM_ERROR)
            async with load:
                await asyncio.sleep(0.3)
                node.disk.tell("thin", room=6 << 20)
                outcome = "went on"
                with contextlib.suppress(AssertionError):
                    outcome = await ended(node, 15)
                insist(outcome in (DISK, "went on"), f"{kind}: ended with {outcome}: {node.log_tail(5)}")
                words = node.log_tail(1)[-200:]
                node.kill()
                node.disk.cut()
                node.disk.power_on(story.seed, keeps=0.5)
                await ensemble.start()
                acks = await verify(story, load, ensemble, f"{kind} over a thin device")
        story.say(f"{kind}: {outcome}, {acks} writes kept; {words}")
