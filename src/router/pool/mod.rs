//! Server connections: how many there may be, how they are made, kept, handed on and cleaned.
//!
//! A tenant's connections live on its worker. What all workers share is the budget of each server.

pub(crate) mod budget;
pub(crate) mod connect;
pub(crate) mod connection;
mod opener;
pub(crate) mod reset;
pub(crate) mod waiters;

pub(crate) use budget::Budgets;
pub(crate) use connection::{CancelTarget, Place, ServerConnection};
