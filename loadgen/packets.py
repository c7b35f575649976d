#!/usr/bin/env python3
"""Holds the load generator's latency against the packets' own timestamps.

    packets.py [--servers HOST:PORT] [--rounds N] [LOADGEN ARGUMENTS...]        (as root: it listens on `lo`)

A raw socket sees each packet between generator and server with the kernel's timestamp. A request's latency is
the time from the packet that holds it to the packet that holds its reply, matched by connection and order. What
the generator says must agree within 5 % at p50, p90 and p99. A packet does not wait for a core and a generator does,
so that it is run with real-time priority here: other work on the machine is not what is checked.
"""

import argparse
import collections
import json
import os
import pathlib
import socket
import struct
import subprocess
import sys
import threading

TREE = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TREE / "tests" / "clients"))

import server as servers  # noqa: E402

LOADGEN = TREE / "target/release/loadgen"
SO_TIMESTAMPNS, SO_RCVBUFFORCE = 35, 33
ETH_P_IP = 0x0800
PACKET_OUTGOING = 4
TOLERANCE = 0.05

# Frames that are no operations: pings and events have these xids.
XIDS_ASIDE = (-1, -2)
SET, GET = 5, 4


class Stream:
    """One direction of a connection: bytes in order, cut into frames."""

    def __init__(self):
        self.next, self.bytes, self.early = None, bytearray(), {}

    def take(self, sequence, payload, at):
        """The frames that this packet completes, each with the time of the packet that completed it."""
        if self.next is None:
            self.next = sequence
        self.early[sequence] = (payload, at)
        while self.next in self.early:
            payload, at = self.early.pop(self.next)
            self.next = (self.next + len(payload)) & 0xFFFFFFFF
            self.bytes += payload
            while len(self.bytes) >= 4:
                length = struct.unpack_from(">i", self.bytes)[0]
                if len(self.bytes) < 4 + length:
                    break
                yield bytes(self.bytes[4 : 4 + length]), at
                del self.bytes[: 4 + length]


class Sniffer(threading.Thread):
    """Collects packets of one port until told to stop; they are looked at afterwards."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port, self.packets, self.stopped = port, [], False
        self.raw = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IP))
        self.raw.bind(("lo", ETH_P_IP))
        self.raw.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 28)
        self.raw.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.raw.settimeout(0.2)

    def run(self):
        while not self.stopped:
            try:
                packet, control, _, address = self.raw.recvmsg(1 << 16, 64)
            except TimeoutError:
                continue
            # Loopback shows each packet twice: as it leaves and as it arrives.
            if address[2] != PACKET_OUTGOING:
                self.packets.append((struct.unpack("qq", control[0][2][:16]), packet))

    def latencies(self):
        """Nanoseconds of each get and set, with the time of its request."""
        streams = collections.defaultdict(Stream)
        waiting = collections.defaultdict(collections.deque)
        found = []
        for (seconds, nanos), packet in self.packets:
            head = (packet[0] & 15) * 4
            source, target, sequence = struct.unpack_from(">HHI", packet, head)
            total = struct.unpack_from(">H", packet, 2)[0]
            payload = packet[head + (packet[head + 12] >> 4) * 4 : total]
            if self.port not in (source, target) or not payload:
                continue
            at = seconds * 10**9 + nanos
            for frame, at in streams[source, target].take(sequence, payload, at):
                if len(frame) < 8:
                    continue
                xid, opcode = struct.unpack_from(">ii", frame)
                if target == self.port:
                    waiting[source].append((xid, opcode, at))
                elif xid not in XIDS_ASIDE and waiting[target]:
                    asked, opcode, since = waiting[target].popleft()
                    while asked != xid and waiting[target]:
                        asked, opcode, since = waiting[target].popleft()
                    if asked == xid and opcode in (SET, GET):
                        found.append((since, at - since))
        return found


def quantile(values, share):
    return values[min(len(values) - 1, int(len(values) * share))]


def hurry():
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))


def check(address, arguments):
    """One run; the largest difference at p50, p90 and p99, and a line for each."""
    sniffer = Sniffer(int(address.rsplit(":", 1)[1]))
    sniffer.start()
    command = [LOADGEN, *arguments, "--warm-up", "0", "--servers", address, "--json"]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, preexec_fn=hurry)
    told = json.loads(run.stdout)
    sniffer.stopped = True
    sniffer.join()
    latency = told["latency_us"].get("write") or told["latency_us"]["read"]
    start = told["started_unix_ms"] * 10**6
    end = start + told["seconds"] * 10**9
    seen = sorted(took / 1e3 for since, took in sniffer.latencies() if start <= since <= end)
    print(f"{' '.join(arguments)}: {told['operations']} operations told, {len(seen)} seen in packets")
    worst = 0
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        packets = quantile(seen, share)
        difference = latency[name] / packets - 1
        worst = max(worst, abs(difference))
        print(f"  {name}: told {latency[name]:9.1f} µs, in packets {packets:9.1f} µs: {difference:+.1%}")
    return worst


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    flags.add_argument("--servers", help="one that runs already; else one is started")
    flags.add_argument("--rounds", type=int, default=3)
    flags, arguments = flags.parse_known_args()
    arguments = arguments or ["set", "--connections", "4", "--seconds", "3"]
    running = None if flags.servers else servers.Server().start()
    try:
        address = flags.servers or running.address
        worst = sorted(check(address, arguments) for _ in range(flags.rounds))
    finally:
        if running:
            running.remove()
    median = worst[len(worst) // 2]
    print(f"largest difference, median of {len(worst)} rounds: {median:.1%} ({TOLERANCE:.0%} at most)")
    return 0 if median <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
