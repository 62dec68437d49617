//! A tenant's whole life on the page, and the record of it.

use serde_json::json;

use crate::harness::{Browser, Fleet, trials};
use crate::page_browser::{ENTER, choose, confirm, go, has_no_complaint, of_operator};

trials! {
    shared a_tenant_lives_its_life_on_the_page,
}

async fn a_tenant_lives_its_life_on_the_page(fleet: &Fleet) {
    let browser = &of_operator(fleet, "keeper").await;
    it_is_made_where_a_look_said(browser, fleet).await;
    it_gets_a_quota_of_its_own(browser, fleet).await;
    it_is_copied(browser, fleet).await;
    it_gets_another_id(browser, fleet).await;
    it_is_deleted_and_brought_back(browser, fleet).await;
    it_is_dropped_only_by_who_types_its_id(browser, fleet).await;
    all_of_it_is_on_record(browser).await;
    has_no_complaint(browser).await;
}

async fn it_is_made_where_a_look_said(browser: &Browser, fleet: &Fleet) {
    go(browser, "#/tenants").await;
    browser.click("button", "New tenant").await;
    browser.fill("dialog input[name=id]", "Not An Id").await;
    browser.press(ENTER).await;
    browser.see("dialog input[name=id]:invalid", "").await;
    browser.fill("dialog input[name=id]", "page-born").await;
    choose(browser, "dialog select[name=place]", "server=pg-2").await;
    browser.click("dialog summary", "More").await;
    browser.fill("dialog input[name=labelled]", "plan=pro, made=here").await;
    browser.fill("dialog input[name=connections]", "7").await;
    let command = "tenantry tenant create page-born --server pg-2 --label plan=pro --label made=here --quota connections=7";
    browser.see("dialog code", command).await;
    browser.click("dialog button", "Only look").await;
    browser.see("dialog .note", "It would go to pg-2").await;
    fleet.cli(&["tenant", "show", "page-born"]).await.exits(3);
    browser.fill("dialog input[name=connections]", "8").await;
    browser.press(ENTER).await;
    browser.see("h1", "page-born").await;
    browser.see(".title .badge", "open").await;
    let made = fleet.tenant("page-born").await;
    let labels = json!({ "plan": "pro", "made": "here" });
    assert_eq!((&made["server"], &made["labels"]), (&json!("pg-2"), &labels), "{made}");
    assert_eq!(made["own_quota"], json!({ "connections": 8 }), "{made}");
}

async fn it_gets_a_quota_of_its_own(browser: &Browser, fleet: &Fleet) {
    browser.click("button", "Quota").await;
    browser.fill("dialog input[name=size]", "1GB").await;
    let empty = "const box = document.querySelector('dialog input[name=connections]');
        box.value = ''; box.dispatchEvent(new Event('input', { bubbles: true }));";
    browser.script(empty, &[]).await;
    browser.see("dialog code", "tenantry tenant set page-born --quota connections= --quota size=1GB").await;
    confirm(browser).await;
    browser.see(".load", "of 1GB").await;
    assert_eq!(fleet.tenant("page-born").await["own_quota"], json!({ "size": "1GB" }));
}

async fn it_is_copied(browser: &Browser, fleet: &Fleet) {
    browser.click("button", "Clone").await;
    browser.fill("dialog input[name=id]", "page-twin").await;
    choose(browser, "dialog select[name=place]", "class=shared").await;
    browser.see("dialog code", "tenantry tenant clone page-born page-twin --class shared").await;
    confirm(browser).await;
    browser.see("h1", "page-twin").await;
    browser.see(".title .badge", "open").await;
    assert_eq!(fleet.tenant("page-twin").await["labels"]["plan"], "pro");
}

async fn it_gets_another_id(browser: &Browser, fleet: &Fleet) {
    browser.click("button", "Rename").await;
    browser.fill("dialog input[name=to]", "page-born").await;
    browser.press(ENTER).await;
    browser.see("dialog [role=alert]", "page-born").await;
    browser.fill("dialog input[name=to]", "page-named").await;
    browser.see("dialog code", "tenantry tenant rename page-twin page-named").await;
    confirm(browser).await;
    browser.see("h1", "page-named").await;
    browser.see(".title .badge", "open").await;
    assert_eq!(fleet.tenant("page-named").await["state"], "open");
    fleet.cli(&["tenant", "show", "page-twin"]).await.exits(3);
}

async fn it_is_deleted_and_brought_back(browser: &Browser, fleet: &Fleet) {
    browser.click("button", "Delete").await;
    browser.see("dialog code", "tenantry tenant delete page-named").await;
    confirm(browser).await;
    browser.see(".title .badge", "deleted").await;
    assert_eq!(fleet.tenant("page-named").await["state"], "deleted");
    browser.see(".facts", "dropped").await;
    browser.click("button", "Bring back").await;
    confirm(browser).await;
    browser.see(".title .badge", "open").await;
    assert_eq!(fleet.tenant("page-named").await["state"], "open");
}

async fn it_is_dropped_only_by_who_types_its_id(browser: &Browser, fleet: &Fleet) {
    browser.click("button", "Delete").await;
    browser.click("dialog input[name=now]", "").await;
    browser.see("dialog code", "tenantry tenant delete page-named --now").await;
    browser.fill("dialog input[name=typed]", "page-born").await;
    browser.press(ENTER).await;
    browser.see("dialog input[name=typed]:invalid", "").await;
    assert_eq!(fleet.tenant("page-named").await["state"], "open");
    browser.fill("dialog input[name=typed]", "page-named").await;
    confirm(browser).await;
    browser.see("h1", "Tenants").await;
    fleet.cli(&["tenant", "show", "page-named"]).await.exits(3);
}

async fn all_of_it_is_on_record(browser: &Browser) {
    go(browser, "#/audit").await;
    browser.fill("main input[name=about]", "page-born").await;
    let records = "[aria-label='Who did what'] tbody tr";
    browser.see_no(records, "page-named").await;
    for what in ["POST /tenants", "PUT /tenants/page-born/quota", "POST /tenants/page-born/clone"] {
        browser.see(records, what).await;
    }
    browser.see(records, "keeper operator").await;
    browser.fill("main input[name=about]", "tenant page-named").await;
    for what in ["DELETE /tenants/page-named?now=true", "POST /tenants/page-named/undelete"] {
        browser.see(records, what).await;
    }
    browser.see_no(records, "page-born/quota").await;
    browser.fill("main input[name=who]", "nobody").await;
    browser.see(".empty", "Nothing is on record").await;
}
