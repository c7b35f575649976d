#!/usr/bin/env python3
"""Delays, loses, doubles the packets of an NFQUEUE: run inside of the namespace whose rules send packets there.

    slow_link.py QUEUE DELAY_MS JITTER_MS LOSS

Speaks netlink itself. A packet leaves after DELAY ± JITTER, so that packets overtake each other; a part LOSS of them
never does. Ends with its standard input.
"""

import heapq
import os
import random
import select
import socket
import struct
import sys
import time

NETLINK_NETFILTER, QUEUE_SUBSYSTEM = 12, 3
PACKET, VERDICT, CONFIG = 0, 1, 2
DROP, ACCEPT = 0, 1


def attribute(kind, data):
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def message(kind, queue, attributes):
    body = struct.pack("=BB", 0, 0) + struct.pack(">H", queue) + attributes
    return struct.pack("=IHHII", 16 + len(body), QUEUE_SUBSYSTEM << 8 | kind, 1, 0, 0) + body


def packet_ids(data):
    """Of all the packets in what was received."""
    at = 0
    while at + 20 <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        place, end = at + 20, at + length
        while kind == QUEUE_SUBSYSTEM << 8 | PACKET and place + 4 <= end:
            size, name = struct.unpack_from("=HH", data, place)
            if name & 0x7FFF == 1:
                yield struct.unpack_from(">I", data, place + 4)[0]
            place += (size + 3) // 4 * 4
        at += (length + 3) // 4 * 4 or len(data)


def main():
    queue, delay, jitter, loss = int(sys.argv[1]), *(float(word) for word in sys.argv[2:5])
    link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    link.bind((0, 0))
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUFFORCE if hasattr(socket, "SO_RCVBUFFORCE") else 33, 8 << 20)
    link.send(message(CONFIG, queue, attribute(1, struct.pack(">BBH", 1, 0, 0))))
    link.send(message(CONFIG, queue, attribute(2, struct.pack(">IB", 0, 1))))
    link.send(message(CONFIG, queue, attribute(3, struct.pack(">I", 100_000))))
    print("ready", flush=True)
    waiting = []
    while True:
        patience = max(0, waiting[0][0] - time.monotonic()) if waiting else None
        readable, _, _ = select.select([link, sys.stdin], [], [], patience)
        if sys.stdin in readable and not os.read(0, 1):
            return
        if link in readable:
            now = time.monotonic()
            for packet in packet_ids(link.recv(1 << 20)):
                if random.random() < loss:
                    link.send(message(VERDICT, queue, attribute(2, struct.pack(">II", DROP, packet))))
                    continue
                after = max(0, delay + random.uniform(-jitter, jitter)) / 1000
                heapq.heappush(waiting, (now + after, packet))
        while waiting and waiting[0][0] <= time.monotonic():
            _, packet = heapq.heappop(waiting)
            link.send(message(VERDICT, queue, attribute(2, struct.pack(">II", ACCEPT, packet))))


if __name__ == "__main__":
    main()
