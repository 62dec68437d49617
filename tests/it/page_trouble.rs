//! Trouble as the page tells it.

use rustix::process::Signal;

use crate::harness::{Fleet, Sql as _, connect, connect_url, trials, until};
use crate::page_browser::{go, of_operator};

trials! {
    own what_is_wrong_is_seen_on_the_page,
}

async fn what_is_wrong_is_seen_on_the_page(fleet: &mut Fleet) {
    fleet.create("hurt", &["--server", "pg-2"]).await;
    fleet.create("well", &["--server", "pg-1"]).await;
    let browser = of_operator(fleet, "watchful").await;
    go(&browser, "#/health").await;
    browser.see(".title .badge", "ok").await;
    let catalog = connect_url(fleet.variable("TENANTRY_CATALOG_URL"), "tenantry_catalog").await;
    catalog.run("UPDATE server SET max_connections = 100000 WHERE name = 'pg-3'").await;
    browser.click("button", "Look again").await;
    browser.see(".findings li", "server pg-3").await;
    browser.see(".findings li", "routers may open 100000 connections").await;
    browser.see(".findings .remedy", "--max-connections").await;

    let down = fleet.keep_parts_down();
    fleet.freeze("pg-2", Signal::KILL);
    assert!(connect(&fleet.config("hurt")).await.is_err());
    go(&browser, "#/tenants/hurt").await;
    browser.see(".state .badge", "down").await;
    browser.see("[aria-label='Routers'] td", "takes no logins").await;
    go(&browser, "#/tenants").await;
    browser.see("#results tr", "hurtdown").await;
    browser.see("#results tr", "wellopen").await;
    go(&browser, "#/").await;
    browser.see(".trouble a", "pg-2").await;
    browser.see("[aria-label='Server pg-2'] .badge", "unreachable").await;
    drop(down);
    until("its clients to be let in again", async || connect(&fleet.config("hurt")).await.ok()).await;
    go(&browser, "#/tenants/hurt").await;
    browser.see(".state .badge", "served").await;
}
