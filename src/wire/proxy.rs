//! The PROXY protocol, version 2: by it a proxy in front tells whose connection it passes on.
//!
//! <https://www.haproxy.org/download/1.8/doc/proxy-protocol.txt>. Only addresses are read, of what follows them (TLVs)
//! nothing. Version 1, which is text of unknown length, is not spoken.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::frame::WireError;

/// With what every header begins.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes before the addresses.
const FIXED_BYTES: usize = 16;
/// Longest header: addresses, and a few kilobytes of what a proxy may add.
const HEADER_BYTES_MAX: usize = 4096;

/// What a proxy tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The connection is the proxy's own, as for a health check.
    Proxy,
    /// The connection comes from here.
    Client(IpAddr),
}

/// Reads a header and says how long it was; `None` when it is not all there yet.
///
/// # Errors
/// [`WireError`] when it is none, or of another version, or for no address of the internet.
pub fn parse(bytes: &[u8]) -> Result<Option<(Origin, usize)>, WireError> {
    let malformed = WireError::Malformed("PROXY protocol");
    let begun = bytes.len().min(SIGNATURE.len());
    if bytes[..begun] != SIGNATURE[..begun] {
        return Err(malformed);
    }
    let Some([version_and_command, family, high, low]) =
        bytes.get(SIGNATURE.len()..).and_then(<[u8]>::first_chunk)
    else {
        return Ok(None);
    };
    let total = FIXED_BYTES + usize::from(u16::from_be_bytes([*high, *low]));
    if total > HEADER_BYTES_MAX {
        return Err(WireError::TooLong { length: total, max: HEADER_BYTES_MAX });
    }
    let Some(addresses) = bytes.get(FIXED_BYTES..total) else {
        return Ok(None);
    };
    // The source's address comes first.
    let origin = match (version_and_command, family) {
        (0x20, _) => Origin::Proxy,
        (0x21, 0x11) => Origin::Client(source::<4, 12, Ipv4Addr>(addresses).ok_or(malformed)?),
        (0x21, 0x21) => Origin::Client(source::<16, 36, Ipv6Addr>(addresses).ok_or(malformed)?),
        _ => return Err(malformed),
    };
    Ok(Some((origin, total)))
}

/// The first address of two, which take `BOTH` bytes with their ports.
fn source<const ONE: usize, const BOTH: usize, A: From<[u8; ONE]> + Into<IpAddr>>(
    addresses: &[u8],
) -> Option<IpAddr> {
    let both = addresses.first_chunk::<BOTH>()?;
    both.first_chunk::<ONE>().map(|octets| A::from(*octets).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let length = (addresses.len() as u16).to_be_bytes();
        [SIGNATURE.as_slice(), &[command, family], &length, addresses].concat()
    }

    #[test]
    fn the_source_is_read_and_the_rest_is_passed_over() {
        let v4 = [10, 0, 0, 7, 10, 0, 0, 1, 0x30, 0x39, 0x15, 0x38];
        let with_more = [&v4[..], &[3, 0, 4, 1, 2, 3, 4]].concat();
        for addresses in [&v4[..], &with_more] {
            let bytes = header(0x21, 0x11, addresses);
            for cut in 0..bytes.len() {
                assert_eq!(parse(&bytes[..cut]), Ok(None), "cut at {cut}");
            }
            let client = Origin::Client(IpAddr::from([10, 0, 0, 7]));
            let followed = [&bytes[..], b"more"].concat();
            assert_eq!(parse(&followed), Ok(Some((client, bytes.len()))));
        }
        let mut v6 = [0; 36];
        v6[15] = 1;
        let bytes = header(0x21, 0x21, &v6);
        assert_eq!(parse(&bytes).unwrap().unwrap().0, Origin::Client("::1".parse().unwrap()));
        assert_eq!(parse(&header(0x20, 0, &[])).unwrap().unwrap().0, Origin::Proxy);
    }

    #[test]
    fn what_is_no_header_is_an_error() {
        let startup = [0, 0, 0, 8, 4, 210, 22, 47];
        assert!(parse(&startup).is_err());
        assert!(parse(b"PROXY TCP4 10.0.0.7 10.0.0.1 12345 5432\r\n").is_err());
        for bytes in [
            header(0x11, 0x11, &[0; 12]),
            header(0x22, 0x11, &[0; 12]),
            header(0x21, 0x12, &[0; 12]),
            header(0x21, 0x31, &[0; 216]),
            header(0x21, 0x11, &[0; 11]),
            header(0x21, 0x21, &[0; 35]),
            header(0x21, 0x11, &[0; HEADER_BYTES_MAX]),
        ] {
            assert!(parse(&bytes).is_err(), "{:?}", &bytes[12..16]);
        }
    }
}
