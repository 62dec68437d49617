//! Messages: whatever is accepted comes back the same when it is written again, and nothing beyond its end is looked at.

use bytes::BytesMut;
use wire::backend::{self, tag as server};
use wire::frontend::{self, tag as client};
use wire::startup::{
    Initial, parse_initial, settings_of_options, split_options, write_cancel, write_startup,
};
use wire::{ErrorFields, HEADER_BYTES, header};

const BODY_BYTES_MAX: usize = 1 << 20;

fn written(write: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut out = BytesMut::new();
    write(&mut out);
    out
}

/// The body of a message that was written, whose header must tell its length.
fn body_of(message: &[u8]) -> &[u8] {
    let header = header(message, usize::MAX).unwrap().unwrap();
    assert_eq!(header.total(), message.len());
    &message[HEADER_BYTES..]
}

/// The messages in `data`, up to the first that is not whole or not allowed.
fn messages(mut data: &[u8], mut each: impl FnMut(u8, &[u8])) {
    while let Ok(Some(header)) = header(data, BODY_BYTES_MAX) {
        assert!(header.body <= BODY_BYTES_MAX);
        let Some((message, rest)) = data.split_at_checked(header.total()) else { return };
        each(header.tag, &message[HEADER_BYTES..]);
        data = rest;
    }
}

/// A first packet.
pub(crate) fn startup(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        assert!(split_options(text).len() <= text.len());
        let _ = settings_of_options(text);
    }
    let Ok(Some((initial, used))) = parse_initial(data) else { return };
    assert_eq!(parse_initial(&data[..used]), Ok(Some((initial.clone(), used))));
    assert_eq!(parse_initial(&data[..used - 1]), Ok(None));
    match initial {
        Initial::Cancel { process_id, key } => {
            assert_eq!(&written(|out| write_cancel(out, process_id, &key))[..], &data[..used]);
        }
        Initial::Startup(startup) => {
            assert!(startup.minor_spoken() <= startup.minor || startup.minor_spoken() == 0);
            let pairs: Vec<_> = startup.parameters.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            let again = written(|out| write_startup(out, &pairs));
            let Ok(Some((Initial::Startup(again), _))) = parse_initial(&again) else { panic!("{pairs:?}") };
            assert_eq!(again.parameters, startup.parameters);
        }
        Initial::Ssl | Initial::GssEnc => assert_eq!(used, 8),
    }
}

/// What a client sends after its login.
pub(crate) fn frontend(data: &[u8]) {
    messages(data, |tag, body| match tag {
        client::QUERY => {
            if let Ok(text) = frontend::query(body) {
                assert_eq!(body_of(&written(|out| frontend::write_query(out, text))), body);
            }
        }
        client::PARSE => {
            if let Ok(parse) = frontend::parse(body) {
                let again = written(|out| frontend::write_parse(out, parse.name, parse.query, parse.types));
                assert_eq!(body_of(&again), body);
            }
        }
        client::BIND => renamed_bind(body),
        client::DESCRIBE | client::CLOSE => {
            if let Ok(target) = frontend::target(body)
                && target.kind == b'S'
            {
                let describe = written(|out| frontend::write_describe_statement(out, target.name));
                let close = written(|out| frontend::write_close_statement(out, target.name));
                assert_eq!((body_of(&describe), body_of(&close)), (body, body));
            }
        }
        client::FUNCTION_CALL => drop(frontend::function_call(body)),
        client::EXECUTE => drop(frontend::execute(body)),
        client::PASSWORD => {
            if let Ok((mechanism, first)) = frontend::sasl_initial(body)
                && let Ok(mechanism) = std::str::from_utf8(mechanism)
            {
                let again = written(|out| frontend::write_sasl_initial(out, mechanism, first));
                assert_eq!(body_of(&again), body);
            }
        }
        _ => {}
    });
}

/// A Bind under another statement's name keeps all the rest.
fn renamed_bind(body: &[u8]) {
    let Ok(bind) = frontend::bind(body) else { return };
    let mut out = written(|out| frontend::write_bind_start(out, &bind, body.len(), b"another"));
    out.extend_from_slice(bind.rest);
    let again = frontend::bind(body_of(&out)).unwrap();
    assert_eq!((again.portal, again.statement, again.rest), (bind.portal, &b"another"[..], bind.rest));
}

/// What a server sends.
pub(crate) fn backend(data: &[u8]) {
    messages(data, |tag, body| match tag {
        server::READY_FOR_QUERY => {
            if let Ok(status) = backend::ready_for_query(body) {
                assert_eq!(body, [status.as_byte()]);
            }
        }
        server::AUTHENTICATION => drop(backend::authentication(body)),
        server::PARAMETER_STATUS => {
            if let Ok((name, value)) = backend::parameter_status(body) {
                let again = written(|out| backend::write_parameter_status(out, name, value));
                assert_eq!(body_of(&again), body);
            }
        }
        server::BACKEND_KEY_DATA => {
            if let Ok((process_id, key)) = backend::backend_key_data(body) {
                let again = written(|out| backend::write_backend_key_data(out, process_id, key));
                assert_eq!(body_of(&again), body);
            }
        }
        server::ERROR | server::NOTICE => {
            if let Ok(error) = ErrorFields::parse(body) {
                let _ = (error.is_stale_plan(), error.ends_session());
                let known = ErrorFields { routine: None, ..error };
                let again = written(|out| known.write_error(out));
                assert_eq!(ErrorFields::parse(body_of(&again)).unwrap(), known);
            }
        }
        _ => {}
    });
}
