//! A connection to a server, and everything that is known of its state.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;

use shard_map::{Access, Server, ServerName};
use wire::backend::tag;

use crate::clock::Clock;
use crate::metrics::local::ServerMetrics;
use crate::pool::breaker::Breaker;
use crate::pool::budget::{Budget, Permit};
use crate::pool::leave::leave;
use crate::pool::shares::Offer;
use crate::prepared::Prepared;
use crate::relay::{Buffers, Side};
use crate::state::{Params, Settings, note_parameter};
use crate::tenant::Tenant;
use crate::tls::Servers;

/// Where a tenant is: as the map said when the tenant was last looked up.
pub(crate) struct Place {
    pub(crate) server: Server,
    pub(crate) key_version: i32,
    pub(crate) budget: Arc<Budget>,
    pub(crate) breaker: Arc<Breaker>,
    pub(crate) metrics: Rc<ServerMetrics>,
}

impl Place {
    /// Whether connections to the one are connections to the other.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.key_version == other.key_version
            && self.server.name == other.server.name
            && self.server.host == other.server.host
            && self.server.port == other.server.port
    }

    /// Whether this is the same server at another address: the other one is not used any more.
    pub(crate) fn has_left(&self, other: &Self) -> bool {
        self.server.name == other.server.name
            && (self.server.port != other.server.port || self.server.host != other.server.host)
    }
}

/// What it takes to cancel what a connection is running.
pub(crate) struct CancelTarget {
    /// What is shown of the connection to an administrator.
    pub(crate) server: ServerName,
    pub(crate) access: Access,
    pub(crate) since: Instant,
    pub(crate) address: SocketAddr,
    /// The server's name, for which its certificate must be.
    pub(crate) host: String,
    /// For a request by TLS, as the connection is.
    pub(crate) tls: Option<Arc<Servers>>,
    pub(crate) process_id: u32,
    pub(crate) key: Box<[u8]>,
    /// The client that has the connection, or had it last.
    pub(crate) holder: Cell<u32>,
    /// Requests under way. While there is one, the connection must not go to another client, who would be hit.
    pub(crate) under_way: Cell<u32>,
    /// Whether a request that was sent may still arrive: the connection never goes to another client then.
    pub(crate) spoiled: Cell<bool>,
}

/// Counts a connection with its tenant and server for as long as it lives.
pub(crate) struct Slot {
    tenant: Weak<Tenant>,
    metrics: Rc<ServerMetrics>,
    idle: Cell<bool>,
}

impl Slot {
    pub(crate) fn new(tenant: &Rc<Tenant>, metrics: Rc<ServerMetrics>) -> Self {
        tenant.open.set(tenant.open.get() + 1);
        metrics.active.inc();
        Self { tenant: Rc::downgrade(tenant), metrics, idle: Cell::new(false) }
    }

    fn set_idle(&self, idle: bool) {
        if self.idle.replace(idle) != idle {
            let (from, to) = if idle {
                (&self.metrics.active, &self.metrics.idle)
            } else {
                (&self.metrics.idle, &self.metrics.active)
            };
            from.dec();
            to.inc();
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.set_idle(false);
        self.metrics.active.dec();
        if let Some(tenant) = self.tenant.upgrade() {
            tenant.open.set(tenant.open.get() - 1);
        }
    }
}

/// A connection to a server, logged in.
pub(crate) struct ServerConnection {
    pub(crate) side: Side,
    pub(crate) access: Access,
    pub(crate) place: Rc<Place>,
    pub(crate) generation: u64,
    pub(crate) cancel: Rc<CancelTarget>,
    pub(crate) prepared: Prepared,
    /// Settings made since it was opened.
    pub(crate) applied: Rc<Settings>,
    pub(crate) params: Rc<Params>,
    /// The unnamed statement that it has: 0 for none.
    pub(crate) unnamed: u64,
    pub(crate) idle_since: Instant,
    pub(crate) opened: Instant,
    pub(crate) slot: Slot,
    pub(crate) permit: Permit,
}

impl ServerConnection {
    /// Notes that it is in use, or not.
    pub(crate) fn set_idle(&mut self, idle: bool, clock: &Clock) {
        self.slot.set_idle(idle);
        if idle {
            self.idle_since = clock.now();
        }
    }

    /// Whether it can be used, having been left alone for a while: looks at what the server said meanwhile.
    pub(crate) fn is_alive(&mut self, buffers: &Buffers) -> bool {
        loop {
            match self.side.take_arrived(buffers) {
                Ok(0) => break,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
        // A reload of the server's configuration may report parameters; anything else is the end of it.
        while let Ok(Some(header)) = wire::header(&self.side.input, 64 * 1024) {
            if self.side.input.len() < header.total() {
                return false;
            }
            let message = self.side.input.split_to(header.total());
            match header.tag {
                tag::NOTICE => {}
                tag::PARAMETER_STATUS => {
                    if let Ok((name, value)) = wire::backend::parameter_status(&message[5..]) {
                        note_parameter(&mut self.params, name, value);
                    }
                }
                _ => return false,
            }
        }
        let alive = self.side.input.is_empty();
        self.side.input.clear();
        self.side.rest(buffers);
        alive
    }

    /// Whether it must be closed now for another tenant that waits; `useful` if a waiter of this one could use it.
    #[inline]
    pub(crate) fn gives_way(&mut self, useful: impl FnOnce(Access) -> bool) -> bool {
        self.permit.budget().is_wanted() && self.offer(useful(self.access))
    }

    #[cold]
    fn offer(&mut self, useful: bool) -> bool {
        self.permit.offer(Offer { had: self.opened.elapsed(), idle: None, useful })
    }

    /// Whose it is; a tenant that is gone was the worker's to the end.
    pub(crate) fn tenant(&self) -> Option<Rc<Tenant>> {
        self.slot.tenant.upgrade()
    }

    /// Leaves the server.
    pub(crate) fn close(self: Box<Self>) {
        if let Some(tenant) = self.tenant() {
            leave(&tenant.worker, self.side, self.permit);
        }
    }
}
