//! A host in memory, with the habits of a kernel that matter here.
//!
//! * A file of choices shows all of them, the one in force in brackets, and refuses others.
//! * Of `vm.dirty_bytes` and `vm.dirty_ratio`, setting one resets the other; 0 bytes is refused.
//! * Another disk scheduler brings its own `nr_requests` and `iosched/`; the old one's are gone.
//! * `read_ahead_kb` is rounded down to a multiple, 4 unless a test says otherwise.
//! * The power goes before any change that a test names, in the middle of it where it is a file
//!   that is written; nothing changes after that until the next start.
//! * Files can be read-only, as in a container.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::form::Form;
use crate::host::{Host, Served};
use crate::system::{System, directory_of};

/// Where tests keep the state.
pub const STATE: &str = "var/lib/ringkeeper/tuning";

pub struct Fake {
    files: BTreeMap<String, String>,
    directories: BTreeSet<String>,
    /// By where they stand, with the directory that they lead to.
    links: BTreeMap<String, String>,
    /// Changes until the power goes; `None` for ever.
    pub power: Option<usize>,
    /// Whether the power has gone.
    is_dark: bool,
    /// Changes so far.
    pub changes: usize,
    /// What `read_ahead_kb` is rounded to.
    pub read_ahead_step: u64,
    /// Files that cannot be written.
    pub read_only: Vec<&'static str>,
}

/// A host of four CPUs with a partition of a disk and a card, all knobs as a distribution might
/// have left them.
const FILES: &[(&str, &str)] = &[
    ("proc/cpuinfo", "flags\t\t: fpu sse2\n"),
    ("proc/swaps", "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n"),
    ("proc/net/softnet_stat", "0001 00000000 0\n0002 00000003 0\n"),
    ("proc/self/status", "Name:\tx\nSeccomp:\t0\n"),
    (
        "proc/self/limits",
        "Limit                     Soft Limit           Hard Limit           Units     \n\
         Max open files            1024                 4096                 files     \n\
         Max locked memory         65536                65536                bytes     \n",
    ),
    (
        "proc/self/mountinfo",
        "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw,discard\n\
         23 22 0:5 / /proc rw - proc proc rw\n\
         24 22 8:16 / /log\\040disk rw,strictatime - ext4 /dev/sdb rw,nobarrier,data=journal\n",
    ),
    ("proc/7/comm", "irqbalance\n"),
    ("proc/irq/40/smp_affinity_list", "0-3\n"),
    ("proc/irq/41/smp_affinity_list", "3\n"),
    ("proc/irq/9/smp_affinity_list", "0-3\n"),
    ("proc/sys/kernel/io_uring_disabled", "0\n"),
    ("proc/sys/net/core/somaxconn", "128\n"),
    ("proc/sys/net/ipv4/tcp_max_syn_backlog", "512\n"),
    ("proc/sys/net/ipv4/tcp_syncookies", "0\n"),
    ("proc/sys/net/ipv4/tcp_abort_on_overflow", "1\n"),
    ("proc/sys/net/core/netdev_max_backlog", "1000\n"),
    ("proc/sys/net/ipv4/tcp_congestion_control", "bbr\n"),
    ("proc/sys/net/ipv4/tcp_slow_start_after_idle", "1\n"),
    ("proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t1048576\n"),
    ("proc/sys/net/ipv4/tcp_wmem", "4096\t16384\t4194304\n"),
    ("proc/sys/net/core/rmem_max", "212992\n"),
    ("proc/sys/net/core/wmem_max", "212992\n"),
    ("proc/sys/net/core/busy_poll", "50\n"),
    ("proc/sys/net/core/busy_read", "0\n"),
    ("proc/sys/net/netfilter/nf_conntrack_max", "16384\n"),
    ("proc/sys/fs/file-max", "50000\n"),
    ("proc/sys/fs/nr_open", "1048576\n"),
    ("proc/sys/kernel/numa_balancing", "1\n"),
    ("proc/sys/kernel/nmi_watchdog", "1\n"),
    ("proc/sys/kernel/perf_event_paranoid", "2\n"),
    ("proc/sys/kernel/kptr_restrict", "1\n"),
    ("proc/sys/vm/stat_interval", "1\n"),
    ("proc/sys/vm/swappiness", "60\n"),
    ("proc/sys/vm/overcommit_memory", "2\n"),
    ("proc/sys/vm/max_map_count", "65530\n"),
    ("proc/sys/vm/zone_reclaim_mode", "1\n"),
    ("proc/sys/vm/compaction_proactiveness", "20\n"),
    ("proc/sys/vm/nr_hugepages", "0\n"),
    ("proc/sys/vm/dirty_bytes", "0\n"),
    ("proc/sys/vm/dirty_ratio", "20\n"),
    ("proc/sys/vm/dirty_background_bytes", "1073741824\n"),
    ("proc/sys/vm/dirty_background_ratio", "0\n"),
    ("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n"),
    ("sys/kernel/mm/transparent_hugepage/defrag", "always defer defer+madvise [madvise] never\n"),
    ("sys/devices/pci/block/sda/sda1/partition", "1\n"),
    ("sys/devices/pci/block/sda/queue/scheduler", "none mq-deadline [kyber]\n"),
    ("sys/devices/pci/block/sda/queue/nr_requests", "512\n"),
    ("sys/devices/pci/block/sda/queue/iosched/read_expire", "100\n"),
    ("sys/devices/pci/block/sda/queue/read_ahead_kb", "64\n"),
    ("sys/devices/pci/block/sda/queue/wbt_lat_usec", "0\n"),
    ("sys/devices/pci/block/sda/queue/rq_affinity", "1\n"),
    ("sys/devices/pci/block/sda/queue/write_cache", "write back\n"),
    ("sys/devices/pci/block/sda/queue/fua", "0\n"),
    ("sys/devices/pci/block/sdb/queue/scheduler", "[none] mq-deadline kyber\n"),
    ("sys/devices/pci/block/sdb/queue/nr_requests", "64\n"),
    ("sys/devices/pci/block/sdb/queue/read_ahead_kb", "4096\n"),
    ("sys/devices/pci/block/sdb/queue/wbt_lat_usec", "2000\n"),
    ("sys/devices/pci/block/sdb/queue/rq_affinity", "1\n"),
    ("sys/devices/pci/block/sdb/queue/write_cache", "write through\n"),
    ("sys/devices/pci/block/sdb/queue/fua", "1\n"),
    ("sys/devices/pci/card/virtio2/net/eth0/operstate", "up\n"),
    ("sys/devices/pci/card/virtio2/net/eth0/napi_defer_hard_irqs", "2\n"),
    ("sys/devices/pci/card/virtio2/net/eth0/gro_flush_timeout", "200000\n"),
    ("sys/devices/pci/card/virtio2/net/eth0/queues/rx-0/rps_cpus", "f\n"),
    ("sys/devices/pci/card/virtio2/net/eth0/queues/rx-1/rps_cpus", "0\n"),
    ("sys/devices/pci/card/virtio2/net/eth0/queues/tx-0/xps_cpus", "3\n"),
    ("sys/devices/pci/card/msi_irqs/40", "msix\n"),
    ("sys/devices/pci/card/msi_irqs/41", "msix\n"),
    ("sys/devices/system/node/node0/cpulist", "0-1\n"),
    ("sys/devices/system/node/node1/cpulist", "2-3\n"),
    ("sys/devices/system/cpu/online", "0-3\n"),
    ("sys/devices/system/cpu/isolated", "\n"),
    ("sys/devices/system/cpu/smt/active", "1\n"),
    ("sys/devices/system/cpu/intel_pstate/no_turbo", "1\n"),
    ("sys/devices/system/cpu/cpufreq/boost", "0\n"),
    ("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet\n"),
    ("sys/module/haltpoll/parameters/guest_halt_poll_ns", "0\n"),
    ("dev/cpu_dma_latency", ""),
    ("etc/sysctl.conf", "# somebody's\n"),
];

/// Links, by where they stand and where they lead.
const LINKS: &[(&str, &str)] = &[
    ("sys/dev/block/8:1", "sys/devices/pci/block/sda/sda1"),
    ("sys/dev/block/8:16", "sys/devices/pci/block/sdb"),
    ("sys/block/sda", "sys/devices/pci/block/sda"),
    ("sys/block/sdb", "sys/devices/pci/block/sdb"),
    ("sys/class/net/eth0", "sys/devices/pci/card/virtio2/net/eth0"),
    ("sys/devices/pci/card/virtio2/net/eth0/device", "sys/devices/pci/card/virtio2"),
];

impl Fake {
    pub fn new() -> Fake {
        let mut fake = Fake {
            files: BTreeMap::new(),
            directories: BTreeSet::from([String::new()]),
            links: BTreeMap::new(),
            power: None,
            is_dark: false,
            changes: 0,
            read_ahead_step: 4,
            read_only: Vec::new(),
        };
        for (path, text) in FILES {
            fake.put(path, text);
        }
        for cpu in 0..4 {
            let base = format!("sys/devices/system/cpu/cpu{cpu}");
            fake.put(&format!("{base}/cpufreq/scaling_governor"), "powersave\n");
            let preference = format!("{base}/cpufreq/energy_performance_preference");
            fake.put(&preference, "balance_performance\n");
            fake.put(&format!("{base}/power/pm_qos_resume_latency_us"), "0\n");
            let siblings = format!("{base}/topology/thread_siblings_list");
            fake.put(&siblings, ["0-1\n", "2-3\n"][cpu / 2]);
        }
        for (link, target) in LINKS {
            fake.link(link, target);
        }
        fake
    }

    /// Makes a file hold a text, as somebody else would.
    pub fn put(&mut self, path: &str, text: &str) {
        let path = self.followed(path);
        self.make_above(&path);
        self.files.insert(path, text.to_owned());
    }

    /// Makes a link to a directory.
    pub fn link(&mut self, from: &str, to: &str) {
        self.make_above(from);
        self.links.insert(from.to_owned(), to.to_owned());
    }

    fn make_above(&mut self, path: &str) {
        let above = path.match_indices('/').map(|(at, _)| path[..at].to_owned());
        self.directories.extend(above);
    }

    pub fn text(&self, path: &str) -> String {
        self.files[&self.followed(path)].clone()
    }

    /// Every file.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Makes the same files, and links, in a directory of the real file system.
    pub fn write_to(&self, root: &Path) {
        let above = |path: &Path| fs::create_dir_all(path.parent().unwrap()).unwrap();
        for (path, text) in &self.files {
            let path = root.join(path);
            above(&path);
            fs::write(path, text).unwrap();
        }
        for (from, to) in &self.links {
            let (from, to) = (root.join(from), root.join(to));
            above(&from);
            symlink(to, from).unwrap();
        }
    }

    pub fn delete(&mut self, path: &str) {
        assert!(self.files.remove(&self.followed(path)).is_some(), "{path} is not there");
    }

    /// Where a path leads once its links are followed, whether something is there or not.
    fn followed(&self, path: &str) -> String {
        let mut followed = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let gap = if followed.is_empty() { "" } else { "/" };
            followed = format!("{followed}{gap}{part}");
            if let Some(target) = self.links.get(&followed) {
                followed.clone_from(target);
            }
        }
        followed
    }

    /// The host, whose executors are bound to CPUs 0 to 2.
    pub fn host(&self) -> Host {
        Host::look(self, served())
    }

    /// Every file and directory outside of the state's, with its content; blanks count as one.
    pub fn all(&self) -> BTreeMap<String, String> {
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let files = self.files.iter().map(|(path, text)| (path.clone(), words(text)));
        let directories =
            self.directories.iter().map(|path| (path.clone(), "a directory".to_owned()));
        files.chain(directories).filter(|(path, _)| !path.starts_with("var")).collect()
    }

    /// Gives the power back.
    pub fn restart(&mut self) {
        (self.power, self.is_dark) = (None, false);
    }

    /// Counts a change, or refuses it since the power is gone.
    fn change(&mut self) -> io::Result<()> {
        match &mut self.power {
            Some(0) => {
                self.is_dark = true;
                return Err(io::Error::other("the power is gone"));
            }
            Some(left) => *left -= 1,
            None => {}
        }
        self.changes += 1;
        Ok(())
    }

    fn kernel_takes(&mut self, path: &str, value: &str) -> io::Result<()> {
        let refused = || io::Error::from(io::ErrorKind::InvalidInput);
        let text = self.read(path)?;
        if path.starts_with("proc/sys/vm/dirty") {
            return self.dirty_takes(path, value);
        }
        if let Some(old) = Form::Choice.value(&text) {
            let choices = Form::Choice.offered(&text);
            if !choices.contains(&value.to_owned()) {
                return Err(refused());
            }
            let spelled = choices.iter().map(|choice| match choice == value {
                true => format!("[{choice}]"),
                false => choice.clone(),
            });
            let spelled = spelled.collect::<Vec<_>>().join(" ");
            if path.ends_with("queue/scheduler") && old != value {
                self.scheduler_changes(directory_of(path), value);
            }
            self.put(path, &spelled);
        } else if path.ends_with("read_ahead_kb") {
            let number: u64 = value.parse().map_err(|_| refused())?;
            self.put(path, &format!("{}\n", number / self.read_ahead_step * self.read_ahead_step));
        } else {
            self.put(path, &format!("{value}\n"));
        }
        Ok(())
    }

    fn dirty_takes(&mut self, path: &str, value: &str) -> io::Result<()> {
        let (base, unit) = path.rsplit_once('_').unwrap();
        if unit == "bytes" && value == "0" {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let other = if unit == "bytes" { "ratio" } else { "bytes" };
        self.put(&format!("{base}_{other}"), "0");
        self.put(path, value);
        Ok(())
    }

    fn scheduler_changes(&mut self, queue: &str, scheduler: &str) {
        let own = format!("{}/iosched", self.followed(queue));
        self.files.retain(|path, _| !path.starts_with(&own));
        self.directories.remove(&own);
        let requests = if scheduler == "none" { "128" } else { "256" };
        self.put(&format!("{queue}/nr_requests"), requests);
        if scheduler != "none" {
            self.put(&format!("{queue}/iosched/read_expire"), "500\n");
        }
    }
}

/// What is served in tests: ten thousand connections, and a log on a disk of its own.
pub fn served() -> Served {
    Served {
        config_file: Some("/etc/ring keeper/zoo.cfg".to_owned()),
        program: "/usr/bin/ringkeeper".to_owned(),
        data_directory: "/data".to_owned(),
        log_directory: "/log disk/zk".to_owned(),
        connections_max: 10_000,
        backlog: 1024,
        descriptors: 10_256,
        locked_bytes: 3 << 20,
        segment_bytes: 1 << 20,
        hot_cpus: vec![0, 1, 2],
        ring: Ok(()),
    }
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl System for Fake {
    fn read(&self, path: &str) -> io::Result<String> {
        self.files.get(&self.followed(path)).cloned().ok_or_else(missing)
    }

    fn names(&self, directory: &str) -> Vec<String> {
        let base = format!("{}/", self.followed(directory));
        let all = self.files.keys().chain(&self.directories).chain(self.links.keys());
        let below = all.filter_map(|path| path.strip_prefix(&base));
        let names: BTreeSet<&str> = below.filter(|name| !name.contains('/')).collect();
        names.into_iter().map(str::to_owned).collect()
    }

    fn resolved(&self, path: &str) -> Option<String> {
        let path = self.followed(path);
        let is_there = self.files.contains_key(&path) || self.directories.contains(&path);
        is_there.then_some(path)
    }

    fn set(&mut self, path: &str, value: &str) -> io::Result<()> {
        if self.read_only.contains(&path) {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        self.change()?;
        self.kernel_takes(path, value)
    }

    fn stage(&mut self, path: &str, text: &str) -> io::Result<()> {
        if !self.directories.contains(directory_of(path)) {
            return Err(missing());
        }
        if self.power == Some(0) && !self.is_dark {
            // The power goes while it is written: half of it is there.
            let half = (0..=text.len() / 2).rev().find(|at| text.is_char_boundary(*at));
            self.put(path, &text[..half.unwrap_or(0)]);
        }
        self.change()?;
        self.put(path, text);
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.change()?;
        let text = self.files.remove(from).ok_or_else(missing)?;
        self.files.insert(to.to_owned(), text);
        Ok(())
    }

    fn remove(&mut self, path: &str) -> io::Result<()> {
        if !self.files.contains_key(path) {
            return Err(missing());
        }
        self.change()?;
        self.files.remove(path);
        Ok(())
    }

    fn make_directory(&mut self, path: &str) -> io::Result<()> {
        if !self.directories.contains(directory_of(path)) {
            return Err(missing());
        }
        self.change()?;
        let is_new = self.directories.insert(path.to_owned());
        if is_new { Ok(()) } else { Err(io::ErrorKind::AlreadyExists.into()) }
    }

    fn remove_directory(&mut self, path: &str) -> io::Result<()> {
        if !self.names(path).is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        self.change()?;
        if self.directories.remove(path) { Ok(()) } else { Err(missing()) }
    }

    fn sync_directory(&mut self, path: &str) -> io::Result<()> {
        self.change()?;
        if self.directories.contains(path) { Ok(()) } else { Err(missing()) }
    }
}
