//! What the judgements need to know of a host: its CPUs, disks, cards, and what it is to serve.
//!
//! Looking never fails. What cannot be read is taken for absent, and a knob that needs it says so.

use crate::form;
use crate::system::{System, directory_of, name_of};

/// What a configuration asks of the host. The caller knows it; nothing here is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The zoo.cfg, if one is named, as an absolute path.
    pub config_file: Option<String>,
    /// The absolute path of the program, for the unit.
    pub program: String,
    /// Where snapshots live, an absolute path.
    pub data_directory: String,
    /// Where the log lives, an absolute path.
    pub log_directory: String,
    /// Connections of the whole server, at most.
    pub connections_max: u64,
    /// The length of the listen queue that the server asks for.
    pub backlog: u64,
    /// Descriptors that the server wants to be able to open.
    pub descriptors: u64,
    /// Memory that the server wants to be able to lock, in bytes.
    pub locked_bytes: u64,
    /// The size of a log segment, in bytes.
    pub segment_bytes: u64,
    /// CPUs that executors are bound to, ascending; empty where they are not bound.
    pub hot_cpus: Vec<usize>,
    /// The kernel's answer to a ring of the kind that the server makes.
    pub ring: Result<(), String>,
}

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// `MAJOR:MINOR` of its device.
    pub device: String,
    /// Where it is mounted, an absolute path.
    pub point: String,
    /// What it is, `ext4` for one.
    pub kind: String,
    /// Its options, the mount's own and the file system's.
    pub options: Vec<String>,
}

/// A network card that carries packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    pub name: String,
    /// Its receive queues.
    pub queues: Vec<String>,
    /// The numbers of its interrupts.
    pub interrupts: Vec<u32>,
}

/// A host, as far as it can be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// CPUs that are on, ascending.
    pub cpus: Vec<usize>,
    /// Memory nodes.
    pub node_count: usize,
    /// Whether a hypervisor is below.
    pub virtual_machine: bool,
    /// Areas that memory can be swapped to.
    pub swap_count: usize,
    /// Packets that were dropped since boot because a CPU's queue was full.
    pub backlog_drops: u64,
    /// The mounts of the data directory and the log's, once where both are on one.
    pub mounts: Vec<Mount>,
    /// The disks below those mounts, by their names in `sys/block`.
    pub disks: Vec<String>,
    /// Cards with a device of their own that are not down.
    pub nics: Vec<Nic>,
    /// What is to be served.
    pub served: Served,
}

impl Host {
    /// Looks at the host and what is to be served on it.
    pub fn look(system: &dyn System, served: Served) -> Host {
        let text = |path: &str| system.read(path).unwrap_or_default();
        let mounts = mounts_of(&text("proc/self/mountinfo"), &served);
        let mut disks: Vec<String> =
            mounts.iter().flat_map(|mount| disks_of(system, &mount.device)).collect();
        disks.sort_unstable();
        disks.dedup();
        let is_node = |name: &String| {
            name.strip_prefix("node").is_some_and(|rest| rest.parse::<u32>().is_ok())
        };
        let nodes = system.names("sys/devices/system/node").into_iter().filter(is_node).count();
        Host {
            cpus: form::cpus(text("sys/devices/system/cpu/online").trim()).unwrap_or_default(),
            node_count: nodes.max(1),
            virtual_machine: text("proc/cpuinfo")
                .lines()
                .filter(|line| line.starts_with("flags"))
                .any(|line| line.split_whitespace().any(|flag| flag == "hypervisor")),
            swap_count: text("proc/swaps").lines().skip(1).count(),
            backlog_drops: drops_of(&text("proc/net/softnet_stat")),
            mounts,
            disks,
            nics: nics_of(system),
            served,
        }
    }

    /// CPUs that no executor is bound to, where they are bound at all.
    pub fn cool_cpus(&self) -> Vec<usize> {
        let hot = &self.served.hot_cpus;
        self.cpus.iter().copied().filter(|cpu| !hot.is_empty() && !hot.contains(cpu)).collect()
    }

    /// CPUs that serve: those that executors are bound to, or all.
    pub fn hot_cpus(&self) -> &[usize] {
        if self.served.hot_cpus.is_empty() { &self.cpus } else { &self.served.hot_cpus }
    }

    /// The mount that an absolute path is on.
    pub fn mount(&self, path: &str) -> Option<&Mount> {
        covering(&self.mounts, path)
    }
}

/// The mount that `path` is on: the longest point above it, and the last of those that are equal.
fn covering<'a>(mounts: &'a [Mount], path: &str) -> Option<&'a Mount> {
    let above = |mount: &&Mount| {
        let rest = path.strip_prefix(mount.point.trim_end_matches('/'));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    mounts.iter().filter(above).max_by_key(|mount| mount.point.len())
}

/// A line of mountinfo (proc(5)): `36 35 98:0 /root /point options optional* - kind source
/// options`.
fn mount_of(line: &str) -> Option<Mount> {
    let (head, tail) = line.split_once(" - ")?;
    let head: Vec<&str> = head.split(' ').collect();
    let tail: Vec<&str> = tail.split(' ').collect();
    let (&[_, _, device, _, point, own, ..], &[kind, _, super_options, ..]) =
        (&head[..], &tail[..])
    else {
        return None;
    };
    let mut options: Vec<String> = own.split(',').map(str::to_owned).collect();
    options.extend(super_options.split(',').map(str::to_owned));
    // Blanks in a name are written as octal numbers.
    let point = point.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\");
    Some(Mount { device: device.to_owned(), point, kind: kind.to_owned(), options })
}

fn mounts_of(mountinfo: &str, served: &Served) -> Vec<Mount> {
    let all: Vec<Mount> = mountinfo.lines().filter_map(mount_of).collect();
    let mut mounts: Vec<Mount> = Vec::new();
    for path in [&served.log_directory, &served.data_directory] {
        let mount = covering(&all, path).cloned();
        mounts.extend(mount.filter(|mount| !mounts.contains(mount)));
    }
    mounts
}

/// Layers of devices, of which a disk is the lowest; no host stacks more.
const LAYERS_MAX: usize = 8;

/// The disks below a device: of a partition its disk, of a volume or an array what it is made of.
fn disks_of(system: &dyn System, device: &str) -> Vec<String> {
    let Some(path) = system.resolved(&format!("sys/dev/block/{device}")) else { return Vec::new() };
    let mut layer = vec![path];
    for _ in 0..LAYERS_MAX {
        let below: Vec<String> = layer.iter().flat_map(|path| below(system, path)).collect();
        if below == layer {
            break;
        }
        layer = below;
    }
    layer.iter().map(|path| name_of(path).to_owned()).collect()
}

fn below(system: &dyn System, path: &str) -> Vec<String> {
    if system.read(&format!("{path}/partition")).is_ok() {
        return vec![directory_of(path).to_owned()];
    }
    let slaves = system.names(&format!("{path}/slaves"));
    let resolved = |name: &String| system.resolved(&format!("{path}/slaves/{name}"));
    match slaves.iter().filter_map(resolved).collect::<Vec<_>>() {
        none if none.is_empty() => vec![path.to_owned()],
        slaves => slaves,
    }
}

fn nics_of(system: &dyn System) -> Vec<Nic> {
    let carries = |name: &String| {
        let state = system.read(&format!("sys/class/net/{name}/operstate")).unwrap_or_default();
        let device = system.resolved(&format!("sys/class/net/{name}/device"));
        device.is_some() && state.trim() != "down"
    };
    let nic = |name: String| {
        let queues = system.names(&format!("sys/class/net/{name}/queues"));
        let queues = queues.into_iter().filter(|queue| queue.starts_with("rx-")).collect();
        let interrupts = interrupts_of(system, &name);
        Nic { name, queues, interrupts }
    };
    system.names("sys/class/net").into_iter().filter(carries).map(nic).collect()
}

fn interrupts_of(system: &dyn System, nic: &str) -> Vec<u32> {
    let Some(device) = system.resolved(&format!("sys/class/net/{nic}/device")) else {
        return Vec::new();
    };
    // A virtio device's interrupts are those of the PCI device that it is on.
    let owner =
        if name_of(&device).starts_with("virtio") { directory_of(&device) } else { &device };
    let names = system.names(&format!("{owner}/msi_irqs"));
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| name.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

/// The second column of each CPU's line, hexadecimal, is what was dropped.
fn drops_of(softnet_stat: &str) -> u64 {
    let column = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    softnet_stat.lines().filter_map(column).sum()
}
