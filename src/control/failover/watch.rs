//! Looks at the addresses of servers beside the one in the map. Where a server was before, it is closed if it comes back as it
//! was; and where an operator said that it may be (`server add` with several hosts), its promotion is followed.
//!
//! Of two that take writes, the one whose timeline is lower is the older one: a promotion begins a timeline. What is not known
//! to be newer is never followed, nor is anything as long as the server of the map acknowledges writes, which would be lost; and
//! nothing is ever pointed back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use catalog::{AddressState, Asked, SeenAddress, ServerAddress, ServerRow};
use futures_util::future::join_all;
use shard_map::{Server, ServerName};
use tokio_util::sync::CancellationToken;

use super::close::{self, Became};
use super::drive::words;
use super::look::{self, Standing};
use super::{difference, plan, start};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::server::Connection;

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(2);
/// A failover of a server is begun once in this time: what ended the last one may be there still.
const BEGIN_INTERVAL: Duration = Duration::from_secs(60);

/// What is at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
enum There {
    Nothing(String),
    /// The server of the map, by another address.
    TheSame,
    Another,
    Standby,
    /// It takes writes, on this timeline.
    Primary(i32),
}

/// What is to be done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// What is on record stays.
    Leave,
    Forget,
    Note(AddressState, String),
    /// It is older than the server of the map.
    Close(i32),
    /// It was promoted after the server of the map, and is where that may be.
    Follow(i32),
}

/// `known`: the timeline of the server of the map, as it was seen last.
fn judge(address: &ServerAddress, there: &There, known: Option<i32>) -> Verdict {
    let unless_member = |state, detail: &str| match address.is_member {
        true => Verdict::Note(state, detail.to_owned()),
        false => Verdict::Forget,
    };
    match there {
        // Its databases stay closed, whenever it comes back.
        There::Nothing(_) if address.state == AddressState::Closed => Verdict::Leave,
        There::Nothing(why) => Verdict::Note(AddressState::Unseen, why.clone()),
        There::TheSame => unless_member(AddressState::Serving, ""),
        There::Another => unless_member(AddressState::Another, "another Postgres cluster answers there"),
        There::Standby => unless_member(AddressState::Standby, ""),
        There::Primary(timeline) => match known {
            Some(known) if *timeline < known => Verdict::Close(*timeline),
            // One on which it was seen before is no new promotion: the server was left, and is back.
            Some(known)
                if *timeline > known
                    && address.is_member
                    && address.timeline.is_none_or(|seen| *timeline > seen) =>
            {
                Verdict::Follow(*timeline)
            }
            Some(known) if *timeline > known => Verdict::Note(
                AddressState::Rival,
                format!("it was promoted since, to timeline {timeline} from {known}"),
            ),
            Some(_) => Verdict::Note(AddressState::Rival, format!("it is on the same timeline ({timeline})")),
            None => {
                Verdict::Note(AddressState::Rival, "which of them was promoted last is not known".to_owned())
            }
        },
    }
}

/// Watches, for as long as this instance leads, until `stop`.
pub(crate) async fn watch(context: Arc<Context>, stop: CancellationToken) {
    let mut begun = HashMap::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let Some(term) = *context.term.borrow() else { continue };
        tokio::select! {
            () = stop.cancelled() => return,
            outcome = pass(&context, term, &mut begun) => if let Err(error) = outcome {
                tracing::debug!(%error, "the further addresses of servers could not be looked at");
            }
        }
    }
}

async fn pass(context: &Context, term: i64, begun: &mut HashMap<ServerName, Instant>) -> Result<()> {
    begun.retain(|_, at| at.elapsed() < BEGIN_INTERVAL);
    let addresses = context.catalog.server_addresses().await?;
    if addresses.is_empty() {
        return Ok(());
    }
    let rows = context.catalog.servers().await?;
    let looks = rows.iter().map(async |row| {
        let of_it = addresses.iter().filter(|address| address.server == row.server.name);
        let (here, others): (Vec<_>, Vec<_>) = of_it.partition(|address| is_at(&row.server, address));
        // What a failover that is under way does, it does itself.
        if others.is_empty() || context.catalog.is_failing_over(&[&row.server.name]).await? {
            return Ok(None);
        }
        let followed = see(context, term, (row, here.first().copied()), &others).await?;
        Ok::<_, Error>(followed.map(|address| (row, address.clone())))
    });
    for followed in join_all(looks).await {
        match followed {
            Ok(Some((row, address))) if !begun.contains_key(&row.server.name) => {
                begun.insert(row.server.name.clone(), Instant::now());
                if let Err(error) = follow(context, term, row, &address).await {
                    tracing::warn!(server = %row.server.name, %error, "a promotion is not followed");
                    rival(context, term, &address, &error.to_string()).await?;
                }
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "the addresses of a server could not be looked at"),
        }
    }
    Ok(())
}

fn is_at(server: &Server, address: &ServerAddress) -> bool {
    (&server.host, server.port) == (&address.host, address.port)
}

/// Looks at a server's addresses. Returns the one whose promotion is to be followed.
async fn see<'a>(
    context: &Context,
    term: i64,
    (row, here): (&ServerRow, Option<&ServerAddress>),
    others: &[&'a ServerAddress],
) -> Result<Option<&'a ServerAddress>> {
    let current = look::at(context, &row.server).await.ok();
    // One that is a standby by now, or another cluster, tells nothing of the server that it was.
    let timeline =
        current.as_ref().filter(|(_, at)| at.system == row.system_identifier).and_then(|(_, at)| at.timeline);
    let known = timeline.or(here.and_then(|here| here.timeline));
    if timeline.is_some()
        && here.is_none_or(|here| here.timeline != timeline || here.state != AddressState::Serving)
    {
        let seen = SeenAddress { state: AddressState::Serving, detail: String::new(), timeline };
        note(context, term, (&row.server.name, &row.server.host, row.server.port), &seen).await?;
    }
    let looks = others.iter().map(|address| {
        let server = Server { host: address.host.clone(), port: address.port, ..row.server.clone() };
        async move {
            let at = look::at(context, &server).await;
            (server, at)
        }
    });
    let mut promoted: Vec<(i32, &ServerAddress)> = Vec::new();
    for (address, (server, at)) in others.iter().zip(join_all(looks).await) {
        let there = there(row, current.as_ref(), &at).await;
        match judge(address, &there, known) {
            Verdict::Follow(timeline) => promoted.push((timeline, address)),
            verdict => {
                // One that gives trouble hides no promotion.
                let (host, port) = (&address.host, address.port);
                if let Err(error) = act(context, term, (address, &server), (verdict, at.ok())).await {
                    tracing::debug!(server = %row.server.name, host, port, %error, "nothing could be done about an address");
                }
            }
        }
    }
    promoted.sort_by_key(|(timeline, _)| std::cmp::Reverse(*timeline));
    let here = current.as_ref().filter(|(_, at)| at.system == row.system_identifier);
    if let (Some((registry, _)), [(_, address), ..]) = (here, &promoted[..])
        && look::acknowledges(&row.server, registry).await?
    {
        let why = "it was promoted while the server of the map goes on taking writes, which would be lost";
        rival(context, term, address, why).await?;
        return Ok(None);
    }
    match promoted[..] {
        [(first, _), (second, _), ..] if first == second => {
            for (timeline, address) in promoted.iter().filter(|(timeline, _)| *timeline == first) {
                let why =
                    format!("it was promoted to timeline {timeline}, as another host of the server was");
                rival(context, term, address, &why).await?;
            }
            Ok(None)
        }
        [(_, address), ..] => Ok(Some(address)),
        [] => Ok(None),
    }
}

async fn there(
    row: &ServerRow,
    current: Option<&(Connection, Standing)>,
    at: &Result<(Connection, Standing)>,
) -> There {
    let standing = match at {
        Ok((_, standing)) => standing,
        Err(error) => return There::Nothing(error.to_string()),
    };
    if let Some((registry, _)) = current
        && look::has(registry, standing.session).await.unwrap_or(false)
    {
        return There::TheSame;
    }
    match standing {
        standing if standing.system != row.system_identifier => There::Another,
        Standing { timeline: Some(timeline), is_standby: false, .. } => There::Primary(*timeline),
        _ => There::Standby,
    }
}

async fn act(
    context: &Context,
    term: i64,
    (address, server): (&ServerAddress, &Server),
    (verdict, at): (Verdict, Option<(Connection, Standing)>),
) -> Result<()> {
    let place = (&address.server, address.host.as_str(), address.port);
    let seen = match verdict {
        Verdict::Leave | Verdict::Follow(_) => return Ok(()),
        Verdict::Forget => {
            return Ok(context
                .catalog
                .forget_address(&address.server, (&address.host, address.port), term)
                .await?);
        }
        Verdict::Note(state, detail) => SeenAddress { state, detail, timeline: None },
        Verdict::Close(timeline) => {
            let Some((registry, _)) = at else { return Ok(()) };
            let _turn = context.closing_turn.lock().await;
            if is_led_to(context, server).await? {
                return Ok(());
            }
            if address.state == AddressState::Closed && close::is_closed(&registry).await? {
                return Ok(());
            }
            let became = close::close(context, (server, &registry), term).await?;
            tracing::warn!(server = %address.server, host = address.host, port = address.port, ?became, "an old primary is closed");
            let state =
                if matches!(became, Became::Closed(_)) { AddressState::Closed } else { AddressState::Open };
            SeenAddress { state, detail: words(&became), timeline: Some(timeline) }
        }
    };
    if (seen.state, &seen.detail) == (address.state, &address.detail) {
        return Ok(());
    }
    note(context, term, place, &seen).await
}

/// Whether the map has a server there by now, or is just about to: the look took its time.
async fn is_led_to(context: &Context, server: &Server) -> Result<bool> {
    let is_failing_over = context.catalog.is_failing_over(&[&server.name]).await?;
    Ok(is_failing_over || context.server(&server.name).await?.address() == server.address())
}

async fn note(
    context: &Context,
    term: i64,
    (server, host, port): (&ServerName, &str, u16),
    seen: &SeenAddress,
) -> Result<()> {
    Ok(context.catalog.note_address(server, (host, port), seen, term).await?)
}

/// Two take writes, and this one is not followed.
async fn rival(context: &Context, term: i64, address: &ServerAddress, why: &str) -> Result<()> {
    let seen = SeenAddress { state: AddressState::Rival, detail: why.to_owned(), timeline: None };
    if (seen.state, &seen.detail) == (address.state, &address.detail) {
        return Ok(());
    }
    note(context, term, (&address.server, &address.host, address.port), &seen).await
}

/// Begins the failover to a host that was promoted, as an operator would, and puts that on record.
async fn follow(context: &Context, term: i64, row: &ServerRow, address: &ServerAddress) -> Result<()> {
    let name = &row.server.name;
    let promoted = Server { host: address.host.clone(), port: address.port, ..row.server.clone() };
    let (registry, standing) = look::promoted(context, row, &promoted).await?;
    look::refuse_if_closed(&registry, &promoted).await?;
    // Refused if it is not as it was a moment ago.
    look::old(context, row, (&promoted, &standing)).await?;
    let input = plan(context, row, &promoted, false).await?;
    if !input.differences.is_empty() {
        let found: Vec<String> = input.differences.iter().map(difference).collect();
        let found = found.join("; ");
        return Err(Error::Failed(format!(
            "it was promoted, and is not what the catalog has ({found}): tenantry server failover {name} --to \
             postgres://{}/postgres --accept-differences",
            input.to
        )));
    }
    if context.leading_term()? != term {
        return Ok(());
    }
    let (path, about) = (format!("/v1/servers/{name}/failover"), [format!("server {name}")]);
    let asked =
        Asked { who: "tenantry", role: "control", address: "", method: "POST", path: &path, about: &about };
    let record = context.catalog.record_request(&asked, None).await?;
    let id = start(context, &input).await?;
    Ok(context.catalog.record_outcome(record, 202, Some(id), &about).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(is_member: bool, state: AddressState) -> ServerAddress {
        ServerAddress {
            server: ServerName::new("pg-1").unwrap(),
            host: "db1-b".to_owned(),
            port: 5432,
            is_member,
            timeline: None,
            state,
            detail: String::new(),
            since: String::new(),
        }
    }

    #[test]
    fn only_a_higher_timeline_where_an_operator_said_is_followed() {
        for (is_member, timeline, known) in
            [(true, 1, Some(2)), (true, 2, Some(2)), (true, 2, None), (false, 3, Some(2)), (true, 3, Some(2))]
        {
            let verdict = judge(&address(is_member, AddressState::Unseen), &There::Primary(timeline), known);
            let follows = verdict == Verdict::Follow(timeline);
            assert_eq!(follows, is_member && known.is_some_and(|known| timeline > known), "{verdict:?}");
        }
    }

    #[test]
    fn one_that_is_back_on_a_timeline_of_its_own_is_not_followed() {
        let left = ServerAddress { timeline: Some(3), ..address(true, AddressState::Unseen) };
        let judged = |timeline| judge(&left, &There::Primary(timeline), Some(2));
        assert!(matches!(judged(3), Verdict::Note(AddressState::Rival, _)));
        assert_eq!(judged(4), Verdict::Follow(4), "it was promoted since");
    }

    #[test]
    fn an_older_one_is_closed_wherever_it_is_and_stays_so() {
        for is_member in [true, false] {
            let verdict = judge(&address(is_member, AddressState::Unseen), &There::Primary(1), Some(2));
            assert_eq!(verdict, Verdict::Close(1));
        }
        let gone = There::Nothing("away".to_owned());
        assert_eq!(judge(&address(false, AddressState::Closed), &gone, Some(2)), Verdict::Leave);
        assert_eq!(
            judge(&address(false, AddressState::Open), &gone, Some(2)),
            Verdict::Note(AddressState::Unseen, "away".to_owned())
        );
    }

    #[test]
    fn an_address_where_a_server_was_is_forgotten_when_it_is_no_primary_of_it_any_more() {
        for there in [There::Standby, There::Another, There::TheSame] {
            assert_eq!(judge(&address(false, AddressState::Closed), &there, Some(2)), Verdict::Forget);
            assert!(matches!(
                judge(&address(true, AddressState::Unseen), &there, Some(2)),
                Verdict::Note(..)
            ));
        }
    }
}
