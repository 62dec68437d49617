//! `tenantry server upgrade-plan`: a server of an old version of Postgres, emptied on paper.

use serde_json::Value;

use crate::cli::api::Api;
use crate::cli::failure::{Exit, Failure};
use crate::cli::moves::show::size;
use crate::cli::output::{self, Columns, Format};
use crate::cli::wait::{number, text};

/// Tenants that a failure names.
const NAMED_MAX: usize = 10;

const MOVES: Columns<'static> =
    &[("TENANT", "tenant"), ("BYTES", "bytes"), ("TO", "to"), ("VERSION", "version"), ("COMMAND", "command")];
/// The lists of those that stay, with their columns.
const LISTS: [(&str, &str, Columns<'static>); 2] = [
    ("unplaced", "no newer server can take", &[("TENANT", "tenant"), ("BYTES", "bytes"), ("WHY", "why")]),
    ("not_movable", "can't be moved now", &[("TENANT", "tenant"), ("WHY", "why"), ("REMEDY", "remedy")]),
];

/// Prints the plan; fails when it leaves somebody without a place.
pub(crate) async fn run(api: &Api, format: Format, name: &str) -> anyhow::Result<()> {
    let plan = api.get(&["v1", "servers", name, "upgrade-plan"]).await?;
    match format {
        Format::Json => output::json(&plan)?,
        Format::Table => print(&plan)?,
    }
    judge(&plan)
}

fn print(plan: &Value) -> anyhow::Result<()> {
    output::line(&headline(plan))?;
    for wave in listed(plan, "waves") {
        output::line("")?;
        output::line(&format!("wave {}: {}", number(wave, "wave"), amount(wave)))?;
        output::list(Format::Table, &wave["moves"], MOVES)?;
    }
    for (key, what, columns) in LISTS {
        if !listed(plan, key).is_empty() {
            output::line("")?;
            output::line(&format!("{what}:"))?;
            output::list(Format::Table, &plan[key], columns)?;
        }
    }
    if listed(plan, "waves").is_empty() {
        return Ok(());
    }
    output::line("")?;
    Ok(output::line(
        "each move can be looked at before (--dry-run), and turned round within its window (tenantry move reverse ID): give a wave \
         time before the next one",
    )?)
}

fn headline(plan: &Value) -> String {
    format!(
        "{} has Postgres {}: {} to newer servers in {}",
        text(plan, "name"),
        number(plan, "version"),
        amount(plan),
        count(listed(plan, "waves").len() as u64, "wave")
    )
}

fn amount(of: &Value) -> String {
    format!("{} ({})", count(number(of, "tenants"), "tenant"), size(number(of, "bytes")))
}

fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

fn listed<'a>(plan: &'a Value, key: &str) -> &'a [Value] {
    plan[key].as_array().map_or(&[], Vec::as_slice)
}

fn judge(plan: &Value) -> anyhow::Result<()> {
    let unplaced = listed(plan, "unplaced");
    let Some(first) = unplaced.first() else { return Ok(()) };
    let mut named: Vec<&str> = unplaced.iter().take(NAMED_MAX).map(|one| text(one, "tenant")).collect();
    let more = format!("and {} more", unplaced.len().saturating_sub(NAMED_MAX));
    if unplaced.len() > NAMED_MAX {
        named.push(&more);
    }
    let failure = Failure::new(
        Exit::Refused,
        format!(
            "{} of {}'s tenants have no newer server: {}: {}",
            unplaced.len(),
            text(plan, "name"),
            named.join(", "),
            text(first, "why")
        ),
    );
    Err(failure.hint("make room on a newer server or add one: tenantry server add NAME --url URL").into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_has_no_place_is_named_with_the_reason_of_the_first() {
        let mut plan = json!({ "name": "pg-1", "version": 15, "tenants": 1, "bytes": 2000, "waves": [{}], "unplaced": [] });
        assert!(judge(&plan).is_ok());
        assert_eq!(headline(&plan), "pg-1 has Postgres 15: 1 tenant (2.0 kB) to newer servers in 1 wave");
        plan["unplaced"] =
            json!((0..12).map(|n| json!({ "tenant": format!("t{n}"), "why": "full" })).collect::<Vec<_>>());
        let error = judge(&plan).unwrap_err();
        assert_eq!(
            error.to_string(),
            "12 of pg-1's tenants have no newer server: t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, and 2 more: full"
        );
        assert_eq!(error.downcast_ref::<Failure>().unwrap().exit, Exit::Refused);
    }
}
