"""What members do for clients besides: read-only mode, local sessions, a leader that serves nobody."""

import asyncio
import contextlib
import shutil
import struct
import tempfile
import time

import check
import client
import server as standalone
from client import EPHEMERAL, EPHEMERAL_ON_LOCAL_SESSION, NOT_READ_ONLY
from ensemble import TREE
from story_basic import refused

READ_ONLY = ["-Dreadonlymode.enabled=true"]
LOCAL = ["localSessionsEnabled=true", "localSessionsUpgradingEnabled=true"]


async def until(what, condition, seconds=30):
    """Waits until the condition (an async function) holds; gives the seconds that took."""
    start = time.monotonic()
    while not await condition():
        if time.monotonic() - start > seconds:
            raise AssertionError(f"not within {seconds} s: {what}")
        await asyncio.sleep(0.02)
    return time.monotonic() - start


async def is_closed_unanswered(address, session, read_only):
    """Whether a connect request for this session's id is answered by the connection's end."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        hello = struct.pack(">iqiq", 0, 0, 10_000, session.id if session else 0)
        password = session.password if session else bytes(16)
        writer.write(client.buffer(hello + client.buffer(password) + bytes([read_only])))
        return await asyncio.wait_for(reader.read(-1), 10) == b""
    finally:
        writer.close()


async def read_only(story):
    """A member without a leader: reads for clients that take that, writes refused, and back again."""
    java = story.has_java
    # Apache gives a read-only client a session only where sessions may be local.
    settings = LOCAL if java else []
    named = {"flags": READ_ONLY, "settings": settings}
    async with story.ensemble(3, **named) as ensemble, contextlib.AsyncExitStack() as stack:
        session = await client.open_session(ensemble.addresses)
        await session.create("/read-only", b"before")
        await session.close()
        await ensemble.wait_equal()
        alone, *others = ensemble.nodes
        kept = await client.open_session([alone.address], timeout_ms=10_000)
        for node in others:
            node.kill()
        start = time.monotonic()
        if not java:
            await stays_connected(kept)

        async def is_read_only():
            return await alone.word("isro") == "ro"

        await until("isro says ro", is_read_only)
        story.say(f"read-only {time.monotonic() - start:.2f} s after the quorum was lost")
        reader = await client.open_session([alone.address], read_only=True)
        await serves_reads(alone, reader)
        stock = await stack.enter_async_context(stock_client(story, alone))
        assert await is_closed_unanswered(alone.address, None, False), "a client for writing is served"
        if not java:
            await global_session_is_turned_away(kept, alone)
        fake, told = reader.id, len(reader.events)
        await ensemble.start(others)
        # The session was known to this server only: the client hears that it is over.
        await until("the reader is told of the leader", lambda: ended(reader, told), 60)
        assert reader.events[-1][1] == "expired", reader.events
        await ensemble.wait()
        assert await alone.word("isro") == "rw"
        if stock:
            assert await stock.wait() == 0, "Apache's client did not come to write"
        again = await client.open_session([alone.address], read_only=True)
        assert not again.is_read_only and again.id != fake, (again.id, fake)
        await again.set("/read-only", b"after")
        await again.close()
        wrong, _ = await check.same_trees(ensemble)
        story.check(wrong + check.logs_clean(ensemble), "read-only mode and back")


@contextlib.asynccontextmanager
async def stock_client(story, node):
    """Apache's own client, which has read and been refused at this server; it ends when it has written."""
    if not shutil.which("javac"):
        story.skip("no javac for Apache's client")
        yield None
        return
    classpath = standalone.java_classpath()
    source = str(TREE / "tests/clients/java/ReadOnly.java")
    with tempfile.TemporaryDirectory() as classes:
        compiler = await asyncio.create_subprocess_exec("javac", "-d", classes, "-cp", classpath, source)
        assert await compiler.wait() == 0, "javac failed"
        argv = ["java", "-cp", f"{classes}:{classpath}", "ReadOnly", f"{node.host}:{node.client_port}", "/read-only"]
        java = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
        try:
            said = []
            while (not said or said[-1] != "read-only") and (line := await java.stdout.readline()):
                said.append(line.decode().strip())
            assert said[-1:] == ["read-only"] and "event ConnectedReadOnly" in said, said
            yield java
        finally:
            if java.returncode is None:
                java.kill()
                await java.wait()


async def stays_connected(session):
    """The connection of a client from before goes on with its reads for a while."""
    await asyncio.sleep(0.5)
    assert session.up.is_set(), "a client was disconnected as soon as the quorum was lost"
    assert (await session.get("/read-only"))[0] == b"before"


async def ended(session, told):
    return any(what == "expired" for _, what, _ in session.events[told:])


async def serves_reads(node, reader):
    assert reader.is_read_only, "the connect response does not say that the server is read-only"
    assert (await reader.get("/read-only"))[0] == b"before"
    assert "read-only" in await reader.children("/")
    assert await reader.exists("/nowhere") is None
    for write in (
        reader.create("/no"),
        reader.create("/no", flags=EPHEMERAL),
        reader.set("/read-only", b"no"),
        reader.delete("/read-only"),
        reader.sync("/"),
        reader.request(client.MULTI, client.multi_body([(client.DELETE, client.delete_body("/read-only"))])),
    ):
        await refused(write, NOT_READ_ONLY)
    srvr = await node.word("srvr")
    assert "READ-ONLY mode; serving only read-only clients" in srvr and "Mode: read-only" in srvr, srvr
    metrics = await node.metrics()
    assert metrics["zk_server_state"] == "read-only", metrics["zk_server_state"]
    # A session that says goodbye is over, one that does not can be taken up again.
    other = await client.open_session([node.address], read_only=True)
    await other.close()
    before = reader.id
    reader.up.clear()
    reader.link.close()
    await asyncio.wait_for(reader.up.wait(), 10)
    assert (reader.id, reader.is_read_only) == (before, True), (reader.id, before)


async def global_session_is_turned_away(kept, node):
    """The ensemble knows the session: only a leader can say what became of it."""

    async def is_down():
        return not kept.up.is_set()

    # 7/16 of ten seconds after the leader was last heard of.
    await until("a client from before must learn in time", is_down, 6)
    await kept.abandon()
    assert not any(what == "expired" for _, what, _ in kept.events), kept.events
    assert await is_closed_unanswered(node.address, kept, True), "a global session is taken up"


async def local_sessions(story):
    """Sessions that one server knows: no transactions, upgrades at the first ephemeral, expiry."""
    async with story.ensemble(3, settings=LOCAL) as ensemble:
        await ensemble.write_one()
        for node in ensemble.nodes:
            await of_one_server(story, ensemble, node)
        await outlives_its_server(story, ensemble)
        wrong, _ = await check.same_trees(ensemble)
        story.check(wrong + check.logs_clean(ensemble), "local sessions")
    async with story.ensemble(3, settings=LOCAL[:1]) as ensemble:
        for node in ensemble.nodes:
            session = await client.open_session([node.address])
            await session.create(f"/plain{node.number}")
            await refused(session.create("/e", flags=EPHEMERAL), EPHEMERAL_ON_LOCAL_SESSION)
            multi = [
                (client.CREATE, client.create_body(f"/m{node.number}", b"")),
                (client.CREATE, client.create_body("/e", b"", EPHEMERAL)),
            ]
            if not story.has_java:
                await refused(session.multi(multi), EPHEMERAL_ON_LOCAL_SESSION)
            await session.set(f"/plain{node.number}", b"goes on")
            await session.close()
        wrong, _ = await check.same_trees(ensemble)
        story.check(wrong + check.logs_clean(ensemble), "local sessions that stay so")


async def counts(node):
    metrics = await node.metrics()
    return float(metrics["zk_local_sessions"]), float(metrics["zk_global_sessions"])


async def of_one_server(story, ensemble, node):
    await ensemble.wait_equal()
    local, known = await counts(node)
    zxid = await node.zxid()
    sessions = [await client.open_session([node.address], timeout_ms=4000) for _ in range(3)]
    assert await counts(node) == (local + 3, known), await counts(node)
    first, second, third = sessions
    await first.sync("/")
    await second.close()
    assert await node.zxid() == zxid, "a local session made a transaction"
    assert await counts(node) == (local + 2, known), await counts(node)
    root = f"/local{node.number}"
    await first.create(root, b"x")
    await first.set(root, b"y")
    assert await counts(node) == (local + 2, known), "a plain write made the session global"
    await first.multi([
        (client.SET_DATA, client.set_body(root, b"z")),
        (client.CREATE, client.create_body(f"{root}/e", b"", EPHEMERAL)),
    ])
    _, stat = await first.get(f"{root}/e")
    assert stat.owner == first.id, (stat, first.id)
    assert await counts(node) == (local + 1, known + 1), await counts(node)
    for other in ensemble.nodes:
        # A global session goes anywhere, a local one is known nowhere else.
        if other is not node:
            await moves(first, other)
            assert await is_refused(other.address, third), "another server takes a local session up"
            break
    await third.abandon()

    async def is_expired():
        return (await counts(node))[0] == local

    took = await until("a local session expires", is_expired, 15)
    story.say(f"{node}: a local session of 4 s expired {took:.1f} s after its client had gone")
    await first.close()
    assert await gone(ensemble, f"{root}/e"), "the upgraded session's end left its ephemeral"


async def moves(session, node):
    before = session.id
    session.servers = [node.address]
    session.up.clear()
    session.link.close()
    await asyncio.wait_for(session.up.wait(), 20)
    assert session.id == before, "an upgraded session did not survive its move"


async def is_refused(address, session):
    """Whether this session's id is answered by "there is no such session"."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        hello = struct.pack(">iqiq", 0, 0, 10_000, session.id)
        writer.write(client.buffer(hello + client.buffer(session.password) + b"\0"))
        answer = await asyncio.wait_for(reader.read(-1), 10)
        return struct.unpack_from(">iiq", answer, 4)[1:] == (0, 0)
    finally:
        writer.close()


async def gone(ensemble, path):
    session = await client.open_session(ensemble.addresses)
    await session.sync(path)
    is_gone = await session.exists(path) is None
    await session.close()
    return is_gone


async def outlives_its_server(story, ensemble):
    """A change of leader: ours keep local sessions as they keep connections, Apache's forget them."""
    if story.has_java:
        return
    leader, (node, *_) = await ensemble.leader(), await ensemble.followers()
    session = await client.open_session([node.address])
    leader.kill()
    await ensemble.wait()
    assert (await session.create("/after", b"", EPHEMERAL))[1].owner == session.id
    assert [what for _, what, _ in session.events] == ["connected"], session.events
    await session.close()
    await ensemble.start()


async def leader_serves(story):
    """leaderServes=no: the leader turns clients away, and whoever comes to lead leaves its own."""
    async with story.ensemble(3, flags=["-Dzookeeper.leaderServes=no"], start=False) as ensemble:
        await ensemble.start(wait=False)
        leader = await silent_leader(ensemble)
        assert await is_closed_unanswered(leader.address, None, False), "the leader serves a client"
        followers = [node for node in ensemble.nodes if node is not leader]
        sessions = [await client.open_session([node.address, *ensemble.addresses]) for node in followers]
        for index, session in enumerate(sessions):
            await session.create(f"/served{index}", b"", EPHEMERAL)
        leader.kill()
        for index, session in enumerate(sessions):
            # One of the two was at the server that leads from here on; both go on with their sessions.
            await until("writes go on", lambda: wrote(session, f"/served{index}"), 60)
            assert not any(what == "expired" for _, what, _ in session.events), session.events
        successor = await silent_leader(ensemble)
        assert all(session.servers[session.at % len(session.servers)] != successor.address for session in sessions)
        for session in sessions:
            await session.close()
        await ensemble.start(wait=False)
        await until("all are back", lambda: followers_serve(ensemble, 2), 60)
        story.check(check.logs_clean(ensemble), "leaderServes=no")


async def silent_leader(ensemble):
    """The one server that answers no words, while the others follow: it leads and serves nobody."""
    await until("all but the leader serve", lambda: followers_serve(ensemble, len(ensemble.running) - 1), 60)
    (leader,) = [node for node in ensemble.running if await node.mode() is None]
    assert "not currently serving" in await leader.word("srvr"), await leader.word("srvr")
    return leader


async def followers_serve(ensemble, count):
    modes = [await node.mode() for node in ensemble.running]
    return modes.count("follower") == count


async def wrote(session, path):
    try:
        await session.set(path, b"goes on")
        return True
    except (client.Lost, client.NotSent):
        return False
