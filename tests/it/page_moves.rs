//! Moves on the page, beyond the usual one: what stands in the way is taken upon oneself, one is paused and given up, one is
//! turned round; and a server that is emptied, or not.

use serde_json::{Value, json};

use crate::harness::{Browser, Fleet, Sql as _, connect_url, trials};
use crate::moves_copy::Pauses;
use crate::moves_reverse::{id_of, show};
use crate::page_browser::{choose, confirm, go, has_no_complaint, of_operator};

trials! {
    own moves_are_begun_halted_given_up_and_turned_round_on_the_page,
}

async fn moves_are_begun_halted_given_up_and_turned_round_on_the_page(fleet: &mut Fleet) {
    let browser = &of_operator(fleet, "mover").await;
    what_stands_in_the_way_is_taken_upon_oneself(browser, fleet).await;
    a_move_stands_still_goes_on_and_is_given_up(browser, fleet).await;
    a_move_is_turned_round_and_completed(browser, fleet).await;
    a_server_is_drained_and_that_is_taken_back(browser, fleet).await;
    older_moves_are_found(browser, fleet).await;
    has_no_complaint(browser).await;
}

async fn what_stands_in_the_way_is_taken_upon_oneself(browser: &Browser, fleet: &Fleet) {
    fleet.create("marked", &["--server", "pg-1"]).await;
    fleet.connect("marked").await.run("CREATE TABLE marks (id int PRIMARY KEY, seen pg_lsn)").await;
    go(browser, "#/tenants/marked").await;
    browser.click("button", "Move").await;
    choose(browser, "dialog select[name=to]", "pg-2").await;
    browser.click("dialog summary", "More").await;
    browser.fill("dialog input[name=window]", "1h").await;
    browser.fill("dialog input[name=wait]", "5m").await;
    browser.click("dialog input[name=sessions]", "").await;
    browser.click("dialog button[type=submit]", "Move").await;
    browser.see("dialog [role=alert]", "--accept log_positions").await;
    browser.click("dialog button", "Only look").await;
    browser.see("dialog .note", "This stands in the way").await;
    browser.click("dialog input[name=accept-log_positions]", "").await;
    browser.see("dialog .note", "Nothing stands in the way, but").await;
    let command = "tenantry move start marked --to pg-2 --reverse-window 1h --max-wait 5m --wait-sessions --accept log_positions";
    browser.see("dialog code", command).await;
    confirm(browser).await;
    browser.see("h1", "Move ").await;
    browser.see(".title .badge", "switched").await;
    assert_eq!(fleet.tenant("marked").await["server"], "pg-2");
}

/// Begins a copy that stands in the middle, and shows it.
async fn halted(browser: &Browser, fleet: &Fleet, pauses: &Pauses) -> String {
    pauses.at(&[("range", "bulk", 0)]);
    let id = id_of(&fleet.cli(&["move", "start", "large", "--to", "pg-2"]).await.ok());
    pauses.reached().await;
    go(browser, &format!("#/moves/{id}")).await;
    browser.see(".title .badge", "running").await;
    id
}

async fn a_move_stands_still_goes_on_and_is_given_up(browser: &Browser, fleet: &Fleet) {
    fleet.create("large", &["--server", "pg-1"]).await;
    let client = fleet.connect("large").await;
    client.run("CREATE TABLE bulk (n bigint PRIMARY KEY, note text)").await;
    client.run("INSERT INTO bulk SELECT n, repeat('x', 200) FROM generate_series(1, 20000) n").await;
    let pauses = Pauses::of(fleet);
    let id = halted(browser, fleet, &pauses).await;
    browser.click("button", "Abort").await;
    browser.see("dialog code", &format!("tenantry move abort {id}")).await;
    confirm(browser).await;
    browser.see(".note", "It is to be given up").await;
    pauses.no_more();
    browser.see(".title .badge", "aborted").await;
    assert_eq!(fleet.tenant("large").await["server"], "pg-1");

    let id = halted(browser, fleet, &pauses).await;
    browser.click("button", "Pause").await;
    browser.see("dialog code", &format!("tenantry move pause {id}")).await;
    confirm(browser).await;
    browser.see(".title .badge", "paused").await;
    browser.see(".note", "Paused by mover (page)").await;
    assert_eq!(show(fleet, &id).await["paused"]["by"], "mover (page)");
    pauses.no_more();
    browser.click("button", "Resume").await;
    confirm(browser).await;
    browser.see(".title .badge", "switched").await;
    assert_eq!(show(fleet, &id).await["paused"], Value::Null);
    assert_eq!(fleet.tenant("large").await["server"], "pg-2");
}

/// The number of the move that is shown.
async fn shown(browser: &Browser) -> String {
    let number = "return document.querySelector('h1').textContent.replace(/\\D/g, '')";
    browser.script(number, &[]).await.as_str().unwrap().to_owned()
}

async fn a_move_is_turned_round_and_completed(browser: &Browser, fleet: &Fleet) {
    let first = shown(browser).await;
    browser.click("button", "Reverse").await;
    browser.see("dialog code", &format!("tenantry move reverse {first}")).await;
    confirm(browser).await;
    browser.see(".note", &format!("It turns move {first} round")).await;
    browser.see(".title .badge", "switched").await;
    let back = shown(browser).await;
    assert_eq!(show(fleet, &back).await["reverse_of"].to_string(), first);
    assert_eq!(fleet.tenant("large").await["server"], "pg-1");
    browser.click("button", "Complete").await;
    confirm(browser).await;
    browser.see(".title .badge", "completed").await;
    assert_eq!(show(fleet, &back).await["state"], "completed");
}

async fn a_server_is_drained_and_that_is_taken_back(browser: &Browser, fleet: &Fleet) {
    let state = async || fleet.cli(&["server", "show", "pg-3"]).await.ok()["state"].clone();
    go(browser, "#/servers/pg-3").await;
    browser.click("button", "Drain").await;
    browser.see("dialog code", "tenantry server drain pg-3").await;
    confirm(browser).await;
    browser.see(".title .badge", "draining").await;
    browser.see("section", "Nobody lives here any more").await;
    assert_eq!(state().await, "draining");
    browser.click("button", "Stop draining").await;
    browser.see("dialog code", "tenantry server drain pg-3 --undo").await;
    confirm(browser).await;
    browser.see(".title .badge", "active").await;
    assert_eq!(state().await, "active");
}

async fn older_moves_are_found(browser: &Browser, fleet: &Fleet) {
    let catalog = connect_url(fleet.variable("TENANTRY_CATALOG_URL"), "tenantry_catalog").await;
    let many = "INSERT INTO operation (kind, tenant, state, step, input, data)
        SELECT 'move', 'long-ago', 'completed', 'completed', '{\"from\": \"pg-1\", \"to\": \"pg-2\"}', '{}' FROM generate_series(1, 120)";
    catalog.run(many).await;
    go(browser, "#/moves").await;
    let rows = "[aria-label='Moves'] tbody tr";
    browser.see(rows, "long-ago").await;
    browser.see_no(rows, "marked").await;
    browser.click(".pages a", "Older").await;
    browser.see(rows, "marked").await;
    browser.see_no(".pages a", "Older").await;
    browser.click(".pages a", "Newest").await;
    browser.see(".pages a", "Older").await;
    let shown = browser.script("return document.querySelectorAll(arguments[0]).length", &[json!(rows)]).await;
    assert_eq!(shown, 100);
}
