//! Server connections: how many there may be, how they are made, kept, handed on and cleaned.
//!
//! A tenant's connections live on its worker. What all workers share is the budget of each server, divided among its
//! tenants as `shares` decides, and the breaker that spares a server which is down.

mod breaker;
pub(crate) mod budget;
pub(crate) mod connect;
pub(crate) mod connection;
mod leave;
mod opener;
pub(crate) mod probe;
pub(crate) mod reset;
mod shares;
pub(crate) mod steward;
pub(crate) mod waiters;

pub(crate) use breaker::Breakers;
pub(crate) use budget::{Budgets, Terms};
pub(crate) use connection::{CancelTarget, Place, ServerConnection};
