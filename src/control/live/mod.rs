//! What goes on, told to whoever watches: servers, moves and migration runs, as they change.
//!
//! However many watch, the catalog and the servers are asked once: by a look now and then that goes on only while somebody
//! watches. Watchers get the last that is known at once, then what changes. One that does not take its news is dropped,
//! and may come back; nothing waits for it. Any instance tells, whether it leads or not.

mod fleet;
mod look;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc};

pub(crate) use look::watch;

/// Who may watch at once.
pub(crate) const WATCHERS_MAX: usize = 64;
/// News that a watcher may leave untaken before it is dropped.
const UNTAKEN_MAX: usize = 256;

/// Something that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct News {
    /// What kind of thing: `fleet`, `move`, `migration`, `trouble`.
    pub(crate) topic: &'static str,
    /// It as it is now, JSON.
    pub(crate) text: String,
}

/// Who watches, and what they were told last.
#[derive(Default)]
pub(crate) struct Live {
    state: Mutex<State>,
    /// Tells the look that somebody watches.
    came: Notify,
}

#[derive(Default)]
struct State {
    last: BTreeMap<(&'static str, i64), Arc<News>>,
    watchers: Vec<mpsc::Sender<Arc<News>>>,
}

/// A watcher's place: what is known, and then what changes, until it is dropped.
pub(crate) struct Watching {
    pub(crate) known: Vec<Arc<News>>,
    pub(crate) news: mpsc::Receiver<Arc<News>>,
}

impl Live {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more watcher; none when all are taken.
    pub(crate) fn join(&self) -> Option<Watching> {
        let mut state = self.state();
        state.watchers.retain(|watcher| !watcher.is_closed());
        if state.watchers.len() >= WATCHERS_MAX {
            return None;
        }
        let (sender, news) = mpsc::channel(UNTAKEN_MAX);
        state.watchers.push(sender);
        let known = state.last.values().cloned().collect();
        drop(state);
        self.came.notify_one();
        Some(Watching { known, news })
    }

    /// Whether somebody watches. When nobody does, what was told last is forgotten: it will be old for who comes next.
    fn is_watched(&self) -> bool {
        let mut state = self.state();
        state.watchers.retain(|watcher| !watcher.is_closed());
        if state.watchers.is_empty() {
            state.last.clear();
        }
        !state.watchers.is_empty()
    }

    /// Tells how a thing is now, unless that is what was told last.
    fn tell(&self, topic: &'static str, number: i64, text: String) {
        let mut state = self.state();
        let news = Arc::new(News { topic, text });
        let before = state.last.insert((topic, number), news.clone());
        if before.as_ref() != Some(&news) {
            state.watchers.retain(|watcher| watcher.try_send(news.clone()).is_ok());
        }
    }

    /// Tells nothing of a thing to who comes later.
    fn forget(&self, topic: &'static str, number: i64) {
        self.state().last.remove(&(topic, number));
    }

    /// Dismisses everybody.
    fn end(&self) {
        self.state().watchers.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(watching: &mut Watching) -> Vec<String> {
        let known = watching.known.drain(..).map(|news| news.text.clone());
        let mut all: Vec<String> = known.collect();
        all.extend(std::iter::from_fn(|| watching.news.try_recv().ok().map(|news| news.text.clone())));
        all
    }

    #[test]
    fn watchers_are_told_what_is_known_and_then_each_change_once() {
        let live = Live::default();
        let mut first = live.join().unwrap();
        for text in ["a", "a", "b"] {
            live.tell("move", 1, text.to_owned());
        }
        let mut second = live.join().unwrap();
        live.tell("move", 2, "c".to_owned());
        assert_eq!(texts(&mut first), ["a", "b", "c"]);
        assert_eq!(texts(&mut second), ["b", "c"]);
        live.forget("move", 1);
        assert_eq!(texts(&mut live.join().unwrap()), ["c"]);
    }

    #[test]
    fn who_does_not_take_the_news_is_dropped_and_the_others_are_not() {
        let live = Live::default();
        let (mut slow, mut quick) = (live.join().unwrap(), live.join().unwrap());
        for number in 0..=UNTAKEN_MAX {
            live.tell("fleet", 0, number.to_string());
            assert_eq!(texts(&mut quick), [number.to_string()]);
        }
        assert_eq!(texts(&mut slow).len(), UNTAKEN_MAX);
        assert!(slow.news.is_closed() && !quick.news.is_closed());
    }

    #[test]
    fn places_are_bounded_and_free_again_when_somebody_leaves() {
        let live = Live::default();
        assert!(!live.is_watched());
        let mut all: Vec<Watching> = (0..WATCHERS_MAX).map(|_| live.join().unwrap()).collect();
        assert!(live.join().is_none());
        all.pop();
        assert!(live.join().is_some());
        live.tell("fleet", 0, "old".to_owned());
        all.clear();
        assert!(!live.is_watched());
        assert!(live.join().unwrap().known.is_empty());
    }
}
