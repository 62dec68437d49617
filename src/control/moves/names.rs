//! What a move calls the things that it makes. Each carries the operation's number, so two moves never meet.

/// Names of one move's things.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    /// Publication, slot, subscription and login role of the stream from source to target.
    pub(crate) forward: String,
    /// Publication and slot of the stream back.
    pub(crate) reverse: String,
    /// The `application_name` of its sessions in registries.
    pub(crate) session: String,
}

impl Names {
    pub(crate) fn of(operation: i64) -> Self {
        Self {
            forward: format!("tenantry_move_{operation}"),
            reverse: format!("tenantry_reverse_{operation}"),
            session: format!("tenantry move {operation}"),
        }
    }
}
