//! What takes writes for a server beside the one of the map.

use catalog::{AddressState, ServerAddress, ServerRow};

use super::diagnosis::Part;

/// Judges the further addresses of one server.
pub(super) fn judge(part: &mut Part, row: &ServerRow, addresses: &[ServerAddress]) {
    let server = &row.server;
    let here = |address: &&ServerAddress| (&address.host, address.port) == (&server.host, server.port);
    let of_it = addresses.iter().filter(|address| address.server == server.name && !here(address));
    for address in of_it {
        let (at, detail) = (format!("{}:{}", address.host, address.port), &address.detail);
        let follow = format!("make it a standby of {} (pg_rewind or pg_basebackup)", server.address());
        match address.state {
            AddressState::Open => part.error(
                format!("two hosts take writes; the older one, at {at}, is not used, and not closed in full: {detail}"),
                format!("stop it, and {follow}"),
            ),
            AddressState::Closed => part.warning(
                format!("two hosts take writes; the older one, at {at}, is not used: its tenants' databases take nobody"),
                follow,
            ),
            AddressState::Rival => part.error(
                format!("two hosts take writes, and the one at {at} is not used: {detail}"),
                format!("see which has the tenants' writes; if it is {at}: tenantry server failover {} --to postgres://{at}/postgres; else {follow}", server.name),
            ),
            AddressState::Another => part.warning(
                format!("at {at}, one of its hosts, another Postgres cluster answers"),
                format!("name its hosts anew: tenantry server add {} --url", server.name),
            ),
            AddressState::Unseen | AddressState::Serving | AddressState::Standby => {}
        }
    }
}
