//! What a tenant's owner wrote runs as nobody but them when the tenant is moved or cloned.

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use serde_json::json;

use crate::harness::{Fleet, Sql as _, connect, trials};

trials! {
    shared what_an_owner_wrote_never_runs_as_a_superuser_in_a_move_or_clone,
}

/// What tells a superuser by an error: whatever an owner can have run by somebody else calls it. Whoever plans a statement on
/// `wide` or `fleeting` calls it, and so does whoever turns a `mood` into text by a cast.
const SCHEMING: &str = "
    CREATE FUNCTION plain(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog AS $$ BEGIN
        -- Whoever only took a role on is made again what it was.
        BEGIN PERFORM set_config('role', 'none', false); EXCEPTION WHEN OTHERS THEN NULL; END;
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = current_user AND rolsuper) THEN
            RAISE EXCEPTION 'a superuser runs this';
        END IF;
        RETURN n;
    END $$;
    CREATE DOMAIN small AS int CHECK (public.plain(VALUE) < 100);
    CREATE TABLE kept (n int CHECK (public.plain(n) > 0), s small,
        twice int GENERATED ALWAYS AS (public.plain(n) * 2) STORED);
    INSERT INTO kept SELECT n, n FROM generate_series(1, 50) n;
    CREATE INDEX ON kept (public.plain(n));
    CREATE MATERIALIZED VIEW seen AS SELECT public.plain(n) FROM kept;
    CREATE TABLE parts (n int) PARTITION BY RANGE ((public.plain(n) + public.plain(0)));
    CREATE TABLE part PARTITION OF parts (CHECK (n > public.plain(0))) FOR VALUES FROM (1) TO (100);
    CREATE INDEX ON parts (n) WHERE n > public.plain(0);
    INSERT INTO parts SELECT n FROM kept;
    CREATE TABLE smalls (s small, n int) PARTITION BY LIST (s);
    CREATE TABLE smalls_5 PARTITION OF smalls FOR VALUES IN (5);
    INSERT INTO smalls VALUES (5, 1);
    CREATE TABLE computed (n int PRIMARY KEY, also int GENERATED ALWAYS AS (n + public.plain(1)) STORED,
        smalls small[] DEFAULT '{5}');
    INSERT INTO computed SELECT generate_series(1, 20);
    CREATE INDEX ON computed (n) WHERE public.plain(1) = 1;
    CREATE TABLE referring (n int REFERENCES computed);
    CREATE INDEX ON referring (n) WHERE public.plain(1) = 1;
    INSERT INTO referring SELECT generate_series(1, 20);
    CREATE VIEW constant AS SELECT '{5}'::small[] AS smalls;
    CREATE FUNCTION added(small, int) RETURNS small LANGUAGE sql IMMUTABLE RETURN ($1 + $2)::small;
    CREATE AGGREGATE total (int) (SFUNC = added, STYPE = small, INITCOND = '1');
    CREATE TABLE looped (n int);
    CREATE FUNCTION fits(looped) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN public.plain($1.n) > 0; END';
    ALTER TABLE looped ADD CONSTRAINT whole CHECK (fits(looped));
    COMMENT ON CONSTRAINT whole ON looped IS 'made after its table';
    INSERT INTO looped SELECT generate_series(1, 20);
    CREATE TYPE mood AS ENUM ('sad', 'fine');
    CREATE FUNCTION told(mood) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
        RETURN CASE WHEN public.plain(1) = 1 THEN textin(enum_out($1)) END;
    END $$;
    CREATE CAST (mood AS text) WITH FUNCTION told(mood);
    CREATE TABLE wide (id int PRIMARY KEY, mood mood NOT NULL, pad text);
    INSERT INTO wide SELECT n, 'fine', repeat(md5(n::text), 20) FROM generate_series(1, 3000) n;
    CREATE INDEX ON wide (id) WHERE public.plain(1) = 1;
    CREATE STATISTICS wide_stats ON (public.plain(1) + id) FROM wide;
    CREATE TABLE moods (mood mood PRIMARY KEY, n int);
    INSERT INTO moods VALUES ('sad', 1), ('fine', 2);
    CREATE INDEX ON moods (n) WHERE public.plain(1) = 1;
    CREATE TABLE keyless (n int, pad text);
    INSERT INTO keyless SELECT n % 7, repeat('x', 500) FROM generate_series(1, 3000) n;
    CREATE INDEX ON keyless (n) WHERE public.plain(1) = 1;
    CREATE SEQUENCE numbers; SELECT setval('numbers', 42, false);
    GRANT CREATE ON SCHEMA public TO scheming__app";

/// Each table's rows, as an operator reads them who lets no code of the tenant run: nothing is planned.
async fn rows_unplanned(fleet: &Fleet, server: &str, tenant: &str) -> Vec<String> {
    let client = fleet.direct(server, tenant).await;
    let names = "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE relkind = 'r' AND nspname = 'public' ORDER BY 1";
    let mut found = Vec::new();
    for name in client.column(names).await {
        let rows = client.copy_out(&format!("COPY {name} TO STDOUT")).await.unwrap();
        let rows: Vec<Bytes> = rows.try_collect().await.unwrap();
        let mut rows: Vec<String> =
            rows.iter().map(|row| format!("{name} {}", String::from_utf8_lossy(row))).collect();
        rows.sort();
        found.extend(rows);
    }
    found
}

async fn what_an_owner_wrote_never_runs_as_a_superuser_in_a_move_or_clone(fleet: &Fleet) {
    fleet.create("scheming", &["--server", "pg-1"]).await;
    let client = fleet.connect("scheming").await;
    client.run(SCHEMING).await;
    let app = connect(&fleet.user("scheming-app", "scheming", &["--access", "app"]).await).await.unwrap();
    app.run("CREATE TABLE of_app (n int CHECK (public.plain(n) > 0)); INSERT INTO of_app VALUES (1)").await;
    let rows = rows_unplanned(fleet, "pg-1", "scheming").await;
    fleet.cli(&["tenant", "clone", "scheming", "schemed", "--server", "pg-2", "--wait"]).await.ok();
    assert_eq!(rows_unplanned(fleet, "pg-2", "schemed").await, rows);
    let clone = fleet.connect("schemed").await;
    assert_eq!(clone.number("SELECT count(*) FROM seen").await, 50);
    assert_eq!(clone.number("SELECT nextval('numbers')").await, 42);

    // Clones have none of these.
    client
        .run(
            "CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY, mood mood);
             INSERT INTO fleeting SELECT n, 'sad' FROM generate_series(1, 500) n;
             CREATE INDEX ON fleeting (id) WHERE public.plain(1) = 1;
             CREATE UNLOGGED TABLE nothing ();
             INSERT INTO nothing DEFAULT VALUES",
        )
        .await;
    let rows = rows_unplanned(fleet, "pg-1", "scheming").await;
    let arguments = ["move", "start", "scheming", "--to", "pg-3", "--verify", "full", "--wait"];
    let moved = fleet.cli(&arguments).await.ok();
    assert_eq!((&moved["state"], &moved["verified"]), (&json!("switched"), &json!(true)), "{moved}");
    assert_eq!(moved["not_compared"], json!([]), "{moved}");
    assert_eq!(rows_unplanned(fleet, "pg-3", "scheming").await, rows);
    // Nobody was let into the copy before its time, and everybody is now.
    let limit = "SELECT datconnlimit FROM pg_database WHERE datname = 'scheming'";
    assert_eq!(fleet.direct("pg-3", "postgres").await.number(limit).await, -1);
    let id = moved["id"].as_i64().unwrap().to_string();
    let back = fleet.cli(&["move", "reverse", &id, "--wait"]).await.ok();
    assert_eq!((&back["state"], &back["verified"]), (&json!("switched"), &json!(true)), "{back}");
    assert_eq!(rows_unplanned(fleet, "pg-1", "scheming").await, rows);
    // Nothing is left of who read all that.
    for server in ["pg-1", "pg-2", "pg-3"] {
        let server = fleet.direct(server, "postgres").await;
        let readers = format!(
            "SELECT rolname::text FROM pg_roles WHERE rolname IN ('tenantry_read_{id}', 'tenantry_read_{}')
             UNION ALL SELECT m.member::regrole::text FROM pg_auth_members m
                WHERE roleid::regrole::text LIKE 'scheme%__owner' OR roleid::regrole::text = 'scheming__owner'",
            back["id"]
        );
        assert_eq!(server.column(&readers).await, Vec::<String>::new());
    }
}
