//! A fleet whose catalog and servers take nobody without TLS, and no control plane without a certificate of its own; and
//! what `prefer` means to servers that do no TLS.

use tokio_postgres::Client;

use crate::harness::tls::{Authority, Certificate, Files};
use crate::harness::{Fleet, Sql as _, connect, connect_url, trials, until};
use crate::migrations;
use crate::moves::move_to;
use crate::tls::write_file;

trials! {
    shared who_prefers_tls_does_without_it_where_a_server_has_none,
    own a_fleet_works_where_nobody_is_taken_without_tls,
}

/// What certificates are checked by: those of servers by others, and those of who connects by servers.
struct Authorities<'a> {
    servers: &'a Authority,
    clients: &'a Authority,
}

/// Lets a server show this certificate, and take logins by these rules before its own; returns its data directory.
async fn give_tls(admin: &Client, shown: &Certificate, by: &Authorities<'_>, rules: &str) -> String {
    let (ca, clients) = (by.servers.pem(), by.clients.pem());
    let files =
        [("server.crt", &shown.pem), ("server.key", &shown.key), ("ca.crt", &ca), ("clients.crt", &clients)];
    for (file, text) in files {
        write_file(admin, file, text).await;
    }
    admin.run("ALTER SYSTEM SET ssl_ca_file = 'clients.crt'").await;
    let file = admin.column("SHOW hba_file").await.remove(0);
    let before = admin.column("SELECT pg_read_file(current_setting('hba_file'))").await.remove(0);
    write_file(admin, &file, &format!("{rules}\n{before}").replace('\t', " ")).await;
    admin.run("ALTER SYSTEM SET ssl = on").await;
    admin.run("SELECT pg_reload_conf()").await;
    until("the server to do TLS", async || {
        let rule = "SELECT count(*) FROM pg_hba_file_rules WHERE type = 'hostnossl' AND error IS NULL";
        let read = admin.number(rule).await > 0;
        (read && admin.column("SHOW ssl").await == ["on"]).then_some(())
    })
    .await;
    admin.column("SHOW data_directory").await.remove(0)
}

/// Has both roles started again by their configurations as they are now.
async fn restart(fleet: &Fleet) {
    for role in ["control", "router"] {
        let killed = fleet.process(role);
        fleet.kill_process(role);
        until("dev to start it again", async || fleet.process(role).filter(|new| Some(*new) != killed)).await;
    }
    until("both to serve again", async || (fleet.cli(&["doctor"]).await.status == 0).then_some(())).await;
}

/// How the control plane's file looks with these keys for servers and this catalog.
fn control_with(fleet: &Fleet, files: &Files, keys: &str, catalog_url: &str) -> String {
    let before = std::fs::read_to_string(fleet.path().join("control.toml")).unwrap();
    let secret = files.write("catalog_url", catalog_url);
    let others: Vec<&str> = before
        .lines()
        .filter(|line| !line.starts_with("server_tls_") && !line.contains("catalog_url"))
        .collect();
    let text = format!("catalog_url_file = \"{}\"\n{keys}\n{}", secret.display(), others.join("\n"));
    files.write("control.toml", &text).display().to_string()
}

/// What `map verify` says of servers that it can't reach, with a file of [`control_with`].
async fn unreachable(fleet: &Fleet, config: &str) -> Vec<String> {
    let found = fleet.cli_in(&[("TENANTRY_MAP_CONFIG", config)], &["map", "verify"]).await.json();
    let found = found.as_array().unwrap().iter().filter(|finding| finding["kind"] == "unreachable_server");
    found.map(|finding| finding["detail"].as_str().unwrap().to_owned()).collect()
}

async fn who_prefers_tls_does_without_it_where_a_server_has_none(fleet: &Fleet) {
    let files = Files::of(fleet, "prefers");
    let catalog = fleet.variable("TENANTRY_CATALOG_URL");
    let prefers = format!("{catalog}?sslmode=prefer");
    let config = control_with(fleet, &files, "server_tls_mode = \"prefer\"", &prefers);
    assert_eq!(unreachable(fleet, &config).await, [""; 0]);
    let config = control_with(fleet, &files, "server_tls_mode = \"require\"", &prefers);
    let why = unreachable(fleet, &config).await;
    assert!(why.len() == 3 && why.iter().all(|why| why.contains("does not support TLS")), "{why:?}");
    let requires = format!("{catalog}?sslmode=require");
    let config = control_with(fleet, &files, "", &requires);
    let line = fleet.cli_in(&[("TENANTRY_MAP_CONFIG", &config)], &["map", "verify"]).await.error(5);
    assert!(line.contains("does not support TLS"), "{line}");
}

/// A certificate and its key, as paths.
struct Own {
    cert: String,
    key: String,
}

impl Own {
    fn issue(files: &Files, name: &str, authority: &Authority) -> Self {
        let own = authority.issue("the-fleet", &[]);
        let write = |end: &str, text| files.write(&format!("{name}.{end}"), text).display().to_string();
        Self { cert: write("crt", &own.pem), key: write("key", &own.key) }
    }

    /// How the control plane is told to show it to servers.
    fn keys(&self) -> String {
        let Self { cert, key } = self;
        format!("server_tls_cert_file = \"{cert}\"\nserver_tls_key_file = \"{key}\"\n")
    }
}

fn checked(mode: &str, ca: &str) -> String {
    format!("server_tls_mode = \"{mode}\"\nserver_tls_ca_file = \"{ca}\"\n")
}

fn catalog_url(fleet: &Fleet, ca: &str, Own { cert, key }: &Own) -> String {
    let plain = fleet.variable("TENANTRY_CATALOG_URL");
    format!("{plain}?sslmode=verify-full&sslrootcert={ca}&sslcert={cert}&sslkey={key}")
}

fn write_before(fleet: &Fleet, file: &str, keys: &str) {
    let file = fleet.path().join(file);
    let before = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{keys}{before}")).unwrap();
}

/// As long as no server does TLS, who prefers it goes without, a move's own connections included.
async fn moves_where_no_server_does_tls(fleet: &Fleet) {
    let control = fleet.path().join("control.toml");
    let before = std::fs::read_to_string(&control).unwrap();
    write_before(fleet, "control.toml", "server_tls_mode = \"prefer\"\n");
    restart(fleet).await;
    fleet.create("secured", &["--server", "pg-2"]).await;
    move_to(fleet, "secured", "pg-1").await;
    std::fs::write(&control, before).unwrap();
}

/// Lets catalog and servers take nobody without TLS, and no control plane without a certificate; returns where the last
/// server has the file of authorities.
async fn insist(fleet: &Fleet, shown: &Certificate, by: &Authorities<'_>) -> String {
    let admin = connect_url(fleet.variable("TENANTRY_CATALOG_URL"), "postgres").await;
    let rules = "hostssl tenantry_catalog all all scram-sha-256 clientcert=verify-ca\n\
        hostnossl tenantry_catalog all all reject";
    give_tls(&admin, shown, by, rules).await;
    let mut data = String::new();
    for server in ["pg-1", "pg-2", "pg-3"] {
        let admin = fleet.direct(server, "postgres").await;
        let user = admin.column("SELECT current_user").await.remove(0);
        let rules = format!(
            "hostssl all,replication tenantry_control all scram-sha-256 clientcert=verify-ca\n\
             hostnossl all {user} all scram-sha-256\nhostnossl all all all reject"
        );
        data = give_tls(&admin, shown, by, &rules).await;
    }
    format!("{data}/ca.crt")
}

async fn a_fleet_works_where_nobody_is_taken_without_tls(fleet: &mut Fleet) {
    let (files, authority, clients) = (Files::of(fleet, "fleet"), Authority::new(), Authority::new());
    let by = Authorities { servers: &authority, clients: &clients };
    let ca = files.write("ca.crt", &authority.pem()).display().to_string();
    let mine = Own::issue(&files, "mine", &clients);
    moves_where_no_server_does_tls(fleet).await;

    let on_servers = insist(fleet, &authority.issue("server", &["127.0.0.1"]), &by).await;
    let streams = format!("server_tls_ca_file_on_servers = \"{on_servers}\"\n");
    write_before(fleet, "control.toml", &(checked("verify-full", &ca) + &mine.keys() + &streams));
    write_before(fleet, "router.toml", &checked("verify-full", &ca));
    std::fs::write(fleet.path().join("secrets/catalog_url"), catalog_url(fleet, &ca, &mine)).unwrap();
    restart(fleet).await;

    let migration = migrations::Files::new(&[("V1__table.sql", "CREATE TABLE t (a int PRIMARY KEY)")]);
    fleet.cli(&["migrate", "run", "--dir", migration.path()]).await.ok();
    let client =
        until("the router to hear of it", async || connect(&fleet.config("secured")).await.ok()).await;
    client.run("INSERT INTO t SELECT generate_series(1, 1000)").await;
    move_to(fleet, "secured", "pg-3").await;
    assert_eq!(client.number("SELECT count(*) FROM t").await, 1000);
    assert_eq!(client.column("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").await, ["t"]);
    nobody_is_told_anything_by_strangers(fleet, &files, (&ca, &mine)).await;
}

/// Nothing is told to whom it can't be told from, and nothing in the clear by who only prefers TLS; and nobody is taken
/// without a certificate, or with one of another authority.
async fn nobody_is_told_anything_by_strangers(fleet: &Fleet, files: &Files, (ca, mine): (&str, &Own)) {
    let bad = files.write("bad.crt", &Authority::new().pem()).display().to_string();
    let strange = Own::issue(files, "strange", &Authority::new());
    let refused = async |keys: &str, why: &str| {
        let config = control_with(fleet, files, keys, &catalog_url(fleet, ca, mine));
        let found = unreachable(fleet, &config).await;
        assert!(found.len() == 3 && found.iter().all(|found| found.contains(why)), "{found:?}");
    };
    for mode in ["prefer", "verify-full"] {
        refused(&(checked(mode, &bad) + &mine.keys()), "TLS: invalid peer certificate").await;
    }
    refused(&checked("verify-full", ca), "requires a valid client certificate").await;
    refused(&(checked("verify-full", ca) + &strange.keys()), "received fatal alert").await;

    let refused = async |url: &str, why: &str| {
        std::fs::write(fleet.path().join("secrets/catalog_url"), url).unwrap();
        let output = fleet.cli(&["map", "verify"]).await;
        assert!(output.stderr.contains(why), "{}", output.stderr);
        output
    };
    let why = "the catalog can't be reached: TLS: invalid peer certificate";
    refused(&catalog_url(fleet, &bad, mine), why).await.exits(5);
    let without = format!("{}?sslmode=verify-full", fleet.variable("TENANTRY_CATALOG_URL"));
    let why = "requires a valid client certificate";
    refused(&format!("{without}&sslrootcert={ca}"), why).await.exits(5);
    refused(&catalog_url(fleet, ca, &strange), "received fatal alert").await.exits(5);
    refused(&without, "sslrootcert: verify-full needs a file").await;
}
