//! A knob: everything that is known of one setting, as a value.

use crate::form::Form;
use crate::host::Host;
use crate::system::System;

/// A group of knobs that are looked at together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    Kernel,
    Memory,
    Disk,
    Nic,
    Cpu,
    Unit,
    Seccomp,
}

impl Family {
    /// The heading that its knobs stand under.
    pub fn title(self) -> &'static str {
        match self {
            Family::Kernel => "kernel and sysctl",
            Family::Memory => "memory and huge pages",
            Family::Disk => "disk and file system",
            Family::Nic => "network card and interrupts",
            Family::Cpu => "CPU and idle states",
            Family::Unit => "systemd unit",
            Family::Seccomp => "seccomp, for containers",
        }
    }
}

/// What to expect of a knob that is not as it should be, the most first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Impact {
    /// A server does not start.
    Start,
    /// Acknowledged data can be lost, or the kernel kills or stalls the server.
    Safety,
    /// Tens of percent of a latency or a rate, where it applies.
    High,
    /// A few percent, or the tail only.
    Some,
    /// Under a percent, or a rare case.
    Little,
    /// Diagnosis and convenience, no speed.
    Convenience,
}

impl Impact {
    /// In a word or two.
    pub fn word(self) -> &'static str {
        match self {
            Impact::Start => "no start",
            Impact::Safety => "safety",
            Impact::High => "high",
            Impact::Some => "some",
            Impact::Little => "little",
            Impact::Convenience => "convenience",
        }
    }
}

/// Where a knob is read, and written if at all. Paths have no leading slash.
#[derive(Clone, Copy)]
pub enum Source {
    /// A file below `proc/sys`, by its dotted name.
    Sysctl(&'static str),
    /// Two sysctls of which one is in force: their dotted name without `_bytes` and `_ratio`.
    Dirty(&'static str),
    /// One file.
    File(&'static str, Form),
    /// A file of each disk that holds the server's data, below `sys/block/NAME`, and the files
    /// there that the kernel changes along with it; `*` at the end for all of a directory.
    Disk(&'static str, Form, &'static [&'static str]),
    /// A file of each network card, below `sys/class/net/NAME`.
    Nic(&'static str, Form),
    /// A file of each receive queue of each network card, below `sys/class/net/NAME/queues/rx-N`.
    NicQueue(&'static str, Form),
    /// A file of each interrupt of each network card, below `proc/irq/N`.
    NicIrq(&'static str, Form),
    /// A file of each CPU that serves, below `sys/devices/system/cpu/cpuN`, and as for disks.
    HotCpu(&'static str, Form, &'static [&'static str]),
    /// What is seen of the host in some other way; this command does not change it.
    Fact(fn(&dyn System, &Host) -> Option<String>),
    /// A file that is written as a whole, to be found at a path.
    Text(&'static str, fn(&Host) -> String),
}

/// What a value should be.
#[derive(Clone, Copy)]
pub enum Want {
    AtLeast(u64),
    AtMost(u64),
    /// One of these; the first that the host offers, where it says what it offers.
    OneOf(&'static [&'static str]),
    /// Whatever it is: the kernel's own choice is right, and the knob says why.
    Leave,
    /// As the host decides.
    By(fn(&Host, &Seen<'_>) -> Judgement),
}

/// A value as it was read.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Where, without a leading slash; empty for a fact.
    pub path: &'a str,
    /// In its canonical form.
    pub value: &'a str,
    /// What else the file offers, where it says so.
    pub offered: &'a [String],
}

impl Seen<'_> {
    /// The value as a number, if it is one; some settings know values below 0.
    pub fn number(&self) -> Option<i128> {
        self.value.parse().ok()
    }
}

/// What a value means on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// As it should be.
    Fine,
    /// It should be this.
    Set(String),
    /// Somebody should do this.
    Advise(String),
    /// It makes no difference here, and why.
    Moot(String),
}

/// Who turns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hand {
    /// `--apply` does.
    Apply,
    /// `--apply --only ID` does, since it has a price or somebody has decided otherwise.
    Named,
    /// Not this command: the sentence says how.
    Yours(&'static str),
}

/// How a change outlives a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persist {
    /// `--persist` writes it to `/etc/sysctl.d`.
    Sysctl,
    /// `--persist` writes it to `/etc/tmpfiles.d`.
    Tmpfiles,
    /// It is a file, and stays by itself.
    ByItself,
    /// It does not, and why or how else.
    Not(&'static str),
}

/// What turning it did where it was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A difference beyond the noise: figures, machine and command.
    Measured(&'static str),
    /// None beyond the noise: how large that was, and the command.
    Unseen(&'static str),
    /// Not measured, and why.
    Unmeasured(&'static str),
}

/// All that is known of one setting.
pub struct Knob {
    /// What `--only` takes.
    pub id: &'static str,
    pub family: Family,
    /// What it does.
    pub what: &'static str,
    /// Why it matters to a ZooKeeper server.
    pub why: &'static str,
    /// What the kernel, or the distribution, ships.
    pub default: &'static str,
    /// What is asked for, in words.
    pub wanted: &'static str,
    pub source: Source,
    pub want: Want,
    pub hand: Hand,
    pub persist: Persist,
    pub impact: Impact,
    pub effect: Effect,
    /// How it is undone.
    pub undo: &'static str,
    /// What can go wrong.
    pub risk: &'static str,
}

/// The undo of whatever is a value in a file.
pub const WRITES_BACK: &str = "`--revert` writes the old value back";
/// The undo of what this command does not do.
pub const BY_HAND: &str = "by hand, as it was done";
/// The undo of a file that is written.
pub const REMOVES: &str = "`--revert` removes the file, or puts the earlier one back";
