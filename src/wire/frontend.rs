//! Messages that clients send: views over their bodies, and writers that give them another statement's name.
//!
//! Names are bytes: until a session's encoding is known, nothing says that they are text.

use bytes::{BufMut, BytesMut};

use crate::frame::{Fields, HEADER_BYTES, WireError, message, put_cstr};

/// Tags of messages from a client.
pub mod tag {
    #![allow(missing_docs, reason = "they are the protocol's own names")]
    pub const BIND: u8 = b'B';
    pub const CLOSE: u8 = b'C';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_FAIL: u8 = b'f';
    pub const DESCRIBE: u8 = b'D';
    pub const EXECUTE: u8 = b'E';
    pub const FLUSH: u8 = b'H';
    pub const FUNCTION_CALL: u8 = b'F';
    pub const PARSE: u8 = b'P';
    pub const PASSWORD: u8 = b'p';
    pub const QUERY: u8 = b'Q';
    pub const SYNC: u8 = b'S';
    pub const TERMINATE: u8 = b'X';
}

/// Body of a Parse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parse<'a> {
    /// The statement's name; empty for the unnamed one.
    pub name: &'a [u8],
    /// Its text.
    pub query: &'a [u8],
    /// Number and OIDs of declared parameter types, as they are on the wire.
    pub types: &'a [u8],
}

/// Start of a Bind's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind<'a> {
    /// The portal's name.
    pub portal: &'a [u8],
    /// The statement's name.
    pub statement: &'a [u8],
    /// Formats and values, as far as they are there.
    pub rest: &'a [u8],
}

/// Body of a Describe or Close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    /// `S` for a statement, `P` for a portal.
    pub kind: u8,
    /// Its name.
    pub name: &'a [u8],
}

/// Body of a Query: its text.
///
/// # Errors
/// [`WireError::Malformed`].
pub fn query(body: &[u8]) -> Result<&[u8], WireError> {
    let mut fields = Fields::new(body, "Query");
    let text = fields.cstr()?;
    fields.end().map(|()| text)
}

/// Reads a Parse.
///
/// # Errors
/// [`WireError::Malformed`].
pub fn parse(body: &[u8]) -> Result<Parse<'_>, WireError> {
    let mut fields = Fields::new(body, "Parse");
    let (name, query) = (fields.cstr()?, fields.cstr()?);
    let types = fields.rest();
    let count = fields.u16()?;
    fields.take(usize::from(count) * 4)?;
    fields.end()?;
    Ok(Parse { name, query, types })
}

/// Reads the start of a Bind, whose body need not be whole.
///
/// # Errors
/// [`WireError::Malformed`] when both names are not there.
pub fn bind(body: &[u8]) -> Result<Bind<'_>, WireError> {
    let mut fields = Fields::new(body, "Bind");
    Ok(Bind { portal: fields.cstr()?, statement: fields.cstr()?, rest: fields.rest() })
}

/// Reads a Describe or Close.
///
/// # Errors
/// [`WireError::Malformed`].
pub fn target(body: &[u8]) -> Result<Target<'_>, WireError> {
    let mut fields = Fields::new(body, "Describe or Close");
    let target = Target { kind: fields.u8()?, name: fields.cstr()? };
    fields.end()?;
    if matches!(target.kind, b'S' | b'P') { Ok(target) } else { Err(fields.malformed()) }
}

/// Reads an Execute: the portal's name and the most rows wanted, 0 for all.
///
/// # Errors
/// [`WireError::Malformed`].
pub fn execute(body: &[u8]) -> Result<(&[u8], i32), WireError> {
    let mut fields = Fields::new(body, "Execute");
    let execute = (fields.cstr()?, fields.i32()?);
    fields.end().map(|()| execute)
}

/// The function's OID, at the start of a FunctionCall's body, which need not be whole.
///
/// # Errors
/// [`WireError::Malformed`] when it is not there.
pub fn function_call(body: &[u8]) -> Result<u32, WireError> {
    Ok(Fields::new(body, "FunctionCall").i32()?.cast_unsigned())
}

/// The mechanism and first message of a SASLInitialResponse.
///
/// # Errors
/// [`WireError::Malformed`].
pub fn sasl_initial(body: &[u8]) -> Result<(&[u8], &[u8]), WireError> {
    let mut fields = Fields::new(body, "SASLInitialResponse");
    let mechanism = fields.cstr()?;
    let length = usize::try_from(fields.i32()?).map_err(|_| fields.malformed())?;
    let first = fields.take(length)?;
    fields.end().map(|()| (mechanism, first))
}

/// Writes a Query.
pub fn write_query(out: &mut BytesMut, text: &[u8]) {
    message(out, tag::QUERY, |out| put_cstr(out, text));
}

/// Writes a Parse; `types` as in [`Parse`].
pub fn write_parse(out: &mut BytesMut, name: &[u8], text: &[u8], types: &[u8]) {
    message(out, tag::PARSE, |out| {
        put_cstr(out, name);
        put_cstr(out, text);
        out.put_slice(types);
    });
}

/// Writes the header of a Bind whose values follow as they come, and both its names: `body` is the length that the body
/// had with the names in `bind`.
pub fn write_bind_start(out: &mut BytesMut, bind: &Bind<'_>, body: usize, statement: &[u8]) {
    let length = body - bind.statement.len() + statement.len() + 4;
    out.reserve(HEADER_BYTES + bind.portal.len() + statement.len() + 2);
    out.put_u8(tag::BIND);
    // Both lengths were bounded when the message was read.
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    put_cstr(out, bind.portal);
    put_cstr(out, statement);
}

fn write_target(out: &mut BytesMut, tag: u8, kind: u8, name: &[u8]) {
    message(out, tag, |out| {
        out.put_u8(kind);
        put_cstr(out, name);
    });
}

/// Writes a Describe of a statement.
pub fn write_describe_statement(out: &mut BytesMut, name: &[u8]) {
    write_target(out, tag::DESCRIBE, b'S', name);
}

/// Writes a Close of a statement.
pub fn write_close_statement(out: &mut BytesMut, name: &[u8]) {
    write_target(out, tag::CLOSE, b'S', name);
}

/// Writes a Sync.
pub fn write_sync(out: &mut BytesMut) {
    message(out, tag::SYNC, |_| {});
}

/// Writes a Flush.
pub fn write_flush(out: &mut BytesMut) {
    message(out, tag::FLUSH, |_| {});
}

/// Writes a Terminate.
pub fn write_terminate(out: &mut BytesMut) {
    message(out, tag::TERMINATE, |_| {});
}

/// Writes a SASLInitialResponse.
pub fn write_sasl_initial(out: &mut BytesMut, mechanism: &str, first: &[u8]) {
    message(out, tag::PASSWORD, |out| {
        put_cstr(out, mechanism.as_bytes());
        out.put_u32(u32::try_from(first.len()).unwrap_or(u32::MAX));
        out.put_slice(first);
    });
}

/// Writes a SASLResponse.
pub fn write_sasl_response(out: &mut BytesMut, response: &[u8]) {
    message(out, tag::PASSWORD, |out| out.put_slice(response));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(write: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
        let mut out = BytesMut::new();
        write(&mut out);
        out[HEADER_BYTES..].to_vec()
    }

    fn no_prefix<T>(body: &[u8], read: impl Fn(&[u8]) -> Result<T, WireError>) {
        for cut in 0..body.len() {
            assert!(read(&body[..cut]).is_err(), "cut at {cut}");
        }
        assert!(read(body).is_ok());
    }

    #[test]
    fn a_body_that_is_cut_is_an_error() {
        no_prefix(&body(|out| write_query(out, b"select 1")), |b| query(b).map(drop));
        no_prefix(&body(|out| write_parse(out, b"s", b"select $1", &[0, 1, 0, 0, 0, 23])), |b| {
            parse(b).map(drop)
        });
        no_prefix(&body(|out| write_describe_statement(out, b"s")), |b| target(b).map(drop));
        no_prefix(&body(|out| write_sasl_initial(out, "SCRAM-SHA-256", b"n,,n=,r=x")), |b| {
            sasl_initial(b).map(drop)
        });
        no_prefix(b"p\0\0\0\0\x05", |b| execute(b).map(drop));
        no_prefix(b"\0\0\x03\xb8", |b| function_call(b).map(drop));
    }

    #[test]
    fn a_bind_gets_another_name_and_its_length_follows() {
        let body = b"p\0name\0\0\0\0\0\0\0";
        let bound = bind(body).unwrap();
        let mut out = BytesMut::new();
        write_bind_start(&mut out, &bound, body.len(), b"a_longer_name");
        out.put_slice(bound.rest);
        let header = crate::frame::header(&out, 1000).unwrap().unwrap();
        assert_eq!(header.total(), out.len());
        let again = bind(&out[HEADER_BYTES..]).unwrap();
        assert_eq!(
            (again.portal, again.statement, again.rest),
            (&b"p"[..], &b"a_longer_name"[..], bound.rest)
        );
    }

    #[test]
    fn a_parse_with_more_types_than_bytes_is_an_error() {
        assert!(parse(b"\0select\0\x7f\xff").is_err());
        assert!(parse(b"\0select\0\xff\xff").is_err());
        // As many as Postgres takes: the count has no sign.
        let most = [&b"\0select\0\xff\xff"[..], &[0; 4 * 0xffff]].concat();
        assert_eq!(parse(&most).unwrap().types.len(), 2 + 4 * 0xffff);
        assert!(target(b"X\0").is_err());
    }
}
