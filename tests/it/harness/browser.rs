//! A real browser, headless, steered over the WebDriver protocol. It and its profile are gone when it is dropped.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::place::{Place, spawn_tied};
use super::wait::until;

/// How long one command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
/// The key under which WebDriver tells of an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

pub(crate) struct Browser {
    /// Before the place: the driver ends first.
    driver: Child,
    _place: Place,
    client: reqwest::Client,
    session: String,
}

impl Browser {
    /// Starts one. `ops/setup/chromium` says where it is.
    pub(crate) async fn start() -> Self {
        let bin = std::env::var("TENANTRY_CHROMIUM").unwrap_or_else(|_| "/usr/bin".to_owned());
        let (driver, browser) = (Path::new(&bin).join("chromedriver"), Path::new(&bin).join("chromium"));
        assert!(
            driver.is_file() && browser.is_file(),
            "no chromium with its driver in {bin}: export TENANTRY_CHROMIUM=$(ops/setup/chromium)"
        );
        let place = Place::make().unwrap();
        let mut driver = spawn_tied(&driver, |driver| {
            driver.current_dir(place.path());
            driver.args(["--port=0", "--log-level=SEVERE"]).env("TMPDIR", place.path());
            driver.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        })
        .unwrap();
        let out = BufReader::new(driver.stdout.take().unwrap());
        let started = out.lines().map_while(Result::ok).find_map(|line| {
            let port = line.split_once("started successfully on port ")?.1;
            port.trim_end_matches('.').parse::<u16>().ok()
        });
        let port = started.expect("chromedriver tells its port");
        let client = reqwest::Client::builder().no_proxy().timeout(COMMAND_TIMEOUT).build().unwrap();
        let mut made = Self { driver, _place: place, client, session: format!("http://127.0.0.1:{port}") };
        let profile = format!("--user-data-dir={}", made._place.path().join("profile").display());
        let args = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-proxy-server",
        ];
        let args: Vec<&str> = args.into_iter().chain([profile.as_str(), "--hide-scrollbars"]).collect();
        let wanted = json!({ "browserName": "chrome", "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": { "binary": browser, "args": args } });
        let session = made.call("/session", &json!({ "capabilities": { "alwaysMatch": wanted } })).await;
        made.session = format!("{}/session/{}", made.session, session["sessionId"].as_str().unwrap());
        made
    }

    async fn call(&self, path: &str, body: &Value) -> Value {
        let request = self.client.post(format!("{}{path}", self.session)).json(body);
        let response = request.send().await.unwrap();
        let status = response.status();
        let mut answer: Value = response.json().await.unwrap();
        assert!(status.is_success(), "{path} {body}: {answer}");
        answer["value"].take()
    }

    async fn devtools(&self, command: &str, params: Value) {
        self.call("/goog/cdp/execute", &json!({ "cmd": command, "params": params })).await;
    }

    pub(crate) async fn open(&self, url: &str) {
        self.call("/url", &json!({ "url": url })).await;
    }

    /// What a function's body returns, with `arguments`.
    pub(crate) async fn script(&self, body: &str, arguments: &[Value]) -> Value {
        self.call("/execute/sync", &json!({ "script": body, "args": arguments })).await
    }

    pub(crate) async fn size(&self, width: u32, height: u32) {
        let params =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500 });
        self.devtools("Emulation.setDeviceMetricsOverride", params).await;
    }

    pub(crate) async fn prefer(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": features })).await;
    }

    /// Presses keys where the focus is. WebDriver has a character for each special one.
    pub(crate) async fn press(&self, keys: &str) {
        let press = |key: char| {
            [json!({ "type": "keyDown", "value": key }), json!({ "type": "keyUp", "value": key })]
        };
        let actions: Vec<Value> = keys.chars().flat_map(press).collect();
        self.call("/actions", &json!({ "actions": [{ "type": "key", "id": "keys", "actions": actions }] }))
            .await;
    }

    /// Waits until an element is seen that the selector names and that has this text in it.
    pub(crate) async fn see(&self, selector: &str, text: &str) -> Value {
        const FIND: &str = "return [...document.querySelectorAll(arguments[0])].find((one) =>
            one.checkVisibility() && (one.textContent + (one.value ?? '')).includes(arguments[1])) ?? null";
        let arguments = [json!(selector), json!(text)];
        until(&format!("{selector} with {text:?}"), async || {
            let found = self.script(FIND, &arguments).await;
            found.is_object().then_some(found)
        })
        .await
    }

    /// Waits until there is no such element.
    pub(crate) async fn see_no(&self, selector: &str, text: &str) {
        const FIND: &str = "return [...document.querySelectorAll(arguments[0])].some((one) =>
            one.checkVisibility() && one.textContent.includes(arguments[1]))";
        let arguments = [json!(selector), json!(text)];
        until(&format!("no {selector} with {text:?}"), async || {
            (self.script(FIND, &arguments).await == json!(false)).then_some(())
        })
        .await;
    }

    pub(crate) async fn click(&self, selector: &str, text: &str) {
        let found = self.see(selector, text).await;
        let element = found[ELEMENT].as_str().unwrap();
        self.call(&format!("/element/{element}/click"), &json!({})).await;
    }

    /// Types into the element that the selector names, in place of what is there.
    pub(crate) async fn fill(&self, selector: &str, text: &str) {
        let found = self.see(selector, "").await;
        let element = found[ELEMENT].as_str().unwrap();
        self.call(&format!("/element/{element}/clear"), &json!({})).await;
        self.call(&format!("/element/{element}/value"), &json!({ "text": text })).await;
    }

    /// What the browser complained of since it was asked last.
    pub(crate) async fn complaints(&self) -> Vec<String> {
        let log = self.call("/se/log", &json!({ "type": "browser" })).await;
        let entries = log.as_array().unwrap().iter();
        entries.filter(|entry| entry["level"] == "SEVERE").map(|entry| entry["message"].to_string()).collect()
    }

    /// What is seen, as a PNG.
    pub(crate) async fn picture(&self) -> Vec<u8> {
        let response = self.client.get(format!("{}/screenshot", self.session)).send().await.unwrap();
        let answer: Value = response.json().await.unwrap();
        STANDARD.decode(answer["value"].as_str().unwrap()).unwrap()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        drop(self.driver.kill());
        drop(self.driver.wait());
    }
}
