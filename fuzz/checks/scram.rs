//! SCRAM: no message of a peer makes a side fall over, and none but the right one is believed.

use wire::scram::{ClientExchange, ServerExchange, Verifier};

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
    if let Ok((exchange, answer)) = ServerExchange::start(stored(), message, "server") {
        assert!(answer.starts_with("r=") && answer.ends_with(",i=1"));
        assert!(exchange.finish(message).is_err(), "a first message is not a last one");
    }
}

/// Rounds are the server's to ask for: none but a few are worth a fuzzer's time.
const ROUNDS: &[u8] = b",i=1";

fn answer_of_server(message: &[u8]) {
    let (mut exchange, first) = ClientExchange::start("client");
    assert_eq!(first, "n,,n=,r=client");
    if message.ends_with(ROUNDS)
        && let Ok((last, keys)) = exchange.respond(message, "password", None)
    {
        let (mut again, _) = ClientExchange::start("client");
        let (same, _) = again.respond(message, "password", Some(&keys)).unwrap();
        assert_eq!(last, same);
        assert!(exchange.verify(message).is_err());
    }
}

fn last_words(message: &[u8]) {
    let (server, answer) = ServerExchange::start(stored(), b"n,,n=,r=client", "server").unwrap();
    assert!(server.finish(message).is_err());
    let (mut client, _) = ClientExchange::start("client");
    client.respond(answer.as_bytes(), "password", None).unwrap();
    assert!(client.verify(message).is_err());
}
