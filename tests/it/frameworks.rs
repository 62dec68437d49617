//! What frameworks and drivers send when they connect leaves their clients pooled: settings are replayed, nobody is
//! pinned, and nothing of it reaches another client on the same server connection.

use tokio_postgres::Config;

use crate::harness::raw::Raw;
use crate::harness::{Fleet, Router, Sql as _, connect, trials};

trials! {
    shared what_frameworks_send_at_connect_leaves_them_pooled,
    shared a_locked_migration_is_pinned_only_while_it_is_there,
}

struct Framework {
    name: &'static str,
    startup: &'static [(&'static str, &'static str)],
    /// Whether statements go by the extended protocol.
    extended: bool,
    connect: &'static [&'static str],
    /// Settings that are in force afterwards, whatever connection it has.
    kept: &'static [(&'static str, &'static str)],
}

const TYPES: &str = "SELECT t.oid, t.typname, t.typtype, t.typelem FROM pg_catalog.pg_type AS t
    LEFT JOIN pg_range AS r ON r.rngtypid = t.oid WHERE t.typname IN ('int2', 'int4', 'hstore') OR t.typtype = 'r'";

const FRAMEWORKS: [Framework; 13] = [
    Framework {
        name: "Rails",
        startup: &[],
        extended: false,
        connect: &[
            "SET client_min_messages TO 'warning'",
            "SET standard_conforming_strings = on",
            "SET intervalstyle = iso_8601",
            "SET SESSION timezone TO 'Asia/Tokyo'",
            "SHOW max_identifier_length",
            TYPES,
        ],
        kept: &[
            ("client_min_messages", "warning"),
            ("intervalstyle", "iso_8601"),
            ("timezone", "Asia/Tokyo"),
        ],
    },
    Framework {
        name: "Django",
        startup: &[("client_encoding", "UTF8")],
        extended: false,
        connect: &[
            "SELECT set_config('TimeZone', 'Asia/Tokyo', false)",
            "SET default_transaction_isolation TO 'serializable'",
            "BEGIN; SET LOCAL statement_timeout = '5s'; SELECT 1; COMMIT",
        ],
        kept: &[("timezone", "Asia/Tokyo"), ("default_transaction_isolation", "serializable")],
    },
    Framework {
        name: "JDBC and HikariCP",
        startup: &[
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO"),
            ("TimeZone", "Europe/Berlin"),
            ("extra_float_digits", "2"),
        ],
        extended: true,
        connect: &[
            "SET extra_float_digits = 3",
            "SET application_name = 'PostgreSQL JDBC Driver'",
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ",
            "SHOW TRANSACTION ISOLATION LEVEL",
            "",
        ],
        kept: &[
            ("extra_float_digits", "3"),
            ("timezone", "Europe/Berlin"),
            ("application_name", "PostgreSQL JDBC Driver"),
            ("default_transaction_isolation", "repeatable read"),
        ],
    },
    Framework {
        name: "SQLAlchemy on psycopg2",
        startup: &[],
        extended: false,
        connect: &[
            "SET DATESTYLE TO 'ISO, DMY'",
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED",
            "select pg_catalog.version()",
            "select current_schema()",
            "show standard_conforming_strings",
            "show transaction isolation level",
            "BEGIN",
            "ROLLBACK",
        ],
        kept: &[("datestyle", "ISO, DMY")],
    },
    Framework {
        name: "asyncpg, back in its pool",
        startup: &[("client_encoding", "'utf-8'")],
        extended: false,
        connect: &[
            "SET work_mem = '5MB'",
            "SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;",
        ],
        kept: &[("work_mem", "4MB")],
    },
    Framework {
        name: "node-postgres and TypeORM",
        startup: &[("client_encoding", "UTF8"), ("application_name", "node")],
        extended: true,
        connect: &["SELECT * FROM current_schema()", "SHOW server_version;", "SELECT version();"],
        kept: &[("application_name", "node")],
    },
    Framework {
        name: "Npgsql",
        startup: &[("client_encoding", "UTF8"), ("search_path", "pg_catalog")],
        extended: false,
        connect: &[
            TYPES,
            "SET statement_timeout TO 5000",
            "DISCARD ALL",
            "BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED",
            "COMMIT",
        ],
        kept: &[("search_path", "pg_catalog"), ("statement_timeout", "0")],
    },
    Framework {
        name: "pgx and GORM",
        startup: &[("TimeZone", "Asia/Shanghai"), ("standard_conforming_strings", "on")],
        extended: true,
        connect: &["-- ping", "SELECT CURRENT_DATABASE()", "set search_path to a,b"],
        kept: &[("timezone", "Asia/Shanghai"), ("search_path", "a, b")],
    },
    Framework {
        name: "Laravel",
        startup: &[],
        extended: true,
        connect: &[
            "set names 'utf8'",
            "set search_path to \"a\", \"public\"",
            "set time zone 'Europe/Rome'",
            "set application_name to 'laravel'",
            "set synchronous_commit to 'off'",
        ],
        kept: &[
            ("search_path", "a, public"),
            ("timezone", "Europe/Rome"),
            ("application_name", "laravel"),
            ("synchronous_commit", "off"),
        ],
    },
    Framework {
        name: "Prisma",
        startup: &[("options", "-c statement_timeout=7s")],
        extended: false,
        connect: &["SET search_path = \"a\"", "DEALLOCATE ALL", "SELECT 1"],
        kept: &[("search_path", "a"), ("statement_timeout", "7s")],
    },
    Framework {
        name: "Ecto",
        startup: &[("options", "-c search_path=a")],
        extended: true,
        connect: &[TYPES, "SET TIME ZONE 'UTC'", "SAVEPOINT postgrex_query"],
        kept: &[("search_path", "a")],
    },
    Framework {
        name: "pg_dump's scripts",
        startup: &[],
        extended: false,
        connect: &[
            "SET statement_timeout = 0;",
            "SET client_encoding = 'UTF8';",
            "SELECT pg_catalog.set_config('search_path', '', false);",
            "SET xmloption = content;\nSET row_security = off;",
        ],
        kept: &[("search_path", ""), ("row_security", "off")],
    },
    Framework {
        name: "PostgREST",
        startup: &[],
        extended: false,
        connect: &[
            "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY",
            "select set_config('search_path', 'a', true), set_config('request.jwt.claims', '{}', true)",
            "COMMIT",
        ],
        kept: &[("search_path", "\"$user\", public")],
    },
];

async fn what_frameworks_send_at_connect_leaves_them_pooled(fleet: &Fleet) {
    fleet.create("frameworks", &[]).await;
    // One thread, and clients that ask in turn: there is one server connection for all of them.
    let router = fleet.router(&["workers=1"]).await;
    let config = router.through(&fleet.config("frameworks"));
    let other = connect(&config).await.unwrap();
    for framework in FRAMEWORKS {
        let name = framework.name;
        let before = values(&config, &framework).await;
        let mut client = Raw::login(&config, framework.startup).await;
        for sql in framework.connect {
            run(&mut client, sql, framework.extended, name).await;
        }
        for _ in 0..2 {
            for ((setting, value), before) in framework.kept.iter().zip(&before) {
                assert_eq!(ask(&mut client, &format!("SHOW {setting}")).await, *value, "{name}: {setting}");
                assert_eq!(other.column(&format!("SHOW {setting}")).await, [before.as_str()], "{name}");
            }
            let pid = ask(&mut client, "SELECT pg_backend_pid()").await;
            assert_eq!(other.column("SELECT pg_backend_pid()").await, [pid], "{name} is not pooled");
        }
        assert_eq!(pins(&router).await, 0.0, "{name} was pinned");
    }
}

/// What the settings of a framework are to a client that sets nothing.
async fn values(config: &Config, framework: &Framework) -> Vec<String> {
    let client = connect(config).await.unwrap();
    let mut values = Vec::new();
    for (setting, _) in framework.kept {
        values.extend(client.column(&format!("SHOW {setting}")).await);
    }
    values
}

async fn run(client: &mut Raw, sql: &str, extended: bool, name: &str) {
    if extended {
        client.parse("", sql).execute("", &[]).sync();
    } else {
        client.query(sql);
    }
    let replies = client.replies(1).await;
    // Ecto's savepoint is refused outside a transaction, by any server.
    let allowed = |reply: &String| !reply.starts_with("E:") || reply == "E:25P01";
    assert!(replies.iter().all(allowed), "{name}: {sql}: {replies:?}");
}

async fn ask(client: &mut Raw, sql: &str) -> String {
    client.query(sql);
    let replies = client.replies(1).await;
    let row = replies.iter().find_map(|reply| reply.strip_prefix("D:"));
    row.unwrap_or_else(|| panic!("{sql}: {replies:?}")).to_owned()
}

async fn pins(router: &Router) -> f64 {
    router.metrics().await.sum("tenantry_router_pins_total", &[])
}

/// As Rails and others lock theirs.
async fn a_locked_migration_is_pinned_only_while_it_is_there(fleet: &Fleet) {
    fleet.create("railsmigration", &[]).await;
    let router = fleet.router(&["workers=1"]).await;
    let config = router.through(&fleet.config("railsmigration"));
    let (migration, other) = (connect(&config).await.unwrap(), connect(&config).await.unwrap());
    assert_eq!(migration.column("SELECT pg_try_advisory_lock(4242)").await, ["t"]);
    migration.run("BEGIN; CREATE TABLE t (n int); COMMIT").await;
    assert_eq!(other.column("SELECT pg_try_advisory_lock(4242)").await, ["f"]);
    assert_eq!(migration.column("SELECT pg_advisory_unlock(4242)").await, ["t"]);
    migration.run("SELECT pg_advisory_unlock_all()").await;
    assert_eq!(other.column("SELECT pg_try_advisory_lock(4242)").await, ["t"]);
    let pid = "SELECT pg_backend_pid()";
    let third = connect(&config).await.unwrap();
    assert_eq!(migration.column(pid).await, third.column(pid).await, "pooled again");
}
