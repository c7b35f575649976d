"""A function in a process of its own, which may hang: then it says where, and is ended.

What hangs may be the kernel's, below a call that no exception reaches. So whoever watches waits for nothing
without a limit, and ends what the process has started, too: a dead device fails the requests that wait for it.
"""

import asyncio
import faulthandler
import multiprocessing
import os
import pathlib
import signal
import sys
import time

# After each thing that is asked of a process that hangs, and for all it does at its end.
ANSWER_SECONDS, END_SECONDS = 1, 60
ALL_TASKS, ALL_THREADS = signal.SIGUSR1, signal.SIGUSR2
STACK_LINES = 12

FORK = multiprocessing.get_context("fork")


class Hung(Exception):
    """It did not end in its time. Where it stood has been printed."""


class Ended(Exception):
    """It ended without a result."""


def call(function, seconds):
    """The function's result, sent from its process to this one. Raises `Hung` and `Ended`."""
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=serve, args=(function, sender))
    process.start()
    sender.close()
    before = signal.signal(signal.SIGTERM, lambda *_: interrupted(process))
    try:
        if not receiver.poll(seconds):
            end(process)
            raise Hung(f"it was ended after {seconds} s")
        result = receiver.recv()
    except EOFError:
        process.join(END_SECONDS)
        raise Ended(f"its process ended with {process.exitcode}") from None
    finally:
        signal.signal(signal.SIGTERM, before)
    process.join(END_SECONDS)
    return result


def serve(function, sender):
    # An exception, so that what was made is taken away.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    signal.signal(ALL_TASKS, lambda *_: print_tasks())
    faulthandler.register(ALL_THREADS)
    sender.send(function())
    leave(0)


def leave(code):
    """Ends this process, whatever of it, or of what it has started, still hangs."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def interrupted(process):
    process.terminate()
    process.join(END_SECONDS)
    sys.exit(128 + signal.SIGTERM)


def print_tasks():
    """Where each task of the running loop stands."""
    try:
        tasks = asyncio.all_tasks()
    except RuntimeError:
        return  # None runs.
    for task in tasks:
        task.print_stack(limit=6, file=sys.stdout)
    sys.stdout.flush()


def end(process):
    """Has it tell where it stands, then ends it, politely first."""
    for number in (ALL_TASKS, ALL_THREADS):
        os.kill(process.pid, number)
        time.sleep(ANSWER_SECONDS)
    family = descendants(process.pid)
    print_threads(family)
    process.terminate()
    process.join(END_SECONDS)
    # The youngest first, and only those that are still there: a number may be another's by now.
    for pid in reversed([pid for pid in descendants(process.pid) if pid in family]):
        os.kill(pid, signal.SIGKILL)
    process.join(END_SECONDS)


def descendants(pid):
    """A process, all that it has started, and they; those that are still there."""
    parents = {}
    for task in pathlib.Path("/proc").glob("[0-9]*"):
        state = read(task / "stat").rsplit(")", 1)[-1].split()
        if state:
            parents.setdefault(int(state[1]), []).append(int(task.name))
    found = [pid] if pathlib.Path(f"/proc/{pid}").exists() else []
    for at in found:
        found += parents.get(at, [])
    return found


def print_threads(family):
    """What the kernel is at for each thread of these processes, and for whatever else it cannot interrupt."""
    for task in sorted(pathlib.Path("/proc").glob("[0-9]*/task/*")):
        state = read(task / "stat").rsplit(")", 1)[-1].split()
        if state and (state[0] == "D" or int(task.parts[2]) in family):
            stack = [line.split()[-1] for line in read(task / "stack").splitlines()[:STACK_LINES]]
            name = read(task / "comm").strip()
            print(f"{task.parts[2]}/{task.name} {name} {state[0]}: {' < '.join(stack)}", flush=True)


def read(path):
    """What a file of /proc says; nothing where its process has gone."""
    try:
        return path.read_text()
    except OSError:
        return ""
