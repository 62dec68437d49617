//! How many clients there are: in all, of each tenant and user, from each address.
//!
//! One lock for all of it, taken when a client comes and when it goes.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use shard_map::TenantId;

use crate::config::RouterConfig;
use crate::error::ClientError;
use crate::session::Login;

/// The places of a router.
#[derive(Default)]
pub(crate) struct Places(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    all: usize,
    tenants: HashMap<TenantId, usize>,
    users: HashMap<String, usize>,
    addresses: HashMap<IpAddr, usize>,
}

/// A client's place, free again when dropped.
pub(crate) struct Place {
    places: Arc<Places>,
    tenant: TenantId,
    user: String,
    address: IpAddr,
}

impl Place {
    /// Where the client is.
    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }
}

impl Places {
    /// Whether there may be a place for who comes from this address: to refuse early what will be refused anyway.
    pub(crate) fn expect(&self, config: &RouterConfig, address: IpAddr) -> Result<(), ClientError> {
        self.counts(|counts| counts.room(config, address))
    }

    /// Takes a place for a client.
    pub(crate) fn take(
        self: &Arc<Self>,
        config: &RouterConfig,
        login: &Login,
        address: IpAddr,
    ) -> Result<Place, ClientError> {
        self.counts(|counts| counts.take(config, login, address))?;
        Ok(Place { places: self.clone(), tenant: login.tenant.clone(), user: login.user.clone(), address })
    }

    /// Whether there is no client, on whichever worker.
    pub(crate) fn all_are_free(&self) -> bool {
        self.counts(|counts| counts.all == 0)
    }

    fn counts<T>(&self, with: impl FnOnce(&mut Counts) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Counts {
    fn take(&mut self, config: &RouterConfig, login: &Login, address: IpAddr) -> Result<(), ClientError> {
        self.room(config, address)?;
        let of_tenant = self.tenants.get(&login.tenant).copied().unwrap_or(0);
        within(of_tenant, config.clients_per_tenant_max, "clients_per_tenant_max", " of this tenant")?;
        let of_user = self.users.get(&login.user).copied().unwrap_or(0);
        within(of_user, config.clients_per_user_max, "clients_per_user_max", " of this user")?;
        self.all += 1;
        *self.tenants.entry(login.tenant.clone()).or_default() += 1;
        *self.users.entry(login.user.clone()).or_default() += 1;
        *self.addresses.entry(network(address)).or_default() += 1;
        Ok(())
    }

    fn room(&self, config: &RouterConfig, address: IpAddr) -> Result<(), ClientError> {
        within(self.all, config.clients_max, "clients_max", "")?;
        let from_address = self.addresses.get(&network(address)).copied().unwrap_or(0);
        let max = config.clients_per_address_max;
        within(from_address, max, "clients_per_address_max", " from this address")
    }
}

/// What counts as one address: of IPv6, all that a host can choose from.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Whether there is room for one more; 0 is no limit.
fn within(count: usize, max: usize, key: &'static str, whose: &'static str) -> Result<(), ClientError> {
    if max == 0 || count < max { Ok(()) } else { Err(ClientError::TooManyClients { key, whose, max }) }
}

fn one_less<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.counts(|counts| {
            counts.all -= 1;
            one_less(&mut counts.tenants, &self.tenant);
            one_less(&mut counts.users, &self.user);
            one_less(&mut counts.addresses, &network(self.address));
        });
    }
}

#[cfg(test)]
mod tests {
    use shard_map::{Access, PoolMode};

    use super::*;

    fn login(user: &str, tenant: &str) -> Login {
        Login {
            user: user.to_owned(),
            tenant: TenantId::new(tenant).unwrap(),
            access: Access::App,
            pool_mode: PoolMode::Transaction,
            settings: Vec::new(),
            minor: 0,
        }
    }

    #[test]
    fn each_limit_counts_its_own_and_forgets_who_left() {
        let places = Arc::new(Places::default());
        let config = RouterConfig {
            clients_max: 4,
            clients_per_tenant_max: 3,
            clients_per_user_max: 2,
            clients_per_address_max: 1,
            ..RouterConfig::default()
        };
        let take = |user, tenant, host: u8| {
            let address = IpAddr::from([10, 0, 0, host]);
            places.take(&config, &login(user, tenant), address).map_err(|error| error.limit().unwrap())
        };
        let first = take("ann", "acme", 1).unwrap();
        assert_eq!(take("ann", "acme", 1).err(), Some("clients_per_address_max"));
        let _second = take("ann", "acme", 2).unwrap();
        assert_eq!(take("ann", "acme", 3).err(), Some("clients_per_user_max"));
        let _third = take("bob", "acme", 3).unwrap();
        assert_eq!(take("bob", "acme", 4).err(), Some("clients_per_tenant_max"));
        let _fourth = take("bob", "other", 4).unwrap();
        assert_eq!(take("eve", "third", 5).err(), Some("clients_max"));
        drop(first);
        drop(take("ann", "acme", 1).unwrap());
    }

    #[test]
    fn a_host_of_ipv6_is_one_address_whichever_of_its_own_it_uses() {
        let places = Arc::new(Places::default());
        let config = RouterConfig { clients_per_address_max: 1, ..RouterConfig::default() };
        let take = |address: &str| places.take(&config, &login("ann", "acme"), address.parse().unwrap());
        let first = take("2001:db8::1").unwrap();
        assert!(take("2001:db8::ffff:1").is_err() && take("2001:db8:0:1::1").is_ok());
        drop(first);
        drop(take("2001:db8::2").unwrap());
        assert_eq!(network("::ffff:10.0.0.1".parse().unwrap()), IpAddr::from([10, 0, 0, 1]));
    }
}
