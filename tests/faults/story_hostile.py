"""Clients and peers that mean harm, while others work: their latency and the server's memory stay bounded."""

import asyncio
import contextlib
import os
import random
import struct

import client
from bench import insist, load_of, pace, percentile, verify
from story_full import rss

FRAME_BYTES = 0xFFFFF


async def hostile(story):
    """Garbage, giant lengths, loris, floods of connections on all ports, readers that do not read, bombs."""
    chooser = random.Random(story.seed)
    async with story.ensemble(3, settings=["maxCnxns=3000"]) as ensemble:
        leader = await ensemble.leader()
        load = load_of(story, ensemble, pause=0.01, timeout_ms=30_000)
        async with load:
            await asyncio.sleep(0.5)
            for name, attack in ATTACKS.items():
                if story.flags.only and name not in story.flags.only:
                    continue
                before = [rss(node) for node in ensemble.nodes]
                quiet = await pace(ensemble.addresses, 1.5, "/pace", 1)
                task = asyncio.create_task(attack(ensemble, chooser))
                took = await pace(ensemble.addresses, 5, "/pace", 1)
                most = max(rss(node) - was for node, was in zip(ensemble.nodes, before))
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, OSError, client.Lost):
                    await task
                dead = [node for node in ensemble.nodes if not node.is_running]
                insist(not dead, f"{name} ended {dead}: {dead and dead[0].log_tail(3)}")
                story.say(
                    f"{name}: others' sets p50 {percentile(took, 0.5) * 1000:.1f} ms "
                    f"({percentile(quiet, 0.5) * 1000:.1f} before), p99 {percentile(took, 0.99) * 1000:.1f} ms "
                    f"({percentile(quiet, 0.99) * 1000:.1f} before), most {max(took) * 1000:.0f} ms; +{most} MiB"
                )
                insist(most < 300, f"{name} takes {most} MiB")
            insist(await ensemble.leader() is leader, "somebody else leads")
            await load.hold()
            await verify(story, load, ensemble, "hostile")


def ports(ensemble):
    for node in ensemble.nodes:
        for port in (node.client_port, node.quorum_port, node.election_port):
            yield node.host, port


async def send_to(address, data, stay=0.0):
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(*address), 5)
        writer.write(data)
        await asyncio.wait_for(reader.read(1 << 16), 0.2 + stay)
        writer.close()
    except (OSError, asyncio.TimeoutError):
        pass


async def garbage(ensemble, chooser):
    """Random bytes, and each protocol's beginning followed by nonsense, on all ports."""
    while True:
        jobs = []
        for address in ports(ensemble):
            length = struct.pack(">i", chooser.choice((-1, 0, 5, 44, 0x7FFFFFFF, -(1 << 31), 1 << 20)))
            hello = struct.pack(">qq", -65536, chooser.randrange(5)) + length
            info = struct.pack(">i", 11) + struct.pack(">q", -1) + length
            for head in (b"", length, hello, info):
                jobs.append(send_to(address, head + chooser.randbytes(chooser.choice((3, 200, 70_000)))))
        await asyncio.gather(*jobs)


async def loris(ensemble, chooser):
    """A thousand connections on each of all ports, which say a byte now and then."""
    made = []
    for address in ports(ensemble):
        for _ in range(150):
            try:
                made.append(await asyncio.wait_for(asyncio.open_connection(*address), 1))
            except (OSError, asyncio.TimeoutError):
                break
    try:
        while True:
            for _, writer in made:
                if not writer.is_closing():
                    writer.write(b"\0")
            await asyncio.sleep(0.5)
    finally:
        for _, writer in made:
            writer.transport.abort()


async def connects(ensemble, chooser):  # noqa: ARG001 - as the others
    """Connections that are opened and closed as fast as it goes, on all ports."""
    async def one(address):
        while True:
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                _, writer = await asyncio.wait_for(asyncio.open_connection(*address), 2)
                writer.transport.abort()

    await asyncio.gather(*(one(address) for address in ports(ensemble)))


async def unread(ensemble, chooser):  # noqa: ARG001
    """Clients that ask for a megabyte, over and over, and read nothing."""
    owner = await client.open_session(ensemble.addresses, timeout_ms=30_000)
    await owner.ensure("/mega")
    await owner.set("/mega", os.urandom(1_000_000))
    sockets = []
    ask = client.buffer(struct.pack(">ii", 1, client.GET_DATA) + client.text("/mega") + b"\0") * 900
    try:
        for node in ensemble.nodes:
            for _ in range(4):
                reader, writer = await asyncio.open_connection(*node.address, limit=1 << 12)
                hello = struct.pack(">iqiq", 0, 0, 30_000, 0)
                writer.write(client.buffer(hello + client.buffer(bytes(16)) + b"\0"))
                await reader.readexactly(4)
                writer.transport.pause_reading()
                writer.write(ask)
                sockets.append(writer)
        await asyncio.sleep(3600)
    finally:
        for writer in sockets:
            writer.transport.abort()
        await owner.close()


async def watch_bomb(ensemble, chooser):  # noqa: ARG001
    """100,000 watches of one client that reads nothing of what they say, on nodes that change."""
    address = ensemble.nodes[0].address
    owner = await client.open_session([address], timeout_ms=30_000)
    await owner.ensure("/bomb")
    body = client.text("/bomb") + struct.pack(">i", 1)
    watcher = await client.open_session([address], timeout_ms=30_000)
    for base in range(0, 100_000, 2000):
        link = watcher.link
        asked = (
            link.send(base + i, client.EXISTS, client.text(f"/bomb/{base + i}") + b"\1") for i in range(1, 2001)
        )
        await asyncio.gather(*asked, return_exceptions=True)
    await watcher.request(client.ADD_WATCH, body)
    watcher.link.transport.pause_reading()
    try:
        number = 0
        while True:
            made = (owner.create(f"/bomb/{number + i}", b"") for i in range(200))
            await asyncio.gather(*made, return_exceptions=True)
            number += 200
    finally:
        await watcher.abandon()
        await owner.abandon()


async def great_multis(ensemble, chooser):
    """Multis of the largest size, and requests at, above and far above `jute.maxbuffer`."""
    session = await client.open_session(ensemble.addresses, timeout_ms=30_000)
    await session.ensure("/great")
    number = 0
    try:
        while True:
            number += 1
            small = [(client.CREATE, client.create_body(f"/great/{number}-{i}", b"")) for i in range(14_000)]
            with contextlib.suppress(client.Lost, client.NotSent):
                await session.multi(small)
            for size in (FRAME_BYTES - 60, FRAME_BYTES - 20, FRAME_BYTES, FRAME_BYTES + 600, FRAME_BYTES * 3):
                with contextlib.suppress(client.Lost, client.NotSent, client.Refused):
                    await session.set("/great", chooser.randbytes(size))
                await asyncio.sleep(0.1)  # Too large a frame ends the connection; there is the next one.
            gone = [(client.DELETE, client.delete_body(f"/great/{number}-{i}")) for i in range(14_000)]
            with contextlib.suppress(client.Lost, client.NotSent, client.Refused):
                await session.multi(gone)
    finally:
        await session.abandon()


async def deep(ensemble, chooser):  # noqa: ARG001
    """Paths as deep and as long as they come: made, asked for, watched and removed."""
    session = await client.open_session(ensemble.addresses, timeout_ms=30_000)
    try:
        long = "/" + "/".join("a" for _ in range(400_000))
        while True:
            for path in (long, "/" + "n" * 900_000, "//", "/a/../b", "/\0", "/" + "é" * 400_000):
                with contextlib.suppress(client.Refused, client.Lost, client.NotSent):
                    await session.create(path, b"")
                with contextlib.suppress(client.Refused, client.Lost, client.NotSent):
                    await session.exists(path)
                await asyncio.sleep(0.05)
            path = ""
            for _ in range(2000):
                path += "/d"
                with contextlib.suppress(client.Refused, client.Lost, client.NotSent):
                    await session.create(path, b"")
            for _ in range(2000):
                with contextlib.suppress(client.Refused, client.Lost, client.NotSent):
                    await session.delete(path)
                path = path[:-2]
    finally:
        await session.abandon()


async def sequences(ensemble, chooser):  # noqa: ARG001
    """Sequential nodes in one directory, as many as it takes, at every server."""
    async def one(address):
        session = await client.open_session([address], timeout_ms=30_000)
        await session.ensure("/sequences")
        try:
            while True:
                made = (session.create("/sequences/s-", b"", client.SEQUENTIAL) for _ in range(500))
                await asyncio.gather(*made)
        finally:
            await session.abandon()

    await asyncio.gather(*(one(address) for address in ensemble.addresses))


ATTACKS = {
    "garbage": garbage,
    "loris": loris,
    "connects": connects,
    "unread": unread,
    "watch bomb": watch_bomb,
    "great multis": great_multis,
    "deep": deep,
    "sequences": sequences,
}
