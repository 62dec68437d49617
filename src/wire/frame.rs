//! The frame that every message after the startup packet has: a tag, a length, a body.

use bytes::{BufMut, BytesMut};

/// Bytes of a tag and a length.
pub const HEADER_BYTES: usize = 5;

/// A peer broke the protocol. Always the peer's fault, never worth a retry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A length that no message can have.
    #[error("invalid message length {0}")]
    Length(i32),
    /// Longer than allowed.
    #[error("a message of {length} bytes is longer than the {max} that are allowed")]
    TooLong {
        /// Its length.
        length: usize,
        /// The limit.
        max: usize,
    },
    /// A body that does not have the form its tag asks for.
    #[error("malformed {0} message")]
    Malformed(&'static str),
    /// A tag that has no meaning here.
    #[error("unexpected message type {0:#04x}")]
    Tag(u8),
}

impl WireError {
    /// `protocol_violation`, or `program_limit_exceeded` for a message that is only too long.
    #[must_use]
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "54000",
            _ => "08P01",
        }
    }
}

/// A message's tag and the length of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub tag: u8,
    /// Bytes that follow the header.
    pub body: usize,
}

impl Header {
    /// Bytes of the whole message.
    #[must_use]
    pub fn total(self) -> usize {
        HEADER_BYTES + self.body
    }
}

/// Reads the header at the start of `bytes`; `None` when it is not all there yet.
///
/// # Errors
/// [`WireError`] when the length is impossible or over `body_max`.
pub fn header(bytes: &[u8], body_max: usize) -> Result<Option<Header>, WireError> {
    let [tag, a, b, c, d, ..] = *bytes else {
        return Ok(None);
    };
    let length = i32::from_be_bytes([a, b, c, d]);
    let body =
        usize::try_from(length).ok().and_then(|l| l.checked_sub(4)).ok_or(WireError::Length(length))?;
    if body > body_max {
        return Err(WireError::TooLong { length: body, max: body_max });
    }
    Ok(Some(Header { tag, body }))
}

/// Writes a message: the tag, the length, and what `body` writes.
pub(crate) fn message(out: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    untagged(out, body);
}

/// Writes a length and what `body` writes.
pub(crate) fn untagged(out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u32(0);
    body(out);
    // No caller writes 4 GiB: bodies come from messages that were bounded on their way in.
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

pub(crate) fn put_cstr(out: &mut BytesMut, text: &[u8]) {
    out.put_slice(text);
    out.put_u8(0);
}

/// A reader over a message's body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(body: &'a [u8], what: &'static str) -> Self {
        Self { rest: body, what }
    }

    pub(crate) fn malformed(&self) -> WireError {
        WireError::Malformed(self.what)
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (head, tail) = self.rest.split_at_checked(count).ok_or_else(|| self.malformed())?;
        self.rest = tail;
        Ok(head)
    }

    pub(crate) fn cstr(&mut self) -> Result<&'a [u8], WireError> {
        let end = memchr::memchr(0, self.rest).ok_or_else(|| self.malformed())?;
        let text = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Ok(text)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, WireError> {
        Ok(self.take(1)?[0])
    }

    pub(crate) fn i16(&mut self) -> Result<i16, WireError> {
        let bytes = self.take(2)?;
        Ok(i16::from_be_bytes([bytes[0], bytes[1]]))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, WireError> {
        self.i16().map(i16::cast_unsigned)
    }

    pub(crate) fn i32(&mut self) -> Result<i32, WireError> {
        let bytes = self.take(4)?;
        Ok(i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    pub(crate) fn end(&self) -> Result<(), WireError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.malformed()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_when_it_is_whole() {
        let bytes = [b'Q', 0, 0, 0, 6, b'x', 0];
        for cut in 0..HEADER_BYTES {
            assert_eq!(header(&bytes[..cut], 100), Ok(None));
        }
        assert_eq!(header(&bytes, 100), Ok(Some(Header { tag: b'Q', body: 2 })));
    }

    #[test]
    fn impossible_lengths_are_refused() {
        for length in [0_i32, 1, 3, -1, i32::MIN] {
            let mut bytes = vec![b'Q'];
            bytes.extend(length.to_be_bytes());
            assert_eq!(header(&bytes, 100), Err(WireError::Length(length)));
        }
        assert_eq!(header(&[b'Q', 0, 0, 1, 0], 100), Err(WireError::TooLong { length: 252, max: 100 }));
    }
}
