//! The four letter words: what an operator types at the client port, and what Apache answers.
//!
//! A word is recognised only in a connection's first four bytes, where a client's connect request
//! has its length. [`Word::recognise`] reads it, [`Words`] says whether it may be answered, and
//! [`Answer`] writes what a [`ServerReport`] says, in the shape of Apache's 3.9.5.

/// A command of four bytes.
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
    /// Sets the trace mask.
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
