"""Files that were damaged, cut, emptied, exchanged, removed or put back while their server did not run."""

import asyncio
import os
import random
import shutil

import check
import client
from bench import DAMAGED, DISK, SEGMENT_4M, insist, load_of, verify

BUSY = [SEGMENT_4M, "snapCount=700"]


def flip(path, chooser):
    """One bit, where there is something: most of a segment is empty."""
    content = bytearray(path.read_bytes())
    places = [at for at in range(0, len(content), 64) if any(content[at : at + 64])] or [0]
    at = min(chooser.choice(places) + chooser.randrange(64), len(content) - 1)
    content[at] ^= 1 << chooser.randrange(8)
    path.write_bytes(content)


def zero(path, chooser):
    """A block of it, as of a sector that was never written."""
    content = bytearray(path.read_bytes())
    at = chooser.randrange(0, max(1, len(content) // 4), 4096) if len(content) > 4096 else 0
    content[at : at + 4096] = bytes(len(content[at : at + 4096]))
    path.write_bytes(content)


def cut(path, chooser):
    size = path.stat().st_size
    os.truncate(path, chooser.randrange(size) if size else 0)


def empty(path, chooser):  # noqa: ARG001 - as `flip`
    os.truncate(path, 0)


def remove(path, chooser):  # noqa: ARG001 - as `flip`
    path.unlink()


def grow(path, chooser):
    with open(path, "ab") as file:
        file.write(chooser.randbytes(5000))


HARMS = {"flip": flip, "zero": zero, "cut": cut, "empty": empty, "remove": remove, "grow": grow}


def kind_of(path):
    """What a file is: all of a kind are damaged alike."""
    name = path.name
    if name.startswith("ringlog"):
        return "log"
    if path.parent.name.startswith("snapshot"):
        return "snapshot's " + name.split(".")[0]
    return name.split(".")[0] if name.startswith("zoo.cfg") else name


def is_spare(path):
    """A segment that nothing was written to yet."""
    return path.name.startswith("ringlog") and not any(path.read_bytes()[4096:8192])


def victims(node, chooser):
    """One file of each kind; of logs and snapshots any."""
    kinds = {}
    for path in sorted(node.data.rglob("*")):
        if path.is_file() and not path.name.endswith((".tmp", "lock")) and not is_spare(path):
            kinds.setdefault(kind_of(path), []).append(path)
    return {kind: chooser.choice(paths) for kind, paths in sorted(kinds.items())}


async def files_alone(story):
    """One server, each kind of file harmed in each way: it refuses and names the file, or has everything."""
    chooser = random.Random(story.seed)
    outcomes = {}
    async with story.ensemble(1, settings=BUSY) as ensemble:
        node = ensemble.nodes[0]
        async with load_of(story, ensemble, pause=0, timeout_ms=40_000) as load:
            await asyncio.sleep(2)
            await load.hold()
            await verify(story, load, ensemble, "before anything was harmed")
        reference = await tree(node)
        await node.stop()
        whole = node.directory / "whole"
        shutil.copytree(node.data, whole)
        kinds = list(victims(node, chooser))
        for kind in kinds:
            for name, harm in HARMS.items():
                await restore(node, whole)
                harm(victims(node, chooser)[kind], chooser)
                outcomes[kind, name] = await start_or_refuse(ensemble, node, reference, f"{kind}, {name}")
    for kind in kinds:
        story.say(f"{kind}: " + ", ".join(f"{name} {outcomes[kind, name]}" for name in HARMS))


async def tree(node):
    session = await client.open_session([node.address], timeout_ms=20_000)
    try:
        return await check.tree_of(session, "/load")
    finally:
        await session.close()


async def restore(node, whole):
    node.kill()
    shutil.rmtree(node.data)
    shutil.copytree(whole, node.data)


async def start_or_refuse(ensemble, node, reference, what):
    """Either it says what is wrong, and ends; or nothing is missing."""
    node.keeps_config = True
    node.start()
    try:
        await ensemble.wait(seconds=20)
    except AssertionError:
        code = node.process.poll()
        insist(code in (DAMAGED, DISK, 3), f"{what}: ended with {code}: {node.log_tail(4)}")
        last = node.log_tail(1)
        insist(str(node.data) in last, f"{what}: no file is named: {last}")
        return "refused"
    insist(await tree(node) == reference, f"{what}: it serves something else than it did")
    return "whole"


async def files(story):
    """One of three servers with each kind of file harmed in each way, under load: made whole, nothing forgotten."""
    chooser = random.Random(story.seed)
    counts = {}
    async with story.ensemble(3, settings=BUSY) as ensemble:
        load = load_of(story, ensemble, pause=0.002, timeout_ms=40_000)
        async with load:
            await asyncio.sleep(2)
            cases = [(kind, name) for kind in victims(ensemble.nodes[0], chooser) for name in HARMS]
            chooser.shuffle(cases)
            for kind, name in cases[: story.rounds(len(cases))]:
                node = chooser.choice(ensemble.nodes)
                await node.stop() if chooser.random() < 0.5 else node.kill()
                found = victims(node, chooser).get(kind)
                if found:
                    HARMS[name](found, chooser)
                outcome = await start_member(ensemble, node, f"{kind}, {name}")
                counts.setdefault(outcome, []).append(f"{kind} {name}")
            await load.hold()
            acks = await verify(story, load, ensemble, "files of members")
    for outcome, of in counts.items():
        story.say(f"{outcome}: {len(of)} ({', '.join(sorted(of)) if outcome != 'made whole' else 'the rest'})")
    story.say(f"{acks} acknowledged writes, none lost")


async def start_member(ensemble, node, what):
    node.keeps_config = True
    node.start()
    try:
        await ensemble.wait([node], seconds=30)
    except AssertionError:
        code = node.process.poll()
        insist(code in (3, DAMAGED), f"{what}: ended with {code}: {node.log_tail(4)}")
        # `myid` says who it is: nobody can know that for it. With it back it starts.
        node.keeps_config = False
        node.start()
        await ensemble.wait([node], seconds=30)
        return "refused"
    await ensemble.wait_equal()
    return "made whole"


async def rollback(story):
    """An old copy of one server's whole directory is put back (A27): nothing acknowledged is forgotten."""
    chooser = random.Random(story.seed)
    async with story.ensemble(3, settings=BUSY) as ensemble:
        load = load_of(story, ensemble, pause=0.002, timeout_ms=40_000)
        async with load:
            for number in range(story.rounds(6)):
                node = chooser.choice(ensemble.nodes)
                old = node.directory / "old"
                shutil.rmtree(old, ignore_errors=True)
                # As a backup tool does: while it runs, and not at one moment.
                await asyncio.to_thread(shutil.copytree, node.data, old, ignore_dangling_symlinks=True)
                await asyncio.sleep(1)
                node.kill()
                shutil.rmtree(node.data)
                shutil.copytree(old, node.data)
                node.start()
                if number % 2:
                    # The other two are not both there: the one that forgot and one that knows.
                    other = next(it for it in ensemble.nodes if it is not node)
                    other.kill()
                    await asyncio.sleep(1)
                    other.start()
                await ensemble.wait()
                await ensemble.wait_equal()
            await load.hold()
            acks = await verify(story, load, ensemble, "a copy put back")
    story.say(f"{story.rounds(6)} old copies put back, {acks} acknowledged writes, none lost")
