#!/usr/bin/env python3
"""kill -9 under load, again and again: whatever was acknowledged is there, and no hand is needed to start.

    crash.py [--rounds N] [--seed S] [--clients N] [--kill-within-ms M]

Each round starts the server of SERVER_COMMAND on the same directory, checks all that earlier rounds were told,
then creates, sets, deletes and multis from several connections, and kills it at a moment that the seed chose:
sometimes before it serves. A failure prints the seed and the round. Everything a round does follows from the seed,
except how the threads and the server share the cores.

What is checked after each start:
- a node whose write was acknowledged has that write or a later one of the same client, with the right bytes;
- a node whose delete was acknowledged, and whose create was not sent again, is gone;
- of a multi, all nodes carry the same number, whether it was acknowledged or not;
- no acknowledged zxid is above the server's;
- the tree is the same after a second kill without any write, with every field of every stat;
- the log does not grow without bound, and a start takes no longer than START_SECONDS_MAX.
"""

import argparse
import pathlib
import random
import socket
import struct
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "clients"))

import server as servers  # noqa: E402

CREATE, DELETE, GET_DATA, SET_DATA, SYNC, CHILDREN, MULTI = 1, 2, 4, 5, 9, 8, 14
NO_NODE, NODE_EXISTS = -101, -110
KEYS_PER_CLIENT = 40
PIPELINE = 8
# 200 rounds of small writes: a directory above this has kept what it should have purged or recycled.
DATA_BYTES_MAX = 3 << 30


def text(value):
    data = value.encode()
    return struct.pack(">i", len(data)) + data


def buffer(data):
    return struct.pack(">i", len(data)) + data


OPEN_ACL = struct.pack(">ii", 1, 31) + text("world") + text("anyone")


class Link:
    """A session with the raw protocol, so that acknowledged means: the reply was read here."""

    def __init__(self, port, timeout=10.0):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")
        self.xid = 0
        self.send(struct.pack(">iqiq", 0, 0, 30000, 0) + buffer(bytes(16)) + b"\0")
        if struct.unpack(">iiq", self.receive()[:16])[2] == 0:
            raise ConnectionError("no session")

    def send(self, payload):
        self.socket.sendall(buffer(payload))

    def receive(self):
        head = self.file.read(4)
        if len(head) < 4:
            raise ConnectionError("closed")
        length = struct.unpack(">i", head)[0]
        payload = self.file.read(length)
        if len(payload) < length:
            raise ConnectionError("closed")
        return payload

    def request(self, opcode, body):
        self.xid += 1
        self.send(struct.pack(">ii", self.xid, opcode) + body)
        return self.xid

    def reply(self):
        payload = self.receive()
        xid, zxid, error = struct.unpack(">iqi", payload[:16])
        return xid, zxid, error, payload[16:]

    def call(self, opcode, body):
        xid = self.request(opcode, body)
        got, _, error, body = self.reply()
        if got != xid:
            raise AssertionError(f"reply {got} to request {xid}")
        return error, body

    def node(self, path):
        """The node's bytes and its whole stat, or None."""
        error, body = self.call(GET_DATA, text(path) + b"\0")
        if error == NO_NODE:
            return None
        if error:
            raise AssertionError(f"get {path}: error {error}")
        length = struct.unpack(">i", body[:4])[0]
        return body[4 : 4 + length], body[4 + length :]

    def children(self, path):
        error, body = self.call(CHILDREN, text(path) + b"\0")
        if error:
            raise AssertionError(f"children of {path}: error {error}")
        count, at, names = struct.unpack(">i", body[:4])[0], 4, []
        for _ in range(count):
            length = struct.unpack(">i", body[at : at + 4])[0]
            names.append(body[at + 4 : at + 4 + length].decode())
            at += 4 + length
        return sorted(names)

    def close(self):
        self.socket.close()


def content(number, size):
    """Bytes that show when they are not whole: the number, and a pattern that follows from it."""
    return struct.pack(">q", number) + bytes((number * 31 + i) & 0xFF for i in range(size))


def number_of(path, node):
    if node is None:
        return None
    data, _ = node
    number = struct.unpack(">q", data[:8])[0]
    if data != content(number, len(data) - 8):
        raise AssertionError(f"{path} holds damaged bytes")
    return number


class Client(threading.Thread):
    """Writes to paths of its own, and remembers for each what was acknowledged and what was tried since."""

    def __init__(self, index, seed):
        super().__init__(daemon=True)
        self.index, self.random = index, random.Random(seed)
        self.number = 0
        # By path: the last acknowledged number (None: deleted), and the numbers sent after it.
        self.acknowledged, self.tried = {}, {}
        self.zxid_max, self.writes = 0, 0
        self.failure = None

    def next_round(self, port, seed):
        """The same memory on a new thread."""
        client = Client(self.index, seed)
        client.number = self.number
        client.acknowledged, client.tried = self.acknowledged, self.tried
        client.zxid_max, client.port = self.zxid_max, port
        return client

    def run(self):
        try:
            link = Link(self.port)
            waiting = []
            while True:
                while len(waiting) < PIPELINE:
                    waiting.append(self.write(link))
                self.take_reply(link, waiting)
        except (ConnectionError, OSError):
            pass  # The kill.
        except Exception as failure:  # noqa: BLE001 - told by the main thread
            self.failure = failure

    def write(self, link):
        """Sends one write and gives (xid, [(path, number or None)])."""
        self.number += 1
        number, size = self.number, self.random.choice((0, 20, 100, 1000, 9000))
        path = f"/crash/{self.index}-{self.random.randrange(KEYS_PER_CLIENT)}"
        kind = self.random.random()
        if kind < 0.15:
            return self.multi(link, number)
        known = self.tried.get(path) or [self.acknowledged.get(path)]
        if known[-1] is None:
            body = text(path) + buffer(content(number, size)) + OPEN_ACL + struct.pack(">i", 0)
            return self.note(link.request(CREATE, body), [(path, number)])
        if kind < 0.35:
            body = text(path) + struct.pack(">i", -1)
            return self.note(link.request(DELETE, body), [(path, None)])
        body = text(path) + buffer(content(number, size)) + struct.pack(">i", -1)
        return self.note(link.request(SET_DATA, body), [(path, number)])

    def multi(self, link, number):
        paths = [f"/crash/multi-{self.index}-{part}" for part in range(3)]
        body = b""
        for path in paths:
            body += struct.pack(">i?i", SET_DATA, False, -1) + text(path)
            body += buffer(content(number, 50)) + struct.pack(">i", -1)
        body += struct.pack(">i?i", -1, True, -1)
        return self.note(link.request(MULTI, body), [(path, number) for path in paths])

    def note(self, xid, effects):
        for path, number in effects:
            self.tried.setdefault(path, []).append(number)
        return xid, effects

    def take_reply(self, link, waiting):
        got, zxid, error, _ = link.reply()
        xid, effects = waiting.pop(0)
        if got != xid:
            raise AssertionError(f"reply {got} to request {xid}")
        if error:
            raise AssertionError(f"error {error} for {effects}")
        self.zxid_max = max(self.zxid_max, zxid)
        self.writes += 1
        for path, number in effects:
            self.acknowledged[path] = number
            self.tried[path].pop(0)

    def check(self, link):
        """Compares what is there with what was acknowledged; what is there is the truth from then on."""
        for path in sorted(set(self.acknowledged) | set(self.tried)):
            found = number_of(path, link.node(path))
            allowed = [self.acknowledged.get(path), *self.tried.get(path, [])]
            if found not in allowed:
                raise AssertionError(f"{path} is at {found}, must be one of {allowed}")
            self.acknowledged[path], self.tried[path] = found, []
        parts = {self.acknowledged.get(f"/crash/multi-{self.index}-{n}") for n in range(3)}
        if len(parts) > 1:
            raise AssertionError(f"a multi of client {self.index} is there in part: {parts}")


def setup(link, clients):
    """Makes what is not there yet: the very first rounds may have been killed in the middle."""
    names = [f"/crash/multi-{client.index}-{part}" for client in clients for part in range(3)]
    for path in ["/crash", *names]:
        body = text(path) + buffer(content(0, 0)) + OPEN_ACL + struct.pack(">i", 0)
        error, _ = link.call(CREATE, body)
        if error not in (0, NODE_EXISTS):
            raise AssertionError(f"create {path}: error {error}")
    for client in clients:
        for part in range(3):
            client.acknowledged.setdefault(f"/crash/multi-{client.index}-{part}", 0)


def tree_of(server):
    """All of /crash with every field of every stat, and the server's zxid."""
    link = Link(server.port)
    nodes = {name: link.node(f"/crash/{name}") for name in link.children("/crash")}
    nodes[""] = link.node("/crash")
    link.close()
    srvr = servers.four_letter_word(server.port, "srvr")
    return nodes, int(srvr.split("Zxid: ")[1].split()[0], 16)


def check_second_start(server):
    """Without a write between them, two recoveries give the same tree."""
    first, _ = tree_of(server)
    server.kill()
    server.start()
    second, _ = tree_of(server)
    if first != second:
        names = [name for name in first | second if first.get(name) != second.get(name)]
        raise AssertionError(f"two recoveries differ in {names[:5]}")


def round_of(server, clients, chooser, kill_within_ms):
    """One start, check, load and kill. Gives the clients for the next round and the start's seconds."""
    if chooser.random() < 0.2:
        server.start(wait=False)
        time.sleep(chooser.random() * 0.5)
        server.kill()
    server.start(wait=False)
    seconds = server.wait()
    link = Link(server.port)
    for client in clients:
        client.check(link)
    setup(link, clients)
    link.close()
    told = max(client.zxid_max for client in clients)
    zxid = tree_of(server)[1]
    if zxid < told:
        raise AssertionError(f"zxid {zxid:#x} is below the acknowledged {told:#x}")
    if chooser.random() < 0.1:
        check_second_start(server)
    clients = [client.next_round(server.port, chooser.randrange(1 << 30)) for client in clients]
    for client in clients:
        client.start()
    time.sleep(chooser.random() * kill_within_ms / 1000)
    server.kill()
    for client in clients:
        client.join(timeout=30)
        if client.failure:
            raise client.failure
    return clients, seconds


def main():
    flags = argparse.ArgumentParser()
    flags.add_argument("--rounds", type=int, default=10)
    flags.add_argument("--seed", type=int, default=1)
    flags.add_argument("--clients", type=int, default=4)
    flags.add_argument("--kill-within-ms", type=int, default=1000)
    flags.add_argument("--setting", action="append", default=[], help="a line for zoo.cfg")
    flags = flags.parse_args()
    chooser = random.Random(flags.seed)
    # Small numbers make snapshots and log rolls happen many times.
    server = servers.Server(settings=["snapCount=2000", "preAllocSize=16384", *flags.setting])
    clients = [Client(index, 0) for index in range(flags.clients)]
    starts, writes = [], 0
    for number in range(flags.rounds):
        try:
            clients, seconds = round_of(server, clients, chooser, flags.kill_within_ms)
            held = sum(file.stat().st_size for file in server.data.rglob("*") if file.is_file())
            if held > DATA_BYTES_MAX:
                raise AssertionError(f"the data directory has grown to {held} bytes")
        except AssertionError as failure:
            print(f"FAILED in round {number} of --seed {flags.seed}: {failure}")
            print(f"its directory is left at {server.directory}; the log ends:\n{server.log_tail()}")
            if server.process and server.process.poll() is None:
                server.kill()
            return 1
        starts.append(seconds)
        writes += sum(client.writes for client in clients)
    server.start()
    link = Link(server.port)
    for client in clients:
        client.check(link)
    link.close()
    server.remove()
    print(
        f"{flags.rounds} kills, {writes} acknowledged writes, none lost; "
        f"start to serving {max(starts):.2f} s at most, {sorted(starts)[len(starts) // 2]:.2f} s usual"
    )
    return 0 if writes else "not one write was acknowledged: the test tried nothing"


if __name__ == "__main__":
    sys.exit(main())
