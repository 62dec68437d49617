//! `/v1/events`: what goes on, as server-sent events. Each is named by its topic and has the thing as it is now.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt as _, stream};

use super::Shared;
use super::answer::Refusal;
use crate::live::{News, WATCHERS_MAX, Watching};

/// How often something is sent when nothing changes, so that both sides notice when the other is gone.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// After so long a listener has to come again and show its token, which may have been revoked meanwhile.
const LISTEN_MAX: Duration = Duration::from_mins(5);

pub(super) async fn listen(State(context): Shared) -> Result<Response, Refusal> {
    let Some(Watching { known, news }) = context.live.join() else {
        let error = format!("{WATCHERS_MAX} already listen at this instance, and it takes no more");
        let hint = "close pages that nobody looks at, or ask another instance";
        return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error, hint));
    };
    let changes = stream::unfold(news, async |mut news| news.recv().await.map(|one| (one, news)));
    let told = stream::iter(known).chain(changes).take_until(Box::pin(tokio::time::sleep(LISTEN_MAX)));
    let events = told.map(|news| Ok::<_, Infallible>(event(&news)));
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE_INTERVAL);
    // A proxy on the way is not to collect them.
    let headers = [(header::CACHE_CONTROL, "no-store"), (BUFFERING, "no")];
    Ok((headers, Sse::new(events).keep_alive(keep_alive)).into_response())
}

const BUFFERING: header::HeaderName = header::HeaderName::from_static("x-accel-buffering");

fn event(news: &Arc<News>) -> Event {
    Event::default().event(news.topic).data(&news.text)
}
