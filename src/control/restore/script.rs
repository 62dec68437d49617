//! A schema as SQL, made another tenant's: the names of one tenant's roles become those of another's.
//!
//! The script is `pg_restore`'s. Only names are replaced, whole ones and outside of strings, function bodies and comments: what a
//! tenant wrote into a string is its own.

use shard_map::{Access, TenantId};

use crate::server::ident;

/// The beginning of a line that not every managed version of Postgres knows, and a copy does not need.
const FOREIGN_SETTING: &str = "SET transaction_timeout ";

/// The script for another tenant. Comments and psql's own commands, which only psql understands, are left out.
pub(super) fn for_tenant(sql: &str, from: &TenantId, to: &TenantId) -> String {
    let roles = Access::ALL.map(|access| (access.role(from), ident(&access.role(to))));
    let renamed = |name: &str| roles.iter().find(|(old, _)| old == name).map(|(_, new)| new.as_str());
    let mut script = String::with_capacity(sql.len());
    let mut rest = sql;
    while !rest.is_empty() {
        let begins_line = script.is_empty() || script.ends_with('\n');
        if begins_line && (rest.starts_with('\\') || rest.starts_with(FOREIGN_SETTING)) {
            rest = &rest[rest.find('\n').map_or(rest.len(), |end| end + 1)..];
            continue;
        }
        let (token, what) = first_token(rest);
        let name = match what {
            Token::Name => Some(token.to_owned()),
            Token::Quoted => {
                let inner = token.strip_prefix('"').and_then(|token| token.strip_suffix('"'));
                inner.map(|inner| inner.replace("\"\"", "\""))
            }
            Token::Comment | Token::Other => None,
        };
        if what != Token::Comment {
            script.push_str(name.as_deref().and_then(renamed).unwrap_or(token));
        }
        rest = &rest[token.len()..];
    }
    script
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Name,
    Quoted,
    Comment,
    Other,
}

fn is_name_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn is_name_part(byte: u8) -> bool {
    is_name_start(byte) || byte.is_ascii_digit() || byte == b'$'
}

/// The first token of a text that is not empty.
fn first_token(text: &str) -> (&str, Token) {
    let bytes = text.as_bytes();
    let up_to = |end: usize, token: Token| (&text[..end.min(text.len())], token);
    match bytes[0] {
        b'\'' => up_to(quoted_end(bytes, b'\'', false), Token::Other),
        b'"' => up_to(quoted_end(bytes, b'"', false), Token::Quoted),
        b'e' | b'E' if bytes.get(1) == Some(&b'\'') => {
            up_to(1 + quoted_end(&bytes[1..], b'\'', true), Token::Other)
        }
        b'-' if text.starts_with("--") => up_to(text.find('\n').unwrap_or(text.len()), Token::Comment),
        b'/' if text.starts_with("/*") => up_to(comment_end(bytes), Token::Comment),
        b'$' => up_to(dollar_end(text), Token::Other),
        first if is_name_start(first) => {
            up_to(bytes.iter().take_while(|b| is_name_part(**b)).count(), Token::Name)
        }
        // A number takes its letters with it: they are no name.
        first if first.is_ascii_digit() => {
            up_to(bytes.iter().take_while(|b| is_name_part(**b)).count(), Token::Other)
        }
        _ => up_to(1, Token::Other),
    }
}

/// Where a quoted text ends that begins here. A doubled quote is none.
fn quoted_end(bytes: &[u8], quote: u8, backslashes: bool) -> usize {
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if backslashes => at += 2,
            byte if byte == quote && bytes.get(at + 1) == Some(&quote) => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Where a comment ends that begins here. They nest.
fn comment_end(bytes: &[u8]) -> usize {
    let (mut at, mut depth) = (0, 0_u32);
    while at < bytes.len() {
        match bytes.get(at..at + 2) {
            Some(b"/*") => (at, depth) = (at + 2, depth + 1),
            Some(b"*/") if depth == 1 => return at + 2,
            Some(b"*/") => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Where a dollar-quoted text ends that begins here; behind the dollar, if it begins none.
fn dollar_end(text: &str) -> usize {
    let tag_length = text.bytes().skip(1).take_while(|b| is_name_part(*b) && *b != b'$').count();
    let delimiter_end = 1 + tag_length + 1;
    let tagged = text.as_bytes().get(1 + tag_length) == Some(&b'$')
        && (tag_length == 0 || is_name_start(text.as_bytes()[1]));
    if !tagged {
        return 1;
    }
    let (delimiter, body) = text.split_at(delimiter_end);
    body.find(delimiter).map_or(text.len(), |end| delimiter_end + end + delimiter_end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renamed(sql: &str) -> String {
        for_tenant(sql, &TenantId::new("acme").unwrap(), &TenantId::new("copy-2").unwrap())
    }

    #[test]
    fn roles_become_the_other_tenants() {
        assert_eq!(
            renamed("ALTER TABLE public.t OWNER TO acme__owner;"),
            "ALTER TABLE public.t OWNER TO \"copy-2__owner\";"
        );
        assert_eq!(
            renamed("GRANT SELECT ON t TO acme__app,\"acme__readonly\""),
            "GRANT SELECT ON t TO \"copy-2__app\",\"copy-2__readonly\""
        );
        let quoted = for_tenant(
            "FOR ROLE \"a-b__owner\"",
            &TenantId::new("a-b").unwrap(),
            &TenantId::new("c").unwrap(),
        );
        assert_eq!(quoted, "FOR ROLE \"c__owner\"");
    }

    #[test]
    fn what_is_not_a_role_stays_as_it_is() {
        for sql in [
            "SELECT 'acme__app', 'it''s acme__app'",
            "SELECT E'\\' acme__app'",
            "CREATE FUNCTION f() AS $_$ acme__app $x$ acme__app $_$ LANGUAGE sql",
            "AS $$acme__app$$",
            "SELECT acme__application, xacme__app, \"acme__app \", \"a\"\"acme__app\", acme, $1, 1acme__app",
            "SELECT 'ümlaut', \"ü\", größe",
            "SELECT 'not ended acme__app",
            "SELECT $tag$ not ended acme__app",
        ] {
            assert_eq!(renamed(sql), sql);
        }
        assert_eq!(renamed("$$a$$ acme__app"), "$$a$$ \"copy-2__app\"");
    }

    #[test]
    fn what_only_psql_or_a_newer_version_understands_is_left_out() {
        let sql = "--\n-- Owner: acme__owner\n--\n\\restrict x'y\nSET transaction_timeout = 0;\nSET row_security = off;\n\
            SELECT '\n\\kept';/* a /* b */ acme__app */\n\\unrestrict x\n";
        assert_eq!(renamed(sql), "\n\n\nSET row_security = off;\nSELECT '\n\\kept';\n");
    }
}
