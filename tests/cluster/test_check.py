"""The checkers see what they are for: each is shown a good history and one with its fault."""

import check
from check import DONE, REFUSED, Op


def op(client, kind, start, end, value, version, zxid, expected=-1, outcome=DONE, key="/k"):
    made = Op(client, kind, key, start, value, expected)
    made.end, made.outcome, made.version, made.zxid = end, outcome, version, zxid
    return made


def good():
    return [
        op("a", "set", 0, 1, b"1", 1, 1),
        op("b", "set", 2, 3, b"2", 2, 2, expected=1),
        op("a", "sync_read", 4, 5, b"2", 2, 2),
        op("b", "set", 4, 9, b"3", 3, 4),
        op("c", "read", 5, 6, b"1", 1, 1),
        op("c", "set", 5, 6, b"4", None, None, expected=1, outcome=REFUSED),
        op("a", "set", 6, float("inf"), b"5", None, None, outcome=check.UNKNOWN),
        op("c", "sync_read", 10, 11, b"5", 4, 5),
    ]


FAULTS = {
    "a lost write": (op("d", "set", 20, 21, b"x", 4, 6), "two writes"),
    "a write below an earlier one": (op("d", "set", 20, 21, b"x", 2, 9), "stale"),
    "a stale read after a sync": (op("d", "sync_read", 20, 21, b"2", 2, 2), "stale"),
    "a write done twice": (op("d", "read", 20, 21, b"1", 9, 9), "two versions"),
    "a refused write seen": (op("d", "read", 20, 21, b"4", 5, 6), "refused write"),
    "a read of the future": (op("d", "read", 0, 1, b"3", 3, 4), "before it was written"),
    "a session that goes back": (op("c", "read", 20, 21, b"1", 1, 1), "back in time"),
    "a compare-and-set of another version": (
        op("d", "set", 20, 21, b"x", 5, 7, expected=1),
        "another version",
    ),
    "a refusal without a reason": (
        op("d", "set", 3.2, 3.8, b"x", None, None, expected=2, outcome=REFUSED),
        "refused though",
    ),
    "zxids against time": (op("d", "set", 20, 21, b"x", 1, 1, key="/other"), "against time"),
}


def expect(wrong, part, name):
    assert any(part in text for text in wrong), f"{name} is not seen: {wrong}"


async def checkers(story):
    """The checkers themselves: each finds its fault in a made-up history."""
    assert check.registers(good()) == [], check.registers(good())
    for name, (fault, part) in FAULTS.items():
        expect(check.registers([*good(), fault]), part, name)
    ledger = {"/kept": (DONE, None), "/gone": (DONE, DONE), "/never": (REFUSED, None)}
    assert check.nodes_kept(ledger, {"/kept"}) == []
    expect(check.nodes_kept(ledger, set()), "create is lost", "a lost create")
    expect(check.nodes_kept(ledger, {"/kept", "/gone"}), "delete is undone", "an undone delete")
    expect(check.nodes_kept(ledger, {"/kept", "/never"}), "refused create", "a refused create")
    assert check.groups_whole([["/a", "/b"], ["/c", "/d"]], {"/a", "/b"}) == []
    expect(check.groups_whole([["/a", "/b"]], {"/a"}), "in part", "a torn multi")
    assert check.sequence_grows([("/q", 1, 0, 1), ("/q", 3, 2, 4), ("/q", 2, 2, 3)]) == []
    expect(check.sequence_grows([("/q", 1, 0, 1), ("/q", 1, 2, 3)]), "twice", "a number given twice")
    expect(check.sequence_grows([("/q", 5, 0, 1), ("/q", 4, 2, 3)]), "came after", "a number going back")
    tree = {"/a": (b"1", "stat", b"acl")}
    assert check.differences("x", tree, "y", dict(tree)) == []
    expect(check.differences("x", tree, "y", {}), "/a differs", "a missing node")
    expect(check.differences("x", tree, "y", {"/a": (b"1", "other", b"acl")}), "/a differs", "another stat")
    story.say(f"{len(FAULTS) + 8} faults seen")
