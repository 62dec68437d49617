use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

use super::*;

const SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";

const PLAIN: &[&[u8]] = &[b"SCRAM-SHA-256"];
const BOTH: &[&[u8]] = &[b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-256"];

fn plain(first: &[u8]) -> Opening<'_> {
    Opening { mechanism: SCRAM_SHA_256.as_bytes(), first }
}

fn verifier(password: &str) -> Verifier {
    Verifier::from_password(password, &STANDARD.decode(SALT).unwrap(), 4096)
}

#[test]
fn the_vector_of_rfc_7677() {
    let first = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    let (exchange, answer) =
        ServerExchange::start(verifier("pencil"), plain(first), "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0", None)
            .unwrap();
    assert_eq!(
        answer,
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    );
    let last = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    assert_eq!(exchange.finish(last.as_bytes()).unwrap(), "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
}

#[test]
fn postgres_protocols_client_is_let_in_with_the_right_password_only() {
    for (password, right) in [("secret", true), ("Secret", false)] {
        let mut client = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        let (exchange, answer) =
            ServerExchange::start(verifier("secret"), plain(client.message()), "servernonce", None).unwrap();
        client.update(answer.as_bytes()).unwrap();
        match exchange.finish(client.message()) {
            Ok(last) => {
                assert!(right);
                client.finish(last.as_bytes()).unwrap();
            }
            Err(error) => assert_eq!((right, error), (false, ScramError::Proof)),
        }
    }
}

#[test]
fn both_sides_agree_and_keys_are_kept() {
    let mut cached: Option<SaltedKeys> = None;
    for round in 0..2 {
        let (mut client, first) = ClientExchange::start("clientnonce", PLAIN, None).unwrap();
        let (exchange, answer) =
            ServerExchange::start(verifier("s"), plain(first.as_bytes()), "xyz", None).unwrap();
        // The second time the password is not looked at any more.
        let password = if round == 0 { "s" } else { "forgotten" };
        let (last, keys) = client.respond(answer.as_bytes(), password, cached.as_ref()).unwrap();
        client.verify(exchange.finish(last.as_bytes()).unwrap().as_bytes()).unwrap();
        assert_eq!(client.verify(b"v=AAAA"), Err(ScramError::Proof));
        cached = Some(keys);
    }
}

#[test]
fn an_unknown_user_looks_like_a_known_one_and_never_gets_in() {
    let mock = Verifier::mock(b"secret", "nobody");
    assert_eq!(mock.to_string(), Verifier::mock(b"secret", "nobody").to_string());
    assert_ne!(mock.to_string(), Verifier::mock(b"secret", "somebody").to_string());
    let (mut client, first) = ClientExchange::start("clientnonce", PLAIN, None).unwrap();
    let (exchange, answer) = ServerExchange::start(mock, plain(first.as_bytes()), "xyz", None).unwrap();
    let (last, _) = client.respond(answer.as_bytes(), "any", None).unwrap();
    assert_eq!(exchange.finish(last.as_bytes()), Err(ScramError::Proof));
}

#[test]
fn a_verifier_comes_back_as_it_was() {
    let text = verifier("pencil").to_string();
    assert_eq!(Verifier::parse(&text).unwrap().to_string(), text);
    for cut in 0..text.len() {
        assert!(Verifier::parse(&text[..cut]).is_err(), "cut at {cut}");
    }
    assert!(Verifier::parse("md5d41d8cd98f00b204e9800998ecf8427e").is_err());
}

#[test]
fn what_is_not_spoken_is_refused_and_rubbish_never_panics() {
    let start = |first: &str| {
        ServerExchange::start(verifier("s"), plain(first.as_bytes()), "x", None).map(|(_, a)| a)
    };
    assert_eq!(start("p=tls-server-end-point,,n=,r=a"), Err(ScramError::Unsupported));
    assert_eq!(start("n,a=admin,n=,r=a"), Err(ScramError::Unsupported));
    assert_eq!(start("y,,n=,r="), Err(ScramError::Malformed));
    let first = "n,,n=,r=abc";
    for cut in 0..first.len() - 3 {
        assert!(start(&first[..cut]).is_err(), "cut at {cut}");
    }
    let (exchange, _) = ServerExchange::start(verifier("s"), plain(first.as_bytes()), "x", None).unwrap();
    for last in ["", "c=biws", "c=biws,r=abcx", "c=biws,r=abcx,p=", "c=,r=abcx,p=AA", "p=", ",p="] {
        assert_eq!(exchange.finish(last.as_bytes()), Err(ScramError::Malformed), "{last}");
    }
    let (mut client, _) = ClientExchange::start("abc", PLAIN, None).unwrap();
    for first in ["", "r=abc", "r=xyz,s=AA==,i=1", "r=abcd,s=AA==,i=0", "r=abcd,s=AA==,i=4000000000"] {
        assert!(client.respond(first.as_bytes(), "s", None).is_err(), "{first}");
    }
    assert_eq!(client.verify(b"v=AAAA"), Err(ScramError::Malformed));
}

/// A whole exchange, in which each side sees a certificate with this hash, if any.
fn exchange(
    offered: &[&[u8]],
    client_sees: Option<&[u8]>,
    server_shows: Option<&[u8]>,
) -> Result<&'static str, ScramError> {
    let (mut client, first) = ClientExchange::start("clientnonce", offered, client_sees)?;
    let opening = Opening { mechanism: client.mechanism().as_bytes(), first: first.as_bytes() };
    let (server, answer) = ServerExchange::start(verifier("s"), opening, "xyz", server_shows)?;
    let (last, _) = client.respond(answer.as_bytes(), "s", None)?;
    client.verify(server.finish(last.as_bytes())?.as_bytes())?;
    Ok(client.mechanism())
}

#[test]
fn the_channel_is_bound_when_both_can() {
    assert_eq!(exchange(BOTH, Some(b"hash"), Some(b"hash")), Ok(SCRAM_SHA_256_PLUS));
    assert_eq!(exchange(PLAIN, Some(b"hash"), None), Ok(SCRAM_SHA_256));
    assert_eq!(exchange(BOTH, None, Some(b"hash")), Ok(SCRAM_SHA_256), "a client that can't");
    assert_eq!(mechanisms(Some(b"hash")), [SCRAM_SHA_256_PLUS, SCRAM_SHA_256]);
    assert_eq!(mechanisms(None), [SCRAM_SHA_256]);
}

#[test]
fn whoever_stands_between_is_found_out() {
    assert_eq!(exchange(BOTH, Some(b"theirs"), Some(b"ours")), Err(ScramError::Binding));
    // It took the better mechanism off the list.
    assert_eq!(exchange(PLAIN, Some(b"hash"), Some(b"hash")), Err(ScramError::Downgrade));
    assert_eq!(exchange(&[b"SCRAM-SHA-256-PLUS"], None, None), Err(ScramError::Unsupported));
    assert_eq!(exchange(BOTH, Some(b"hash"), None), Err(ScramError::Unsupported), "never offered");
}

#[test]
fn postgres_protocols_client_binds_its_channel() {
    let mut client = ScramSha256::new(b"s", ChannelBinding::tls_server_end_point(b"hash".to_vec()));
    let opening = Opening { mechanism: SCRAM_SHA_256_PLUS.as_bytes(), first: client.message() };
    let (exchange, answer) = ServerExchange::start(verifier("s"), opening, "xyz", Some(b"hash")).unwrap();
    client.update(answer.as_bytes()).unwrap();
    client.finish(exchange.finish(client.message()).unwrap().as_bytes()).unwrap();
}
