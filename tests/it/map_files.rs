//! The map as a file: exported, imported, declared.

use std::os::unix::fs::PermissionsExt as _;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Fleet, Sql as _, code, connect, signal, trials, until};
use crate::map_damage::{catalog, drop_catalog, found, has_in_snapshot, rebuild};
use crate::moves::move_to;

trials! {
    own an_export_brings_back_what_was_lost_and_nothing_older_than_the_servers,
    own an_old_export_gives_a_lost_catalog_its_users_and_no_placement,
    own a_declared_fleet_is_applied_and_what_it_lacks_is_told,
    shared wrong_files_are_refused,
}

async fn an_export_brings_back_what_was_lost_and_nothing_older_than_the_servers(fleet: &mut Fleet) {
    fleet.create("kept", &["--server", "pg-1", "--label", "plan=gold"]).await;
    let login = fleet.user("service", "kept", &["--access", "app"]).await;
    let path = fleet.path().join("export");
    let file = path.to_str().unwrap();
    let summary = fleet.cli(&["map", "export", file]).await.ok();
    assert_eq!(
        (&summary["tenants"], &summary["servers"], &summary["users"]),
        (&1.into(), &3.into(), &2.into())
    );
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "it holds verifiers");
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(fleet.cli(&["map", "export"]).await.exits(0).stdout, text, "the same on standard output");
    let by_api = fleet.cli_in(&[("TENANTRY_MAP_CONFIG", "")], &["map", "export"]).await.exits(0).stdout;
    assert_eq!(by_api, text);
    assert_eq!(fleet.cli(&["map", "import", file]).await.ok()["steps"], Value::Array(Vec::new()));

    catalog(fleet)
        .await
        .run("DELETE FROM router_user WHERE name = 'service'; UPDATE tenant SET labels = '{}'")
        .await;
    until("the user to be gone", async || connect(&login).await.err()).await;
    let plan = fleet.cli(&["map", "import", file, "--dry-run"]).await.ok();
    assert_eq!((plan["steps"].as_array().unwrap().len(), &plan["applied"]), (3, &false.into()), "{plan}");
    fleet.cli(&["map", "import", file]).await.ok();
    assert_eq!(fleet.tenant("kept").await["labels"]["plan"], "gold");
    until("the user to be back", async || connect(&login).await.ok()).await;
    assert_eq!(found(fleet).await, Vec::<String>::new());

    until("a move", async || (fleet.cli(&["server", "list"]).await.status == 0).then_some(())).await;
    move_to(fleet, "kept", "pg-3").await;
    let refused = fleet.cli(&["map", "import", file]).await;
    assert!(refused.hint().contains("map rebuild --snapshot"), "{}", refused.stderr);
    let error = refused.error(4);
    assert!(error.contains("tenant kept") && error.contains("epoch would go back"), "{error}");
    assert_eq!(fleet.tenant("kept").await["server"], "pg-3");
}

async fn an_old_export_gives_a_lost_catalog_its_users_and_no_placement(fleet: &mut Fleet) {
    fleet.create("kept", &["--server", "pg-1"]).await;
    let login = fleet.user("service", "kept", &["--access", "app"]).await;
    let path = fleet.path().join("export");
    let file = path.to_str().unwrap();
    fleet.cli(&["map", "export", file]).await.ok();
    move_to(fleet, "kept", "pg-3").await;
    let epoch = fleet.tenant("kept").await["epoch"].as_i64().unwrap();
    let is_kept = async || {
        let kept = until("the tenant to be shown", async || {
            let shown = fleet.cli(&["tenant", "show", "kept"]).await;
            (shown.status == 0).then(|| shown.json())
        });
        let kept = kept.await;
        assert_eq!(
            (&kept["server"], kept["epoch"].as_i64() >= Some(epoch)),
            (&"pg-3".into(), true),
            "{kept}"
        );
    };
    drop_catalog(fleet).await;
    // Nobody has a router's snapshot any more.
    let blind = [("TENANTRY_MAP_SNAPSHOT", "")];
    fleet.cli_in(&blind, &["map", "rebuild", "--snapshot", file, "--apply"]).await.ok();
    is_kept().await;
    until("the user to be known", async || connect(&login).await.ok()).await.run("SELECT 1").await;

    // The same without any file, with a clock that is years behind what routers have, and new users meanwhile.
    let far = "4102444800000";
    catalog(fleet)
        .await
        .run(&format!(
            "UPDATE map_version SET version = {far}; UPDATE tenant SET labels = '{{\"a\": \"b\"}}'"
        ))
        .await;
    has_in_snapshot(fleet, "\"a\":\"b\"").await;
    // A router that tells its version in time is not left behind.
    let router = fleet.process("router").unwrap();
    signal(router, Signal::STOP);
    drop_catalog(fleet).await;
    fleet.cli_in(&blind, &["map", "rebuild", "--without-users", "--apply"]).await.ok();
    signal(router, Signal::CONT);
    until("the router to tell that it is ahead", async || {
        (found(fleet).await == ["version_behind "]).then_some(())
    })
    .await;
    connect(&login).await.unwrap().run("SELECT 1").await;
    until("a user to be made", async || {
        (fleet.cli(&["user", "create", "later"]).await.status == 0).then_some(())
    })
    .await;
    let outcome = fleet.cli_in(&blind, &["map", "rebuild", "--users-from", file, "--apply"]).await.ok();
    let added = outcome["steps"].as_array().unwrap().iter().filter(|step| step["what"] == "user");
    assert_eq!(added.count(), 2, "{outcome}");
    is_kept().await;
    let users = fleet.cli(&["user", "list"]).await.ok();
    assert_eq!(users.as_array().unwrap().len(), 3, "{users}");
    rebuild(fleet, "newcomer").await;
    connect(&login).await.unwrap().run("SELECT 1").await;
    assert_eq!(found(fleet).await, Vec::<String>::new());
}

async fn a_declared_fleet_is_applied_and_what_it_lacks_is_told(fleet: &mut Fleet) {
    let declared = std::fs::read_to_string(fleet.path().join("fleet.toml")).unwrap();
    let path = fleet.path().join("declared.toml");
    let file = path.to_str().unwrap();
    let write = |text: &str| std::fs::write(&path, text).unwrap();
    // As it is: nothing but the policy, which the catalog does not have yet.
    write(&declared);
    fleet.cli(&["map", "apply", file]).await.ok();
    assert_eq!(fleet.cli(&["map", "apply", file]).await.ok()["steps"], Value::Array(Vec::new()));

    write(&format!(
        "{}\n[[users]]\nname = 'reports'\naccess = 'readonly'\n",
        declared.replace("= 80", "= 60")
    ));
    let plan = fleet.cli(&["map", "apply", file, "--dry-run"]).await.ok();
    assert_eq!(plan["steps"].as_array().unwrap().len(), 3, "{plan}");
    assert_eq!(fleet.cli(&["server", "show", "pg-1"]).await.ok()["max_connections"], 80);
    let by_api = fleet.cli_in(&[("TENANTRY_MAP_CONFIG", "")], &["map", "apply", file]).await.ok();
    assert_eq!((&by_api["applied"], &by_api["steps"]), (&true.into(), &plan["steps"]));
    assert_eq!(fleet.cli(&["server", "show", "pg-1"]).await.ok()["max_connections"], 60);
    // A user has no password until it is given one.
    fleet.create("reported", &[]).await;
    let login = |password: &str| fleet.config_as("reports", password, "reported");
    assert_eq!(code(&connect(&login("")).await.err().unwrap()), "28P01");
    let set = fleet.cli(&["user", "passwd", "reports"]).await.ok();
    let password = set["password"].as_str().unwrap().to_owned();
    until("the password to count", async || connect(&login(&password)).await.ok()).await;

    // What is not declared stays, and is told.
    write("[placement]\ntenants_per_server_max = 1\n");
    let outcome = fleet.cli(&["map", "apply", file]).await.ok();
    assert_eq!(outcome["notes"].as_array().unwrap().len(), 5, "{outcome}");
    for tenant in ["one-more", "too-many"] {
        let created = fleet.cli(&["tenant", "create", tenant, "--wait"]).await;
        if tenant == "too-many" {
            created.error(4);
        }
    }
    // A server that nobody armed is refused, with all else that the file says.
    write("[[servers]]\nname = 'new'\nhost = '127.0.0.1'\nport = 1\n[[users]]\nname = 'never'\n");
    let refused = fleet.cli(&["map", "apply", file]).await;
    assert!(refused.hint().contains("server add"), "{}", refused.stderr);
    assert!(refused.error(4).contains("server new"));
    let users = fleet.cli(&["user", "list"]).await.ok();
    assert!(users.as_array().unwrap().iter().all(|user| user["name"] != "never"));
}

async fn wrong_files_are_refused(fleet: &Fleet) {
    let path = fleet.path().join("wrong-file");
    let file = path.to_str().unwrap();
    std::fs::write(
        &path,
        fleet.cli(&["map", "export"]).await.exits(0).stdout.replacen("\"pg-1\"", "\"pg-2\"", 1),
    )
    .unwrap();
    for command in [["map", "import", file], ["map", "rebuild", "--snapshot"]] {
        let args = if command[1] == "rebuild" {
            vec!["map", "rebuild", "--snapshot", file]
        } else {
            command.to_vec()
        };
        let error = fleet.cli(&args).await.error(2);
        assert!(error.contains("checksum"), "{error}");
    }
    let error = fleet.cli(&["map", "apply", file]).await.error(2);
    assert!(error.contains("line 1"), "{error}");
    std::fs::remove_file(&path).unwrap();
}
