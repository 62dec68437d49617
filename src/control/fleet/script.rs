//! One migration file, read before anything runs: its marks, and the statements that would break the transaction that
//! refinery wraps it in.
//!
//! Marks are comments before the first statement: `-- tenantry: no-transaction`, `-- tenantry: lock_timeout=5s`,
//! `-- tenantry: statement_timeout=1h`, `-- tenantry: set NAME=VALUE`. Whether the SQL is right is not decided here but
//! by Postgres, in a trial.

use wire::sql::{Scanner, Statement, Token, statements};

/// What is wrong in a file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// From 1.
    pub(crate) line: usize,
    pub(crate) what: String,
}

/// How a file is to be run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Script {
    /// Its statements one by one, when it is to run outside of a transaction.
    pub(crate) alone: Option<Vec<Alone>>,
    pub(crate) lock_timeout_ms: Option<u64>,
    pub(crate) statement_timeout_ms: Option<u64>,
    /// Settings of the session while it runs.
    pub(crate) settings: Vec<(String, String)>,
    /// How many statements it has.
    pub(crate) statements: usize,
}

/// A statement that runs by itself, and may have to run once more after it was cut short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Alone {
    pub(crate) sql: String,
    pub(crate) line: usize,
    pub(crate) deed: Deed,
}

/// What such a statement does, as far as its second try must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Deed {
    /// Builds an index; an invalid one of this name on this table is what an earlier try left.
    BuildIndex { name: String, table: String },
    /// Builds indexes anew; what an earlier try left has a name of Postgres's own.
    Reindex,
    /// Can be repeated as it is, and waits for locks that nobody queues behind.
    DropIndex,
    /// Can be repeated as it is.
    Other,
}

impl Script {
    /// Reads a file.
    pub(crate) fn read(sql: &str) -> Result<Self, Fault> {
        let mut script = Self::default();
        let mut no_transaction = false;
        let first = Scanner::new(sql).next().map_or(sql.len(), |token| token.start);
        for (line, start, text) in marks(sql) {
            let fault = |what: String| Fault { line, what };
            if start > first {
                return Err(fault(
                    "a mark counts only before the first statement: move it to the top".into(),
                ));
            }
            match text {
                "no-transaction" => no_transaction = true,
                _ => script.mark(text).map_err(fault)?,
            }
        }
        let all: Vec<Statement<'_>> = statements(sql).collect();
        script.statements = all.len();
        for statement in &all {
            check(statement, no_transaction)
                .map_err(|what| Fault { line: line_of(sql, statement.start), what })?;
        }
        if no_transaction {
            let alone = |statement: &Statement<'_>| {
                let line = line_of(sql, statement.start);
                let deed = deed(statement.text).map_err(|what| Fault { line, what })?;
                Ok(Alone { sql: statement.text.to_owned(), line, deed })
            };
            script.alone = Some(all.iter().map(alone).collect::<Result<_, Fault>>()?);
        }
        Ok(script)
    }

    fn mark(&mut self, text: &str) -> Result<(), String> {
        const KNOWN: &str = "no-transaction, lock_timeout=TIME, statement_timeout=TIME, set NAME=VALUE";
        let unknown = || format!("mark {text:?} is unknown; there are: {KNOWN}");
        let pair = |text: &str| {
            let (name, value) = text.split_once('=')?;
            Some((name.trim().to_owned(), value.trim().to_owned()))
        };
        if let Some(setting) = text.strip_prefix("set ") {
            let (name, value) = pair(setting).ok_or_else(unknown)?;
            if name == "lock_timeout" || name == "statement_timeout" {
                return Err(format!("write the mark {name}=TIME, without set"));
            }
            let value = value.strip_prefix('\'').and_then(|v| v.strip_suffix('\'')).unwrap_or(&value);
            self.settings.push((name, value.replace("''", "'")));
            return Ok(());
        }
        let (name, value) = pair(text).ok_or_else(unknown)?;
        let limit = match name.as_str() {
            "lock_timeout" => &mut self.lock_timeout_ms,
            "statement_timeout" => &mut self.statement_timeout_ms,
            _ => return Err(unknown()),
        };
        let time = shard_map::duration::parse(&value).map_err(|e| e.to_string())?;
        let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        if !(1..=TIMEOUT_MS_MAX).contains(&milliseconds) {
            return Err(format!("{name}: use 1ms to 24d"));
        }
        *limit = Some(milliseconds);
        Ok(())
    }
}

/// Postgres's own limit, an `int` of milliseconds.
pub(crate) const TIMEOUT_MS_MAX: u64 = i32::MAX as u64;

/// The line, from 1, on which a byte stands.
pub(crate) fn line_of(sql: &str, byte: usize) -> usize {
    sql.as_bytes().iter().take(byte).filter(|b| **b == b'\n').count() + 1
}

/// The line of a character that Postgres counts, from 1.
pub(crate) fn line_of_character(sql: &str, position: u32) -> usize {
    sql.chars().take((position as usize).saturating_sub(1)).filter(|c| *c == '\n').count() + 1
}

/// The marks with their lines and offsets: comments of their own line, outside of strings.
fn marks(sql: &str) -> Vec<(usize, usize, &str)> {
    let mut found = Vec::new();
    let mut start = 0;
    for (index, line) in sql.split_inclusive('\n').enumerate() {
        let mark =
            line.trim().strip_prefix("--").and_then(|rest| rest.trim_start().strip_prefix("tenantry:"));
        if let Some(mark) = mark {
            found.push((index + 1, start, mark.trim()));
        }
        start += line.len();
    }
    if found.iter().any(|(_, at, _)| *at > 0) {
        let in_text = |at: usize| Scanner::new(sql).any(|token| (token.start..token.end()).contains(&at));
        found.retain(|(_, at, _)| !in_text(*at));
    }
    found
}

/// The first words of a statement.
fn words(text: &str) -> Vec<Token<'_>> {
    Scanner::new(text).take(12).collect()
}

/// What must not be in a file.
fn check(statement: &Statement<'_>, no_transaction: bool) -> Result<(), String> {
    let words = words(statement.text);
    let is = |index: usize, word: &str| words.get(index).is_some_and(|token| token.is(word));
    let any = |word: &str| words.iter().any(|token| token.is(word));
    let ends = ["BEGIN", "COMMIT", "END", "ABORT"].iter().any(|word| is(0, word))
        || is(0, "START") && is(1, "TRANSACTION")
        || is(0, "PREPARE") && is(1, "TRANSACTION")
        || is(0, "ROLLBACK") && !any("TO");
    if ends {
        return Err(format!(
            "{} is not allowed: each file runs in a transaction of its own",
            words[0].text.to_ascii_uppercase()
        ));
    }
    if is(0, "SET") || is(0, "RESET") {
        let limits = ["lock_timeout", "statement_timeout"].into_iter().find(|limit| any(limit));
        if let Some(limit) = limits {
            return Err(format!(
                "{limit} is set by a mark at the top of the file: -- tenantry: {limit}=TIME"
            ));
        }
        if is(0, "RESET") && is(1, "ALL") {
            return Err("RESET ALL would lift the time limits of the run".into());
        }
    }
    if is(0, "COPY") && Scanner::new(statement.text).any(|token| token.is("STDIN") || token.is("STDOUT")) {
        return Err("COPY from or to the client is not possible here: write INSERT".into());
    }
    if !no_transaction && (any("CONCURRENTLY") && !is(0, "REFRESH") || is(0, "VACUUM")) {
        return Err(
            "can't run in a transaction: put it in a file of its own, with -- tenantry: no-transaction at the top"
                .into(),
        );
    }
    Ok(())
}

/// What a statement outside of a transaction does. Only what can be repeated is allowed: a crash may come between the
/// statement and its record.
fn deed(text: &str) -> Result<Deed, String> {
    let tokens: Vec<Token<'_>> = Scanner::new(text).collect();
    let is = |index: usize, word: &str| tokens.get(index).is_some_and(|token| token.is(word));
    let find = |word: &str| tokens.iter().position(|token| token.is(word));
    let phrase = |words: &[&str]| {
        tokens.windows(words.len()).any(|window| window.iter().zip(words).all(|(token, word)| token.is(word)))
    };
    let concurrently = find("CONCURRENTLY");
    if is(0, "CREATE")
        && let Some(at) = concurrently
    {
        let repeatable = "write CREATE INDEX CONCURRENTLY IF NOT EXISTS name: it may have to run twice";
        if !phrase(&["IF", "NOT", "EXISTS"]) {
            return Err(repeatable.into());
        }
        let name = tokens.get(at + 4).filter(|token| token.is_name()).ok_or(repeatable)?;
        let mut table = tokens.iter().skip(at + 6).skip_while(|token| token.is("ONLY"));
        let end = |token: &&Token<'_>| !token.is_symbol("(") && !token.is("USING");
        let table: String = table.by_ref().take_while(end).map(|token| token.text).collect();
        return Ok(Deed::BuildIndex { name: name.name().into_owned(), table });
    }
    if is(0, "DROP") && is(1, "INDEX") && concurrently.is_some() {
        let repeatable = phrase(&["IF", "EXISTS"]);
        return repeatable
            .then_some(Deed::DropIndex)
            .ok_or_else(|| "write DROP INDEX CONCURRENTLY IF EXISTS: it may have to run twice".into());
    }
    if is(0, "REINDEX") && concurrently.is_some() {
        return Ok(Deed::Reindex);
    }
    let vacuum = is(0, "VACUUM") && find("FULL").is_none();
    if vacuum || is(0, "ANALYZE") || is(0, "ALTER") && phrase(&["ADD", "VALUE", "IF", "NOT", "EXISTS"]) {
        return Ok(Deed::Other);
    }
    Err("outside of a transaction only these are allowed, which can be repeated after a crash: CREATE INDEX \
         CONCURRENTLY IF NOT EXISTS, DROP INDEX CONCURRENTLY IF EXISTS, REINDEX … CONCURRENTLY, VACUUM, ANALYZE, \
         ALTER TYPE … ADD VALUE IF NOT EXISTS"
        .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(sql: &str) -> (usize, String) {
        let fault = Script::read(sql).unwrap_err();
        (fault.line, fault.what)
    }

    #[test]
    fn marks_say_how_a_file_runs() {
        let sql = "-- a note\n-- tenantry: lock_timeout=5s\n--tenantry: statement_timeout=1h\n\
                   -- tenantry: set maintenance_work_mem = '256MB'\nSELECT 1; SELECT 2";
        let script = Script::read(sql).unwrap();
        assert_eq!((script.lock_timeout_ms, script.statement_timeout_ms), (Some(5_000), Some(3_600_000)));
        assert_eq!(script.settings, [("maintenance_work_mem".to_owned(), "256MB".to_owned())]);
        assert_eq!((script.alone, script.statements), (None, 2));
        let in_string = "SELECT '\n-- tenantry: nonsense\n'";
        assert!(Script::read(in_string).is_ok());
    }

    #[test]
    fn marks_that_would_be_overlooked_are_refused() {
        assert_eq!(fault("SELECT 1;\n-- tenantry: no-transaction").0, 2);
        assert_eq!(fault("\n-- tenantry: notransaction").0, 2);
        assert_eq!(fault("-- tenantry: lock_timeout=2").0, 1);
        assert_eq!(fault("-- tenantry: lock_timeout=0s").0, 1);
        assert_eq!(fault("-- tenantry: set lock_timeout=0").0, 1);
    }

    #[test]
    fn what_would_break_the_transaction_is_refused_with_its_line() {
        for sql in
            ["BEGIN", "start transaction", "COMMIT", "end", "ROLLBACK", "abort", "PREPARE TRANSACTION 'x'"]
        {
            let (line, what) = fault(&format!("SELECT 1;\n\n{sql};\n"));
            assert!(line == 3 && what.contains("transaction"), "{sql}: {what}");
        }
        for sql in ["SET lock_timeout = 0", "RESET ALL", "COPY t FROM STDIN", "VACUUM t"] {
            assert_eq!(fault(&format!("SELECT 1;\n{sql}")).0, 2, "{sql}");
        }
        assert!(fault("CREATE UNIQUE INDEX CONCURRENTLY i ON t (a)").1.contains("no-transaction"));
        for sql in [
            "SAVEPOINT a; ROLLBACK TO SAVEPOINT a",
            "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END",
            "DO $$ BEGIN PERFORM 1; END $$",
            "-- COMMIT\nSELECT 'COMMIT'",
            "PREPARE a AS SELECT 1",
        ] {
            assert!(Script::read(sql).is_ok(), "{sql}");
        }
    }

    #[test]
    fn outside_of_a_transaction_only_what_can_be_repeated_is_allowed() {
        let sql = "-- tenantry: no-transaction\n\
                   CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS \"I\" ON ONLY public.\"T\" USING btree (a);\n\
                   DROP INDEX CONCURRENTLY IF EXISTS old;\nREINDEX TABLE CONCURRENTLY t;\nVACUUM t";
        let alone = Script::read(sql).unwrap().alone.unwrap();
        let index = Deed::BuildIndex { name: "I".into(), table: "public.\"T\"".into() };
        let deeds: Vec<_> = alone.iter().map(|statement| (statement.line, statement.deed.clone())).collect();
        assert_eq!(deeds, [(2, index), (3, Deed::DropIndex), (4, Deed::Reindex), (5, Deed::Other)]);
        for sql in [
            "CREATE INDEX CONCURRENTLY i ON t (a)",
            "CREATE INDEX CONCURRENTLY ON t (a)",
            "DROP INDEX CONCURRENTLY i",
            "ALTER TABLE t ADD b int",
            "VACUUM FULL t",
        ] {
            assert_eq!(fault(&format!("-- tenantry: no-transaction\n{sql}")).0, 2, "{sql}");
        }
    }

    #[test]
    fn lines_are_counted_in_bytes_and_in_characters() {
        let sql = "é\né\nx";
        assert_eq!((line_of(sql, 6), line_of_character(sql, 5)), (3, 3));
        assert_eq!(line_of_character(sql, 4), 2);
    }
}
