#!/usr/bin/env python3
"""A disk whose faults are commands: one file in a FUSE file system, to be attached as a loop device.

    device.py DIRECTORY MEBIBYTES

mounts itself at DIRECTORY, where the file `disk` is the device. Commands come as lines of JSON on stdin, and each
is answered by one line. It speaks the kernel's own protocol on /dev/fuse, so that nothing has to be installed.

# What it does wrong on command

* It answers reads, writes or flushes with an error number, everywhere or in ranges of bytes (`fail`).
* It takes its time (`delay`), for all operations or some.
* It says yes to a write and forgets it (`lose`), or keeps a part of it and fails it (`tear`).
* It has room for so many bytes only, whatever its size says (`thin`).
* Its power goes (`cut`): nothing is answered any more but with errors. What was written and not flushed is there,
  or is not, or is there in an older version: for each sector by chance. Then it is `on` again.
"""

import ctypes
import errno
import json
import mmap
import os
import random
import struct
import sys
import threading
import time
import traceback

SECTOR = 512
WRITE_BYTES_MAX = 128 << 10
# Threads that answer, so that a slow operation holds up no other.
ANSWERERS = 4
ROOT, DISK = 1, 2

LOOKUP, FORGET, GETATTR, SETATTR, OPEN, READ, WRITE, STATFS = 1, 2, 3, 4, 14, 15, 16, 17
RELEASE, FSYNC, FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR = 18, 20, 25, 26, 27, 28, 29
ACCESS, INTERRUPT, DESTROY, BATCH_FORGET = 34, 36, 38, 42

ASYNC_READ, BIG_WRITES, MAX_PAGES = 1 << 0, 1 << 5, 1 << 22
# The file's pages are not cached, and its writes may run side by side.
OPEN_FLAGS = 1 << 0 | 1 << 6

PR_SET_IO_FLUSHER = 57

NAMES = {READ: "read", WRITE: "write", FSYNC: "flush"}


class Disk:
    """The bytes, what is wrong with them, and what a cut of the power would leave of them."""

    def __init__(self, size):
        self.size, self.bytes = size, mmap.mmap(-1, size)
        self.lock = threading.Lock()
        self.random = random.Random()
        # Sector → its contents since the last flush, the durable one first.
        self.volatile = {}
        self.counts = {name: 0 for name in NAMES.values()}
        self.restore()

    def restore(self):
        """Without faults."""
        self.is_cut, self.failing, self.delays, self.losing, self.tearing = False, [], {}, [], []
        self.allocated, self.room = None, 0

    def wait(self, name):
        seconds = self.delays.get(name, 0)
        if seconds:
            time.sleep(seconds)

    def fault(self, name, start, length):
        """The error of an operation, 0 for none."""
        if self.is_cut:
            return errno.EIO
        for rule in self.failing:
            if rule["what"] != name or not overlaps(rule["ranges"], start, length):
                continue
            if rule["skip"] > 0:
                rule["skip"] -= 1
            elif rule["times"] != 0:
                rule["times"] -= 1
                return rule["errno"]
        return 0

    def read(self, start, length):
        self.wait("read")
        with self.lock:
            self.counts["read"] += 1
            wrong = self.fault("read", start, length)
            return (wrong, b"") if wrong else (0, self.bytes[start : start + length])

    def write(self, start, data):
        self.wait("write")
        with self.lock:
            self.counts["write"] += 1
            wrong = self.fault("write", start, len(data)) or self.has_no_room(start, len(data))
            if wrong:
                return wrong
            if overlaps(self.losing, start, len(data)):
                return 0
            if overlaps(self.tearing, start, len(data)):
                self.tearing = []
                self.keep(start, data[: self.random.randrange(0, len(data), SECTOR)])
                return errno.EIO
            self.keep(start, data)
            return 0

    def keep(self, start, data):
        for offset in range(0, len(data), SECTOR):
            at = start + offset
            new = data[offset : offset + SECTOR]
            versions = self.volatile.setdefault(at, [self.bytes[at : at + SECTOR]])
            versions.append(new)
        self.bytes[start : start + len(data)] = data

    def has_no_room(self, start, length):
        if self.allocated is None:
            return 0
        new = {at for at in range(start // 4096, (start + length + 4095) // 4096)} - self.allocated
        if len(new) * 4096 > self.room:
            return errno.ENOSPC
        self.room -= len(new) * 4096
        self.allocated |= new
        return 0

    def flush(self):
        self.wait("flush")
        with self.lock:
            self.counts["flush"] += 1
            wrong = self.fault("flush", 0, self.size)
            if not wrong:
                self.volatile.clear()
            return wrong

    # The commands.

    def fail(self, what, ranges=None, times=-1, skip=0, number=errno.EIO):
        """`times` operations from the `skip`-th on that touch `ranges` (all, without any) fail; -1 is for ever."""
        rule = {"what": what, "ranges": ranges, "times": times, "skip": skip, "errno": number}
        self.failing.append(rule)

    def delay(self, seconds, what=("read", "write", "flush")):
        self.delays = {name: seconds for name in what}

    def lose(self, ranges):
        self.losing = ranges

    def tear(self, ranges):
        """The next write that touches `ranges`."""
        self.tearing = ranges

    def thin(self, room):
        """Blocks that hold anything have their room; so many bytes are left for others."""
        zero = bytes(4096)
        blocks = range(self.size // 4096)
        self.allocated = {it for it in blocks if self.bytes[it * 4096 : it * 4096 + 4096] != zero}
        self.room = room

    def cut(self):
        self.is_cut = True

    def on(self, seed=0, keeps=0.5):
        """Power again: each sector that was not flushed has any of its versions, the last with chance `keeps`."""
        chooser = random.Random(seed)
        lost = 0
        for at, versions in self.volatile.items():
            if chooser.random() >= keeps:
                self.bytes[at : at + SECTOR] = chooser.choice(versions[:-1])
                lost += 1
        self.volatile.clear()
        self.restore()
        return lost

    def peek(self):
        return dict(self.counts, volatile=len(self.volatile))


def overlaps(ranges, start, length):
    return ranges is None or any(start < end and begin < start + length for begin, end in ranges)


class Server:
    """The file system with one file, as the kernel asks about it."""

    def __init__(self, disk, channel):
        self.disk, self.channel = disk, channel

    def serve(self):
        while True:
            try:
                request = os.read(self.channel, WRITE_BYTES_MAX + (64 << 10))
            except OSError as error:
                if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue
                return  # ENODEV: unmounted.
            _, op, unique, node = struct.unpack_from("<IIQQ", request)
            if op in (FORGET, BATCH_FORGET, INTERRUPT):
                continue
            try:
                wrong, answer = self.answer(op, node, memoryview(request)[40:])
            except Exception:  # noqa: BLE001 - whoever asked waits for an answer, whatever it is
                traceback.print_exc()
                wrong, answer = errno.EIO, b""
            try:
                os.write(self.channel, struct.pack("<IiQ", 16 + len(answer), -wrong, unique) + answer)
            except OSError:
                pass  # Whoever asked has gone.

    def answer(self, op, node, body):
        """(error number, bytes) of a request."""
        if op == READ:
            _, start, length = struct.unpack_from("<QQI", body)
            return self.disk.read(start, length)
        if op == WRITE:
            _, start, length = struct.unpack_from("<QQI", body)
            wrong = self.disk.write(start, bytes(body[40 : 40 + length]))
            return wrong, b"" if wrong else struct.pack("<II", length, 0)
        if op == FSYNC:
            return self.disk.flush(), b""
        if op == INIT:
            return 0, init(body)
        if op == LOOKUP:
            if node != ROOT or bytes(body) != b"disk\0":
                return errno.ENOENT, b""
            return 0, struct.pack("<QQQQII", DISK, 0, 3600, 3600, 0, 0) + self.attributes(DISK)
        if op in (GETATTR, SETATTR):
            return 0, struct.pack("<QII", 3600, 0, 0) + self.attributes(node)
        if op in (OPEN, OPENDIR):
            return 0, struct.pack("<QIi", 0, OPEN_FLAGS if op == OPEN else 0, 0)
        if op == STATFS:
            return 0, struct.pack("<QQQQQIIII24x", 0, 0, 0, 0, 0, 4096, 255, 4096, 0)
        if op in (FLUSH, RELEASE, RELEASEDIR, READDIR, ACCESS, DESTROY):
            return 0, b""
        return errno.ENOSYS, b""

    def attributes(self, node):
        is_root = node == ROOT
        mode, size = (0o040700, 4096) if is_root else (0o100600, self.disk.size)
        times = (0, 0, 0, 0, 0, 0)
        return struct.pack(
            "<QQQQQQIIIIIIIIII", node, size, size // 512, *times, mode, 1 + is_root, 0, 0, 0, 4096, 0
        )


def init(body):
    _, minor, ahead, flags = struct.unpack_from("<IIII", body)
    flags &= ASYNC_READ | BIG_WRITES | MAX_PAGES
    numbers = (7, min(minor, 31), ahead, flags, 64, 48, WRITE_BYTES_MAX, 1, WRITE_BYTES_MAX // 4096, 0)
    return struct.pack("<IIIIHHIIHH32x", *numbers)


def never_wait_for_itself():
    """To make room for this process the kernel may not write back, or forget, what is on this very disk.

    Where this is not granted (CAP_SYS_RESOURCE) there has to be memory enough."""
    ctypes.CDLL(None).prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0)


def mount(directory):
    channel = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={channel},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    if libc.mount(b"faults", os.fsencode(directory), b"fuse", 0, options):
        raise OSError(ctypes.get_errno(), f"no FUSE file system can be mounted at {directory}")
    return channel


def main():
    directory, mebibytes = sys.argv[1], int(sys.argv[2])
    disk = Disk(mebibytes << 20)
    never_wait_for_itself()
    server = Server(disk, mount(directory))
    for _ in range(ANSWERERS):
        threading.Thread(target=server.serve, daemon=True).start()
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        name, named = json.loads(line)
        with disk.lock:
            answer = getattr(disk, name)(**named)
        print(json.dumps(answer), flush=True)
    # Whoever commands it has gone: so does the connection, and everything on it fails.
    os._exit(0)


if __name__ == "__main__":
    main()
