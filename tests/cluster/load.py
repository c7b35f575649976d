"""Steady load from many sessions, with a record of all that was told, so that it can be checked afterwards."""

import asyncio
import random
import time

import check
import client
from check import DONE, REFUSED, UNKNOWN, UNSENT, Op

REGISTERS = 8




class Load:
    """Sessions spread over the servers of `addresses`; start, let things happen, stop, check.

    `pause` seconds lie between two operations of one worker: 0 is as fast as it goes. Pinned sessions stay with
    one server, others go round all of them when they lose theirs.
    """

    def __init__(self, addresses, seed, workers=2, pause=0.0, timeout_ms=10_000, root="/load", pinned=False):
        self.addresses, self.random = list(addresses), random.Random(seed)
        self.workers, self.pause, self.timeout_ms = workers, pause, timeout_ms
        self.root, self.pinned = root, pinned
        self.history, self.sessions, self.tasks, self.faults = [], [], [], []
        self.nodes, self.groups, self.sequence = {}, [], []
        self.ephemerals = {}  # path → session
        self.acks = []  # (time, session's index) of every acknowledged write
        self.watched = {}  # session → {key: (version, time)}
        self.is_over = False
        # Errors that a story brings about: what is refused with one was not done, and that is all.
        self.spared = set()
        self.may_go = asyncio.Event()
        self.may_go.set()
        self.busy = 0
        self.number = 0

    def session(self, first, **named):
        servers = [self.addresses[first % len(self.addresses)]] if self.pinned else self.addresses
        name = f"s{len(self.sessions)}"
        made = client.Session(servers, self.timeout_ms, 0 if self.pinned else first, name=name, **named)
        made.index = len(self.sessions)
        self.sessions.append(made)
        return made

    async def start(self):
        """Makes the nodes, and starts a register worker, a node worker and a watcher for each server and turn."""
        setup = await client.open_session(self.addresses, timeout_ms=self.timeout_ms, name="setup")
        for path in (self.root, *(f"{self.root}/{name}" for name in ("r", "n", "q", "e"))):
            await setup.ensure(path)
        for key in range(REGISTERS):
            await setup.ensure(f"{self.root}/r/{key}", b"first")
        await setup.close()
        for turn in range(self.workers):
            for place in range(len(self.addresses)):
                await self.add(self.register_worker, place)
                await self.add(self.node_worker, place)
                if turn == 0:
                    await self.add(self.watcher, place)
        return self

    async def add(self, worker, place):
        session = await self.session(place).start()
        await session.sync("/")  # The server may be behind the nodes that it is asked about first.
        chooser = random.Random(self.random.random())
        self.tasks.append(asyncio.create_task(worker(session, chooser)))

    async def attempt(self, op, awaitable, expected=()):
        """Runs it for `op`; gives its result, or None with the outcome noted. Other errors than the expected
        ones are faults: every worker knows what is there, of its own nodes and of the registers."""
        try:
            return await awaitable
        except client.Refused as refused:
            is_spared = refused.code in self.spared
            op.outcome, op.end = UNSENT if is_spared else REFUSED, time.monotonic()
            if not is_spared and refused.code not in (*expected, client.SESSION_MOVED):
                self.faults.append(f"error {refused.code} for {op}")
        except client.NotSent:
            op.outcome, op.end = UNSENT, time.monotonic()
            await asyncio.sleep(0.02)
        except client.Lost:
            op.outcome = UNKNOWN
        return None

    def value(self):
        self.number += 1
        return f"value {self.number}".encode()

    def acked(self, session):
        self.acks.append((time.monotonic(), session.index))

    async def turn(self, chooser):
        """Between two operations of a worker; waits while the load is held."""
        if self.pause:
            await asyncio.sleep(self.pause * 2 * chooser.random())
        if not self.may_go.is_set():
            self.busy -= 1
            await self.may_go.wait()
            self.busy += 1
        return not self.is_over

    async def hold(self):
        """Until no operation is under way; sessions, watches and ephemerals stay."""
        self.may_go.clear()
        end = time.monotonic() + self.timeout_ms / 1000 + 20
        while self.busy:
            if time.monotonic() > end:
                raise AssertionError(f"{self.busy} workers hang in a request")
            await asyncio.sleep(0.01)

    def release(self):
        self.may_go.set()

    async def register_worker(self, session, chooser):
        """Sets, compare-and-sets, reads, and reads after a sync, one after the other."""
        known = {}
        self.busy += 1
        while await self.turn(chooser):
            key = f"{self.root}/r/{chooser.randrange(REGISTERS)}"
            kind = chooser.choices(("set", "cas", "read", "sync_read"), (3, 3, 2, 2))[0]
            if kind in ("set", "cas"):
                await self.set_register(session, key, known.get(key, 0) if kind == "cas" else -1, known)
            else:
                await self.read_register(session, key, kind, known)
        self.busy -= 1

    async def set_register(self, session, key, expected, known):
        op = Op(session.name, "set", key, time.monotonic(), self.value(), expected)
        op.server = session.server
        self.history.append(op)
        stat = await self.attempt(op, session.set(key, op.value, expected), [client.BAD_VERSION])
        if stat:
            op.done(time.monotonic(), stat.version, stat.mzxid)
            known[key] = stat.version
            self.acked(session)

    async def read_register(self, session, key, kind, known):
        op = Op(session.name, kind, key, time.monotonic())
        link = session.link
        op.server = session.server
        self.history.append(op)
        if kind == "sync_read" and await self.attempt(op, session.sync(key)) is None:
            return
        found = await self.attempt(op, session.get(key))
        if session.link is not link:
            # The sync was another connection's: it says nothing of the server that was read.
            op.kind = "read"
        if found:
            op.value = found[0]
            op.done(time.monotonic(), found[1].version, found[1].mzxid)
            known[key] = found[1].version

    async def node_worker(self, session, chooser):
        """An ephemeral node for the whole time; creates, deletes, multis and sequential nodes of its own."""
        path = f"{self.root}/e/{session.name}"
        await self.make(session, path, client.EPHEMERAL)
        if self.nodes[path][0] == DONE:
            self.ephemerals[path] = session
        mine = []
        self.busy += 1
        while await self.turn(chooser):
            kind = chooser.choices(("create", "delete", "multi", "sequence"), (4, 3, 2, 2))[0]
            if kind == "delete" and mine:
                await self.remove(session, mine.pop(chooser.randrange(len(mine))))
            elif kind == "multi":
                await self.make_group(session)
            elif kind == "sequence":
                await self.make_sequential(session)
            else:
                self.number += 1
                path = f"{self.root}/n/{session.name}-{self.number}"
                await self.make(session, path)
                mine += [path] if self.nodes[path][0] == DONE else []
        self.busy -= 1

    async def make(self, session, path, flags=client.PLAIN):
        self.nodes[path] = (UNKNOWN, None)
        op = Op(session.name, "create", path, time.monotonic())
        if await self.attempt(op, session.create(path, path.encode(), flags)):
            op.outcome = DONE
            self.acked(session)
        self.nodes[path] = (op.outcome, None)

    async def remove(self, session, path):
        self.nodes[path] = (DONE, UNKNOWN)
        op = Op(session.name, "delete", path, time.monotonic())
        if await self.attempt(op, session.delete(path)) is not None:
            op.outcome = DONE
            self.acked(session)
        self.nodes[path] = (DONE, None if op.outcome in (REFUSED, UNSENT) else op.outcome)

    async def make_group(self, session):
        self.number += 1
        paths = [f"{self.root}/n/m{self.number}-{part}" for part in "abc"]
        op = Op(session.name, "multi", paths[0], time.monotonic())
        self.groups.append(paths)
        for path in paths:
            self.nodes[path] = (UNKNOWN, None)
        bodies = [(client.CREATE, client.create_body(path, b"of a multi")) for path in paths]
        if await self.attempt(op, session.multi(bodies)) is not None:
            op.outcome = DONE
            self.acked(session)
        for path in paths:
            self.nodes[path] = (op.outcome, None)

    async def make_sequential(self, session):
        op = Op(session.name, "sequence", "", time.monotonic())
        made = await self.attempt(op, session.create(f"{self.root}/q/s-", b"", client.SEQUENTIAL))
        if made:
            self.acked(session)
            self.nodes[made[0]] = (DONE, None)
            number = int(made[0].rsplit("-", 1)[1])
            self.sequence.append((f"{self.root}/q", number, op.start, time.monotonic()))

    async def watcher(self, session, chooser):
        """Reads a register with a one-shot watch, again and again after each event: to its cancellation, since the
        last event may come after the load has stopped."""
        changed = asyncio.Event()
        session.on_event = lambda kind, path: changed.set()
        key = f"{self.root}/r/{chooser.randrange(REGISTERS)}"
        while True:
            changed.clear()
            try:
                _, stat = await session.get(key, watch=True)
            except client.Refused as refused:
                raise AssertionError(f"watching {key}: {refused}") from None
            except (client.Lost, client.NotSent):
                await asyncio.sleep(0.02)
                continue
            session.watched.add(key)
            self.watched[session] = (key, stat.version)
            await changed.wait()

    async def stop(self):
        """Lets the workers finish what they are at; watchers wait for their last event until `check`."""
        self.is_over = True
        self.release()
        workers = [task for task in self.tasks if task.get_coro().__name__ != "watcher"]
        if workers:
            done, late = await asyncio.wait(workers, timeout=self.timeout_ms / 1000 + 20)
            for task in done:
                task.result()
            if late:
                raise AssertionError(f"{len(late)} workers hang in a request")

    async def close(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await asyncio.gather(*(session.close() for session in self.sessions))

    async def __aenter__(self):
        return await self.start()

    async def __aexit__(self, *_):
        self.is_over = True
        await self.close()

    async def verify(self, ensemble, may_expire=False):
        """All checks of what was told against every running server; the violations."""
        wrong = [] if may_expire else check.sessions_kept(self.sessions)
        wrong += self.faults + check.sequence_grows(self.sequence)
        final = []
        for node in ensemble.running:
            session = client.Session([node.address], timeout_ms=30_000, name=f"final{node.number}")
            await session.start()
            await session.sync("/")
            start = time.monotonic()
            tree = await check.tree_of(session, self.root)
            await session.close()
            present = set(tree)
            told = [*check.nodes_kept(self.lasting(), present), *check.groups_whole(self.groups, present)]
            wrong += [f"{node}: {text}" for text in told]
            wrong += [f"{node}: {text}" for text in self.ephemerals_owned(tree)]
            for key in range(REGISTERS):
                op = Op(session.name, "sync_read", f"{self.root}/r/{key}", start)
                data, stat, _ = tree[op.key]
                op.value = data
                op.done(time.monotonic(), stat.version, stat.mzxid)
                final.append(op)
        wrong += check.registers(self.history + final)
        wrong += self.watches_told({op.key: op.version for op in final})
        return wrong

    def lasting(self):
        """The ledger without ephemeral nodes, whose owners may have gone."""
        return {path: told for path, told in self.nodes.items() if "/e/" not in path}

    def ephemerals_owned(self, tree):
        wrong = []
        for path, session in self.ephemerals.items():
            if session.is_over:
                continue
            owner = tree[path][1].owner if path in tree else None
            if owner != session.id:
                wrong.append(f"{path} of session {session.id:#x} is of {owner and hex(owner)}")
        return wrong

    def watches_told(self, versions):
        """A watcher has read the last version of its register: no event was lost."""
        return [
            f"{session.name} watches {key} and knows {version}, it is at {versions[key]}"
            for session, (key, version) in self.watched.items()
            if not session.is_over and version != versions[key]
        ]

    def gap(self, start, end, indexes=None):
        """Seconds of the longest time without an acknowledged write between two moments."""
        times = [at for at, index in self.acks if start <= at <= end and (indexes is None or index in indexes)]
        times = [start, *times, end]
        return max(later - sooner for sooner, later in zip(times, times[1:]))

    def expired(self):
        return sum(what == "expired" for session in self.sessions for _, what, _ in session.events)
