//! The reference of keys: what the annotated examples say of each, and the defaults that the code has.

use std::collections::BTreeSet;
use std::fmt::{Debug, Write as _};

use serde::de::DeserializeOwned;

use super::Role;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration-keys.md");
const HEAD: &str = "# Configuration keys\n\nWhat the annotated examples under `ops/config` say of each key, with the defaults \
    that the code has; `make docs` writes it. How a value is given, in a file, in the environment or by a flag, is in \
    [Configuration](configuration.md). Times are a number and a unit: `\"250ms\"`, `\"10s\"`, `\"5m\"`, `\"24h\"`.\n";

/// One role's part, by its example.
struct Part<'e> {
    role: Role,
    text: String,
    /// What the example says before the keys that come next, and those keys, each with its value.
    said: Vec<&'e str>,
    keys: Vec<(&'e str, &'e str)>,
    seen: BTreeSet<&'e str>,
}

/// A key's line, commented out or not.
fn key_of(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.strip_prefix("# ").unwrap_or(line).split_once(" = ")?;
    key.chars().all(|c| c.is_ascii_lowercase() || c == '_').then_some((key, value))
}

impl<'e> Part<'e> {
    fn of<T: DeserializeOwned + Debug>(role: Role, command: &str, example: &'e str) -> Self {
        let text = format!("\n## `{command}`\n");
        let mut part = Self { role, text, said: Vec::new(), keys: Vec::new(), seen: BTreeSet::new() };
        for line in example.lines().chain([""]) {
            if let Some(title) = line.strip_prefix("# --- ") {
                writeln!(part.text, "\n### {}", title.trim_end_matches(['-', ' '])).unwrap();
            } else if let Some(key) = key_of(line) {
                part.keys.push(key);
            } else if line.is_empty() {
                part.write::<T>();
            } else {
                part.said.push(line.trim_start_matches(['#', ' ']));
            }
        }
        part
    }

    /// Writes down what a paragraph of the example was about, if that was any key.
    fn write<T: DeserializeOwned + Debug>(&mut self) {
        let (said, keys) = (std::mem::take(&mut self.said).join(" "), std::mem::take(&mut self.keys));
        if keys.is_empty() {
            return;
        }
        self.text.push('\n');
        for (key, value) in keys {
            let kind = if self.is_default::<T>(key, value, &said) { "default" } else { "for example" };
            writeln!(self.text, "- `{key}`, {kind} `{value}`").unwrap();
            assert!(self.seen.insert(key), "{key} is there twice");
        }
        writeln!(self.text, "\n{said}").unwrap();
    }

    /// Whether the value is the key's default. Of another one the example must say so, unless there is none.
    fn is_default<T: DeserializeOwned + Debug>(&self, key: &str, value: &str, said: &str) -> bool {
        if self.role.secret_keys().contains(&key) {
            return false;
        }
        let read = |text: &str| format!("{:?}", toml::from_str::<T>(text).unwrap());
        let default = read("");
        let is_default = read(&format!("{key} = {value}")) == default;
        let none = ["None", "{}", "[]"].map(|none| format!("{key}: {none}"));
        let is_known =
            is_default || said.contains("Default: ") || none.iter().any(|none| default.contains(none));
        assert!(is_known, "{key} = {value} is not the default, and the example does not say so: {default}");
        is_default
    }
}

/// The keys that a configuration takes, by its own word.
fn allowed<T: DeserializeOwned + Debug>() -> Vec<String> {
    let refusal = toml::from_str::<T>("no_such_key = 1").unwrap_err().message().to_owned();
    let (_, keys) = refusal.split_once("expected one of ").expect("a list of keys");
    keys.split(", ").map(|key| key.trim_matches('`').to_owned()).collect()
}

fn part<T: DeserializeOwned + Debug>(role: Role, command: &str, example: &str) -> String {
    let part = Part::of::<T>(role, command, example);
    for key in allowed::<T>() {
        assert!(part.text.contains(&format!("`{key}`")), "the example does not have {key}");
    }
    part.text
}

#[test]
fn the_reference_of_keys_is_what_examples_and_code_say() {
    let router = include_str!("../../ops/config/router.toml");
    let control = include_str!("../../ops/config/control.toml");
    let reference = HEAD.to_owned()
        + &part::<router::RouterConfig>(Role::Router, "tenantry router", router)
        + &part::<control::ControlConfig>(Role::Control, "tenantry control", control);
    if std::env::var_os("TENANTRY_WRITE_DOCS").is_some() {
        std::fs::write(PATH, &reference).unwrap();
    }
    let found = std::fs::read_to_string(PATH).unwrap_or_default();
    assert!(found == reference, "docs/configuration-keys.md is not what examples and code say: make docs");
}
