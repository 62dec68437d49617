//! The page for operators, under `/ui/`: files that are part of the program, so that there is nothing to install and page
//! and API are always of one version. What they may do in a browser is stated in their headers: nothing from elsewhere is
//! loaded, and no script runs that is not one of these files.

use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use sha2::{Digest as _, Sha256};

use super::answer::{Path, Refusal};

const INDEX: &str = "index.html";
const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file of the page.
struct File {
    path: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

macro_rules! files {
    ($($path:literal: $kind:ident),* $(,)?) => {
        &[$(File {
            path: $path,
            kind: $kind,
            bytes: include_bytes!(concat!("../page/", $path)),
        }),*]
    };
}

static FILES: &[File] = files![
    "actions/command.js": SCRIPT,
    "actions/make.js": SCRIPT,
    "actions/move.js": SCRIPT,
    "actions/quota.js": SCRIPT,
    "actions/run.js": SCRIPT,
    "actions/server.js": SCRIPT,
    "actions/start_move.js": SCRIPT,
    "actions/tenant.js": SCRIPT,
    "actions/values.js": SCRIPT,
    "api.js": SCRIPT,
    "base.css": STYLE,
    "chart.js": SCRIPT,
    "data.js": SCRIPT,
    "dialog.js": SCRIPT,
    "fields.js": SCRIPT,
    "format.js": SCRIPT,
    "heat.js": SCRIPT,
    "html.js": SCRIPT,
    "icon.svg": IMAGE,
    "index.html": HTML,
    "live.js": SCRIPT,
    "main.js": SCRIPT,
    "parts.css": STYLE,
    "parts.js": SCRIPT,
    "route.js": SCRIPT,
    "session.js": SCRIPT,
    "shell.js": SCRIPT,
    "store.js": SCRIPT,
    "views/audit.js": SCRIPT,
    "views/fleet.js": SCRIPT,
    "views/health.js": SCRIPT,
    "views/migrations.js": SCRIPT,
    "views/move.js": SCRIPT,
    "views/moves.js": SCRIPT,
    "views/pages.js": SCRIPT,
    "views/server.js": SCRIPT,
    "views/sign_in.js": SCRIPT,
    "views/tenant.js": SCRIPT,
    "views/tenants.js": SCRIPT,
    "vendor/README.md": TEXT,
    "vendor/htm.LICENSE.txt": TEXT,
    "vendor/htm.js": SCRIPT,
    "vendor/preact-hooks.js": SCRIPT,
    "vendor/preact.LICENSE.txt": TEXT,
    "vendor/preact.js": SCRIPT,
    "vendor/uplot.LICENSE.txt": TEXT,
    "vendor/uplot.css": STYLE,
    "vendor/uplot.js": SCRIPT,
];

pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/", get(|| async { Redirect::permanent("ui/") }))
        .route("/ui", get(|| async { Redirect::permanent("ui/") }))
        .route("/ui/", get(|headers: HeaderMap| async move { find(INDEX, &headers) }))
        .route(
            "/ui/{*path}",
            get(|Path(path): Path<String>, headers: HeaderMap| async move { find(&path, &headers) }),
        )
}

fn find(path: &str, asked: &HeaderMap) -> Response {
    let Some(file) = FILES.iter().find(|file| file.path == path) else {
        return Refusal::not_found("the page has no such file").into_response();
    };
    let known = asked.get_all(header::IF_NONE_MATCH).iter().any(|tags| file.is_among(tags));
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, file.kind)], file.bytes).into_response()
    };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, file.tag());
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

const HEADERS: [(HeaderName, &str); 7] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    // Kept, and asked for again each time: that costs a line, and the page is never older than the API.
    (header::CACHE_CONTROL, "no-cache"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

impl File {
    /// By its content.
    fn tag(&self) -> HeaderValue {
        let digest = Sha256::digest(self.bytes);
        let text: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        HeaderValue::from_str(&format!("\"{text}\"")).unwrap_or(HeaderValue::from_static("\"\""))
    }

    fn is_among(&self, tags: &HeaderValue) -> bool {
        let (tag, tags) = (self.tag(), tags.to_str().unwrap_or_default());
        tags.split(',').any(|one| one.trim().trim_start_matches("W/").as_bytes() == tag.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_file_of_the_page_is_served() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("page");
        let mut there = Vec::new();
        for folder in ["", "actions/", "views/", "vendor/"] {
            let entries = std::fs::read_dir(page.join(folder)).unwrap().map(|entry| entry.unwrap());
            let files = entries.filter(|entry| entry.path().is_file());
            there.extend(files.map(|file| format!("{folder}{}", file.file_name().to_str().unwrap())));
        }
        there.sort();
        let mut served: Vec<&str> = FILES.iter().map(|file| file.path).collect();
        served.sort_unstable();
        assert_eq!(served, there);
    }

    #[test]
    fn a_file_that_the_browser_has_is_not_sent_again() {
        let first = find(INDEX, &HeaderMap::new());
        assert_eq!(first.status(), StatusCode::OK);
        assert_eq!(first.headers()[header::CONTENT_TYPE], HTML);
        let mut asked = HeaderMap::new();
        asked.insert(header::IF_NONE_MATCH, first.headers()[header::ETAG].clone());
        let again = find(INDEX, &asked);
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(again.headers()[header::ETAG], first.headers()[header::ETAG]);
        assert_eq!(find("main.js", &asked).status(), StatusCode::OK);
        assert_eq!(find("../Cargo.toml", &asked).status(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn no_script_but_the_pages_own_may_run() {
        let headers = find(INDEX, &HeaderMap::new()).headers().clone();
        let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
        for file in FILES.iter().filter(|file| !file.path.starts_with("vendor/")) {
            let text = std::str::from_utf8(file.bytes).unwrap();
            assert!(!text.contains("innerHTML") && !text.contains("//unpkg"), "{}", file.path);
            let inline = text.contains("<script>") || text.contains(" onclick=\"") || text.contains("<style");
            assert!(!inline, "{}", file.path);
        }
    }
}
