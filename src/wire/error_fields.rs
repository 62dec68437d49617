//! ErrorResponse and NoticeResponse, by their fields.

use bytes::{BufMut, BytesMut};

use crate::frame::{Fields, WireError, message, put_cstr};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The statement failed.
    Error,
    /// The session is over.
    Fatal,
    /// Something to know.
    Notice,
}

impl Severity {
    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
            Self::Notice => "NOTICE",
        }
    }
}

/// The fields of an error that somebody here reads or writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorFields<'a> {
    /// `ERROR`, `FATAL`, `PANIC`, …, never translated (field V, or S from servers before 9.6).
    pub severity: &'a str,
    /// SQLSTATE.
    pub code: &'a str,
    /// The message.
    pub message: &'a str,
    /// More about it.
    pub detail: Option<&'a str>,
    /// What to do.
    pub hint: Option<&'a str>,
    /// The function in the server's source that reported it.
    pub routine: Option<&'a str>,
}

impl<'a> ErrorFields<'a> {
    /// Reads the body of an ErrorResponse or NoticeResponse. Fields that are not text are taken as empty.
    ///
    /// # Errors
    /// [`WireError::Malformed`].
    pub fn parse(body: &'a [u8]) -> Result<Self, WireError> {
        let mut fields = Fields::new(body, "ErrorResponse");
        let mut found = Self { severity: "", code: "", message: "", detail: None, hint: None, routine: None };
        loop {
            let kind = fields.u8()?;
            if kind == 0 {
                fields.end()?;
                return Ok(found);
            }
            let text = std::str::from_utf8(fields.cstr()?).unwrap_or_default();
            match kind {
                b'V' => found.severity = text,
                b'S' if found.severity.is_empty() => found.severity = text,
                b'C' => found.code = text,
                b'M' => found.message = text,
                b'D' => found.detail = Some(text),
                b'H' => found.hint = Some(text),
                b'R' => found.routine = Some(text),
                _ => {}
            }
        }
    }

    /// Whether a prepared statement can't be executed any more because the types of its result have changed ("cached
    /// plan must not change result type"). Found by the reporting function, as libpq's drivers do: the SQLSTATE
    /// (0A000) is that of many other errors, and the message is translated.
    #[must_use]
    pub fn is_stale_plan(&self) -> bool {
        self.code == "0A000" && self.routine == Some("RevalidateCachedQuery")
    }

    /// Whether the sender closes the connection after it.
    #[must_use]
    pub fn ends_session(&self) -> bool {
        matches!(self.severity, "FATAL" | "PANIC")
    }

    fn write(&self, out: &mut BytesMut, tag: u8) {
        let optional = [(b'D', self.detail), (b'H', self.hint), (b'R', self.routine)];
        message(out, tag, |out| {
            for (kind, text) in
                [(b'S', self.severity), (b'V', self.severity), (b'C', self.code), (b'M', self.message)]
            {
                out.put_u8(kind);
                put_cstr(out, text.as_bytes());
            }
            for (kind, text) in optional {
                if let Some(text) = text {
                    out.put_u8(kind);
                    put_cstr(out, text.as_bytes());
                }
            }
            out.put_u8(0);
        });
    }

    /// Writes it as an ErrorResponse.
    pub fn write_error(&self, out: &mut BytesMut) {
        self.write(out, b'E');
    }

    /// Writes it as a NoticeResponse.
    pub fn write_notice(&self, out: &mut BytesMut) {
        self.write(out, b'N');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_comes_back_as_it_was_and_no_prefix_does() {
        let error = ErrorFields {
            severity: Severity::Fatal.as_str(),
            code: "57P01",
            message: "going",
            detail: None,
            hint: Some("come back"),
            routine: Some("Going"),
        };
        let mut out = BytesMut::new();
        error.write_error(&mut out);
        let body = &out[5..];
        assert_eq!(ErrorFields::parse(body).unwrap(), error);
        assert!(error.ends_session());
        for cut in 0..body.len() {
            assert!(ErrorFields::parse(&body[..cut]).is_err());
        }
    }
}
