//! Bytes to values and back: the client protocol, transactions, the quorum packets.
