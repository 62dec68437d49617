//! What `SHOW HELP` says.

use wire::results::Column;

use crate::admin::rows::{Row, name, text};

pub(crate) const COLUMNS: [Column; 2] = [text("command"), text("what_it_does")];

const COMMANDS: [(&str, &str); 14] = [
    ("SHOW HELP", "these lines"),
    ("SHOW TENANTS", "tenants with clients or connections at this router"),
    ("SHOW POOLS", "their clients and connections by access, and the longest wait"),
    ("SHOW CLIENTS", "clients, and what each does"),
    ("SHOW SERVERS", "connections to servers, and who has them"),
    ("SHOW STATS", "what each tenant's clients did since the router started"),
    ("SHOW HOLDS", "tenants whose transactions wait for a move or for RESUME"),
    ("SHOW CONFIG", "the configuration"),
    ("SHOW VERSION", "the version"),
    ("PAUSE tenant", "lets no transaction begin here, and answers when none runs any more"),
    ("RESUME tenant", "lets transactions begin again"),
    ("KILL tenant", "ends the tenant's clients here and what they run; they may come again"),
    ("RELOAD", "reads the configuration again, as SIGHUP does"),
    ("SET log = 'filter'", "changes what is logged until the next reload, such as 'info,router=debug'"),
];

pub(crate) fn rows() -> Vec<Row> {
    COMMANDS.iter().map(|(command, what)| vec![name(command), name(what)]).collect()
}
