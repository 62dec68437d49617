//! The control plane dies while a prepared database is made, dropped or claimed: none is lost, and none is given twice.

use crate::harness::{Fleet, Sql as _, connect, trials, until};
use crate::stock::{SHARED, keep, oid, ready};

trials! {
    own the_stock_stays_whole_wherever_the_control_plane_dies,
}

async fn the_stock_stays_whole_wherever_the_control_plane_dies(fleet: &mut Fleet) {
    let failpoint = fleet.path().join("failpoint");
    let reached =
        async || until("the failpoint to be reached", async || (!failpoint.exists()).then_some(())).await;
    let sound = async || {
        until("the map to be sound", async || {
            let output = fleet.cli(&["map", "verify"]).await;
            (output.status == 0).then_some(())
        })
        .await;
    };
    let deaths = [
        ("stock_added", 1),
        ("stock_roles", 2),
        ("stock_database", 3),
        ("stock_ready", 4),
        // What is of no use any more goes.
        ("stock_dropped", 1),
    ];
    for (point, count) in deaths {
        std::fs::write(&failpoint, point).unwrap();
        keep(fleet, count).await;
        reached().await;
        for server in SHARED {
            ready(fleet, server, count as usize, None).await;
        }
        sound().await;
    }
    for (index, point) in ["claim_stock", "claim_stock_done"].into_iter().enumerate() {
        let mut prepared = Vec::new();
        for server in SHARED {
            prepared.extend(ready(fleet, server, 1, None).await);
        }
        std::fs::write(&failpoint, point).unwrap();
        let name = format!("claimed-{index}");
        // Its answer may be lost with the process that was to give it.
        fleet.cli(&["tenant", "create", &name]).await;
        reached().await;
        let shown = until("the tenant to be made", async || {
            let output = fleet.cli(&["tenant", "show", &name]).await;
            (output.status == 0 && output.json()["state"] == "open").then(|| output.json())
        })
        .await;
        let server = shown["server"].as_str().unwrap();
        assert!(prepared.contains(&oid(fleet, server, &name).await), "died at {point}: made twice");
        until("the router to hear of it", async || connect(&fleet.config(&name)).await.ok())
            .await
            .run("CREATE TABLE works ()")
            .await;
        sound().await;
    }
}
