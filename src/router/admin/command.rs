//! What an administrator may say, read from text. Pure, so that every spelling can be tried in a test.

use crate::admin::AdminError;

/// A table that can be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Show {
    Help,
    Tenants,
    Pools,
    Clients,
    Servers,
    Stats,
    Holds,
    Config,
    Version,
    /// What drivers ask for on their own.
    Isolation,
}

impl Show {
    pub(crate) const ALL: [Self; 9] = [
        Self::Help,
        Self::Tenants,
        Self::Pools,
        Self::Clients,
        Self::Servers,
        Self::Stats,
        Self::Holds,
        Self::Config,
        Self::Version,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Help => "HELP",
            Self::Tenants => "TENANTS",
            Self::Pools => "POOLS",
            Self::Clients => "CLIENTS",
            Self::Servers => "SERVERS",
            Self::Stats => "STATS",
            Self::Holds => "HOLDS",
            Self::Config => "CONFIG",
            Self::Version => "VERSION",
            Self::Isolation => "TRANSACTION ISOLATION LEVEL",
        }
    }
}

/// What is to be done to a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    Pause,
    Resume,
    Kill,
}

impl Deed {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pause => "PAUSE",
            Self::Resume => "RESUME",
            Self::Kill => "KILL",
        }
    }
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// No text but white space.
    Empty,
    Show(Show),
    Deed(Deed, String),
    /// Reads the configuration again.
    Reload,
    /// Changes what is logged.
    SetLog(String),
    /// What drivers send on their own; taken, and without meaning here.
    Courtesy(&'static str),
}

impl Command {
    /// What a client is told when it is done, and it has no rows.
    pub(crate) fn tag(&self) -> &'static str {
        match self {
            Self::Empty | Self::Show(_) => "SHOW",
            Self::Deed(deed, _) => deed.name(),
            Self::Reload => "RELOAD",
            Self::SetLog(_) => "SET",
            Self::Courtesy(word) => word,
        }
    }
}

/// Settings that drivers make on their own at the start of a session.
const DRIVER_SETTINGS: [&str; 9] = [
    "application_name",
    "bytea_output",
    "client_encoding",
    "client_min_messages",
    "datestyle",
    "extra_float_digits",
    "intervalstyle",
    "standard_conforming_strings",
    "timezone",
];

/// A part of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    /// As it was written, in small letters.
    Plain(String),
    /// Between quotes of either kind.
    Quoted(String),
    Semicolon,
    Other,
}

impl Word {
    fn is(&self, keyword: &str) -> bool {
        matches!(self, Self::Plain(word) if word == keyword)
    }
}

/// Reads all commands of a text; at least one, which may be empty.
pub(crate) fn parse(text: &str) -> Result<Vec<Command>, AdminError> {
    let words = words(text)?;
    let commands: Vec<_> = words
        .split(|word| *word == Word::Semicolon)
        .filter(|words| !words.is_empty())
        .map(command)
        .collect::<Result<_, _>>()?;
    Ok(if commands.is_empty() { vec![Command::Empty] } else { commands })
}

fn command(words: &[Word]) -> Result<Command, AdminError> {
    let Word::Plain(first) = &words[0] else {
        return Err(AdminError::unknown_command());
    };
    match first.as_str() {
        "show" => show(&words[1..]),
        "pause" => deed(Deed::Pause, &words[1..]),
        "resume" => deed(Deed::Resume, &words[1..]),
        "kill" => deed(Deed::Kill, &words[1..]),
        "set" => set(&words[1..]),
        "reload" if words.len() == 1 => Ok(Command::Reload),
        "begin" | "start" => Ok(Command::Courtesy("BEGIN")),
        "commit" | "end" => Ok(Command::Courtesy("COMMIT")),
        "rollback" | "abort" => Ok(Command::Courtesy("ROLLBACK")),
        "discard" => Ok(Command::Courtesy("DISCARD ALL")),
        _ => Err(AdminError::unknown_command()),
    }
}

fn show(words: &[Word]) -> Result<Command, AdminError> {
    if let [word] = words
        && let Some(table) = Show::ALL.iter().find(|table| word.is(&table.name().to_ascii_lowercase()))
    {
        return Ok(Command::Show(*table));
    }
    if let [transaction, isolation, level] = words
        && transaction.is("transaction")
        && isolation.is("isolation")
        && level.is("level")
    {
        return Ok(Command::Show(Show::Isolation));
    }
    Err(AdminError::unknown_table())
}

fn deed(deed: Deed, words: &[Word]) -> Result<Command, AdminError> {
    match words {
        [Word::Plain(tenant) | Word::Quoted(tenant)] => Ok(Command::Deed(deed, tenant.clone())),
        _ => Err(AdminError::no_tenant_named(deed)),
    }
}

fn set(words: &[Word]) -> Result<Command, AdminError> {
    let words = match words {
        [first, rest @ ..] if first.is("session") || first.is("local") => rest,
        all => all,
    };
    if let [name, equals, Word::Plain(filter) | Word::Quoted(filter)] = words
        && name.is("log")
        && (equals.is("to") || *equals == Word::Other)
    {
        return Ok(Command::SetLog(filter.clone()));
    }
    match words.first() {
        Some(Word::Plain(name)) if DRIVER_SETTINGS.contains(&name.as_str()) => Ok(Command::Courtesy("SET")),
        _ => Err(AdminError::unknown_setting()),
    }
}

fn words(text: &str) -> Result<Vec<Word>, AdminError> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let end = match first {
            ';' => {
                words.push(Word::Semicolon);
                1
            }
            '"' | '\'' => {
                let length = rest[1..].find(first).ok_or_else(AdminError::open_quote)?;
                words.push(Word::Quoted(rest[1..=length].to_owned()));
                length + 2
            }
            _ if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            _ if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |at| at + 2),
            c if is_plain(c) => {
                let length = rest.find(|c| !is_plain(c)).unwrap_or(rest.len());
                words.push(Word::Plain(rest[..length].to_lowercase()));
                length
            }
            other => {
                words.push(Word::Other);
                other.len_utf8()
            }
        };
        rest = rest[end..].trim_start();
    }
    Ok(words)
}

/// Whether a name may have it without quotes: a tenant's may have a dash.
fn is_plain(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '-'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Command {
        let commands = parse(text).unwrap_or_else(|error| panic!("{text}: {error:?}"));
        assert_eq!(commands.len(), 1, "{text}");
        commands[0].clone()
    }

    #[test]
    fn commands_are_read_however_they_are_written() {
        for text in ["SHOW POOLS", "show pools;", " Show\n\tPools ; ", "/* x */ show pools -- y"] {
            assert_eq!(one(text), Command::Show(Show::Pools), "{text}");
        }
        for text in ["PAUSE acme-2", "pause \"acme-2\";", "Pause 'acme-2'", "pause ACME-2"] {
            assert_eq!(one(text), Command::Deed(Deed::Pause, "acme-2".into()), "{text}");
        }
        assert_eq!(one("reload;"), Command::Reload);
        for text in ["SET log = 'info,router=debug'", "set log to 'info,router=debug';"] {
            assert_eq!(one(text), Command::SetLog("info,router=debug".into()), "{text}");
        }
        for text in ["", " ;; ", "-- nothing"] {
            assert_eq!(one(text), Command::Empty);
        }
        for table in Show::ALL {
            assert_eq!(one(&format!("show {}", table.name())), Command::Show(table));
        }
        assert_eq!(
            parse("kill a; resume \"b\"").unwrap(),
            [Command::Deed(Deed::Kill, "a".into()), Command::Deed(Deed::Resume, "b".into())]
        );
    }

    #[test]
    fn what_drivers_send_on_their_own_is_taken() {
        for text in [
            "BEGIN",
            "BEGIN READ ONLY",
            "COMMIT",
            "SET extra_float_digits = 3",
            "SET application_name = 'x;y'",
            "SET SESSION TimeZone TO 'UTC'",
            "DISCARD ALL",
        ] {
            assert!(matches!(one(text), Command::Courtesy(_)), "{text}");
        }
        assert_eq!(one("show transaction isolation level"), Command::Show(Show::Isolation));
    }

    #[test]
    fn anything_else_is_refused_with_a_hint() {
        for text in [
            "SELECT 1",
            "show",
            "show everything",
            "show pools clients",
            "pause",
            "pause a b",
            "pause a.b",
            "kill \"a",
            "set work_mem = 5",
            "set log",
            "reload everything",
            "\"show\" pools",
            "(é)",
        ] {
            let error = parse(text).expect_err(text);
            assert!(!error.hint.is_empty(), "{text}");
        }
    }
}
