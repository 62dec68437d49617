//! Prepared statements in transaction pooling: each text has one name per tenant, and each connection knows which of
//! them it has.
//!
//! A client's statements live as long as the client keeps them; the tenant's table only finds them again by their text.
//! What clients hold together is counted, each text once; what a connection holds beside that is bounded by itself.

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::ops::Deref;
use std::rc::{Rc, Weak};

use lru::LruCache;

use crate::state::Deeds;

/// Most bytes of texts that a connection has prepared at a time, beside their number.
const BYTES_PER_CONNECTION_MAX: usize = 4 << 20;
/// What a statement takes beside its text.
const BYTES_PER_STATEMENT: usize = 256;
/// Names that the router gives begin so.
pub(crate) const NAME_PREFIX: &str = "tenantry_";
/// A name that no statement has.
pub(crate) const NAME_OF_NONE: &str = "tenantry_none";
/// Stands in for a text that names what only the router names: there is no such statement, and the server says so.
pub(crate) const REFUSED_TEXT: &[u8] = b"DEALLOCATE tenantry_names_are_reserved";

/// A statement's text, with its types and the name that servers know it by.
#[derive(Debug)]
pub(crate) struct Statement {
    pub(crate) id: u64,
    pub(crate) name: Box<[u8]>,
    pub(crate) text: Box<[u8]>,
    pub(crate) types: Box<[u8]>,
    /// The number for the settings under which its text is read.
    reading: u64,
    pub(crate) deeds: Deeds,
    /// Clients' names for it, and clients that have it without one.
    holders: Cell<usize>,
    /// Bytes of all statements that some client of the tenant holds.
    held_bytes: Rc<Cell<usize>>,
}

impl Statement {
    fn bytes(&self) -> usize {
        BYTES_PER_STATEMENT + self.text.len() + self.types.len()
    }

    /// Whether it has this text and these types, read under the settings with this number.
    pub(crate) fn is(&self, text: &[u8], types: &[u8], reading: u64) -> bool {
        *self.text == *text && *self.types == *types && self.reading == reading
    }

    /// Whether its text was one that no client may run.
    pub(crate) fn is_refused(&self) -> bool {
        *self.text == *REFUSED_TEXT
    }
}

/// A statement that a client has, under a name of its own or none.
#[derive(Debug)]
pub(crate) struct Held(Rc<Statement>);

impl Held {
    pub(crate) fn new(statement: Rc<Statement>) -> Self {
        if statement.holders.replace(statement.holders.get() + 1) == 0 {
            statement.held_bytes.set(statement.held_bytes.get() + statement.bytes());
        }
        Self(statement)
    }

    pub(crate) fn shared(&self) -> Rc<Statement> {
        self.0.clone()
    }
}

impl Deref for Held {
    type Target = Statement;

    fn deref(&self) -> &Statement {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let statement = &self.0;
        if statement.holders.replace(statement.holders.get() - 1) == 1 {
            statement.held_bytes.set(statement.held_bytes.get() - statement.bytes());
        }
    }
}

/// All statements of a tenant that some client or connection has.
#[derive(Debug, Default)]
pub(crate) struct StatementCache {
    hasher: RandomState,
    by_hash: HashMap<u64, Vec<Weak<Statement>>>,
    last_id: u64,
    swept_at: usize,
    held_bytes: Rc<Cell<usize>>,
}

impl StatementCache {
    /// The statement with this text and these types, as they are on the wire, read under the settings with this number.
    pub(crate) fn get(&mut self, text: &[u8], types: &[u8], reading: u64) -> Rc<Statement> {
        let hash = self.hasher.hash_one((text, types, reading));
        let found = self.by_hash.get(&hash).and_then(|bucket| {
            bucket.iter().filter_map(Weak::upgrade).find(|known| known.is(text, types, reading))
        });
        if let Some(statement) = found {
            return statement;
        }
        self.sweep();
        let statement = self.make(text, types, reading);
        let bucket = self.by_hash.entry(hash).or_default();
        bucket.retain(|statement| statement.strong_count() > 0);
        if !statement.is_refused() {
            bucket.push(Rc::downgrade(&statement));
        }
        statement
    }

    /// A statement that is not kept, for one client's use of the unnamed one.
    pub(crate) fn make(&mut self, text: &[u8], types: &[u8], reading: u64) -> Rc<Statement> {
        self.last_id += 1;
        let deeds = Deeds::of(wire::sql::classify_bytes(text));
        let (text, deeds) =
            if deeds.names_reserved() { (REFUSED_TEXT, Deeds::default()) } else { (text, deeds) };
        Rc::new(Statement {
            id: self.last_id,
            name: format!("{NAME_PREFIX}{}", self.last_id).into_bytes().into(),
            text: text.into(),
            types: types.into(),
            reading,
            deeds,
            holders: Cell::new(0),
            held_bytes: self.held_bytes.clone(),
        })
    }

    /// Whether what clients hold stays within these bytes when one more of them holds this.
    pub(crate) fn has_room_for(&self, statement: &Statement, bytes_max: usize) -> bool {
        statement.holders.get() > 0 || self.held_bytes.get() + statement.bytes() <= bytes_max
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
    /// The tenant's count of changed plans when it was prepared: with another one it is prepared anew.
    plans: u64,
    /// The shape of its result, once known.
    shape: Option<u64>,
}

/// The statements that a connection has, by their ids; the last used first.
#[derive(Debug)]
pub(crate) struct Prepared {
    slots: LruCache<u64, Slot>,
    bytes: usize,
}

impl Default for Prepared {
    fn default() -> Self {
        Self { slots: LruCache::unbounded(), bytes: 0 }
    }
}

impl Prepared {
    /// Whether it has the statement with a plan as of now, which counts as a use.
    pub(crate) fn find(&mut self, id: u64, plans: u64) -> Option<Certainty> {
        let slot = self.slots.get(&id)?;
        (slot.plans == plans || slot.certainty != Certainty::Sure).then_some(slot.certainty)
    }

    /// Whether it has the statement, with whatever plan.
    pub(crate) fn has(&self, id: u64) -> bool {
        self.slots.contains(&id)
    }

    /// Notes a Parse that is being sent.
    pub(crate) fn add(&mut self, statement: Rc<Statement>, segment: u64, plans: u64) {
        self.put(Slot { certainty: Certainty::Sent(segment), plans, shape: None, statement });
    }

    /// The shape of a statement's result, if that was learned here.
    pub(crate) fn shape(&self, id: u64) -> Option<u64> {
        self.slots.peek(&id)?.shape
    }

    /// Notes the shape of a statement's result.
    pub(crate) fn learn_shape(&mut self, id: u64, shape: u64) {
        if let Some(slot) = self.slots.peek_mut(&id) {
            slot.shape = Some(shape);
        }
    }

    fn put(&mut self, slot: Slot) {
        self.bytes += slot.statement.bytes();
        if let Some(before) = self.slots.put(slot.statement.id, slot) {
            self.bytes -= before.statement.bytes();
        }
    }

    fn remove(&mut self, id: u64) -> Option<Rc<Statement>> {
        let slot = self.slots.pop(&id)?;
        self.bytes -= slot.statement.bytes();
        Some(slot.statement)
    }

    /// A statement that must be closed, so that there are no more than so many.
    pub(crate) fn take_excess(&mut self, max: usize) -> Option<Rc<Statement>> {
        if self.slots.len() <= max && self.bytes <= BYTES_PER_CONNECTION_MAX {
            return None;
        }
        let sure = |slot: &Slot| slot.certainty == Certainty::Sure;
        let oldest = self.slots.iter().rev().find(|(_, slot)| sure(slot)).map(|(id, _)| *id)?;
        self.remove(oldest)
    }

    /// Its Parse succeeded.
    pub(crate) fn confirm(&mut self, id: u64) {
        if let Some(slot) = self.slots.peek_mut(&id) {
            slot.certainty = Certainty::Sure;
        }
    }

    /// Its Parse failed or was skipped.
    pub(crate) fn deny(&mut self, id: u64) {
        if self.slots.peek(&id).is_some_and(|slot| slot.certainty != Certainty::Sure) {
            self.remove(id);
        }
    }

    /// Its Close was skipped: it is still there.
    pub(crate) fn restore(&mut self, statement: Rc<Statement>) {
        if !self.has(statement.id) {
            // With a plan of which nothing is known, so it is prepared anew before its next use.
            self.put(Slot { certainty: Certainty::Sure, plans: u64::MAX, shape: None, statement });
        }
    }

    /// They are all gone.
    pub(crate) fn clear(&mut self) {
        self.slots.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_text_and_types_are_the_same_statement_while_somebody_has_it() {
        let mut cache = StatementCache::default();
        let a = cache.get(b"select $1", b"\0\0", 0);
        assert!(Rc::ptr_eq(&a, &cache.get(b"select $1", b"\0\0", 0)));
        assert_ne!(a.id, cache.get(b"select $1", b"\0\x01\0\0\0\x17", 0).id);
        assert_ne!(
            a.id,
            cache.get(b"select $1", b"\0\0", 1).id,
            "under other settings it may mean something else"
        );
        let id = a.id;
        drop(a);
        assert_ne!(cache.get(b"select $1", b"\0\0", 0).id, id);
    }

    #[test]
    fn the_table_does_not_grow_with_statements_that_nobody_has() {
        let mut cache = StatementCache::default();
        for i in 0..10_000 {
            cache.get(format!("select {i}").as_bytes(), b"\0\0", 0);
        }
        assert!(cache.by_hash.len() < 200);
    }

    #[test]
    fn a_statement_that_nobody_has_leaves_no_trace_when_it_comes_again() {
        let mut cache = StatementCache::default();
        for _ in 0..100 {
            cache.get(b"select 1", b"\0\0", 0);
        }
        assert!(cache.by_hash.values().all(|bucket| bucket.len() == 1));
    }

    #[test]
    fn each_text_counts_once_while_somebody_holds_it() {
        let mut cache = StatementCache::default();
        let (a, b) = (cache.get(b"select 1", b"\0\0", 0), cache.get(b"select 2", b"\0\0", 0));
        let max = a.bytes();
        assert!(cache.has_room_for(&a, max));
        let held = [Held::new(a.clone()), Held::new(a.clone())];
        assert!(cache.has_room_for(&a, max) && !cache.has_room_for(&b, max));
        drop(held);
        assert!(cache.has_room_for(&b, max));
        assert_eq!(cache.held_bytes.get(), 0);
    }

    fn full(
        cache: &mut StatementCache,
        texts: impl Iterator<Item = String>,
    ) -> (Prepared, Vec<Rc<Statement>>) {
        let mut prepared = Prepared::default();
        let all: Vec<_> = texts.map(|text| cache.get(text.as_bytes(), b"\0\0", 0)).collect();
        for statement in &all {
            prepared.add(statement.clone(), 1, 0);
            prepared.confirm(statement.id);
        }
        (prepared, all)
    }

    #[test]
    fn the_statement_not_used_for_longest_gives_way() {
        const MAX: usize = 200;
        let mut cache = StatementCache::default();
        let (mut prepared, all) = full(&mut cache, (0..MAX).map(|i| i.to_string()));
        assert!(prepared.take_excess(MAX).is_none());
        prepared.find(all[0].id, 0);
        let last = cache.get(b"last", b"\0\0", 0);
        prepared.add(last.clone(), 1, 0);
        assert_eq!(prepared.take_excess(MAX).unwrap().id, all[1].id);
        assert!(prepared.take_excess(MAX).is_none());
        prepared.deny(last.id);
        assert_eq!(prepared.find(last.id, 0), None);
        prepared.deny(all[0].id);
        assert_eq!(prepared.find(all[0].id, 0), Some(Certainty::Sure), "what is sure stays");
    }

    #[test]
    fn long_texts_give_way_before_there_are_many() {
        let mut cache = StatementCache::default();
        let texts = (0..6).map(|i| format!("{i}{}", " ".repeat(1 << 20)));
        let (mut prepared, all) = full(&mut cache, texts);
        let gone: Vec<_> = std::iter::from_fn(|| prepared.take_excess(200)).map(|gone| gone.id).collect();
        assert_eq!(gone, all[..3].iter().map(|statement| statement.id).collect::<Vec<_>>());
        prepared.restore(all[0].clone());
        assert_eq!(prepared.take_excess(200).unwrap().id, all[3].id);
    }
}
