//! How far a server is emptied: shown, and waited for.

use std::time::Duration;

use serde_json::Value;
use shard_map::duration::rough;

use crate::cli::api::Api;
use crate::cli::failure::{Exit, Failure};
use crate::cli::moves::show::size;
use crate::cli::output::{self, Columns, Format};
use crate::cli::wait::{self, Awaited, number, text};

/// How often progress is asked for: of a large server, the answer is some work.
const POLL: Duration = Duration::from_secs(1);
/// Tenants that a failure names.
const NAMED_MAX: usize = 10;

/// The lists of a drain, with their columns.
const LISTS: [(&str, &str, Columns<'static>); 5] = [
    (
        "moving",
        "on their way",
        &[
            ("MOVE", "move"),
            ("TENANT", "tenant"),
            ("TO", "to"),
            ("STEP", "step"),
            ("BYTES", "bytes"),
            ("COPIED", "bytes_copied"),
        ],
    ),
    (
        "busy",
        "changed by something else now",
        &[("OPERATION", "operation"), ("TENANT", "tenant"), ("KIND", "kind"), ("STEP", "step")],
    ),
    (
        "set_aside",
        "set aside",
        &[("TENANT", "tenant"), ("WHY", "why"), ("REMEDY", "remedy"), ("AGAIN IN S", "tried_again_in_s")],
    ),
    (
        "not_movable",
        "can't be moved as they are",
        &[("TENANT", "tenant"), ("WHY", "why"), ("REMEDY", "remedy")],
    ),
    (
        "sealed_copies",
        "sealed copies of tenants that have left",
        &[("MOVE", "move"), ("TENANT", "tenant"), ("KEPT UNTIL", "kept_until"), ("VERIFIED", "verified")],
    ),
];

/// Prints a server, with how far it is emptied if it drains.
pub(crate) fn print(format: Format, server: &Value) -> anyhow::Result<()> {
    let drain = server.get("drain").filter(|drain| !drain.is_null());
    let (Format::Table, Some(drain)) = (format, drain) else { return Ok(output::object(format, server)?) };
    let mut plain = server.clone();
    if let Some(plain) = plain.as_object_mut() {
        plain.remove("drain");
    }
    output::object(format, &plain)?;
    output::line("")?;
    print_drain(drain)
}

fn print_drain(drain: &Value) -> anyhow::Result<()> {
    output::line(&progress(drain))?;
    for (key, what, columns) in LISTS {
        let (count, listed) = (count(drain, key), &drain[key]["listed"]);
        if count == 0 {
            continue;
        }
        let shown = listed.as_array().map_or(0, Vec::len);
        let of = if shown as u64 == count { String::new() } else { format!(" (the first {shown})") };
        output::line("")?;
        output::line(&format!("{count} {what}{of}:"))?;
        output::list(Format::Table, listed, columns)?;
    }
    Ok(())
}

/// Waits until a server is empty, or nothing that is left can be moved now; fails when it is not empty.
pub(crate) async fn wait(api: &Api, format: Format, name: &str, timeout: Duration) -> anyhow::Result<()> {
    let what = format!("draining server {name}");
    let awaited = Awaited {
        path: &["v1", "servers", name, "drain"],
        what: &what,
        ended: &has_ended,
        text: &progress,
        timeout,
        poll: POLL,
    };
    let ended = wait::until(api, &awaited).await?;
    match format {
        Format::Json => output::json(&ended)?,
        Format::Table => print_drain(&ended)?,
    }
    judge(name, &ended)
}

/// Whether nothing goes on by itself any more, but what was set aside and is tried again by and by.
fn has_ended(drain: &Value) -> bool {
    let goes_on = number(drain, "pending") + count(drain, "moving") + count(drain, "busy");
    text(drain, "state") != "draining" || goes_on == 0
}

fn judge(name: &str, drain: &Value) -> anyhow::Result<()> {
    if text(drain, "state") != "draining" {
        let failure = Failure::new(Exit::Refused, format!("server {name} is not drained any more"));
        return Err(failure.hint(format!("begin again with: tenantry server drain {name}")).into());
    }
    let left = number(drain, "tenants_left");
    if left == 0 {
        return Ok(());
    }
    let listed = ["set_aside", "not_movable"].into_iter().flat_map(|key| drain[key]["listed"].as_array());
    let kept: Vec<&Value> = listed.flatten().collect();
    let mut named: Vec<String> = (kept.iter().take(NAMED_MAX))
        .map(|one| format!("{} ({})", text(one, "tenant"), text(one, "why")))
        .collect();
    if left > named.len() as u64 {
        named.push(format!("and {} more", left - named.len() as u64));
    }
    let remedies = kept.iter().take(NAMED_MAX);
    let mut remedies: Vec<String> =
        remedies.map(|one| format!("{}: {}", text(one, "tenant"), text(one, "remedy"))).collect();
    remedies.push(format!("then: tenantry server drain {name} --wait"));
    let noun = if left == 1 { "tenant" } else { "tenants" };
    let failure = Failure::failed(format!("server {name} still has {left} {noun}: {}", named.join(", ")));
    Err(failure.hint(remedies.join("; ")).into())
}

/// One line about where it stands.
fn progress(drain: &Value) -> String {
    let (left, moving) = (number(drain, "tenants_left"), count(drain, "moving"));
    let mut line = format!("{left} left ({}), {moving} on their way", size(number(drain, "bytes_left")));
    let others = [("busy", "busy"), ("set_aside", "set aside"), ("not_movable", "not movable")];
    for (key, word) in others {
        match count(drain, key) {
            0 => {}
            count => line.push_str(&format!(", {count} {word}")),
        }
    }
    if let Some(an_hour) = drain["rate"]["tenants_per_hour"].as_f64() {
        let bytes = size(number(&drain["rate"], "bytes_per_second"));
        line.push_str(&format!(", {an_hour:.0} an hour ({bytes}/s)"));
    }
    match drain["eta_s"].as_u64() {
        Some(seconds @ 1..) => {
            line.push_str(&format!(", about {} to go", rough(Duration::from_secs(seconds))));
        }
        _ if left == 0 && moving == 0 => line = "no tenant is left".to_owned(),
        _ => {}
    }
    match count(drain, "sealed_copies") {
        0 => {}
        copies => {
            let until = drain["sealed_copies"]["listed"].as_array().into_iter().flatten();
            let first = until.map(|copy| text(copy, "kept_until")).next().unwrap_or_default();
            line.push_str(&format!(", {copies} sealed copies kept, the first until {first}"));
        }
    }
    line
}

fn count(drain: &Value, key: &str) -> u64 {
    number(&drain[key], "count")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn drain(more: &Value) -> Value {
        let mut drain = json!({ "state": "draining", "tenants_left": 0, "bytes_left": 0, "pending": 0 });
        for (key, value) in more.as_object().unwrap() {
            drain[key] = value.clone();
        }
        drain
    }

    #[test]
    fn it_ends_when_nothing_goes_on_by_itself() {
        for key in ["moving", "busy"] {
            assert!(!has_ended(&drain(&json!({ key: { "count": 1 } }))), "{key}");
        }
        assert!(!has_ended(&drain(&json!({ "pending": 1 }))));
        assert!(has_ended(&drain(&json!({ "tenants_left": 1, "set_aside": { "count": 1 } }))));
        assert!(has_ended(&drain(&json!({ "state": "active", "pending": 1 }))));
    }

    #[test]
    fn who_is_left_is_named_with_what_to_do() {
        assert!(judge("pg-1", &drain(&json!({}))).is_ok());
        let kept = json!([{ "tenant": "acme", "why": "it is suspended", "remedy": "resume it" }]);
        let left = drain(&json!({ "tenants_left": 1, "not_movable": { "count": 1, "listed": kept } }));
        let error = judge("pg-1", &left).unwrap_err();
        assert_eq!(error.to_string(), "server pg-1 still has 1 tenant: acme (it is suspended)");
        let failure = error.downcast_ref::<Failure>().unwrap();
        assert_eq!(failure.exit, Exit::Failed);
        let hint = failure.hint.as_deref().unwrap();
        assert_eq!(hint, "acme: resume it; then: tenantry server drain pg-1 --wait");
        let undone = judge("pg-1", &drain(&json!({ "state": "active", "tenants_left": 1 }))).unwrap_err();
        assert_eq!(undone.downcast_ref::<Failure>().unwrap().exit, Exit::Refused);
    }

    #[test]
    fn progress_says_what_is_left_how_fast_it_goes_and_what_stays() {
        let some = drain(&json!({
            "tenants_left": 7, "bytes_left": 80_000_000, "pending": 4, "moving": { "count": 2 },
            "set_aside": { "count": 1 }, "rate": { "tenants_per_hour": 360.4, "bytes_per_second": 1_000_000 },
            "eta_s": 150, "sealed_copies": { "count": 3, "listed": [{ "kept_until": "2026-01-02T03:04:05Z" }] },
        }));
        let line = "7 left (80.0 MB), 2 on their way, 1 set aside, 360 an hour (1.0 MB/s), about 2 min to go, 3 sealed \
                    copies kept, the first until 2026-01-02T03:04:05Z";
        assert_eq!(progress(&some), line);
        assert_eq!(progress(&drain(&json!({}))), "no tenant is left");
    }
}
