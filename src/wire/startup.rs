//! What a client sends first: a startup packet, or a request for encryption or cancellation, none of which has a tag.
//!
//! This is read before anybody is known, so everything has a limit: the packet's size as Postgres has it
//! (MAX_STARTUP_PACKET_LENGTH, 10,000 bytes), a cancel key's as protocol 3.2 has it (4 to 256 bytes).

use bytes::{BufMut, BytesMut};

use crate::frame::{Fields, WireError, put_cstr, untagged};

/// Longest first packet, in bytes.
pub const STARTUP_BYTES_MAX: usize = 10_000;
/// Newest minor version of protocol 3 that is spoken.
pub const MINOR_VERSION_MAX: u16 = 2;

const CANCEL: i32 = (1234 << 16) | 5678;
const SSL: i32 = (1234 << 16) | 5679;
const GSSENC: i32 = (1234 << 16) | 5680;

/// A first packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Initial {
    /// Asks for TLS.
    Ssl,
    /// Asks for GSSAPI encryption.
    GssEnc,
    /// Asks to cancel what the session with this key is running.
    Cancel {
        /// Process id, as the session was told.
        process_id: u32,
        /// The key, as the session was told.
        key: Vec<u8>,
    },
    /// Begins a session.
    Startup(Startup),
}

/// The parameters with which a session begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Startup {
    /// Minor version of protocol 3 that the client speaks.
    pub minor: u16,
    /// Names and values in their order, protocol options (`_pq_.…`) left out.
    pub parameters: Vec<(String, String)>,
    /// Names of protocol options, none of which is known here.
    pub protocol_options: Vec<String>,
}

impl Startup {
    /// The last value given for a parameter.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The minor version to speak.
    #[must_use]
    pub fn minor_spoken(&self) -> u16 {
        // There never was a 3.1.
        if self.minor >= MINOR_VERSION_MAX { MINOR_VERSION_MAX } else { 0 }
    }

    /// Whether the client must be told what is not spoken.
    #[must_use]
    pub fn needs_negotiation(&self) -> bool {
        self.minor > self.minor_spoken() || !self.protocol_options.is_empty()
    }
}

/// Reads a first packet and says how long it was; `None` when it is not all there yet.
///
/// # Errors
/// [`WireError`] when it is too long, malformed, or of a protocol version other than 3.
pub fn parse_initial(bytes: &[u8]) -> Result<Option<(Initial, usize)>, WireError> {
    let [a, b, c, d, ..] = *bytes else {
        return Ok(None);
    };
    let length = i32::from_be_bytes([a, b, c, d]);
    let total = usize::try_from(length).ok().filter(|l| *l >= 8).ok_or(WireError::Length(length))?;
    if total > STARTUP_BYTES_MAX {
        return Err(WireError::TooLong { length: total, max: STARTUP_BYTES_MAX });
    }
    let Some(packet) = bytes.get(4..total) else {
        return Ok(None);
    };
    let mut fields = Fields::new(packet, "startup");
    let initial = match fields.i32()? {
        SSL => fields.end().map(|()| Initial::Ssl)?,
        GSSENC => fields.end().map(|()| Initial::GssEnc)?,
        CANCEL => cancel(fields)?,
        version if version >> 16 == 3 => startup(version, fields)?,
        _ => return Err(WireError::Malformed("startup")),
    };
    Ok(Some((initial, total)))
}

fn cancel(mut fields: Fields<'_>) -> Result<Initial, WireError> {
    let process_id = fields.i32()?.cast_unsigned();
    let key = fields.rest();
    if !(4..=256).contains(&key.len()) {
        return Err(WireError::Malformed("cancel request"));
    }
    Ok(Initial::Cancel { process_id, key: key.to_vec() })
}

fn startup(version: i32, mut fields: Fields<'_>) -> Result<Initial, WireError> {
    let text = |bytes: &[u8]| {
        String::from_utf8(bytes.to_vec()).map_err(|_| WireError::Malformed("startup (not UTF-8)"))
    };
    let mut startup = Startup { minor: (version & 0xffff) as u16, ..Startup::default() };
    loop {
        let name = fields.cstr()?;
        if name.is_empty() {
            break;
        }
        let (name, value) = (text(name)?, text(fields.cstr()?)?);
        if name.starts_with("_pq_.") {
            startup.protocol_options.push(name);
        } else {
            startup.parameters.push((name, value));
        }
    }
    fields.end()?;
    Ok(Initial::Startup(startup))
}

/// Splits the startup parameter `options` into words as Postgres does (`pg_split_opts`): at white space, unless a
/// backslash precedes it.
#[must_use]
pub fn split_options(options: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = options.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                if let Some(next) = chars.next() {
                    word.get_or_insert_default().push(next);
                }
            }
            c if c.is_ascii_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// A word of the startup parameter `options` that makes no setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadOption {
    /// No option that sets something.
    Unknown(String),
    /// A setting without a value.
    NoValue(String),
}

/// The settings in the startup parameter `options`: `-c name=value`, `-cname=value` and `--name=value`.
///
/// # Errors
/// What is none of these.
pub fn settings_of_options(options: &str) -> Result<Vec<(String, String)>, BadOption> {
    let mut settings = Vec::new();
    let mut words = split_options(options).into_iter();
    while let Some(word) = words.next() {
        let (prefix, pair) = match (word.strip_prefix("--"), word.strip_prefix("-c")) {
            (Some(pair), _) => ("--", pair.to_owned()),
            (None, Some("")) => ("-c ", words.next().ok_or_else(|| BadOption::NoValue(word.clone()))?),
            (None, Some(pair)) => ("-c ", pair.to_owned()),
            (None, None) => return Err(BadOption::Unknown(word)),
        };
        let Some((name, value)) = pair.split_once('=') else {
            return Err(BadOption::NoValue(format!("{prefix}{pair}")));
        };
        // As Postgres reads them: a dash in the name stands for an underscore.
        settings.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(settings)
}

/// Writes a startup packet of protocol 3.0, which every server speaks.
pub fn write_startup(out: &mut BytesMut, parameters: &[(&str, &str)]) {
    untagged(out, |out| {
        out.put_i32(3 << 16);
        for (name, value) in parameters {
            put_cstr(out, name.as_bytes());
            put_cstr(out, value.as_bytes());
        }
        out.put_u8(0);
    });
}

/// Writes a cancel request.
pub fn write_cancel(out: &mut BytesMut, process_id: u32, key: &[u8]) {
    untagged(out, |out| {
        out.put_i32(CANCEL);
        out.put_u32(process_id);
        out.put_slice(key);
    });
}

/// Writes a request for TLS.
pub fn write_ssl_request(out: &mut BytesMut) {
    untagged(out, |out| out.put_i32(SSL));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(write: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
        let mut out = BytesMut::new();
        write(&mut out);
        out.to_vec()
    }

    #[test]
    fn every_prefix_is_incomplete_and_the_whole_is_read() {
        let packets = [
            packet(|out| write_startup(out, &[("user", "a"), ("database", "b")])),
            packet(|out| write_cancel(out, 7, &[1; 32])),
            packet(write_ssl_request),
        ];
        for bytes in packets {
            for cut in 0..bytes.len() {
                assert_eq!(parse_initial(&bytes[..cut]), Ok(None), "cut at {cut}");
            }
            let mut longer = bytes.clone();
            longer.push(9);
            assert_eq!(parse_initial(&longer).unwrap().unwrap().1, bytes.len());
        }
    }

    #[test]
    fn any_damage_is_an_error_and_never_a_panic() {
        let bytes = packet(|out| write_startup(out, &[("user", "a"), ("database", "b")]));
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                let _ = parse_initial(&damaged);
            }
        }
        assert!(matches!(parse_initial(&[0, 0, 0x27, 0x11, 0, 3, 0, 0]), Err(WireError::TooLong { .. })));
        assert_eq!(parse_initial(&[0, 0, 0, 7, 0, 3, 0]), Err(WireError::Length(7)));
        for key in [3, 257] {
            assert!(parse_initial(&packet(|out| write_cancel(out, 1, &vec![0; key]))).is_err());
        }
    }

    #[test]
    fn versions_are_negotiated() {
        let mut bytes = packet(|out| write_startup(out, &[("user", "a"), ("_pq_.x", "1")]));
        for (minor, spoken, negotiates) in [(0, 0, true), (2, 2, true), (9, 2, true)] {
            bytes[7] = minor;
            let Some((Initial::Startup(startup), _)) = parse_initial(&bytes).unwrap() else { panic!() };
            assert_eq!((startup.minor_spoken(), startup.needs_negotiation()), (spoken, negotiates));
            assert_eq!(startup.get("user"), Some("a"));
        }
        bytes[5] = 2;
        assert!(parse_initial(&bytes).is_err());
    }

    #[test]
    fn options_are_split_as_postgres_does() {
        assert_eq!(
            settings_of_options(r"-c a=b\ c --work-mem=1MB -cx.y=z"),
            Ok(vec![
                ("a".into(), "b c".into()),
                ("work_mem".into(), "1MB".into()),
                ("x.y".into(), "z".into())
            ])
        );
        assert_eq!(settings_of_options("-B 5"), Err(BadOption::Unknown("-B".into())));
        for (options, named) in
            [("-c", "-c"), ("-c a=b -c foo", "-c foo"), ("-cfoo", "-c foo"), ("--foo", "--foo")]
        {
            assert_eq!(settings_of_options(options), Err(BadOption::NoValue(named.into())), "{options}");
        }
    }
}
