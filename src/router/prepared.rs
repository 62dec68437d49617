//! Prepared statements in transaction pooling: each text has one name per tenant, and each connection knows which of
//! them it has.
//!
//! A client's statements live as long as the client keeps them; the tenant's table only finds them again by their text.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::rc::{Rc, Weak};

use crate::state::Deeds;

/// Most statements that a connection has prepared at a time; the one not used for longest gives way.
pub(crate) const PREPARED_PER_CONNECTION_MAX: usize = 200;
/// Names that the router gives begin so.
pub(crate) const NAME_PREFIX: &str = "tenantry_";
/// A name that no statement has.
pub(crate) const NAME_OF_NONE: &str = "tenantry_none";

/// A statement's text, with its types and the name that servers know it by.
#[derive(Debug)]
pub(crate) struct Statement {
    pub(crate) id: u64,
    pub(crate) name: Box<[u8]>,
    pub(crate) text: Box<[u8]>,
    pub(crate) types: Box<[u8]>,
    pub(crate) deeds: Deeds,
}

/// All statements of a tenant that some client or connection has.
#[derive(Debug, Default)]
pub(crate) struct StatementCache {
    hasher: RandomState,
    by_hash: HashMap<u64, Vec<Weak<Statement>>>,
    last_id: u64,
    swept_at: usize,
}

impl StatementCache {
    /// The statement with this text and these types, as they are on the wire.
    pub(crate) fn get(&mut self, text: &[u8], types: &[u8]) -> Rc<Statement> {
        let hash = self.hasher.hash_one((text, types));
        let found = self.by_hash.get(&hash).and_then(|bucket| {
            bucket.iter().filter_map(Weak::upgrade).find(|s| *s.text == *text && *s.types == *types)
        });
        if let Some(statement) = found {
            return statement;
        }
        self.sweep();
        let statement = self.make(text, types);
        self.by_hash.entry(hash).or_default().push(Rc::downgrade(&statement));
        statement
    }

    /// A statement that is not kept, for one client's use of the unnamed one.
    pub(crate) fn make(&mut self, text: &[u8], types: &[u8]) -> Rc<Statement> {
        self.last_id += 1;
        Rc::new(Statement {
            id: self.last_id,
            name: format!("{NAME_PREFIX}{}", self.last_id).into_bytes().into(),
            text: text.into(),
            types: types.into(),
            deeds: Deeds::of(wire::sql::classify_bytes(text)),
        })
    }

    /// Forgets what nobody has any more, each time the table has doubled.
    fn sweep(&mut self) {
        if self.by_hash.len() < 2 * self.swept_at.max(64) {
            return;
        }
        self.by_hash.retain(|_, bucket| {
            bucket.retain(|statement| statement.strong_count() > 0);
            !bucket.is_empty()
        });
        self.swept_at = self.by_hash.len();
    }
}

/// Whether a Parse has been answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Certainty {
    /// It succeeded.
    Sure,
    /// It was sent in this segment of the conversation (up to a Sync or Query), and is not answered yet.
    Sent(u64),
}

#[derive(Debug)]
struct Slot {
    statement: Rc<Statement>,
    certainty: Certainty,
    used_at: u64,
    /// The tenant's count of changed plans when it was prepared: with another one it is prepared anew.
    plans: u64,
    /// The shape of its result, once known.
    shape: Option<u64>,
}

/// The statements that a connection has.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    slots: HashMap<u64, Slot>,
    clock: u64,
}

impl Prepared {
    /// Whether it has the statement with a plan as of now, which counts as a use.
    pub(crate) fn find(&mut self, id: u64, plans: u64) -> Option<Certainty> {
        self.clock += 1;
        let slot = self.slots.get_mut(&id)?;
        slot.used_at = self.clock;
        (slot.plans == plans || slot.certainty != Certainty::Sure).then_some(slot.certainty)
    }

    /// Whether it has the statement, with whatever plan.
    pub(crate) fn has(&self, id: u64) -> bool {
        self.slots.contains_key(&id)
    }

    /// Notes a Parse that is being sent; gives the statement that must be closed to make room.
    pub(crate) fn add(
        &mut self,
        statement: Rc<Statement>,
        segment: u64,
        plans: u64,
    ) -> Option<Rc<Statement>> {
        self.clock += 1;
        let is_full = self.slots.len() >= PREPARED_PER_CONNECTION_MAX && !self.has(statement.id);
        let excess = is_full.then(|| self.oldest()).flatten();
        let excess = excess.and_then(|id| self.slots.remove(&id)).map(|slot| slot.statement);
        let certainty = Certainty::Sent(segment);
        let slot = Slot { certainty, used_at: self.clock, plans, shape: None, statement };
        self.slots.insert(slot.statement.id, slot);
        excess
    }

    /// The shape of a statement's result, if that was learned here.
    pub(crate) fn shape(&self, id: u64) -> Option<u64> {
        self.slots.get(&id)?.shape
    }

    /// Notes the shape of a statement's result.
    pub(crate) fn learn_shape(&mut self, id: u64, shape: u64) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.shape = Some(shape);
        }
    }

    fn oldest(&self) -> Option<u64> {
        let sure = self.slots.iter().filter(|(_, slot)| slot.certainty == Certainty::Sure);
        sure.min_by_key(|(_, slot)| slot.used_at).map(|(id, _)| *id)
    }

    /// Its Parse succeeded.
    pub(crate) fn confirm(&mut self, id: u64) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.certainty = Certainty::Sure;
        }
    }

    /// Its Parse failed or was skipped.
    pub(crate) fn deny(&mut self, id: u64) {
        if self.slots.get(&id).is_some_and(|slot| slot.certainty != Certainty::Sure) {
            self.slots.remove(&id);
        }
    }

    /// Its Close was skipped: it is still there.
    pub(crate) fn restore(&mut self, statement: Rc<Statement>) {
        // With a plan of which nothing is known, so it is prepared anew before its next use.
        let slot = Slot { certainty: Certainty::Sure, used_at: 0, plans: u64::MAX, shape: None, statement };
        self.slots.entry(slot.statement.id).or_insert(slot);
    }

    /// They are all gone.
    pub(crate) fn clear(&mut self) {
        self.slots.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_text_and_types_are_the_same_statement_while_somebody_has_it() {
        let mut cache = StatementCache::default();
        let a = cache.get(b"select $1", b"\0\0");
        assert!(Rc::ptr_eq(&a, &cache.get(b"select $1", b"\0\0")));
        assert_ne!(a.id, cache.get(b"select $1", b"\0\x01\0\0\0\x17").id);
        let id = a.id;
        drop(a);
        assert_ne!(cache.get(b"select $1", b"\0\0").id, id);
    }

    #[test]
    fn the_table_does_not_grow_with_statements_that_nobody_has() {
        let mut cache = StatementCache::default();
        for i in 0..10_000 {
            cache.get(format!("select {i}").as_bytes(), b"\0\0");
        }
        assert!(cache.by_hash.len() < 200);
    }

    #[test]
    fn the_statement_not_used_for_longest_gives_way() {
        let mut cache = StatementCache::default();
        let mut prepared = Prepared::default();
        let all: Vec<_> =
            (0..=PREPARED_PER_CONNECTION_MAX).map(|i| cache.get(i.to_string().as_bytes(), b"\0\0")).collect();
        for statement in &all[..PREPARED_PER_CONNECTION_MAX] {
            assert!(prepared.add(statement.clone(), 1, 0).is_none());
            prepared.confirm(statement.id);
        }
        prepared.find(all[0].id, 0);
        let gone = prepared.add(all[PREPARED_PER_CONNECTION_MAX].clone(), 1, 0).unwrap();
        assert_eq!(gone.id, all[1].id);
        prepared.deny(all[PREPARED_PER_CONNECTION_MAX].id);
        assert_eq!(prepared.find(all[PREPARED_PER_CONNECTION_MAX].id, 0), None);
        prepared.deny(all[0].id);
        assert_eq!(prepared.find(all[0].id, 0), Some(Certainty::Sure), "what is sure stays");
    }
}
