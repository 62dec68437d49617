//! Messages that servers send: what a router reads of them, and those that it sends itself.

use bytes::{BufMut, BytesMut};

use crate::frame::{Fields, WireError, message, put_cstr};

/// Tags of messages from a server.
pub mod tag {
    #![allow(missing_docs, reason = "they are the protocol's own names")]
    pub const AUTHENTICATION: u8 = b'R';
    pub const BACKEND_KEY_DATA: u8 = b'K';
    pub const BIND_COMPLETE: u8 = b'2';
    pub const CLOSE_COMPLETE: u8 = b'3';
    pub const COMMAND_COMPLETE: u8 = b'C';
    pub const COPY_BOTH: u8 = b'W';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_IN: u8 = b'G';
    pub const DATA_ROW: u8 = b'D';
    pub const EMPTY_QUERY: u8 = b'I';
    pub const ERROR: u8 = b'E';
    pub const NEGOTIATE_VERSION: u8 = b'v';
    pub const NO_DATA: u8 = b'n';
    pub const NOTICE: u8 = b'N';
    pub const NOTIFICATION: u8 = b'A';
    pub const PARAMETER_DESCRIPTION: u8 = b't';
    pub const PARAMETER_STATUS: u8 = b'S';
    pub const PARSE_COMPLETE: u8 = b'1';
    pub const PORTAL_SUSPENDED: u8 = b's';
    pub const READY_FOR_QUERY: u8 = b'Z';
    pub const ROW_DESCRIPTION: u8 = b'T';
}

/// What ReadyForQuery says about the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TransactionStatus {
    /// None is open.
    #[default]
    Idle,
    /// One is open.
    Open,
    /// One is open and failed.
    Failed,
}

impl TransactionStatus {
    /// The byte on the wire.
    #[must_use]
    pub fn as_byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::Open => b'T',
            Self::Failed => b'E',
        }
    }
}

/// Reads a ReadyForQuery.
///
/// # Errors
/// [`WireError::Malformed`].
pub fn ready_for_query(body: &[u8]) -> Result<TransactionStatus, WireError> {
    match body {
        b"I" => Ok(TransactionStatus::Idle),
        b"T" => Ok(TransactionStatus::Open),
        b"E" => Ok(TransactionStatus::Failed),
        _ => Err(WireError::Malformed("ReadyForQuery")),
    }
}

/// What a server asks for, or says, in an Authentication message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication<'a> {
    /// The login succeeded.
    Ok,
    /// One of these SASL mechanisms.
    Sasl(Vec<&'a [u8]>),
    /// The SASL exchange goes on.
    SaslContinue(&'a [u8]),
    /// The SASL exchange's last word.
    SaslFinal(&'a [u8]),
    /// Another method, by its number.
    Other(i32),
}

/// Reads an Authentication message.
///
/// # Errors
/// [`WireError::Malformed`].
pub fn authentication(body: &[u8]) -> Result<Authentication<'_>, WireError> {
    let mut fields = Fields::new(body, "Authentication");
    Ok(match fields.i32()? {
        0 => fields.end().map(|()| Authentication::Ok)?,
        10 => {
            let mut mechanisms = Vec::new();
            loop {
                match fields.cstr()? {
                    b"" => break,
                    mechanism => mechanisms.push(mechanism),
                }
            }
            Authentication::Sasl(mechanisms)
        }
        11 => Authentication::SaslContinue(fields.rest()),
        12 => Authentication::SaslFinal(fields.rest()),
        other => Authentication::Other(other),
    })
}

/// Reads a ParameterStatus: name and value.
///
/// # Errors
/// [`WireError::Malformed`].
pub fn parameter_status(body: &[u8]) -> Result<(&[u8], &[u8]), WireError> {
    let mut fields = Fields::new(body, "ParameterStatus");
    let parameter = (fields.cstr()?, fields.cstr()?);
    fields.end().map(|()| parameter)
}

/// The columns of a RowDescription: name, type and type modifier of each, as far as it is well-formed.
pub fn columns(body: &[u8]) -> impl Iterator<Item = (&[u8], i32, i32)> {
    let mut fields = Fields::new(body, "RowDescription");
    let count = fields.i16().unwrap_or(0);
    (0..count).map_while(move |_| {
        let name = fields.cstr().ok()?;
        // The table and the column's number in it are no part of the result's form.
        fields.take(6).ok()?;
        let of_type = fields.i32().ok()?;
        fields.i16().ok()?;
        let modifier = fields.i32().ok()?;
        fields.i16().ok()?;
        Some((name, of_type, modifier))
    })
}

/// Reads a BackendKeyData: process id and cancel key.
///
/// # Errors
/// [`WireError::Malformed`].
pub fn backend_key_data(body: &[u8]) -> Result<(u32, &[u8]), WireError> {
    let mut fields = Fields::new(body, "BackendKeyData");
    let process_id = fields.i32()?.cast_unsigned();
    let key = fields.rest();
    if (4..=256).contains(&key.len()) { Ok((process_id, key)) } else { Err(fields.malformed()) }
}

/// Reads a NotificationResponse: the sender's process id, and channel and payload as they are.
///
/// # Errors
/// [`WireError::Malformed`].
pub fn notification(body: &[u8]) -> Result<(u32, &[u8]), WireError> {
    let mut fields = Fields::new(body, "NotificationResponse");
    Ok((fields.i32()?.cast_unsigned(), fields.rest()))
}

/// Writes a NotificationResponse; `rest` as in [`notification`].
pub fn write_notification(out: &mut BytesMut, sender: u32, rest: &[u8]) {
    message(out, tag::NOTIFICATION, |out| {
        out.put_u32(sender);
        out.put_slice(rest);
    });
}

/// Writes a message with the body that it had.
pub fn write_message(out: &mut BytesMut, tag: u8, body: &[u8]) {
    message(out, tag, |out| out.put_slice(body));
}

/// Writes AuthenticationOk.
pub fn write_authentication_ok(out: &mut BytesMut) {
    message(out, tag::AUTHENTICATION, |out| out.put_i32(0));
}

/// Writes AuthenticationSASL, offering these mechanisms.
pub fn write_authentication_sasl(out: &mut BytesMut, mechanisms: &[&str]) {
    message(out, tag::AUTHENTICATION, |out| {
        out.put_i32(10);
        for mechanism in mechanisms {
            put_cstr(out, mechanism.as_bytes());
        }
        out.put_u8(0);
    });
}

/// Writes AuthenticationSASLContinue.
pub fn write_sasl_continue(out: &mut BytesMut, data: &[u8]) {
    message(out, tag::AUTHENTICATION, |out| {
        out.put_i32(11);
        out.put_slice(data);
    });
}

/// Writes AuthenticationSASLFinal.
pub fn write_sasl_final(out: &mut BytesMut, data: &[u8]) {
    message(out, tag::AUTHENTICATION, |out| {
        out.put_i32(12);
        out.put_slice(data);
    });
}

/// Writes a ParameterStatus.
pub fn write_parameter_status(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    message(out, tag::PARAMETER_STATUS, |out| {
        put_cstr(out, name);
        put_cstr(out, value);
    });
}

/// Writes a BackendKeyData.
pub fn write_backend_key_data(out: &mut BytesMut, process_id: u32, key: &[u8]) {
    message(out, tag::BACKEND_KEY_DATA, |out| {
        out.put_u32(process_id);
        out.put_slice(key);
    });
}

/// Writes a ReadyForQuery.
pub fn write_ready_for_query(out: &mut BytesMut, status: TransactionStatus) {
    message(out, tag::READY_FOR_QUERY, |out| out.put_u8(status.as_byte()));
}

/// Writes a CommandComplete.
pub fn write_command_complete(out: &mut BytesMut, command: &str) {
    message(out, tag::COMMAND_COMPLETE, |out| put_cstr(out, command.as_bytes()));
}

/// Writes a ParseComplete.
pub fn write_parse_complete(out: &mut BytesMut) {
    message(out, tag::PARSE_COMPLETE, |_| {});
}

/// Writes a CloseComplete.
pub fn write_close_complete(out: &mut BytesMut) {
    message(out, tag::CLOSE_COMPLETE, |_| {});
}

/// Writes a NegotiateProtocolVersion: the newest minor version spoken, and the options that are not known.
pub fn write_negotiate_version(out: &mut BytesMut, minor: u16, options: &[String]) {
    message(out, tag::NEGOTIATE_VERSION, |out| {
        out.put_i32((3 << 16) | i32::from(minor));
        out.put_u32(u32::try_from(options.len()).unwrap_or(u32::MAX));
        for option in options {
            put_cstr(out, option.as_bytes());
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(write: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
        let mut out = BytesMut::new();
        write(&mut out);
        let header = crate::frame::header(&out, 10_000).unwrap().unwrap();
        assert_eq!(header.total(), out.len());
        out[5..].to_vec()
    }

    fn no_prefix<T>(body: &[u8], read: impl Fn(&[u8]) -> Result<T, WireError>) {
        for cut in 0..body.len() {
            assert!(read(&body[..cut]).is_err(), "cut at {cut}");
        }
        assert!(read(body).is_ok());
    }

    #[test]
    fn a_body_that_is_cut_is_an_error() {
        no_prefix(&body(|out| write_ready_for_query(out, TransactionStatus::Failed)), ready_for_query);
        no_prefix(&body(|out| write_parameter_status(out, b"a", b"b")), |b| parameter_status(b).map(drop));
        assert_eq!(body(|out| write_command_complete(out, "SELECT 1")), b"SELECT 1\0");
        no_prefix(&body(|out| write_backend_key_data(out, 1, &[1; 4])), |b| backend_key_data(b).map(drop));
        no_prefix(&body(write_authentication_ok), |b| authentication(b).map(drop));
        no_prefix(&body(|out| write_authentication_sasl(out, &["SCRAM-SHA-256"])), |b| {
            authentication(b).map(drop)
        });
    }

    #[test]
    fn authentication_messages_come_back_as_they_were() {
        let sasl = body(|out| write_authentication_sasl(out, &["X"]));
        assert_eq!(authentication(&sasl), Ok(Authentication::Sasl(vec![b"X"])));
        let next = body(|out| write_sasl_continue(out, b"r=1"));
        assert_eq!(authentication(&next), Ok(Authentication::SaslContinue(b"r=1")));
        let last = body(|out| write_sasl_final(out, b"v=1"));
        assert_eq!(authentication(&last), Ok(Authentication::SaslFinal(b"v=1")));
        assert_eq!(authentication(&[0, 0, 0, 3]), Ok(Authentication::Other(3)));
    }

    #[test]
    fn the_others_have_the_form_that_postgres_gives_them() {
        assert_eq!(
            body(|out| write_negotiate_version(out, 2, &["_pq_.x".into()])),
            b"\0\x03\0\x02\0\0\0\x01_pq_.x\0"
        );
        assert_eq!(body(write_parse_complete), b"");
        assert_eq!(body(write_close_complete), b"");
    }
}
