"""A network namespace for each server and a router between them, in which any direction can be cut.

    server1 ── 10.x.1.1 ─┐
    server2 ── 10.x.2.1 ─┼─ router (ip rule … blackhole) ── 10.x.0.2, this process's own side
    server3 ── 10.x.3.1 ─┘

A cut drops packets silently in the middle, as a broken switch does: no error, no reset. It is a policy routing
rule, for which no firewall tool needs to be there.
"""

import itertools
import os
import subprocess

from ensemble import Missing

CLIENTS = 0


def run(*words, check=True):
    return subprocess.run(words, check=check, capture_output=True, text=True)


def free_net():
    """The first x for which nothing here knows 10.x.0.0/16."""
    known = run("ip", "route", "show", "table", "all").stdout
    return next(x for x in range(180, 255) if f"10.{x}." not in known)


class Network:
    """Namespaces for servers 1 to `count`; `remove` takes all of it away again."""

    names = itertools.count()

    def __init__(self, count):
        self.tag = f"rk{os.getpid() % 100_000}n{next(self.names)}"
        self.count, self.cuts = count, set()
        try:
            self.net = free_net()
            self.build()
        except (OSError, subprocess.CalledProcessError) as failure:
            self.remove()
            detail = getattr(failure, "stderr", "") or failure
            raise Missing(f"network namespaces: {detail}".strip()) from None

    def build(self):
        run("ip", "netns", "add", self.router)
        self.within(self.router, "ip", "link", "set", "lo", "up")
        self.within(self.router, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        # Redirects would teach the ends ways around the router's rules.
        self.within(self.router, "sysctl", "-qw", "net.ipv4.conf.all.send_redirects=0")
        for number in range(self.count + 1):
            self.join(number)

    @property
    def router(self):
        return f"{self.tag}r"

    def name(self, number):
        return f"{self.tag}s{number}"

    def host(self, number):
        """The address of a server; of number 0, this process's own."""
        return f"10.{self.net}.{number}.1"

    def within(self, namespace, *words, check=True):
        return run("ip", "netns", "exec", namespace, *words, check=check)

    def join(self, number):
        """A cable from the router to server `number`, or to this process's namespace for 0."""
        own, far = f"{self.tag}a{number}", f"{self.tag}b{number}"
        run("ip", "link", "add", own, "type", "veth", "peer", "name", far, "netns", self.router)
        gateway = f"10.{self.net}.{number}.2"
        self.within(self.router, "ip", "address", "add", f"{gateway}/30", "dev", far)
        self.within(self.router, "ip", "link", "set", far, "up")
        if number == CLIENTS:
            run("ip", "address", "add", f"{self.host(number)}/30", "dev", own)
            run("ip", "link", "set", own, "up")
            run("ip", "route", "add", f"10.{self.net}.0.0/16", "via", gateway)
            return
        run("ip", "netns", "add", self.name(number))
        run("ip", "link", "set", own, "netns", self.name(number))
        for words in (
            ("address", "add", f"{self.host(number)}/30", "dev", own),
            ("link", "set", "lo", "up"),
            ("link", "set", own, "up"),
            ("route", "add", "default", "via", gateway),
        ):
            self.within(self.name(number), "ip", *words)

    def inside(self, number, argv):
        """The command that runs `argv` at server `number`'s place; the process id stays its own."""
        return ["ip", "netns", "exec", self.name(number), *argv]

    def rule(self, what, source, target):
        words = ("from", self.host(source), "to", self.host(target), "priority", "100", "blackhole")
        self.within(self.router, "ip", "rule", what, *words)

    def cut(self, source, target):
        """Packets from `source` to `target` vanish from now on; the other way is untouched."""
        if (source, target) not in self.cuts:
            self.cuts.add((source, target))
            self.rule("add", source, target)

    def split(self, left, right):
        """Nothing passes between the two groups."""
        for one in left:
            for other in right:
                self.cut(one, other)
                self.cut(other, one)

    def heal(self):
        for source, target in sorted(self.cuts):
            self.rule("del", source, target)
        self.cuts.clear()

    def remove(self):
        """Whatever of it is there; a namespace's end takes its links along."""
        run("ip", "link", "del", f"{self.tag}a0", check=False)
        for name in [self.router, *(self.name(number) for number in range(1, self.count + 1))]:
            run("ip", "netns", "del", name, check=False)
