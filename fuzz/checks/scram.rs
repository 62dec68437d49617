//! SCRAM: no message of a peer makes a side fall over, and none but the right one is believed.

use wire::scram::{ClientExchange, Opening, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ServerExchange, Verifier};

/// One round: the check is not of the hash.
fn stored() -> Verifier {
    Verifier::from_password("pencil", b"saltsaltsaltsalt", 1)
}

/// A first byte that tells whose message it is, and the message.
pub(crate) fn scram(data: &[u8]) {
    let Some((kind, message)) = data.split_first() else { return };
    match kind % 4 {
        0 => verifier(message),
        1 => first_of_client(message),
        2 => answer_of_server(message),
        _ => last_words(message),
    }
}

fn verifier(message: &[u8]) {
    let Ok(text) = std::str::from_utf8(message) else { return };
    if let Ok(verifier) = Verifier::parse(text) {
        assert!(Verifier::parse(&verifier.to_string()).unwrap() == verifier);
    }
}

fn first_of_client(message: &[u8]) {
    for mechanism in [SCRAM_SHA_256, SCRAM_SHA_256_PLUS] {
        let opening = Opening { mechanism: mechanism.as_bytes(), first: message };
        for end_point in [None, Some(&b"hash"[..])] {
            if let Ok((exchange, answer)) = ServerExchange::start(stored(), opening, "server", end_point) {
                assert!(answer.starts_with("r=") && answer.ends_with(",i=1"));
                assert!(exchange.finish(message).is_err(), "a first message is not a last one");
            }
        }
    }
}

fn start() -> (ClientExchange, String) {
    ClientExchange::start("client", &[SCRAM_SHA_256.as_bytes()], None).unwrap()
}

/// Rounds are the server's to ask for: none but a few are worth a fuzzer's time.
const ROUNDS: &[u8] = b",i=1";

fn answer_of_server(message: &[u8]) {
    let (mut exchange, first) = start();
    assert_eq!(first, "n,,n=,r=client");
    if message.ends_with(ROUNDS)
        && let Ok((last, keys)) = exchange.respond(message, "password", None)
    {
        let (mut again, _) = start();
        let (same, _) = again.respond(message, "password", Some(&keys)).unwrap();
        assert_eq!(last, same);
        assert!(exchange.verify(message).is_err());
    }
}

fn last_words(message: &[u8]) {
    let opening = Opening { mechanism: SCRAM_SHA_256.as_bytes(), first: b"n,,n=,r=client" };
    let (server, answer) = ServerExchange::start(stored(), opening, "server", None).unwrap();
    assert!(server.finish(message).is_err());
    let (mut client, _) = start();
    client.respond(answer.as_bytes(), "password", None).unwrap();
    assert!(client.verify(message).is_err());
}
