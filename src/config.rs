//! Configuration of the long-running roles: a file, overridden by the environment, overridden by flags.
//!
//! A router that starts with half of what was meant is worse than one that does not start: an unknown key and a bad
//! value are errors, which name where they stand and what is allowed. The keys themselves belong to the packages that
//! use them (`RouterConfig`, `ControlConfig`); this module only knows how to find their values, and reads the secrets,
//! so that those packages are handed values and never paths.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use shard_map::MasterKey;
use toml::{Table, Value};

use crate::cli::failure::Failure;

/// Largest configuration or secret file.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Mode bits that no secret's file may have: anything for others, and more than reading for its group.
const TOO_WIDE: u32 = 0o037;
/// Shortest token that is accepted.
const TOKEN_LENGTH_MIN: usize = 16;

/// Which role is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// `tenantry router`
    Router,
    /// `tenantry control`
    Control,
}

impl Role {
    fn env_prefix(self) -> &'static str {
        match self {
            Self::Router => "TENANTRY_ROUTER_",
            Self::Control => "TENANTRY_CONTROL_",
        }
    }

    /// Variables with this role's prefix that are for clients, as `tenantry dev` writes them.
    fn is_for_clients(self, key: &str) -> bool {
        self == Self::Router && matches!(key, "host" | "port" | "metrics_port")
    }

    fn secret_keys(self) -> &'static [&'static str] {
        match self {
            Self::Router => &["catalog_url", "catalog_url_file", "master_key_file"],
            Self::Control => &["catalog_url", "catalog_url_file", "master_key_file", "token_file"],
        }
    }
}

/// Where a value was given, the weakest first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    File(PathBuf),
    Environment(String),
    Flag,
}

impl Origin {
    fn layer(&self) -> u8 {
        match self {
            Self::File(_) => 0,
            Self::Environment(_) => 1,
            Self::Flag => 2,
        }
    }

    fn error(&self, key: &str, message: impl fmt::Display) -> Failure {
        Failure::usage(match self {
            Self::File(path) => format!("{}: {key}: {message}", path.display()),
            Self::Environment(name) => format!("environment variable {name}: {key}: {message}"),
            Self::Flag => format!("--set {key}: {message}"),
        })
    }
}

/// What was given, and where.
#[derive(Debug)]
pub(crate) struct Layers {
    role: Role,
    file: Option<PathBuf>,
    base: Table,
    overrides: Vec<(String, String, Origin)>,
}

/// What the packages are handed beside their configuration. A control plane has all of it; a router has no token, and
/// may do without a catalog.
pub(crate) struct Secrets {
    pub(crate) catalog_url: Option<String>,
    pub(crate) master_key: Option<MasterKey>,
    /// Of the API.
    pub(crate) token: Option<String>,
    /// Files that others may read, as sentences.
    pub(crate) warnings: Vec<String>,
}

impl Layers {
    /// Collects the layers of this process.
    pub(crate) fn of_process(role: Role, file: Option<&Path>, sets: &[String]) -> Result<Self, Failure> {
        let mut environment = Vec::new();
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str().filter(|name| name.starts_with(role.env_prefix())) else {
                continue;
            };
            let value = value
                .to_str()
                .ok_or_else(|| Failure::usage(format!("environment variable {name} is not UTF-8")))?;
            environment.push((name.to_owned(), value.to_owned()));
        }
        Self::new(role, file, &environment, sets)
    }

    fn new(
        role: Role,
        file: Option<&Path>,
        environment: &[(String, String)],
        sets: &[String],
    ) -> Result<Self, Failure> {
        let base = file.map_or_else(|| Ok(Table::new()), read_table)?;
        let mut overrides = Vec::new();
        for (name, value) in environment {
            let key = name.strip_prefix(role.env_prefix()).unwrap_or_default();
            let key = key.to_ascii_lowercase().replace("__", ".");
            if !role.is_for_clients(&key) {
                overrides.push((key, value.clone(), Origin::Environment(name.clone())));
            }
        }
        for set in sets {
            let (key, value) = set
                .split_once('=')
                .filter(|(key, _)| !key.trim().is_empty())
                .ok_or_else(|| Failure::usage(format!("--set {set:?} is not allowed: write key=value")))?;
            overrides.push((key.trim().to_owned(), value.trim().to_owned(), Origin::Flag));
        }
        Ok(Self { role, file: file.map(Path::to_owned), base, overrides })
    }

    /// Reads the configuration, and what is secret beside it.
    pub(crate) fn read<T: DeserializeOwned>(
        mut self,
        validate: impl Fn(&T) -> Result<(), String>,
    ) -> Result<(T, Secrets), Failure> {
        let secrets = self.take_secrets()?;
        let allowed = self.role.secret_keys();
        let mut origins = BTreeMap::new();
        let mut merged = Table::new();
        if let Some(file) = self.file {
            for (path, value) in leaves(&self.base, &[]) {
                let origin = Origin::File(file.clone());
                let key = path.join(".");
                probe::<T>(&path, &value, allowed).map_err(|message| origin.error(&key, message))?;
                insert(&mut merged, &path, value);
                origins.insert(key, origin);
            }
        }
        for (key, text, origin) in self.overrides {
            let path: Vec<String> = key.split('.').map(str::to_owned).collect();
            let value = typed::<T>(&path, &text, allowed).map_err(|message| origin.error(&key, message))?;
            insert(&mut merged, &path, value);
            origins.insert(key, origin);
        }
        let config: T = Value::Table(merged).try_into().map_err(|error: toml::de::Error| {
            Failure::usage(format!("configuration: {}", error.message()))
        })?;
        validate(&config).map_err(|message| {
            let (key, rest) = message.split_once(": ").unwrap_or(("", &message));
            match origins.get(key) {
                Some(origin) => origin.error(key, rest),
                None => Failure::usage(format!("configuration: {message}")),
            }
        })?;
        Ok((config, secrets))
    }

    /// Takes a key out of all layers: its strongest value, and where that was given.
    fn take(&mut self, key: &str) -> Result<Option<(String, Origin)>, Failure> {
        let mut found = None;
        if let (Some(value), Some(file)) = (self.base.remove(key), &self.file) {
            let origin = Origin::File(file.clone());
            let Value::String(text) = value else { return Err(origin.error(key, "must be a text")) };
            found = Some((text, origin));
        }
        for (_, text, origin) in self.overrides.extract_if(.., |(given, ..)| given == key) {
            found = Some((text, origin));
        }
        Ok(found)
    }

    fn take_secrets(&mut self) -> Result<Secrets, Failure> {
        let mut warnings = Vec::new();
        let catalog_url = self.take_catalog_url(&mut warnings)?;
        let master_key = match self.take("master_key_file")? {
            None => None,
            Some((path, origin)) => {
                let text = read_secret("master_key_file", &path, &origin, &mut warnings)?;
                let refused = |error| origin.error("master_key_file", format!("{path}: {error}"));
                Some(MasterKey::from_base64(&text).map_err(refused)?)
            }
        };
        let token = self.take_token(&mut warnings)?;
        let secrets = Secrets { catalog_url, master_key, token, warnings };
        let how = "32 random bytes in base64: openssl rand -base64 32";
        self.require("master_key_file", how, secrets.master_key.is_some())?;
        // A router can serve by its snapshot alone.
        if self.role == Role::Control {
            let how = "the catalog's URL: postgres://…";
            self.require("catalog_url_file", how, secrets.catalog_url.is_some())?;
            let how = "the API's bearer token: openssl rand -hex 32";
            self.require("token_file", how, secrets.token.is_some())?;
        }
        Ok(secrets)
    }

    fn take_catalog_url(&mut self, warnings: &mut Vec<String>) -> Result<Option<String>, Failure> {
        let (url, file) = (self.take("catalog_url")?, self.take("catalog_url_file")?);
        match (url, file) {
            (Some((_, a)), Some((_, b))) if a.layer() == b.layer() => {
                Err(b.error("catalog_url_file", "give catalog_url or catalog_url_file, not both"))
            }
            (Some((url, origin)), file) if file.as_ref().is_none_or(|(_, f)| f.layer() < origin.layer()) => {
                if let Origin::File(path) = &origin {
                    warnings.extend(warn_if_wide(path).filter(|_| url.contains('@')));
                }
                Ok(Some(url))
            }
            (_, Some((path, origin))) => read_secret("catalog_url_file", &path, &origin, warnings).map(Some),
            _ => Ok(None),
        }
    }

    fn take_token(&mut self, warnings: &mut Vec<String>) -> Result<Option<String>, Failure> {
        if self.role == Role::Router {
            return Ok(None);
        }
        let Some((path, origin)) = self.take("token_file")? else { return Ok(None) };
        let token = read_secret("token_file", &path, &origin, warnings)?;
        if token.len() < TOKEN_LENGTH_MIN || !token.bytes().all(|b| b.is_ascii_graphic()) {
            let what = format!("{path}: a token is {TOKEN_LENGTH_MIN} or more visible ASCII characters");
            return Err(origin.error("token_file", what));
        }
        Ok(Some(token))
    }

    fn require(&self, key: &str, what: &str, is_there: bool) -> Result<(), Failure> {
        if is_there {
            return Ok(());
        }
        let place = match &self.file {
            Some(file) => file.display().to_string(),
            None => format!("environment variable {}{}", self.role.env_prefix(), key.to_ascii_uppercase()),
        };
        Err(Failure::usage(format!("{place}: {key} is missing"))
            .hint(format!("it names a file that holds {what}")))
    }
}

fn read_table(path: &Path) -> Result<Table, Failure> {
    let text = read_text(path).map_err(|why| Failure::usage(format!("{}: {why}", path.display())))?;
    text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        Failure::usage(format!("{} line {line}: {}", path.display(), error.message()))
    })
}

fn read_text(path: &Path) -> Result<String, String> {
    let size = path.metadata().map_err(|error| error.to_string())?.len();
    if size > FILE_BYTES_MAX {
        return Err("is over 1 MiB".to_owned());
    }
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}

fn read_secret(
    key: &str,
    path: &str,
    origin: &Origin,
    warnings: &mut Vec<String>,
) -> Result<String, Failure> {
    let text = read_text(Path::new(path)).map_err(|why| origin.error(key, format!("{path}: {why}")))?;
    warnings.extend(warn_if_wide(Path::new(path)));
    let text = text.trim();
    if text.is_empty() {
        return Err(origin.error(key, format!("{path}: is empty")));
    }
    Ok(text.to_owned())
}

fn warn_if_wide(path: &Path) -> Option<String> {
    let mode = path.metadata().ok()?.permissions().mode() & 0o777;
    (mode & TOO_WIDE != 0).then(|| {
        let path = path.display();
        format!("{path} holds a secret and has mode {mode:04o}: make it 0600, or 0640 for a group")
    })
}

/// The values of a table that are no tables themselves, with their paths.
fn leaves(table: &Table, above: &[String]) -> Vec<(Vec<String>, Value)> {
    let mut found = Vec::new();
    for (key, value) in table {
        let path: Vec<String> = above.iter().cloned().chain([key.clone()]).collect();
        match value {
            Value::Table(inner) if !inner.is_empty() => found.extend(leaves(inner, &path)),
            other => found.push((path, other.clone())),
        }
    }
    found
}

fn insert(table: &mut Table, path: &[String], value: Value) {
    match path {
        [] => {}
        [last] => {
            table.insert(last.clone(), value);
        }
        [first, rest @ ..] => {
            let inner = table.entry(first.clone()).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

/// Whether the configuration takes this value at this path, by trying it alone: so that an error is about it.
fn probe<T: DeserializeOwned>(path: &[String], value: &Value, more: &[&str]) -> Result<(), String> {
    let mut table = Table::new();
    insert(&mut table, path, value.clone());
    let Err(error) = Value::Table(table).try_into::<T>() else { return Ok(()) };
    let message = error.message();
    if message.contains("missing field") {
        return Ok(()); // Another key's business; if it stays missing, reading the whole says so.
    }
    let Some((_, expected)) =
        message.split_once("unknown field `").and_then(|(_, rest)| rest.split_once("`, "))
    else {
        return Err(message.replace('\n', " "));
    };
    let listed = expected.split('`').skip(1).step_by(2).map(str::to_owned);
    let secret = more.iter().filter(|_| path.len() == 1).map(|key| (*key).to_owned());
    let mut allowed: Vec<String> = listed.chain(secret).collect();
    allowed.sort();
    allowed.dedup();
    Err(format!("unknown key; allowed are {}", allowed.join(", ")))
}

/// Reads a text from the environment or a flag as the type that the configuration takes: as a TOML value if it is one,
/// else as the text itself, so that nobody needs to quote twice.
fn typed<T: DeserializeOwned>(path: &[String], text: &str, more: &[&str]) -> Result<Value, String> {
    let as_text = Value::String(text.to_owned());
    let value = format!("v = {text}").parse::<Table>().ok().and_then(|mut table| {
        // A text with a line break could smuggle in a second key.
        (table.len() == 1).then(|| table.remove("v")).flatten()
    });
    let Some(value) = value else { return probe::<T>(path, &as_text, more).map(|()| as_text) };
    match probe::<T>(path, &value, more) {
        Ok(()) => Ok(value),
        Err(message) => probe::<T>(path, &as_text, more).map(|()| as_text).map_err(|_| message),
    }
}

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
