//! Tokens, statements, and texts that end too early.

use super::super::TokenKind::*;
use super::super::{Scanner, TokenKind, classify, statements};
use super::{pins, plain};

fn tokens(sql: &str) -> Vec<(TokenKind, &str)> {
    Scanner::new(sql).map(|token| (token.kind, token.text)).collect()
}

#[test]
fn each_kind_of_token() {
    assert_eq!(
        tokens("SELECT a$1,\"b\"\"c\" U&\"d\" 'e''f' E'g\\'h' U&'i\\' N'j' B'01' x'1F' $$k$$ $t$l$$m$t$ $1"),
        [
            (Word, "SELECT"),
            (Word, "a$1"),
            (Punctuation, ","),
            (QuotedName, "\"b\"\"c\""),
            (UnicodeName, "U&\"d\""),
            (String, "'e''f'"),
            (EscapeString, "E'g\\'h'"),
            (UnicodeString, "U&'i\\'"),
            (String, "N'j'"),
            (BitString, "B'01'"),
            (BitString, "x'1F'"),
            (DollarString, "$$k$$"),
            (DollarString, "$t$l$$m$t$"),
            (Parameter, "$1"),
        ]
    );
    assert_eq!(
        tokens("1.5e-3 0x1F .5 1_000 1e a>=-1 b/*c*/+--d\n-2 é::int"),
        [
            (Number, "1.5e-3"),
            (Number, "0x1F"),
            (Number, ".5"),
            (Number, "1_000"),
            (Number, "1"),
            (Word, "e"),
            (Word, "a"),
            (Operator, ">=-"),
            (Number, "1"),
            (Word, "b"),
            (Operator, "+"),
            (Operator, "-"),
            (Number, "2"),
            (Word, "é"),
            (Punctuation, ":"),
            (Punctuation, ":"),
            (Word, "int"),
        ]
    );
}

#[test]
fn strings_that_go_on_keep_their_escapes() {
    assert_eq!(tokens("E'a' -- x\n '\\'' 1"), [(EscapeString, "E'a' -- x\n '\\''"), (Number, "1")]);
    assert_eq!(tokens("'a' 'b'"), [(String, "'a'"), (String, "'b'")]);
    assert_eq!(pins("SELECT E'a'\n'\\'' ; SET x = 1 --'"), ["hidden_set"]);
}

#[test]
fn offsets_are_in_bytes() {
    let sql = "é /* ü */ 'ö'";
    let last = Scanner::new(sql).last().unwrap();
    assert_eq!(&sql[last.start..last.end()], "'ö'");
}

#[test]
fn quoting_hides_and_shows() {
    plain("SELECT 'a''; SET x = 1'");
    plain("SELECT E'\\'; SET x = 1'");
    plain("SELECT $a$ ; SET x = 1 $b$ $a$");
    plain("SELECT /* /* */ ; SET x = 1 */ 1");
    plain("SELECT \"; SET x = 1\"");
    plain("SELECT 1 -- ; SET x = 1");
    assert_eq!(pins("SELECT '\\'; SET x = 1"), ["hidden_set"]);
    assert_eq!(pins("SELECT E'\\\\'; SET x = 1"), ["hidden_set"]);
    assert_eq!(pins("SELECT a$b$; SET x = 1; SELECT c$b$"), ["hidden_set"]);
    assert_eq!(pins("SELECT 1 -- a\r; SET x = 1"), ["hidden_set"]);
    assert_eq!(pins("SELECT 1 /* /* */ */; SET x = 1"), ["hidden_set"]);
}

#[test]
fn statements_of_a_string() {
    let texts = |sql| statements(sql).map(|statement| statement.text).collect::<Vec<_>>();
    assert_eq!(texts(" /* a */ SELECT 1 -- b\n;; SELECT ';' ; "), ["SELECT 1", "SELECT ';'"]);
    let body = "CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN a THEN 1 END; SELECT 2; END";
    let two = format!("{body}; SELECT 3");
    assert_eq!(statements(&two).map(|statement| statement.text).collect::<Vec<_>>(), [body, "SELECT 3"]);
    assert_eq!(texts("BEGIN; SELECT 1; END"), ["BEGIN", "SELECT 1", "END"]);
    assert_eq!(statements("é; SELECT").nth(1).unwrap().start, 4);
}

#[test]
fn no_prefix_makes_it_fall_over() {
    let texts = [
        "/* é /* x */ */ SET \"ä\".b = E'ö\\'ü' -- ß\n; DO $é$ BEGIN EXECUTE 'SET ''x'' = 1'; END $é$",
        "SELECT set_config('a', U&'\\00e9', (true)), U&\"pg_t\\0065mp\".x($1, 1.5e+3, 0x, $a, $é$ € $é$), x'1f'",
        "CREATE FUNCTION f() BEGIN ATOMIC SELECT CASE 1 END; END; DECLARE \"c€\" CURSOR WITH HOLD FOR SELECT 1",
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED, NOT DEFERRABLE; PREPARE é AS",
        "DO E'a\\'; SET é' 'b'\n'c' \"d\"; LISTEN \"é\"\"\"; DEALLOCATE PREPARE é; UNLISTEN *; DISCARD TEMP",
    ];
    for text in texts {
        for start in (0..text.len()).filter(|at| text.is_char_boundary(*at)) {
            for end in (start..=text.len()).filter(|at| text.is_char_boundary(*at)) {
                let part = &text[start..end];
                let _ = classify(part);
                assert!(Scanner::new(part).all(|token| !token.text.is_empty()), "{part}");
                assert_eq!(statements(part).filter(|statement| statement.text.is_empty()).count(), 0);
            }
        }
    }
}

#[test]
fn long_texts_take_linear_time() {
    let n = 100_000;
    for (head, part) in [
        ("SELECT 1", ";"),
        ("SELECT 1", ";/**/"),
        ("SELECT ", "set_config("),
        ("SELECT ", "/*"),
        ("SELECT ", "$a"),
        ("SELECT ", "$a$ "),
        ("SELECT ", "'a'\n"),
        ("SELECT ", "'a' --"),
        ("DO ", "$$ '"),
        ("SELECT ", "\""),
        ("SELECT 1; SET x = ", "("),
        ("SET a", ".b"),
    ] {
        let _ = classify(&format!("{head}{}", part.repeat(n)));
    }
}
