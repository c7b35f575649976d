"""Servers that are killed, stopped or frozen under load."""

import asyncio
import itertools
import random
import signal
import time

import check
from load import Load
from story import spread

# Settings under which snapshots and log rolls happen many times in a short run.
BUSY_FILES = ["snapCount=2000", "preAllocSize=16384"]
SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "freeze": signal.SIGSTOP}


async def verify(story, load, ensemble, may_expire=False):
    """Everything that was told, every node and every digest."""
    await load.stop()
    # The last events are on their way.
    await asyncio.sleep(0.3)
    wrong = await load.verify(ensemble, may_expire)
    trees, count = await check.same_trees(ensemble)
    digests, compared = await check.same_digests(ensemble)
    wrong += trees + digests + check.logs_clean(ensemble)
    wrong = story.excuse(wrong, lambda text: text.startswith("stale: ") and "sync_read" in text)
    story.check(wrong, f"{story.name} with seed {story.seed}")
    return len(load.acks), count, compared


async def end_leader(how, leader):
    """Kills, stops or freezes; gives the moment at which it was done."""
    moment = time.monotonic()
    if how == "kill":
        leader.kill()
    elif how == "freeze":
        leader.freeze()
    else:
        leader.signal(SIGNALS[how])
    return moment


async def bring_back(how, ensemble, leader):
    if how == "freeze":
        leader.thaw()
    else:
        await leader.stop()
        leader.start()
    await ensemble.wait()
    await ensemble.wait_equal()


async def leader_round(story, ensemble, how, seed):
    """One leader goes under load. Gives (gap in acknowledged writes, disconnects) of the others' clients."""
    leader = await ensemble.leader()
    others = [index for index, node in enumerate(ensemble.nodes) if node is not leader]
    timeout_ms = 30_000 if how == "freeze" else 10_000
    load = Load(
        ensemble.addresses, seed, workers=2, pause=0.002, pinned=True, timeout_ms=timeout_ms, root=f"/l{seed}"
    )
    async with load:
        await asyncio.sleep(1.5)
        # Clients pinned to the survivors, by their place.
        mine = [s for s in load.sessions if s.servers[0] in [ensemble.addresses[i] for i in others]]
        indexes = {session.index for session in mine}
        moment = await end_leader(how, leader)
        await wait_for_ack(load, indexes, moment, ensemble)
        await asyncio.sleep(0.7)
        end = time.monotonic()
        await bring_back(how, ensemble, leader)
        gap = load.gap(moment - 0.05, end, indexes)
        lost = sum(
            what == "disconnected" and moment <= at <= end for s in mine for at, what, _ in s.events
        )
        await asyncio.sleep(0.2)
        await load.hold()
        await verify(story, load, ensemble)
    return gap, lost, len(mine)


async def wait_for_ack(load, indexes, moment, ensemble, seconds=60):
    """Until a new leader's first writes are acknowledged at the survivors."""
    await ensemble.leader(among=[node for node in ensemble.running if node.is_running])
    settled = time.monotonic()
    while not any(at > settled and index in indexes for at, index in load.acks[-50:]):
        if time.monotonic() > moment + seconds:
            raise AssertionError(f"no write was acknowledged within {seconds} s of the leader's end")
        await asyncio.sleep(0.01)


async def leader_story(story, hows, rounds):
    """The same rounds for each kind side by side, so that the machine's mood is shared."""
    sides = [story.kinds] + ([[story.flags.beside]] if story.flags.beside else [])
    for how in hows:
        figures = {}
        async with contexts(story, sides) as ensembles:
            for number in range(rounds):
                for side, ensemble in zip(sides, ensembles):
                    gap, lost, clients = await leader_round(story, ensemble, how, story.seed * 1000 + number)
                    figures.setdefault(side[0], []).append((gap, lost, clients))
        for kind, rows in figures.items():
            gaps = [gap for gap, _, _ in rows]
            lost = sum(lost for _, lost, _ in rows)
            clients = sum(clients for _, _, clients in rows)
            story.say(
                f"{how} of the leader, {kind}: longest gap in writes {spread(gaps)}; "
                f"{lost} disconnects of the other servers' {clients} clients"
            )


class contexts:
    """Several ensembles at once."""

    def __init__(self, story, sides):
        self.story, self.sides, self.open = story, sides, []

    async def __aenter__(self):
        made = []
        for side in self.sides:
            context = self.story.ensemble(3, side, java_log="warn")
            made.append(await context.__aenter__())
            self.open.append(context)
        return made

    async def __aexit__(self, *failure):
        for context in reversed(self.open):
            try:
                await context.__aexit__(*failure)
            except AssertionError:
                pass  # Told by the first.


async def kill_leader(story):
    """kill -9 and SIGTERM of the leader under load: how long writes stop for the others' clients."""
    await leader_story(story, story.flags.how or ["kill", "term"], story.rounds(5))


async def freeze(story):
    """SIGSTOP of the leader: replaced within what syncLimit and tickTime allow, and back without harm."""
    await leader_story(story, ["freeze"], story.rounds(2))


# Each round compares everything that the ones before have written too.
ROUNDS_OF_AN_ENSEMBLE = 10


async def kill_all(story):
    """All servers killed at once under load and restarted in every order, again and again."""
    chooser = random.Random(story.seed)
    orders = list(itertools.permutations(range(3)))
    acks, starts, rounds = 0, [], story.rounds(50)
    while len(starts) < rounds:
        async with story.ensemble(3, settings=BUSY_FILES) as ensemble:
            for _ in range(min(ROUNDS_OF_AN_ENSEMBLE, rounds - len(starts))):
                number = len(starts)
                load = Load(ensemble.addresses, chooser.random(), timeout_ms=30_000, root=f"/all{number}")
                async with load:
                    await asyncio.sleep(0.2 + chooser.random() * 1.5)
                    for node in chooser.sample(ensemble.nodes, 3):
                        node.kill()
                    starts.append(await restart(ensemble, orders[number % 6], chooser))
                    await asyncio.sleep(0.3)
                    await load.hold()
                    acks += (await verify(story, load, ensemble))[0]
        story.say(
            f"{len(starts)} times all killed, {acks} acknowledged writes, none lost; "
            f"start to serving {spread(starts, 's', 1)}"
        )


async def restart(ensemble, order, chooser):
    """In this order, sometimes at once and sometimes the last one only when the others serve."""
    start = time.monotonic()
    waits = chooser.choice(("none", "a little", "for a quorum"))
    for place, index in enumerate(order):
        if place == 2 and waits == "for a quorum":
            await ensemble.wait()
        ensemble.nodes[index].start()
        if chooser.random() < 0.15:
            # A second crash in the middle of a start.
            await asyncio.sleep(chooser.random() * 0.5)
            ensemble.nodes[index].kill()
            ensemble.nodes[index].start()
        if waits == "a little":
            await asyncio.sleep(chooser.random() * 0.5)
    await ensemble.wait()
    return time.monotonic() - start
