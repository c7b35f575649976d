//! What one client's set cannot do without, measured bare: a TCP round trip and a write of the log.
//!
//! One thread takes them in turn, as a set does: a request of a set's size goes to a thread that
//! answers with a reply's, both blocked in plain reads on loopback; then one block is written as
//! the server's log writes, around the page cache and durable when it returns
//! (`O_DIRECT`, `O_DSYNC`), to the next place of a file that was filled with zeros. A set on one
//! server needs one of each; on three servers, where the leader asks a follower, one more round
//! trip. What a server needs beyond that is its own, and the machine's for each thread it wakes.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Serialize;

use crate::clock::{Clock, nanos};
use crate::histogram::Latencies;
use crate::wire::{self, Frame};

/// What a disk takes at once, and the log's unit.
const BLOCK: usize = 4096;

/// Blocks of the file; after the last one comes the first again.
const BLOCKS: u64 = 4096;

const NAME: &str = "loadgen.floor";

/// How often three logs write together, for each second that is asked for: some 200 µs each.
const WRITES_A_SECOND: f64 = 4000.0;

/// What the command takes.
#[derive(clap::Args, Debug)]
pub struct Flags {
    /// A directory on the log's volume. A file of 16 MiB is made there, and removed.
    #[arg(long)]
    pub dir: PathBuf,
    #[arg(long, default_value_t = 100)]
    pub value_bytes: usize,
    #[arg(long, short = 's', default_value_t = 2.0)]
    pub seconds: f64,
    /// The figures as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Medians in microseconds.
#[derive(Debug, Serialize)]
struct Floor {
    round_trip_us: f64,
    log_write_us: f64,
    /// One round trip and one write.
    one_server_us: f64,
    /// Two round trips and one write.
    three_servers_us: f64,
    /// `None` where there is one core.
    round_trip_between_cores_us: Option<f64>,
    log_write_of_three_us: f64,
    /// Two round trips between cores and one write of three: three servers on this machine.
    three_servers_here_us: Option<f64>,
    samples: u64,
}

/// The medians of one run of turns.
struct Turns {
    trip_us: f64,
    write_us: f64,
    samples: u64,
}

/// Measures, and tells.
///
/// # Errors
/// The volume has no `O_DIRECT`, or the system refuses the file or the sockets.
pub fn measure(flags: &Flags) -> Result<ExitCode, String> {
    if !(0.01..=1e6).contains(&flags.seconds) {
        return Err("--seconds is a number from 0.01 on".to_owned());
    }
    let path = flags.dir.join(NAME);
    let floor = measured(flags, &path);
    // The error of the measurement says more than one of tidying up behind it.
    let removed = std::fs::remove_file(&path);
    let floor = floor.and_then(|floor| removed.map(|()| floor));
    let floor = floor.map_err(|error| format!("{}: {error}", path.display()))?;
    if flags.json {
        println!("{}", serde_json::to_string(&floor).expect("figures can be written as JSON"));
    } else {
        println!("TCP round trip            {:8.1} µs", floor.round_trip_us);
        println!("bare write of the log     {:8.1} µs", floor.log_write_us);
        println!("a set's floor, one server {:8.1} µs", floor.one_server_us);
        println!("three servers             {:8.1} µs", floor.three_servers_us);
        println!("bare write, three at once {:8.1} µs", floor.log_write_of_three_us);
        match (floor.round_trip_between_cores_us, floor.three_servers_here_us) {
            (Some(trip), Some(here)) => {
                println!("round trip between cores  {trip:8.1} µs");
                println!("three servers here        {here:8.1} µs");
            }
            _ => println!("there is one core: no round trip between two"),
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn measured(flags: &Flags, path: &Path) -> io::Result<Floor> {
    let set = set_of(flags.value_bytes);
    let Turns { trip_us, write_us, samples } = turns(&set, path, flags.seconds, None)?;
    let apart = match two_cores()? {
        Some(cores) => Some(turns(&set, path, flags.seconds, Some(cores))?.trip_us),
        None => None,
    };
    let write_of_three_us = write_of_three(path, flags.seconds)?;
    Ok(Floor {
        round_trip_us: trip_us,
        log_write_us: write_us,
        one_server_us: trip_us + write_us,
        three_servers_us: 2.0 * trip_us + write_us,
        round_trip_between_cores_us: apart,
        log_write_of_three_us: write_of_three_us,
        three_servers_here_us: apart.map(|trip| 2.0 * trip + write_of_three_us),
        samples,
    })
}

/// Round trips and writes in turn; the asking and the answering thread each on its core, if cores
/// are given.
fn turns(
    (request, reply_bytes): &(Vec<u8>, usize),
    path: &Path,
    seconds: f64,
    cores: Option<[usize; 2]>,
) -> io::Result<Turns> {
    let log = BareLog::create(path)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::scope(|scope| {
        let peer = scope.spawn(move || {
            stay_on(cores.map(|[_, answering]| answering))?;
            answer(&listener, request.len(), *reply_bytes)
        });
        let asker = scope.spawn(move || {
            stay_on(cores.map(|[asking, _]| asking))?;
            take_turns(TcpStream::connect(address)?, request, *reply_bytes, log, seconds)
        });
        let turns = asker.join().expect("the asker reports its errors as values");
        let answered = peer.join().expect("the peer reports its errors as values");
        turns.and_then(|turns| answered.map(|()| turns))
    })
}

/// The first two of the cores that this process may run on.
fn two_cores() -> io::Result<Option<[usize; 2]>> {
    let allowed = sched_getaffinity(None)?;
    let mut cores = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core));
    Ok(cores.next().zip(cores.next()).map(|(first, second)| [first, second]))
}

/// Keeps the calling thread on a core, if one is given.
fn stay_on(core: Option<usize>) -> io::Result<()> {
    let Some(core) = core else { return Ok(()) };
    let mut only = CpuSet::new();
    only.set(core);
    Ok(sched_setaffinity(None, &only)?)
}

/// The median of writes that begin together, each to a file of its own: as the leader's and its
/// followers'.
fn write_of_three(path: &Path, seconds: f64) -> io::Result<f64> {
    let paths: Vec<PathBuf> = (0..3).map(|index| path.with_extension(index.to_string())).collect();
    let logs: io::Result<Vec<BareLog>> = paths.iter().map(|path| BareLog::create(path)).collect();
    let written = logs.and_then(|logs| write_together(logs, seconds));
    // The error of the measurement says more than one of tidying up behind it.
    let removed: io::Result<()> = paths.iter().try_for_each(std::fs::remove_file);
    written.and_then(|median| removed.map(|()| median))
}

fn write_together(logs: Vec<BareLog>, seconds: f64) -> io::Result<f64> {
    let count = (seconds * WRITES_A_SECOND).ceil() as u64;
    let together = Barrier::new(logs.len());
    let write = |mut log: BareLog| {
        let (mut writes, clock) = (Latencies::fine(), Clock::start());
        let mut result = Ok(());
        for _ in 0..count {
            // Also behind an error: the others wait here.
            together.wait();
            let begun = clock.now();
            result = result.and_then(|()| log.append());
            writes.record(clock.now() - begun);
        }
        result.map(|()| writes)
    };
    let mut all = Latencies::fine();
    thread::scope(|scope| {
        let writers: Vec<_> = logs.into_iter().map(|log| scope.spawn(|| write(log))).collect();
        for writer in writers {
            all.merge(&writer.join().expect("a writer reports its errors as values")?);
        }
        Ok(all.micros_at(0.5))
    })
}

/// A set's request, and how long its reply is.
fn set_of(value_bytes: usize) -> (Vec<u8>, usize) {
    let mut request = Vec::new();
    let frame = Frame::request(&mut request, 1, wire::SET_DATA);
    frame.bytes(b"/loadgen/k/00000000").bytes(&vec![7; value_bytes]).int(-1).finish();
    (request, 4 + 16 + wire::STAT_BYTES)
}

/// The other end: answers until it is hung up on.
fn answer(listener: &TcpListener, request_bytes: usize, reply_bytes: usize) -> io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let (mut request, reply) = (vec![0; request_bytes], vec![7; reply_bytes]);
    loop {
        match stream.read_exact(&mut request) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        stream.write_all(&reply)?;
    }
}

fn take_turns(
    mut stream: TcpStream,
    request: &[u8],
    reply_bytes: usize,
    mut log: BareLog,
    seconds: f64,
) -> io::Result<Turns> {
    stream.set_nodelay(true)?;
    let mut reply = vec![0; reply_bytes];
    let (mut trips, mut writes) = (Latencies::fine(), Latencies::fine());
    let clock = Clock::start();
    let end = nanos(Duration::from_secs_f64(seconds));
    let mut begun = clock.now();
    while begun < end {
        stream.write_all(request)?;
        stream.read_exact(&mut reply)?;
        let returned = clock.now();
        log.append()?;
        let ended = clock.now();
        trips.record(returned - begun);
        writes.record(ended - returned);
        begun = ended;
    }
    let (trip_us, write_us) = (trips.micros_at(0.5), writes.micros_at(0.5));
    Ok(Turns { trip_us, write_us, samples: trips.count() })
}

/// A file that is written as the server's log is by its direct writer.
struct BareLog {
    file: File,
    /// Two blocks; the one that is written begins at `start`, a block's boundary in memory.
    bytes: Vec<u8>,
    start: usize,
    next: u64,
}

impl BareLog {
    fn create(path: &Path) -> io::Result<BareLog> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let filled = options.clone().create(true).truncate(true).open(path)?;
        filled.set_len(0)?;
        let zeros = vec![0; BLOCK * 256];
        for chunk in 0..BLOCKS / 256 {
            filled.write_all_at(&zeros, chunk * zeros.len() as u64)?;
        }
        filled.sync_all()?;
        let direct = (OFlags::DIRECT | OFlags::DSYNC).bits();
        options.custom_flags(i32::try_from(direct).expect("open flags are small"));
        let bytes = vec![0xa5; 2 * BLOCK];
        let start = bytes.as_ptr().align_offset(BLOCK);
        assert!(start < BLOCK, "a byte pointer can always be aligned to a block");
        Ok(BareLog { file: options.open(path)?, bytes, start, next: 0 })
    }

    fn append(&mut self) -> io::Result<()> {
        let block = &self.bytes[self.start..self.start + BLOCK];
        self.file.write_all_at(block, self.next % BLOCKS * BLOCK as u64)?;
        self.next += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(dir: &Path) -> Flags {
        Flags { dir: dir.to_owned(), value_bytes: 100, seconds: 0.02, json: false }
    }

    /// What the server's own decoder would find: 4 bytes of length, and as many behind it.
    #[test]
    fn a_request_has_the_size_of_a_set() {
        let (request, reply_bytes) = set_of(100);
        assert_eq!(request[..4], (request.len() as u32 - 4).to_be_bytes());
        assert_eq!((request.len(), reply_bytes), (4 + 8 + 4 + 19 + 4 + 100 + 4, 88));
    }

    #[test]
    fn the_sums_are_of_the_parts_and_nothing_is_left_behind() {
        // Beside the test itself: `/tmp` may be memory, without O_DIRECT.
        let own = std::env::current_exe().unwrap();
        let dir = own.parent().unwrap().join(format!("floor-test-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let floor = measured(&flags(&dir), &dir.join(NAME)).unwrap();
        measure(&flags(&dir)).unwrap();
        // It could not be removed with the file in it.
        std::fs::remove_dir(&dir).unwrap();
        assert!(floor.samples > 0);
        assert!(floor.round_trip_us > 0.0 && floor.log_write_us > 0.0);
        let is = |told: f64, sum: f64| assert!((told - sum).abs() < 1e-6, "{told} for {sum}");
        is(floor.one_server_us, floor.round_trip_us + floor.log_write_us);
        is(floor.three_servers_us, 2.0 * floor.round_trip_us + floor.log_write_us);
        assert!(floor.log_write_of_three_us > 0.0);
        let here = floor.three_servers_here_us;
        if let Some((here, trip)) = here.zip(floor.round_trip_between_cores_us) {
            is(here, 2.0 * trip + floor.log_write_of_three_us);
        }
        assert_eq!(here.is_some(), thread::available_parallelism().unwrap().get() > 1);
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let refused = measure(&flags(Path::new("/nowhere/at/all"))).unwrap_err();
        assert!(refused.contains("/nowhere/at/all/loadgen.floor"), "{refused}");
    }
}
