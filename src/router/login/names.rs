//! Which user a client says that it is, and which tenant it wants.
//!
//! The tenant is named by the first of: the startup option `tenant`, the user's name (`user.tenant`), the host name of
//! the TLS handshake (`tenant.DOMAIN`), the database.

use shard_map::User;
use wire::startup::Startup;

use super::Unfinished;
use super::talk::Talk;
use crate::error::ClientError;
use crate::shared::Shared;

/// A user, and the tenant that it asks for.
pub(super) struct Names {
    pub(super) user_name: String,
    pub(super) user: Option<User>,
    pub(super) tenant: String,
}

/// Finds them; `option` is the startup option `tenant`.
pub(super) fn names(
    startup: &Startup,
    option: Option<&str>,
    talk: &Talk,
    shared: &Shared,
) -> Result<Names, Unfinished> {
    let given = startup.get("user").filter(|user| !user.is_empty()).ok_or(ClientError::NoUser)?;
    let config = shared.config();
    let host = talk.stream.channel().and_then(crate::tls::Channel::server_name);
    let host = host.zip(config.tls_sni_domain.as_deref()).and_then(|(host, domain)| below(host, domain));
    let map = shared.map.read();
    // `user.tenant`, unless there is a user of just that name.
    let (user_name, in_user) = match given.rsplit_once('.') {
        Some((user, tenant)) if !map.users.contains_key(given) => (user, Some(tenant)),
        _ => (given, None),
    };
    let database = startup.get("database").filter(|database| !database.is_empty());
    let tenant = option.or(in_user).or(host).or(database).unwrap_or(given);
    Ok(Names {
        user_name: user_name.to_owned(),
        user: map.users.get(user_name).cloned(),
        tenant: tenant.to_owned(),
    })
}

/// The part of a host's name that stands before the domain.
fn below<'a>(host: &'a str, domain: &str) -> Option<&'a str> {
    let at = host.len().checked_sub(domain.len())?;
    let (name, found) = (host.get(..at)?, host.get(at..)?);
    found
        .eq_ignore_ascii_case(domain)
        .then(|| name.strip_suffix('.'))
        .flatten()
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_below_the_domain_names_a_tenant() {
        assert_eq!(below("acme.db.example.com", "db.example.com"), Some("acme"));
        assert_eq!(below("acme.DB.example.com", "db.example.com"), Some("acme"));
        for host in
            ["db.example.com", ".db.example.com", "acmedb.example.com", "example.com", "", "dé.example"]
        {
            assert_eq!(below(host, "db.example.com"), None, "{host}");
        }
    }
}
