//! Batches: what one sync covers, encoded and decoded. The layout is drawn in the parent module.

use crate::zxid::Zxid;

use super::{
    BATCH_HEADER_BYTES, BATCH_MAGIC, BATCH_TRAILER_BYTES, BATCH_VERSION, BATCH_VERSION_OLD, BLOCK,
    RECORD_HEADER_BYTES,
};

/// What a batch says about the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Transactions that continue the history.
    Txns,
    /// Nothing new: everything before this batch is durable.
    Mark,
    /// The history ends at `previous`: later transactions that stand before this batch are void.
    Cut,
    /// The history starts anew after `previous` (a snapshot's zxid): everything before is void.
    Reset,
}

impl Kind {
    fn code(self) -> u16 {
        match self {
            Kind::Txns => 1,
            Kind::Mark => 2,
            Kind::Cut => 3,
            Kind::Reset => 4,
        }
    }

    fn from_code(code: u16) -> Option<Kind> {
        [Kind::Txns, Kind::Mark, Kind::Cut, Kind::Reset].into_iter().find(|it| it.code() == code)
    }
}

/// The head of a batch, which checks itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the batch says.
    pub kind: Kind,
    /// How its payload is laid out.
    pub version: u16,
    /// The log that it belongs to: a random number, the same in all its segments.
    pub identity: u64,
    /// The segment that it was written for.
    pub sequence: u64,
    /// Where in that segment, in bytes.
    pub offset: u64,
    /// Bytes of payload, without padding.
    pub length: u32,
    /// Transactions in the payload.
    pub count: u32,
    /// The first transaction's zxid; zero without transactions.
    pub first: Zxid,
    /// The last transaction's zxid; zero without transactions.
    pub last: Zxid,
    /// The end of the history before this batch (and, for a cut or reset, after it).
    pub previous: Zxid,
    /// How far the log was durable when this batch was written.
    pub durable: Zxid,
    /// The checksum of the header of the batch before this one; 0 in the first batch of a log.
    pub chain: u32,
    /// crc32c of the payload, without padding.
    pub payload_crc: u32,
}

/// Why bytes are not a batch's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    /// All zeros: nothing was ever written here.
    #[error("zeros")]
    Zeros,
    /// Fewer bytes than a header has.
    #[error("the file ends inside the header")]
    Short,
    /// Not the magic number.
    #[error("no batch starts here")]
    Magic,
    /// The header's checksum does not match.
    #[error("the header's checksum does not match")]
    Checksum,
    /// A sound header of a version or kind that this release does not know.
    #[error("unknown version or kind")]
    Unknown,
}

/// Why a batch with a sound header cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadFault {
    /// The payload reaches past the end of the file.
    #[error("the file ends inside the batch")]
    Short,
    /// The payload's checksum does not match.
    #[error("the payload's checksum does not match")]
    Checksum,
    /// The bytes between the payload and the next block are not zero.
    #[error("the padding is not zero")]
    Padding,
    /// The checksum matches and the records do not add up.
    #[error("the records contradict the header")]
    Records,
}

impl Header {
    /// The header as it stands on disk, with its own checksum.
    pub fn encode(&self) -> [u8; BATCH_HEADER_BYTES] {
        let mut bytes = [0; BATCH_HEADER_BYTES];
        bytes[0..8].copy_from_slice(&BATCH_MAGIC);
        bytes[8..16].copy_from_slice(&self.identity.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.offset.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.length.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.count.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.first.raw().to_le_bytes());
        bytes[48..56].copy_from_slice(&self.last.raw().to_le_bytes());
        bytes[56..64].copy_from_slice(&self.previous.raw().to_le_bytes());
        bytes[64..72].copy_from_slice(&self.durable.raw().to_le_bytes());
        bytes[72..76].copy_from_slice(&self.chain.to_le_bytes());
        bytes[76..80].copy_from_slice(&self.payload_crc.to_le_bytes());
        bytes[80..82].copy_from_slice(&self.version.to_le_bytes());
        bytes[82..84].copy_from_slice(&self.kind.code().to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..CHECKSUM_AT]);
        bytes[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The header that stands at the start of `bytes`.
    ///
    /// # Errors
    /// [`HeaderFault::Zeros`] only when all of the first block (or what there is of it) is zero.
    pub fn decode(bytes: &[u8]) -> Result<Header, HeaderFault> {
        let Some(head) = bytes.first_chunk::<BATCH_HEADER_BYTES>() else {
            return Err(if is_zero(bytes) { HeaderFault::Zeros } else { HeaderFault::Short });
        };
        if head[..8] != BATCH_MAGIC {
            let block = &bytes[..bytes.len().min(BLOCK)];
            return Err(if is_zero(block) { HeaderFault::Zeros } else { HeaderFault::Magic });
        }
        if crc32c::crc32c(&head[..CHECKSUM_AT]) != u32_at(head, CHECKSUM_AT) {
            return Err(HeaderFault::Checksum);
        }
        let kind = Kind::from_code(u16_at(head, 82)).ok_or(HeaderFault::Unknown)?;
        let version = u16_at(head, 80);
        if ![BATCH_VERSION_OLD, BATCH_VERSION].contains(&version) {
            return Err(HeaderFault::Unknown);
        }
        Ok(Header {
            kind,
            version,
            identity: u64_at(head, 8),
            sequence: u64_at(head, 16),
            offset: u64_at(head, 24),
            length: u32_at(head, 32),
            count: u32_at(head, 36),
            first: zxid_at(head, 40),
            last: zxid_at(head, 48),
            previous: zxid_at(head, 56),
            durable: zxid_at(head, 64),
            chain: u32_at(head, 72),
            payload_crc: u32_at(head, 76),
        })
    }

    /// The header's own checksum: what the next batch carries as its `chain`.
    pub fn checksum(&self) -> u32 {
        checksum_of(&self.encode())
    }

    /// Bytes on disk: header and payload, padded to whole blocks.
    pub fn padded_bytes(&self) -> u64 {
        (BATCH_HEADER_BYTES as u64 + u64::from(self.length)).next_multiple_of(BLOCK as u64)
    }

    /// Bytes of the payload that are no records.
    pub fn trailer_bytes(&self) -> usize {
        if self.version == BATCH_VERSION_OLD { 0 } else { BATCH_TRAILER_BYTES }
    }

    /// The end of the history after this batch.
    pub fn history_end(&self) -> Zxid {
        match self.kind {
            Kind::Txns => self.last,
            Kind::Mark | Kind::Cut | Kind::Reset => self.previous,
        }
    }
}

/// The checksum of a header that is encoded already.
pub(super) fn checksum_of(header: &[u8; BATCH_HEADER_BYTES]) -> u32 {
    u32_at(header, CHECKSUM_AT)
}

/// Where the header's own checksum stands: last, over all before it.
const CHECKSUM_AT: usize = BATCH_HEADER_BYTES - 4;
const _: () = assert!(CHECKSUM_AT == 84);

/// Checks the payload of the batch whose `header` was decoded at the start of `bytes`, and gives
/// its records.
pub fn check_payload<'a>(header: &Header, bytes: &'a [u8]) -> Result<Records<'a>, PayloadFault> {
    let payload = payload(header, bytes).ok_or(PayloadFault::Short)?;
    let end = usize::try_from(header.padded_bytes()).map_err(|_| PayloadFault::Short)?;
    let padding = bytes.get(BATCH_HEADER_BYTES + payload.len()..end).ok_or(PayloadFault::Short)?;
    if crc32c::crc32c(payload) != header.payload_crc {
        return Err(PayloadFault::Checksum);
    }
    if !is_zero(padding) {
        return Err(PayloadFault::Padding);
    }
    let records = records(header, bytes).ok_or(PayloadFault::Records)?;
    if records_agree(header, records) { Ok(records) } else { Err(PayloadFault::Records) }
}

fn payload<'a>(header: &Header, bytes: &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(header.length).ok()?;
    bytes.get(BATCH_HEADER_BYTES..)?.get(..length)
}

/// The records of a batch whose payload is taken as it stands; `None` when it is not all there.
pub fn records<'a>(header: &Header, bytes: &'a [u8]) -> Option<Records<'a>> {
    let payload = payload(header, bytes)?;
    let records = payload.len().checked_sub(header.trailer_bytes())?;
    let (payload, trailer) = payload.split_at(records);
    let committed = if trailer.is_empty() { Zxid::ZERO } else { zxid_at(trailer, 0) };
    Some(Records { payload, committed })
}

/// True when the records are as many as the header says, in order, within its zxids, and fill the
/// payload exactly.
fn records_agree(header: &Header, mut records: Records<'_>) -> bool {
    if header.kind != Kind::Txns {
        return header.count == 0
            && records.payload.is_empty()
            && records.committed <= header.previous
            && header.first == Zxid::ZERO
            && header.last == Zxid::ZERO;
    }
    let mut count = 0;
    let mut last = header.previous;
    for (zxid, _) in records.by_ref() {
        if zxid <= last || (count == 0 && zxid != header.first) {
            return false;
        }
        last = zxid;
        count += 1;
    }
    count > 0
        && count == header.count
        && last == header.last
        && records.committed <= last
        && records.payload.is_empty()
}

/// The transactions of one batch, in order; ends early on records that do not fit the payload.
#[derive(Clone, Copy, Default)]
pub struct Records<'a> {
    payload: &'a [u8],
    committed: Zxid,
}

impl Records<'_> {
    /// Bytes of the records that were not given yet.
    pub(super) fn bytes_left(&self) -> usize {
        self.payload.len()
    }

    /// How far the history was known to be committed when the batch was written, and not beyond
    /// its end; zero for unknown.
    pub fn committed(&self) -> Zxid {
        self.committed
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = (Zxid, &'a [u8]);

    fn next(&mut self) -> Option<(Zxid, &'a [u8])> {
        let (zxid, length) = decode_record_header(self.payload)?;
        let length = usize::try_from(length).ok()?;
        let txn = self.payload[RECORD_HEADER_BYTES..].get(..length)?;
        self.payload = &self.payload[RECORD_HEADER_BYTES + length..];
        Some((zxid, txn))
    }
}

/// The head of a record: zxid and length.
pub fn record_header(zxid: Zxid, length: u32) -> [u8; RECORD_HEADER_BYTES] {
    let mut bytes = [0; RECORD_HEADER_BYTES];
    bytes[0..8].copy_from_slice(&zxid.raw().to_le_bytes());
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    bytes
}

/// The zxid and length in the record header that `bytes` start with.
pub(super) fn decode_record_header(bytes: &[u8]) -> Option<(Zxid, u32)> {
    let head = bytes.first_chunk::<RECORD_HEADER_BYTES>()?;
    Some((zxid_at(head, 0), u32_at(head, 8)))
}

/// True when all of `bytes` is zero; reads eight at a time.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<64>();
    // Each chunk is folded without a branch, so that it becomes a few wide instructions.
    chunks.iter().all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk::<N>().expect("the caller has checked the length")
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(chunk(bytes, at))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(chunk(bytes, at))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(chunk(bytes, at))
}

fn zxid_at(bytes: &[u8], at: usize) -> Zxid {
    Zxid::from_raw(i64::from_le_bytes(chunk(bytes, at)))
}
