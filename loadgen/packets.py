#!/usr/bin/env python3
"""Checks the generator's latencies against the packets' own timestamps, as tcpdump would see them.

    packets.py [--seconds S] [--connections N] [--servers HOST:PORT]

Runs `loadgen set` in a closed loop against a server (one that it starts, without --servers) and meanwhile records
the loopback device: a request's latency is the kernel's timestamp of the packet with its reply less that of the
packet with the request. Prints both and their difference; exit code 1 when p50, p90 or the mean differ by more
than 5 %. Needs the right to open packet sockets (root, or CAP_NET_RAW), and a quiet machine: what the generator
measures ends when it has the reply in hand, which is later than the packet by one wake-up.
"""

import argparse
import contextlib
import json
import pathlib
import socket
import statistics
import struct
import subprocess
import sys
import threading

TREE = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TREE / "tests" / "clients"))

import server as servers  # noqa: E402

ETH_P_IP, SO_TIMESTAMPNS = 0x0800, 35
SET_DATA, DIFFERENCE_MAX = 5, 0.05


class Recorder(threading.Thread):
    """Latencies by packet of every setData on one port, from a packet socket on the loopback device."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port, self.over = port, False
        self.asked, self.latencies = {}, []
        self.link = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IP))
        self.link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
        self.link.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.link.bind(("lo", ETH_P_IP))
        self.link.settimeout(0.2)

    def run(self):
        while not self.over:
            try:
                packet, extra, _, _ = self.link.recvmsg(1 << 16, 64)
            except TimeoutError:
                continue
            if packet[9] == socket.IPPROTO_TCP:
                seconds, nanos = struct.unpack("qq", extra[0][2][:16])
                self.segment(packet[(packet[0] & 15) * 4 :], seconds * 10**9 + nanos)

    def segment(self, tcp, at):
        source, target = struct.unpack_from(">HH", tcp)
        payload = tcp[(tcp[12] >> 4) * 4 :]
        if target == self.port:
            for xid, opcode in self.frames(payload):
                if opcode == SET_DATA:
                    self.asked[(source, xid)] = at
        elif source == self.port:
            for xid, _ in self.frames(payload):
                asked = self.asked.pop((target, xid), None)
                if asked is not None:
                    self.latencies.append((at - asked) / 1000)

    @staticmethod
    def frames(payload):
        """(xid, the four bytes behind it) of each whole frame; small ones are never split on loopback."""
        start = 0
        while start + 12 <= len(payload):
            length, xid, word = struct.unpack_from(">iii", payload, start)
            if length < 8 or start + 4 + length > len(payload):
                return
            yield xid, word
            start += 4 + length


def measure(address, flags):
    recorder = Recorder(int(address.rsplit(":", 1)[1]))
    recorder.start()
    command = [TREE / "target/release/loadgen", "set", "--servers", address, "--json", "--warm-up", "0"]
    command += ["--seconds", str(flags.seconds), "--connections", str(flags.connections)]
    told = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    recorder.over = True
    recorder.join()
    return told["kinds"]["set"], sorted(recorder.latencies)


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    flags.add_argument("--servers", metavar="HOST:PORT")
    flags.add_argument("--seconds", type=float, default=20)
    flags.add_argument("--connections", type=int, default=4, help="few, so that all packets can be recorded")
    flags = flags.parse_args()
    with contextlib.ExitStack() as stack:
        address = flags.servers or stack.enter_context(servers.Server()).address
        kind, packets = measure(address, flags)
    if not packets:
        raise SystemExit("no packet was seen: is the server on the loopback device?")
    told = kind["latency_us"]
    seen = {
        "p50": packets[len(packets) // 2],
        "p90": packets[len(packets) * 9 // 10],
        "mean": statistics.fmean(packets),
    }
    print(f"operations: {kind['count']} counted by loadgen, {len(packets)} seen as packets")
    worst = abs(kind["count"] / len(packets) - 1)
    for name, packet in seen.items():
        difference = told[name] / packet - 1
        worst = max(worst, abs(difference))
        print(f"{name}: {told[name]:.1f} µs by loadgen, {packet:.1f} µs by packets, {difference:+.1%}")
    return 0 if worst <= DIFFERENCE_MAX else 1


if __name__ == "__main__":
    sys.exit(main())
