//! `acceptedEpoch` and `currentEpoch`: which leaderships this server has promised itself to.
//!
//! ```text
//! dataDir/version-2/acceptedEpoch      the newest epoch that a leader has proposed to it
//! dataDir/version-2/currentEpoch       the newest epoch whose initial history it has
//!
//! 57                                   decimal: all that Apache writes, and the line it reads
//! crc32c 0x1f2e3d4c                    of the file's name, a zero byte and the number's text
//! ```
//! Who forgets the first may accept two leaders of one epoch; who forgets the second may have a
//! shorter history chosen than the one it holds. So a damaged file is never taken for a number,
//! and a number that contradicts the other one or the log is damage too: such a server does not
//! vote until a leader has made it whole.
//!
//! A log that reaches into an epoch above `currentEpoch`, and not above `acceptedEpoch`, is no
//! contradiction: the server stopped after the leader's history was on its disk and before the
//! number was. A log with a transaction of an epoch holds all of its initial history.
//! Source: `QuorumPeer.java`, `loadDataBase`.

use std::path::{Path, PathBuf};

use crate::server::small_file::{self, FileError};
use crate::zxid::Zxid;

const ACCEPTED: &str = "acceptedEpoch";
const CURRENT: &str = "currentEpoch";
/// Zxids are signed on the wire.
const EPOCH_MAX: u32 = i32::MAX.cast_unsigned();

/// The two files.
#[derive(Clone, Debug)]
pub struct EpochFiles {
    dir: PathBuf,
}

/// What they say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epochs {
    pub accepted: u32,
    pub current: u32,
    /// Why they are not to be believed: a sentence for the operator. The numbers are then what is
    /// certain at least, and nothing was written.
    pub damage: Option<String>,
    /// What was done to complete them, a sentence each.
    pub told: Vec<String>,
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Held {
    Nothing,
    Epoch(u32),
    /// Why it is no epoch.
    Damage(String),
}

impl Held {
    fn epoch(&self) -> Option<u32> {
        match self {
            Held::Epoch(epoch) => Some(*epoch),
            Held::Nothing | Held::Damage(_) => None,
        }
    }
}

impl EpochFiles {
    /// Those in `dir`, which is dataDir's `version-2`.
    pub fn new(dir: &Path) -> EpochFiles {
        EpochFiles { dir: dir.to_owned() }
    }

    /// Reads both, for a log that ends at `last`, and completes them durably where that is safe.
    ///
    /// # Errors
    /// They cannot be read or written: the server cannot start.
    pub fn load(&self, last: Zxid) -> Result<Epochs, FileError> {
        let (accepted, current) = (self.read(ACCEPTED)?, self.read(CURRENT)?);
        let epochs = judge(&accepted, &current, last);
        if epochs.damage.is_some() {
            return Ok(epochs);
        }
        // In this order `currentEpoch` is never ahead.
        if accepted.epoch() != Some(epochs.accepted) {
            self.save_accepted(epochs.accepted)?;
        }
        if current.epoch() != Some(epochs.current) {
            self.save_current(epochs.current)?;
        }
        self.keep_room();
        Ok(epochs)
    }

    /// Takes the room that the next epoch needs on the volume, where there is any: an election must
    /// not fail for want of it.
    pub fn keep_room(&self) {
        for name in [ACCEPTED, CURRENT] {
            if let Err(error) = small_file::keep_room(&self.dir.join(name)) {
                tracing::warn!("there may be no room for the next epoch: {error}");
            }
        }
    }

    /// Makes `acceptedEpoch` durable.
    ///
    /// # Errors
    /// The promise must not be given then: the server stops.
    pub fn save_accepted(&self, epoch: u32) -> Result<(), FileError> {
        self.save(ACCEPTED, epoch)
    }

    /// Makes `currentEpoch` durable. Everything that the epoch's leader has sent before is.
    ///
    /// # Errors
    /// As for [`EpochFiles::save_accepted`].
    pub fn save_current(&self, epoch: u32) -> Result<(), FileError> {
        self.save(CURRENT, epoch)
    }

    fn save(&self, name: &str, epoch: u32) -> Result<(), FileError> {
        assert!(epoch <= EPOCH_MAX);
        small_file::replace(&self.dir.join(name), encode(name, epoch).as_bytes())
    }

    fn read(&self, name: &str) -> Result<Held, FileError> {
        let bytes = small_file::read(&self.dir.join(name))?;
        Ok(bytes.map_or(Held::Nothing, |bytes| decode(name, &bytes)))
    }
}

fn encode(name: &str, epoch: u32) -> String {
    format!("{epoch}\n{}\n", seal(name, &epoch.to_string()))
}

/// The second line: with the name in it, one file is not taken for the other.
fn seal(name: &str, number: &str) -> String {
    format!("crc32c {:#010x}", crc32c::crc32c(format!("{name}\0{number}").as_bytes()))
}

fn decode(name: &str, bytes: &[u8]) -> Held {
    let damage = |what: &str| {
        Held::Damage(format!(
            "{name} is damaged: {what}; found {:?}",
            String::from_utf8_lossy(bytes)
        ))
    };
    let Ok(text) = std::str::from_utf8(bytes) else { return damage("it is not text") };
    let (number, rest) = text.split_once('\n').unwrap_or((text, ""));
    let is_decimal = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let epoch = number.parse().ok().filter(|epoch| is_decimal && *epoch <= EPOCH_MAX);
    let Some(epoch) = epoch else { return damage("the first line is no epoch") };
    // Apache writes the number alone, without a line's end.
    if text == number || rest.strip_suffix('\n') == Some(&seal(name, number)[..]) {
        return Held::Epoch(epoch);
    }
    damage("the checksum in the second line is missing or wrong")
}

/// What both files and the end of the log say together.
fn judge(accepted: &Held, current: &Held, last: Zxid) -> Epochs {
    let of_log = last.epoch();
    let mut told = Vec::new();
    let mut missing = |name: &str| {
        told.push(format!("there is no {name}: it is {of_log}, as the end of the log says"));
        of_log
    };
    let damage = match (accepted, current) {
        (Held::Damage(what), _) | (_, Held::Damage(what)) => Some(what.clone()),
        // Apache completes one from the log as well; but then the other one must not know better.
        (Held::Nothing, Held::Epoch(other)) if *other != of_log => {
            Some(contradiction("there is no acceptedEpoch, currentEpoch is", *other, last))
        }
        (Held::Epoch(other), Held::Nothing) if *other != of_log => {
            Some(contradiction("there is no currentEpoch, acceptedEpoch is", *other, last))
        }
        (Held::Epoch(accepted), Held::Epoch(current)) if current > accepted => Some(contradiction(
            &format!("currentEpoch is {current}, acceptedEpoch only"),
            *accepted,
            last,
        )),
        (Held::Epoch(accepted), _) if of_log > *accepted => {
            Some(contradiction("acceptedEpoch is", *accepted, last))
        }
        _ => None,
    };
    if damage.is_some() {
        // Low enough for any leader to be accepted, and to claim no more than is there.
        let accepted = accepted.epoch().unwrap_or(0).max(current.epoch().unwrap_or(0)).max(of_log);
        let current = current.epoch().unwrap_or(of_log).min(of_log);
        return Epochs { accepted, current, damage, told: Vec::new() };
    }
    let accepted = accepted.epoch().unwrap_or_else(|| missing(ACCEPTED));
    let mut current = current.epoch().unwrap_or_else(|| missing(CURRENT));
    if of_log > current {
        told.push(format!("currentEpoch is raised from {current} to that of zxid {last}"));
        current = of_log;
    }
    assert!(of_log <= current && current <= accepted);
    Epochs { accepted, current, damage: None, told }
}

fn contradiction(what: &str, epoch: u32, last: Zxid) -> String {
    format!("{what} {epoch}, and the log ends at zxid {last}: an epoch file is lost or old")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files as these bytes, or none.
    fn files(accepted: Option<&[u8]>, current: Option<&[u8]>) -> (tempfile::TempDir, EpochFiles) {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in [(ACCEPTED, accepted), (CURRENT, current)] {
            if let Some(bytes) = bytes {
                std::fs::write(dir.path().join(name), bytes).unwrap();
            }
        }
        let files = EpochFiles::new(dir.path());
        (dir, files)
    }

    fn text(epoch: Option<u32>) -> Option<Vec<u8>> {
        epoch.map(|epoch| epoch.to_string().into_bytes())
    }

    /// Apache's files with these numbers, and a log that ends in `epoch`: what is made of them,
    /// and of what is then on the disk.
    fn check(accepted: Option<u32>, current: Option<u32>, epoch: u32, want: Option<(u32, u32)>) {
        let (_dir, files) = files(text(accepted).as_deref(), text(current).as_deref());
        let last = Zxid::new(epoch, 3);
        let epochs = files.load(last).unwrap();
        assert_eq!(epochs.damage.is_none(), want.is_some(), "{epochs:?}");
        match want {
            Some(want) => {
                assert_eq!((epochs.accepted, epochs.current), want);
                let again = files.load(last).unwrap();
                assert_eq!((again.accepted, again.current, again.told.len()), (want.0, want.1, 0));
            }
            None => {
                let held = |held: Option<u32>| held.map_or(Held::Nothing, Held::Epoch);
                assert_eq!(files.read(ACCEPTED).unwrap(), held(accepted), "nothing is touched");
                assert_eq!(files.read(CURRENT).unwrap(), held(current));
            }
        }
    }

    #[test]
    fn what_is_saved_is_loaded_and_apache_reads_its_first_line() {
        let (dir, files) = files(None, None);
        files.save_accepted(57).unwrap();
        files.save_current(56).unwrap();
        let epochs = files.load(Zxid::new(55, 1)).unwrap();
        assert_eq!((epochs.accepted, epochs.current, epochs.damage), (57, 56, None));
        assert_eq!(epochs.told, [""; 0]);
        let written = std::fs::read_to_string(dir.path().join(ACCEPTED)).unwrap();
        assert_eq!(written.lines().next(), Some("57"));
        let found = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(found, 4, "each has room for the next, and nothing else is left");
    }

    #[test]
    fn apaches_numbers_are_taken_and_missing_ones_come_from_the_log() {
        check(Some(7), Some(7), 7, Some((7, 7)));
        check(Some(8), Some(7), 6, Some((8, 7)));
        check(None, None, 0, Some((0, 0)));
        check(None, None, 5, Some((5, 5)));
        check(None, Some(5), 5, Some((5, 5)));
        check(Some(5), None, 5, Some((5, 5)));
    }

    #[test]
    fn a24_a_crash_between_the_log_and_the_epoch_is_completed() {
        check(Some(8), Some(7), 8, Some((8, 8)));
        // The crash came before the rename: the old number is the one.
        let (dir, files) = files(Some(b"7"), Some(b"6"));
        let unfinished = dir.path().join("acceptedEpoch.tmp");
        std::fs::write(&unfinished, encode(ACCEPTED, 8)).unwrap();
        let epochs = files.load(Zxid::new(6, 1)).unwrap();
        assert_eq!((epochs.accepted, epochs.current, epochs.damage), (7, 6, None));
        assert_eq!(std::fs::read(unfinished).unwrap(), b"room\n", "what was meant to be is gone");
    }

    #[test]
    fn a24_numbers_that_contradict_each_other_or_the_log_are_damage() {
        check(Some(6), Some(7), 6, None);
        check(Some(6), Some(6), 7, None);
        check(Some(6), Some(5), 7, None);
        check(None, Some(7), 6, None);
        check(None, Some(6), 7, None);
        check(Some(7), None, 6, None);
        check(Some(6), None, 7, None);
    }

    #[test]
    fn a25_a_damaged_file_is_no_number_and_never_zero() {
        let sound = encode(ACCEPTED, 57);
        let mut damaged: Vec<Vec<u8>> =
            (0..sound.len()).map(|length| sound.as_bytes()[..length].to_vec()).collect();
        // A cut that leaves a number alone looks like Apache's: the other file and the log tell.
        let whole_number = damaged.remove(2);
        assert_eq!(whole_number, b"57");
        for at in 0..sound.len() {
            let mut bytes = sound.clone().into_bytes();
            bytes[at] ^= 1 << (at % 8);
            damaged.push(bytes);
        }
        damaged.extend([&b"-1"[..], b"+57", b" 57", b"2147483648", b"99999999999"].map(Vec::from));
        damaged.extend([encode(CURRENT, 57).into_bytes(), vec![b'5'; 5000], vec![0; 8]]);
        for bytes in damaged {
            let (_dir, files) = files(Some(&bytes), Some(b"57"));
            let epochs = files.load(Zxid::new(57, 9)).unwrap();
            let what = String::from_utf8_lossy(&bytes).into_owned();
            assert!(epochs.damage.is_some(), "{what:?}");
            assert_eq!((epochs.accepted, epochs.current), (57, 57), "{what:?}");
            assert_eq!(std::fs::read(files.dir.join(ACCEPTED)).unwrap(), bytes, "left as it was");
        }
    }
}
