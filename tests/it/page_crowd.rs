//! The page over as many tenants as a fleet may have.

use crate::harness::{Browser, Fleet, Sql as _, connect_url, trials};
use crate::page_browser::{DOWN, ENTER, go, has_no_complaint, of_operator};

trials! {
    own one_of_a_hundred_thousand_tenants_is_found,
}

/// Rows only: nobody is a client of these, and their databases are not made.
const TENANTS: &str = "
    INSERT INTO tenant (id, server, epoch, state, labels)
    SELECT 'customer-' || lpad(i::text, 6, '0'), 'pg-' || 1 + i % 3, 1, 'open', '{\"plan\": \"basic\"}'
    FROM generate_series(1, 100000) i";

async fn one_of_a_hundred_thousand_tenants_is_found(fleet: &mut Fleet) {
    let catalog = connect_url(fleet.variable("TENANTRY_CATALOG_URL"), "tenantry_catalog").await;
    catalog.run(TENANTS).await;
    let browser = &of_operator(fleet, "finder").await;
    browser.see(".servers", "33,334 tenants, the ").await;
    by_a_part_of_its_name(browser).await;
    page_by_page(browser).await;
    has_no_complaint(browser).await;
}

async fn by_a_part_of_its_name(browser: &Browser) {
    browser.press("/").await;
    browser.press("r-0543").await;
    browser.see("#results a", "customer-054321").await;
    browser.see_no("#results a", "customer-000001").await;
    browser.press("21").await;
    browser.see_no("#results a", "customer-054322").await;
    browser.see("#results a", "customer-054321").await;
    browser.press(DOWN).await;
    browser.press(ENTER).await;
    browser.see("h1", "customer-054321").await;
    browser.see(".state", "served").await;
}

async fn page_by_page(browser: &Browser) {
    go(browser, "#/tenants").await;
    browser.see("#results a", "customer-000100").await;
    browser.see_no("#results a", "customer-000101").await;
    browser.click("a[rel=next]", "Next").await;
    browser.see("#results a", "customer-000200").await;
    browser.see_no("#results a", "customer-000100").await;
}
