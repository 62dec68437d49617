//! Who keeps the fleet busy, as operators see it.

use std::process::Stdio;

use rustix::process::{Pid, Signal};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::{Fleet, PROGRAM, Sql as _, command, signal, tenantry, trials, until};

trials! {
    shared who_is_in_a_transaction_is_seen_until_it_ends,
    shared a_terminal_shows_it_live_until_q_or_a_signal,
    plain each_command_has_a_manual_page,
}

async fn of_tenant(fleet: &Fleet, id: &str) -> Option<Value> {
    let seen = fleet.cli(&["top", "-n", "1000"]).await.ok();
    seen["tenants"].as_array().unwrap().iter().find(|tenant| tenant["tenant"] == id).cloned()
}

async fn who_is_in_a_transaction_is_seen_until_it_ends(fleet: &Fleet) {
    fleet.create("rushing", &["--server", "pg-2"]).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let client = fleet.connect("rushing").await;
        client.run("BEGIN; SELECT 1").await;
        clients.push(client);
    }
    let seen = until("three are in a transaction", async || {
        of_tenant(fleet, "rushing").await.filter(|tenant| tenant["active"] == 3)
    })
    .await;
    assert_eq!(seen["server"], "pg-2");
    assert_eq!(seen["clients"], 3);
    let all = fleet.cli(&["top"]).await.ok();
    let server = all["servers"].as_array().unwrap().iter().find(|server| server["name"] == "pg-2").unwrap();
    assert!(server["active"].as_u64().unwrap() >= 3 && server["max_connections"].as_u64().unwrap() > 3);
    assert!(!all["routers"].as_array().unwrap().is_empty());
    for client in &clients {
        client.run("COMMIT").await;
    }
    // Their time in transactions counts when they end; then there is nothing more to say of them.
    until("nobody is in one any more", async || {
        of_tenant(fleet, "rushing").await.is_none_or(|tenant| tenant["active"] == 0).then_some(())
    })
    .await;
}

async fn a_terminal_shows_it_live_until_q_or_a_signal(fleet: &Fleet) {
    fleet.create("staged", &["--server", "pg-1"]).await;
    let client = fleet.connect("staged").await;
    client.run("BEGIN; SELECT 1").await;
    let variables =
        ["TENANTRY_API", "TENANTRY_TOKEN"].map(|name| (name.to_owned(), fleet.variable(name).to_owned()));
    for ended_by in [None, Some(Signal::TERM), Some(Signal::HUP)] {
        // It gives a program a terminal.
        let mut script = command("script", &variables);
        script.env("TERM", "xterm").args(["--quiet", "--return", "--command"]);
        let stage = format!("stty rows 200 cols 150; echo \"($$)\"; exec {PROGRAM} top -n 1000");
        script.arg(format!("sh -c '{stage}'")).arg("/dev/null");
        script.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = script.spawn().unwrap();
        let (mut keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut seen = String::new();
        let mut piece = [0; 4096];
        while !seen.contains("staged") {
            let length = screen.read(&mut piece).await.unwrap();
            assert_ne!(length, 0, "it ended by itself: {seen}");
            seen += &String::from_utf8_lossy(&piece[..length]);
        }
        if let Some(how) = ended_by {
            let pid = seen.split(['(', ')']).nth(1).unwrap().parse().unwrap();
            signal(Pid::from_raw(pid).unwrap(), how);
        } else {
            keys.write_all(b"q").await.unwrap();
        }
        screen.read_to_string(&mut seen).await.unwrap();
        assert!(child.wait().await.unwrap().success());
        let is_restored = seen.contains("sorted by busy") && seen.contains("\u{1b}[?1049l");
        assert!(is_restored, "{ended_by:?}: the terminal is not as it was: {seen:?}");
    }
}

async fn each_command_has_a_manual_page() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    tenantry(&["man", path], &[]).await.exits(0);
    for (page, words) in [("tenantry.1", "shard map"), ("tenantry-move-start.1", "max-hold")] {
        let text = std::fs::read_to_string(dir.path().join(page)).unwrap().replace('\\', "");
        assert!(text.contains(words), "{page}: {text}");
    }
}
