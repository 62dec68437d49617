//! The last dump of a tenant goes to an object store, whole or not at all; and without it nothing is dropped.

use std::path::PathBuf;

use crate::harness::programs::restored;
use crate::harness::store::{SECRET, Store};
use crate::harness::{Fleet, HandControl, Sql as _, connect, trials, until};

trials! {
    own nothing_is_dropped_whose_last_dump_the_store_does_not_take,
    #[cfg(feature = "failpoints")]
    own a_control_plane_that_dies_over_a_last_dump_leaves_one_whole_object,
}

/// More than fits into one part, however it is compressed.
const ROWS: usize = 500_000;

/// What a part has at least.
const PART_BYTES: u64 = 8 << 20;

/// A control plane whose dumps go to the store.
fn control<'f>(fleet: &'f Fleet, store: &Store) -> HandControl<'f> {
    let settings = ["lease_duration=1s", "deleted_dump_dir=s3://dumps/of/tenants/"];
    fleet.take_control_with(&settings, store.variables())
}

async fn with_rows(fleet: &Fleet, tenant: &str, rows: usize) {
    until("the control plane to lead", async || {
        (fleet.cli(&["tenant", "create", tenant, "--server", "pg-1", "--wait"]).await.status == 0)
            .then_some(())
    })
    .await;
    let rows = format!("CREATE TABLE kept AS SELECT md5(random()::text) FROM generate_series(1, {rows})");
    fleet.connect(tenant).await.run(&rows).await;
}

/// Its only dump in the store has all rows.
async fn is_whole(store: &Store, tenant: &str, rows: usize) {
    let dumps: Vec<PathBuf> = store.objects("dumps").into_iter().filter(|path| of(path, tenant)).collect();
    let [dump] = &dumps[..] else { panic!("{dumps:?}") };
    let name = dump.strip_prefix(dump.ancestors().nth(3).unwrap()).unwrap();
    assert!(name.starts_with("of/tenants"), "{name:?}");
    let is_long = std::fs::metadata(dump).unwrap().len() > PART_BYTES;
    assert_eq!(is_long, rows == ROWS, "whether it came in more than one part");
    let restored = restored(dump).await;
    let is_row = |line: &&str| line.len() == 32 && line.bytes().all(|b| b.is_ascii_hexdigit());
    assert_eq!(restored.lines().filter(is_row).count(), rows);
}

fn of(path: &std::path::Path, tenant: &str) -> bool {
    path.file_name().unwrap().to_str().unwrap().starts_with(&format!("{tenant}-2"))
}

async fn nothing_is_dropped_whose_last_dump_the_store_does_not_take(fleet: &mut Fleet) {
    let store = Store::start(fleet);
    let control = control(fleet, &store);
    with_rows(fleet, "kept", ROWS).await;
    let delete = ["tenant", "delete", "kept", "--now", "--dump", "--yes", "--wait"];
    let fails = async |expected: [&str; 2]| {
        let error = fleet.cli(&delete).await.error(1);
        assert!(expected.iter().all(|part| error.contains(part)), "{error}");
        assert!(!error.trim().contains('\n') && error.contains("s3://dumps/of/tenants: "), "{error}");
        let shown = fleet.tenant("kept").await;
        assert_eq!(shown["state"], "deleted", "{shown}");
        assert!(shown["last_error"].as_str().unwrap().contains(expected[0]), "{shown}");
        let aside = fleet.direct("pg-1", "kept__deleted").await;
        assert_eq!(aside.number("SELECT count(*) FROM kept").await, i64::try_from(ROWS).unwrap());
    };
    fails(["NoSuchBucket", "make the bucket"]).await;
    store.bucket("dumps");
    store.stop();
    fails(["Connection refused", "check AWS_ENDPOINT_URL"]).await;
    store.go_on("another one");
    fails(["SignatureDoesNotMatch", "check AWS_ACCESS_KEY_ID"]).await;
    store.stop();
    store.go_on(SECRET);
    store.cut_at_the_next_part();
    fails(["", "check AWS_ENDPOINT_URL"]).await;
    assert_eq!(store.objects("dumps"), Vec::<PathBuf>::new(), "half a dump is no object");

    fleet.cli(&["tenant", "undelete", "kept", "--wait"]).await.ok();
    let client = until("it to be served again", async || connect(&fleet.config("kept")).await.ok()).await;
    assert_eq!(client.number("SELECT count(*) FROM kept").await, i64::try_from(ROWS).unwrap());
    drop(client);

    store.mend();
    fleet.cli(&delete).await.ok();
    fleet.cli(&["tenant", "show", "kept"]).await.error(3);
    is_whole(&store, "kept", ROWS).await;
    let log = std::fs::read_to_string(fleet.path().join("log/control.log")).unwrap();
    assert!(!log.contains(SECRET), "the log has the store's key");
    drop(control);
}

#[cfg(feature = "failpoints")]
async fn a_control_plane_that_dies_over_a_last_dump_leaves_one_whole_object(fleet: &mut Fleet) {
    let store = Store::start(fleet);
    store.bucket("dumps");
    let control = control(fleet, &store);
    let failpoint = fleet.path().join("failpoint");
    // With a part sent; with all of it sent, and nothing written down.
    for (point, tenant, rows) in [("dump_part", "cut", ROWS), ("dump_whole", "forgotten", 1000)] {
        with_rows(fleet, tenant, rows).await;
        std::fs::write(&failpoint, point).unwrap();
        fleet.cli(&["tenant", "delete", tenant, "--now", "--dump", "--yes", "--no-wait"]).await.ok();
        until("the failpoint to be reached", async || (!failpoint.exists()).then_some(())).await;
        control.start_again();
        until("it to be dropped", async || {
            (fleet.cli(&["tenant", "show", tenant]).await.status == 3).then_some(())
        })
        .await;
        is_whole(&store, tenant, rows).await;
        assert_eq!(store.unfinished(), Vec::<PathBuf>::new(), "{point}: an upload is left open");
    }
    drop(control);
}
