"""Raw-socket facts: what a server answers, byte for byte, to requests that no client library would send.

`facts(port)` gives lines `name: answer`. Zxids, times and session ids, which differ from run to run, are masked.
"""

import re
import socket
import struct

CREATE, DELETE, EXISTS, GET_DATA, SET_DATA, GET_CHILDREN, SYNC, PING = 1, 2, 3, 4, 5, 8, 9, 11
CHECK, MULTI, CREATE2, RECONFIG, REMOVE_WATCHES, CREATE_CONTAINER = 13, 14, 15, 16, 18, 19
CREATE_TTL, MULTI_READ, AUTH, EPHEMERALS, ALL_CHILDREN = 21, 22, 100, 103, 104
ADD_WATCH, WHO_AM_I, CLOSE_SESSION = 106, 107, -11

TIME = r"000001[9a-f][0-9a-f]{9}"
MASKS = [
    # A stat starts with two zxids and two times; ephemeralOwner stands 12 bytes behind them.
    (re.compile(rf"[0-9a-f]{{32}}{TIME}{TIME}([0-9a-f]{{24}})01[0-9a-f]{{14}}"), r"<zxids><times>\1<session>"),
    (re.compile(rf"[0-9a-f]{{32}}{TIME}{TIME}"), "<zxids><times>"),
]


def text(value):
    data = value.encode()
    return struct.pack(">i", len(data)) + data


def buffer(data):
    return struct.pack(">i", -1) if data is None else struct.pack(">i", len(data)) + data


def integer(value):
    return struct.pack(">i", value)


OPEN_ACL = struct.pack(">ii", 1, 31) + text("world") + text("anyone")
END = struct.pack(">i?i", -1, True, -1)


def operation(opcode):
    """The header of one operation of a multi."""
    return struct.pack(">i?i", opcode, False, -1)


def create_body(path, flags=0, data=b"x"):
    return text(path) + buffer(data) + OPEN_ACL + integer(flags)


class Session:
    """A connection with its connect response in `response` (None: closed without a word)."""

    def __init__(self, port, session=0, password=bytes(16), read_only=b"\0", zxid=0, timeout_ms=10000):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=5)
        self.xid = 0
        self.send(struct.pack(">iqiq", 0, zxid, timeout_ms, session) + buffer(password) + read_only)
        self.response = self.receive()

    def timeout_ms(self):
        return struct.unpack(">i", self.response[4:8])[0]

    def session(self):
        return struct.unpack(">q", self.response[8:16])[0]

    def send(self, payload):
        self.socket.sendall(integer(len(payload)) + payload)

    def exactly(self, count):
        data = b""
        while len(data) < count:
            chunk = self.socket.recv(count - len(data))
            if not chunk:
                raise EOFError
            data += chunk
        return data

    def receive(self):
        try:
            return self.exactly(struct.unpack(">i", self.exactly(4))[0])
        except (EOFError, ConnectionError):
            return None
        except TimeoutError:
            return "silence"

    def call(self, opcode, body=b"", xid=None):
        self.xid += 1
        self.send(struct.pack(">ii", self.xid if xid is None else xid, opcode) + body)
        return self.reply()

    def reply(self):
        reply = self.receive()
        if not isinstance(reply, bytes):
            return reply
        xid, zxid, error = struct.unpack(">iqi", reply[:16])
        body = reply[16:].hex()
        for pattern, mask in MASKS:
            body = pattern.sub(mask, body)
        return f"xid {xid} zxid {'some' if zxid > 0 else zxid} error {error} {body}".rstrip()


def handshakes(port):
    first = Session(port)
    length, session = len(first.response), first.session()
    yield "connect", f"{length} bytes, {first.timeout_ms()} ms, server {session >> 56}"
    yield "connect without the readOnly byte", f"{len(Session(port, read_only=b'').response)} bytes"
    wrong = Session(port, session=session)
    yield "wrong password", f"{wrong.response.hex()} then {wrong.receive()}"
    yield "zxid ahead of the server", Session(port, zxid=1 << 60).response
    yield "short timeout", Session(port, timeout_ms=1).timeout_ms()
    yield "long timeout", Session(port, timeout_ms=10**8).timeout_ms()


def creates(link):
    yield "create", link.call(CREATE, create_body("/probe"))
    yield "create again", link.call(CREATE, create_body("/probe"))
    yield "create2", link.call(CREATE2, create_body("/probe/a"))
    yield "exists of nothing, with a watch", link.call(EXISTS, text("/probe/w") + b"\1")
    link.send(struct.pack(">ii", 77, CREATE) + create_body("/probe/w", flags=1, data=None))
    yield "event before reply", f"{link.reply()} then {link.reply()}"
    yield "null data", link.call(GET_DATA, text("/probe/w") + b"\0")
    yield "ping", link.call(PING, xid=-2)
    yield "auth", link.call(AUTH, integer(0) + text("digest") + buffer(b"u:p"), xid=-4)
    yield "unknown flag", link.call(CREATE, create_body("/probe/z", flags=99))
    yield "path without a slash", link.call(CREATE, create_body("probe"))
    yield "createContainer", link.call(CREATE_CONTAINER, create_body("/probe/c", flags=4))
    yield "container flag in create", link.call(CREATE, create_body("/probe/c1", flags=4))
    yield "sequential", link.call(CREATE, create_body("/probe/s-", flags=2))
    yield "sequential without a name", link.call(CREATE, create_body("/probe/", flags=2))
    for ttl_ms in (0, 60000, 1 << 40):
        body = create_body("/probe/t", flags=5) + struct.pack(">q", ttl_ms)
        yield f"ttl {ttl_ms}", link.call(CREATE_TTL, body)


def multis(link):
    make = operation(CREATE) + create_body("/probe/m", data=b"")
    bad_check = operation(CHECK) + text("/probe") + integer(9)
    delete = operation(DELETE) + text("/probe/a") + integer(-1)
    yield "empty multi", link.call(MULTI, END)
    yield "failing multi", link.call(MULTI, make + bad_check + delete + END)
    make2 = operation(CREATE2) + create_body("/probe/m", data=b"")
    check = operation(CHECK) + text("/probe/m") + integer(0)
    change = operation(SET_DATA) + text("/probe/m") + buffer(b"q") + integer(0)
    yield "multi that sees itself", link.call(MULTI, make2 + check + change + END)
    read = operation(GET_CHILDREN) + text("/probe") + b"\0"
    yield "multi with a read", link.call(MULTI, read + make + END)
    nothing = operation(GET_DATA) + text("/probe/nope") + b"\0"
    children = operation(GET_CHILDREN) + text("/probe/a") + b"\0"
    yield "multiRead", link.call(MULTI_READ, nothing + children + END)


def others(link):
    yield "addWatch", link.call(ADD_WATCH, text("/probe") + integer(1))
    yield "addWatch in an unknown mode", link.call(ADD_WATCH, text("/probe") + integer(7))
    yield "removeWatches without a watch", link.call(REMOVE_WATCHES, text("/probe/a") + integer(3))
    yield "whoAmI", link.call(WHO_AM_I)
    yield "sync", link.call(SYNC, text("/probe"))
    yield "getAllChildrenNumber", link.call(ALL_CHILDREN, text("/probe"))
    yield "getEphemerals", link.call(EPHEMERALS, text("/"))
    yield "delete of /zookeeper", link.call(DELETE, text("/zookeeper") + integer(-1))
    yield "delete of /", link.call(DELETE, text("/") + integer(-1))
    yield "body cut short", link.call(GET_DATA, b"\0\0")
    yield "reconfig", link.call(RECONFIG, buffer(None) * 3 + struct.pack(">q", -1))
    yield "setData of another version", link.call(SET_DATA, text("/probe") + buffer(b"1") + integer(7))


def farewells(port):
    requests = [
        ("check on its own", CHECK, text("/probe") + integer(-1), None),
        ("unknown opcode", 999, b"", None),
        ("auth of an unknown scheme", AUTH, integer(0) + text("nope") + buffer(b"u"), -4),
        ("closeSession", CLOSE_SESSION, b"", None),
    ]
    for name, opcode, body, xid in requests:
        link = Session(port)
        yield name, f"{link.call(opcode, body, xid)} then {link.receive()}"


def facts(port):
    """All of them, on a fresh server."""
    link = Session(port)
    groups = (handshakes(port), creates(link), multis(link), others(link), farewells(port))
    return [f"{name}: {answer}" for group in groups for name, answer in group]
