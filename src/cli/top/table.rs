//! What there is to see, as text.

use serde_json::{Value, json};

use crate::cli::output;

const SERVERS: output::Columns<'static> = &[
    ("SERVER", "name"),
    ("BUSY", "busy"),
    ("ACTIVE", "active"),
    ("CONNECTIONS", "connections"),
    ("OF", "max_connections"),
    ("CLIENTS", "clients"),
    ("WAITING", "waiting"),
    ("TX/S", "transactions_per_second"),
];
const TENANTS: output::Columns<'static> = &[
    ("TENANT", "tenant"),
    ("SERVER", "server"),
    ("BUSY", "busy"),
    ("ACTIVE", "active"),
    ("CONNECTIONS", "connections"),
    ("CLIENTS", "clients"),
    ("WAITING", "waiting"),
    ("TX/S", "transactions_per_second"),
];

/// Fleet, servers and tenants.
pub(super) fn text(seen: &Value) -> String {
    let routers = seen["routers"].as_array().map_or(&[][..], Vec::as_slice);
    let sum = |key: &str| routers.iter().filter_map(|router| router[key].as_f64()).sum::<f64>();
    let fleet = format!(
        "{} router{}: {} clients, {} waiting, {} transactions/s, {} under way",
        routers.len(),
        if routers.len() == 1 { "" } else { "s" },
        sum("clients"),
        sum("waiting"),
        rounded(sum("transactions_per_second")),
        rounded(sum("busy")),
    );
    let tenants = if seen["tenants"].as_array().is_none_or(Vec::is_empty) {
        "no tenant does anything\n".to_owned()
    } else {
        output::table(&readable(&seen["tenants"]), TENANTS)
    };
    format!("{fleet}\n\n{}\n{tenants}", output::table(&readable(&seen["servers"]), SERVERS))
}

/// The rows, with as many digits as one can take in.
fn readable(rows: &Value) -> Vec<Value> {
    let mut rows = rows.as_array().cloned().unwrap_or_default();
    for row in &mut rows {
        for key in ["busy", "transactions_per_second"] {
            row[key] = json!(rounded(row[key].as_f64().unwrap_or(0.0)));
        }
    }
    rows
}

fn rounded(figure: f64) -> String {
    if figure >= 100.0 { format!("{figure:.0}") } else { format!("{figure:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_summed_and_rounded() {
        let seen = json!({
            "routers": [{"clients": 2, "waiting": 0, "transactions_per_second": 100.25, "busy": 0.5},
                {"clients": 1, "waiting": 1, "transactions_per_second": 0.25, "busy": 0.25}],
            "servers": [{"name": "pg-1", "busy": 0.754321, "active": 1, "connections": 4, "max_connections": 50,
                "clients": 3, "waiting": 1, "transactions_per_second": 100.5}],
            "tenants": [],
        });
        assert_eq!(
            text(&seen),
            "2 routers: 3 clients, 1 waiting, 100 transactions/s, 0.75 under way\n\n\
             SERVER  BUSY  ACTIVE  CONNECTIONS  OF  CLIENTS  WAITING  TX/S\n\
             pg-1    0.75  1       4            50  3        1        100\n\n\
             no tenant does anything\n"
        );
    }
}
