"""Links that are slow, lose packets, come and go, or end without a word, for servers and their clients alike."""

import asyncio
import pathlib
import random
import shutil
import subprocess
import sys
import time

from bench import acked_again, insist, load_of, pace, percentile, verify
from ensemble import Missing

SLOW_LINK = pathlib.Path(__file__).resolve().with_name("slow_link.py")


class SlowLink:
    """Every packet between any two ends passes through it."""

    def __init__(self, network, delay_ms, jitter_ms, loss):
        if not shutil.which("iptables"):
            raise Missing("no iptables")
        self.network = network
        inside = ["ip", "netns", "exec", network.router]
        self.process = subprocess.Popen(
            [*inside, sys.executable, str(SLOW_LINK), "0", str(delay_ms), str(jitter_ms), str(loss)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        if not self.process.stdout.readline():
            raise Missing("no NFQUEUE in this kernel")
        self.rule("-A")

    def rule(self, what):
        words = ("iptables", what, "FORWARD", "-j", "NFQUEUE", "--queue-num", "0", "--queue-bypass")
        done = self.network.within(self.network.router, *words, check=False)
        if done.returncode:
            raise Missing(f"no NFQUEUE rule: {done.stderr.strip()}")

    def remove(self):
        self.rule("-D")
        self.process.stdin.close()
        self.process.wait()


async def slow_links(story):
    """80 ± 10 ms and 10 % loss between all ends (B22): everything is slower, nothing else."""
    for delay, jitter, loss in ((80, 10, 0), (5, 5, 0.1)):
        async with story.ensemble(3, with_network=True) as ensemble:
            load = load_of(story, ensemble, pause=0.005, pinned=True)
            async with load:
                await asyncio.sleep(0.5)
                leader = await ensemble.leader()
                link = SlowLink(ensemble.network, delay, jitter, loss)
                try:
                    moment = time.monotonic()
                    took = await pace(ensemble.addresses, 8, "/pace")
                    await acked_again(load, moment, load.addresses)
                    gap = load.gap(moment, time.monotonic())
                    led = (await ensemble.leader()) is leader
                finally:
                    link.remove()
                await ensemble.wait(ensemble.nodes)
                await load.hold()
                acks = await verify(story, load, ensemble, "slow links")
        story.say(
            f"{delay} ± {jitter} ms, {loss:.0%} lost: writes p50 {percentile(took, 0.5) * 1000:.0f} ms, "
            f"p99 {percentile(took, 0.99) * 1000:.0f} ms; longest gap {gap:.2f} s; "
            f"{'the same leader' if led else 'another leader'}; {acks} writes kept"
        )


async def flapping(story):
    """A link that comes and goes, between two servers, around one, or in one direction: bounded, and then well."""
    chooser = random.Random(story.seed)
    async with story.ensemble(3, with_network=True) as ensemble:
        for name in ("leader and one", "around the leader", "around a follower", "one way"):
            leader = await ensemble.leader()
            others = [node.number for node in ensemble.nodes if node is not leader]
            load = load_of(story, ensemble, root=f"/{chooser.randrange(1 << 30)}", pause=0.004, pinned=True)
            async with load:
                await asyncio.sleep(0.5)
                moment = time.monotonic()
                while time.monotonic() < moment + 15:
                    match name:
                        case "leader and one":
                            ensemble.network.split([leader.number], others[:1])
                        case "around the leader":
                            ensemble.network.split([leader.number], others)
                        case "around a follower":
                            ensemble.network.split(others[:1], [leader.number, others[1], 0])
                        case _:
                            ensemble.network.cut(others[0], leader.number)
                    await asyncio.sleep(chooser.choice((0.1, 1, 3)) * chooser.random())
                    ensemble.network.heal()
                    await asyncio.sleep(chooser.choice((0.05, 0.5, 2)) * chooser.random())
                gap = load.gap(moment, time.monotonic())
                healed = time.monotonic()
                await ensemble.wait(ensemble.nodes)
                back = await acked_again(load, healed, load.addresses)
                await load.hold()
                acks = await verify(story, load, ensemble, f"flapping: {name}")
            story.say(f"{name}: longest gap {gap:.2f} s, all back {back:.2f} s after; {acks} writes kept")


async def half_open(story):
    """A server and its clients lose each other without a word: both find out, and no session is kept by a ghost."""
    async with story.ensemble(3, with_network=True) as ensemble:
        follower = (await ensemble.followers())[0]
        load = load_of(story, ensemble, pause=0.005, timeout_ms=6000)
        async with load:
            await asyncio.sleep(0.5)
            ensemble.network.cut(follower.number, 0)
            moment = time.monotonic()
            await asyncio.sleep(7)
            gap = load.gap(moment, time.monotonic())
            metrics = await (await ensemble.leader()).metrics()
            ensemble.network.heal()
            await ensemble.wait(ensemble.nodes)
            await load.hold()
            acks = await verify(story, load, ensemble, "half open")
            insist(load.expired() == 0, "a session expired although another server could be reached")
        await asyncio.sleep(6)
        left = {node.number: (await node.metrics())["zk_num_alive_connections"] for node in ensemble.nodes}
    story.say(
        f"answers of one server to its clients vanish for 7 s: longest gap {gap:.2f} s, none expired, {acks} writes "
        f"kept; connections left {left}; sessions at the leader then {metrics.get('zk_global_sessions')}"
    )
