//! What systemd is given, and what it is told.

use std::path::Path;
use std::process::Command;

use crate::harness::{Fleet, PROGRAM, connect, news, trials, until};

trials! {
    shared units_are_sound,
    shared a_watchdog_is_told_that_the_router_lives,
}

/// The most that a service may be exposed, in tenths, as `systemd-analyze security` counts it.
const EXPOSURE_MAX: &str = "20";
/// The first release that knows `Type=notify-reload`.
const NOTIFY_RELOAD_SINCE: u32 = 253;

async fn units_are_sound(fleet: &Fleet) {
    let Ok(version) = Command::new("systemd-analyze").arg("--version").output() else {
        eprintln!("skipped: there is no systemd-analyze here");
        return;
    };
    let version = String::from_utf8(version.stdout).unwrap();
    let version: u32 = version.split_whitespace().nth(1).unwrap().parse().unwrap();
    let copies = fleet.path().join("units");
    std::fs::create_dir_all(&copies).unwrap();
    let mut units = Vec::new();
    for unit in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("ops/systemd")).unwrap() {
        let unit = unit.unwrap();
        let mut text = std::fs::read_to_string(unit.path()).unwrap();
        // The program must be there.
        text = text.replace("/usr/local/bin/tenantry", PROGRAM);
        if version < NOTIFY_RELOAD_SINCE {
            text = text.replace("Type=notify-reload", "Type=notify");
        }
        let copy = copies.join(unit.file_name());
        std::fs::write(&copy, text).unwrap();
        units.push(copy);
    }
    assert_eq!(units.len(), 4);
    let verified =
        Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&units).output().unwrap();
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && said.is_empty(), "{said}");
    for unit in units.iter().filter(|unit| unit.extension().is_some_and(|kind| kind == "service")) {
        let look = ["security", "--offline=true", "--threshold", EXPOSURE_MAX];
        let looked = Command::new("systemd-analyze").args(look).arg(unit).output().unwrap();
        assert!(looked.status.success(), "{}", String::from_utf8_lossy(&looked.stdout));
    }
}

async fn a_watchdog_is_told_that_the_router_lives(fleet: &Fleet) {
    fleet.create("watchdog", &[]).await;
    let manager = fleet.service_manager("watchdog");
    let router = fleet.router_watched(&manager, "300000").await;
    let client = connect(&router.through(&fleet.config("watchdog"))).await.unwrap();
    let mut pings = 0;
    until("pings", async || {
        pings += usize::from(news(&manager).await == "WATCHDOG=1\n");
        client.batch_execute("SELECT 1").await.unwrap();
        (pings >= 5).then_some(())
    })
    .await;
}
