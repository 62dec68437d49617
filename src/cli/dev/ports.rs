//! Ports: taken ones are found before anything is started, free ones when nobody asked for certain ones.

use std::net::{Ipv4Addr, TcpListener};

use crate::cli::failure::Failure;

/// Ports tried in a row when looking for free ones.
const TRIES: u16 = 200;

/// Whether a port is free on this machine's loopback address.
fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Fails when one of these ports is in use, or two parts want the same.
pub(crate) fn check(wanted: &[(u16, &str, &str)]) -> Result<(), Failure> {
    for (i, (port, part, flag)) in wanted.iter().enumerate() {
        if let Some((_, other, _)) = wanted[..i].iter().find(|(taken, ..)| taken == port) {
            return Err(Failure::usage(format!("port {port} is wanted for both {other} and {part}"))
                .hint(format!("give another port with {flag}")));
        }
    }
    for (port, part, flag) in wanted {
        if !is_free(*port) {
            return Err(Failure::failed(format!("port {port} ({part}) is in use"))
                .hint(format!("stop what uses it, or give another port with {flag}")));
        }
    }
    Ok(())
}

/// A free port: this one, or the next that is free and not among those spoken for.
pub(crate) fn free_from(first: u16, spoken_for: &[u16]) -> Option<u16> {
    (first..=u16::MAX).take(usize::from(TRIES)).find(|port| !spoken_for.contains(port) && is_free(*port))
}

/// The first of so many free ports in a row.
pub(crate) fn free_row(length: u16) -> Option<u16> {
    // Somewhere below the range from which the kernel takes the ports of outgoing connections.
    let start = 12_000 + rand::random::<u16>() % 15_000;
    (0..TRIES)
        .filter_map(|i| start.checked_add(i * length))
        .find(|first| (0..length).all(|i| first.checked_add(i).is_some_and(is_free)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_named_with_its_part_and_flag() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let failure = check(&[(port, "router", "--router-port")]).unwrap_err();
        assert_eq!(failure.message, format!("port {port} (router) is in use"));
        assert!(failure.hint.unwrap().contains("--router-port"));
        assert_ne!(free_from(port, &[]), Some(port));
    }

    #[test]
    fn two_parts_cannot_share_a_port() {
        let first = free_row(3).unwrap();
        let wanted = [(first, "router", "--router-port"), (first, "api", "--api-port")];
        assert!(check(&wanted).unwrap_err().message.contains("both router and api"));
    }
}
