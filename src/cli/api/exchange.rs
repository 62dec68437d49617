//! One request, and what it takes to get an answer: which instance is asked, how long it is waited for, and when it is
//! asked again.
//!
//! Each try has the same key, so a change is made once, whichever instances it comes to. The token goes to the addresses
//! that the operator gave and to no other: a follower says who leads by its name, and a name says of no address that it
//! may be trusted.

use std::sync::atomic::Ordering;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, Url};
use serde_json::Value;
use tokio::time::{Instant, sleep, sleep_until};

use super::Api;
use super::answer::Answer;
use crate::cli::failure::{Exit, Failure};

/// How long a connection may take.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a look may take, with all its tries.
pub(super) const LOOK_TIMEOUT: Duration = Duration::from_mins(1);
/// How long a change may take, with all its tries. Adding a server runs checks on it, and setting the map right goes
/// through all servers.
pub(super) const CHANGE_TIMEOUT: Duration = Duration::from_mins(10);

/// While an answer is waited for, its instance is asked so often whether it lives.
const PULSE_INTERVAL: Duration = Duration::from_secs(4);
/// How long it may take to say so.
const PULSE_TIMEOUT: Duration = Duration::from_secs(4);
/// So many times in a row without a word, and it is given up.
const PULSES_MISSED_MAX: u32 = 2;

/// For how long instances are asked again when an answer was lost on its way, or while none of them leads: one that died
/// is started again within this time, or another one takes over.
const ASK_AGAIN_FOR: Duration = Duration::from_secs(20);
const ASK_AGAIN_PAUSE: Duration = Duration::from_millis(500);

/// A request, wherever it is sent to.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    /// Its path and query, at any host.
    pub(super) target: &'a Url,
    pub(super) body: Option<&'a Value>,
    /// How long it may take, with all its tries.
    pub(super) timeout: Duration,
}

impl Call<'_> {
    /// Where it is at this instance.
    pub(super) fn at(&self, instance: &Url) -> Url {
        let mut url = instance.clone();
        url.set_path(&format!("{}{}", instance.path().trim_end_matches('/'), self.target.path()));
        url.set_query(self.target.query());
        url
    }

    /// What it is to an operator.
    fn word(&self) -> &'static str {
        if self.method == Method::GET { "answer" } else { "change" }
    }
}

/// Why an instance gave no answer.
struct Trouble {
    why: String,
    /// It may have got the request all the same.
    was_sent: bool,
    /// It was waited for as long as it is for one that lives.
    hangs: bool,
}

impl Trouble {
    fn of(error: &reqwest::Error) -> Self {
        let why = if error.is_connect() && error.is_timeout() {
            format!("no connection within {CONNECT_TIMEOUT:?}")
        } else {
            reason(error)
        };
        Self { why, was_sent: !error.is_connect(), hangs: false }
    }

    fn hanging() -> Self {
        let why =
            format!("it takes connections, and does not even answer GET /healthz within {PULSE_TIMEOUT:?}");
        Self { why, was_sent: true, hangs: true }
    }

    fn told(&self) -> String {
        let what = if self.was_sent { "does not answer" } else { "can't be reached" };
        format!("{what}: {}", self.why)
    }
}

/// What came of the tries so far.
#[derive(Default)]
struct Tries {
    /// When the first one failed.
    failing_since: Option<Instant>,
    /// A request may be somewhere whose answer nobody got.
    was_sent: bool,
    /// Of the last round over all instances: why each gave no answer, by its address.
    troubles: Vec<(String, Trouble)>,
    /// The same round: one answers, and does not lead.
    follower: Option<Answer>,
    /// The same round: an earlier try is not done yet.
    is_under_way: bool,
}

impl Tries {
    fn begin_round(&mut self) {
        self.troubles.clear();
        (self.follower, self.is_under_way) = (None, false);
    }

    fn note(&mut self, instance: &Url, trouble: Trouble) {
        self.was_sent |= trouble.was_sent;
        self.troubles.push((instance.as_str().trim_end_matches('/').to_owned(), trouble));
    }

    /// Whether another round may bring an answer.
    fn may_go_on(&mut self) -> bool {
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        if self.is_under_way {
            return true;
        }
        // None got even as far as an instance; or each was waited for long enough.
        let is_nobody_there = self.follower.is_none() && !self.was_sent;
        let do_all_hang = self.follower.is_none() && self.troubles.iter().all(|(_, trouble)| trouble.hangs);
        !is_nobody_there && !do_all_hang && since.elapsed() <= ASK_AGAIN_FOR
    }

    /// What they amount to in the end.
    fn outcome(self, call: &Call<'_>) -> Result<Answer, Failure> {
        if self.is_under_way {
            let late = format!("the {} has not come to its end within {:?}", call.word(), call.timeout);
            return Err(
                Failure::failed(late).hint("it goes on by itself; what becomes of it: tenantry audit")
            );
        }
        if let Some(answer) = self.follower {
            return Ok(answer);
        }
        let message = match &self.troubles[..] {
            [(address, trouble)] => format!("the control plane at {address} {}", trouble.told()),
            all => {
                let all =
                    all.iter().map(|(address, trouble)| format!("the one at {address} {}", trouble.told()));
                format!("no control plane answers: {}", all.collect::<Vec<_>>().join("; "))
            }
        };
        let hint = if self.was_sent && call.method != Method::GET {
            "it may have been done all the same: look with tenantry audit"
        } else {
            "is it running? set --api or TENANTRY_API to its address"
        };
        Err(Failure::new(Exit::Unreachable, message).hint(hint))
    }
}

impl Api {
    /// Has one of the instances do it.
    pub(super) async fn exchange(&self, call: &Call<'_>) -> Result<Answer, Failure> {
        let key = format!("{:032x}", rand::random::<u128>());
        let end = Instant::now() + call.timeout;
        let mut tries = Tries::default();
        loop {
            tries.begin_round();
            let (first, count) = (self.first.load(Ordering::Relaxed), self.instances.len());
            for number in (0..count).map(|i| (first + i) % count) {
                let instance = &self.instances[number];
                let outcome = self.once(self.request(call, instance, &key), instance, (call, end)).await;
                match outcome {
                    // With nobody else to ask, who does not lead is no way round.
                    Ok(answer) if answer.is_for_the_leader() && (count > 1 || tries.was_sent) => {
                        tries.follower = Some(answer);
                    }
                    Ok(answer) => {
                        self.first.store(number, Ordering::Relaxed);
                        tries.is_under_way = tries.was_sent && answer.is_under_way();
                        if !tries.is_under_way {
                            return Ok(answer);
                        }
                        break;
                    }
                    Err(trouble) => tries.note(instance, trouble),
                }
            }
            if !tries.may_go_on() || Instant::now() + ASK_AGAIN_PAUSE >= end {
                return tries.outcome(call);
            }
            sleep(ASK_AGAIN_PAUSE).await;
        }
    }

    fn request(&self, call: &Call<'_>, instance: &Url, key: &str) -> RequestBuilder {
        let mut request = self.http.request(call.method.clone(), call.at(instance));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(who) = whoami() {
            request = request.header("x-tenantry-asked-by", who);
        }
        if let Some(body) = call.body {
            request = request.json(body);
        }
        request.header("idempotency-key", key)
    }

    /// Asks an instance once. It has until `end`, as long as it shows signs of life.
    async fn once(
        &self,
        request: RequestBuilder,
        instance: &Url,
        (call, end): (&Call<'_>, Instant),
    ) -> Result<Answer, Trouble> {
        let mut asked = std::pin::pin!(async { Answer::read(request.send().await?).await });
        let mut missed = 0;
        while missed < PULSES_MISSED_MAX {
            let pulse = async {
                sleep(PULSE_INTERVAL).await;
                self.lives(instance).await
            };
            tokio::select! {
                outcome = &mut asked => return outcome.map_err(|error| Trouble::of(&error)),
                () = sleep_until(end) => {
                    let why = format!("it lives, and this took longer than {:?}", call.timeout);
                    return Err(Trouble { why, was_sent: true, hangs: false });
                }
                lives = pulse => missed = if lives { 0 } else { missed + 1 },
            }
        }
        Err(Trouble::hanging())
    }

    /// Whether an instance shows signs of life. One that refuses connections may be about to stop: what it was asked before,
    /// it still answers.
    async fn lives(&self, instance: &Url) -> bool {
        let target = &self.target(&["healthz"], &[]);
        let call = Call { method: Method::GET, target, body: None, timeout: PULSE_TIMEOUT };
        let asked = self.http.get(call.at(instance)).timeout(call.timeout).send().await;
        !asked.is_err_and(|error| error.is_timeout())
    }
}

/// Who calls, as records of what was asked for tell it: one token may be of many.
fn whoami() -> Option<String> {
    let user = ["USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    let user = user.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let who = format!("{user}@{}", host.trim());
    who.chars().all(|c| c == ' ' || c.is_ascii_graphic()).then_some(who)
}

/// reqwest says "error sending request for url"; why is in its last source.
pub(super) fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
