//! What a move calls the things that it makes.

use crate::server::names::{MOVE, REVERSE};

/// Names of one move's things.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    /// Publication, slot, subscription and login role of the stream from source to target. For a move that turns
    /// another one round, what was that one's way back.
    pub(crate) forward: String,
    /// Publication, slot, subscription and login role of the stream back.
    pub(crate) reverse: String,
    /// The role on the source by whose rights a move is known of which the catalog knows nothing. A move that copies
    /// streams with it.
    pub(crate) mark: String,
    /// The `application_name` of its sessions in registries.
    pub(crate) session: String,
}

impl Names {
    /// `reverse_of`: the move that this one turns round.
    pub(crate) fn of(operation: i64, reverse_of: Option<i64>) -> Self {
        let mark = format!("{MOVE}{operation}");
        Self {
            forward: reverse_of.map_or_else(|| mark.clone(), back),
            reverse: back(operation),
            mark,
            session: format!("tenantry move {operation}"),
        }
    }
}

fn back(operation: i64) -> String {
    format!("{REVERSE}{operation}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_that_turns_another_round_streams_by_that_ones_way_back() {
        assert_eq!(Names::of(7, Some(5)).forward, Names::of(5, None).reverse);
        assert_ne!(Names::of(7, Some(5)).reverse, Names::of(5, None).reverse);
    }
}
