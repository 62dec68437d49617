//! Connections that are being opened to a server: how many, and what disturbs them.

use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{DEADLINE, Fleet, Sql as _, connect, connect_url, trials};

trials! {
    own a_tenant_opens_as_many_as_it_may_and_no_change_elsewhere_begins_them_anew,
}

/// The next connection to a server that never answers, once it has said what it wants.
async fn taken(server: &TcpListener) -> TcpStream {
    let taken = tokio::time::timeout(DEADLINE, server.accept()).await;
    let (mut stream, _) = taken.expect("one more connection is opened").unwrap();
    assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
    stream
}

fn is_open(stream: &TcpStream) -> bool {
    matches!(stream.try_read(&mut [0; 16]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

async fn a_tenant_opens_as_many_as_it_may_and_no_change_elsewhere_begins_them_anew(fleet: &mut Fleet) {
    fleet.create("opening", &["--server", "pg-1"]).await;
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    let catalog = connect_url(fleet.variable("TENANTRY_CATALOG_URL"), "tenantry_catalog").await;
    catalog.run(&format!("UPDATE server SET host = '127.0.0.1', port = {port} WHERE name = 'pg-1'")).await;

    let settings = ["connections_per_tenant_max=2", "connect_timeout=1h", "queue_timeout=1h"];
    let router = fleet.router(&settings).await;
    let config = router.through(&fleet.config("opening"));
    // Their logins end with what a server says of its parameters.
    let clients = [config.clone(), config].map(|config| {
        tokio::task::spawn_local(async move {
            drop(connect(&config).await);
        })
    });
    let opening = [taken(&server).await, taken(&server).await];

    router.reload_with("clients_max = 77");
    router.logs(&["configuration reloaded"]).await;
    catalog.run("UPDATE server SET max_connections = max_connections + 1 WHERE name = 'pg-2'").await;
    let changed = catalog.number("SELECT max(version) FROM change_log").await as f64;
    crate::harness::until("the router to have the change", async || {
        (router.metrics().await.get("tenantry_router_map_version") >= changed).then_some(())
    })
    .await;
    // Each asks the tenant's worker, which has heard of both before.
    for _ in 0..3 {
        router.metrics().await;
    }
    assert!(opening.iter().all(is_open), "a login was given up: {}", router.log());
    clients.iter().for_each(tokio::task::JoinHandle::abort);
}
