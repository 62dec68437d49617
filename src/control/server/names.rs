//! What operations call the things that they make on servers: roles, slots, publications, subscriptions. Each name ends in its
//! operation's number, so two operations never meet. The patterns are Postgres's regular expressions.

/// Of a move's stream from source to target.
pub(crate) const MOVE: &str = "tenantry_move_";
/// Of its stream back.
pub(crate) const REVERSE: &str = "tenantry_reverse_";
/// Of the role with which an operation reads.
pub(crate) const READ: &str = "tenantry_read_";
/// Of the role that makes a copy of a schema on which migrations are tried. Behind it stands the copy's name, not a number.
pub(crate) const TRIAL: &str = "tenantry_trial_";

/// Names by any operation; in parentheses its number.
pub(crate) const OF_OPERATIONS: &str = r"^tenantry_(?:move|reverse|read)_(\d{1,18})$";
/// Names of moves' streams.
pub(crate) const OF_STREAMS: &str = r"^tenantry_(?:move|reverse)_\d{1,18}$";
/// Names of moves' streams from source to target.
pub(crate) const OF_MOVES: &str = r"^tenantry_move_\d{1,18}$";
/// Names of readers; in parentheses the operation's number.
pub(crate) const OF_READERS: &str = r"^tenantry_read_(\d{1,18})$";
/// Roles of the machinery itself: of operations and trials, and those that are always there.
pub(crate) const OWN_ROLES: &str =
    r"^tenantry_(?:control|router|(?:move|reverse|read)_\d{1,18}|trial_\d{1,15}_[0-9a-f]{8})$";

/// The move that a stream's thing is of.
pub(crate) fn move_of(name: &str) -> Option<i64> {
    name.strip_prefix(MOVE).or_else(|| name.strip_prefix(REVERSE))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_streams_things_tell_their_move() {
        assert_eq!(move_of(&format!("{MOVE}7")), Some(7));
        assert_eq!(move_of(&format!("{REVERSE}7")), Some(7));
        assert_eq!(move_of(&format!("{READ}7")), None);
        assert_eq!(move_of("tenantry_move_7_fresh"), None);
    }
}
