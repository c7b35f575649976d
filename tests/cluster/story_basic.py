"""What a client and an operator see of an ensemble in each role."""

import asyncio

import check
import client
from client import CONTAINER, EPHEMERAL, SEQUENTIAL
from load import Load
from story_crash import verify

# What `mntr` says of an ensemble's roles on top of a standalone server's answers.
LEADER_KEYS = ("zk_learners", "zk_synced_followers", "zk_synced_observers", "zk_pending_syncs", "zk_quorum_size")
ROLE_KEYS = ("zk_server_state", "zk_peer_state", "zk_znode_count", "zk_ephemerals_count", "zk_version")


async def every_operation(session, other, root):
    """All a client can do, through `session`; what it did is looked at through `other`, on another server."""
    made, stat = await session.create(root, b"one")
    assert made == root and stat.version == 0, (made, stat)
    assert (await session.set(root, b"two")).version == 1
    await refused(session.set(root, b"three", 0), client.BAD_VERSION)
    names = [(await session.create(f"{root}/s-", b"", SEQUENTIAL))[0] for _ in range(3)]
    assert names == sorted(set(names)), names
    _, stat = await session.create(f"{root}/e", b"", EPHEMERAL)
    assert stat.owner == session.id, (stat, session.id)
    await session.create(f"{root}/c", b"", CONTAINER)
    await session.create(f"{root}/t", b"", client.TTL, ttl=3_600_000)
    await session.multi([
        (client.CHECK, client.text(root) + b"\0\0\0\1"),
        (client.CREATE, client.create_body(f"{root}/m", b"")),
        (client.SET_DATA, client.set_body(root, b"four")),
    ])
    await refused(
        session.multi([
            (client.CREATE, client.create_body(f"{root}/m2", b"")),
            (client.DELETE, client.delete_body(f"{root}/nowhere")),
        ]),
        client.NO_NODE,
    )
    await refused(session.create(root), client.NODE_EXISTS)
    await refused(session.delete(root), client.NOT_EMPTY)
    acl = client.acl_of((1, "world", "anyone"), (31, "ip", "10.1.2.3"))
    await session.create(f"{root}/a")
    await session.set_acl(f"{root}/a", acl)
    await other.sync(root)
    assert (await other.get(root))[0] == b"four"
    assert (await other.acl(f"{root}/a"))[0] == acl
    wanted = sorted([*(name.rsplit("/", 1)[1] for name in names), "a", "c", "e", "m", "t"])
    assert await other.children(root) == wanted, await other.children(root)
    await session.delete(f"{root}/m")
    assert await other_sees_no(other, f"{root}/m")


async def other_sees_no(other, path):
    await other.sync(path)
    return await other.exists(path) is None


async def refused(awaitable, code):
    try:
        await awaitable
    except client.Refused as error:
        assert error.code == code, f"error {error.code}, expected {code}"
        return
    raise AssertionError(f"no error, expected {code}")


async def watch_across(writer, reader, path):
    """A watch set at one server fires for a write through another, before a read shows the write."""
    told = asyncio.get_running_loop().create_future()
    reader.on_event = lambda kind, path: told.done() or told.set_result((kind, path))
    await reader.sync(path)
    before, _ = await reader.get(path, watch=True)
    await writer.set(path, b"seen by a watch")
    assert await asyncio.wait_for(told, 10) == (3, path)
    after, _ = await reader.get(path)
    assert before != after == b"seen by a watch", (before, after)


async def ephemerals_go(ensemble, sessions, root):
    """A closed session's ephemerals are gone everywhere, another's stay."""
    going = await client.open_session([ensemble.addresses[0]], name="going")
    await going.create(f"{root}-going", b"", EPHEMERAL)
    await going.close()
    for session in sessions:
        assert await other_sees_no(session, f"{root}-going"), f"{root}-going outlived its session"


async def operations_everywhere(ensemble):
    sessions = [await client.open_session([address], timeout_ms=20_000) for address in ensemble.addresses]
    for index, session in enumerate(sessions):
        other = sessions[(index + 1) % len(sessions)]
        await every_operation(session, other, f"/basic{index}")
        await watch_across(session, other, f"/basic{index}")
        await ephemerals_go(ensemble, sessions, f"/basic{index}")
    await move(ensemble, sessions[0])
    wrong, count = await check.same_trees(ensemble)
    for session in sessions:
        await session.close()
    return wrong, count


async def move(ensemble, session):
    """A session goes to another server with its id and its ephemerals."""
    path, before = "/moves", session.id
    await session.create(path, b"", EPHEMERAL)
    session.servers = [ensemble.addresses[-1]]
    session.up.clear()
    session.link.close()
    await asyncio.wait_for(session.up.wait(), 20)
    _, stat = await session.get(path)
    assert session.id == before == stat.owner, (session.id, before, stat)


async def roles(ensemble):
    """The four-letter words of each role; (violations, the words' answers by role)."""
    wrong, leader = [], await ensemble.leader()
    for node in ensemble.nodes:
        mode = await node.mode()
        metrics = await node.metrics()
        expected = "leader" if node is leader else "observer" if node.is_observer else "follower"
        if mode != expected or metrics.get("zk_server_state") != expected:
            wrong.append(f"{node} is {mode} by srvr and {metrics.get('zk_server_state')} by mntr")
        keys = ROLE_KEYS + (LEADER_KEYS if node is leader else ())
        wrong += [f"mntr of the {mode} {node} lacks {key}" for key in keys if key not in metrics]
        # Only what cannot be read from the file: the rest of `conf` is compared with Apache's below.
        conf = await node.word("conf") or ""
        wrong += [f"conf of {node} lacks {line}" for line in conf_lines(node) if line not in conf.splitlines()]
    voters = len(ensemble.voters) - 1
    metrics = await leader.metrics()
    if float(metrics.get("zk_synced_followers", -1)) != voters:
        wrong.append(f"the leader counts {metrics.get('zk_synced_followers')} synced followers of {voters}")
    return wrong


def conf_lines(node):
    lines = [f"serverId={node.number}", "initLimit=10", "syncLimit=5", f"quorumPort={node.quorum_port}"]
    return lines + [f"electionPort={node.election_port}", f"peerType={int(node.is_observer)}"]


async def answers(ensemble):
    """{role: (names in srvr, names in conf)} of a running ensemble; what `mntr` lacks is told in docs/metrics.md."""
    told = {}
    for node in ensemble.nodes:
        srvr = {line.split(":")[0] for line in (await node.word("srvr")).splitlines() if ":" in line}
        conf = {line.split("=")[0] for line in (await node.word("conf")).splitlines() if "=" in line}
        told[await node.mode()] = (srvr, conf)
    return told


async def like_apache(story, kind):
    """Each role's answers beside Apache's: which names are missing."""
    async with story.ensemble(3, [kind]) as theirs:
        expected = await answers(theirs)
    async with story.ensemble(3) as ours:
        told = await answers(ours)
    wrong = []
    for role, parts in expected.items():
        for name, mine, other in zip(("srvr", "conf"), told.get(role, (set(), set())), parts):
            # Which server leads is chance, and the members' lines are named by their numbers.
            lacking = {key for key in other - mine if not key.startswith("server.")}
            if lacking:
                wrong.append(f"{name} of a {role} lacks {sorted(lacking)}, which {kind} has")
    return wrong


async def basic(story):
    """Three and five servers: every operation through each of them; srvr, mntr and conf in each role."""
    for count in (3, 5):
        async with story.ensemble(count) as ensemble:
            wrong, nodes = await operations_everywhere(ensemble)
            digests, compared = await check.same_digests(ensemble)
            wrong += digests + await roles(ensemble) + check.logs_clean(ensemble)
            story.check(wrong, f"{count} servers")
            story.say(f"{count} servers: {nodes} nodes equal, {compared} digests compared")
    if story.flags.beside:
        story.check(await like_apache(story, story.flags.beside), f"beside {story.flags.beside}")
        story.say(f"srvr and conf name all that {story.flags.beside}'s do in each role")


async def observer(story):
    """Three voters and two observers: clients of observers, leaders lost, observers that never vote."""
    async with story.ensemble(5, observers=2) as ensemble:
        story.check(await roles(ensemble), "roles")
        *_, first, second = ensemble.nodes
        async with Load(ensemble.addresses, story.seed, workers=1, pause=0.002, timeout_ms=20_000) as load:
            await asyncio.sleep(1)
            second.kill()
            await asyncio.sleep(0.5)
            leader = await ensemble.leader()
            leader.kill()
            await ensemble.wait()
            second.start()
            leader.start()
            await ensemble.wait()
            await asyncio.sleep(0.5)
            await load.hold()
            acks, count, compared = await verify(story, load, ensemble)
        modes = [await node.mode() for node in (first, second)]
        assert modes == ["observer", "observer"], modes
        story.say(f"{acks} acknowledged writes, {count} nodes equal, {compared} digests compared")
        await no_quorum(ensemble)


async def no_quorum(ensemble):
    """One voter and two observers are no quorum: nobody leads, no write is acknowledged."""
    for node in ensemble.nodes[1:3]:
        node.kill()
    await asyncio.sleep(1)
    end = asyncio.get_running_loop().time() + 3
    while asyncio.get_running_loop().time() < end:
        modes = [await node.mode() for node in ensemble.running]
        assert "leader" not in modes or not await writable(ensemble), f"{ensemble.running} are {modes}"
        await asyncio.sleep(0.2)
    await ensemble.start()


async def writable(ensemble):
    session = client.Session(ensemble.addresses[:1] + ensemble.addresses[3:], timeout_ms=4000)
    try:
        await session.start(wait=True, seconds=2)
        await asyncio.wait_for(session.create("/no-quorum"), 2)
        return True
    except (asyncio.TimeoutError, client.Lost, client.NotSent):
        return False
    finally:
        await session.abandon()
