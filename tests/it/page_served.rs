//! What the page is made from: files that a browser may trust, and a stream of what goes on.

use std::time::Duration;

use reqwest::{Client, Response, StatusCode};
use serde_json::Value;

use crate::harness::{Fleet, trials, until};

trials! {
    shared the_page_comes_with_strict_headers_and_needs_no_token,
    shared events_tell_the_fleet_and_each_move_to_its_end,
    shared a_tenants_history_and_whether_it_is_served_are_told,
}

fn client() -> Client {
    let redirect = reqwest::redirect::Policy::none();
    Client::builder().no_proxy().redirect(redirect).timeout(Duration::from_secs(60)).build().unwrap()
}

pub(crate) async fn get(fleet: &Fleet, path: &str) -> Response {
    let url = format!("{}{path}", fleet.variable("TENANTRY_API"));
    client().get(url).bearer_auth(fleet.variable("TENANTRY_TOKEN")).send().await.unwrap()
}

async fn the_page_comes_with_strict_headers_and_needs_no_token(fleet: &Fleet) {
    let api = fleet.variable("TENANTRY_API");
    let root = client().get(api).send().await.unwrap();
    assert!(root.status().is_redirection());
    assert_eq!(root.headers()["location"], "ui/");
    let page = client().get(format!("{api}/ui/")).send().await.unwrap();
    assert_eq!(page.status(), StatusCode::OK);
    let headers = page.headers().clone();
    let policy = headers["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'self'"), "{policy}");
    assert!(!policy.contains("unsafe-"), "{policy}");
    assert_eq!(headers["x-content-type-options"], "nosniff");
    assert_eq!(headers["x-frame-options"], "DENY");
    let html = page.text().await.unwrap();
    assert!(!html.contains("http"), "nothing is loaded from elsewhere: {html}");
    let again =
        client().get(format!("{api}/ui/")).header("if-none-match", &headers["etag"]).send().await.unwrap();
    assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
    let missing = client().get(format!("{api}/ui/../v1/servers")).send().await.unwrap();
    assert_eq!(missing.status(), StatusCode::UNAUTHORIZED, "only the page itself is for everybody");
}

/// Server-sent events, one after the other.
pub(crate) struct Events {
    response: Response,
    text: String,
}

impl Events {
    async fn listen(fleet: &Fleet) -> Self {
        Self::listen_at(fleet, fleet.variable("TENANTRY_API")).await
    }

    /// At this instance of the fleet's.
    pub(crate) async fn listen_at(fleet: &Fleet, api: &str) -> Self {
        let asked = client().get(format!("{api}/v1/events")).bearer_auth(fleet.variable("TENANTRY_TOKEN"));
        let response = asked.send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, text: String::new() }
    }

    /// The next one's topic, and what it tells.
    async fn next(&mut self) -> (String, Value) {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field =
                    |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
                let told = field("event:").zip(field("data:"));
                let told = told.map(|(topic, data)| (topic.to_owned(), serde_json::from_str(data).unwrap()));
                self.text = rest.to_owned();
                if let Some(told) = told {
                    return told;
                }
                continue;
            }
            let chunk = self.response.chunk().await.unwrap().expect("the stream goes on");
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    pub(crate) async fn find(&mut self, topic: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        loop {
            let (found, told) = self.next().await;
            if found == topic && is_it(&told) {
                return told;
            }
        }
    }
}

async fn events_tell_the_fleet_and_each_move_to_its_end(fleet: &Fleet) {
    let anybody = client().get(format!("{}/v1/events", fleet.variable("TENANTRY_API"))).send().await.unwrap();
    assert_eq!(anybody.status(), StatusCode::UNAUTHORIZED);
    fleet.create("page-events", &["--server", "pg-1"]).await;
    let mut early = Events::listen(fleet).await;
    let seen = early.find("fleet", |fleet| fleet["servers"][0]["seen"]["version"].is_string()).await;
    assert_eq!(seen["servers"][0]["name"], "pg-1");
    assert!(seen["servers"][0]["max_connections"].as_i64().unwrap() > 0, "{seen}");
    assert!(seen["routers"].as_array().is_some_and(|routers| !routers.is_empty()), "{seen}");
    let started = fleet.cli(&["move", "start", "page-events", "--to", "pg-2"]).await.ok();
    let is_it = |told: &Value| told["id"] == started["id"];
    let first = early.find("move", is_it).await;
    assert_eq!(first["tenant"], "page-events");
    // Who comes later is told how it stands, without waiting for the next change.
    let mut late = Events::listen(fleet).await;
    late.find("move", is_it).await;
    let last = early.find("move", |told| is_it(told) && told["state"] == "switched").await;
    assert!(last["hold_ms"].is_number() && last["steps"].as_array().unwrap().len() > 3, "{last}");
    late.find("move", |told| is_it(told) && told["state"] == "switched").await;
}

async fn a_tenants_history_and_whether_it_is_served_are_told(fleet: &Fleet) {
    fleet.create("page-history", &["--server", "pg-1"]).await;
    let read = async |path: &str| {
        get(fleet, &format!("/v1/tenants/page-history/{path}")).await.json::<Value>().await.unwrap()
    };
    let served = async |state: &'static str| {
        until(state, async || {
            let told = read("serving").await;
            (told["state"] == state).then_some(told)
        })
        .await
    };
    let told = served("served").await;
    assert_eq!(told["routers"][0]["has_epoch"], true, "{told}");
    // It is among nobody's busiest; routers tell of it because somebody looks.
    until("its figures to be told", async || {
        let told = read("serving").await;
        (told["routers"][0]["load"]["clients"] == 0).then_some(())
    })
    .await;
    let listed = async || {
        let list = get(fleet, "/v1/tenants?q=page-history&serving=true").await.json::<Value>().await.unwrap();
        list[0]["serving"]["state"].clone()
    };
    assert_eq!(listed().await, "served");
    fleet.cli(&["tenant", "suspend", "page-history"]).await.ok();
    let told = served("off").await;
    assert!(told["why"].as_str().unwrap().contains("suspended"), "{told}");
    assert_eq!(listed().await, "off");
    let history = read("history").await;
    let kinds: Vec<&str> =
        history.as_array().unwrap().iter().map(|one| one["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["suspend", "create"]);
    assert_eq!(history[1]["to"], "pg-1", "where it was made: {history}");
    assert_eq!(get(fleet, "/v1/tenants/page-nobody/history").await.status(), StatusCode::NOT_FOUND);
    let crowds = get(fleet, "/v1/crowds").await.json::<Value>().await.unwrap();
    let of_server = crowds.as_array().unwrap().iter().find(|crowd| crowd["server"] == "pg-1").unwrap();
    let listed = of_server["listed"].as_array().unwrap();
    assert!(listed.iter().any(|tenant| tenant[0] == "page-history"), "{crowds}");
}
