//! Memory: swap, huge pages, what may be locked, mapped and promised.

use crate::form::{Form, bytes};
use crate::knob::{
    BY_HAND, Effect, Family, Hand, Impact, Judgement, Knob, Persist, Seen, Source, WRITES_BACK,
    Want,
};
use crate::system::System;

pub const KNOBS: &[Knob] = &[
    Knob {
        id: "limit.memlock",
        family: Family::Memory,
        what: "Memory that a process may lock (ulimit -l).",
        why: "glommio asks for 512 KiB of locked memory for each executor; a start is refused \
              below that for one of them.",
        default: "8 MiB (64 KiB before Linux 5.16)",
        wanted: "at least 512 KiB for each executor",
        source: Source::Fact(|system, _| limit(system, "Max locked memory")),
        want: Want::By(|host, seen| limit_at_least(host.served.locked_bytes, "MEMLOCK", seen)),
        hand: Hand::Yours("LimitMEMLOCK in the unit, which unit.file has; ulimit -l in a shell"),
        persist: Persist::ByItself,
        impact: Impact::Start,
        effect: Effect::Unmeasured("it is whether the server starts, not how fast it is"),
        undo: BY_HAND,
        risk: "none",
    },
    Knob {
        id: "limit.nofile",
        family: Family::Memory,
        what: "Files that a process may open (the hard limit of ulimit -n).",
        why: "A connection is a file. The server raises its soft limit to the hard one; beyond it \
              accepting pauses.",
        default: "524288 under systemd, 4096 to 1048576 elsewhere",
        wanted: "at least maxCnxns and 256 more",
        source: Source::Fact(|system, _| limit(system, "Max open files")),
        want: Want::By(|host, seen| limit_at_least(host.served.descriptors, "NOFILE", seen)),
        hand: Hand::Yours("LimitNOFILE in the unit, which unit.file has; ulimit -n in a shell"),
        persist: Persist::ByItself,
        impact: Impact::High,
        effect: Effect::Unmeasured("it shows only at the limit"),
        undo: BY_HAND,
        risk: "none",
    },
    Knob {
        id: "vm.swappiness",
        family: Family::Memory,
        what: "How gladly the kernel swaps a process's memory rather than drop cached files.",
        why: "Apache's documentation warns of swapping with good reason: a tree that is read from \
              swap answers in milliseconds, and pings with it; sessions expire.",
        default: "60",
        wanted: "at most 1; better, no swap at all",
        source: Source::Sysctl("vm.swappiness"),
        want: Want::By(|host, seen| match (host.swap_count, seen.number()) {
            (0, _) => Judgement::Moot("this host has no swap".to_owned()),
            (_, Some(0 | 1)) => Judgement::Fine,
            _ => Judgement::Set("1".to_owned()),
        }),
        hand: Hand::Apply,
        persist: Persist::Sysctl,
        impact: Impact::Safety,
        effect: Effect::Unmeasured("this machine has no swap"),
        undo: WRITES_BACK,
        risk: "memory runs out earlier for programs that hardly run",
    },
    Knob {
        id: "vm.overcommit_memory",
        family: Family::Memory,
        what: "Whether memory is promised that is not there: 0 within reason, 1 always, 2 never.",
        why: "The allocator reserves address space that it does not fill; with 2 that is refused \
              while there is memory, and the server dies of it.",
        default: "0",
        wanted: "0 or 1",
        source: Source::Sysctl("vm.overcommit_memory"),
        want: Want::OneOf(&["0", "1"]),
        hand: Hand::Named,
        persist: Persist::Sysctl,
        impact: Impact::Safety,
        effect: Effect::Unmeasured("it is 0 here; what 2 refuses depends on the other programs"),
        undo: WRITES_BACK,
        risk: "who set 2 wanted no process killed for memory; that can happen again",
    },
    Knob {
        id: "vm.max_map_count",
        family: Family::Memory,
        what: "Mappings that a process may have.",
        why: "Log segments, snapshots and the allocator's arenas: some hundreds, never more.",
        default: "65530",
        wanted: "at least 65530",
        source: Source::Sysctl("vm.max_map_count"),
        want: Want::AtLeast(65_530),
        hand: Hand::Apply,
        persist: Persist::Sysctl,
        impact: Impact::Little,
        effect: Effect::Unmeasured("the server never comes near the default"),
        undo: WRITES_BACK,
        risk: "none",
    },
    Knob {
        id: "vm.zone_reclaim_mode",
        family: Family::Memory,
        what: "Whether a memory node reclaims its own pages before it takes those of another.",
        why: "A hot core would reclaim pages itself, for milliseconds, while there is memory.",
        default: "0",
        wanted: "0",
        source: Source::Sysctl("vm.zone_reclaim_mode"),
        want: Want::OneOf(&["0"]),
        hand: Hand::Apply,
        persist: Persist::Sysctl,
        impact: Impact::Some,
        effect: Effect::Unmeasured("this machine has one memory node"),
        undo: WRITES_BACK,
        risk: "none",
    },
    Knob {
        id: "vm.compaction_proactiveness",
        family: Family::Memory,
        what: "How much the kernel moves pages about, ahead of time, to have huge ones.",
        why: "A page that moves is a pause for who uses it, and the server asks for no huge pages.",
        default: "20",
        wanted: "0",
        source: Source::Sysctl("vm.compaction_proactiveness"),
        want: Want::OneOf(&["0"]),
        hand: Hand::Named,
        persist: Persist::Sysctl,
        impact: Impact::Little,
        effect: Effect::Unmeasured("it works when memory is scarce, which it is not here"),
        undo: WRITES_BACK,
        risk: "programs that want huge pages wait for them",
    },
    Knob {
        id: "vm.nr_hugepages",
        family: Family::Memory,
        what: "Huge pages that are set aside, for programs that ask for them.",
        why: "The server does not ask. What is set aside is missing from the page cache.",
        default: "0",
        wanted: "as it is: another program may have it in use",
        source: Source::Sysctl("vm.nr_hugepages"),
        want: Want::Leave,
        hand: Hand::Named,
        persist: Persist::Sysctl,
        impact: Impact::Little,
        effect: Effect::Unmeasured("the server uses none"),
        undo: WRITES_BACK,
        risk: "none",
    },
    Knob {
        id: "thp.enabled",
        family: Family::Memory,
        what: "Who gets transparent huge pages: always everybody, madvise who asks, never nobody.",
        why: "With always the tree's memory is rounded up to 2 MiB here and there, and a fault \
              that clears 2 MiB takes a hot core some 100 µs.",
        default: "always or madvise, by distribution",
        wanted: "madvise or never",
        source: Source::File("sys/kernel/mm/transparent_hugepage/enabled", Form::Choice),
        want: Want::OneOf(&["madvise", "never"]),
        hand: Hand::Apply,
        persist: Persist::Tmpfiles,
        impact: Impact::Some,
        effect: Effect::Unseen(
            "`loadgen fill --count 200000 --connections 4`: always had a rate of 1.06 \
             (0.33–1.44) and resident memory of 1.03 (0.94–1.13) of madvise's, 6 pairs",
        ),
        undo: WRITES_BACK,
        risk: "other programs of this host may gain from always",
    },
    Knob {
        id: "thp.defrag",
        family: Family::Memory,
        what: "Whether a fault waits for the kernel to make a huge page out of small ones.",
        why: "With always that wait is milliseconds, on the core that serves.",
        default: "madvise",
        wanted: "madvise, defer, defer+madvise or never",
        source: Source::File("sys/kernel/mm/transparent_hugepage/defrag", Form::Choice),
        want: Want::OneOf(&["madvise", "defer+madvise", "defer", "never"]),
        hand: Hand::Apply,
        persist: Persist::Tmpfiles,
        impact: Impact::Some,
        effect: Effect::Unmeasured("it works when memory is scarce, which it is not here"),
        undo: WRITES_BACK,
        risk: "as for thp.enabled",
    },
];

/// The hard limit of this process, which is what a server started from here would have.
fn limit(system: &dyn System, name: &str) -> Option<String> {
    let limits = system.read("proc/self/limits").ok()?;
    let row = limits.lines().find_map(|line| line.strip_prefix(name))?;
    row.split_whitespace().nth(1).map(str::to_owned)
}

fn limit_at_least(least: u64, name: &str, seen: &Seen<'_>) -> Judgement {
    let said = if name == "MEMLOCK" { bytes(least) } else { least.to_string() };
    match (seen.value, seen.number()) {
        ("unlimited", _) => Judgement::Fine,
        (_, Some(number)) if number >= least.into() => Judgement::Fine,
        _ => Judgement::Set(format!("at least {said}")),
    }
}
