"""Members come, go and change their part while clients write."""

import asyncio
import socket
import struct
import time

import client
from ensemble import free_port
from load import Load
from story_basic import refused
from story_crash import verify
from story_mixed import allow_fuzz

RECONFIG, AUTH = 16, 100
AUTH_XID = -4
CONFIG = "/zookeeper/config"

BAD_ARGUMENTS, MARSHALLING, UNIMPLEMENTED, NO_AUTH = -8, -5, -6, -102
NO_QUORUM, IN_PROGRESS, DISABLED = -13, -14, -123

SETTINGS = ["reconfigEnabled=true"]


def string(value):
    return struct.pack(">i", -1) if value is None else client.text(value)


def member(node, is_observer=False):
    """What a client says of a server that is to join."""
    role = "observer" if is_observer else "participant"
    place = f"{node.host}:{node.quorum_port}:{node.election_port}"
    return f"server.{node.number}={place}:{role};{node.host}:{node.client_port}"


async def change(session, joining=None, leaving=None, members=None, version=-1):
    """(the text of the members in force, the node's stat) as the answer has them."""
    body = string(joining) + string(leaving) + string(members) + struct.pack(">q", version)
    _, answer = await session.request(RECONFIG, body)
    text, at = client.read_buffer(answer)
    return text.decode(), client.Stat(*client.STAT.unpack_from(answer, at))


async def administrator(nodes, password=b"super:test"):
    """A session of the super user."""
    session = await client.open_session([node.address for node in nodes], timeout_ms=30_000)
    login = struct.pack(">i", 0) + client.text("digest") + client.buffer(password)
    session.link.send(AUTH_XID, AUTH, login)
    return session


async def changed(nodes, ask):
    """Asks for a change as often as it takes: a server that has just come is not in step yet, and a connection
    may go with a leader. What was asked twice is the same in the end."""
    end = time.monotonic() + 60
    while True:
        session = await administrator(nodes)
        try:
            return await ask(session)
        except client.Refused as error:
            if error.code not in (NO_QUORUM, IN_PROGRESS) or time.monotonic() > end:
                raise
        except client.Lost:
            if time.monotonic() > end:
                raise
        finally:
            await session.close()
        await asyncio.sleep(0.1)


def server_lines(text):
    """{id: role} of a configuration's text."""
    roles = {}
    for line in text.splitlines():
        if line.startswith("server."):
            key, value = line.split("=", 1)
            roles[int(key.removeprefix("server."))] = value.split(";")[0].rsplit(":", 1)[1]
    return roles


async def agreed(nodes, wanted, seconds=30):
    """Until all of `nodes` show the same members, and these; gives the version."""
    end = time.monotonic() + seconds
    while True:
        texts = []
        for node in nodes:
            session = await client.open_session([node.address], timeout_ms=30_000)
            texts.append((await session.get(CONFIG))[0].decode())
            await session.close()
        if len(set(texts)) == 1 and server_lines(texts[0]) == wanted:
            return int(texts[0].splitlines()[-1].removeprefix("version="), 16)
        if time.monotonic() > end:
            raise AssertionError(f"{nodes} have {texts}, where {wanted} was wanted")
        await asyncio.sleep(0.05)


async def in_mode(node, wanted, seconds=60):
    end = time.monotonic() + seconds
    while (mode := await node.mode()) != wanted:
        if time.monotonic() > end:
            raise AssertionError(f"{node} is {mode}, and was to be {wanted}")
        await asyncio.sleep(0.05)


async def refusals(ensemble):
    """What is refused, and with which error, asked through every server."""
    for node in ensemble.running:
        session = await administrator([node])
        await session.sync("/")
        line = member(ensemble.nodes[0])
        await refused(change(session, joining=line, version=12345), client.BAD_VERSION)
        await refused(change(session, joining="server.9=127.0.0.1:1:2"), BAD_ARGUMENTS)
        await refused(change(session, joining="nonsense"), BAD_ARGUMENTS)
        await refused(change(session, joining="server.x=127.0.0.1:1:2:participant;3"), MARSHALLING)
        await refused(change(session, leaving="one"), MARSHALLING)
        await refused(change(session, leaving="2,3"), BAD_ARGUMENTS)
        await refused(change(session, members=line), BAD_ARGUMENTS)
        await refused(change(session, members="what=ever"), BAD_ARGUMENTS)
        gone = ",".join(f"server.{n}=127.0.0.1:{n}1:{n}2:participant;{n}3" for n in (7, 8, 9))
        await refused(change(session, joining=gone), NO_QUORUM)
        await session.close()
        nobody = await client.open_session([node.address], timeout_ms=30_000)
        await refused(change(nobody, joining=member(node)), NO_AUTH)
        await nobody.close()


async def reconfig(story):
    """Servers join, leave, lead no more and change their part under writes: none is lost, all agree."""
    async with story.ensemble(3, settings=SETTINGS) as ensemble:
        first = ensemble.nodes[0].kind
        await agreed(ensemble.nodes, {1: "participant", 2: "participant", 3: "participant"})
        await refusals(ensemble)
        load = Load(ensemble.addresses, story.seed, workers=1, pause=0.002, root="/reconfig")
        async with load:
            await asyncio.sleep(0.5)
            await joins_and_leaves(story, ensemble, first)
            await leader_leaves(story, ensemble)
            await parts_change(story, ensemble)
            await ports_move(story, ensemble)
            await load.hold()
            for node in ensemble.nodes:
                # Each has come anew, perhaps by a snapshot.
                await allow_fuzz(story, ensemble, node)
            load.release()
            acks, nodes, digests = await verify(story, load, ensemble)
        story.say(f"{acks} acknowledged writes, {nodes} nodes and {digests} digests are the same everywhere")
        await restarted(ensemble)


async def joins_and_leaves(story, ensemble, kind):
    """A fourth server comes as an observer and gets a vote; a follower goes, and comes back."""
    fourth = ensemble.add(kind)
    fourth.start()
    await ensemble.wait([fourth])
    voters = ensemble.nodes[:3]
    roles = dict.fromkeys((1, 2, 3), "participant")
    await changed(voters, lambda session: change(session, joining=member(fourth, is_observer=True)))
    await agreed(ensemble.running, {**roles, 4: "observer"})
    await in_mode(fourth, "observer")
    start = time.monotonic()
    await changed(voters, lambda session: change(session, joining=member(fourth)))
    await agreed(ensemble.running, {**roles, 4: "participant"})
    await in_mode(fourth, "follower")
    story.say(f"an observer had its vote after {time.monotonic() - start:.2f} s")

    follower = next(node for node in await ensemble.followers() if node is not fourth)
    others = [node for node in ensemble.nodes if node is not follower]
    roles[4] = "participant"
    del roles[follower.number]
    text, stat = await changed(others, lambda session: change(session, leaving=str(follower.number)))
    assert server_lines(text) == roles, text
    assert stat.version == -1 and stat.mzxid == int(text.splitlines()[-1].removeprefix("version="), 16)
    await agreed(ensemble.running, roles)
    await follower.stop()
    roles[follower.number] = "participant"
    follower.start()
    await ensemble.wait([follower])
    await changed(others, lambda session: change(session, joining=member(follower)))
    await agreed(ensemble.running, roles)


async def leader_leaves(story, ensemble):
    """The leader is removed: another leads at once, and the old one goes on without a vote, then votes again."""
    leader = await ensemble.leader()
    others = [node for node in ensemble.nodes if node is not leader]
    roles = {node.number: "participant" for node in others}
    start = time.monotonic()
    await changed(others, lambda session: change(session, leaving=str(leader.number)))
    await agreed(others, roles)
    successor = await ensemble.leader(among=others)
    story.say(f"after the removal of the leader, {successor} led after {time.monotonic() - start:.2f} s")
    await in_mode(leader, "follower")
    roles[leader.number] = "participant"
    await changed(others, lambda session: change(session, joining=member(leader)))
    await agreed(ensemble.running, roles)


async def parts_change(story, ensemble):
    """Two voters become observers, the leader among them, and voters again, by whole lists."""
    leader = await ensemble.leader()
    follower = (await ensemble.followers())[0]
    demoted = (leader, follower)
    others = [node for node in ensemble.nodes if node not in demoted]
    lists = ",".join(member(node, is_observer=node in demoted) for node in ensemble.nodes)
    await changed(others, lambda session: change(session, members=lists))
    wanted = {node.number: "observer" if node in demoted else "participant" for node in ensemble.nodes}
    version = await agreed(ensemble.running, wanted)
    for node in demoted:
        await in_mode(node, "observer")
    # One vote after the other: with both at once no quorum would be in step.
    for node in demoted:
        session = await administrator(others)
        await refused(change(session, joining=member(node), version=version - 1), client.BAD_VERSION)
        await session.close()
        await changed(others, lambda session: change(session, joining=member(node), version=version))
        wanted[node.number] = "participant"
        version = await agreed(ensemble.running, wanted)


async def takes_clients(address):
    return await client.word(address, "srvr") is not None


async def moved(node, others, port):
    """A server's line names another client port: it is taken at once, and no other. Who is connected stays."""
    there = await client.open_session([node.address], timeout_ms=30_000)
    old, new = node.address, (node.host, port)
    node.client_port = port
    start = time.monotonic()
    await changed(others, lambda session: change(session, joining=member(node)))
    while not await takes_clients(new) or await takes_clients(old):
        if time.monotonic() - start > 20:
            raise AssertionError(f"{node} is to take clients at {new} and no longer at {old}")
        await asyncio.sleep(0.01)
    took = time.monotonic() - start
    assert [what for _, what, _ in there.events] == ["connected"], there.events
    assert f";{node.host}:{port}\n" in (await there.get(CONFIG))[0].decode()
    assert f"clientPort={port}\n" in await client.word(new, "conf")
    await there.close()
    return took


async def ports_move(story, ensemble):
    """The client ports of the leader and of a follower move, and back; one that is taken is not moved to."""
    leader = await ensemble.leader()
    for node in (leader, (await ensemble.followers())[0]):
        others = [other for other in ensemble.nodes if other is not node]
        home = node.client_port
        took = [await moved(node, others, port) for port in (free_port(), home)]
        story.say(f"the client port of {node} moved after {took[0]:.2f} s, and back after {took[1]:.2f} s")
        if node.is_java:
            continue
        with socket.create_server((node.host, free_port())) as holder:
            node.client_port = holder.getsockname()[1]
            await changed(others, lambda session: change(session, joining=member(node)))
            node.client_port = home
            while "as before" not in node.log_text():
                await asyncio.sleep(0.01)
        assert f"clientPort={home}\n" in await client.word(node.address, "conf")
        await changed(others, lambda session: change(session, joining=member(node)))
    assert await ensemble.leader() is leader, "a client port is no reason to change the leader"


async def restarted(ensemble):
    """All start again from the files that the changes have left."""
    wanted = {node.number: "participant" for node in ensemble.nodes}
    before = await agreed(ensemble.nodes, wanted)
    for node in ensemble.nodes:
        await node.stop()
        text = node.config.read_text()
        assert f"zoo.cfg.dynamic.{before:x}" in text and "server." not in text, text
        assert "server." in node.config.with_name("zoo.cfg.bak").read_text()
        node.keeps_config = True
    await ensemble.start()
    assert await agreed(ensemble.nodes, wanted) == before
    await ensemble.write_one()
