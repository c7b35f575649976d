"""What must hold of a history and of servers; each check gives the violations as texts, none when all is well.

ZooKeeper tells the version of a register with every answer, so a history's order is known and a check costs
linear time: the versions of a key are its writes in their order, and each operation has to fit between the
operations that ended before it began and those that began after it ended.
"""

import asyncio
import bisect
import collections
import re

import client

# Done and told; refused with an error; never sent, so certainly not done; lost, so done once or not at all.
DONE, REFUSED, UNSENT, UNKNOWN = "done", "refused", "unsent", "unknown"

# Lines of a Java server's log that no story causes on purpose.
DIGEST_LINES = re.compile(r"[Dd]igest (?:mis|isn't)|digests? (?:do not|don't) match|The digest .* mismatch")
FAULT_LINES = re.compile(
    r"NullPointerException|AssertionError|IllegalStateException|ClassCastException|BufferUnderflow"
    r"|Unreasonable length|Invalid packet|Unexpected exception causing exit|OutOfMemoryError|IndexOutOfBounds"
)
# Apache's own: 3.8 fails on a COMMIT between NEWLEADER and UPTODATE (ZOOKEEPER-4394) and begins anew; a learner's
# request thread finds the socket closed beneath it.
APACHE_LINES = re.compile(r'"pif" is null|"this.learner.sock" is null')
PANIC_LINES = re.compile(r"panicked at|RUST_BACKTRACE|assertion failed")


class Op:
    """One operation of a client on a key: when, what was asked, and what came of it.

    `kind` is "set" (with `expected` version or -1), "read" or "sync_read" (whose `start` is the sync's).
    `version` and `zxid` are the register's after a set and as read by a read; `server` is the address of the
    server that was asked.
    """

    __slots__ = ("client", "kind", "key", "value", "expected", "start", "end", "outcome", "version", "zxid", "server")

    def __init__(self, client, kind, key, start, value=None, expected=-1):
        self.client, self.kind, self.key, self.start = client, kind, key, start
        self.value, self.expected = value, expected
        self.end, self.outcome, self.version, self.zxid = float("inf"), UNKNOWN, None, None
        self.server = None

    def __repr__(self):
        end = f"{self.end:.4f}"
        return (
            f"{self.client} {self.kind} {self.key} v{self.version} (expected {self.expected}) "
            f"{self.value} {self.outcome} zxid {self.zxid and hex(self.zxid)} {self.start:.4f}–{end} at {self.server}"
        )

    def done(self, end, version, zxid):
        self.end, self.version, self.zxid, self.outcome = end, version, zxid, DONE

    @property
    def is_set(self):
        return self.kind == "set"


def registers(history):
    """Per-key linearizability of sets, compare-and-sets and reads after a sync; per-session order of plain reads."""
    by_key = collections.defaultdict(list)
    for op in history:
        by_key[op.key].append(op)
    wrong = []
    for key in sorted(by_key):
        wrong += one_register(by_key[key])
    return wrong + zxid_order(history)


def one_register(ops):
    return (
        one_value_per_version(ops)
        + refused_unseen(ops)
        + real_time_order(ops)
        + nothing_from_the_future(ops)
        + session_order(ops)
        + honest_refusals(ops)
    )


def seen(ops):
    """The done operations: each shows a version with its value and zxid."""
    return [op for op in ops if op.outcome == DONE]


def one_value_per_version(ops):
    """A version has one value and one zxid, a value one version: nothing was overwritten unseen or done twice."""
    wrong, values, versions = [], {}, {}
    for op in seen(ops):
        other = values.setdefault(op.version, op)
        if (other.value, other.zxid) != (op.value, op.zxid):
            wrong.append(f"one version, two writes: {other} and {op}")
        other = versions.setdefault(op.value, op)
        if other.version != op.version:
            wrong.append(f"one write, two versions: {other} and {op}")
    by_version = [values[version] for version in sorted(values)]
    for low, high in zip(by_version, by_version[1:]):
        if low.zxid >= high.zxid:
            wrong.append(f"versions and zxids run apart: {low} and {high}")
    writers = [op for op in seen(ops) if op.is_set]
    if len({op.version for op in writers}) != len(writers):
        wrong.append(f"{ops[0].key}: two acknowledged writes made one version")
    return wrong


def refused_unseen(ops):
    refused = {op.value: op for op in ops if op.is_set and op.outcome in (REFUSED, UNSENT)}
    return [f"a refused write was seen: {refused[op.value]} by {op}" for op in seen(ops) if op.value in refused]


def real_time_order(ops):
    """What ended before a write or a synced read began is below it (a write) or not above it (a read)."""
    wrong = []
    strong = [op for op in seen(ops) if op.kind != "read"]
    ended = sorted(strong, key=lambda op: op.end)
    highest, at = None, 0
    for op in sorted(strong, key=lambda op: op.start):
        while at < len(ended) and ended[at].end < op.start:
            if highest is None or ended[at].version > highest.version:
                highest = ended[at]
            at += 1
        if highest is None:
            continue
        floor = highest.version + 1 if op.is_set else highest.version
        if op.version < floor:
            wrong.append(f"stale: {op} began after {highest} had ended")
        if op.is_set and op.expected >= 0 and op.version != op.expected + 1:
            wrong.append(f"compare-and-set of another version: {op}")
    return wrong


def nothing_from_the_future(ops):
    """A read shows no write that began after it ended."""
    began = {op.value: op.start for op in ops if op.is_set}
    return [
        f"read before it was written: {op}"
        for op in seen(ops)
        if not op.is_set and began.get(op.value, 0) > op.end
    ]


def session_order(ops):
    """One client never sees a register go back, whatever server it is at."""
    wrong, last = [], {}
    for op in sorted(seen(ops), key=lambda op: op.end):
        before = last.get(op.client)
        if before and op.version < before.version and before.end <= op.start:
            wrong.append(f"a session went back in time: {op} after {before}")
        if not before or op.version >= before.version:
            last[op.client] = op
    return wrong


def honest_refusals(ops):
    """BADVERSION is only said if another version was there at some time while the operation ran."""
    wrong = []
    first_end = {}  # version → the earliest time at which it certainly existed
    starts = {}  # version → the start of the write that made it
    for op in seen(ops):
        first_end[op.version] = min(first_end.get(op.version, op.end), op.end)
        if op.is_set:
            starts[op.version] = op.start
    for op in ops:
        if not (op.is_set and op.outcome == REFUSED and op.expected >= 0):
            continue
        was_there = first_end.get(op.expected, float("inf")) < op.start
        maker = starts.get(op.expected + 1)
        if was_there and maker is not None and maker > op.end:
            wrong.append(f"refused though its version was there all the time: {op}")
    return wrong


def zxid_order(history):
    """Over all keys: a write that began after another had ended has the higher zxid."""
    writes = [op for op in history if op.is_set and op.outcome == DONE]
    ended = sorted(writes, key=lambda op: op.end)
    highest, at, wrong = None, 0, []
    for op in sorted(writes, key=lambda op: op.start):
        while at < len(ended) and ended[at].end < op.start:
            if highest is None or ended[at].zxid > highest.zxid:
                highest = ended[at]
            at += 1
        if highest and op.zxid <= highest.zxid:
            wrong.append(f"zxids against time: {op} began after {highest} had ended")
    return wrong


def nodes_kept(ledger, present):
    """Acknowledged creates are there, acknowledged deletes gone, refused creates never came.

    `ledger` maps a path to (create outcome, delete outcome or None); `present` is the set of existing paths.
    """
    wrong = []
    for path, (created, deleted) in ledger.items():
        if created == DONE and deleted is None and path not in present:
            wrong.append(f"an acknowledged create is lost: {path}")
        if deleted == DONE and path in present:
            wrong.append(f"an acknowledged delete is undone: {path}")
        if created in (REFUSED, UNSENT) and path in present:
            wrong.append(f"a refused create is there: {path}")
    return wrong


def groups_whole(groups, present):
    """The nodes of a multi are there together or not at all."""
    wrong = []
    for paths in groups:
        there = [path for path in paths if path in present]
        if there and len(there) != len(paths):
            wrong.append(f"a multi is there in part: {there} of {paths}")
    return wrong


def sequence_grows(made):
    """Sequential names, as (parent, number, start, end), are unique and grow with time below each parent."""
    wrong = []
    by_parent = collections.defaultdict(list)
    for parent, number, start, end in made:
        by_parent[parent].append((number, start, end))
    for parent, entries in by_parent.items():
        numbers = [number for number, _, _ in entries]
        if len(set(numbers)) != len(numbers):
            wrong.append(f"a sequence number of {parent} was given twice")
        ended = sorted((end, number) for number, _, end in entries)
        ends, highest, so_far = [], [], -1
        for end, number in ended:
            so_far = max(so_far, number)
            ends.append(end)
            highest.append(so_far)
        for number, start, _ in entries:
            at = bisect.bisect_left(ends, start)
            if at and highest[at - 1] >= number:
                wrong.append(f"{parent}: {number} came after {highest[at - 1]} had been told")
    return wrong


def sessions_kept(sessions):
    """No session that was pinging has expired."""
    wrong = []
    for session in sessions:
        for at, what, server in session.events:
            if what == "expired":
                shown = [(f"{when:.3f}", kind, place) for when, kind, place in session.events[-6:]]
                wrong.append(f"session {session.name} {session.id:#x} expired: {shown}")
    return wrong


async def tree_of(session, root="/"):
    """Every node below `root` as {path: (data, stat, acl)}, read with many requests in flight."""
    nodes, level = {}, [root]
    while level:
        following = []
        for at in range(0, len(level), 256):
            part = level[at : at + 256]
            for path, found in zip(part, await asyncio.gather(*(node_of(session, path) for path in part))):
                if found:
                    nodes[path], names = found
                    following += [f"{path.rstrip('/')}/{name}" for name in names]
        level = following
    return nodes


async def node_of(session, path):
    """((data, stat, acl), names of the children); None when it went away meanwhile."""
    try:
        (data, stat), (acl, _), names = await asyncio.gather(
            session.get(path), session.acl(path), session.children(path)
        )
    except client.Refused as refused:
        if refused.code == client.NO_NODE:
            return None
        raise
    if path == "/zookeeper/config":
        # Each server makes this node for itself at its start.
        stat = stat._replace(mtime=0)
    return (data, stat, acl), names


async def same_trees(ensemble, root="/"):
    """(violations, node count): all running servers hold the same nodes, field by field."""
    await settle(ensemble)
    zxid = await ensemble.wait_equal()
    trees = {}
    for node in ensemble.running:
        session = client.Session([node.address], timeout_ms=30_000, name=f"dump{node.number}")
        await session.start()
        trees[node] = await tree_of(session, root)
        await session.close()
    wrong = []
    (first, reference), *others = trees.items()
    for node, tree in others:
        wrong += differences(first, reference, node, tree)
    return [f"{text} (at zxid {zxid:#x})" for text in wrong], len(reference)


def differences(first, reference, node, tree):
    wrong = []
    for path in sorted(set(reference) | set(tree)):
        if reference.get(path) != tree.get(path):
            wrong.append(f"{path} differs: {first} has {reference.get(path)}, {node} has {tree.get(path)}")
    return wrong


async def settle(ensemble):
    """Writes until the zxid has passed a multiple of 128, where digests are remembered."""
    leader = await ensemble.leader()
    session = await client.open_session([leader.address], timeout_ms=30_000, name="settle")
    await session.ensure("/settled")
    passed = set()
    while len(passed) < 2:
        stats = await asyncio.gather(*(session.set("/settled", b"") for _ in range(32)))
        passed |= {stat.mzxid // 128 for stat in stats}
    await session.delete("/settled")
    await session.close()


async def same_digests(ensemble):
    """(violations, digests compared): `hash` agrees at every zxid that two servers remember, and no server
    has counted a mismatch."""
    await settle(ensemble)
    await ensemble.wait_equal()
    wrong, compared, known = [], 0, {}
    for node in ensemble.running:
        for zxid, digest in (await node.digests()).items():
            if zxid <= node.fuzzy_until:
                continue
            other = known.setdefault(zxid, (node, digest))
            compared += other[0] is not node
            if other[1] != digest:
                wrong.append(f"digests at {zxid:#x}: {other[0]} {other[1]}, {node} {digest}")
        count = await mismatches(node)
        if count > node.mismatches_known:
            wrong.append(f"{node} counts {count} digest mismatches, {node.mismatches_known} were known")
    if not compared and len(ensemble.running) > 1:
        wrong.append("no two servers remember the digest of one zxid")
    return wrong, compared


def is_replay(line):
    """A Java server that starts reads its own log back, on its first thread, over its own fuzzy snapshot.

    Where a transaction was applied to its nodes and its digest not yet noted when the snapshot's end was written
    (`DataTree.processTxn` does one after the other, `serializeZxidDigest` runs beside it), the snapshot holds that
    transaction under the digest of the one before: which then counts two mismatches, of the snapshot
    (`compareSnapshotDigests`) and of itself (`compareDigest`), and the next one none."""
    return bool(re.search(r"\[main\] ERROR|Z main ERROR", line))


def replayed_only(node):
    """Whether the mismatches of a Java server's present process are all of its own start."""
    present = node.log_text().rsplit("--- started as", 1)[-1]
    lines = [line for line in present.splitlines() if DIGEST_LINES.search(line)]
    return node.is_java and bool(lines) and all(map(is_replay, lines))


async def mismatches(node):
    """Digest mismatches that the server has counted since its start, but for those of reading its own log."""
    if replayed_only(node):
        return 0
    return float((await node.metrics()).get("zk_digest_mismatches_count", 0))


def logs_clean(ensemble):
    """No digest mismatch, no exception that stands for a broken invariant, no panic."""
    wrong = []
    for node in ensemble.nodes:
        text = node.log_text()
        lines = [line for line in text[node.log_excused :].splitlines() if DIGEST_LINES.search(line)]
        lines = [line for line in lines if not (node.is_java and is_replay(line))]
        for line in text.splitlines():
            is_fault = FAULT_LINES.search(line) or PANIC_LINES.search(line)
            if is_fault and not APACHE_LINES.search(line):
                lines.append(line)
        wrong += [f"the log of {node}: {line.strip()[:300]}" for line in lines]
    return wrong
