//! COPY both ways, and results too large to be kept.

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _, TryStreamExt as _};
use postgres_protocol::message::frontend;

use crate::harness::raw::Raw;
use crate::harness::{Fleet, Sql as _, connect, trials};

trials! {
    shared rows_are_copied_in_and_out,
    shared a_copy_with_a_bad_row_leaves_nothing_and_the_connection_works,
    shared a_copy_that_the_client_gives_up_leaves_nothing,
    shared copies_work_inside_a_transaction,
    shared a_client_that_vanishes_in_a_copy_leaves_nothing,
    shared a_large_result_passes_through_without_being_kept,
}

async fn rows_are_copied_in_and_out(fleet: &Fleet) {
    fleet.create("copied", &[]).await;
    let client = fleet.connect("copied").await;
    client.run("CREATE TABLE t (n int, text text)").await;
    let sink = client.copy_in("COPY t FROM STDIN").await.unwrap();
    let mut sink = std::pin::pin!(sink);
    const ROWS: usize = 20_000;
    for n in 0..ROWS {
        sink.send(Bytes::from(format!("{n}\trow {n}\n"))).await.unwrap();
    }
    assert_eq!(sink.finish().await.unwrap(), ROWS as u64);
    assert_eq!(client.number("SELECT count(*) FROM t WHERE text = 'row ' || n").await, ROWS as i64);
    let rows = client.copy_out("COPY (SELECT * FROM t ORDER BY n) TO STDOUT").await.unwrap();
    let lines: Vec<Bytes> = rows.try_collect().await.unwrap();
    let text = String::from_utf8(lines.concat()).unwrap();
    assert_eq!(text.lines().count(), ROWS);
    assert!(text.ends_with(&format!("{0}\trow {0}\n", ROWS - 1)));
}

async fn a_copy_with_a_bad_row_leaves_nothing_and_the_connection_works(fleet: &Fleet) {
    fleet.create("badcopy", &[]).await;
    let mut raw = Raw::login(&fleet.config("badcopy"), &[]).await;
    raw.query("CREATE TABLE t (n int)");
    raw.replies(1).await;
    raw.query("COPY t FROM STDIN").flush().await;
    assert_eq!(raw.reply().await.unwrap(), "G");
    // All of it at once: what follows the bad row is on its way when the error comes back.
    for line in ["1\n", "two\n", "3\n"] {
        raw.add(|out| frontend::CopyData::new(line.as_bytes()).map(|data| data.write(out)));
    }
    raw.add(|out| {
        frontend::copy_done(out);
        Ok(())
    });
    assert_eq!(raw.replies(1).await, ["E:22P02", "Z:I"]);
    raw.query("SELECT count(*) FROM t");
    assert_eq!(raw.replies(1).await, ["T", "D:0", "C:SELECT 1", "Z:I"]);
}

async fn a_copy_that_the_client_gives_up_leaves_nothing(fleet: &Fleet) {
    fleet.create("gaveup", &[]).await;
    let mut raw = Raw::login(&fleet.config("gaveup"), &[]).await;
    raw.query("CREATE TABLE t (n int)");
    raw.replies(1).await;
    raw.query("COPY t FROM STDIN").flush().await;
    assert_eq!(raw.reply().await.unwrap(), "G");
    raw.add(|out| frontend::CopyData::new(&b"1\n"[..]).map(|data| data.write(out)));
    raw.add(|out| frontend::copy_fail("changed my mind", out));
    assert_eq!(raw.replies(1).await, ["E:57014", "Z:I"]);
    raw.query("SELECT count(*) FROM t");
    assert_eq!(raw.replies(1).await, ["T", "D:0", "C:SELECT 1", "Z:I"]);
}

async fn copies_work_inside_a_transaction(fleet: &Fleet) {
    fleet.create("txcopy", &[]).await;
    let mut client = fleet.connect("txcopy").await;
    client.run("CREATE TABLE t (n int)").await;
    let transaction = client.transaction().await.unwrap();
    let sink = transaction.copy_in("COPY t FROM STDIN").await.unwrap();
    let mut sink = std::pin::pin!(sink);
    sink.send(Bytes::from_static(b"1\n2\n")).await.unwrap();
    assert_eq!(sink.finish().await.unwrap(), 2);
    let row = transaction.query_one("SELECT count(*) FROM t", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 2);
    transaction.rollback().await.unwrap();
    assert_eq!(client.number("SELECT count(*) FROM t").await, 0);
    assert_eq!(client.fails("COPY nothing_such FROM STDIN").await, "42P01");
    client.run("SELECT 1").await;
}

async fn a_client_that_vanishes_in_a_copy_leaves_nothing(fleet: &Fleet) {
    fleet.create("vanished", &["--server", "pg-1"]).await;
    let witness = fleet.connect("vanished").await;
    witness.run("CREATE TABLE t (n int)").await;
    let mut raw = Raw::login(&fleet.config("vanished"), &[]).await;
    raw.query("COPY t FROM STDIN").flush().await;
    assert_eq!(raw.reply().await.unwrap(), "G");
    raw.add(|out| frontend::CopyData::new(&b"1\n"[..]).map(|data| data.write(out)));
    raw.flush().await;
    drop(raw);
    // Waits for the copy's lock, and so for its end.
    witness.run("BEGIN; LOCK TABLE t; COMMIT").await;
    assert_eq!(witness.number("SELECT count(*) FROM t").await, 0);
}

/// Resident memory of a process, in MB.
fn resident_mb(pid: rustix::process::Pid) -> u64 {
    let path = format!("/proc/{}/status", pid.as_raw_nonzero());
    let status = std::fs::read_to_string(path).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

async fn a_large_result_passes_through_without_being_kept(fleet: &Fleet) {
    fleet.create("large", &[]).await;
    let client = connect(&fleet.config("large")).await.unwrap();
    client.run("SELECT 1").await;
    let router = fleet.process("router").unwrap();
    let before = resident_mb(router);
    // Rows of 1 MB, and one of 50: neither many messages nor a long one are held.
    for (rows, megabytes) in [(100_usize, 1), (2, 50)] {
        let sql = format!("SELECT repeat('x', {megabytes} << 20) FROM generate_series(1, {rows})");
        let rows_read = client.query_raw(&sql, Vec::<i32>::new()).await.unwrap();
        let sizes: Vec<usize> = rows_read.map(|row| row.unwrap().get::<_, &str>(0).len()).collect().await;
        assert_eq!(sizes, vec![megabytes << 20; rows]);
    }
    let grown = resident_mb(router).saturating_sub(before);
    assert!(grown < 32, "the router grew by {grown} MB, at most, for results of 100 MB");
}
