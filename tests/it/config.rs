//! A wrong configuration is refused in one line that names where it stands, the key, and what is allowed.

use std::fs;
use std::net::TcpListener;

use tempfile::TempDir;

use crate::harness::{Output, tenantry, trials};

trials! {
    plain an_unknown_key_is_refused_and_the_known_ones_are_named,
    plain a_bad_value_is_refused_with_what_is_allowed,
    plain the_place_of_a_wrong_value_is_named,
    plain a_missing_secret_is_named,
    plain a_file_that_is_no_toml_is_refused_with_its_line,
    plain help_shows_an_example_for_every_command,
    plain completions_are_printed_for_shells,
    plain a_port_in_use_is_one_clear_line,
    plain a_store_for_dumps_that_cannot_be_meant_is_refused_without_what_was_written,
}

/// A directory with a configuration file of a role, with secrets that are well-formed.
struct Configured {
    dir: TempDir,
    role: &'static str,
}

impl Configured {
    fn new(role: &'static str, keys: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        fs::write(path("key"), "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").unwrap();
        fs::write(path("token"), "0123456789abcdef0123456789abcdef").unwrap();
        fs::write(path("url"), "postgres://nobody:nothing@127.0.0.1:1/nowhere").unwrap();
        let mut text = format!("master_key_file = {:?}\ncatalog_url_file = {:?}\n", path("key"), path("url"));
        if role == "control" {
            text.push_str(&format!("token_file = {:?}\n", path("token")));
        }
        fs::write(path("config.toml"), text + keys).unwrap();
        Self { dir, role }
    }

    fn file(&self) -> String {
        self.dir.path().join("config.toml").display().to_string()
    }

    async fn run(&self, more: &[&str], variables: &[(&str, &str)]) -> Output {
        let file = self.file();
        let args = [&[self.role, "--config", &file], more].concat();
        tenantry(&args, variables).await
    }

    async fn error(&self) -> String {
        self.run(&[], &[]).await.error(2)
    }
}

async fn an_unknown_key_is_refused_and_the_known_ones_are_named() {
    for role in ["router", "control"] {
        let configured = Configured::new(role, "lisen = \"127.0.0.1:0\"\n");
        let error = configured.error().await;
        assert!(error.contains(&configured.file()) && error.contains("lisen"), "{error}");
        assert!(error.contains("unknown key") && error.contains("listen"), "{error}");
    }
}

async fn a_bad_value_is_refused_with_what_is_allowed() {
    let cases = [
        ("router", "clients_max = 0", "clients_max", "1 to"),
        ("router", "clients_max = \"many\"", "clients_max", ""),
        ("router", "queue_timeout = 5", "queue_timeout", ""),
        ("router", "queue_timeout = \"5 parsecs\"", "queue_timeout", "\"10s\""),
        ("router", "listen = \"everywhere\"", "listen", ""),
        ("control", "lease_duration = \"10ms\"", "lease_duration", "1s"),
        ("control", "copy_workers = 0", "copy_workers", "1 or more"),
        ("control", "router_lost_after = \"1s\"", "router_lost_after", "router_timeout or more"),
        ("control", "delete_grace = \"tomorrow\"", "delete_grace", "ms, s, m, h or d"),
    ];
    for (role, keys, key, allowed) in cases {
        let error = Configured::new(role, keys).error().await;
        assert!(error.contains(key) && error.contains(allowed), "{keys}: {error}");
    }
}

async fn the_place_of_a_wrong_value_is_named() {
    let configured = Configured::new("router", "clients_max = 10\n");
    let error = configured.run(&["--set", "clients_max=0"], &[]).await.error(2);
    assert!(error.contains("--set clients_max") || error.contains("--set: clients_max"), "{error}");
    let variables = [("TENANTRY_ROUTER_QUEUE_TIMEOUT", "soon")];
    let error = configured.run(&[], &variables).await.error(2);
    assert!(error.contains("TENANTRY_ROUTER_QUEUE_TIMEOUT"), "{error}");
}

async fn a_missing_secret_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("control.toml");
    fs::write(&file, "").unwrap();
    let output = tenantry(&["control", "--config", file.to_str().unwrap()], &[]).await.exits(2);
    assert!(output.hint().len() > "hint: ".len());
    let error = output.error(2);
    assert!(error.contains("control.toml") && error.contains("_file"), "{error}");
    let error = tenantry(&["control", "--config", "/nowhere/at/all.toml"], &[]).await.error(2);
    assert!(error.contains("/nowhere/at/all.toml"), "{error}");
}

async fn a_file_that_is_no_toml_is_refused_with_its_line() {
    let configured = Configured::new("router", "\n\nthis is no toml\n");
    let error = configured.error().await;
    assert!(error.contains(&configured.file()) && error.contains("line 5"), "{error}");
}

async fn help_shows_an_example_for_every_command() {
    let top = tenantry(&["--help"], &[]).await.exits(0).stdout;
    let commands = |text: &str| -> Vec<String> {
        let list = text.split("Commands:\n").nth(1).unwrap_or_default();
        let lines = list.lines().take_while(|line| line.starts_with("  "));
        let names = lines.filter_map(|line| line.split_whitespace().next());
        names.filter(|name| *name != "help").map(str::to_owned).collect()
    };
    let nouns = commands(&top);
    for expected in
        ["router", "control", "dev", "demo", "server", "tenant", "user", "migrate", "move", "psql"]
    {
        assert!(nouns.iter().any(|noun| noun == expected), "{expected} is missing: {nouns:?}");
    }
    for noun in &nouns {
        let help = tenantry(&[noun, "--help"], &[]).await.exits(0).stdout;
        assert!(help.contains("Example"), "{noun}: {help}");
        for verb in commands(&help) {
            let help = tenantry(&[noun, &verb, "--help"], &[]).await.exits(0).stdout;
            assert!(help.contains("Example"), "{noun} {verb}: {help}");
        }
    }
    let version = tenantry(&["--version"], &[]).await.exits(0).stdout;
    assert_eq!(version.trim(), concat!("tenantry ", env!("CARGO_PKG_VERSION")));
    tenantry(&["nonsense"], &[]).await.exits(2);
}

async fn completions_are_printed_for_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let text = tenantry(&["completions", shell], &[]).await.exits(0).stdout;
        assert!(text.contains("tenantry") && text.contains("migrate"), "{shell}");
    }
}

async fn a_port_in_use_is_one_clear_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for role in ["router", "control"] {
        let configured = Configured::new(role, &format!("listen = {address:?}\n"));
        let error = configured.run(&["--log", "off"], &[]).await.error(1);
        assert!(error.contains(&address) && error.contains("in use"), "{role}: {error}");
    }
}

async fn a_store_for_dumps_that_cannot_be_meant_is_refused_without_what_was_written() {
    for url in ["https://key:hunter2@host/bucket", "s3://key:hunter2@bucket/prefix", "s3:///prefix"] {
        let error = Configured::new("control", &format!("deleted_dump_dir = {url:?}\n")).error().await;
        assert!(error.contains("deleted_dump_dir: ") && error.contains("s3://bucket/prefix"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    // What the environment adds to it.
    let configured = Configured::new("control", "deleted_dump_dir = \"s3://bucket/prefix\"\n");
    for (variable, value) in [("AWS_ENDPOINT_URL", "minio:9000"), ("AWS_ACCESS_KEY_ID", "half-a-key")] {
        let error = configured.run(&[], &[(variable, value)]).await.error(1);
        assert!(error.contains("AWS_") && !error.contains(value), "{error}");
    }
}
