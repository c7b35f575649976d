//! The four letter words: what an operator types at the client port.
//!
//! A word is recognised only in a connection's first four bytes, where a client's connect request
//! has its length. [`Word::recognise`] reads it and [`Words`] says whether it may be answered; what
//! is answered is written by `answer`. After the answer the connection is closed.

use std::fmt;

/// A command of four bytes (`FourLetterCommands.java`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// The configuration.
    Conf,
    /// Each connection with its counters.
    Cons,
    /// Resets the connections' counters.
    Crst,
    /// The directories' sizes.
    Dirs,
    /// Sessions, ephemeral znodes and connections.
    Dump,
    /// The environment.
    Envi,
    /// The trace mask.
    Gtmk,
    /// The tree's last digests.
    Hash,
    /// Whether the server is read-only.
    Isro,
    /// The metrics.
    Mntr,
    /// Whether the process is alive.
    Ruok,
    /// Resets the server's counters.
    Srst,
    /// The server's state.
    Srvr,
    /// The server's state and its connections.
    Stat,
    /// Sets the trace mask to the eight bytes that follow the word, big-endian.
    Stmk { mask: i64 },
    /// Watches by connection.
    Wchc,
    /// Watches by path.
    Wchp,
    /// How many watches there are.
    Wchs,
    /// What telnet sends when it is interrupted; the connection is closed without an answer.
    TelnetClose,
}

/// What a connection's first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recognition {
    /// A word, in so many bytes. What follows them (a line's end) is to be ignored.
    Word(Word, usize),
    /// The beginning of a word, as far as can be seen.
    NeedMore,
    /// No word: a connect request's length, or rubbish.
    None,
}

/// A word's length in bytes.
const WORD_BYTES: usize = 4;

/// The length of `stmk` with its mask.
const SET_MASK_BYTES: usize = WORD_BYTES + 8;

impl Word {
    /// Every word; `stmk`'s mask is nothing here.
    pub const ALL: [Word; 19] = [
        Word::Conf,
        Word::Cons,
        Word::Crst,
        Word::Dirs,
        Word::Dump,
        Word::Envi,
        Word::Gtmk,
        Word::Hash,
        Word::Isro,
        Word::Mntr,
        Word::Ruok,
        Word::Srst,
        Word::Srvr,
        Word::Stat,
        Word::Stmk { mask: 0 },
        Word::Wchc,
        Word::Wchp,
        Word::Wchs,
        Word::TelnetClose,
    ];

    /// The word as the whitelist and the refusal name it.
    pub const fn name(self) -> &'static str {
        match self {
            Word::Conf => "conf",
            Word::Cons => "cons",
            Word::Crst => "crst",
            Word::Dirs => "dirs",
            Word::Dump => "dump",
            Word::Envi => "envi",
            Word::Gtmk => "gtmk",
            Word::Hash => "hash",
            Word::Isro => "isro",
            Word::Mntr => "mntr",
            Word::Ruok => "ruok",
            Word::Srst => "srst",
            Word::Srvr => "srvr",
            Word::Stat => "stat",
            Word::Stmk { .. } => "stmk",
            Word::Wchc => "wchc",
            Word::Wchp => "wchp",
            Word::Wchs => "wchs",
            Word::TelnetClose => "telnet close",
        }
    }

    /// The word's bytes on the wire.
    pub const fn bytes(self) -> [u8; WORD_BYTES] {
        match self {
            Word::TelnetClose => [0xff, 0xf4, 0xff, 0xfd],
            _ => match self.name().as_bytes().first_chunk::<WORD_BYTES>() {
                Some(bytes) => *bytes,
                None => panic!("every name has four letters"),
            },
        }
    }

    /// Reads a connection's first bytes.
    ///
    /// On [`Recognition::NeedMore`] ask again when more have come. `stmk` waits for its mask only
    /// if `words` lets it be answered: a refusal needs no mask.
    pub fn recognise(first_bytes: &[u8], words: Words) -> Recognition {
        let head = &first_bytes[..first_bytes.len().min(WORD_BYTES)];
        let Some(word) = Word::ALL.into_iter().find(|word| word.bytes().starts_with(head)) else {
            return Recognition::None;
        };
        if head.len() < WORD_BYTES {
            return Recognition::NeedMore;
        }
        match word {
            Word::Stmk { .. } if words.is_enabled(word) => {
                match first_bytes[WORD_BYTES..].first_chunk() {
                    None => Recognition::NeedMore,
                    Some(mask) => {
                        let mask = i64::from_be_bytes(*mask);
                        Recognition::Word(Word::Stmk { mask }, SET_MASK_BYTES)
                    }
                }
            }
            word => Recognition::Word(word, WORD_BYTES),
        }
    }

    /// Where the word stands in [`Word::ALL`].
    fn index(self) -> u32 {
        let index = Word::ALL.iter().position(|word| word.name() == self.name());
        index.expect("ALL has every word") as u32
    }
}

/// The words that may be answered (`4lw.commands.whitelist`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Words {
    /// A bit for each of [`Word::ALL`].
    enabled: u32,
}

impl Words {
    /// The words of a comma-separated list, `*` being all of them, and `srvr`, which Apache's own
    /// scripts depend on. Unknown words are passed over, as Apache passes over them.
    pub fn new(whitelist: &str) -> Words {
        let mut words = Words { enabled: 0 }.with(Word::Srvr);
        for name in whitelist.split(',').map(str::trim) {
            for word in Word::ALL {
                if name == "*" || name == word.name() {
                    words = words.with(word);
                }
            }
        }
        words
    }

    /// These words and `word`: with read-only mode allowed `isro` is always answered, since
    /// clients look for a writable server by it.
    pub fn with(self, word: Word) -> Words {
        Words { enabled: self.enabled | 1 << word.index() }
    }

    /// Whether `word` may be answered; if not, [`refusal`] is what to send.
    pub fn is_enabled(self, word: Word) -> bool {
        self.enabled & 1 << word.index() != 0
    }
}

impl Default for Words {
    fn default() -> Self {
        Words::new("")
    }
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let enabled = Word::ALL.into_iter().filter(|word| self.is_enabled(*word));
        f.debug_list().entries(enabled.map(Word::name)).finish()
    }
}

/// What is sent for a word that may not be answered.
pub fn refusal(word: Word) -> String {
    format!("{} is not executed because it is not in the whitelist.\n", word.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Words {
        Words::new("*")
    }

    #[test]
    fn every_word_is_recognised_from_its_bytes() {
        for word in Word::ALL {
            let mut bytes = word.bytes().to_vec();
            let consumed = match word {
                Word::Stmk { .. } => {
                    bytes.extend([0; 8]);
                    12
                }
                _ => 4,
            };
            assert_eq!(Word::recognise(&bytes, all()), Recognition::Word(word, consumed));
            bytes.extend(b"\r\n");
            assert_eq!(Word::recognise(&bytes, all()), Recognition::Word(word, consumed));
            for short in 0..4 {
                assert_eq!(Word::recognise(&bytes[..short], all()), Recognition::NeedMore);
            }
        }
    }

    #[test]
    fn what_is_no_word_is_not_waited_for() {
        for bytes in [&[0, 0, 0, 45][..], &[0], b"ruoK", b"RUOK", b"rx", b"GET ", &[0xff, 0xf5]] {
            assert_eq!(Word::recognise(bytes, all()), Recognition::None, "{bytes:?}");
        }
    }

    #[test]
    fn setting_the_mask_waits_for_eight_bytes_where_it_is_allowed() {
        let bytes = b"stmk\x00\x00\x00\x00\x00\x00\x01\x07";
        for short in 4..bytes.len() {
            assert_eq!(Word::recognise(&bytes[..short], all()), Recognition::NeedMore);
        }
        let word = Word::Stmk { mask: 0x107 };
        assert_eq!(Word::recognise(bytes, all()), Recognition::Word(word, 12));
        let refused = Word::recognise(b"stmk\n", Words::default());
        assert_eq!(refused, Recognition::Word(Word::Stmk { mask: 0 }, 4));
    }

    #[test]
    fn whitelist_is_what_apache_makes_of_it() {
        let check = |whitelist: &str, enabled: &str| {
            assert_eq!(format!("{:?}", Words::new(whitelist)), enabled, "{whitelist:?}");
        };
        check("", r#"["srvr"]"#);
        check(" ruok , stat,nope,,", r#"["ruok", "srvr", "stat"]"#);
        check("RUOK", r#"["srvr"]"#);
        assert!(Word::ALL.into_iter().all(|word| Words::new("ruok, *").is_enabled(word)));
        assert!(Words::new("stmk").is_enabled(Word::Stmk { mask: 9 }));
        assert!(Words::default().with(Word::Isro).is_enabled(Word::Isro));
    }

    #[test]
    fn refusal_names_the_word() {
        let sentence = "wchp is not executed because it is not in the whitelist.\n";
        assert_eq!(refusal(Word::Wchp), sentence);
    }
}
