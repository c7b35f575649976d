"""What every story is given: its numbers, ensembles that are cleaned up, and a way to say what it found."""

import asyncio
import contextlib
import random
import statistics
import time
import traceback

import apart
import ensemble as ensembles
import network as networks


class Story:
    """One run of one story. `kinds` are the servers' kinds, repeated as often as there are servers."""

    def __init__(self, name, flags):
        self.name, self.flags, self.seed = name, flags, flags.seed
        self.kinds, self.keep = flags.kinds, flags.keep
        self.skipped, self.excused = [], []

    @property
    def has_java(self):
        return any(kind.startswith("java") for kind in self.kinds)

    def rounds(self, default):
        return self.flags.rounds or default

    def kinds_of(self, count, kinds=None):
        kinds = kinds or self.kinds
        return [kinds[index % len(kinds)] for index in range(count)]

    def say(self, text):
        print(f"   {self.name}: {text}", flush=True)

    def skip(self, text):
        self.skipped.append(f"{self.name}: {text}")
        print(f"   SKIPPED {self.name}: {text}", flush=True)

    def check(self, wrong, what):
        """Fails with the first few of the violations."""
        wrong = list(wrong)
        if wrong:
            listed = "\n  ".join(wrong[:8])
            raise AssertionError(f"{what}: {len(wrong)} violations, among them\n  {listed}")

    def excuse(self, wrong, is_known):
        """Takes out what Apache is known for, and counts it; what is ours is never excused."""
        if not self.has_java:
            return wrong
        known = [text for text in wrong if is_known(text)]
        if known:
            self.excused += known
            self.say(f"{len(known)} known faults of Apache, such as: {known[0]}")
        return [text for text in wrong if not is_known(text)]

    @contextlib.asynccontextmanager
    async def ensemble(self, count=3, kinds=None, start=True, with_network=False, **named):
        """Runs for the block; on a failure the servers' logs are shown and their directories kept."""
        kinds = self.kinds_of(count, kinds)
        network = networks.Network(count) if with_network else None
        try:
            made = ensembles.Ensemble(kinds, network=network, **named)
        except BaseException:
            if network:
                network.remove()
            raise
        try:
            if start:
                await made.start()
            yield made
        except (AssertionError, asyncio.CancelledError):
            made.tell_logs()
            raise
        finally:
            made.remove(keep=self.keep)


def spread(values, unit="ms", scale=1000):
    """Median and extremes in one short text."""
    shown = [value * scale for value in values]
    return (
        f"median {statistics.median(shown):.0f} {unit} "
        f"({min(shown):.0f}–{max(shown):.0f}, {len(shown)} rounds)"
    )


class Clock:
    def __init__(self):
        self.start = time.monotonic()

    @property
    def seconds(self):
        return time.monotonic() - self.start


def add_flags(flags):
    """What every teller of stories is asked."""
    flags.add_argument("stories", nargs="+")
    flags.add_argument("--kinds", type=lambda text: text.split(","), default=["ringkeeper"])
    flags.add_argument("--rounds", type=int)
    flags.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 20))
    flags.add_argument("--keep", action="store_true", help="leave the servers' directories")
    flags.add_argument("--limit", type=float, default=7200, help="seconds after which a story has hung")


def chosen(stories, flags, width):
    """The names that were asked for; None where the list was, which is printed."""
    if flags.stories == ["list"]:
        for name, function in stories.items():
            print(f"{name:{width}}{(function.__doc__ or '').splitlines()[0]}")
        return None
    names = list(stories) if flags.stories == ["all"] else flags.stories
    unknown = [name for name in names if name not in stories]
    if unknown:
        raise SystemExit(f"no such stories: {unknown}")
    return names


def tell(name, function, flags):
    """Runs one story. Gives (the parts that it skipped, "passed", "FAILED" or "MISSING: " with what this machine
    does not have).

    All waiting for servers has limits of its own, and fails the story. One that reaches `flags.limit` has met
    something else that hangs, such as a kernel's disk below `tests/faults`: it says where, and is told once more."""
    for turn in (1, 2):
        again = ", again" * (turn - 1)
        print(f"── {name} ({', '.join(flags.kinds)}), seed {flags.seed}{again}", flush=True)
        try:
            return apart.call(lambda: tell_here(name, function, flags), flags.limit)
        except apart.Hung as hung:
            print(f"HUNG {name}, seed {flags.seed}: {hung}", flush=True)
        except apart.Ended as ended:
            print(f"FAILED {name}, seed {flags.seed}: {ended}", flush=True)
            break
    return [], "FAILED"


def tell_here(name, function, flags):
    story = Story(name, flags)
    start = time.monotonic()
    try:
        asyncio.run(function(story))
    except ensembles.Missing as missing:
        return story.skipped, f"MISSING: {missing}"
    except Exception as failure:  # noqa: BLE001 - the other stories are still to be told
        print("".join(traceback.format_tb(failure.__traceback__, limit=-4)), flush=True)
        print(f"FAILED {name} after {time.monotonic() - start:.0f} s, seed {flags.seed}: {failure}", flush=True)
        return story.skipped, "FAILED"
    print(f"   {name} passed in {time.monotonic() - start:.0f} s", flush=True)
    return story.skipped, "passed"
