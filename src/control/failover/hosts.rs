//! Of the hosts that a URL names, the one that takes writes.

use catalog::each_host;
use shard_map::ServerName;
use tokio_postgres::Config;
use tokio_postgres::config::TargetSessionAttrs;

use super::look::{self, Standing};
use crate::error::{Error, Result};
use crate::server::{Connection, Connector, arm};

/// How to reach the one that takes writes, and where it is. Of several, the one that was promoted last; refused if that can't be
/// told, if none takes writes, or if they are not of one cluster. One host alone is not asked.
pub(crate) async fn primary(
    connector: &Connector,
    server: &ServerName,
    config: &Config,
) -> Result<(Config, (String, u16))> {
    if let [only] = &arm::addresses(config)?[..] {
        return Ok((config.clone(), only.clone()));
    }
    let (mut seen, mut silent) = (Vec::new(), None);
    for mut alone in each_host(config) {
        alone.target_session_attrs(TargetSessionAttrs::Any);
        let standing =
            async { look::standing(&Connection::open(server, &alone, &connector.tls).await?).await };
        match standing.await {
            Ok(standing) => seen.push((alone, standing)),
            Err(error) => silent = silent.or(Some(error)),
        }
    }
    let standings: Vec<Standing> = seen.iter().map(|(_, standing)| *standing).collect();
    match (last_promoted(&standings), silent) {
        (Ok(Some(index)), _) => {
            let (config, _) = seen.swap_remove(index);
            let address = arm::address(&config)?;
            Ok((config, address))
        }
        (Ok(None), Some(error)) => Err(error),
        (Ok(None), None) => Err(Error::refused(
            format!("server {server}: all of its hosts are standbys"),
            "promote one of them, or name its primary, too",
        )),
        (Err(why), _) => Err(Error::refused(
            format!("server {server}: {why}"),
            "name the hosts of one primary and its standbys",
        )),
    }
}

/// The one that takes writes, and was promoted last.
fn last_promoted(standings: &[Standing]) -> std::result::Result<Option<usize>, &'static str> {
    if standings.windows(2).any(|pair| pair[0].system != pair[1].system) {
        return Err("its hosts are not of one Postgres cluster");
    }
    let primaries = || standings.iter().enumerate().filter(|(_, standing)| !standing.is_standby);
    let Some((index, last)) = primaries().max_by_key(|(_, standing)| standing.timeline) else {
        return Ok(None);
    };
    if primaries().any(|(other, standing)| other != index && standing.timeline == last.timeline) {
        return Err("two of its hosts take writes on the same timeline");
    }
    Ok(Some(index))
}

#[cfg(test)]
mod tests {
    use super::super::look::Session;
    use super::*;

    #[test]
    fn of_hosts_that_take_writes_the_last_promoted_is_taken() {
        let one = |system, timeline: Option<i32>, process| Standing {
            is_standby: timeline.is_none(),
            system,
            timeline,
            session: Session(process, 0),
        };
        let index = |all: &[Standing]| last_promoted(all).ok();
        assert_eq!(index(&[one(7, None, 1), one(7, Some(2), 2), one(7, Some(1), 3)]), Some(Some(1)));
        assert_eq!(index(&[one(7, None, 1)]), Some(None));
        assert_eq!(index(&[one(7, Some(2), 1), one(7, Some(2), 2)]), None, "which of them is not known");
        assert_eq!(index(&[one(7, Some(2), 1), one(8, None, 2)]), None, "another cluster");
    }
}
