//! Everything that a database is made of arrives: every kind of object, every setting, every right, and what they do.

use tokio_postgres::Client;

use crate::harness::programs::dump_schema;
use crate::harness::{Fleet, Sql as _, connect, trials};
use crate::migrations::turn;
use crate::moves::move_to;

trials! {
    shared the_example_product_survives_a_move,
    shared unusual_objects_survive_a_move,
    shared rows_without_stored_columns_survive_a_move,
    shared changes_of_every_kind_are_followed_during_the_copy,
    shared a_truncation_after_the_switch_is_not_taken_for_a_loss,
    shared settings_and_grants_arrive,
    shared what_the_log_does_not_tell_goes_along_and_back,
}

/// Where the example product's migrations are.
const MIGRATIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/tenant");

/// Each table's name, number of rows, and a hash of them.
pub(crate) async fn contents(fleet: &Fleet, server: &str, tenant: &str) -> Vec<String> {
    let client = fleet.direct(server, tenant).await;
    let names = "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE relkind IN ('r', 'm') AND relispopulated AND nspname NOT IN ('pg_catalog', 'information_schema', 'tenantry', 'pg_toast')
        ORDER BY 1";
    let mut contents = Vec::new();
    for name in client.column(names).await {
        let sql = format!(
            "SELECT '{}: ' || count(*) || ' ' || coalesce(md5(string_agg(t::text, E'\\n' ORDER BY t::text COLLATE \"C\")), '')
             FROM ONLY {name} t",
            name.replace('\'', "''")
        );
        contents.extend(client.column(&sql).await);
    }
    contents
}

/// Moves a tenant, and compares schema and rows of both sides: the sealed copy is as the source was.
async fn arrives_whole(fleet: &Fleet, tenant: &str, from: &str, to: &str) {
    let schema = dump_schema(fleet, from, tenant).await;
    let rows = contents(fleet, from, tenant).await;
    assert!(!rows.is_empty());
    let id = move_to(fleet, tenant, to).await["id"].as_i64().unwrap().to_string();
    // While it can be turned round, its tables have the identities that the stream back needs.
    fleet.cli(&["move", "complete", &id, "--wait"]).await.ok();
    assert_eq!(contents(fleet, to, tenant).await, rows);
    let arrived = dump_schema(fleet, to, tenant).await;
    for (before, after) in schema.lines().zip(arrived.lines()) {
        assert_eq!(before, after, "the schema differs");
    }
    assert_eq!(schema.lines().count(), arrived.lines().count());
}

/// Makes a tenant with the example product's schema.
async fn product(fleet: &Fleet, tenant: &str, server: &str) {
    let _turn = turn().await;
    fleet.create(tenant, &["--server", server]).await;
    let selector = format!("id={tenant}");
    fleet.cli(&["migrate", "run", "--dir", MIGRATIONS, "--selector", &selector]).await.ok();
}

async fn the_example_product_survives_a_move(fleet: &Fleet) {
    product(fleet, "product", "pg-1").await;
    let client = fleet.connect("product").await;
    client
        .run(
            "INSERT INTO people (external_id, email, attributes, tags)
                 SELECT 'p' || n, 'p' || n || '@Example.com', jsonb_build_object('n', n), array['a', 'b' || n]
                 FROM generate_series(1, 500) n;
             UPDATE people SET attributes = attributes || '{\"plan\": \"gold\"}' WHERE id % 3 = 0;
             INSERT INTO activity (person_id, kind, name, amount, occurred_at)
                 SELECT 1 + n % 500, 'event', 'bought', n, now() - n * interval '1 hour' FROM generate_series(1, 2000) n;
             BEGIN;
             INSERT INTO segments (name, live_version) VALUES ('all', 1);
             INSERT INTO segment_configurations (segment_id, version, rules) VALUES (1, 1, '{}');
             COMMIT;
             INSERT INTO segment_memberships (segment_id, person_id, version) SELECT 1, id, 1 FROM people;
             INSERT INTO deliveries (person_id, channel, recipient)
                 SELECT id, 'email', email FROM people WHERE email IS NOT NULL",
        )
        .await;
    client.run("REFRESH MATERIALIZED VIEW segment_sizes").await;
    arrives_whole(fleet, "product", "pg-1", "pg-3").await;

    assert_eq!(client.number("SELECT people FROM segment_sizes").await, 500, "the view is populated");
    client.run("REFRESH MATERIALIZED VIEW CONCURRENTLY segment_sizes").await;
    let made = "INSERT INTO people (email) VALUES ('New@Else.Example') RETURNING id || ' ' || email_domain";
    assert_eq!(client.column(made).await, ["501 else.example"], "identity and generated column go on");
    client.run("UPDATE people SET attributes = '{\"x\": 1}' WHERE id = 501").await;
    let logged = "SELECT count(*) FROM attribute_changes WHERE person_id = 501";
    assert_eq!(client.number(logged).await, 1, "row triggers fire, once");
    client
        .run("INSERT INTO activity (person_id, kind, name, amount, occurred_at) VALUES (501, 'event', 'e', 5, now())")
        .await;
    let summed = "SELECT sum(events) FROM activity_daily WHERE person_id = 501";
    assert_eq!(client.number(summed).await, 1, "statement triggers fire, once");
    assert_eq!(client.fails("INSERT INTO people (email) VALUES ('new@else.example')").await, "23505");
    assert_eq!(client.fails("INSERT INTO people (email) VALUES ('nonsense')").await, "23514");
    assert_eq!(client.fails("UPDATE segments SET live_version = 9").await, "23503", "deferred keys hold");
    client.run("SELECT ensure_partitions(4, 6)").await;
    assert_eq!(fleet.tenant("product").await["schema_version"], 7);
}

pub(crate) const UNUSUAL: &str = r#"
    CREATE SCHEMA "Odd Names";
    CREATE TYPE "Odd Names".mood AS ENUM ('sad', 'it''s ok');
    CREATE TYPE pair AS (a int, b text);
    CREATE DOMAIN positive AS int CHECK (value > 0);
    CREATE TABLE "Odd Names"."Table with ""quotes"" and $" (
        "Key" text COLLATE "C" PRIMARY KEY, mood "Odd Names".mood, moods "Odd Names".mood[], pair pair, count positive,
        amount numeric, exact double precision, raw bytea, document jsonb, at timestamptz, span int4range, address inet,
        twice numeric GENERATED ALWAYS AS (amount * 2) STORED);
    INSERT INTO "Odd Names"."Table with ""quotes"" and $" VALUES
        ('tab' || chr(9) || 'line' || chr(10) || '\N \. back\slash', 'it''s ok', '{sad,NULL}', ROW(1, 'x,"y"'), 1,
         'NaN', 'Infinity', '\x00ff0a', '{"a": [1, null]}', '-infinity', '[1,5)', '::1/64'),
        ('', NULL, NULL, NULL, NULL, 1e100, 0.1::float8 + 0.2, '', 'null', '2000-01-01 BC', 'empty', NULL);
    CREATE TABLE keyless (n int, note text);
    INSERT INTO keyless SELECT n % 10, repeat('same', 3) FROM generate_series(1, 1000) n;
    CREATE TABLE wide (id serial PRIMARY KEY, gone text, long text);
    INSERT INTO wide (gone, long) SELECT 'x', string_agg(md5((n * m)::text), '') FROM generate_series(1, 20) n,
        generate_series(1, 3000) m GROUP BY n;
    ALTER TABLE wide DROP COLUMN gone;
    CREATE TABLE parent (id int PRIMARY KEY, kind text);
    CREATE TABLE child (extra text) INHERITS (parent);
    INSERT INTO parent VALUES (1, 'p');
    INSERT INTO child VALUES (2, 'c', 'e');
    CREATE TABLE measured (region text, at date, value int, PRIMARY KEY (region, at)) PARTITION BY LIST (region);
    CREATE TABLE measured_eu PARTITION OF measured FOR VALUES IN ('eu') PARTITION BY RANGE (at);
    CREATE TABLE measured_eu_old PARTITION OF measured_eu FOR VALUES FROM (MINVALUE) TO ('2020-01-01');
    CREATE TABLE measured_rest PARTITION OF measured DEFAULT;
    INSERT INTO measured VALUES ('eu', '2019-01-01', 1), ('us', '2024-01-01', 2);
    CREATE TABLE tree (id int PRIMARY KEY, up int REFERENCES tree DEFERRABLE INITIALLY DEFERRED);
    BEGIN; INSERT INTO tree VALUES (2, 1), (1, NULL); COMMIT;
    CREATE TABLE booked (room int, during tsrange, EXCLUDE USING gist (during WITH &&));
    CREATE TABLE secret (who text, what text);
    ALTER TABLE secret ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
    CREATE POLICY own ON secret USING (who = current_user);
    INSERT INTO secret SELECT current_user, n::text FROM generate_series(1, 20) n;
    CREATE VIEW shouted WITH (security_barrier) AS SELECT upper(note) AS note FROM keyless;
    CREATE RULE no_delete AS ON DELETE TO parent DO INSTEAD NOTHING;
    CREATE INDEX ON keyless (lower(note)) WHERE n > 5;
    CREATE INDEX ON keyless USING brin (n);
    CREATE STATISTICS keyless_stats ON n, note FROM keyless;
    ALTER TABLE keyless ALTER note SET STATISTICS 500, ALTER note SET STORAGE EXTERNAL;
    CREATE MATERIALIZED VIEW filled AS SELECT count(*) FROM keyless;
    CREATE MATERIALIZED VIEW unfilled AS SELECT 1 AS n WITH NO DATA;
    CREATE FUNCTION add(int, int) RETURNS int LANGUAGE sql IMMUTABLE RETURN $1 + $2;
    CREATE AGGREGATE total (int) (SFUNC = add, STYPE = int, INITCOND = '0');
    CREATE PROCEDURE done() LANGUAGE plpgsql AS 'BEGIN NULL; END';
    CREATE OPERATOR |+| (FUNCTION = add, LEFTARG = int, RIGHTARG = int);
    CREATE SEQUENCE down INCREMENT -5 MINVALUE -100 MAXVALUE 50 START 50 CYCLE OWNED BY wide.id;
    SELECT nextval('down'), nextval('down');
    COMMENT ON COLUMN wide.long IS 'it''s "long"';
"#;

async fn unusual_objects_survive_a_move(fleet: &Fleet) {
    fleet.create("unusual", &["--server", "pg-1"]).await;
    let client = fleet.connect("unusual").await;
    client.run(UNUSUAL).await;
    arrives_whole(fleet, "unusual", "pg-1", "pg-3").await;
    assert_eq!(client.column("SELECT nextval('down')").await, ["40"]);
    assert_eq!(client.column("SELECT count FROM filled").await, ["1000"]);
    assert_eq!(client.fails("SELECT * FROM unfilled").await, "55000", "what was not populated is not");
    assert_eq!(client.column("SELECT total(n) |+| 1 FROM keyless").await, ["4501"]);
    client.run("UPDATE keyless SET n = 7; DELETE FROM keyless").await;
}

async fn rows_without_stored_columns_survive_a_move(fleet: &Fleet) {
    fleet.create("columnless", &["--server", "pg-1"]).await;
    let client = fleet.connect("columnless").await;
    client.run("CREATE TABLE nothing (); INSERT INTO nothing DEFAULT VALUES").await;
    client.run("INSERT INTO nothing DEFAULT VALUES").await;
    client.run("CREATE TABLE computed (n int GENERATED ALWAYS AS (7) STORED)").await;
    client.run("INSERT INTO computed DEFAULT VALUES").await;
    move_to(fleet, "columnless", "pg-3").await;
    assert_eq!(client.number("SELECT count(*) FROM nothing").await, 2);
    assert_eq!(client.column("SELECT n FROM computed").await, ["7"]);
}

async fn changes_of_every_kind_are_followed_during_the_copy(fleet: &Fleet) {
    fleet.create("restless", &["--server", "pg-2"]).await;
    let client = fleet.connect("restless").await;
    client
        .run(
            "CREATE TABLE keyed (id int PRIMARY KEY, n int NOT NULL, long text);
             INSERT INTO keyed SELECT n, 0, repeat(md5(n::text), 200) FROM generate_series(1, 20000) n;
             CREATE TABLE keyless (n int, note text);
             INSERT INTO keyless SELECT n, 'x' FROM generate_series(1, 200) n;
             CREATE TABLE emptied (n int); INSERT INTO emptied SELECT generate_series(1, 1000);
             CREATE TABLE journal (id bigint GENERATED ALWAYS AS IDENTITY, text text)",
        )
        .await;
    let over = std::cell::Cell::new(false);
    let changing = async {
        let mut round = 0;
        while !over.get() {
            round += 1;
            let id = round % 20_000 + 1;
            client
                .run(&format!(
                    "UPDATE keyed SET n = n + 1 WHERE id = {id}; UPDATE keyed SET id = -id WHERE id = {id} + 5000;
                     DELETE FROM keyed WHERE id = {id} + 10000; UPDATE keyless SET n = n + 1 WHERE n = {id} % 300;
                     INSERT INTO keyless VALUES ({round}, NULL); DELETE FROM keyless WHERE n = {round} - 50;
                     INSERT INTO journal (text) VALUES ('{round}')"
                ))
                .await;
            if round % 20 == 0 {
                client.run(&format!("TRUNCATE emptied; INSERT INTO emptied VALUES ({round})")).await;
            }
            let undone = format!("BEGIN; INSERT INTO journal (text) VALUES ('undone {round}'); ROLLBACK");
            client.run(&undone).await;
        }
        round
    };
    let moving = async {
        for to in ["pg-3", "pg-2"] {
            move_to(fleet, "restless", to).await;
        }
        over.set(true);
    };
    let (rounds, ()) = tokio::join!(changing, moving);
    assert_eq!(client.number("SELECT count(*) FROM journal").await, i64::from(rounds));
    assert_eq!(client.number("SELECT count(*) FROM emptied").await, 1);
    let updated = client.number("SELECT sum(n) FROM keyed").await;
    assert!(updated > 0 && updated <= i64::from(rounds), "{updated} of {rounds}");
}

async fn a_truncation_after_the_switch_is_not_taken_for_a_loss(fleet: &Fleet) {
    fleet.create("truncating", &["--server", "pg-2"]).await;
    let client = fleet.connect("truncating").await;
    client.run("CREATE TABLE emptied (n int); INSERT INTO emptied VALUES (1)").await;
    let over = std::cell::Cell::new(false);
    let truncating = async {
        while !over.get() {
            client.run("BEGIN; TRUNCATE emptied; INSERT INTO emptied VALUES (1); COMMIT").await;
            // A truncation costs the target more than the source: without a pause it would never catch up.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let moving = async {
        for to in ["pg-3", "pg-2", "pg-3"] {
            let ended = move_to(fleet, "truncating", to).await;
            assert_ne!(ended["verified"], false, "{ended}");
        }
        over.set(true);
    };
    tokio::join!(truncating, moving);
    assert_eq!(client.number("SELECT count(*) FROM emptied").await, 1);
}

/// What an operator makes in a tenant's database stands between a table and its sequence, and in a schema of their own.
async fn an_operator_helps(fleet: &Fleet, owner: &Client) {
    owner.run("CREATE TABLE orders (id serial, n int)").await;
    fleet
        .direct("pg-1", "granted")
        .await
        .run(
            "CREATE TABLE orders_audit (n int); CREATE SCHEMA audit;
             CREATE FUNCTION audit.log() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
             CREATE TRIGGER logged BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION audit.log();
             CREATE FUNCTION alike() RETURNS int LANGUAGE sql SET pg_trgm.similarity_threshold = 0.5 AS 'SELECT 1';
             ALTER FUNCTION alike() OWNER TO granted__owner",
        )
        .await;
}

async fn what_an_operator_made_works(owner: &Client) {
    owner.run("INSERT INTO orders (n) VALUES (1)").await;
    assert_eq!(owner.number("SELECT id::bigint FROM orders").await, 1);
    let triggers = "SELECT tgname::text FROM pg_trigger WHERE tgrelid = 'orders'::regclass";
    assert_eq!(owner.column(triggers).await, ["logged"]);
}

/// To the others is open what was, and what the owner makes later.
async fn still_shares(owner: &Client, (app, reader): (&Client, &Client)) {
    assert_eq!(app.fails("DELETE FROM t").await, "42501");
    app.run("UPDATE t SET open = 'p'").await;
    assert_eq!(reader.column("SELECT open FROM t").await, ["p"]);
    assert_eq!(reader.fails("SELECT closed FROM t").await, "42501");
    owner.run("CREATE TABLE later (n int)").await;
    app.run("INSERT INTO later VALUES (1)").await;
    assert_eq!(reader.number("SELECT count(*) FROM later").await, 1);
}

async fn settings_and_grants_arrive(fleet: &Fleet) {
    fleet.create("granted", &["--server", "pg-1"]).await;
    let app = connect(&fleet.user("granted-app", "granted", &["--access", "app"]).await).await.unwrap();
    let reader = fleet.user("granted-reader", "granted", &["--access", "readonly"]).await;
    let reader = connect(&reader).await.unwrap();
    let owner = fleet.connect("granted").await;
    let table = "
        CREATE TABLE t (open text, closed text); INSERT INTO t VALUES ('o', 'c'); REVOKE DELETE ON t FROM granted__app;
        REVOKE ALL ON t FROM granted__readonly; GRANT SELECT (open) ON t TO granted__readonly";
    owner.run(table).await;
    an_operator_helps(fleet, &owner).await;
    let server = fleet.direct("pg-1", "postgres").await;
    for setting in [
        "DATABASE granted SET work_mem = '5MB'",
        "DATABASE granted SET search_path = '$user', 'public', 'more'",
        "DATABASE granted SET myapp.note = 'it''s \"quoted\"'",
        "ROLE granted__app SET statement_timeout = '77s'",
        "ROLE granted__app IN DATABASE granted SET lock_timeout = '33s'",
    ] {
        server.run(&format!("ALTER {setting}")).await;
    }
    let target = fleet.direct("pg-3", "postgres").await;
    for side in [&server, &target] {
        side.run("CREATE ROLE granted_auditor").await;
    }
    server
        .run(
            "GRANT granted__readonly TO granted_auditor WITH ADMIN OPTION;
             GRANT granted_auditor TO granted__app;
             GRANT CONNECT ON DATABASE granted TO granted_auditor WITH GRANT OPTION;
             REVOKE TEMPORARY ON DATABASE granted FROM granted__readonly;
             COMMENT ON DATABASE granted IS 'it''s granted';
             COMMENT ON ROLE granted__app IS 'what services use';
             ALTER ROLE granted__readonly CONNECTION LIMIT 7 VALID UNTIL '2042-01-01 12:00 UTC'",
        )
        .await;
    let before = attributes(&server, "granted").await;
    let id = move_to(fleet, "granted", "pg-3").await["id"].as_i64().unwrap().to_string();
    assert_eq!(attributes(&target, "granted").await, before);
    what_an_operator_made_works(&owner).await;
    // Sessions opened from now on are on the new server.
    let settings = fleet.direct("pg-3", "granted").await;
    assert_eq!(settings.column("SHOW work_mem").await, ["5MB"]);
    assert_eq!(settings.column("SHOW search_path").await, ["\"$user\", public, more"]);
    assert_eq!(settings.column("SHOW myapp.note").await, ["it's \"quoted\""]);
    assert_eq!(app.column("SHOW statement_timeout").await, ["77s"]);
    assert_eq!(app.column("SHOW lock_timeout").await, ["33s"]);
    still_shares(&owner, (&app, &reader)).await;

    // And what is changed since goes back, though nothing tells of it.
    fleet.cli(&["move", "complete", &id, "--wait"]).await.ok();
    let id = move_to(fleet, "granted", "pg-1").await["id"].as_i64().unwrap().to_string();
    server
        .run(
            "REVOKE granted__readonly FROM granted_auditor; COMMENT ON ROLE granted__app IS NULL;
             REVOKE CONNECT ON DATABASE granted FROM granted_auditor; ALTER DATABASE granted RESET work_mem;
             ALTER ROLE granted__readonly CONNECTION LIMIT -1; ALTER ROLE granted__owner PASSWORD NULL",
        )
        .await;
    let mut before = attributes(&server, "granted").await;
    fleet.cli(&["move", "reverse", &id, "--wait"]).await.ok();
    let mut after = attributes(&target, "granted").await;
    // A password that routers could not log in with is made anew.
    let is_owner = |line: &String| line.starts_with("role granted__owner");
    let owner = |lines: &mut Vec<String>| lines.remove(lines.iter().position(is_owner).unwrap());
    assert_ne!(owner(&mut after), owner(&mut before));
    assert_eq!(after, before);
    for side in [&server, &target] {
        side.run("DROP ROLE granted_auditor").await;
    }
}

/// Large objects: owner, rights, comment, contents.
const LARGE_OBJECTS: &str = "
    SELECT concat_ws(' ', oid, lomowner::regrole, lomacl, obj_description(oid, 'pg_largeobject'), md5(lo_get(oid)))
    FROM pg_largeobject_metadata ORDER BY oid";

/// Triggers, those of foreign keys included, and whether they fire.
const TRIGGERS: &str = "
    SELECT concat_ws(' ', tgrelid::regclass, tgfoid::regproc, tgtype, tgenabled) FROM pg_trigger ORDER BY 1";

async fn what_the_log_does_not_tell_goes_along_and_back(fleet: &Fleet) {
    fleet.create("unheard", &["--server", "pg-1"]).await;
    let client = fleet.connect("unheard").await;
    client
        .run(
            "CREATE TABLE fired (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
             CREATE FUNCTION fires() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 INSERT INTO public.fired DEFAULT VALUES; RETURN NULL;
             END $$;
             CREATE UNLOGGED TABLE visits (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int CHECK (n > 0),
                 twice int GENERATED ALWAYS AS (n * 2) STORED, up int REFERENCES visits);
             CREATE TRIGGER fires AFTER INSERT ON visits EXECUTE FUNCTION fires();
             CREATE TRIGGER sleeps AFTER INSERT ON visits EXECUTE FUNCTION fires();
             ALTER TABLE visits DISABLE TRIGGER sleeps;
             INSERT INTO visits (n, up) SELECT n, 101 - n FROM generate_series(1, 100) n;
             SELECT lo_from_bytea(4242, decode(repeat('00ff10', 50000), 'hex'));
             SELECT lo_put(lo_create(4243), 10000, 'far'), lo_create(4244);
             GRANT SELECT ON LARGE OBJECT 4242 TO unheard__readonly;
             COMMENT ON LARGE OBJECT 4242 IS 'it''s large'",
        )
        .await;
    let mut id = String::new();
    for (from, to) in [("pg-1", "pg-3"), ("pg-3", "pg-1")] {
        let triggers = fleet.direct(from, "unheard").await.column(TRIGGERS).await;
        let rows = contents(fleet, from, "unheard").await;
        let objects = fleet.direct(from, "unheard").await.column(LARGE_OBJECTS).await;
        assert_eq!((rows.len(), objects.len()), (2, 3), "{rows:?} {objects:?}");
        let ended = if id.is_empty() {
            move_to(fleet, "unheard", to).await
        } else {
            fleet.cli(&["move", "reverse", &id, "--wait"]).await.ok()
        };
        assert_eq!(ended["verified"], true, "{ended}");
        id = ended["id"].as_i64().unwrap().to_string();
        assert_eq!(contents(fleet, to, "unheard").await, rows);
        assert_eq!(fleet.direct(to, "unheard").await.column(LARGE_OBJECTS).await, objects);
        assert_eq!(fleet.direct(to, "unheard").await.column(TRIGGERS).await, triggers);

        // What was copied is at work: triggers fire, keys hold.
        let fired = client.number("SELECT count(*) FROM fired").await;
        client.run("INSERT INTO visits (n) VALUES (7)").await;
        assert_eq!(client.number("SELECT count(*) FROM fired").await, fired + 1);
        assert_eq!(client.fails("INSERT INTO visits (n, up) VALUES (7, 9999)").await, "23503");
        client.run("DELETE FROM visits WHERE id = 100 - n AND n < 10; UPDATE visits SET n = n + 1").await;
        client.run("SELECT lo_unlink((SELECT max(oid) FROM pg_largeobject_metadata)), lo_put(4242, 5, 'new'), lo_create(0)").await;
    }
}

/// What a tenant's roles and database have on a server beside what is in the database.
async fn attributes(server: &Client, tenant: &str) -> Vec<String> {
    server
        .column(&format!(
            "WITH own AS (SELECT * FROM pg_authid WHERE rolname IN ('{tenant}__owner', '{tenant}__app', '{tenant}__readonly'))
             SELECT concat_ws(' ', 'role', rolname, rolinherit, rolconnlimit, rolvaliduntil, rolpassword,
                 shobj_description(oid, 'pg_authid')) FROM own
             UNION ALL SELECT concat_ws(' ', roleid::regrole, 'has', member::regrole, admin_option) FROM pg_auth_members
                 WHERE roleid IN (SELECT oid FROM own) OR member IN (SELECT oid FROM own)
             UNION ALL SELECT concat_ws(' ', grantee::regrole, privilege_type, is_grantable)
                 FROM pg_database, aclexplode(datacl) WHERE datname = '{tenant}' AND grantee::regrole::text !~ '^tenantry'
             UNION ALL SELECT concat('comment ', shobj_description(oid, 'pg_database')) FROM pg_database
                 WHERE datname = '{tenant}'
             UNION ALL SELECT concat_ws(' ', setrole::regrole, setconfig) FROM pg_db_role_setting
                 WHERE setrole IN (SELECT oid FROM own) OR setdatabase = (SELECT oid FROM pg_database WHERE datname = '{tenant}')
             ORDER BY 1"
        ))
        .await
}
