//! The page as its user has it: in a real browser, on a real fleet.
//!
//! With `TENANTRY_PAGE_IMAGES` set to a folder, pictures of it are left there for the documentation.

use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::harness::{Browser, Fleet, Sql as _, connect_url, signal, trials, until};

trials! {
    own an_operator_does_their_work_on_the_page,
}

/// Keys that WebDriver has characters for.
pub(crate) const ENTER: &str = "\u{E007}";
const RIGHT: &str = "\u{E014}";
const ESCAPE: &str = "\u{E00C}";
pub(crate) const DOWN: &str = "\u{E015}";
const TAB: &str = "\u{E004}";

async fn an_operator_does_their_work_on_the_page(fleet: &mut Fleet) {
    let _client = furnish(fleet).await;
    let _crowd = if images().is_some() { crowd(fleet).await } else { Vec::new() };
    let browser = opened(fleet).await;
    sign_in(&browser, fleet).await;
    a_move_is_started_by_keyboard_and_watched(&browser, fleet).await;
    a_tenant_is_suspended_only_when_it_is_confirmed(&browser, fleet).await;
    tenants_are_compared_by_what_is_chosen(&browser).await;
    cells_are_told_and_opened_by_keyboard(&browser).await;
    every_view_is_readable_everywhere(&browser, fleet).await;
    a_viewer_sees_all_of_it_and_can_do_nothing(&browser, fleet).await;
    has_no_complaint(&browser).await;
    a_page_without_its_control_plane_says_so_and_goes_on(&browser, fleet).await;
}

/// A browser that has the page before it, and nobody signed in.
async fn opened(fleet: &Fleet) -> Browser {
    let browser = Browser::start().await;
    browser.size(1280, 860).await;
    browser.prefer("light").await;
    browser.open(fleet.variable("TENANTRY_API")).await;
    browser
}

/// A browser in which an operator of this name is signed in, who is no admin.
pub(crate) async fn of_operator(fleet: &Fleet, name: &str) -> Browser {
    let made = fleet.cli(&["token", "create", name, "--role", "operator"]).await.ok();
    let browser = opened(fleet).await;
    browser.fill("input[name=token]", made["token"].as_str().unwrap()).await;
    browser.press(ENTER).await;
    browser.see("article h3", "pg-1").await;
    browser
}

/// Tenants, and a client of one of them.
async fn furnish(fleet: &Fleet) -> Client {
    for (tenant, server) in [("acme", "pg-1"), ("globex", "pg-1"), ("initech", "pg-2"), ("hooli", "pg-1")] {
        fleet.create(tenant, &["--server", server, "--label", "plan=pro"]).await;
    }
    let rows =
        "CREATE TABLE orders AS SELECT id, repeat('x', 300) AS what FROM generate_series(1, 60000) AS id";
    let client = fleet.connect("acme").await;
    client.run(rows).await;
    client.run("ALTER TABLE orders ADD PRIMARY KEY (id)").await;
    client
}

/// For pictures: a map of many tenants, most without a database, and clients at work.
async fn crowd(fleet: &Fleet) -> Vec<Client> {
    let catalog = connect_url(fleet.variable("TENANTRY_CATALOG_URL"), "tenantry_catalog").await;
    let shops = "INSERT INTO tenant (id, server, epoch, state, labels, schema_version)
        SELECT 'shop-' || i, CASE WHEN i % 7 = 0 THEN 'pg-3' WHEN i % 3 = 0 THEN 'pg-2' ELSE 'pg-1' END, 100 + i,
            CASE WHEN i % 97 = 0 THEN 'suspended' ELSE 'open' END, '{\"plan\": \"pro\"}', 12 FROM generate_series(101, 900) i";
    catalog.run(shops).await;
    let sizes = "INSERT INTO tenant_use (tenant, bytes)
        SELECT id, (8e6 * exp(7 * power((hashtext(id) & 65535) / 65536.0, 4)))::bigint FROM tenant ON CONFLICT DO NOTHING";
    catalog.run(sizes).await;
    let mut clients = Vec::new();
    for tenant in ["globex", "initech", "globex", "globex", "initech"] {
        let client = fleet.connect(tenant).await;
        client.run("BEGIN; SELECT count(*) FROM generate_series(1, 1000000)").await;
        clients.push(client);
    }
    clients
}

async fn sign_in(browser: &Browser, fleet: &Fleet) {
    browser.fill("input[name=token]", "not-the-token").await;
    browser.press(ENTER).await;
    browser.see("[role=alert]", "This token is not valid").await;
    browser.fill("input[name=token]", fleet.variable("TENANTRY_TOKEN")).await;
    browser.press(ENTER).await;
    for server in ["pg-1", "pg-2", "pg-3"] {
        browser.see("article h3", server).await;
    }
    browser.see(".card", "Postgres").await;
    browser.see("[aria-label='Busiest tenants'] a", "acme").await;
    let kept = "return [document.cookie, localStorage.length, sessionStorage.length]";
    assert_eq!(
        browser.script(kept, &[]).await,
        json!(["", 0, 1]),
        "the token is in this tab, and nowhere else"
    );
}

async fn a_move_is_started_by_keyboard_and_watched(browser: &Browser, fleet: &Fleet) {
    browser.press("/").await;
    browser.press("acm").await;
    browser.see("#results a", "acme").await;
    browser.see_no("#results a", "globex").await;
    browser.press(DOWN).await;
    browser.press(ENTER).await;
    browser.see("h1", "acme").await;
    browser.see(".state", "served").await;
    tab_to(browser, "Move …").await;
    browser.press(ENTER).await;
    browser.see("dialog code", "tenantry move start acme --to pg-2").await;
    assert_eq!(unnamed(browser).await, json!([]));
    picture(browser, "page-dialog").await;
    browser.press(ESCAPE).await;
    browser.see_no("dialog", "").await;
    assert_eq!(browser.script(FOCUSED, &[]).await, "Move …", "the focus is where it was");
    browser.press(ENTER).await;
    browser.see("dialog code", "tenantry move start acme --to pg-2").await;
    let at_once =
        "document.querySelector('dialog').close(); document.querySelector('.actions button').click()";
    browser.script(at_once, &[]).await;
    browser.see("dialog code", "tenantry move start acme --to pg-2").await;
    tab_to(browser, "Only look").await;
    browser.press(ENTER).await;
    browser.see("dialog .note", "Nothing stands in the way").await;
    tab_to(browser, "Move").await;
    browser.press(ENTER).await;
    browser.see("h1", "Move ").await;
    browser.see(".badge", "switched").await;
    browser.see(".facts", "transactions held").await;
    browser.see(".facts", "page").await;
    assert_eq!(fleet.tenant("acme").await["server"], "pg-2");
    let made = fleet.cli(&["move", "list"]).await.ok()[0].clone();
    assert_eq!((&made["verify"], &made["verified"]), (&json!("full"), &json!(true)), "as by the command");
    picture(browser, "page-move").await;
}

const FOCUSED: &str = "return document.activeElement.textContent.trim()";

/// Presses Tab until the focus is at what has this text.
async fn tab_to(browser: &Browser, text: &str) {
    until(&format!("Tab to come to {text}"), async || {
        browser.press(TAB).await;
        (browser.script(FOCUSED, &[]).await == text).then_some(())
    })
    .await;
}

async fn a_tenant_is_suspended_only_when_it_is_confirmed(browser: &Browser, fleet: &Fleet) {
    go(browser, "#/tenants/hooli").await;
    browser.click("button", "Suspend").await;
    browser.see("dialog code", "tenantry tenant suspend hooli").await;
    browser.click("dialog button", "Cancel").await;
    browser.see_no("dialog", "").await;
    assert_eq!(fleet.tenant("hooli").await["state"], "open");
    browser.click("button", "Suspend").await;
    browser.click("dialog button[type=submit]", "Suspend").await;
    browser.see(".title .badge", "suspended").await;
    browser.see(".history", "suspended").await;
    assert_eq!(fleet.tenant("hooli").await["state"], "suspended");
}

async fn a_viewer_sees_all_of_it_and_can_do_nothing(browser: &Browser, fleet: &Fleet) {
    let made = fleet.cli(&["token", "create", "watcher", "--role", "viewer"]).await.ok();
    browser.click("button", "Sign out").await;
    browser.fill("input[name=token]", made["token"].as_str().unwrap()).await;
    browser.press(ENTER).await;
    browser.see(".who", "viewer").await;
    let of_move = format!("#/moves/{}", fleet.cli(&["move", "list"]).await.ok()[0]["id"]);
    for view in VIEWS.into_iter().chain([of_move.as_str()]) {
        go(browser, view).await;
        settle(browser).await;
        let buttons = "return [...document.querySelectorAll('main button')].map((one) => one.textContent)";
        // To look again is for everybody.
        let looks =
            if view == "#/health" { json!(["Look again", "Look at the servers now"]) } else { json!([]) };
        assert_eq!(browser.script(buttons, &[]).await, looks, "{view}");
    }
}

async fn tenants_are_compared_by_what_is_chosen(browser: &Browser) {
    go(browser, "#/").await;
    let told = async |word: &str| {
        let labels =
            "return [...document.querySelectorAll('.heat canvas')].map((one) => one.ariaLabel).join('; ')";
        until(word, async || {
            let labels = browser.script(labels, &[]).await;
            labels.as_str().unwrap().contains(word).then_some(())
        })
        .await;
    };
    told("the largest is").await;
    choose(browser, ".section select", "load").await;
    told("the busiest is").await;
    choose(browser, ".section select", "size").await;
    told("the largest is").await;
}

async fn cells_are_told_and_opened_by_keyboard(browser: &Browser) {
    // The card with several tenants.
    let on_cells = "return document.activeElement.matches('[aria-label=\"Server pg-1\"] canvas')";
    until("Tab to come to the cells", async || {
        browser.press(TAB).await;
        (browser.script(on_cells, &[]).await == true).then_some(())
    })
    .await;
    let told = "return document.querySelector('[aria-label=\"Server pg-1\"] [aria-live] b').textContent";
    let first = browser.script(told, &[]).await;
    browser.press(RIGHT).await;
    let second = browser.script(told, &[]).await;
    assert_ne!(first, second);
    browser.press(ENTER).await;
    browser.see("h1", second.as_str().unwrap()).await;
}

/// Fails if the browser complained of anything but that the API refused something.
pub(crate) async fn has_no_complaint(browser: &Browser) {
    let complaints = browser.complaints().await;
    let odd = complaints.iter().filter(|told| !told.contains("/v1/"));
    assert_eq!(odd.collect::<Vec<_>>(), Vec::<&String>::new());
}

/// Confirms what is asked, and waits until it is done.
pub(crate) async fn confirm(browser: &Browser) {
    browser.click("dialog button[type=submit]", "").await;
    browser.see_no("dialog", "").await;
}

/// Chooses in a list.
pub(crate) async fn choose(browser: &Browser, list: &str, value: &str) {
    browser.see(list, "").await;
    let choose = "const [list, value] = arguments; const select = document.querySelector(list);
        select.value = value; select.dispatchEvent(new Event('change', { bubbles: true }));";
    browser.script(choose, &[json!(list), json!(value)]).await;
}

const VIEWS: [&str; 8] = [
    "#/",
    "#/tenants",
    "#/tenants/globex",
    "#/servers/pg-1",
    "#/moves",
    "#/migrations",
    "#/health",
    "#/audit",
];

async fn every_view_is_readable_everywhere(browser: &Browser, fleet: &Fleet) {
    let started = fleet.cli(&["move", "list"]).await.ok();
    let of_move = format!("#/moves/{}", started[0]["id"]);
    for view in VIEWS.into_iter().chain([of_move.as_str()]) {
        browser.size(360, 740).await;
        go(browser, view).await;
        settle(browser).await;
        let wide = browser.script("return document.documentElement.scrollWidth", &[]).await;
        assert!(wide.as_u64().unwrap() <= 360, "{view} is {wide} wide on a phone");
        assert_eq!(unnamed(browser).await, json!([]), "{view}");
    }
    go(browser, "#/").await;
    settle(browser).await;
    picture(browser, "page-phone").await;
    go(browser, "#/tenants/globex").await;
    browser.click("button", "Move").await;
    browser.click("dialog summary", "More").await;
    let wide = browser.script("return document.querySelector('dialog').scrollWidth", &[]).await;
    assert!(wide.as_u64().unwrap() <= 360, "the dialog is {wide} wide on a phone");
    picture(browser, "page-phone-dialog").await;
    browser.click("dialog button", "Cancel").await;
    go(browser, "#/").await;
    settle(browser).await;
    browser.size(1280, 860).await;
    let ground = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)";
    let brightness = |colour: Value| colour.as_array().unwrap().iter().filter_map(Value::as_u64).sum::<u64>();
    let light = brightness(browser.script(ground, &[]).await);
    picture(browser, "page-light").await;
    browser.prefer("dark").await;
    let dark = brightness(browser.script(ground, &[]).await);
    assert!(light > 600 && dark < 150, "{light} {dark}");
    settle(browser).await;
    picture(browser, "page-dark").await;
    browser.prefer("light").await;
}

/// Controls and landmarks that a screen reader has no name for.
async fn unnamed(browser: &Browser) -> Value {
    let look = "return [...document.querySelectorAll('a, button, input, select, canvas, nav, section, [role=progressbar]')]
        .filter((one) => !(one.textContent.trim() || one.ariaLabel || one.getAttribute('aria-labelledby') || one.labels?.length || one.closest('[role=img][aria-label]')))
        .map((one) => one.outerHTML)";
    browser.script(look, &[]).await
}

async fn a_page_without_its_control_plane_says_so_and_goes_on(browser: &Browser, fleet: &Fleet) {
    go(browser, "#/").await;
    browser.see("article h3", "pg-1").await;
    let control = fleet.process("control").unwrap();
    let down = fleet.keep_parts_down();
    signal(control, Signal::KILL);
    browser.see(".banner", "does not answer").await;
    browser.see("article h3", "pg-1").await;
    drop(down);
    browser.see_no(".banner", "").await;
    fleet.create("late", &["--server", "pg-3"]).await;
    go(browser, "#/tenants").await;
    browser.see("#results a", "late").await;
}

pub(crate) async fn go(browser: &Browser, address: &str) {
    browser.script("location.hash = arguments[0]", &[json!(address)]).await;
}

/// Waits until a view has what it shows.
async fn settle(browser: &Browser) {
    browser.see("main h1", "").await;
    browser.see_no("main [aria-busy=true]", "").await;
    let drawn =
        "return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))";
    browser.script(drawn, &[]).await;
}

/// Where pictures are wanted, if they are.
fn images() -> Option<PathBuf> {
    std::env::var_os("TENANTRY_PAGE_IMAGES").map(PathBuf::from)
}

async fn picture(browser: &Browser, name: &str) {
    if let Some(folder) = images() {
        let path = folder.join(format!("{name}.png"));
        std::fs::write(path, browser.picture().await).unwrap();
    }
}
