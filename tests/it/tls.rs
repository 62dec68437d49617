//! TLS between clients and routers, and between routers and servers.

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, SslMode, SslNegotiation};

use crate::harness::programs::psql;
use crate::harness::raw::Raw;
use crate::harness::tls::{Authority, Files, Tls};
use crate::harness::{Fleet, Router, Sql as _, code, connect, message, trials, until};

trials! {
    shared psql_connects_as_each_mode_says,
    shared a_router_that_requires_tls_takes_nobody_without,
    shared a_driver_binds_its_channel_and_pipes_much_through_it,
    shared tls_without_a_request_needs_alpn,
    shared what_is_sent_before_the_handshake_is_not_believed,
    shared handshakes_that_fail_hit_nobody_else,
    shared client_certificates_are_checked,
    shared a_certificate_is_replaced_while_sessions_go_on,
    shared the_host_that_a_client_asks_for_names_its_tenant,
    shared handshakes_that_are_cut_in_the_middle_hold_up_nobody,
    own servers_are_spoken_to_with_tls,
    own a_server_that_asks_for_a_certificate_gets_the_routers,
    own registries_are_asked_with_tls,
}

/// Settings as the harness takes them.
async fn router(fleet: &Fleet, settings: &[String]) -> Router {
    fleet.router(&settings.iter().map(String::as_str).collect::<Vec<_>>()).await
}

fn mode(name: &str) -> String {
    format!("tls_mode={name}")
}

/// A login by TLS and nothing else, at a name that certificates can be for.
fn secure(config: &Config, router: &Router) -> Config {
    let mut through = router.through(config);
    through.ssl_mode(SslMode::Require);
    through
}

async fn psql_connects_as_each_mode_says(fleet: &Fleet) {
    fleet.create("tls-psql", &[]).await;
    let (files, authority) = (Files::of(fleet, "psql"), Authority::new());
    let shown = files.shown(&authority.issue("router", &["127.0.0.1"]));
    let router = router(fleet, &[&[mode("allow")][..], &shown].concat()).await;
    let good = files.write("good.crt", &authority.pem()).display().to_string();
    let bad = files.write("bad.crt", &Authority::new().pem()).display().to_string();
    let config = router.through(&fleet.config("tls-psql"));
    let run = async |mode: &str, root: &str, binding: &str| {
        let variables = [("PGSSLMODE", mode), ("PGSSLROOTCERT", root), ("PGCHANNELBINDING", binding)];
        psql(&config, &variables, &["-Atc", "\\conninfo", "-c", "SELECT 42"]).await
    };
    for mode in ["disable", "allow"] {
        assert!(!run(mode, "", "prefer").await.exits(0).stdout.contains("SSL"), "{mode}");
    }
    for mode in ["prefer", "require", "verify-ca", "verify-full"] {
        let root = if mode.starts_with("verify") { good.as_str() } else { "" };
        let output = run(mode, root, "require").await.exits(0);
        assert!(output.stdout.contains("SSL connection") && output.stdout.contains("42"), "{mode}");
    }
    let refused = run("verify-full", &bad, "prefer").await.exits(2);
    assert!(refused.stderr.contains("SSL error"), "{}", refused.stderr);
}

async fn a_router_that_requires_tls_takes_nobody_without(fleet: &Fleet) {
    fleet.create("tls-only", &[]).await;
    let (files, authority) = (Files::of(fleet, "only"), Authority::new());
    let shown = files.shown(&authority.issue("router", &["127.0.0.1"]));
    let router = router(fleet, &[&[mode("require")][..], &shown].concat()).await;
    let config = fleet.config("tls-only");
    let refusal = connect(&router.through(&config)).await.expect_err("a refusal");
    assert_eq!(code(&refusal), "28000");
    assert!(message(&refusal).contains("TLS"), "{refusal:?}");
    let client = Tls::new(&authority, None).connect(&secure(&config, &router)).await.unwrap();
    client.run("SELECT 1").await;
}

async fn a_driver_binds_its_channel_and_pipes_much_through_it(fleet: &Fleet) {
    fleet.create("tls-much", &[]).await;
    let (files, authority) = (Files::of(fleet, "much"), Authority::new());
    let shown = files.shown(&authority.issue("router", &["127.0.0.1"]));
    let router = router(fleet, &[&[mode("prefer")][..], &shown].concat()).await;
    let mut config = secure(&fleet.config("tls-much"), &router);
    config.channel_binding(ChannelBinding::Require);
    let client = Tls::new(&authority, None).connect(&config).await.unwrap();
    let text = "x".repeat(5_000_000);
    // Both ways, in records that come in pieces.
    let row = client.query_one("SELECT $1::text || 'y'", &[&text]).await.unwrap();
    assert_eq!(row.get::<_, String>(0).len(), text.len() + 1);
    let many = (0..200_i64).map(|n| {
        let client = &client;
        async move { client.query_one("SELECT $1::int8 + 1", &[&n]).await.unwrap().get::<_, i64>(0) }
    });
    let sums: Vec<i64> = futures_util::future::join_all(many).await;
    assert_eq!(sums, (1..=200).collect::<Vec<i64>>());
    let token = client.cancel_token();
    let cancel = async {
        until("the statement to run", async || {
            token.cancel_query(Tls::new(&authority, None).connector()).await.unwrap();
            let rows = fleet.connect("tls-much").await;
            let running = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' \
                AND state = 'active'";
            (rows.number(running).await == 0).then_some(())
        })
        .await;
    };
    let (cancelled, ()) = tokio::join!(client.batch_execute("SELECT pg_sleep(600)"), cancel);
    assert_eq!(code(&cancelled.unwrap_err()), "57014");
}

async fn tls_without_a_request_needs_alpn(fleet: &Fleet) {
    fleet.create("tls-direct", &[]).await;
    let (files, authority) = (Files::of(fleet, "direct"), Authority::new());
    let shown = files.shown(&authority.issue("router", &["127.0.0.1"]));
    let router = router(fleet, &[&[mode("require")][..], &shown].concat()).await;
    let mut config = secure(&fleet.config("tls-direct"), &router);
    config.ssl_negotiation(SslNegotiation::Direct);
    let tls = Tls::new(&authority, None);
    tls.connect(&config).await.unwrap().run("SELECT 1").await;
    let refusal = tls.without_alpn().connect(&config).await.expect_err("a refusal");
    assert_eq!(code(&refusal), "08P01");
    // After a request for it, as older drivers ask.
    config.ssl_negotiation(SslNegotiation::Postgres);
    tls.without_alpn().connect(&config).await.unwrap().run("SELECT 1").await;
}

/// The request for TLS.
fn ssl_request() -> BytesMut {
    let mut bytes = BytesMut::new();
    frontend::ssl_request(&mut bytes);
    bytes
}

async fn what_is_sent_before_the_handshake_is_not_believed(fleet: &Fleet) {
    fleet.create("tls-early", &[]).await;
    let (files, authority) = (Files::of(fleet, "early"), Authority::new());
    let shown = files.shown(&authority.issue("router", &["127.0.0.1"]));
    let router = router(fleet, &[&[mode("allow")][..], &shown].concat()).await;
    let mut stream = TcpStream::connect(("127.0.0.1", router.port)).await.unwrap();
    let mut bytes = ssl_request();
    frontend::startup_message([("user", "mallory")], &mut bytes).unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer[0], b'E', "a refusal, and no word of TLS");
    assert!(String::from_utf8_lossy(&answer).contains("unencrypted data"));
}

async fn handshakes_that_fail_hit_nobody_else(fleet: &Fleet) {
    fleet.create("tls-cut", &[]).await;
    let (files, authority) = (Files::of(fleet, "cut"), Authority::new());
    let shown = files.shown(&authority.issue("router", &["127.0.0.1"]));
    let router = router(fleet, &[&[mode("allow")][..], &shown].concat()).await;
    let config = secure(&fleet.config("tls-cut"), &router);
    let tls = Tls::new(&authority, None);
    let client = tls.connect(&config).await.unwrap();
    for garbage in [&b""[..], b"\x16", b"\x16\x03\x01\x00\x05hello", b"GET / HTTP/1.1\r\n\r\n", &[0; 70_000]]
    {
        let mut stream = TcpStream::connect(("127.0.0.1", router.port)).await.unwrap();
        stream.write_all(&ssl_request()).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'S');
        // It may be told to go before it has said all.
        drop(stream.write_all(garbage).await);
        drop(stream);
    }
    let failed = "tenantry_router_logins_total{outcome=\"tls_failed\"}";
    until("them to be counted", async || (router.metrics().await.get(failed) >= 5.0).then_some(())).await;
    let stranger = Tls::new(&Authority::new(), None).connect(&config).await;
    assert!(stranger.is_err(), "a client that does not know the authority");
    client.run("SELECT 1").await;
    tls.connect(&config).await.unwrap().run("SELECT 1").await;
}

async fn handshakes_that_are_cut_in_the_middle_hold_up_nobody(fleet: &Fleet) {
    const MANY: usize = 300;
    fleet.create("tls-many", &[]).await;
    let (files, authority) = (Files::of(fleet, "many"), Authority::new());
    let shown = files.shown(&authority.issue("router", &["127.0.0.1"]));
    let router = router(fleet, &[&[mode("require")][..], &shown].concat()).await;
    let config = secure(&fleet.config("tls-many"), &router);
    let tls = Tls::new(&authority, None);
    let client = tls.connect(&config).await.unwrap();
    let hello = tls.hello();
    let mut held = Vec::new();
    for number in 0..MANY {
        let mut stream = TcpStream::connect(("127.0.0.1", router.port)).await.unwrap();
        stream.write_all(&ssl_request()).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'S');
        // A part of what comes first, or all of it and no word after the answer.
        stream.write_all(&hello[..hello.len() * (number % 10 + 1) / 10]).await.unwrap();
        match number % 3 {
            0 => drop(stream),
            // Without a goodbye, as when a machine dies.
            1 => drop(stream.set_zero_linger()),
            _ => held.push(stream),
        }
        if number % 10 == 0 {
            client.run("SELECT 1").await;
            tls.connect(&config).await.unwrap().run("SELECT 1").await;
        }
    }
    drop(held);
    let failed = "tenantry_router_logins_total{outcome=\"tls_failed\"}";
    until("all to be over", async || (router.metrics().await.get(failed) >= MANY as f64).then_some(())).await;
    client.run("SELECT 1").await;
    tls.connect(&config).await.unwrap().run("SELECT 1").await;
}

async fn client_certificates_are_checked(fleet: &Fleet) {
    fleet.create("tls-clients", &[]).await;
    let config = fleet.user("certified", "tls-clients", &[]).await;
    let (files, authority, own) = (Files::of(fleet, "clients"), Authority::new(), Authority::new());
    let shown = files.shown(&authority.issue("router", &["127.0.0.1"]));
    let known = files.setting("tls_ca_file", "clients.crt", &own.pem());
    let by = |certificate| Tls::new(&authority, certificate);
    let (mine, others) = (own.issue("certified", &[]), own.issue("somebody", &[]));
    let strange = authority.issue("certified", &[]);
    let base = [&shown[..], &[known]].concat();

    let any = router(fleet, &[&[mode("verify-ca")][..], &base].concat()).await;
    let through = secure(&config, &any);
    assert!(by(None).connect(&through).await.is_err(), "no certificate");
    assert!(by(Some(&strange)).connect(&through).await.is_err(), "an authority that is not known");
    by(Some(&others)).connect(&through).await.unwrap().run("SELECT 1").await;
    let mut wrong = secure(&config, &any);
    wrong.password("wrong");
    assert_eq!(code(&by(Some(&mine)).connect(&wrong).await.err().unwrap()), "28P01", "both are needed");

    let full = router(fleet, &[&[mode("verify-full")][..], &base].concat()).await;
    let through = secure(&config, &full);
    assert_eq!(code(&by(Some(&others)).connect(&through).await.err().unwrap()), "28000");
    by(Some(&mine)).connect(&through).await.unwrap().run("SELECT 1").await;

    let alone = [mode("prefer"), "tls_certificate_login=true".to_owned()];
    let alone = router(fleet, &[&alone[..], &base].concat()).await;
    let mut wrong = secure(&config, &alone);
    wrong.password("wrong");
    by(Some(&mine)).connect(&wrong).await.unwrap().run("SELECT 1").await;
    assert_eq!(code(&by(Some(&others)).connect(&wrong).await.err().unwrap()), "28P01");
    assert_eq!(code(&by(None).connect(&wrong).await.err().unwrap()), "28P01");
    by(None).connect(&secure(&config, &alone)).await.unwrap().run("SELECT 1").await;
}

async fn a_certificate_is_replaced_while_sessions_go_on(fleet: &Fleet) {
    fleet.create("tls-renewed", &[]).await;
    let (files, old, new) = (Files::of(fleet, "renewed"), Authority::new(), Authority::new());
    let shown = files.shown(&old.issue("router", &["127.0.0.1"]));
    let router = router(fleet, &[&[mode("require")][..], &shown].concat()).await;
    let config = secure(&fleet.config("tls-renewed"), &router);
    let client = Tls::new(&old, None).connect(&config).await.unwrap();
    // A file that is half there changes nothing.
    files.write("server.crt", "-----BEGIN CERTIFICATE-----\n");
    until("the log to say so", async || router.log().contains("stays as it was").then_some(())).await;
    Tls::new(&old, None).connect(&config).await.unwrap().run("SELECT 1").await;
    files.shown(&new.issue("router", &["127.0.0.1"]));
    until("the new one to be shown", async || Tls::new(&new, None).connect(&config).await.ok()).await;
    assert!(Tls::new(&old, None).connect(&config).await.is_err());
    client.run("SELECT 1").await;
    let end = "tenantry_router_certificate_expiry_timestamp_seconds{shown_to=\"clients\"}";
    assert_eq!(router.metrics().await.get(end), Authority::END_S as f64);
}

async fn the_host_that_a_client_asks_for_names_its_tenant(fleet: &Fleet) {
    for tenant in ["tls-host", "tls-named"] {
        fleet.create(tenant, &[]).await;
    }
    let (files, authority) = (Files::of(fleet, "host"), Authority::new());
    let shown = files.shown(&authority.issue("router", &["*.db.example.com"]));
    let settings = [mode("prefer"), "tls_sni_domain=db.example.com".to_owned()];
    let router = router(fleet, &[&settings[..], &shown].concat()).await;
    let mut config = Config::new();
    config.host("tls-host.db.example.com").hostaddr([127, 0, 0, 1].into()).port(router.port);
    config.user(fleet.variable("TENANTRY_USER")).password(fleet.variable("TENANTRY_PASSWORD"));
    config.dbname("app").ssl_mode(SslMode::Require);
    let tls = Tls::new(&authority, None);
    let database = async |config: &Config| {
        tls.connect(config).await.unwrap().column("SELECT current_database()").await.remove(0)
    };
    let by_database = connect(&router.through(&fleet.config("tls-host"))).await.unwrap();
    let host = by_database.column("SELECT current_database()").await.remove(0);
    let by_database = connect(&router.through(&fleet.config("tls-named"))).await.unwrap();
    let named = by_database.column("SELECT current_database()").await.remove(0);
    assert_eq!(database(&config).await, host, "the host comes before the database");
    let mut in_user = config.clone();
    in_user.user(format!("{}.tls-named", fleet.variable("TENANTRY_USER")));
    assert_eq!(database(&in_user).await, named, "the user comes before the host");
    in_user.options("-c tenant=tls-host");
    assert_eq!(database(&in_user).await, host, "the option comes first of all");
}

/// Writes a file where a server has its own.
pub(crate) async fn write_file(superuser: &tokio_postgres::Client, name: &str, text: &str) {
    let rows: Vec<String> = text.lines().map(|line| format!("('{}')", line.replace('\'', "''"))).collect();
    let rows = rows.join(",");
    superuser.run(&format!("COPY (VALUES {rows}) TO PROGRAM 'umask 077; cat > {name}'")).await;
}

/// Lets a server do TLS with this certificate.
async fn give_tls(fleet: &Fleet, server: &str, certificate: &crate::harness::tls::Certificate) {
    let client = fleet.direct(server, "postgres").await;
    for (file, text) in [("server.crt", &certificate.pem), ("server.key", &certificate.key)] {
        write_file(&client, file, text).await;
    }
    client.run("ALTER SYSTEM SET ssl = on").await;
    client.run("SELECT pg_reload_conf()").await;
    until("the server to do TLS", async || {
        let client = fleet.direct(server, "postgres").await;
        (client.column("SHOW ssl").await == ["on"]).then_some(())
    })
    .await;
}

async fn servers_are_spoken_to_with_tls(fleet: &mut Fleet) {
    fleet.create("tls-behind", &[]).await;
    let server = fleet.tenant("tls-behind").await["server"].as_str().unwrap().to_owned();
    let (files, authority) = (Files::of(fleet, "servers"), Authority::new());
    let config = fleet.config("tls-behind");
    let ca = files.setting("server_tls_ca_file", "ca.crt", &authority.pem());
    let by = |mode: &str| [format!("server_tls_mode={mode}"), ca.clone()];
    let is_secure = async |router: &Router| {
        let client = connect(&router.through(&config)).await.unwrap();
        client.column("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").await.remove(0)
    };

    let prefers = router(fleet, &by("prefer")).await;
    assert_eq!(is_secure(&prefers).await, "f", "the server does not do TLS yet");
    let requires = router(fleet, &["server_tls_mode=require".to_owned()]).await;
    assert_eq!(code(&connect(&requires.through(&config)).await.err().unwrap()), "57P03");

    let host = "127.0.0.1";
    give_tls(fleet, &server, &authority.issue("server", &[host])).await;
    for mode in ["require", "verify-ca", "verify-full"] {
        assert_eq!(is_secure(&router(fleet, &by(mode)).await).await, "t", "{mode}");
    }
    let full = router(fleet, &by("verify-full")).await;
    let mut raw = Raw::login(&full.through(&config), &[]).await;
    raw.query("SELECT repeat('x', 3000000) || 'y'");
    assert!(raw.replies(1).await.iter().any(|reply| reply.starts_with("D:x") && reply.ends_with("xy")));
    let client = connect(&full.through(&config)).await.unwrap();
    let token = client.cancel_token();
    let stop = async {
        let watcher = fleet.direct(&server, "postgres").await;
        let running = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' \
            AND state = 'active'";
        until("the statement to run", async || (watcher.number(running).await == 1).then_some(())).await;
        token.cancel_query(tokio_postgres::NoTls).await.unwrap();
    };
    let (cancelled, ()) = tokio::join!(client.batch_execute("SELECT pg_sleep(600)"), stop);
    assert_eq!(code(&cancelled.unwrap_err()), "57014");

    // The right authority, and another host's name.
    give_tls(fleet, &server, &authority.issue("server", &["db.example.com"])).await;
    assert_eq!(is_secure(&router(fleet, &by("verify-ca")).await).await, "t");
    let full = router(fleet, &by("verify-full")).await;
    assert_eq!(code(&connect(&full.through(&config)).await.err().unwrap()), "57P03");
    // Another authority; then that certificate itself.
    let strange = Authority::new().issue("server", &[host]);
    give_tls(fleet, &server, &strange).await;
    let verifies = router(fleet, &by("verify-ca")).await;
    assert_eq!(code(&connect(&verifies.through(&config)).await.err().unwrap()), "57P03");
    let itself = files.setting("server_tls_ca_file", "itself.crt", &strange.pem);
    let pinned = router(fleet, &["server_tls_mode=verify-full".to_owned(), itself]).await;
    assert_eq!(is_secure(&pinned).await, "t");
}

async fn a_server_that_asks_for_a_certificate_gets_the_routers(fleet: &mut Fleet) {
    fleet.create("tls-mutual", &["--server", "pg-1"]).await;
    let (files, authority, own) = (Files::of(fleet, "mutual"), Authority::new(), Authority::new());
    let admin = fleet.direct("pg-1", "postgres").await;
    write_file(&admin, "routers.crt", &own.pem()).await;
    admin.run("ALTER SYSTEM SET ssl_ca_file = 'routers.crt'").await;
    let database = "\"tls-mutual\" all all";
    let rules = format!("hostssl {database} scram-sha-256 clientcert=verify-ca\nhostnossl {database} reject");
    let file = admin.column("SHOW hba_file").await.remove(0);
    let before = admin.column("SELECT pg_read_file(current_setting('hba_file'))").await.remove(0);
    write_file(&admin, &file, &format!("{rules}\n{before}").replace('\t', " ")).await;
    give_tls(fleet, "pg-1", &authority.issue("server", &["127.0.0.1"])).await;

    let by = async |shown: Option<&crate::harness::tls::Certificate>| {
        let mut settings = vec!["server_tls_mode=verify-full".to_owned(), "queue_timeout=1s".to_owned()];
        settings.push(files.setting("server_tls_ca_file", "ca.crt", &authority.pem()));
        if let Some(shown) = shown {
            settings.push(files.setting("server_tls_cert_file", "own.crt", &shown.pem));
            settings.push(files.setting("server_tls_key_file", "own.key", &shown.key));
        }
        let router = router(fleet, &settings).await;
        let client = connect(&router.through(&fleet.config("tls-mutual"))).await.map_err(|e| code(&e))?;
        let dn = "SELECT client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        Ok::<_, String>(client.column(dn).await.remove(0))
    };
    let mine = own.issue("the-router", &[]);
    assert!(by(Some(&mine)).await.unwrap().contains("CN=the-router"));
    assert_eq!(by(None).await.unwrap_err(), "57P03");
    assert_eq!(by(Some(&Authority::new().issue("the-router", &[]))).await.unwrap_err(), "57P03");
}

async fn registries_are_asked_with_tls(fleet: &mut Fleet) {
    let (files, authority) = (Files::of(fleet, "registries"), Authority::new());
    let ca = files.setting("server_tls_ca_file", "ca.crt", &authority.pem());
    let strange = files.setting("server_tls_ca_file", "strange.crt", &Authority::new().pem());
    let full = "server_tls_mode=verify-full".to_owned();
    let snapshot = fleet.path().join("old-snapshot");
    let by_snapshot = format!("snapshot_file={}", snapshot.display());
    let first = router(fleet, std::slice::from_ref(&by_snapshot)).await;
    until("a snapshot to be there", async || snapshot.exists().then_some(())).await;
    drop(first);

    // A tenant that the snapshot does not have, and no catalog that would tell.
    fleet.create("tls-later", &[]).await;
    let server = fleet.tenant("tls-later").await["server"].as_str().unwrap().to_owned();
    give_tls(fleet, &server, &authority.issue("server", &["127.0.0.1"])).await;
    let alone = [full, by_snapshot, "catalog_url=postgres://127.0.0.1:1/nothing".to_owned()];
    let config = fleet.config("tls-later");
    let misled = router(fleet, &[&alone[..], &[strange]].concat()).await;
    assert_eq!(code(&connect(&misled.through(&config)).await.err().unwrap()), "57P03");
    let knows = router(fleet, &[&alone[..], &[ca]].concat()).await;
    connect(&knows.through(&config)).await.unwrap().run("SELECT 1").await;
}
