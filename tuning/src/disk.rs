//! Disks and file systems: the queue that a commit waits in, and what a mount promises.

use crate::form::{Form, bytes};
use crate::host::Host;
use crate::knob::{
    BY_HAND, Effect, Family, Hand, Impact, Judgement, Knob, Persist, Seen, Source, WRITES_BACK,
    Want,
};
use crate::system::System;

/// What may be dirty before the kernel starts writing, and before it makes writers wait.
const DIRTY_BACKGROUND: &str = "67108864 bytes";
const DIRTY: &str = "536870912 bytes";

/// A scheduler brings its own length of the queue and its own settings, and may switch the throttle
/// off; another one's are gone.
const DRAGGED: &[&str] = &["queue/nr_requests", "queue/wbt_lat_usec", "queue/iosched/*"];

pub const KNOBS: &[Knob] = &[
    Knob {
        id: "disk.scheduler",
        family: Family::Disk,
        what: "The order in which requests reach the disk.",
        why: "A commit is one write that somebody waits for. NVMe, SSDs and virtual disks have \
              queues of their own; a scheduler above them adds locks and can hold a write back.",
        default: "none on NVMe, mq-deadline on most others",
        wanted: "none, but mq-deadline or bfq on a spinning disk",
        source: Source::Disk("queue/scheduler", Form::Choice, DRAGGED),
        want: Want::By(scheduler),
        hand: Hand::Apply,
        persist: Persist::Tmpfiles,
        impact: Impact::Some,
        effect: Effect::Unseen(
            "`loadgen set --connections 1`: p50 0.75 (0.52–3.55) of mq-deadline's, p99 0.98 \
             (0.63–2.22); 32 connections: p50 0.99 (0.62–1.84), p99 1.19 (0.84–1.81); 6 pairs each",
        ),
        undo: WRITES_BACK,
        risk: "without a scheduler another program's writes are not held back for the log's",
    },
    Knob {
        id: "disk.nr_requests",
        family: Family::Disk,
        what: "Requests that may wait for a disk.",
        why: "The log has one write under way at a time, so it never waits for a place; a queue \
              that is full of another program's writes is in front of it all the same.",
        default: "256 with a scheduler, the disk's own depth without",
        wanted: "as it is",
        source: Source::Disk("queue/nr_requests", Form::Words, &[]),
        want: Want::Leave,
        hand: Hand::Named,
        persist: Persist::Tmpfiles,
        impact: Impact::Little,
        effect: Effect::Unmeasured("the log has one write under way at a time"),
        undo: WRITES_BACK,
        risk: "another program's throughput, where it is small",
    },
    Knob {
        id: "disk.read_ahead",
        family: Family::Disk,
        what: "KiB that are read ahead of who reads a file from its start to its end.",
        why: "A start reads the log and a snapshot so, through mappings; serving reads no disk.",
        default: "128",
        wanted: "at least 128",
        source: Source::Disk("queue/read_ahead_kb", Form::Words, &[]),
        want: Want::AtLeast(128),
        hand: Hand::Apply,
        persist: Persist::Tmpfiles,
        impact: Impact::Little,
        effect: Effect::Unmeasured("a start from a cold cache was not timed"),
        undo: WRITES_BACK,
        risk: "none",
    },
    Knob {
        id: "disk.write_back_throttle",
        family: Family::Disk,
        what: "The read latency in µs beyond which the kernel slows down writing in the \
               background.",
        why: "A snapshot and other programs write in the background, and the log's write waits \
              behind them. 0 switches the throttle off.",
        default: "2000, 75000 where the disk says that it spins, as virtual ones do; 0 with bfq",
        wanted: "not 0",
        source: Source::Disk("queue/wbt_lat_usec", Form::Words, &[]),
        want: Want::By(|_, seen| match seen.value {
            "0" => Judgement::Set("2000".to_owned()),
            _ => Judgement::Fine,
        }),
        hand: Hand::Named,
        persist: Persist::Tmpfiles,
        impact: Impact::Some,
        effect: Effect::Unseen(
            "`loadgen set --connections 32` beside a dd of 1.5 GB: off had p50 1.02 (0.34–1.14) \
             and p99.9 0.92 (0.76–1.34) of on, 4 pairs",
        ),
        undo: WRITES_BACK,
        risk: "the throughput of large writes beside reads",
    },
    Knob {
        id: "disk.completion_cpu",
        family: Family::Disk,
        what: "Where a request ends: 1 near the CPU that made it, 2 on that very CPU.",
        why: "Where executors are bound, the end of a commit on the executor's own CPU saves a \
              wake from another; where the interrupt comes on a CPU near by, 1 costs nothing.",
        default: "1",
        wanted: "as it is",
        source: Source::Disk("queue/rq_affinity", Form::Words, &[]),
        want: Want::Leave,
        hand: Hand::Named,
        persist: Persist::Tmpfiles,
        impact: Impact::Little,
        effect: Effect::Unseen(
            "`loadgen set --connections 1`: 2 had p50 1.61 (0.72–2.28) of 1, p99 1.03 (0.63–1.09), \
             5 pairs, with executors that are not bound",
        ),
        undo: WRITES_BACK,
        risk: "none",
    },
    Knob {
        id: "disk.write_cache",
        family: Family::Disk,
        what: "Whether the disk says that it has a cache that must be flushed.",
        why: "With `write back` each commit flushes that cache, or writes past it where the disk \
              has FUA (disk.fua); `write through` needs neither. It must say what is true: told \
              `write through` of a disk that is not, the kernel stops flushing, and a power cut \
              loses what was acknowledged.",
        default: "what the disk says",
        wanted: "as it is; never overridden",
        source: Source::Disk("queue/write_cache", Form::Words, &[]),
        want: Want::Leave,
        hand: Hand::Yours("buy a disk with power-loss protection: it says `write through` itself"),
        persist: Persist::Not("it is the disk's to say"),
        impact: Impact::Safety,
        effect: Effect::Unmeasured("telling the kernel a lie is not tried, not even for a figure"),
        undo: BY_HAND,
        risk: "acknowledged data is lost with the power",
    },
    Knob {
        id: "disk.fua",
        family: Family::Disk,
        what: "Whether a single write can go past the disk's cache.",
        why: "The log's O_DSYNC writes are one command with it, a write and a flush without it.",
        default: "what the disk says; libata switches it off unless told libata.fua=1",
        wanted: "as it is",
        source: Source::Disk("queue/fua", Form::Words, &[]),
        want: Want::Leave,
        hand: Hand::Yours("choose a disk, or a bus of the virtual machine, that has it"),
        persist: Persist::Not("it is the disk's to say"),
        impact: Impact::Some,
        effect: Effect::Unmeasured("this disk has none, and one cannot be had in its place"),
        undo: BY_HAND,
        risk: "none",
    },
    Knob {
        id: "vm.dirty_background",
        family: Family::Disk,
        what: "How much may be written to files before the kernel starts to put it on the disk.",
        why: "A tenth of a large memory is gigabytes, which then go to the disk at once, in front \
              of the log's next write. The log itself goes past the page cache.",
        default: "10 % of the memory that is free",
        wanted: "64 MiB; at most 256 MiB",
        source: Source::Dirty("vm.dirty_background"),
        want: Want::By(|_, seen| dirty(256 << 20, DIRTY_BACKGROUND, seen)),
        hand: Hand::Apply,
        persist: Persist::Sysctl,
        impact: Impact::Some,
        effect: Effect::Unseen(
            "`loadgen set --connections 32` beside a dd of 1.5 GB, with both limits: p50 0.72 \
             (0.23–1.65), p99 1.30 (0.79–2.36), p99.9 0.90 (0.40–1.54), 5 pairs",
        ),
        undo: "`--revert` writes the ratio or the bytes back, whichever was in force",
        risk: "programs that write and delete large files at once reach the disk more often",
    },
    Knob {
        id: "vm.dirty",
        family: Family::Disk,
        what: "How much may be dirty before who writes has to wait.",
        why: "As vm.dirty_background: it bounds the heap that the log's write can end up behind.",
        default: "20 % of the memory that is free",
        wanted: "512 MiB; at most 1 GiB",
        source: Source::Dirty("vm.dirty"),
        want: Want::By(|_, seen| dirty(1 << 30, DIRTY, seen)),
        hand: Hand::Apply,
        persist: Persist::Sysctl,
        impact: Impact::Some,
        effect: Effect::Unseen(
            "`loadgen set --connections 32` beside a dd of 1.5 GB, with both limits: p50 0.72 \
             (0.23–1.65), p99 1.30 (0.79–2.36), p99.9 0.90 (0.40–1.54), 5 pairs",
        ),
        undo: "`--revert` writes the ratio or the bytes back, whichever was in force",
        risk: "programs that write large files wait earlier",
    },
    Knob {
        id: "mount.barrier",
        family: Family::Disk,
        what: "Whether the file system flushes the disk's cache when a program syncs.",
        why: "Every acknowledgement rests on it.",
        default: "on",
        wanted: "on: none of nobarrier, barrier=0",
        source: Source::Fact(|_, host| options(host, &["nobarrier", "barrier=0"])),
        want: Want::By(|_, seen| match seen.value {
            "none" => Judgement::Fine,
            _ => Judgement::Set("take it out of the mount's options".to_owned()),
        }),
        hand: Hand::Yours("mount -o remount,barrier POINT, and /etc/fstab"),
        persist: Persist::Not("it belongs in /etc/fstab"),
        impact: Impact::Safety,
        effect: Effect::Unmeasured("what it would bring is what it would lose"),
        undo: BY_HAND,
        risk: "none; without barriers acknowledged data is lost with the power",
    },
    Knob {
        id: "mount.data",
        family: Family::Disk,
        what: "How ext4 orders data and metadata.",
        why: "The log's segments are filled and recycled, so a commit changes no metadata and \
              `ordered` costs it nothing; `journal` writes all data twice and refuses O_DIRECT.",
        default: "ordered",
        wanted: "ordered (the default) or writeback",
        source: Source::Fact(|_, host| options(host, &["data=journal"])),
        want: Want::By(|_, seen| match seen.value {
            "none" => Judgement::Fine,
            _ => Judgement::Set("data=ordered".to_owned()),
        }),
        hand: Hand::Yours("take data=journal out of /etc/fstab or tune2fs -o, and mount again"),
        persist: Persist::Not("it belongs in /etc/fstab"),
        impact: Impact::High,
        effect: Effect::Unmeasured("this file system cannot be mounted anew"),
        undo: BY_HAND,
        risk: "none for the server's own files",
    },
    Knob {
        id: "mount.atime",
        family: Family::Disk,
        what: "Whether a read of a file is written down.",
        why: "A start reads files; relatime writes that down once a day, strictatime each time.",
        default: "relatime",
        wanted: "noatime or relatime",
        source: Source::Fact(|_, host| options(host, &["noatime", "relatime", "strictatime"])),
        want: Want::By(|_, seen| match seen.value {
            "none" => Judgement::Set("noatime".to_owned()),
            // One of several mounts is enough.
            found if found.contains("strictatime") => Judgement::Set("noatime".to_owned()),
            _ => Judgement::Fine,
        }),
        hand: Hand::Yours("mount -o remount,noatime POINT, and /etc/fstab"),
        persist: Persist::Not("it belongs in /etc/fstab"),
        impact: Impact::Little,
        effect: Effect::Unmeasured("serving reads no files"),
        undo: BY_HAND,
        risk: "programs that go by the time of the last read, of which few are left",
    },
    Knob {
        id: "mount.discard",
        family: Family::Disk,
        what: "Whether the disk is told at once which blocks a deleted file had.",
        why: "Old snapshots are deleted while the log is written; a disk can take milliseconds \
              for the discards. Log segments are recycled, not deleted.",
        default: "off",
        wanted: "off, with fstrim.timer",
        source: Source::Fact(|_, host| options(host, &["discard"])),
        want: Want::By(|_, seen| match seen.value {
            "none" => Judgement::Fine,
            _ => Judgement::Set("nodiscard, and fstrim.timer".to_owned()),
        }),
        hand: Hand::Yours("mount -o remount,nodiscard POINT, /etc/fstab; enable fstrim.timer"),
        persist: Persist::Not("it belongs in /etc/fstab"),
        impact: Impact::Little,
        effect: Effect::Unmeasured("this machine's only file system cannot be mounted anew"),
        undo: BY_HAND,
        risk: "a thin volume gives its space back once a week instead of at once",
    },
    Knob {
        id: "disk.preallocation",
        family: Family::Disk,
        what: "The size of a log segment (preAllocSize), which the server fills with zeros ahead.",
        why: "A commit into a file that is filled changes no metadata; larger segments are filled \
              less often and stay on the disk longer.",
        default: "64 MiB",
        wanted: "at least 16 MiB",
        source: Source::Fact(|_, host| Some(host.served.segment_bytes.to_string())),
        want: Want::By(|_, seen| match seen.number() {
            Some(size) if size < 16 << 20 => Judgement::Set(bytes(64 << 20)),
            _ => Judgement::Fine,
        }),
        hand: Hand::Yours("preAllocSize in zoo.cfg, in KiB"),
        persist: Persist::ByItself,
        impact: Impact::Some,
        effect: Effect::Unmeasured("the segments of a run are filled before it begins"),
        undo: BY_HAND,
        risk: "three segments must fit on the volume",
    },
    Knob {
        id: "disk.separate",
        family: Family::Disk,
        what: "Whether the log and the snapshots are on different disks (dataLogDir).",
        why: "A snapshot's writes share the disk's queue with the log's. A snapshot pauses after \
              each 256 KiB, so that one disk serves too.",
        default: "one directory",
        wanted: "two disks where p99.9 of writes matters",
        source: Source::Fact(separate),
        want: Want::Leave,
        hand: Hand::Yours("dataLogDir in zoo.cfg"),
        persist: Persist::ByItself,
        impact: Impact::Some,
        effect: Effect::Unmeasured("this machine has one disk"),
        undo: BY_HAND,
        risk: "none",
    },
];

fn scheduler(host: &Host, seen: &Seen<'_>) -> Judgement {
    let disk = seen.path.split('/').nth(2).unwrap_or_default();
    // Virtual disks say that they spin: what they are made of, nobody tells.
    let is_virtual =
        host.virtual_machine || ["vd", "xvd", "nvme"].iter().any(|it| disk.starts_with(it));
    let offers = |name: &str| seen.offered.iter().any(|it| it == name);
    match seen.value {
        "none" => Judgement::Fine,
        "mq-deadline" | "bfq" if !is_virtual => {
            Judgement::Advise("none, if this disk does not spin".to_owned())
        }
        _ if offers("none") => Judgement::Set("none".to_owned()),
        _ => Judgement::Moot("this kernel does not offer none".to_owned()),
    }
}

/// A ratio is of a memory that grows; bytes are bounded by `most`.
fn dirty(most: u64, wanted: &str, seen: &Seen<'_>) -> Judgement {
    let count = seen.value.strip_suffix(" bytes").and_then(|count| count.parse::<u64>().ok());
    match count {
        Some(count) if count <= most => Judgement::Fine,
        _ => Judgement::Set(wanted.to_owned()),
    }
}

/// Which of some options the mounts of the data have; `none` for none.
fn options(host: &Host, wanted: &[&str]) -> Option<String> {
    let all = host.mounts.iter().flat_map(|mount| &mount.options);
    let mut found: Vec<&str> =
        all.map(String::as_str).filter(|option| wanted.contains(option)).collect();
    found.sort_unstable();
    found.dedup();
    match (host.mounts.is_empty(), found.is_empty()) {
        (true, _) => None,
        (false, true) => Some("none".to_owned()),
        (false, false) => Some(found.join(" ")),
    }
}

fn separate(_: &dyn System, host: &Host) -> Option<String> {
    let device = |path: &str| host.mount(path).map(|mount| &mount.device);
    let served = &host.served;
    let (log, data) = (device(&served.log_directory)?, device(&served.data_directory)?);
    Some(if log == data { "one volume" } else { "two volumes" }.to_owned())
}
