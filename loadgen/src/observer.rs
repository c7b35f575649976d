//! Who wants to know of every operation: a journal, which is later held against the servers.
//!
//! The generator tells an observer from its threads, in the order of each connection: `sent`, then
//! one of `acknowledged`, `refused` and `in_doubt`. Nothing of it happens without an observer.

/// One change or read, as it was sent.
#[derive(Clone, Copy, Debug)]
pub struct Operation<'a> {
    /// Differs between any two operations of a run; the higher bits are the connection's.
    pub id: u64,
    pub connection: usize,
    pub kind: Change,
    /// As asked for; the name that a sequential create got is in [`Acknowledgement::path`].
    pub path: &'a str,
    /// With an observer each value begins with `id` as 8 bytes, big endian, so no two are equal.
    pub value: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Create,
    /// A create whose node goes with its session.
    CreateEphemeral,
    Set,
    Delete,
    Get,
}

/// What the server answered.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledgement<'a> {
    /// Of the change; of a read, what the server had last applied.
    pub zxid: i64,
    /// The node's version after the change, where the reply tells it.
    pub version: Option<i32>,
    /// What a create returned.
    pub path: Option<&'a str>,
    /// What a get returned.
    pub value: Option<&'a [u8]>,
    /// Nanoseconds since the run's start, from just before the sending to just after the reply.
    pub sent_nanos: u64,
    pub replied_nanos: u64,
    pub session: i64,
}

/// Called from several threads at once. Each of a `multi`'s changes is told by itself.
pub trait Observer: Sync {
    /// About to be written to the socket: from here on it may happen.
    fn sent(&self, operation: &Operation<'_>);

    fn acknowledged(&self, operation: &Operation<'_>, acknowledgement: &Acknowledgement<'_>);

    /// Answered with an error: it has not happened.
    fn refused(&self, operation: &Operation<'_>, code: i32);

    /// The connection was lost before the reply: it has happened, or has not, or will.
    fn in_doubt(&self, operation: &Operation<'_>);
}
