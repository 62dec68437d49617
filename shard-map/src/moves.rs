//! The law of a move: its phases, and every transition that is legal. The deeds are in `control`.
//!
//! A phase is what the catalog records before its deeds begin, so that whoever finds the record after a crash knows
//! where to look. Everything up to [`Phase::Cutover`] can be undone; from [`Phase::Release`] on, only forward.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// Where a move stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Replica identities, guard, fence table, publication, slot and snapshot on the source.
    Arm,
    /// In place of all copying, for a move that turns another one round: the sealed copy becomes the target, and goes on
    /// following.
    TurnRound,
    /// Roles, database and schema (without indexes and constraints) on the target.
    Schema,
    /// Rows, in ranges, from the snapshot.
    Copy,
    /// Indexes, constraints, statistics, views; then the subscription.
    Build,
    /// Both sides are compared before the cutover, while the application works on the source and the target follows.
    Compare,
    /// The subscription catches up; the reverse slot is made.
    CatchUp,
    /// From the hold to the decision. What was reached is only known by asking the target's registry.
    Cutover,
    /// Decided: the catalog follows and the routers let go.
    Release,
    /// Both sides are compared as they were at the switch, while traffic runs on the target.
    Verify,
    /// Done; the sealed copy stays on the source for its grace time.
    Switched,
    /// The sealed copy and everything that the move made are removed.
    Complete,
    /// Nothing of the move is left.
    Completed,
    /// The copy is thrown away and begun again: its snapshot is gone.
    Restart,
    /// Everything that the move made is removed; the tenant stays where it is.
    Undo,
    /// Undone.
    Undone,
}

/// What can happen to a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// The phase's deeds are done. For [`Phase::Cutover`]: the target's registry says `open`.
    Done,
    /// A cutover ended undecided (over its budget, or somebody slipped in) and was taken back.
    TakenBack,
    /// The process that held the snapshot died before the copy was complete.
    SnapshotLost,
    /// An operator asked to abort, or the move can't go on.
    Stop,
    /// The grace time is over, an operator asked to complete, or another move of the tenant begins.
    Finish,
}

/// What an operator reads about a move as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Under way, undoing included.
    Running,
    /// The tenant lives on the target.
    Switched,
    /// Nothing of the move is left.
    Completed,
    /// Undone because somebody asked.
    Aborted,
    /// Undone because it could not go on.
    Failed,
}

/// A transition that no correct program asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a move in phase {phase} can't take {event:?}")]
pub struct Illegal {
    /// Where the move stood.
    pub phase: Phase,
    /// What was said to have happened.
    pub event: Event,
}

/// The phase that follows.
///
/// # Errors
/// [`Illegal`] when nothing follows; the record must not be changed then.
pub fn next(phase: Phase, event: Event) -> Result<Phase, Illegal> {
    use Event::{Done, Finish, SnapshotLost, Stop, TakenBack};
    use Phase::{
        Arm, Build, CatchUp, Compare, Complete, Completed, Copy, Cutover, Release, Restart, Schema, Switched,
        TurnRound, Undo, Undone, Verify,
    };
    Ok(match (phase, event) {
        (Arm, Done) => Schema,
        (Schema, Done) => Copy,
        (Copy, Done) => Build,
        (Build | TurnRound, Done) => Compare,
        (Compare, Done) => CatchUp,
        (CatchUp, Done) => Cutover,
        (Cutover, Done) => Release,
        (Cutover, TakenBack) => CatchUp,
        (Release, Done) => Verify,
        (Verify, Done) => Switched,
        (Switched, Finish) => Complete,
        (Complete, Done) => Completed,
        (Arm | Schema | Copy | Build, SnapshotLost) => Restart,
        (Restart, Done) => Arm,
        (Arm | Schema | Copy | Build | TurnRound | Compare | CatchUp | Restart, Stop) => Undo,
        (Undo, Done) => Undone,
        _ => return Err(Illegal { phase, event }),
    })
}

impl Phase {
    /// All phases, in the order of a move that meets no trouble, then the others.
    pub const ALL: [Self; 16] = [
        Self::Arm,
        Self::Schema,
        Self::Copy,
        Self::Build,
        Self::Compare,
        Self::CatchUp,
        Self::Cutover,
        Self::Release,
        Self::Verify,
        Self::Switched,
        Self::Complete,
        Self::Completed,
        Self::TurnRound,
        Self::Restart,
        Self::Undo,
        Self::Undone,
    ];

    /// The first phase of a move: one that turns another one round, within that one's window, copies nothing.
    #[must_use]
    pub fn first(turns_round: bool) -> Self {
        if turns_round { Self::TurnRound } else { Self::Arm }
    }

    /// The word for it in the catalog and in `move show`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Arm => "arm",
            Self::TurnRound => "turn_round",
            Self::Schema => "schema",
            Self::Copy => "copy",
            Self::Build => "build",
            Self::Compare => "compare",
            Self::CatchUp => "catch_up",
            Self::Cutover => "cutover",
            Self::Release => "release",
            Self::Verify => "verify",
            Self::Switched => "switched",
            Self::Complete => "complete",
            Self::Completed => "completed",
            Self::Restart => "restart",
            Self::Undo => "undo",
            Self::Undone => "undone",
        }
    }

    /// Whether an operator may still abort. During a cutover the request waits for its outcome.
    #[must_use]
    pub fn can_abort(self) -> bool {
        matches!(
            self,
            Self::Arm
                | Self::Schema
                | Self::Copy
                | Self::Build
                | Self::TurnRound
                | Self::Compare
                | Self::CatchUp
                | Self::Cutover
                | Self::Restart
        )
    }

    /// Whether an operator may pause the move. A cutover is over by itself, and nobody is held for longer than it takes.
    #[must_use]
    pub fn can_pause(self) -> bool {
        self.can_abort() && self != Self::Cutover
    }

    /// What a controller does that finds this phase in the record of another that died.
    ///
    /// The snapshot lived in the dead one's session, so a copy that was not complete starts over. Whatever else was begun
    /// is begun again: its deeds look at what is there.
    #[must_use]
    pub fn recovery(self) -> Option<Event> {
        matches!(self, Self::Arm | Self::Schema | Self::Copy | Self::Build).then_some(Event::SnapshotLost)
    }

    /// The state that an operator reads. `failed` tells an undone move that failed from one that was aborted.
    #[must_use]
    pub fn state(self, failed: bool) -> State {
        match self {
            Self::Switched | Self::Complete => State::Switched,
            Self::Completed => State::Completed,
            Self::Undone if failed => State::Failed,
            Self::Undone => State::Aborted,
            _ => State::Running,
        }
    }
}

impl State {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Switched => "switched",
            Self::Completed => "completed",
            Self::Aborted => "aborted",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no phase.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no phase of a move")]
pub struct UnknownPhase(pub String);

impl FromStr for Phase {
    type Err = UnknownPhase;
    fn from_str(word: &str) -> Result<Self, UnknownPhase> {
        Self::ALL.into_iter().find(|p| p.as_str() == word).ok_or_else(|| UnknownPhase(word.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [Event; 5] =
        [Event::Done, Event::TakenBack, Event::SnapshotLost, Event::Stop, Event::Finish];

    /// Phases that can be reached from one by any legal events.
    fn reachable(from: Phase) -> Vec<Phase> {
        let mut seen = vec![from];
        let mut at = 0;
        while at < seen.len() {
            for event in EVENTS {
                if let Ok(to) = next(seen[at], event)
                    && !seen.contains(&to)
                {
                    seen.push(to);
                }
            }
            at += 1;
        }
        seen
    }

    #[test]
    fn after_the_decision_nothing_leads_back() {
        for phase in reachable(Phase::Release) {
            assert!(
                matches!(
                    phase,
                    Phase::Release | Phase::Verify | Phase::Switched | Phase::Complete | Phase::Completed
                ),
                "{phase} must not be reachable"
            );
        }
    }

    #[test]
    fn a_move_that_turns_another_one_round_copies_nothing() {
        for phase in reachable(Phase::first(true)) {
            let copies =
                matches!(phase, Phase::Arm | Phase::Schema | Phase::Copy | Phase::Build | Phase::Restart);
            assert!(!copies, "{phase} must not be reachable");
        }
        assert!(!reachable(Phase::first(false)).contains(&Phase::TurnRound));
    }

    #[test]
    fn whatever_is_found_after_a_crash_ends_done_or_undone() {
        for phase in Phase::ALL {
            let found = phase.recovery().map_or(Ok(phase), |event| next(phase, event));
            let ends = reachable(found.expect("a recovery that is legal"));
            assert!(
                [Phase::Switched, Phase::Completed, Phase::Undone].iter().any(|end| ends.contains(end)),
                "{phase}"
            );
            let only_forward = !ends.contains(&Phase::Undone);
            let decided = matches!(
                phase,
                Phase::Release | Phase::Verify | Phase::Switched | Phase::Complete | Phase::Completed
            );
            assert_eq!(only_forward, decided, "{phase}");
        }
    }

    #[test]
    fn an_undone_move_never_switches() {
        assert_eq!(reachable(Phase::Undo), [Phase::Undo, Phase::Undone]);
    }

    #[test]
    fn every_phase_before_the_decision_can_end_in_undone() {
        for phase in Phase::ALL.into_iter().filter(|p| p.can_abort()) {
            assert!(reachable(phase).contains(&Phase::Undone), "{phase}");
        }
    }

    #[test]
    fn a_move_can_be_paused_until_its_cutover_and_not_while_it_is_undone() {
        for phase in reachable(Phase::Release).into_iter().chain([Phase::Cutover, Phase::Undo, Phase::Undone])
        {
            assert!(!phase.can_pause(), "{phase}");
        }
        for phase in [Phase::Arm, Phase::Copy, Phase::Build, Phase::CatchUp, Phase::TurnRound, Phase::Restart]
        {
            assert!(phase.can_pause(), "{phase}");
        }
    }

    #[test]
    fn a_cutover_can_only_be_left_by_its_outcome() {
        for event in [Event::SnapshotLost, Event::Stop, Event::Finish] {
            assert!(next(Phase::Cutover, event).is_err());
        }
    }

    #[test]
    fn words_and_phases_are_one_to_one() {
        for phase in Phase::ALL {
            assert_eq!(phase.as_str().parse(), Ok(phase));
        }
    }
}
