//! What a store's refusal means, in one line that says what to do.
//!
//! Of a store's answer only its code is repeated. The rest may quote the request, with its headers.

/// Most characters of what a library says.
const CAUSE_CHARS_MAX: usize = 200;

const KEYS: &str =
    "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN in the control plane's environment";
const REGION: &str = "set AWS_REGION in the control plane's environment to the bucket's region";
const AUTHORITY: &str =
    "set SSL_CERT_FILE in the control plane's environment to the certificate of the store's authority";
const NETWORK: &str = "check AWS_ENDPOINT_URL and the way to the store, then delete the tenant again";

/// What is wrong, and what to do.
pub(super) fn line(error: &object_store::Error) -> String {
    let text = error.to_string();
    let (cause, advice) = match code(&text) {
        Some(code) => (code.to_owned(), advice(code)),
        None => {
            let cause = cause(error);
            let advice = advice_without_code(error, (&text, &cause));
            (cause, advice)
        }
    };
    format!("{cause}; {advice}")
}

/// The code in a store's answer.
fn code(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    (!code.is_empty() && code.chars().all(|c| c.is_ascii_alphanumeric())).then_some(code)
}

fn advice(code: &str) -> &'static str {
    match code {
        "NoSuchBucket" => "make the bucket, or name another one in deleted_dump_dir",
        "AccessDenied" | "AllAccessDisabled" | "AccountProblem" => {
            "allow the key s3:PutObject, s3:GetObject and s3:AbortMultipartUpload there"
        }
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "ExpiredToken" | "NotSignedUp" => {
            KEYS
        }
        "AuthorizationHeaderMalformed" | "PermanentRedirect" | "TemporaryRedirect" => REGION,
        "RequestTimeTooSkewed" => "set the clock of the control plane's machine",
        "NoSuchUpload" => "something else ended the upload; delete the tenant again",
        "EntityTooLarge" | "QuotaExceeded" | "XMinioStorageFull" => "make room in the store",
        _ => NETWORK,
    }
}

fn advice_without_code(error: &object_store::Error, (text, cause): (&str, &str)) -> &'static str {
    use object_store::Error;
    if text.contains("169.254.") {
        // Where a cloud's machines ask for a key when nobody has given them one.
        return KEYS;
    }
    if cause.contains("certificate") {
        return AUTHORITY;
    }
    if text.contains("redirect") {
        return REGION;
    }
    match error {
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => KEYS,
        _ => NETWORK,
    }
}

/// What the innermost of an error's causes says, on one line, without a page that may follow it.
fn cause(error: &object_store::Error) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    let text = inner.to_string();
    let text = text.split(['<', '{']).next().unwrap_or_default();
    let text: Vec<&str> = text.split_whitespace().collect();
    let text: String = text.join(" ").chars().take(CAUSE_CHARS_MAX).collect();
    text.trim_end_matches([':', ' ']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(text: &str) -> String {
        line(&object_store::Error::Generic { store: "S3", source: text.into() })
    }

    #[test]
    fn a_store_that_refuses_is_quoted_by_its_code_alone() {
        let answer = "status code: 403 Forbidden: <Error><Code>SignatureDoesNotMatch</Code>\n\
            <StringToSign>AWS4 x-amz-security-token:hunter2</StringToSign></Error>";
        let line = says(answer);
        assert!(line.starts_with("SignatureDoesNotMatch; check AWS_ACCESS_KEY_ID"), "{line}");
        assert!(!line.contains("hunter2") && !line.contains('\n'), "{line}");
    }

    #[test]
    fn one_that_answers_with_a_page_or_not_at_all_is_told_in_one_line() {
        let line = says("Server returned 502 Bad Gateway: <html>\n<body>hunter2");
        assert_eq!(line, format!("Server returned 502 Bad Gateway; {NETWORK}"));
        let refused = std::io::Error::from_raw_os_error(111);
        let line = super::line(&object_store::Error::Generic { store: "S3", source: refused.into() });
        assert_eq!(line, format!("Connection refused (os error 111); {NETWORK}"));
    }
}
