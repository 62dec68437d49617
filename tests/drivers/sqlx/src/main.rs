//! sqlx: what applications do with it. Where to connect is in libpq's variables.

use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;

use futures_util::future::try_join_all;
use futures_util::{StreamExt as _, TryStreamExt as _};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPool, PgPoolOptions};
use sqlx::types::Uuid;
use sqlx::{Connection as _, Executor as _, Row as _};

type Outcome = Result<(), Box<dyn std::error::Error>>;
type Check = fn() -> Pin<Box<dyn Future<Output = Outcome>>>;

macro_rules! checks {
    ($($check:ident),* $(,)?) => { [$((stringify!($check), (|| Box::pin($check())) as Check)),*] };
}

#[tokio::main]
async fn main() -> ExitCode {
    let checks = checks![
        types_come_back_as_they_went,
        statements_are_reused_by_many_connections,
        transactions_are_committed_and_rolled_back,
        errors_have_their_code_and_constraint,
        rows_are_copied_in_and_out,
        rows_are_streamed,
        several_statements_are_run_at_once,
        a_dropped_query_does_not_spoil_its_connection,
        settings_are_a_connections_own,
        notifications_arrive,
        a_pool_works_for_many_at_once,
    ];
    let (mut passed, mut failed) = (0, 0);
    for (name, check) in checks {
        // A task of its own, so that a panic is a failure like others.
        let local = tokio::task::LocalSet::new();
        let outcome = local.run_until(async { tokio::task::spawn_local(check()).await }).await;
        match outcome {
            Ok(Ok(())) => {
                passed += 1;
                println!("ok      {name}");
            }
            Ok(Err(error)) => {
                failed += 1;
                println!("FAILED  {name}: {error:?}");
            }
            Err(error) => {
                failed += 1;
                println!("FAILED  {name}: {error}");
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn connect() -> sqlx::Result<PgConnection> {
    PgConnection::connect_with(&PgConnectOptions::new()).await
}

async fn pool(connections: u32) -> sqlx::Result<PgPool> {
    PgPoolOptions::new().max_connections(connections).connect_with(PgConnectOptions::new()).await
}

fn code(error: &sqlx::Error) -> String {
    error.as_database_error().and_then(|error| error.code()).map_or_else(|| error.to_string(), Into::into)
}

async fn types_come_back_as_they_went() -> Outcome {
    let mut connection = connect().await?;
    let id = Uuid::from_u128(0x1234_5678_9abc_def0);
    let document = serde_json::json!({ "a": [1, null] });
    let row = sqlx::query("SELECT $1::int4, $2::int8, $3::text, $4::bytea, $5::uuid, $6::jsonb, $7::text[], $8::float8")
        .bind(42_i32)
        .bind(-(1_i64 << 60))
        .bind("ünï'\\\n")
        .bind(vec![0_u8, 255])
        .bind(id)
        .bind(&document)
        .bind(vec![Some("a,b".to_owned()), None])
        .bind(None::<f64>)
        .fetch_one(&mut connection)
        .await?;
    assert_eq!((row.get::<i32, _>(0), row.get::<i64, _>(1)), (42, -(1_i64 << 60)));
    assert_eq!((row.get::<&str, _>(2), row.get::<Vec<u8>, _>(3)), ("ünï'\\\n", vec![0, 255]));
    assert_eq!((row.get::<Uuid, _>(4), row.get::<serde_json::Value, _>(5)), (id, document));
    assert_eq!(row.get::<Vec<Option<String>>, _>(6), [Some("a,b".to_owned()), None]);
    assert_eq!(row.get::<Option<f64>, _>(7), None);
    // A type of one's own is looked up in the catalogs.
    connection.execute("CREATE TYPE color AS ENUM ('red', 'green')").await?;
    let row = sqlx::query("SELECT 'red'::color").fetch_one(&mut connection).await?;
    assert_eq!(row.try_get_unchecked::<String, _>(0)?, "red");
    Ok(())
}

async fn statements_are_reused_by_many_connections() -> Outcome {
    let (mut one, mut other) = (connect().await?, connect().await?);
    for n in 0..50_i32 {
        for connection in [&mut one, &mut other] {
            let got: i32 = sqlx::query_scalar("SELECT $1 + 1").bind(n).fetch_one(connection).await?;
            assert_eq!(got, n + 1);
        }
    }
    // More than its cache holds: the oldest are closed.
    for n in 0..150_i32 {
        let sql = format!("SELECT {n} + $1");
        assert_eq!(sqlx::query_scalar::<_, i32>(&sql).bind(n).fetch_one(&mut one).await?, 2 * n);
    }
    Ok(())
}

async fn transactions_are_committed_and_rolled_back() -> Outcome {
    let pool = pool(5).await?;
    pool.execute("CREATE TABLE tx (n int PRIMARY KEY)").await?;
    let mut transaction = pool.begin().await?;
    sqlx::query("INSERT INTO tx VALUES ($1)").bind(1).execute(&mut *transaction).await?;
    let mut nested = transaction.begin().await?;
    sqlx::query("INSERT INTO tx VALUES ($1)").bind(2).execute(&mut *nested).await?;
    nested.rollback().await?;
    transaction.commit().await?;
    let mut dropped = pool.begin().await?;
    sqlx::query("INSERT INTO tx VALUES ($1)").bind(3).execute(&mut *dropped).await?;
    drop(dropped);
    let rows: Vec<i32> = sqlx::query_scalar("SELECT n FROM tx ORDER BY n").fetch_all(&pool).await?;
    assert_eq!(rows, [1]);
    pool.close().await;
    Ok(())
}

async fn errors_have_their_code_and_constraint() -> Outcome {
    let mut connection = connect().await?;
    connection.execute("CREATE TABLE strict (n int CONSTRAINT small CHECK (n < 10) CONSTRAINT once UNIQUE)").await?;
    let insert = |n: i32| sqlx::query("INSERT INTO strict VALUES ($1)").bind(n);
    let error = insert(11).execute(&mut connection).await.expect_err("a check");
    let error = error.as_database_error().expect("of the server");
    assert_eq!((error.code().as_deref(), error.constraint()), (Some("23514"), Some("small")));
    insert(1).execute(&mut connection).await?;
    let error = insert(1).execute(&mut connection).await.expect_err("a unique key");
    assert!(error.as_database_error().is_some_and(|error| error.is_unique_violation()));
    let error = sqlx::query("SELECT * FROM nowhere").execute(&mut connection).await.expect_err("no table");
    assert_eq!(code(&error), "42P01");
    let error = connection.execute("SELEC 1").await.expect_err("no SQL");
    assert_eq!(code(&error), "42601");
    assert_eq!(sqlx::query_scalar::<_, i32>("SELECT 1").fetch_one(&mut connection).await?, 1);
    Ok(())
}

async fn rows_are_copied_in_and_out() -> Outcome {
    let mut connection = connect().await?;
    connection.execute("CREATE TABLE copied (n int, text text)").await?;
    let lines: String = (0..5000).map(|n| format!("{n}\trow {n}\n")).collect();
    let mut copy = connection.copy_in_raw("COPY copied FROM STDIN").await?;
    copy.send(lines.as_bytes()).await?;
    assert_eq!(copy.finish().await?, 5000);
    let mut out = Vec::new();
    let mut pieces = connection.copy_out_raw("COPY (SELECT * FROM copied ORDER BY n) TO STDOUT").await?;
    while let Some(piece) = pieces.next().await {
        out.extend_from_slice(&piece?);
    }
    drop(pieces);
    assert_eq!(String::from_utf8(out)?, lines);
    let mut copy = connection.copy_in_raw("COPY copied FROM STDIN").await?;
    copy.send("1\tx\n".as_bytes()).await?;
    copy.abort("changed my mind").await?;
    let mut copy = connection.copy_in_raw("COPY copied FROM STDIN").await?;
    copy.send("bad\tx\n".as_bytes()).await?;
    assert_eq!(code(&copy.finish().await.expect_err("a bad row")), "22P02");
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM copied").fetch_one(&mut connection).await?;
    assert_eq!(count, 5000);
    Ok(())
}

async fn rows_are_streamed() -> Outcome {
    let mut connection = connect().await?;
    let rows = sqlx::query_scalar::<_, i32>("SELECT generate_series(1, $1)").bind(10_000).fetch(&mut connection);
    let total: i64 = rows.try_fold(0, |sum, n| async move { Ok(sum + i64::from(n)) }).await?;
    assert_eq!(total, 50_005_000);
    // A stream that is not read to its end.
    let mut rows = sqlx::query_scalar::<_, i32>("SELECT generate_series(1, 100000)").fetch(&mut connection);
    assert_eq!(rows.try_next().await?, Some(1));
    drop(rows);
    assert_eq!(sqlx::query_scalar::<_, i32>("SELECT 7").fetch_one(&mut connection).await?, 7);
    Ok(())
}

async fn several_statements_are_run_at_once() -> Outcome {
    let mut connection = connect().await?;
    connection.execute("CREATE TABLE several (n int); INSERT INTO several VALUES (1), (2); SELECT * FROM several").await?;
    let error = connection.execute("INSERT INTO several VALUES (3); SELECT 1/0").await.expect_err("a division");
    assert_eq!(code(&error), "22012");
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM several").fetch_one(&mut connection).await?;
    assert_eq!(count, 2);
    Ok(())
}

async fn a_dropped_query_does_not_spoil_its_connection() -> Outcome {
    let pool = pool(1).await?;
    let slow = sqlx::query("SELECT pg_sleep(0.3)").execute(&pool);
    let given_up = tokio::time::timeout(std::time::Duration::from_millis(50), slow).await;
    assert!(given_up.is_err());
    for n in 0..5_i32 {
        assert_eq!(sqlx::query_scalar::<_, i32>("SELECT $1").bind(n).fetch_one(&pool).await?, n);
    }
    pool.close().await;
    Ok(())
}

async fn settings_are_a_connections_own() -> Outcome {
    let options = PgConnectOptions::new().options([("search_path", "mine")]).application_name("its own");
    let (mut one, mut other) = (PgConnection::connect_with(&options).await?, connect().await?);
    for _ in 0..5 {
        let of_one: String = sqlx::query_scalar("SHOW search_path").fetch_one(&mut one).await?;
        let of_other: String = sqlx::query_scalar("SHOW search_path").fetch_one(&mut other).await?;
        assert_eq!((of_one.as_str(), of_other.as_str()), ("mine", "\"$user\", public"));
    }
    Ok(())
}

async fn notifications_arrive() -> Outcome {
    let pool = pool(3).await?;
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.listen("driver").await?;
    sqlx::query("SELECT pg_notify('driver', $1)").bind("hello").execute(&pool).await?;
    assert_eq!(listener.recv().await?.payload(), "hello");
    Ok(())
}

async fn a_pool_works_for_many_at_once() -> Outcome {
    let pool = pool(40).await?;
    pool.execute("CREATE TABLE pooled (n int)").await?;
    let work = (0..800_i32).map(|n| {
        let pool = pool.clone();
        async move {
            let mut transaction = pool.begin().await?;
            sqlx::query("INSERT INTO pooled VALUES ($1)").bind(n).execute(&mut *transaction).await?;
            transaction.commit().await
        }
    });
    try_join_all(work).await?;
    let count: i64 = sqlx::query_scalar("SELECT count(DISTINCT n) FROM pooled").fetch_one(&pool).await?;
    assert_eq!(count, 800);
    pool.close().await;
    Ok(())
}
