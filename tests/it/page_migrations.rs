//! Migrations on the page: begun from files, seen as they go, and what became of those that failed.

use crate::harness::{Browser, Fleet, Sql as _, trials};
use crate::migrations::{Files, turn};
use crate::page_browser::{confirm, go, has_no_complaint, of_operator};

trials! {
    shared migrations_are_run_from_files_on_the_page,
}

const TENANTS: [&str; 3] = ["paged-1", "paged-2", "paged-3"];
const FIRST: (&str, &str) = ("V1__first.sql", "CREATE TABLE t (a int)");
const SECOND: (&str, &str) = ("V2__second.sql", "ALTER TABLE t ADD b int");
/// What only a tenant's own data shows.
const THIRD: (&str, &str) =
    ("V3__third.sql", "SELECT 1 / (CASE current_database() WHEN 'paged-2' THEN 0 ELSE 1 END)");

async fn migrations_are_run_from_files_on_the_page(fleet: &Fleet) {
    let _turn = turn().await;
    for tenant in TENANTS {
        fleet.create(tenant, &["--label", "group=paged"]).await;
    }
    let browser = &of_operator(fleet, "migrator").await;
    a_run_is_looked_at_and_begun(browser, fleet).await;
    its_figures_are_seen_as_they_change(browser, fleet).await;
    who_failed_is_named_with_the_error(browser, fleet).await;
    has_no_complaint(browser).await;
}

/// Fills in what a run takes.
async fn fill(browser: &Browser, files: &[(&str, &str)]) -> Files {
    go(browser, "#/migrations").await;
    browser.click("button", "New run").await;
    let dir = Files::new(files);
    let paths: Vec<String> = files.iter().map(|(name, _)| format!("{}/{name}", dir.path())).collect();
    browser.fill("dialog input[name=files]", &paths.join("\n")).await;
    browser.fill("dialog input[name=selector]", "group=paged").await;
    browser.see("dialog code", "tenantry migrate run --dir DIR --selector group=paged").await;
    dir
}

async fn a_run_is_looked_at_and_begun(browser: &Browser, fleet: &Fleet) {
    let _wrong = fill(browser, &[("first.sql", "SELECT 1")]).await;
    browser.click("dialog button", "Only look").await;
    browser.see("dialog .note", "first.sql:1").await;
    browser.click("dialog button", "Cancel").await;
    let _files = fill(browser, &[FIRST]).await;
    browser.click("dialog button", "Only look").await;
    browser.see("dialog .note", "3 of 3 tenants would be brought to version 1").await;
    browser.see("dialog td", "paged-3").await;
    confirm(browser).await;
    browser.see("h1", "Migration run").await;
    browser.see(".title .badge", "done").await;
    browser.see(".load", "3 of 3 tenants").await;
    for tenant in TENANTS {
        assert_eq!(fleet.connect(tenant).await.number("SELECT count(*) FROM t").await, 0);
    }
}

/// A client keeps one tenant from its turn for a while.
async fn its_figures_are_seen_as_they_change(browser: &Browser, fleet: &Fleet) {
    let mut client = fleet.connect("paged-3").await;
    let reading = client.transaction().await.unwrap();
    reading.batch_execute("SELECT FROM t").await.unwrap();
    let _files = fill(browser, &[FIRST, SECOND]).await;
    browser.click("dialog summary", "More").await;
    browser.fill("dialog input[name=lock_timeout]", "100ms").await;
    browser.see("dialog code", "--lock-timeout 100ms").await;
    confirm(browser).await;
    browser.see(".load", "2 of 3 tenants").await;
    browser.see(".title .badge", "running").await;
    reading.commit().await.unwrap();
    browser.see(".load", "3 of 3 tenants").await;
    browser.see(".title .badge", "done").await;
}

async fn who_failed_is_named_with_the_error(browser: &Browser, fleet: &Fleet) {
    let _files = fill(browser, &[FIRST, SECOND, THIRD]).await;
    confirm(browser).await;
    browser.see(".title .badge", "failed").await;
    browser.see("[aria-label='Failed'] tr", "paged-2").await;
    browser.see("[aria-label='Failed'] tr", "division by zero").await;
    browser.see(".actions button", "Resume").await;
    assert_eq!(fleet.tenant("paged-2").await["schema_version"], 2);
    // A run that has halted is no more.
    let run = fleet.cli(&["migrate", "list"]).await.ok()[0].clone();
    assert_eq!((&run["state"], &run["failed"]), (&"failed".into(), &1.into()), "{run}");
}
