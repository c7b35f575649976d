"""A ZooKeeper client for histories: every operation ends as done, refused or unknown, and says when.

Raw protocol on asyncio, so that thousands of operations a second come from one thread and nothing is retried,
cached or hidden: what was acknowledged is what was read here.
"""

import asyncio
import collections
import itertools
import random
import struct
import time

CREATE, DELETE, EXISTS, GET_DATA, SET_DATA, GET_ACL, SET_ACL = 1, 2, 3, 4, 5, 6, 7
GET_CHILDREN, SYNC, PING, CHECK, MULTI, CREATE2 = 8, 9, 11, 13, 14, 15
CREATE_CONTAINER, CREATE_TTL, SET_WATCHES, ADD_WATCH, CLOSE = 19, 21, 101, 106, -11

EVENT_XID, PING_XID, WATCHES_XID = -1, -2, -8

NO_NODE, BAD_VERSION, NODE_EXISTS, NOT_EMPTY = -101, -103, -110, -111
SESSION_EXPIRED, SESSION_MOVED = -112, -118
NOT_READ_ONLY, EPHEMERAL_ON_LOCAL_SESSION = -119, -120

# Flags of a create.
PLAIN, EPHEMERAL, SEQUENTIAL, EPHEMERAL_SEQUENTIAL, CONTAINER, TTL = 0, 1, 2, 3, 4, 5

STAT = struct.Struct(">qqqqiiiqiiq")
Stat = collections.namedtuple(
    "Stat",
    "czxid mzxid ctime mtime version cversion aversion owner length children pzxid",
)

# A frame longer than this is garbage: four times what `jute.maxbuffer` allows.
FRAME_BYTES_MAX = 4 << 20
# Between two tries to connect; short beside every gap that is measured here.
RETRY_SECONDS = 0.02


class Refused(Exception):
    """The server answered with an error: the operation did not happen."""

    def __init__(self, code, zxid=0):
        super().__init__(f"error {code}")
        self.code, self.zxid = code, zxid


class NotSent(Exception):
    """There was no connection: the operation did not happen."""


class Lost(Exception):
    """The connection ended before the answer: it may have happened, once."""


class Expired(NotSent):
    """The session is over."""


async def within(seconds, awaitable):
    """Its result; raises TimeoutError. Unlike `asyncio.wait_for` before Python 3.12 it heeds a cancellation that
    comes in the moment of the result: else what is to end would go on, and be waited for without end."""
    async with asyncio.timeout(seconds):
        return await awaitable


def buffer(data):
    return struct.pack(">i", len(data)) + data


def text(value):
    return buffer(value.encode())


def acl_of(*entries):
    """(permissions, scheme, id) each, as it goes on the wire."""
    parts = [struct.pack(">i", perms) + text(scheme) + text(name) for perms, scheme, name in entries]
    return struct.pack(">i", len(parts)) + b"".join(parts)


OPEN_ACL = acl_of((31, "world", "anyone"))


def create_body(path, data, flags=PLAIN, acl=OPEN_ACL, ttl=None):
    body = text(path) + buffer(data) + acl + struct.pack(">i", flags)
    return body if ttl is None else body + struct.pack(">q", ttl)


def set_body(path, data, version=-1):
    return text(path) + buffer(data) + struct.pack(">i", version)


def delete_body(path, version=-1):
    return text(path) + struct.pack(">i", version)


def multi_body(operations):
    """Of (opcode, body) pairs."""
    parts = [struct.pack(">i?i", opcode, False, -1) + body for opcode, body in operations]
    return b"".join(parts) + struct.pack(">i?i", -1, True, -1)


def read_buffer(body, at=0):
    length = struct.unpack_from(">i", body, at)[0]
    length = max(length, 0)
    return body[at + 4 : at + 4 + length], at + 4 + length


def read_path_and_stat(body):
    path, at = read_buffer(body)
    return path.decode(), Stat(*STAT.unpack_from(body, at))


class Link(asyncio.Protocol):
    """One connection: frames in and out, answers in the order of their requests."""

    def __init__(self, on_event):
        self.on_event = on_event
        self.transport, self.inbox = None, b""
        self.hello = asyncio.get_running_loop().create_future()
        self.closed = asyncio.get_running_loop().create_future()
        self.waiting = collections.deque()
        self.heard = time.monotonic()
        self.zxid = 0

    def connection_made(self, transport):
        self.transport = transport

    def connection_lost(self, error):
        for future in [self.hello, *(future for _, future in self.waiting)]:
            if not future.done():
                future.set_exception(Lost(str(error)))
                future.exception()  # Nobody may be waiting any more; that is no fault.
        self.waiting.clear()
        if not self.closed.done():
            self.closed.set_result(error)

    def data_received(self, data):
        self.heard = time.monotonic()
        inbox = self.inbox + data if self.inbox else data
        at = 0
        while len(inbox) - at >= 4:
            length = struct.unpack_from(">i", inbox, at)[0]
            if not 0 <= length <= FRAME_BYTES_MAX:
                raise AssertionError(f"a frame of {length} bytes")
            if len(inbox) - at - 4 < length:
                break
            self.frame(inbox[at + 4 : at + 4 + length])
            at += 4 + length
        self.inbox = inbox[at:]

    def frame(self, payload):
        if not self.hello.done():
            self.hello.set_result(payload)
            return
        xid, zxid, error = struct.unpack_from(">iqi", payload)
        if xid == EVENT_XID:
            kind, _ = struct.unpack_from(">ii", payload, 16)
            self.on_event(kind, read_buffer(payload, 24)[0].decode())
            return
        if zxid > 0:
            self.zxid = max(self.zxid, zxid)
        expected, future = self.waiting.popleft()
        if xid != expected:
            raise AssertionError(f"an answer to {xid} where {expected} was due")
        if future.done():
            return
        if error:
            future.set_exception(Refused(error, zxid))
            future.exception()
        else:
            future.set_result((zxid, payload[16:]))

    def send(self, xid, opcode, body=b""):
        future = asyncio.get_running_loop().create_future()
        self.waiting.append((xid, future))
        payload = struct.pack(">ii", xid, opcode) + body
        self.transport.write(buffer(payload))
        return future

    def close(self):
        if self.transport:
            self.transport.abort()


class Session:
    """A session that pings, and goes to the next server of its list when its connection ends.

    `events` holds (time, what, server index): "connected", "disconnected", "expired". `watched` paths have
    one-shot data watches, which are taken along to the next server; `on_event(kind, path)` is told of events.
    `read_only` says that a read-only server will do; `is_read_only` that it is connected to one.
    """

    def __init__(self, servers, timeout_ms=10_000, first=0, on_event=None, name="", read_only=False):
        self.servers, self.at, self.name = list(servers), first, name
        self.asked_ms = self.timeout_ms = timeout_ms
        self.id, self.password, self.zxid = 0, bytes(16), 0
        self.read_only, self.is_read_only = read_only, False
        self.events, self.watched = [], set()
        self.on_event = on_event or (lambda kind, path: None)
        self.link, self.is_over = None, False
        self.up = asyncio.Event()
        self.xids = itertools.count(1)
        self.task = None

    async def start(self, wait=True, seconds=60):
        self.task = asyncio.create_task(self.run())
        if wait:
            await within(seconds, self.up.wait())
        return self

    def note(self, what):
        self.events.append((time.monotonic(), what, self.at % len(self.servers)))

    async def run(self):
        while not self.is_over:
            link = None
            try:
                link = await self.connect()
                await self.stay(link)
            except (OSError, Lost, asyncio.TimeoutError):
                pass
            finally:
                was_up = self.up.is_set()
                self.up.clear()
                if link:
                    self.zxid = max(self.zxid, link.zxid)
                    link.close()
                if was_up and not self.is_over:
                    self.note("disconnected")
            if not self.is_over:
                self.at += 1
                await asyncio.sleep(RETRY_SECONDS * (0.5 + random.random()))

    @property
    def server(self):
        """The address that it is connected to, or tries next."""
        host, port = self.servers[self.at % len(self.servers)]
        return f"{host}:{port}"

    async def connect(self):
        host, port = self.servers[self.at % len(self.servers)]
        loop = asyncio.get_running_loop()
        link = Link(self.handle_event)
        # A stock client gives each server its share of the timeout; a dead one must not eat it all.
        patience = max(self.timeout_ms / 1000 / 3, 1)
        try:
            await within(patience, loop.create_connection(lambda: link, host, port))
            hello = struct.pack(">iqiq", 0, self.zxid, self.asked_ms, self.id)
            link.transport.write(buffer(hello + buffer(self.password) + bytes([self.read_only])))
            answer = await within(patience, link.hello)
        except BaseException:
            link.close()
            raise
        _, timeout_ms, session = struct.unpack_from(">iiq", answer)
        if session == 0 or timeout_ms <= 0:
            self.is_over = True
            self.note("expired")
            link.close()
            raise Lost("expired")
        self.id, self.timeout_ms = session, timeout_ms
        self.password, at = read_buffer(answer, 16)
        self.is_read_only = answer[at:] == b"\1"
        if self.watched:
            link.send(WATCHES_XID, SET_WATCHES, self.watches_body())
        self.link = link
        self.note("connected")
        self.up.set()
        return link

    def watches_body(self):
        paths = sorted(self.watched)
        listed = struct.pack(">i", len(paths)) + b"".join(text(path) for path in paths)
        return struct.pack(">q", self.zxid) + listed + struct.pack(">ii", 0, 0)

    async def stay(self, link):
        """Pings as stock clients do, and leaves a server that is silent for two thirds of the timeout."""
        beat = self.timeout_ms / 1000 / 3
        while not link.closed.done():
            await asyncio.wait([link.closed], timeout=beat)
            if link.closed.done():
                return
            if time.monotonic() - link.heard > 2 * beat:
                return
            link.send(PING_XID, PING)

    def handle_event(self, kind, path):
        self.watched.discard(path)
        self.on_event(kind, path)

    async def request(self, opcode, body, patience=None):
        """(zxid, body) of the answer. Raises Refused, NotSent or Lost."""
        if not self.up.is_set():
            if self.is_over:
                raise Expired(self.name)
            try:
                await within(patience or self.timeout_ms / 1000, self.up.wait())
            except asyncio.TimeoutError:
                raise NotSent(f"{self.name}: no connection") from None
        link = self.link
        if link.closed.done():
            raise NotSent("just closed")
        zxid, answer = await link.send(next(self.xids), opcode, body)
        self.zxid = max(self.zxid, link.zxid)
        return zxid, answer

    async def create(self, path, data=b"", flags=PLAIN, acl=OPEN_ACL, ttl=None):
        """(the path made, its stat)."""
        opcode = CREATE_TTL if ttl is not None else CREATE_CONTAINER if flags == CONTAINER else CREATE2
        _, body = await self.request(opcode, create_body(path, data, flags, acl, ttl))
        return read_path_and_stat(body)

    async def ensure(self, path, data=b""):
        """Makes the node unless it is there."""
        try:
            await self.create(path, data)
        except Refused as refused:
            if refused.code != NODE_EXISTS:
                raise

    async def set(self, path, data, version=-1):
        _, body = await self.request(SET_DATA, set_body(path, data, version))
        return Stat(*STAT.unpack_from(body))

    async def get(self, path, watch=False):
        """(data, stat)."""
        _, body = await self.request(GET_DATA, text(path) + bytes([watch]))
        data, at = read_buffer(body)
        return data, Stat(*STAT.unpack_from(body, at))

    async def delete(self, path, version=-1):
        zxid, _ = await self.request(DELETE, delete_body(path, version))
        return zxid

    async def exists(self, path):
        try:
            _, body = await self.request(EXISTS, text(path) + b"\0")
        except Refused as refused:
            if refused.code == NO_NODE:
                return None
            raise
        return Stat(*STAT.unpack_from(body))

    async def children(self, path):
        _, body = await self.request(GET_CHILDREN, text(path) + b"\0")
        count, at, names = struct.unpack_from(">i", body)[0], 4, []
        for _ in range(count):
            name, at = read_buffer(body, at)
            names.append(name.decode())
        return sorted(names)

    async def acl(self, path):
        """The list's bytes as they came, and the node's stat."""
        _, body = await self.request(GET_ACL, text(path))
        return body[: -STAT.size], Stat(*STAT.unpack_from(body, len(body) - STAT.size))

    async def set_acl(self, path, acl, version=-1):
        await self.request(SET_ACL, text(path) + acl + struct.pack(">i", version))

    async def sync(self, path="/"):
        zxid, _ = await self.request(SYNC, text(path))
        return zxid

    async def multi(self, operations):
        """All or nothing; Refused when nothing."""
        zxid, body = await self.request(MULTI, multi_body(operations))
        kind = struct.unpack_from(">i", body)[0]
        if kind == -1:
            raise Refused(next(filter(None, multi_errors(body)), 0), zxid)
        return zxid

    async def close(self):
        """Ends the session, and waits for the server to say so."""
        self.is_over = True
        if self.up.is_set() and not self.link.closed.done():
            try:
                await within(5, self.link.send(next(self.xids), CLOSE))
            except (Lost, Refused, asyncio.TimeoutError):
                pass
        await self.abandon()

    async def abandon(self):
        """Goes away without a word; the session stays until it expires."""
        self.is_over = True
        if self.link:
            self.link.close()
        if self.task:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)


def multi_errors(body):
    """The error codes of a multi's answer in which nothing was done."""
    at, codes = 0, []
    while at + 9 <= len(body):
        kind, done, _ = struct.unpack_from(">i?i", body, at)
        at += 9
        if done:
            break
        if kind != -1:
            raise AssertionError(f"a result of kind {kind} beside an error")
        codes.append(struct.unpack_from(">i", body, at)[0])
        at += 4
    return codes


async def open_session(servers, **named):
    return await Session(servers, **named).start()


async def word(address, name, timeout=3.0):
    """A four-letter word's whole answer, or None when the server gives none."""
    async def ask():
        reader, writer = await asyncio.open_connection(*address)
        try:
            writer.write(name.encode())
            return (await reader.read(-1)).decode(errors="replace")
        finally:
            writer.close()

    try:
        return await within(timeout, ask())
    except (OSError, asyncio.TimeoutError):
        return None
