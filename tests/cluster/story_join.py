"""A server far behind, or empty, joins under full load."""

import asyncio
import json
import os
import time

import ensemble as ensembles

LOADGEN = os.environ.get("LOADGEN", str(ensembles.TREE / "target/release/loadgen"))


async def loadgen(ensemble, nodes, *arguments):
    """One run of the generator on some servers; what it tells."""
    if not os.path.exists(LOADGEN):
        raise ensembles.Missing(f"{LOADGEN} is not built")
    servers = ",".join(f"{host}:{port}" for host, port in (node.address for node in nodes))
    pids = ",".join(str(pid) for pid in ensemble.pids())
    process = await asyncio.create_subprocess_exec(
        LOADGEN, *arguments, "--servers", servers, "--pid", pids, "--json", stdout=asyncio.subprocess.PIPE
    )
    told, _ = await process.communicate()
    if process.returncode:
        raise AssertionError(f"loadgen {' '.join(arguments)}: {told.decode() or 'failed'}")
    return json.loads(told)


async def catch_up(story):
    """A follower far behind (--size transactions), then an empty one, joins under full load, beside Apache's."""
    sides = [story.kinds] + ([[story.flags.beside]] if story.flags.beside else [])
    for kinds in sides:
        async with story.ensemble(3, kinds, java_log="warn") as ensemble:
            await one_catch_up(story, ensemble, kinds[0], is_empty=False)
            await one_catch_up(story, ensemble, kinds[0], is_empty=True)


async def one_catch_up(story, ensemble, kind, is_empty):
    late = (await ensemble.followers())[0]
    others = [node for node in ensemble.nodes if node is not late]
    await late.stop()
    if is_empty:
        late.wipe()
    else:
        size = str(story.flags.size)
        await loadgen(ensemble, others, "set", "--count", size, "--in-flight", "16", "--keys", "10000")
    load = ("set", "--connections", "32", "--in-flight", "4", "--keys", "10000")
    before = await loadgen(ensemble, others, *load, "--seconds", "4", "--warm-up", "1")
    running = asyncio.create_task(loadgen(ensemble, others, *load, "--seconds", "8", "--warm-up", "0"))
    start = time.monotonic()
    late.start()
    await ensemble.wait([late], 300)
    serving = time.monotonic() - start
    await in_step(ensemble, late)
    stepped = time.monotonic() - start
    during = await running
    await ensemble.wait_equal()
    behind = "empty" if is_empty else f"{story.flags.size} transactions behind"
    story.say(
        f"{kind}, {behind}: serving after {serving:.2f} s, in step after {stepped:.2f} s; writes of the others "
        f"{before['operations_per_second']:.0f}/s p99 {before['latency_us']['write']['p99'] / 1000:.1f} ms before, "
        f"{during['operations_per_second']:.0f}/s p99 {during['latency_us']['write']['p99'] / 1000:.1f} ms meanwhile"
    )


async def in_step(ensemble, late, seconds=300):
    """Until it has what the leader had a moment ago."""
    end = time.monotonic() + seconds
    leader = await ensemble.leader()
    wanted = await leader.zxid()
    while (await late.zxid() or 0) < wanted:
        if time.monotonic() > end:
            raise AssertionError(f"{late} is not in step after {seconds} s")
        await asyncio.sleep(0.02)
