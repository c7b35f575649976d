"""Disks that answer with errors, take their time, or lose their power."""

import asyncio
import random
import time

import client
from bench import (
    DISK, SEGMENT_4M, acked_again, ended, ended_by, insist, load_of, log_files, log_ranges, on_disks, pace, percentile,
    said, verify, writer,
)
from story import spread

WRITERS = ("direct", "mmap")


def fail_writes(node):
    """The log's blocks refuse to be written; everything else works."""
    node.disk.tell("fail", what="write", ranges=log_ranges(node))


def fail_flushes(node):
    node.disk.tell("fail", what="flush")


def fail_one_flush(node):
    """Once only: the second try would succeed, and prove nothing."""
    node.disk.tell("fail", what="flush", times=1)


def tear_write(node):
    """A part of one of the log's writes reaches the disk, and the write fails."""
    node.disk.tell("tear", ranges=log_ranges(node))


HARMS = {
    "writes fail": fail_writes,
    "flushes fail": fail_flushes,
    "one flush fails": fail_one_flush,
    "a write is torn": tear_write,
}
# How often at most. A lasting failure, or one of the log's own blocks, ends the server at its first. A single failed
# flush may be nobody's: ext4 does not look at the result of the one before it frees a part of its journal.
TRIES = {"one flush fails": 3}


async def errors_alone(story):
    """One server, EIO from its disk under load: it stops at once and clearly, and has lost nothing."""
    for kind in WRITERS:
        for name, harm in HARMS.items():
            settings = [writer(kind), SEGMENT_4M]
            async with on_disks(story, 1, settings=settings) as ensemble:
                node = ensemble.nodes[0]
                load = load_of(story, ensemble, timeout_ms=60_000)
                async with load:
                    await asyncio.sleep(0.5)
                    moment = time.monotonic()
                    code, times = await ended_by(node, harm, TRIES.get(name, 1))
                    took = time.monotonic() - moment
                    last = max(at for at, _ in load.acks) - moment
                    insist(code == DISK, f"{kind}, {name}: ended with {code}: {node.log_tail(5)}")
                    words = node.log_tail(1)[-160:]
                    # What its page cache holds is not what its disk holds: so the cache goes.
                    node.disk.cut()
                    node.disk.power_on(story.seed, keeps=0.5)
                    await ensemble.start()
                    acks = await verify(story, load, ensemble, f"{kind}, {name}")
            story.say(
                f"{kind}, {name}: ended after {took * 1000:.0f} ms{again(times)}, "
                f"last ack {last * 1000:+.0f} ms, {acks} writes kept; said: {words}"
            )


def again(times):
    return f" and {times} failures" if times > 1 else ""


async def errors(story):
    """Three servers, EIO on one disk: that server stops, the others go on, and it comes back."""
    chooser = random.Random(story.seed)
    cases = [(kind, name, place) for kind in WRITERS for name in HARMS for place in ("leader", "follower")]
    chooser.shuffle(cases)
    gaps = {"leader": [], "follower": []}
    async with on_disks(story, settings=[SEGMENT_4M]) as ensemble:
        for number, (kind, name, place) in enumerate(cases[: story.rounds(len(cases))]):
            gaps[place].append(await one_error(story, ensemble, number, kind, name, place))
    for place, values in gaps.items():
        if values:
            story.say(f"the {place}'s disk failed: longest gap in writes {spread(values)}")


async def one_error(story, ensemble, number, kind, name, place):
    leader = await ensemble.leader()
    others = [node for node in ensemble.nodes if node is not leader]
    victim = leader if place == "leader" else others[number % 2]
    if victim.settings != [writer(kind)]:
        await victim.stop()
        victim.settings = [writer(kind)]
        await ensemble.start()
        leader = await ensemble.leader()
        victim = leader if place == "leader" else victim
    load = load_of(story, ensemble, root=f"/e{number}", seed=story.seed + number)
    async with load:
        await asyncio.sleep(0.6)
        moment = time.monotonic()
        code, times = await ended_by(victim, HARMS[name], TRIES.get(name, 1))
        if times > 1:
            story.say(f"{kind}, {name}, {place}: ended{again(times)}")
        insist(code == DISK, f"{kind}, {name}, {place}: ended with {code}")
        rest = [node.address for node in ensemble.running]
        await acked_again(load, time.monotonic(), rest)
        gap = load.gap(moment - 0.05, time.monotonic())
        victim.disk.cut()
        victim.disk.power_on(story.seed + number, keeps=0.5)
        await ensemble.start()
        await asyncio.sleep(0.3)
        await load.hold()
        await verify(story, load, ensemble, f"{kind}, {name}, {place}")
    return gap


async def power(story):
    """The power of all three is cut under load, again and again: nothing acknowledged is lost."""
    chooser = random.Random(story.seed)
    acks, lost, starts = 0, 0, []
    async with on_disks(story, settings=[SEGMENT_4M, "snapCount=1500"]) as ensemble:
        for number in range(story.rounds(20)):
            load = load_of(story, ensemble, root=f"/p{number}", seed=chooser.random(), pause=0)
            async with load:
                await asyncio.sleep(0.1 + chooser.random() * 1.2)
                lost += cut_power(ensemble.nodes, chooser)
                kinds = [writer(chooser.choice(WRITERS)) for _ in ensemble.nodes]
                for node, kind in zip(ensemble.nodes, kinds):
                    node.settings = [kind]
                start = time.monotonic()
                await ensemble.start()
                starts.append(time.monotonic() - start)
                await asyncio.sleep(0.2)
                await load.hold()
                acks += await verify(story, load, ensemble, f"power cut {number}")
    story.say(
        f"{story.rounds(20)} cuts of all three, {lost} sectors lost, {acks} acknowledged writes kept; "
        f"start to serving {spread(starts, 's', 1)}"
    )


def cut_power(nodes, chooser):
    """All at the same moment; how many sectors lost what was not flushed."""
    for node in chooser.sample(nodes, len(nodes)):
        node.disk.cut()
    for node in nodes:
        node.kill()
    return sum(
        node.disk.power_on(chooser.randrange(1 << 30), chooser.choice((0, 0.5, 0.95))) for node in nodes
    )


async def power_alone(story):
    """The same with one server, each writer of the log in turn, its start among what is cut."""
    chooser = random.Random(story.seed)
    for kind in WRITERS:
        acks, lost, starts = 0, 0, []
        async with on_disks(story, 1, settings=[writer(kind), SEGMENT_4M, "snapCount=1500"]) as ensemble:
            for number in range(story.rounds(15)):
                load = load_of(story, ensemble, root=f"/p{number}", seed=chooser.random(), pause=0)
                async with load:
                    await asyncio.sleep(0.05 + chooser.random())
                    lost += cut_power(ensemble.nodes, chooser)
                    for _ in range(chooser.randrange(3)):
                        ensemble.nodes[0].start()
                        await asyncio.sleep(chooser.random() * 0.2)
                        lost += cut_power(ensemble.nodes, chooser)
                    start = time.monotonic()
                    await ensemble.start()
                    starts.append(time.monotonic() - start)
                    acks += await verify(story, load, ensemble, f"{kind}, power cut {number}")
        story.say(
            f"{kind}: {story.rounds(15)} cuts, {lost} sectors lost, {acks} acknowledged writes kept; "
            f"start to serving {spread(starts, 's', 1)}"
        )


async def slow(story):
    """One slow disk of three: a follower's costs the others nothing; a leader's is bounded, and pings go on."""
    for seconds in (0.1, 1.0):
        async with on_disks(story, settings=[SEGMENT_4M]) as ensemble:
            leader = await ensemble.leader()
            slow_one, fast = [node for node in ensemble.nodes if node is not leader]
            addresses = [leader.address, fast.address]
            before = await pace(addresses, 3, "/pace")
            slow_one.disk.tell("delay", seconds=seconds)
            beside = await pace(addresses, 5, "/pace")
            story.say(
                f"a follower's disk {seconds * 1000:.0f} ms slower: p50 {percentile(beside, 0.5) * 1000:.1f} ms "
                f"({percentile(before, 0.5) * 1000:.1f} before), p99 {percentile(beside, 0.99) * 1000:.1f} ms "
                f"({percentile(before, 0.99) * 1000:.1f} before), most {max(beside) * 1000:.0f} ms "
                f"({max(before) * 1000:.0f} before)"
            )
            slow_one.disk.tell("delay", seconds=0)
            await ensemble.wait_equal()
            insist(
                percentile(beside, 0.99) < max(0.05, 3 * percentile(before, 0.99)),
                "a follower's slow disk slows the others' writes",
            )
            await slow_leader(story, ensemble, leader, seconds)


async def slow_leader(story, ensemble, leader, seconds):
    """Writes with a slow leader, its pings, and whether it goes on leading."""
    others = [node.address for node in ensemble.nodes if node is not leader]
    quiet = await client.open_session([leader.address], timeout_ms=4000, name="quiet")
    load = load_of(story, ensemble, root=f"/slow{seconds}", pause=0.005)
    async with load:
        await asyncio.sleep(0.5)
        begun = time.monotonic()
        leader.disk.tell("delay", seconds=seconds)
        took = await pace(others, 6, f"/slow{seconds}/pace")
        pings = await ping_times(quiet, 2)
        still = await leader.mode()
        leader.disk.tell("delay", seconds=0)
        insist(quiet.events[-1][1] == "connected", f"a session lost its slow server: {quiet.events}")
        await ensemble.wait()
        await load.hold()
        story.say(
            f"the leader's disk {seconds * 1000:.0f} ms slower: writes p50 {percentile(took, 0.5) * 1000:.1f} ms, "
            f"p99 {percentile(took, 0.99) * 1000:.0f} ms, most {max(took) * 1000:.0f} ms; "
            f"longest gap {load.gap(begun, time.monotonic()):.2f} s; it is {still} after; "
            f"pings at it {max(pings) * 1000:.1f} ms at most"
        )
        await verify(story, load, ensemble, "a slow leader")
    await quiet.close()


async def ping_times(session, seconds):
    took, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.monotonic()
        await session.link.send(client.PING_XID, client.PING)
        took.append(time.monotonic() - begun)
        await asyncio.sleep(0.02)
    return took


async def latent(story):
    """Sectors that cannot be read any more: at a start, and for a learner's DIFF."""
    async with on_disks(story, settings=[SEGMENT_4M, "snapCount=100000"]) as ensemble:
        load = load_of(story, ensemble, pause=0)
        async with load:
            await asyncio.sleep(1.5)
            await load.hold()
            await ensemble.wait_equal()
            await latent_start(story, ensemble)
            await latent_diff(story, ensemble)
            await verify(story, load, ensemble, "latent errors")


async def latent_start(story, ensemble):
    """A member sets the log aside from the bad sector on, has no vote, and is made whole by a leader."""
    node = (await ensemble.followers())[0]
    await node.stop()
    bad = node.disk.ranges_of(log_files(node)[0])[0]
    at = bad[0] + (bad[1] - bad[0]) // 8 // 4096 * 4096
    await drop_caches(node)
    node.disk.tell("fail", what="read", ranges=[[at, at + 4096]])
    await ensemble.start()
    await ensemble.wait_equal()
    story.say(f"a bad sector at a member's start: {said(node, 'set aside', 'aside', 'no vote')}")
    node.disk.tell("restore")


async def drop_caches(node):
    """What is in memory of a stopped server's files hides what the disk answers: mount anew."""
    node.disk.cut()
    node.disk.power_on(0, keeps=1)


async def latent_diff(story, ensemble):
    """The leader cannot read the log for a late follower: it gets a snapshot, and nothing else happens."""
    leader = await ensemble.leader()
    late = next(node for node in ensemble.nodes if node is not leader)
    await late.stop()
    session = await client.open_session([leader.address], timeout_ms=30_000)
    await session.ensure("/late")
    for _ in range(30):
        await asyncio.gather(*(session.set("/late", b"x" * 500) for _ in range(64)))
    await session.close()
    leader.disk.tell("fail", what="read", ranges=log_ranges(leader))
    (leader.disk.path / "drop").write_bytes(b"")
    with open("/proc/sys/vm/drop_caches", "w") as drop:
        drop.write("1")
    await ensemble.start([late])
    await ensemble.wait_equal()
    insist(leader.is_running, "a leader ended over sectors that it only had to read")
    leader.disk.tell("restore")
    story.say(f"bad sectors for a DIFF: {said(leader, 'read', 'snapshot')}")
