//! `ringkeeper check`: whether this host can run this configuration, and what to change.
//!
//! Each subject is measured in one function and judged in another that takes plain values, so that
//! the judgements can be tested on any host. Nothing is left behind: the probe file in a data
//! directory is unlinked as soon as it is open.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::Config;
use crate::wire::membership::Role;

/// The first kernel with `DEFER_TASKRUN` (6.1) and multishot receive (6.0).
const KERNEL_LEAST: (u32, u32) = (6, 1);
/// What glommio wants to lock for each executor; it refuses to start below.
const MEMLOCK_BYTES_PER_EXECUTOR: u64 = 512 * 1024;
/// Executors besides the clients' cores: pipeline, log and background.
const OTHER_EXECUTORS: u64 = 3;
/// Descriptors besides the clients' sockets: log segments, snapshots, rings, peers, admin.
const OTHER_DESCRIPTORS: u64 = 256;
/// A log takes a segment to write, one filled ahead and the one before them.
const SEGMENTS_LEAST: u64 = 3;
/// The free space beyond that from which nobody has to look soon, for snapshots.
const SPARE_BYTES: u64 = 1 << 30;

/// What a finding means for a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Nothing to do.
    Ok,
    /// The server starts, and would be better off with a change.
    Change,
    /// The server does not start.
    Stop,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at, in a word or two.
    pub subject: &'static str,
    /// What it means.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to change, and how; empty where nothing is to be.
    pub advice: String,
}

impl Finding {
    /// A finding with nothing to do.
    pub fn ok(subject: &'static str, found: impl Into<String>) -> Finding {
        Finding { subject, verdict: Verdict::Ok, found: found.into(), advice: String::new() }
    }

    /// A finding that the server can start with.
    pub fn change(
        subject: &'static str,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Finding {
        let (found, advice) = (found.into(), advice.into());
        Finding { subject, verdict: Verdict::Change, found, advice }
    }

    /// A finding that the server cannot start with.
    pub fn stop(
        subject: &'static str,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Finding {
        let (found, advice) = (found.into(), advice.into());
        Finding { subject, verdict: Verdict::Stop, found, advice }
    }
}

/// Measures how fast the volume of the log syncs, and says which writer suits it.
pub type DiskProbe<'a> = &'a dyn Fn(&Config) -> Finding;

/// Looks at everything that a start of `config` needs from this host. The probe runs when nothing
/// else speaks against a start.
pub fn host(config: &Config, probe: Option<DiskProbe<'_>>) -> Vec<Finding> {
    let mut findings = vec![
        ensemble(config),
        kernel(&rustix::system::uname().release().to_string_lossy()),
        io_uring(try_io_uring(), read_number("/proc/sys/kernel/io_uring_disabled")),
        locked_memory(getrlimit(Resource::Memlock).current, executors(config)),
        open_files(getrlimit(Resource::Nofile).maximum, config.limits.connections_max.into()),
        client_port(config.client_address),
    ];
    findings.extend(directory("dataLogDir", &config.data_log_dir, config));
    if config.data_dir != config.data_log_dir {
        findings.extend(directory("dataDir", &config.data_dir, config));
    }
    if worst(&findings) < Verdict::Stop
        && let Some(probe) = probe
    {
        findings.push(probe(config));
    }
    findings
}

/// The worst verdict among `findings`.
pub fn worst(findings: &[Finding]) -> Verdict {
    findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok)
}

/// The findings as a table for a terminal, the advice under what it is about.
pub fn table(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.subject.len()).max().unwrap_or(0);
    let mut table = String::new();
    for finding in findings {
        let verdict = match finding.verdict {
            Verdict::Ok => "ok    ",
            Verdict::Change => "change",
            Verdict::Stop => "STOP  ",
        };
        let Finding { subject, found, advice, .. } = finding;
        writeln!(table, "{verdict}  {subject:width$}  {found}").expect("a string takes it all");
        if !advice.is_empty() {
            writeln!(table, "        {:width$}  -> {advice}", "").expect("a string takes it all");
        }
    }
    table
}

/// Raises the soft limit of open files to the hard one, which is what a server wants, and says what
/// it is; `None` for unlimited. Where the kernel refuses, the limit stays as it was.
pub fn raise_open_files() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(_) => current,
    }
}

/// How many clients may be connected: `wanted`, or fewer where the process may not open so many
/// files. A log that finds no descriptor for its next segment refuses writes, so some are kept from
/// clients: [`OTHER_DESCRIPTORS`], or half of what there is.
pub fn connections_within(open_files_max: Option<u64>, wanted: u32) -> u32 {
    let Some(limit) = open_files_max else { return wanted };
    let room = limit.saturating_sub(OTHER_DESCRIPTORS).max(limit / 2);
    u32::try_from(room).map_or(wanted, |room| room.min(wanted))
}

fn ensemble(config: &Config) -> Finding {
    let subject = "ensemble";
    if !config.ensemble.distributed {
        return Finding::ok(subject, "a server on its own");
    }
    let servers = &config.ensemble.servers;
    let voters = servers.iter().filter(|server| server.role == Role::Participant).count();
    let id = config.ensemble.my_id.unwrap_or(0);
    let found = format!("server {id} of {}, {voters} of which vote", servers.len());
    match voters {
        even if even.is_multiple_of(2) => Finding::change(
            subject,
            found,
            "an even number of voters survives no more failures than one voter fewer",
        ),
        _ => Finding::ok(subject, found),
    }
}

/// The executors that a start makes, as far as the configuration says.
fn executors(config: &Config) -> u64 {
    let here = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    config.cores.clients.map_or(here, u64::from) + OTHER_EXECUTORS
}

/// Memory that a server with this configuration wants to lock, in bytes.
pub fn locked_bytes(config: &Config) -> u64 {
    executors(config) * MEMLOCK_BYTES_PER_EXECUTOR
}

/// Descriptors that a server with this configuration wants to be able to open.
pub fn descriptors(config: &Config) -> u64 {
    u64::from(config.limits.connections_max) + OTHER_DESCRIPTORS
}

/// Whether the kernel gives this process a ring of the kind that the server makes.
///
/// # Errors
/// It does not, and this is what it says.
pub fn ring() -> Result<(), String> {
    try_io_uring().map_err(|errno| errno.to_string())
}

fn kernel(release: &str) -> Finding {
    let subject = "kernel";
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    let mut number = || numbers.next().and_then(|digits| digits.parse().ok());
    let (Some(major), Some(minor)) = (number(), number()) else {
        let advice = "could not read its version; 6.1 or later is needed";
        return Finding::change(subject, release, advice);
    };
    if (major, minor) >= KERNEL_LEAST {
        return Finding::ok(subject, release);
    }
    let advice = "6.1 or later is needed, for io_uring's DEFER_TASKRUN and multishot receive";
    Finding::stop(subject, release, advice)
}

/// Makes a ring of the kind that the server makes, and drops it.
fn try_io_uring() -> Result<(), Errno> {
    let mut builder: io_uring::Builder = io_uring::IoUring::builder();
    let made = builder.setup_single_issuer().setup_defer_taskrun().build(8).map(drop);
    made.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

fn io_uring(made: Result<(), Errno>, disabled: Option<u64>) -> Finding {
    let subject = "io_uring";
    let errno = match made {
        Ok(()) => return Finding::ok(subject, "permitted"),
        Err(errno) => errno,
    };
    let advice = match (errno, disabled) {
        (Errno::PERM | Errno::ACCESS, Some(1..)) => {
            "sysctl kernel.io_uring_disabled=0 on the host, or 1 with this server's group in \
             kernel.io_uring_group"
        }
        (Errno::PERM | Errno::ACCESS | Errno::NOSYS, _) => {
            "a container's seccomp profile refuses it, as the default ones do: allow \
             io_uring_setup, io_uring_enter and io_uring_register, or run with \
             seccomp=unconfined"
        }
        (Errno::NOMEM, _) => "raise the limit of locked memory: ulimit -l, LimitMEMLOCK",
        (Errno::MFILE | Errno::NFILE, _) => "raise the limit of open files: ulimit -n",
        _ => "the kernel lacks a flag that is needed: 6.1 or later has them",
    };
    Finding::stop(subject, errno.to_string(), advice)
}

/// The number in a file of /proc; `None` where this kernel has no such file.
fn read_number(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn locked_memory(limit: Option<u64>, executors: u64) -> Finding {
    let subject = "locked memory";
    let Some(limit) = limit else { return Finding::ok(subject, "unlimited") };
    let found = format!("{} KiB for {executors} executors", limit / 1024);
    let wanted = executors * MEMLOCK_BYTES_PER_EXECUTOR;
    let kib = wanted / 1024;
    let advice = format!("ulimit -l {kib}, or LimitMEMLOCK={kib}K in the unit");
    if limit < MEMLOCK_BYTES_PER_EXECUTOR {
        return Finding::stop(subject, found, advice);
    }
    if limit < wanted {
        return Finding::change(subject, found, advice);
    }
    Finding::ok(subject, found)
}

/// Judges the hard limit, since a server raises the soft one to it.
fn open_files(limit: Option<u64>, connections: u64) -> Finding {
    let subject = "open files";
    let Some(limit) = limit else { return Finding::ok(subject, "unlimited") };
    let found = format!("{limit} for maxCnxns={connections}");
    let wanted = connections + OTHER_DESCRIPTORS;
    if limit >= wanted {
        return Finding::ok(subject, found);
    }
    let advice =
        format!("ulimit -n {wanted}, LimitNOFILE={wanted} in the unit, or a lower maxCnxns");
    if limit < 2 * OTHER_DESCRIPTORS {
        return Finding::stop(subject, found, advice);
    }
    Finding::change(subject, found, advice)
}

fn client_port(address: SocketAddr) -> Finding {
    let subject = "client port";
    let bind = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(1)
    };
    match bind() {
        Ok(()) => Finding::ok(subject, address.to_string()),
        Err(error) => {
            let found = format!("{address}: {error}");
            let advice = "stop what listens there, or change clientPort or clientPortAddress";
            Finding::stop(subject, found, advice)
        }
    }
}

/// What a data directory is on, whether it can be written and how full it is.
fn directory(key: &'static str, path: &Path, config: &Config) -> Vec<Finding> {
    let Some(existing) = existing_ancestor(path) else {
        let advice = "name a directory under one that exists";
        return vec![Finding::stop(key, path.display().to_string(), advice)];
    };
    if existing != path && !config.data_dir_autocreate {
        let advice = "make it, since datadir.autocreate=false";
        return vec![Finding::stop(key, format!("{} is missing", path.display()), advice)];
    }
    let mut findings = vec![writable(key, path, &existing)];
    if let Ok(volume) = rustix::fs::statfs(&existing) {
        let block = u64::try_from(volume.f_bsize).unwrap_or(0);
        findings.push(file_system(i128::from(volume.f_type)));
        findings.push(free_space(volume.f_bavail.saturating_mul(block), config.log.segment_bytes));
    }
    findings
}

/// `path` or the nearest directory above it that exists.
fn existing_ancestor(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    path.ancestors().find(|ancestor| ancestor.exists()).map(PathBuf::from)
}

fn writable(key: &'static str, path: &Path, existing: &Path) -> Finding {
    let found = path.display().to_string();
    let advice = "give the server's user write permission there: chown, chmod, ReadWritePaths";
    let refused = |errno: Errno| Finding::stop(key, format!("{found}: {errno}"), advice);
    if !existing.is_dir() {
        return refused(Errno::NOTDIR);
    }
    if std::path::absolute(path).is_ok_and(|absolute| absolute != existing) {
        return match rustix::fs::access(existing, Access::WRITE_OK | Access::EXEC_OK) {
            Ok(()) => Finding::ok(key, format!("{found} will be made")),
            Err(errno) => refused(errno),
        };
    }
    let probe = existing.join(format!(".ringkeeper-check-{}", std::process::id()));
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
    let open = |flags| {
        let opened = rustix::fs::open(&probe, flags, Mode::RUSR | Mode::WUSR).map(drop);
        // A refused O_DIRECT may have made the file all the same, and an open of a file that is not
        // there leaves nothing to unlink.
        rustix::fs::unlink(&probe).ok();
        opened
    };
    match (open(flags | OFlags::DIRECT), open(flags)) {
        (_, Err(errno)) => refused(errno),
        (Ok(()), Ok(())) => Finding::ok(key, format!("{found}, writable, takes O_DIRECT")),
        (Err(_), Ok(())) => {
            let advice = "the log falls back to ringkeeper.log.writer=mmap, which is slower";
            Finding::change(key, format!("{found}, writable, refuses O_DIRECT"), advice)
        }
    }
}

/// Judges a `statfs` magic number.
fn file_system(magic: i128) -> Finding {
    let subject = "file system";
    match magic {
        0xef53 => Finding::ok(subject, "ext4"),
        0x5846_5342 => Finding::ok(subject, "xfs"),
        0x9123_683e => {
            let advice = "turn copy-on-write off in an empty directory: chattr +C";
            Finding::change(subject, "btrfs", advice)
        }
        0x2fc1_2fc1 => {
            let advice = "copy-on-write makes each sync slower; ext4 or XFS suit a log better";
            Finding::change(subject, "zfs", advice)
        }
        0x0102_1994 => {
            let advice = "what it holds is lost with the power: use a disk but for tests";
            Finding::change(subject, "tmpfs", advice)
        }
        0x6969 => {
            let advice = "durability depends on the mount and the server: use a local disk";
            Finding::change(subject, "nfs", advice)
        }
        0x794c_7630 => {
            let advice = "a container's own layer, gone with it: mount a volume";
            Finding::change(subject, "overlay", advice)
        }
        0x6573_5546 => {
            Finding::change(subject, "fuse", "a local ext4 or XFS is known to keep its word")
        }
        other => Finding::ok(subject, format!("type {other:#x}")),
    }
}

fn free_space(bytes: u64, segment_bytes: u64) -> Finding {
    let subject = "free space";
    let found = format!("{} MiB", bytes >> 20);
    let least = SEGMENTS_LEAST * segment_bytes;
    if bytes < least {
        let advice = format!("free {} MiB for {SEGMENTS_LEAST} log segments", least >> 20);
        return Finding::stop(subject, found, advice);
    }
    if bytes < least + SPARE_BYTES {
        let advice = "little is left for snapshots and the log between them";
        return Finding::change(subject, found, advice);
    }
    Finding::ok(subject, found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::properties::Sources;

    fn check(finding: Finding, verdict: Verdict, words: &str) {
        let text = format!("{} {}", finding.found, finding.advice);
        assert_eq!(finding.verdict, verdict, "{finding:?}");
        assert!(text.contains(words), "{finding:?}");
        // What is not right says what to do about it, and what is right does not.
        assert_eq!(finding.advice.is_empty(), verdict == Verdict::Ok, "{finding:?}");
    }

    #[test]
    fn kernels_before_6_1_stop() {
        check(kernel("6.1.0"), Verdict::Ok, "6.1.0");
        check(kernel("6.18.5-amd64"), Verdict::Ok, "");
        check(kernel("7.0-rc1"), Verdict::Ok, "");
        check(kernel("6.0.19"), Verdict::Stop, "DEFER_TASKRUN");
        check(kernel("5.15.0-100-generic"), Verdict::Stop, "6.1");
        check(kernel("unknown"), Verdict::Change, "");
        check(kernel(""), Verdict::Change, "");
    }

    #[test]
    fn refused_rings_say_who_refuses() {
        check(io_uring(Ok(()), Some(0)), Verdict::Ok, "permitted");
        check(io_uring(Err(Errno::PERM), Some(2)), Verdict::Stop, "kernel.io_uring_disabled=0");
        check(io_uring(Err(Errno::PERM), Some(0)), Verdict::Stop, "seccomp");
        check(io_uring(Err(Errno::NOSYS), None), Verdict::Stop, "seccomp");
        check(io_uring(Err(Errno::INVAL), Some(0)), Verdict::Stop, "6.1");
        check(io_uring(Err(Errno::NOMEM), Some(0)), Verdict::Stop, "LimitMEMLOCK");
    }

    #[test]
    fn limits_are_judged_by_what_is_configured() {
        let kib = 1024;
        check(locked_memory(None, 5), Verdict::Ok, "unlimited");
        check(locked_memory(Some(64 * kib), 5), Verdict::Stop, "LimitMEMLOCK=2560K");
        check(locked_memory(Some(2559 * kib), 5), Verdict::Change, "ulimit -l 2560");
        check(locked_memory(Some(2560 * kib), 5), Verdict::Ok, "2560 KiB");
        assert_eq!(connections_within(None, 10_000), 10_000);
        assert_eq!(connections_within(Some(1 << 40), 10_000), 10_000);
        assert_eq!(connections_within(Some(10_256), 10_000), 10_000);
        assert_eq!(connections_within(Some(10_255), 10_000), 9_999);
        assert_eq!(connections_within(Some(100), 10_000), 50);
        check(open_files(None, 10), Verdict::Ok, "");
        check(open_files(Some(10_256), 10_000), Verdict::Ok, "");
        check(open_files(Some(10_255), 10_000), Verdict::Change, "LimitNOFILE=10256");
        check(open_files(Some(500), 10_000), Verdict::Stop, "maxCnxns");
        let mib = 1 << 20;
        check(free_space(191 * mib, 64 * mib), Verdict::Stop, "192 MiB");
        check(free_space(192 * mib, 64 * mib), Verdict::Change, "snapshots");
        check(free_space(1216 * mib, 64 * mib), Verdict::Ok, "1216 MiB");
    }

    #[test]
    fn file_systems_that_lose_data_are_named() {
        check(file_system(0xef53), Verdict::Ok, "ext4");
        check(file_system(0x0102_1994), Verdict::Change, "tmpfs");
        check(file_system(0x794c_7630), Verdict::Change, "volume");
        check(file_system(0x6969), Verdict::Change, "nfs");
        check(file_system(1), Verdict::Ok, "0x1");
    }

    #[test]
    fn a_port_in_use_stops() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let holder = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        holder.bind(&any.into()).unwrap();
        holder.listen(1).unwrap();
        let taken = holder.local_addr().unwrap().as_socket().unwrap();
        check(client_port(taken), Verdict::Stop, "clientPort");
        check(client_port(any), Verdict::Ok, "127.0.0.1");
        // An address of documentation (RFC 5737), which no host has.
        check(client_port(SocketAddr::from(([192, 0, 2, 1], 0))), Verdict::Stop, "clientPort");
    }

    #[test]
    fn directories_are_tried_and_left_as_they_were() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let found = writable("dataDir", path, path);
        assert!(found.verdict < Verdict::Stop && found.found.contains("writable"), "{found:?}");
        assert_eq!(std::fs::read_dir(path).unwrap().count(), 0);
        let below = path.join("a/b");
        assert_eq!(existing_ancestor(&below).as_deref(), Some(path));
        check(writable("dataDir", &below, path), Verdict::Ok, "will be made");
        assert!(!below.exists());
        let file = path.join("file");
        std::fs::write(&file, "").unwrap();
        check(writable("dataDir", &file, &file), Verdict::Stop, "Not a directory");
        check(writable("dataDir", &file.join("a"), &file), Verdict::Stop, "Not a directory");
    }

    fn config(text: &str) -> Config {
        Config::parse(&Sources::default(), Path::new("zoo.cfg"), text.as_bytes()).unwrap()
    }

    #[test]
    fn the_probe_runs_only_where_a_start_is_possible() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().display();
        let probe = |_: &Config| Finding::ok("probe", "fast");
        let probed = |text: &str| {
            let findings = host(&config(text), Some(&probe));
            findings.last().unwrap().subject == "probe"
        };
        assert!(!probed(&format!("dataDir={path}/x\nclientPort=0\ndatadir.autocreate=false")));
        let text = format!("dataDir={path}\nclientPort=0\npreAllocSize=4096");
        let stops = worst(&host(&config(&text), None)) == Verdict::Stop;
        assert_eq!(probed(&text), !stops);
    }

    #[test]
    fn the_table_has_a_line_for_each_finding_and_each_advice() {
        let findings = [
            Finding::ok("a", "1"),
            Finding::change("long", "2", "do this"),
            Finding::stop("b", "3", "do that"),
        ];
        assert_eq!(worst(&findings), Verdict::Stop);
        let expected = "ok      a     1\n\
                        change  long  2\n              -> do this\n\
                        STOP    b     3\n              -> do that\n";
        assert_eq!(table(&findings), expected);
    }
}
