//! `tenantry demo`: the main job, start to end, with a verdict.

use crate::harness::{Place, leftovers, tenantry, trials};

trials! {
    plain the_demo_moves_a_tenant_under_load_and_says_that_nothing_was_lost,
}

async fn the_demo_moves_a_tenant_under_load_and_says_that_nothing_was_lost() {
    let place = Place::make().unwrap();
    let dir = place.path().join("demo");
    let args = ["demo", "-o", "json", "--tenants", "4", "--dir", dir.to_str().unwrap()];
    let outcome = tenantry(&args, &[]).await.ok();
    assert_eq!(outcome["tenants"], 4, "{outcome}");
    for (key, value) in [("ok", true), ("sums_agree", true), ("old_database_gone", true), ("verified", true)]
    {
        assert_eq!(outcome[key], value, "{key}: {outcome}");
    }
    for key in ["lost", "duplicated", "unexpected", "errors", "in_doubt"] {
        assert_eq!(outcome[key], 0, "{key}: {outcome}");
    }
    for key in ["hold_ms", "transactions", "rows_checked"] {
        assert!(outcome[key].as_f64().unwrap() > 0.0, "{key}: {outcome}");
    }
    assert_eq!(outcome["to"], "pg-3", "{outcome}");
    assert!(leftovers(place.path()).is_empty(), "the demo stops its fleet");
}
