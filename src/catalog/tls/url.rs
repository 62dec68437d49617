//! What a URL says of TLS, in libpq's words, of which the library knows only some.

use std::path::PathBuf;

use super::{TlsMode, TlsOptions};

/// Takes what a URL says of TLS out of it. Without a word it is as libpq has it: TLS if the server can.
///
/// # Errors
/// One line that says which word is wrong.
pub fn without_tls(url: &str) -> Result<(String, TlsOptions), String> {
    let mut options = TlsOptions {
        mode: TlsMode::Prefer,
        ca_file: None,
        cert_file: None,
        key_file: None,
        keys: ["sslmode", "sslrootcert", "sslcert", "sslkey"],
    };
    // The library reads keywords and values, too; what those say of TLS must not be lost on the way.
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err("write it as postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=MODE".to_owned());
    }
    let Some((base, query)) = url.split_once('?') else { return Ok((url.to_owned(), options)) };
    let mut left = Vec::new();
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let file = || Some(PathBuf::from(decoded(value))).filter(|file| !file.as_os_str().is_empty());
        match key {
            "sslmode" => options.mode = mode(value)?,
            "sslrootcert" => options.ca_file = file(),
            "sslcert" => options.cert_file = file(),
            "sslkey" => options.key_file = file(),
            _ => left.push(pair),
        }
    }
    options.validate()?;
    let rest = if left.is_empty() { base.to_owned() } else { format!("{base}?{}", left.join("&")) };
    Ok((rest, options))
}

fn mode(word: &str) -> Result<TlsMode, String> {
    let all = [TlsMode::Disable, TlsMode::Prefer, TlsMode::Require, TlsMode::VerifyCa, TlsMode::VerifyFull];
    let found = all.into_iter().find(|mode| mode.as_str() == word);
    found.ok_or_else(|| "sslmode: use disable, prefer, require, verify-ca or verify-full".to_owned())
}

/// A value without its percent signs; one that stands for no byte is left as it is.
fn decoded(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let byte = (*first == b'%').then(|| after.get(..2)).flatten();
        let byte = byte.and_then(|digits| std::str::from_utf8(digits).ok());
        match byte.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_left_with_what_the_library_knows() {
        let url = "postgres://a:b@h1,h2/db?sslmode=verify-full&target_session_attrs=read-write&sslrootcert=/etc/a%20b.crt";
        let (rest, options) = without_tls(url).unwrap();
        assert_eq!(rest, "postgres://a:b@h1,h2/db?target_session_attrs=read-write");
        assert_eq!((options.mode, options.ca_file), (TlsMode::VerifyFull, Some("/etc/a b.crt".into())));
        assert_eq!(without_tls("postgres://h/db?sslmode=disable").unwrap().0, "postgres://h/db");
        assert_eq!(without_tls("postgres://h/db").unwrap().1.mode, TlsMode::Prefer);
    }

    #[test]
    fn what_is_no_url_is_refused_and_not_taken_without_what_it_says_of_tls() {
        for text in ["host=db sslmode=require", "host=db password=p://a?sslmode=require", "db/map", ""] {
            assert!(without_tls(text).unwrap_err().contains("postgres://USER"), "{text}");
        }
        without_tls("postgresql://h/db").unwrap();
    }

    #[test]
    fn what_can_not_be_meant_is_refused() {
        for query in
            ["sslmode=sometimes", "sslmode=allow", "sslmode=verify-ca", "sslcert=/c.crt", "sslkey=/c.key"]
        {
            without_tls(&format!("postgres://h/db?{query}")).unwrap_err();
        }
    }
}
