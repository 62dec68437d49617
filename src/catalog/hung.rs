//! A catalog that takes connections and then says nothing: whatever began a transaction there is told so in time, and nobody
//! else has its connection after that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use serde_json::json;
use shard_map::placement::Wish;
use shard_map::policy::PlacementPolicy;
use shard_map::{ServerName, TenantId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::connect::STATEMENT_TIMEOUT;
use crate::{Catalog, Error, Kind, Result};

/// Logs everybody in, answers so many of the statements that a session sends, and then no more.
async fn serve(mut stream: TcpStream, mut answers: u32) -> std::io::Result<()> {
    const LET_IN: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
    const BEGUN: &[u8] = b"C\0\0\0\x0aBEGIN\0Z\0\0\0\x05T";
    let mut startup = vec![0; usize::try_from(stream.read_u32().await?).unwrap_or(4) - 4];
    stream.read_exact(&mut startup).await?;
    stream.write_all(LET_IN).await?;
    loop {
        let _kind = stream.read_u8().await?;
        let mut body = vec![0; usize::try_from(stream.read_u32().await?).unwrap_or(4) - 4];
        stream.read_exact(&mut body).await?;
        if answers > 0 {
            answers -= 1;
            stream.write_all(BEGUN).await?;
        }
    }
}

/// The catalog, and how many connections it has taken.
async fn hanging(answers: u32) -> (Catalog, Arc<AtomicU32>) {
    let taken = Arc::new(AtomicU32::new(0));
    let count = taken.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Relaxed);
            tokio::spawn(serve(stream, answers));
        }
    });
    let url = format!("postgres://me@127.0.0.1:{port}/map?sslmode=disable");
    (Catalog::new(&url, &prometheus::Registry::new()).unwrap(), taken)
}

/// What a transaction comes to at a catalog that hangs after so many statements; `None`: to nothing.
async fn end_of<T>(answers: u32, transaction: impl AsyncFnOnce(&Catalog) -> Result<T>) -> Option<Error> {
    let (catalog, taken) = hanging(answers).await;
    let ended = tokio::time::timeout(STATEMENT_TIMEOUT * 3, transaction(&catalog)).await;
    drop(catalog.client().await);
    assert_eq!(taken.load(Relaxed), 2, "the next one has the connection that hangs");
    ended.ok().and_then(Result::err)
}

async fn ends(answers: u32) -> Vec<Option<Error>> {
    let [a, b] = ["a", "b"].map(|id| TenantId::new(id).unwrap());
    let (server, none) = (ServerName::new("s").unwrap(), json!({}));
    let (wish, policy) = (Wish::default(), PlacementPolicy::default());
    let ends = tokio::join!(
        end_of(answers, async |c| c.start_rename(&a, &b).await),
        end_of(answers, async |c| c.rename_tenant(&a, &b, 1).await),
        end_of(answers, async |c| c.start_run(&none, &none, &[]).await),
        end_of(answers, async |c| c.end_fleet_run(1, 1).await),
        end_of(answers, async |c| c.start_operation(Kind::Delete, &a, &[], &none).await),
        end_of(answers, async |c| c.start_move(&a, &server, &none).await),
        end_of(answers, async |c| c.set_quota(&a, Ok::<_, Error>).await),
        end_of(answers, async |c| c.create_tenant(&a, &wish, &policy, Some(&b)).await),
        end_of(answers, async |c| c.recovery_view(&[]).await),
        // Its first statement is not the beginning of a transaction.
        end_of(0, async |c| c.migrate().await),
    );
    let (a, b, c, d, e, f, g, h, i, j) = ends;
    vec![a, b, c, d, e, f, g, h, i, j]
}

#[tokio::test]
async fn a_transaction_at_a_catalog_that_hangs_ends_in_time() {
    let (at_once, begun) = tokio::join!(ends(0), ends(1));
    for (index, end) in at_once.iter().chain(&begun).enumerate() {
        assert!(matches!(end, Some(Error::Unreachable(_))), "{index}: {end:?}");
    }
}
