//! Two control planes that both believe they lead: the one with the lower term can change nothing, anywhere.

use rustix::process::Signal;

use crate::harness::ledger::Ledger;
use crate::harness::{Fleet, Sql as _, signal, trials, until};
use crate::map_damage::{catalog, found};
use crate::recovery::{ends_in_one_place, has_come_to, has_its_bulk, with_bulk};

trials! {
    own a_registry_takes_nothing_under_a_lower_term,
    own a_controller_that_wakes_up_in_the_middle_of_a_move_changes_nothing,
}

async fn a_registry_takes_nothing_under_a_lower_term(fleet: &mut Fleet) {
    for (tenant, server) in [("one", "pg-1"), ("two", "pg-2"), ("three", "pg-3")] {
        fleet.create(tenant, &["--server", server]).await;
        let registry = fleet.direct(server, "tenantry").await;
        let all = "SELECT t.* FROM tenant t UNION ALL SELECT c::text, '', term, '', '', '', 0, NULL FROM controller_term c";
        registry.run("SELECT check_term(1000)").await;
        let before = registry.column(&format!("SELECT x::text FROM ({all}) x ORDER BY 1")).await;
        for stale in [
            "SELECT check_term(999)".to_owned(),
            format!(
                "SELECT write_tenant(999, '{tenant}', '{{open}}', 'suspended', '{tenant}', 9223372036854775807)"
            ),
            format!(
                "SELECT write_tenant(999, '{tenant}', '{{open}}', 'sealed', '{tenant}', 9223372036854775807, 'pg-9', 'x:1')"
            ),
            "SELECT write_tenant(999, 'another', '{NULL}', 'open', 'another', 1)".to_owned(),
            format!("SELECT remove_tenant(999, '{tenant}', '{{open}}')"),
        ] {
            assert_eq!(registry.fails(&stale).await, "TT001", "{stale}");
            // Whatever else it does in the same transaction goes with it: this is how a fence or a rename is guarded.
            let beside = format!("BEGIN; ALTER DATABASE \"{tenant}\" CONNECTION LIMIT 0; {stale}; COMMIT");
            assert_eq!(registry.fails(&beside).await, "TT001");
            registry.run("ROLLBACK").await;
        }
        let limit = format!("SELECT datconnlimit FROM pg_database WHERE datname = '{tenant}'");
        assert_eq!(registry.number(&limit).await, -1);
        assert_eq!(registry.column(&format!("SELECT x::text FROM ({all}) x ORDER BY 1")).await, before);
        // The same under the term that it has seen is taken.
        registry
            .run(&format!(
                "SELECT write_tenant(1000, '{tenant}', '{{open}}', 'open', '{tenant}', 9223372036854775807)"
            ))
            .await;
    }
}

async fn a_controller_that_wakes_up_in_the_middle_of_a_move_changes_nothing(fleet: &mut Fleet) {
    with_bulk(fleet, "wanted", "pg-1").await;
    let ledger = Ledger::start(fleet, "wanted", 3).await;
    let first = fleet.process("control").unwrap();
    let second = fleet.second_control();
    let catalog = catalog(fleet).await;
    for (phase, to) in [("copy", "pg-3"), ("catch_up", "pg-1"), ("cutover", "pg-3")] {
        let led = catalog.number("SELECT term FROM lease").await;
        let id = fleet.cli(&["move", "start", "wanted", "--to", to]).await.ok()["id"].as_i64().unwrap();
        has_come_to(&catalog, id, phase).await;
        let holder = catalog.column("SELECT holder FROM lease").await.remove(0);
        let leader = if holder.starts_with("control-2/") { second.pid() } else { first };
        signal(leader, Signal::STOP);
        until("the other one to lead", async || {
            (catalog.number("SELECT term FROM lease").await > led).then_some(())
        })
        .await;
        until("the move to end", async || {
            let state = catalog.column(&format!("SELECT state FROM operation WHERE id = {id}")).await;
            (state != ["running"]).then_some(())
        })
        .await;
        let all = "SELECT t::text FROM tenant t ORDER BY 1";
        let before = (
            catalog.column(all).await,
            fleet.direct("pg-1", "tenantry").await.column(all).await,
            fleet.direct("pg-3", "tenantry").await.column(all).await,
        );
        signal(leader, Signal::CONT);
        until("the one that wakes up to notice", async || {
            (fleet.cli(&["move", "show", &id.to_string()]).await.status == 0).then_some(())
        })
        .await;
        let ended = ends_in_one_place(fleet, "wanted", id).await;
        assert_eq!(ended["state"], "switched", "{phase}: {ended}");
        ledger.goes_on().await;
        let after = (
            catalog.column(all).await,
            fleet.direct("pg-1", "tenantry").await.column(all).await,
            fleet.direct("pg-3", "tenantry").await.column(all).await,
        );
        assert_eq!(before, after, "{phase}");
    }
    assert_eq!(found(fleet).await, Vec::<String>::new());
    assert!(ledger.errors().is_empty(), "a client saw {:?}", ledger.errors());
    ledger.reckon(fleet).await;
    has_its_bulk(fleet, "wanted").await;
}
