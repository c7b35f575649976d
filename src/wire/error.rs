//! What can be wrong: with the bytes, and with what a client asked.

use thiserror::Error;

/// Why bytes are not the value that they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The value goes on past the end of its frame, or a declared length does.
    #[error("truncated, or a declared length exceeds the frame")]
    Truncated,
    /// A length below -1.
    #[error("negative length")]
    NegativeLength,
    /// A string that is not UTF-8.
    #[error("string is not UTF-8")]
    NotUtf8,
    /// An opcode or a transaction type that does not belong where it stands.
    #[error("type {0} does not belong here")]
    UnexpectedType(i32),
    /// A field outside of its range.
    #[error("{0} is out of range")]
    OutOfRange(&'static str),
    /// A transaction is followed by bytes that are none of it.
    #[error("{0} bytes after the end")]
    TrailingBytes(usize),
    /// A declared length beyond what the receiver takes.
    #[error("{length} bytes are declared where {limit} are the most")]
    TooLong { length: usize, limit: usize },
    /// Bytes that are not those that their checksum was computed of.
    #[error("the checksum is wrong")]
    Checksum,
}

/// The error of a reply, as Apache numbers them (`KeeperException.java`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum ErrorCode {
    Ok = 0,
    SystemError = -1,
    RuntimeInconsistency = -2,
    MarshallingError = -5,
    Unimplemented = -6,
    BadArguments = -8,
    NewConfigNoQuorum = -13,
    ReconfigInProgress = -14,
    NoNode = -101,
    NoAuth = -102,
    BadVersion = -103,
    NoChildrenForEphemerals = -108,
    NodeExists = -110,
    NotEmpty = -111,
    SessionExpired = -112,
    InvalidAcl = -114,
    AuthFailed = -115,
    SessionMoved = -118,
    NotReadOnly = -119,
    EphemeralOnLocalSession = -120,
    NoWatcher = -121,
    ReconfigDisabled = -123,
    SessionClosedRequireSaslAuth = -124,
    QuotaExceeded = -125,
    ThrottledOp = -127,
}

impl ErrorCode {
    /// The number on the wire.
    pub const fn raw(self) -> i32 {
        self as i32
    }
}
