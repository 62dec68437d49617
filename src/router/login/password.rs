//! Who it is: by a certificate alone where that is allowed, by a password otherwise.
//!
//! A user that does not exist goes through the same exchange with a verifier that no password fits.

use bytes::BytesMut;
use rustls::pki_types::CertificateDer;
use shard_map::MasterKey;
use wire::scram::{Opening, ScramError, ServerExchange, Verifier, mechanisms};
use wire::{WireError, backend, frontend};

use super::Unfinished;
use super::names::Names;
use super::talk::Talk;
use crate::config::RouterConfig;
use crate::error::ClientError;
use crate::pool::connect::nonce;
use crate::tls::{self, TlsMode};

/// The secret from which verifiers of unknown users are made: the same on every router, so that they can't be told apart
/// from known ones by asking two routers, or one before and after its restart.
pub(crate) fn mock_secret(key: &MasterKey) -> [u8; 32] {
    let mut secret = [0; 32];
    for (to, from) in secret.iter_mut().zip(key.unknown_users_secret().bytes()) {
        *to = from;
    }
    secret
}

/// Finds out whether it is the user that it says; gives what is to be said to a client that is let in.
pub(super) async fn authenticate(
    talk: &mut Talk,
    names: &Names,
    config: &RouterConfig,
    secret: &[u8],
) -> Result<BytesMut, Unfinished> {
    let user_name = &names.user_name;
    let certificate = talk.stream.channel().and_then(tls::Channel::peer_certificate);
    let certified = certificate.is_some_and(|shown: &CertificateDer<'_>| tls::is_for(shown, user_name));
    if config.tls_mode == TlsMode::VerifyFull && !certified {
        return Err(ClientError::Certificate(user_name.clone()).into());
    }
    if certified && config.tls_certificate_login && names.user.is_some() {
        return Ok(BytesMut::new());
    }
    password(talk, names, secret).await
}

async fn password(talk: &mut Talk, names: &Names, secret: &[u8]) -> Result<BytesMut, Unfinished> {
    let refused = |error| match error {
        ScramError::Proof => ClientError::Password(names.user_name.clone()),
        ScramError::Malformed => WireError::Malformed("SASL").into(),
        ScramError::Unsupported => {
            ClientError::ProtocolOrder("the client chose a SASL mechanism or option that was not offered")
        }
        ScramError::Downgrade | ScramError::Binding => ClientError::ChannelBinding(error),
    };
    let mock = Verifier::mock(secret, &names.user_name);
    let verifier = names.user.as_ref().and_then(|user| Verifier::parse(&user.verifier).ok()).unwrap_or(mock);
    let mut out = BytesMut::new();
    backend::write_authentication_sasl(&mut out, mechanisms(talk.end_point()));
    talk.send(&mut out).await.map_err(|_| Unfinished::Gone)?;
    let body = talk.password_message().await?;
    let (mechanism, first) = frontend::sasl_initial(&body)?;
    let opening = Opening { mechanism, first };
    let (exchange, answer) =
        ServerExchange::start(verifier, opening, &nonce(), talk.end_point()).map_err(refused)?;
    backend::write_sasl_continue(&mut out, answer.as_bytes());
    talk.send(&mut out).await.map_err(|_| Unfinished::Gone)?;
    let body = talk.password_message().await?;
    let last = exchange.finish(&body).map_err(refused)?;
    // Goes out together with what the worker says first.
    backend::write_sasl_final(&mut out, last.as_bytes());
    Ok(out)
}
