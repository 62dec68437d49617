//! Tests of the layers: which one wins, and what is said when one is wrong.

use serde::Deserialize;

use super::*;

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Sample {
    listen: String,
    workers: u32,
    name: Option<String>,
    limits: Limits,
}

#[derive(Debug, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Limits {
    clients_max: u32,
}

impl Default for Sample {
    fn default() -> Self {
        Self { listen: "127.0.0.1:1".into(), workers: 2, name: None, limits: Limits::default() }
    }
}

impl Sample {
    fn validate(&self) -> Result<(), String> {
        if self.workers == 0 { Err("workers: use 1 or more".to_owned()) } else { Ok(()) }
    }
}

/// A directory with secrets and a configuration file; gone at the end.
struct Dir(PathBuf);

impl Dir {
    fn new(config: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("tenantry-config-{:016x}", rand::random::<u64>()));
        std::fs::create_dir(&dir).unwrap();
        let this = Self(dir);
        this.write("url", "postgres://a:b@c/d\n");
        this.write("key", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n");
        this.write("token", "0123456789abcdef\n");
        let path = |name: &str| this.0.join(name).display().to_string();
        let secrets = format!(
            "catalog_url_file = {:?}\nmaster_key_file = {:?}\ntoken_file = {:?}\n",
            path("url"),
            path("key"),
            path("token")
        );
        this.write("config.toml", &format!("{secrets}{config}"));
        this
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn read(&self, env: &[(&str, &str)], sets: &[&str]) -> Result<(Sample, Secrets), Failure> {
        let env: Vec<_> = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let sets: Vec<_> = sets.iter().map(|set| (*set).to_owned()).collect();
        let layers = Layers::new(Role::Control, Some(&self.0.join("config.toml")), &env, &sets)?;
        layers.read(Sample::validate)
    }

    fn error(&self, env: &[(&str, &str)], sets: &[&str]) -> String {
        let failure = self.read(env, sets).map(drop).unwrap_err();
        assert_eq!(failure.exit, crate::cli::failure::Exit::Usage);
        failure.message.replace(&self.0.display().to_string(), "DIR")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn flags_win_over_the_environment_which_wins_over_the_file() {
    let dir = Dir::new("workers = 3\nlisten = 'file:1'\n[limits]\nclients_max = 5\n");
    assert_eq!(dir.read(&[], &[]).unwrap().0.workers, 3);
    let env = [("TENANTRY_CONTROL_WORKERS", "4"), ("TENANTRY_CONTROL_LIMITS__CLIENTS_MAX", "6")];
    let (config, _) = dir.read(&env, &["workers=5", "name=7"]).unwrap();
    assert_eq!((config.workers, config.limits.clients_max), (5, 6));
    assert_eq!((config.listen.as_str(), config.name.as_deref()), ("file:1", Some("7")));
    let (config, _) = dir.read(&env, &["limits.clients_max=7"]).unwrap();
    assert_eq!((config.workers, config.limits.clients_max), (4, 7));
}

#[test]
fn an_error_names_the_place_the_key_and_what_is_allowed() {
    let all = "catalog_url, catalog_url_file, limits, listen, master_key_file, name, token_file, workers";
    assert_eq!(
        Dir::new("workres = 3\n").error(&[], &[]),
        format!("DIR/config.toml: workres: unknown key; allowed are {all}")
    );
    assert_eq!(
        Dir::new("workers = 'x'\n").error(&[], &[]),
        "DIR/config.toml: workers: invalid type: string \"x\", expected u32"
    );
    assert_eq!(
        Dir::new("[limits]\nclient_max = 1\n").error(&[], &[]),
        "DIR/config.toml: limits.client_max: unknown key; allowed are clients_max"
    );
    let dir = Dir::new("");
    assert_eq!(
        dir.error(&[("TENANTRY_CONTROL_WORKERS", "x")], &[]),
        "environment variable TENANTRY_CONTROL_WORKERS: workers: invalid type: string \"x\", expected u32"
    );
    assert!(dir.error(&[], &["workers=-1"]).starts_with("--set workers: invalid value: integer `-1`"));
    assert!(dir.error(&[], &["workres=1"]).starts_with("--set workres: unknown key; allowed are"));
    assert_eq!(dir.error(&[], &["workers"]), "--set \"workers\" is not allowed: write key=value");
    assert_eq!(dir.error(&[], &["workers=0"]), "--set workers: use 1 or more");
    assert!(Dir::new("a = \n").error(&[], &[]).starts_with("DIR/config.toml line 4: "));
}

/// Every key of an annotated example, those that are commented out included.
fn uncommented(example: &str) -> String {
    let is_key = |line: &str| {
        let key = line.split_once(" = ").map_or("", |(key, _)| key);
        !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
    };
    let lines = example.lines().map(|line| match line.strip_prefix("# ") {
        Some(inner) if is_key(inner) => inner,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Checks an annotated example as it is, and with all that it comments out.
fn check_example<T: DeserializeOwned>(role: Role, example: &str, validate: fn(&T) -> Result<(), String>) {
    let dir = Dir::new("");
    let secrets = [("catalog_url_file", "url"), ("master_key_file", "key"), ("token_file", "token")];
    let sets: Vec<String> = (secrets.iter().filter(|(key, _)| role.secret_keys().contains(key)))
        .map(|(key, file)| format!("{key}={}", dir.0.join(file).display()))
        .collect();
    for (name, text) in [("as-it-is.toml", example.to_owned()), ("all.toml", uncommented(example))] {
        dir.write(name, &text);
        let layers = Layers::new(role, Some(&dir.0.join(name)), &[], &sets).unwrap();
        layers.read(validate).map(drop).unwrap();
    }
}

#[test]
fn the_annotated_examples_are_read_with_all_that_they_comment_out() {
    check_example::<router::RouterConfig>(
        Role::Router,
        include_str!("../../ops/config/router.toml"),
        |config| config.validate().map_err(|error| error.to_string()),
    );
    check_example(
        Role::Control,
        include_str!("../../ops/config/control.toml"),
        control::ControlConfig::validate,
    );
}

#[test]
fn a_routers_environment_may_hold_what_is_for_its_clients() {
    let env = [("TENANTRY_ROUTER_HOST".to_owned(), "x".to_owned())];
    assert!(Layers::new(Role::Router, None, &env, &[]).unwrap().overrides.is_empty());
}

#[test]
fn secrets_are_read_and_wide_files_are_warned_of() {
    let dir = Dir::new("");
    let (_, secrets) = dir.read(&[], &[]).unwrap();
    assert_eq!(secrets.catalog_url.as_deref(), Some("postgres://a:b@c/d"));
    assert_eq!(secrets.token.as_deref(), Some("0123456789abcdef"));
    assert!(secrets.warnings.is_empty());
    let wide = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(dir.0.join("key"), wide).unwrap();
    let (_, secrets) = dir.read(&[("TENANTRY_CONTROL_CATALOG_URL", "postgres://env")], &[]).unwrap();
    assert_eq!(
        secrets.catalog_url.as_deref(),
        Some("postgres://env"),
        "a stronger layer wins, whichever key it uses"
    );
    assert!(secrets.warnings[0].contains("has mode 0644"), "{:?}", secrets.warnings);
}

#[test]
fn unusable_secrets_are_refused_without_being_shown() {
    let dir = Dir::new("");
    dir.write("key", "c2hvcnQ=");
    let message = dir.error(&[], &[]);
    assert!(message.starts_with("DIR/config.toml: master_key_file: DIR/key: a master key is"), "{message}");
    let dir = Dir::new("");
    dir.write("token", "short");
    let message = dir.error(&[], &[]);
    assert!(message.contains("16 or more") && !message.contains("short"), "{message}");
    let dir = Dir::new("catalog_url = 'postgres://x'\n");
    assert!(dir.error(&[], &[]).contains("not both"));
    for role in [Role::Control, Role::Router] {
        let layers = Layers::new(role, None, &[], &[]).unwrap();
        let failure = layers.read(Sample::validate).map(drop).unwrap_err();
        let name = format!("environment variable {}MASTER_KEY_FILE", role.env_prefix());
        assert_eq!(failure.message, format!("{name}: master_key_file is missing"));
    }
    let key = [("TENANTRY_ROUTER_MASTER_KEY_FILE".to_owned(), dir.0.join("key").display().to_string())];
    let (_, secrets) = Layers::new(Role::Router, None, &key, &[]).unwrap().read(Sample::validate).unwrap();
    assert!(secrets.catalog_url.is_none() && secrets.token.is_none());
}
