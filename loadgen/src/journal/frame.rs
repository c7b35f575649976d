//! One request of the client protocol, as bytes.
//!
//! ```text
//! frame    length i32 | payload                 (big endian, length of the payload alone)
//! request  xid i32 | opcode i32 | body
//! ```

/// Appends one frame to `out`; the length is filled in when the frame is finished.
pub struct Frame<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Frame<'a> {
    pub fn request(out: &'a mut Vec<u8>, xid: i32, opcode: i32) -> Frame<'a> {
        Frame::raw(out).int(xid).int(opcode)
    }

    /// A frame without the header that requests have: the one that opens a session.
    pub fn raw(out: &'a mut Vec<u8>) -> Frame<'a> {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        Frame { out, start }
    }

    pub fn int(self, value: i32) -> Frame<'a> {
        self.out.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn long(self, value: i64) -> Frame<'a> {
        self.out.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn bool(self, value: bool) -> Frame<'a> {
        self.out.push(u8::from(value));
        self
    }

    /// A buffer or a string: both are a length and the bytes.
    pub fn bytes(self, value: &[u8]) -> Frame<'a> {
        let length = i32::try_from(value.len()).expect("values are smaller than 2 GiB");
        let frame = self.int(length);
        frame.out.extend_from_slice(value);
        frame
    }

    /// The access list that lets anyone do anything.
    pub fn open_acl(self) -> Frame<'a> {
        self.int(1).int(31).bytes(b"world").bytes(b"anyone")
    }

    pub fn finish(self) {
        let length = i32::try_from(self.out.len() - self.start - 4).expect("frames are small");
        self.out[self.start..self.start + 4].copy_from_slice(&length.to_be_bytes());
    }
}
