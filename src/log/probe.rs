//! Which writer suits a volume: both are tried on a file of their own, and the one with the lower
//! 99th percentile is taken. A group commit is as slow as its slowest write.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::OFlags;

use crate::time::Time;

use super::buffer::AlignedBuffer;
use super::map::Map;
use super::{BLOCK, LogError, WriterKind};

/// Appends measured with each writer.
const SAMPLES_MAX: usize = 64;
/// A writer's turn ends after this, with as many samples as there are: both stay below 150 ms.
const TURN_MAX: Duration = Duration::from_millis(60);
/// The file that is written to, and removed.
const NAME: &str = "ringlog.probe";

/// What one writer took for an append of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// The median.
    pub p50: Duration,
    /// The 99th percentile.
    pub p99: Duration,
    /// Appends measured.
    pub samples: usize,
}

/// The outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// `None` when the file system cannot write around the page cache.
    pub direct: Option<Latency>,
    /// The mapped writer's.
    pub mmap: Latency,
    /// The writer to take.
    pub chosen: WriterKind,
}

impl std::fmt::Display for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: ", self.chosen)?;
        match self.direct {
            Some(it) => write!(f, "direct p50 {:?} p99 {:?}, ", it.p50, it.p99)?,
            None => write!(f, "the file system has no O_DIRECT, ")?,
        }
        write!(f, "mmap p50 {:?} p99 {:?}", self.mmap.p50, self.mmap.p99)
    }
}

/// Measures both writers in `dir`. `now` is the clock. Blocks for less than 150 ms on a disk that
/// answers within some milliseconds.
///
/// # Errors
/// The operating system's. The file is removed in any case.
pub fn measure(dir: &Path, now: &dyn Fn() -> Time) -> Result<Probe, LogError> {
    let path = dir.join(NAME);
    let measured = measure_at(&path, now);
    let removed = std::fs::remove_file(&path);
    let probe = measured.map_err(|e| LogError::io("probe", &path, 0, e))?;
    removed.map_err(|e| LogError::io("remove", &path, 0, e))?;
    Ok(probe)
}

fn measure_at(path: &Path, now: &dyn Fn() -> Time) -> std::io::Result<Probe> {
    let length = SAMPLES_MAX * BLOCK;
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    let file = options.clone().create(true).truncate(true).open(path)?;
    file.write_all_at(&vec![0; length], 0)?;
    file.sync_all()?;
    let mut block = AlignedBuffer::with_capacity(BLOCK);
    block.extend(&[0xa5; BLOCK]);
    let direct = match open_direct(&mut options, path)? {
        None => None,
        Some(direct) => {
            Some(turn(now, |offset| direct.write_all_at(block.bytes(), offset as u64))?)
        }
    };
    let map = Map::writable(&file, length)?;
    let mmap = turn(now, |offset| {
        map.store(offset, block.bytes())?;
        file.sync_data()
    })?;
    Ok(Probe { direct, mmap, chosen: choose(direct, mmap) })
}

/// Opens the file as the direct writer does; `None` where that is not supported, which may only
/// show when the first write is tried.
fn open_direct(options: &mut OpenOptions, path: &Path) -> std::io::Result<Option<File>> {
    let flags = OFlags::DIRECT | OFlags::DSYNC;
    options.custom_flags(i32::try_from(flags.bits()).expect("open flags are small"));
    let unsupported = |error: &std::io::Error| error.kind() == std::io::ErrorKind::InvalidInput;
    let file = match options.open(path) {
        Err(error) if unsupported(&error) => return Ok(None),
        opened => opened?,
    };
    let mut block = AlignedBuffer::with_capacity(BLOCK);
    block.extend_zeros(BLOCK);
    match file.write_all_at(block.bytes(), 0) {
        Err(error) if unsupported(&error) => Ok(None),
        written => written.map(|()| Some(file)),
    }
}

/// Appends block after block by `append`, which takes the offset, and measures each.
fn turn(
    now: &dyn Fn() -> Time,
    mut append: impl FnMut(usize) -> std::io::Result<()>,
) -> std::io::Result<Latency> {
    let started = now();
    let mut samples = Vec::with_capacity(SAMPLES_MAX);
    while samples.len() < SAMPLES_MAX {
        let before = now();
        append(samples.len() * BLOCK)?;
        let after = now();
        samples.push(after.since(before));
        if after.since(started) >= TURN_MAX {
            break;
        }
    }
    Ok(summary(samples))
}

fn summary(mut samples: Vec<Duration>) -> Latency {
    samples.sort_unstable();
    let count = samples.len();
    assert!(count > 0);
    // The nearest rank: the smallest sample that is not below 99 % of them.
    let p99 = samples[(count * 99).div_ceil(100) - 1];
    Latency { p50: samples[(count - 1) / 2], p99, samples: count }
}

fn choose(direct: Option<Latency>, mmap: Latency) -> WriterKind {
    // The direct writer unless the mapped one is clearly better, in the middle too: a store can
    // stall a core, a mapped segment counts as the process's memory, and on a busy machine the p99
    // of so few samples is its noise.
    match direct {
        Some(direct) if direct.p99 <= mmap.p99 * 2 || direct.p50 <= mmap.p50 => WriterKind::Direct,
        _ => WriterKind::Mmap,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn latency(p50_us: u64, p99_us: u64) -> Latency {
        let p50 = Duration::from_micros(p50_us);
        Latency { p50, p99: Duration::from_micros(p99_us), samples: SAMPLES_MAX }
    }

    #[test]
    fn takes_the_mapped_writer_only_where_it_is_clearly_better() {
        assert_eq!(choose(Some(latency(2, 5)), latency(1, 6)), WriterKind::Direct);
        assert_eq!(choose(Some(latency(2, 12)), latency(1, 5)), WriterKind::Mmap);
        assert_eq!(choose(Some(latency(1, 12)), latency(1, 5)), WriterKind::Direct);
        assert_eq!(choose(Some(latency(2, 10)), latency(1, 5)), WriterKind::Direct);
        assert_eq!(choose(None, latency(1, 5)), WriterKind::Mmap);
    }

    #[test]
    fn percentiles_are_of_the_samples() {
        let samples = (1..=200).rev().map(Duration::from_micros).collect();
        let latency = summary(samples);
        assert_eq!(latency.p50, Duration::from_micros(100));
        assert_eq!(latency.p99, Duration::from_micros(198));
        assert_eq!(summary(vec![Duration::ZERO]).samples, 1);
    }

    #[test]
    fn a_slow_volume_ends_each_turn_early_and_nothing_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Cell::new(0);
        // Each look at the clock takes 10 ms, so an append seems to take as long.
        let now = || {
            clock.set(clock.get() + 10_000_000);
            Time::from_nanos(clock.get())
        };
        let probe = measure(dir.path(), &now).unwrap();
        assert!(probe.mmap.samples < 8, "{probe:?}");
        assert_eq!(probe.mmap.p50, Duration::from_millis(10));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
