//! The API: who may do what, how it is told what is wrong, and how long answers are.

use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::tls::{Authority, Files};
use crate::harness::{Fleet, Output, Sql as _, connect_url, signal, trials, until};

trials! {
    shared each_role_may_what_it_is_for,
    shared nobody_may_what_the_document_says_is_for_others,
    shared whatever_is_wrong_is_told_as_a_problem,
    shared a_change_with_a_key_is_made_once,
    shared an_answer_that_is_lost_is_asked_for_again,
    own the_api_speaks_tls_and_another_instance_says_who_leads,
    shared lists_come_in_pages,
    shared a_token_ends_when_it_is_revoked_or_expires,
    shared tokens_that_are_tried_out_keep_nobody_waiting,
}

/// A client with a token.
pub(crate) struct Caller<'a> {
    fleet: &'a Fleet,
    pub(crate) token: String,
}

impl<'a> Caller<'a> {
    pub(crate) async fn new(fleet: &'a Fleet, name: &str, role: &str) -> Self {
        let made = fleet.cli(&["token", "create", name, "--role", role]).await.ok();
        Self { fleet, token: made["token"].as_str().unwrap().to_owned() }
    }

    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Response {
        self.request(method, path, body).send().await.unwrap()
    }

    fn request(&self, method: Method, path: &str, body: Option<Value>) -> RequestBuilder {
        let url = format!("{}{path}", self.fleet.variable("TENANTRY_API"));
        let client = Client::builder().no_proxy().build().unwrap();
        let request = client.request(method, url).bearer_auth(&self.token);
        match body {
            Some(body) => request.json(&body),
            None => request,
        }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let answer = self.send(method, path, body).await;
        (answer.status(), answer.json().await.unwrap_or_default())
    }

    pub(crate) async fn status(&self, method: Method, path: &str, body: Option<Value>) -> u16 {
        self.ask(method, path, body).await.0.as_u16()
    }

    pub(crate) async fn cli(&self, args: &[&str]) -> Output {
        self.fleet.cli_in(&[("TENANTRY_TOKEN", &self.token)], args).await
    }
}

async fn each_role_may_what_it_is_for(fleet: &Fleet) {
    let viewer = Caller::new(fleet, "role-viewer", "viewer").await;
    let operator = Caller::new(fleet, "role-operator", "operator").await;
    let admin = Caller::new(fleet, "role-admin", "admin").await;
    let nobody = Caller { fleet, token: format!("tnt_{}", "x".repeat(43)) };
    let plan = Some(json!({ "id": "roles-plan", "dry_run": true }));
    // Understood by those who read it, and not by the guard, which sides with caution.
    let sneaky = Some(json!(["roles-plan", null, null, {}, {}, true]));
    let elsewhere =
        Some(json!({ "declared": "[[servers]]\nname = 'elsewhere'\nhost = '127.0.0.1'\nport = 1" }));
    let declared = std::fs::read_to_string(fleet.path().join("fleet.toml")).unwrap();
    let declared = Some(json!({ "declared": declared }));
    // Of each kind: who may not is told 403, and who may is told something else, be it that there is no such thing.
    let kinds = [
        (Method::GET, "/v1/tenants", None, [200, 200, 200]),
        (Method::GET, "/v1/whoami", None, [200, 200, 200]),
        (Method::GET, "/v1/tokens", None, [200, 200, 200]),
        (Method::GET, "/v1/map", None, [403, 403, 200]),
        (Method::POST, "/v1/tenants", plan, [200, 200, 200]),
        (Method::POST, "/v1/tenants", sneaky, [403, 200, 200]),
        (Method::POST, "/v1/tenants", Some(json!({ "id": "UPPER" })), [403, 400, 400]),
        (Method::POST, "/v1/tenants/no-such/suspend", None, [403, 404, 404]),
        (Method::POST, "/v1/moves/999999/abort", None, [403, 404, 404]),
        (Method::POST, "/v1/migrations/999999/abort", None, [403, 404, 404]),
        (Method::POST, "/v1/servers/no-such/drain", Some(json!({})), [403, 404, 404]),
        (
            Method::POST,
            "/v1/servers/no-such/failover",
            Some(json!({ "to": "postgres://h" })),
            [403, 403, 404],
        ),
        (Method::DELETE, "/v1/servers/no-such", None, [403, 403, 404]),
        (Method::DELETE, "/v1/users/no-such", None, [403, 403, 404]),
        (Method::DELETE, "/v1/tokens/no-such", None, [403, 403, 404]),
        (Method::POST, "/v1/map/apply", Some(json!({})), [403, 403, 400]),
        // What names servers has the control plane log in there, also for a look.
        (Method::POST, "/v1/map/apply", Some(json!({ "dry_run": true })), [403, 403, 400]),
        (Method::POST, "/v1/map/import", Some(json!({ "dry_run": true })), [403, 403, 400]),
        (Method::POST, "/v1/map/verify", elsewhere, [403, 403, 200]),
        (Method::POST, "/v1/map/verify", declared, [200, 200, 200]),
        (Method::POST, "/v1/map/verify", Some(json!({ "declared": "][" })), [400, 400, 400]),
    ];
    for (method, path, body, expected) in kinds {
        for (caller, status) in [&viewer, &operator, &admin].into_iter().zip(expected) {
            let answered = caller.status(method.clone(), path, body.clone()).await;
            assert_eq!(answered, status, "{method} {path} {body:?}");
        }
        assert_eq!(nobody.status(method.clone(), path, body).await, 401, "{method} {path}");
    }
    assert!(fleet.cli(&["tenant", "list"]).await.stdout.find("roles-plan").is_none());

    let (_, who) = operator.ask(Method::GET, "/v1/whoami", None).await;
    assert_eq!(who, json!({ "name": "role-operator", "role": "operator", "expires_at": null }));
    let who = fleet.cli(&["token", "whoami"]).await.ok();
    assert_eq!((&who["name"], &who["role"]), (&json!("config"), &json!("admin")));

    let refused = viewer.cli(&["tenant", "suspend", "no-such"]).await;
    assert!(refused.hint().contains("operator"), "{}", refused.stderr);
    let error = refused.error(4);
    assert!(error.contains("role viewer") && error.contains("needs the role operator"), "{error}");
    // An admin makes further tokens, and is on record for it; nobody is told a token again.
    admin.cli(&["token", "create", "role-more", "--role", "viewer"]).await.ok();
    admin.cli(&["token", "create", "role-more", "--role", "admin"]).await.error(4);
    let list = fleet.cli(&["token", "list"]).await.exits(0);
    let tokens = list.json();
    let more = tokens.as_array().unwrap().iter().find(|token| token["name"] == "role-more").unwrap();
    assert_eq!((&more["role"], &more["created_by"]), (&json!("viewer"), &json!("role-admin")));
    for caller in [&viewer, &operator, &admin] {
        assert!(!list.stdout.contains(&caller.token));
    }
    fleet.cli(&["token", "create", "config", "--role", "viewer"]).await.error(4);
    fleet.cli(&["token", "create", "a b", "--role", "viewer"]).await.error(2);
}

async fn a_token_ends_when_it_is_revoked_or_expires(fleet: &Fleet) {
    let leaver = Caller::new(fleet, "token-leaver", "admin").await;
    assert_eq!(leaver.status(Method::GET, "/v1/tenants", None).await, 200);
    fleet.cli(&["token", "revoke", "token-leaver"]).await.error(2);
    fleet.cli(&["token", "revoke", "token-leaver", "--yes"]).await.ok();
    assert_eq!(leaver.status(Method::GET, "/v1/tenants", None).await, 401, "at once where it was revoked");
    fleet.cli(&["token", "revoke", "token-leaver", "--yes"]).await.error(3);

    // Behind this instance's back, as another one would do it.
    let away = Caller::new(fleet, "token-away", "viewer").await;
    assert_eq!(away.status(Method::GET, "/v1/tenants", None).await, 200);
    let catalog = connect_url(fleet.variable("TENANTRY_CATALOG_URL"), "tenantry_catalog").await;
    catalog.run("DELETE FROM api_token WHERE name = 'token-away'").await;
    until("the other's revocation to be heard of", async || {
        (away.status(Method::GET, "/v1/tenants", None).await == 401).then_some(())
    })
    .await;

    let made = ["token", "create", "token-short", "--role", "viewer", "--expires", "1h"];
    let made = fleet.cli(&made).await.ok();
    let short = Caller { fleet, token: made["token"].as_str().unwrap().to_owned() };
    let (_, who) = short.ask(Method::GET, "/v1/whoami", None).await;
    assert_eq!(who["expires_at"], made["expires_at"]);
    catalog.run("UPDATE api_token SET expires_at = now() WHERE name = 'token-short'").await;
    let told = until("the token to expire", async || {
        let (status, told) = short.ask(Method::GET, "/v1/tenants", None).await;
        (status == StatusCode::UNAUTHORIZED).then_some(told)
    });
    assert!(told.await["error"].as_str().unwrap().contains("expired"));
    let used = catalog
        .number("SELECT count(*) FROM api_token WHERE name = 'token-short' AND last_used_at IS NOT NULL");
    assert_eq!(used.await, 1);
}

async fn tokens_that_are_tried_out_keep_nobody_waiting(fleet: &Fleet) {
    const GUESSES: usize = 400;
    let reads = async || {
        let query = "tenantry_catalog_query_duration_seconds_count{query=\"token_holders\"}";
        fleet.control_metrics().await.get(query)
    };
    let made = fleet.cli(&["token", "create", "token-first", "--role", "viewer"]).await.ok();
    let first = Caller { fleet, token: made["token"].as_str().unwrap().to_owned() };
    let before = reads().await;
    let guesses = (0..GUESSES).map(|number| async move {
        let guess = Caller { fleet, token: format!("tnt_{number:043}") };
        guess.status(Method::GET, "/v1/tenants", None).await
    });
    let guesses = futures_util::future::join_all(guesses);
    let (guesses, first) = tokio::join!(guesses, first.status(Method::GET, "/v1/tenants", None));
    assert_eq!(first, 200);
    assert!(guesses.iter().all(|status| *status == 401), "{guesses:?}");
    let read = reads().await - before;
    assert!(
        read > 0.0 && read < GUESSES as f64 / 2.0,
        "one read of the tokens is for all who wait for it: {read}"
    );
}

/// What is for admins only, by the document.
const FOR_ADMINS: [&str; 12] = [
    "DELETE /v1/servers/{name}",
    "DELETE /v1/tokens/{name}",
    "DELETE /v1/users/{name}",
    "GET /v1/map",
    "POST /v1/map/apply",
    "POST /v1/map/import",
    "POST /v1/map/rebuild",
    "POST /v1/servers",
    "POST /v1/servers/{name}/failover",
    "POST /v1/tokens",
    "POST /v1/users",
    "PUT /v1/users/{name}/password",
];

async fn nobody_may_what_the_document_says_is_for_others(fleet: &Fleet) {
    let viewer = Caller::new(fleet, "document-viewer", "viewer").await;
    let operator = Caller::new(fleet, "document-operator", "operator").await;
    let nobody = Caller { fleet, token: String::new() };
    let (_, document) = viewer.ask(Method::GET, "/v1/openapi.json", None).await;
    let mut for_admins = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        let address = path.replace("{id}", "999999").replace("{name}", "no-such");
        for (method, told) in methods.as_object().unwrap() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let body = (method != Method::GET && method != Method::DELETE).then(|| json!({}));
            let status =
                async |caller: &Caller<'_>| caller.status(method.clone(), &address, body.clone()).await;
            assert_eq!(status(&nobody).await, 401, "{method} {path}");
            let description = told["description"].as_str().unwrap();
            let needs = description.strip_prefix("For the role ").unwrap().split(' ').next().unwrap();
            if needs != "viewer" {
                assert_eq!(status(&viewer).await, 403, "{method} {path}");
            }
            if needs == "admin" {
                assert_eq!(status(&operator).await, 403, "{method} {path}");
                for_admins.push(format!("{method} {path}"));
            }
        }
    }
    for_admins.sort();
    assert_eq!(for_admins, FOR_ADMINS);
}

async fn lists_come_in_pages(fleet: &Fleet) {
    for name in ["pager-a", "pager-b", "pager-c"] {
        fleet.create(name, &["--label", "book=pager"]).await;
    }
    let caller = Caller { fleet, token: fleet.variable("TENANTRY_TOKEN").to_owned() };
    let ids = |page: &Value| -> Vec<String> {
        page.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    };
    for filter in ["q=pager-", "selector=book%3Dpager"] {
        let first = caller.send(Method::GET, &format!("/v1/tenants?{filter}&limit=2"), None).await;
        let link = first.headers()["link"].to_str().unwrap().to_owned();
        assert_eq!(ids(&first.json().await.unwrap()), ["pager-a", "pager-b"], "{filter}");
        let next = link.strip_prefix('<').unwrap().split('>').next().unwrap();
        let last = caller.send(Method::GET, next, None).await;
        assert!(!last.headers().contains_key("link"), "{link}");
        assert_eq!(ids(&last.json().await.unwrap()), ["pager-c"], "{link}");
    }
    assert_eq!(ids(&fleet.cli(&["tenant", "list", "--search", "ager-b"]).await.ok()), ["pager-b"]);
    assert_eq!(caller.status(Method::GET, "/v1/tenants?limit=0", None).await, 400);
    assert_eq!(caller.status(Method::GET, "/v1/servers?limit=1&after=pg-2", None).await, 200);
}

async fn whatever_is_wrong_is_told_as_a_problem(fleet: &Fleet) {
    let admin = Caller { fleet, token: fleet.variable("TENANTRY_TOKEN").to_owned() };
    let nobody = Caller { fleet, token: String::new() };
    let long = "x".repeat(17 << 20);
    let create = |id: &str| Some(json!({ "id": id }));
    let cases = [
        (&nobody, Method::GET, "/v1/tenants", None, 401),
        (&admin, Method::GET, "/nowhere", None, 404),
        (&admin, Method::GET, "/v1/tenants/no-such", None, 404),
        (&admin, Method::PATCH, "/v1/tenants", None, 405),
        (&admin, Method::POST, "/v1/tenants", None, 415),
        (&admin, Method::POST, "/v1/tenants", Some(json!({ "id": 7 })), 400),
        (&admin, Method::POST, "/v1/tenants", Some(json!({ "name": "x" })), 400),
        (&admin, Method::POST, "/v1/tenants", create(&long), 413),
        (&admin, Method::POST, "/v1/map/verify", create(&long), 413),
        (&admin, Method::GET, "/v1/tenants?limit=many", None, 400),
        (&admin, Method::GET, "/v1/tenants?q=%00", None, 400),
        (&admin, Method::GET, "/v1/audit?since_s=-1", None, 400),
        (&admin, Method::GET, "/v1/load?top=many", None, 400),
        (&admin, Method::GET, "/v1/moves/first", None, 400),
        (&admin, Method::GET, "/v1/tenants/%ff", None, 400),
        (&admin, Method::DELETE, "/v1/users/%00", None, 400),
        (&admin, Method::GET, "/v1/moves/99999999999999999999", None, 400),
    ];
    for (caller, method, path, body, status) in cases {
        let answer = caller.send(method.clone(), path, body).await;
        assert_eq!(answer.status().as_u16(), status, "{method} {path}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json", "{method} {path}");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!((&problem["status"], &problem["type"]), (&json!(status), &json!("about:blank")), "{path}");
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
        assert_eq!(problem["error"], problem["detail"]);
    }
    let document = nobody.ask(Method::GET, "/v1/openapi.json", None).await.1;
    assert_eq!(document["openapi"], "3.1.0");
    assert!(document["paths"]["/v1/tenants/{id}"]["delete"].is_object());
}

async fn a_change_with_a_key_is_made_once(fleet: &Fleet) {
    let admin = Caller { fleet, token: fleet.variable("TENANTRY_TOKEN").to_owned() };
    let ask = async |path: &str, body: Value| {
        let request = admin.request(Method::POST, path, Some(body)).header("idempotency-key", "once-only");
        let answer = request.send().await.unwrap();
        let replayed = answer.headers().contains_key("idempotency-replayed");
        (answer.status().as_u16(), replayed, answer.json::<Value>().await.unwrap())
    };
    let tenant = json!({ "id": "keyed", "wait_ms": 20_000 });
    let first = ask("/v1/tenants", tenant.clone()).await;
    assert_eq!((first.0, first.1), (201, false), "{}", first.2);
    let again = ask("/v1/tenants", tenant.clone()).await;
    assert_eq!((again.0, again.1, &again.2), (201, true, &first.2));
    assert_eq!(ask("/v1/tenants", json!({ "id": "keyed-2" })).await.0, 422);
    let made = fleet.cli(&["audit", "--about", "keyed"]).await.ok();
    assert_eq!(made.as_array().unwrap().len(), 1, "{made}");

    let catalog = connect_url(fleet.variable("TENANTRY_CATALOG_URL"), "tenantry_catalog").await;
    let taken_back = "UPDATE idempotency_key SET status = NULL, alive_at = now() WHERE key = 'once-only'";
    catalog.run(taken_back).await;
    let under_way = ask("/v1/tenants", tenant.clone()).await;
    assert_eq!((under_way.0, &under_way.2["type"]), (409, &json!("urn:tenantry:problem:under-way")));
    catalog
        .run("UPDATE idempotency_key SET alive_at = now() - interval '1 minute' WHERE key = 'once-only'")
        .await;
    let ended = ask("/v1/tenants", tenant.clone()).await;
    assert_eq!((ended.0, &ended.2["type"]), (409, &json!("urn:tenantry:problem:cut-short")));
    // Keys count for the token that they came with, and for a day.
    let other = Caller::new(fleet, "key-other", "operator").await;
    let theirs = other.request(Method::POST, "/v1/tenants", Some(tenant.clone()));
    let theirs = theirs.header("idempotency-key", "once-only").send().await.unwrap();
    assert_eq!(theirs.status(), 409, "it is there");
    catalog.run("UPDATE idempotency_key SET at = now() - interval '25 hours' WHERE key = 'once-only'").await;

    let user = json!({ "name": "keyed-user" });
    let first = ask("/v1/users", user.clone()).await;
    assert!(first.0 == 200 && first.2["password"].is_string());
    assert_eq!(ask("/v1/users", user).await.0, 409, "a secret is told once");
    let kept =
        catalog.column("SELECT coalesce(answer, '') FROM idempotency_key WHERE key = 'once-only'").await;
    assert!(!kept.concat().contains(first.2["password"].as_str().unwrap()));
}

async fn an_answer_that_is_lost_is_asked_for_again(fleet: &Fleet) {
    let api = fleet.variable("TENANTRY_API").strip_prefix("http://").unwrap().to_owned();
    let way = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", way.local_addr().unwrap());
    let lossy = async move {
        let (mut client, _) = way.accept().await.unwrap();
        let mut server = TcpStream::connect(&api).await.unwrap();
        let mut buffer = vec![0; 64 << 10];
        // Small enough to come in one piece each; the answer gets no further.
        let asked = client.read(&mut buffer).await.unwrap();
        server.write_all(&buffer[..asked]).await.unwrap();
        assert!(server.read(&mut buffer).await.unwrap() > 0);
        drop(client);
        loop {
            let (mut client, _) = way.accept().await.unwrap();
            let mut server = TcpStream::connect(&api).await.unwrap();
            tokio::io::copy_bidirectional(&mut client, &mut server).await.ok();
        }
    };
    let lossy = tokio::spawn(lossy);
    fleet.create("lossy", &[]).await;
    let suspend =
        fleet.cli_in(&[("TENANTRY_API", &url)], &["tenant", "suspend", "lossy", "--no-wait"]).await.ok();
    lossy.abort();
    let log = fleet.cli(&["audit", "--about", "lossy", "-n", "1"]).await.ok();
    assert_eq!((&log[0]["status"], &log[0]["operation"]), (&json!(200), &suspend["operation"]), "{suspend}");
    let log = fleet.cli(&["audit", "--about", "lossy"]).await.ok();
    assert_eq!(log.as_array().unwrap().len(), 2, "made, and suspended once: {log}");
}

async fn the_api_speaks_tls_and_another_instance_says_who_leads(fleet: &mut Fleet) {
    let files = Files::of(fleet, "api");
    let authority = Authority::new();
    let ca = files.write("ca.crt", &authority.pem()).display().to_string();
    let install = |authority: &Authority| {
        let issued = authority.issue("api", &["127.0.0.1"]);
        let key = files.write("api.key", &issued.key);
        (files.write("api.crt", &issued.pem), key)
    };
    let (cert, key) = install(&authority);
    let settings = [format!("tls_cert_file={}", cert.display()), format!("tls_key_file={}", key.display())];
    let second = fleet.second_control_with(&[&settings[0], &settings[1]]);
    let secure = format!("https://{}", second.address());
    let ask = async |api: &str, ca: &str, args: &[&str]| {
        fleet.cli_in(&[("TENANTRY_API", api), ("TENANTRY_API_CA", ca)], args).await
    };
    let whoami = until("the API to answer by TLS", async || {
        let answer = ask(&secure, &ca, &["token", "whoami"]).await;
        (answer.status == 0).then(|| answer.json())
    });
    assert_eq!(whoami.await["name"], "config");
    let error = ask(&secure, "", &["token", "whoami"]).await.error(5);
    assert!(error.contains("certificate"), "nobody here knows the authority: {error}");
    ask(&format!("http://{}", second.address()), "", &["token", "whoami"]).await.error(5);
    ask(&secure, "/nowhere/ca.crt", &["token", "whoami"]).await.error(2);
    let ends = metrics(&secure).await;
    assert!(ends.contains(&format!("{{shown_to=\"clients\"}} {}\n", Authority::END_S)), "{ends}");

    // Who connects and says nothing keeps nobody waiting: neither is there a queue, nor does it have to end first.
    let connect = (0..70).map(|_| TcpStream::connect(second.address()));
    let silent = futures_util::future::try_join_all(connect).await.unwrap();
    ask(&secure, &ca, &["token", "whoami"]).await.ok();
    let newest = silent.last().unwrap().try_read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(newest, Err(std::io::ErrorKind::WouldBlock), "it is still there");
    drop(silent);

    // It does not lead: it reads, and says who has to be asked for the rest.
    ask(&secure, &ca, &["server", "list"]).await.ok();
    let refused = ask(&secure, &ca, &["server", "add", "pg-1", "--url", &fleet.server_url("pg-1")]).await;
    assert!(refused.hint().contains("control-1"), "{}", refused.stderr);
    refused.error(5);

    let other = Authority::new();
    let other_ca = files.write("other.crt", &other.pem()).display().to_string();
    install(&other);
    until("the new certificate to be shown", async || {
        (ask(&secure, &other_ca, &["token", "whoami"]).await.status == 0).then_some(())
    })
    .await;
    ask(&secure, &ca, &["token", "whoami"]).await.error(5);
    drop(second);
    a_change_whose_client_left_is_awaited_at_the_end(fleet).await;
}

/// The metrics of an instance that speaks TLS.
async fn metrics(secure: &str) -> String {
    let client = Client::builder().no_proxy().danger_accept_invalid_certs(true).build().unwrap();
    let answer = client.get(format!("{secure}/metrics")).send().await.unwrap();
    let name = "tenantry_control_certificate_expiry_timestamp_seconds";
    answer
        .text()
        .await
        .unwrap()
        .lines()
        .filter(|line| line.contains(name))
        .fold(String::new(), |all, line| all + line + "\n")
}

async fn a_change_whose_client_left_is_awaited_at_the_end(fleet: &Fleet) {
    let url = fleet.variable("TENANTRY_CATALOG_URL");
    let (catalog, other) =
        (connect_url(url, "tenantry_catalog").await, connect_url(url, "tenantry_catalog").await);
    other.run("BEGIN; LOCK TABLE router_user IN EXCLUSIVE MODE").await;
    let admin = Caller { fleet, token: fleet.variable("TENANTRY_TOKEN").to_owned() };
    let change = admin.request(Method::POST, "/v1/users", Some(json!({ "name": "left-behind" })));
    let waits = async {
        until("the change to wait", async || {
            let waiting = "SELECT count(*) FROM pg_stat_activity
                WHERE wait_event_type = 'Lock' AND query LIKE '%router_user%'";
            (catalog.number(waiting).await > 0).then_some(())
        })
        .await;
    };
    tokio::select! {
        answer = change.send() => panic!("it does not wait: {answer:?}"),
        () = waits => {}
    }
    let control = fleet.process("control").unwrap();
    signal(control, Signal::TERM);
    let address = fleet.variable("TENANTRY_API").trim_start_matches("http://");
    until("its port to be closed", async || TcpStream::connect(address).await.is_err().then_some(())).await;
    other.run("COMMIT").await;
    until("it to end", async || fleet.process("control").is_none_or(|new| new != control).then_some(()))
        .await;
    let status = "SELECT status::text FROM audit WHERE about = '{user left-behind}'";
    assert_eq!(catalog.column(status).await, ["200"], "it was done, and noted");
}
