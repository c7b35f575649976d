"""What a host does to a server: takes its directory, its descriptors, its memory, its time, or the right to run."""

import asyncio
import glob
import os
import pathlib
import random
import resource
import shutil
import time

import client
from bench import (
    DISK, SEGMENT_4M, SYSTEM_ERROR, acked_again, ended, insist, load_of, on_disks, verify,
)
from disks import SmallDisk
from ensemble import Missing

CGROUP = pathlib.Path("/sys/fs/cgroup")


async def gone(story):
    """Under load the volume becomes read-only, or shuts down, or the log's directory goes: a clear end."""
    for name in ("read-only", "shut down", "directory removed"):
        async with on_disks(story, 1, make=lambda: SmallDisk(200), settings=[SEGMENT_4M]) as ensemble:
            node = ensemble.nodes[0]
            load = load_of(story, ensemble, pause=0, timeout_ms=60_000)
            async with load:
                await asyncio.sleep(0.4)
                match name:
                    case "read-only" | "shut down":
                        (node.disk.make_read_only if name == "read-only" else node.disk.shut_down)()
                    case _:
                        kept = len(load.acks)
                        await removed(node.data / "version-2")
                try:
                    code = await ended(node, 10)
                except AssertionError:
                    code = None
                words = node.log_tail(1)[-200:]
                insist(code == DISK, f"{name}: {code}: {node.log_tail(4)}")
                if name == "directory removed":
                    story.say(f"{name}: ended with {code}, {len(load.acks) - kept} acks after; {words}")
                    continue
                node.disk.mount_again()
                await ensemble.start()
                acks = await verify(story, load, ensemble, name)
            story.say(f"{name}: ended with {code}, {acks} writes kept; {words}")


async def removed(directory):
    """Removes it, although files are made and renamed there meanwhile."""
    end = time.monotonic() + 5
    while directory.exists():
        insist(time.monotonic() < end, f"{directory} cannot be removed")
        shutil.rmtree(directory, ignore_errors=True)
        await asyncio.sleep(0)


async def descriptors(story):
    """No descriptor is left for the next segment, and for new clients: clear words, and it goes on afterwards."""
    async with story.ensemble(1, settings=[SEGMENT_4M, "snapCount=1000"]) as ensemble:
        node = ensemble.nodes[0]
        load = load_of(story, ensemble, pause=0, timeout_ms=60_000)
        load.spared.add(SYSTEM_ERROR)
        async with load:
            await asyncio.sleep(0.4)
            pid = node.process.pid
            before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")), before[1]))
            cpu = ensemble.cpu_seconds()
            await asyncio.sleep(4)
            outcome = "went on" if node.is_running else f"ended with {node.process.returncode}"
            words = node.log_tail(1)[-220:]
            if node.is_running:
                outcome += f", {(ensemble.cpu_seconds() - cpu) / 4:.0%} of a CPU"
                resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
            else:
                insist(node.process.returncode in (DISK, 4), f"{outcome}: {node.log_tail(4)}")
                await ensemble.start()
            await acked_again(load, time.monotonic(), seconds=20)
            await load.hold()
            acks = await verify(story, load, ensemble, "descriptors")
        story.say(f"{outcome}; {acks} writes kept; {words}")


class MemoryLimit:
    """A control group of its own."""

    def __init__(self, mebibytes):
        for base, file in ((CGROUP / "memory", "memory.limit_in_bytes"), (CGROUP, "memory.max")):
            directory = base / f"faults-{os.getpid()}"
            try:
                directory.mkdir(exist_ok=True)
                (directory / file).write_text(str(mebibytes << 20))
            except OSError:
                continue
            self.directory = directory
            return
        raise Missing("no control group with a limit on memory can be made")

    def add(self, pid):
        (self.directory / "cgroup.procs").write_text(str(pid))

    def remove(self):
        try:
            self.directory.rmdir()
        except OSError:
            pass


async def memory(story):
    """A server's control group runs out of memory under load: killed, it comes back and has lost nothing."""
    limit = MemoryLimit(120)
    try:
        async with story.ensemble(3, settings=[SEGMENT_4M]) as ensemble:
            node = (await ensemble.followers())[0]
            limit.add(node.process.pid)
            load = load_of(story, ensemble, pause=0.002, timeout_ms=40_000)
            async with load:
                await asyncio.sleep(0.3)
                leader = await ensemble.leader()
                session = await client.open_session([leader.address], timeout_ms=40_000)
                await session.ensure("/big")
                end, count = time.monotonic() + 40, 0
                while node.is_running and time.monotonic() < end:
                    made = (session.create(f"/big/{count + i}", b"x" * 500_000) for i in range(8))
                    await asyncio.gather(*made)
                    count += 8
                    if count > 800:
                        break
                outcome = f"ended with {node.process.poll()}"
                insist(outcome == "ended with -9", f"the limit did not bite: {outcome}")
                for number in range(count):
                    await session.delete(f"/big/{number}")
                await session.close()
                node.kill()
                await ensemble.start()
                await ensemble.wait_equal()
                await load.hold()
                acks = await verify(story, load, ensemble, "out of memory")
        story.say(f"after {count} znodes of 500 kB it {outcome}; {acks} writes kept")
    finally:
        limit.remove()


async def frozen(story):
    """SIGSTOP of the leader, then of a follower, for longer than its clients' session timeouts."""
    async with story.ensemble(3, settings=["tickTime=500"]) as ensemble:
        for place in ("leader", "follower"):
            leader = await ensemble.leader()
            node = leader if place == "leader" else (await ensemble.followers())[0]
            rest = [it.address for it in ensemble.nodes if it is not node]
            load = load_of(story, ensemble, root=f"/f{place}", pause=0.003, timeout_ms=20_000)
            short = await client.open_session([node.address], timeout_ms=2000, name="short")
            await short.create(f"/short-{place}", b"", client.EPHEMERAL)
            async with load:
                await asyncio.sleep(0.5)
                node.freeze()
                moment = time.monotonic()
                await asyncio.sleep(6)
                await acked_again(load, moment, rest)
                gap = load.gap(moment, time.monotonic())
                # The others have ended the session: its node must be gone wherever one asks after a sync.
                other = await client.open_session(rest, timeout_ms=10_000)
                await other.sync("/")
                left = await other.exists(f"/short-{place}")
                node.thaw()
                await ensemble.wait()
                await ensemble.wait_equal()
                insist(left is None, f"the node of a session outlives its timeout with a frozen {place}")
                await other.close()
                await load.hold()
                acks = await verify(story, load, ensemble, f"frozen {place}")
            await short.abandon()
            story.say(f"{place} frozen for 6 s: longest gap {gap:.2f} s, {acks} writes kept")


async def ephemerals(story):
    """A session with very many ephemeral nodes ends: all of them go, the others' writes go on."""
    count = 40_000
    async with story.ensemble(3) as ensemble:
        owner = await client.open_session(ensemble.addresses, timeout_ms=40_000)
        await owner.ensure("/many")
        for base in range(0, count, 500):
            names = (f"/many/{'n' * 60}-{base + i}" for i in range(500))
            await asyncio.gather(*(owner.create(name, b"", client.EPHEMERAL) for name in names))
        load = load_of(story, ensemble, pause=0.002)
        async with load:
            await asyncio.sleep(0.5)
            begun = time.monotonic()
            await owner.close()
            took = time.monotonic() - begun
            await asyncio.sleep(0.5)
            gap = load.gap(begun, time.monotonic())
            await load.hold()
            reader = await client.open_session(ensemble.addresses, timeout_ms=20_000)
            await reader.sync("/")
            left = await reader.children("/many")
            await reader.close()
            insist(not left, f"{len(left)} ephemeral nodes are left")
            await verify(story, load, ensemble, "ephemerals")
            for node in ensemble.nodes:
                node.kill()
            await ensemble.start()
            await load.hold()
    story.say(f"{count} ephemeral nodes closed in {took:.2f} s; longest gap of the others' writes {gap:.2f} s")


async def recovering(story):
    """One server is killed again and again while it starts, catches up, or is sent a snapshot."""
    chooser = random.Random(story.seed)
    settings = [SEGMENT_4M, "snapCount=1500", "ringkeeper.log.segmentSizeInKb=1024"]
    async with story.ensemble(3, settings=settings) as ensemble:
        load = load_of(story, ensemble, pause=0.002, timeout_ms=40_000)
        session = await client.open_session(ensemble.addresses, timeout_ms=40_000)
        await session.ensure("/fat")
        for base in range(0, 3000, 100):
            await asyncio.gather(*(session.create(f"/fat/{base + i}", b"x" * 8000) for i in range(100)))
        await session.close()
        async with load:
            kills = 0
            for number in range(story.rounds(8)):
                node = chooser.choice(ensemble.nodes)
                node.kill()
                if number % 2:
                    node.wipe()
                await ensemble.wait()
                for _ in range(6):
                    node.start()
                    await asyncio.sleep(chooser.random() * chooser.choice((0.05, 0.4)))
                    node.kill()
                    kills += 1
                node.start()
                await ensemble.wait()
            await ensemble.wait_equal()
            await load.hold()
            acks = await verify(story, load, ensemble, "killed while it recovers")
    story.say(f"{kills} kills of recovering servers, half of them wiped; {acks} writes kept")


async def rolling_fast(story):
    """All servers restarted one after the other, as fast as they serve again, under load, in many rounds."""
    chooser = random.Random(story.seed)
    async with story.ensemble(3, settings=[SEGMENT_4M, "snapCount=1000"]) as ensemble:
        load = load_of(story, ensemble, pause=0.002, timeout_ms=30_000)
        async with load:
            begun = time.monotonic()
            for _ in range(story.rounds(8)):
                for node in chooser.sample(ensemble.nodes, 3):
                    await node.stop() if chooser.random() < 0.6 else node.kill()
                    node.start()
                    await ensemble.wait()
            gap = load.gap(begun, time.monotonic())
            await load.hold()
            acks = await verify(story, load, ensemble, "rolling restarts")
    story.say(f"{story.rounds(8)} rounds of restarts, longest gap {gap:.2f} s, {acks} writes kept")


def faketime_library():
    found = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")
    if not found:
        raise Missing("no libfaketime (Debian: libfaketime)")
    return found[0]


async def clock(story):
    """The wall clock jumps by hours, forth and back, on one server and then on all: nothing expires or stops."""
    library = faketime_library()
    async with story.ensemble(3, start=False) as ensemble:
        offset = ensemble.directory / "offset"
        offset.write_text("+0\n")
        os.environ.update(
            LD_PRELOAD=library, FAKETIME_TIMESTAMP_FILE=str(offset), FAKETIME_NO_CACHE="1",
            FAKETIME_DONT_FAKE_MONOTONIC="1", DONT_FAKE_MONOTONIC="1",
        )
        try:
            await ensemble.start()
        finally:
            for name in list(os.environ):
                if name.startswith("FAKETIME") or name in ("LD_PRELOAD", "DONT_FAKE_MONOTONIC"):
                    del os.environ[name]
        load = load_of(story, ensemble, pause=0.003, timeout_ms=6000)
        async with load:
            gaps = []
            for jump in ("+5h", "-7h", "+0", "+400d"):
                await asyncio.sleep(0.5)
                moment = time.monotonic()
                offset.write_text(f"{jump}\n")
                await asyncio.sleep(3)
                gaps.append(load.gap(moment, time.monotonic()))
            seen = await skew(ensemble)
            insist(abs(seen - 9600) < 1, f"the clock is off by {seen} h: libfaketime does not work here")
            await load.hold()
            acks = await verify(story, load, ensemble, "clock jumps")
            insist(load.expired() == 0, "sessions expired with the wall clock")
    story.say(
        f"jumps of hours and days: longest gap {max(gaps):.2f} s, {acks} writes kept; "
        f"a node's ctime is off by {seen:.0f} h"
    )


async def skew(ensemble):
    """Whether the faked clock was believed at all: hours by which a node's ctime is off."""
    session = await client.open_session(ensemble.addresses, timeout_ms=6000)
    _, stat = await session.create("/skewed", b"")
    await session.close()
    return (stat.ctime / 1000 - time.time()) / 3600


async def suspended(story):
    """All servers stand still for longer than session timeouts, as with a suspended host: nothing expires."""
    async with story.ensemble(3) as ensemble:
        load = load_of(story, ensemble, pause=0.003, timeout_ms=5000)
        async with load:
            for seconds in (7, 12):
                await asyncio.sleep(1)
                for node in ensemble.nodes:
                    node.freeze()
                await asyncio.sleep(seconds)
                for node in ensemble.nodes:
                    node.thaw()
                moment = time.monotonic()
                await ensemble.wait()
                back = await acked_again(load, moment)
            await asyncio.sleep(1)
            insist(load.expired() == 0, f"{load.expired()} sessions expired with a suspension")
            await load.hold()
            acks = await verify(story, load, ensemble, "suspended")
    story.say(f"all stood still for 12 s, sessions of 5 s: none expired, writes {back:.2f} s after; {acks} kept")
