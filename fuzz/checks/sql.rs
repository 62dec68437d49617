//! The SQL scanner: it loses no byte, and says the same of a statement however it is spaced and whatever stands beside it.

use wire::sql::{Change, Scanner, Token, TokenKind, classify, classify_bytes, statements};

/// The texts of queries. Longer ones only take longer.
pub(crate) fn sql(data: &[u8]) {
    let effects = classify_bytes(data);
    assert_eq!(effects.clone().into_owned(), effects);
    let Ok(text) = std::str::from_utf8(data) else { return };
    assert_eq!(classify(text), effects);
    let tokens = covered(text);
    cut(text);
    if tokens.last().is_some_and(|last| !is_open(*last)) {
        in_company(text, tokens.len());
        spaced_otherwise(text, &tokens);
    }
}

/// Between the tokens there is nothing but what is no token.
fn covered(text: &str) -> Vec<Token<'_>> {
    let (mut tokens, mut at) = (Vec::new(), 0);
    for token in Scanner::new(text) {
        assert!(token.start >= at && !token.text.is_empty(), "{token:?} at {at} in {text:?}");
        assert_eq!(&text[token.start..token.end()], token.text);
        assert_eq!(Scanner::new(&text[at..token.start]).next(), None, "a gap in {text:?}");
        assert!(token.name().len() <= 63);
        at = token.end();
        tokens.push(token);
    }
    assert_eq!(Scanner::new(&text[at..]).next(), None, "the end of {text:?}");
    tokens
}

/// Between the statements there is nothing but semicolons, and their tokens are those of the whole.
fn cut(text: &str) {
    let mut at = 0;
    for statement in statements(text) {
        assert!(statement.start >= at && !statement.text.is_empty());
        assert!(Scanner::new(&text[at..statement.start]).all(|token| token.text == ";"), "{text:?}");
        assert!(text[statement.start..].starts_with(statement.text));
        at = statement.start + statement.text.len();
    }
    assert!(Scanner::new(&text[at..]).all(|token| token.text == ";"), "{text:?}");
}

/// Whether a token may go on in what is added behind it.
fn is_open(token: Token<'_>) -> bool {
    let longer = format!("{}\n;", token.text);
    Scanner::new(&longer).last().is_none_or(|last| last.text != ";")
}

/// A statement loses no pin by standing beside another.
fn in_company(text: &str, tokens: usize) {
    let alone = classify(text);
    for longer in [format!("{text}\n;SELECT 1"), format!("SELECT 1;{text}")] {
        if Scanner::new(&longer).count() != tokens + 3 {
            // A comment without an end swallowed it.
            continue;
        }
        let together = classify(&longer);
        for reason in alone.pins.iter() {
            assert!(together.pins.contains(reason), "{} is lost in {longer:?}", reason.as_str());
        }
        assert_eq!(together.alters_role, alone.alters_role, "{longer:?}");
    }
}

/// Spaces between tokens mean nothing. This also compares the quick look at a text with the careful one, which only
/// texts with certain words get.
fn spaced_otherwise(text: &str, tokens: &[Token<'_>]) {
    let apart: Vec<_> = tokens.iter().map(|token| token.text).collect();
    let apart = apart.join(" ");
    let same = Scanner::new(&apart).map(|token| (token.kind, token.text));
    let given = tokens.iter().map(|token| (token.kind, token.text));
    if tokens.iter().any(|token| token.kind == TokenKind::Other) || !same.eq(given) {
        // A string that went on in the next line now is followed by another.
        return;
    }
    let (given, respaced) = (classify(text), classify(&apart));
    let facts = |effects: &wire::sql::Effects<'_>| {
        let names: Vec<_> = effects.changes.iter().map(name).collect();
        (effects.statements, effects.transaction, effects.pins, effects.unpins, effects.alters_role, names)
    };
    assert_eq!(facts(&given), facts(&respaced), "{text:?} and {apart:?}");
}

/// A change without the statement's text.
fn name(change: &Change<'_>) -> String {
    match change {
        Change::Set { parameter, .. } => format!("set {parameter}"),
        Change::Reset { parameter, .. } => format!("reset {parameter}"),
        other => format!("{other:?}"),
    }
}
