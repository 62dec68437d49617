"""How fast a database is copied: by a move (tables, rows, indexes, until it follows), by pg_dump and pg_restore, and by a
subscription of Postgres itself: copying.py ROUNDS [MEGABYTES]"""

import shutil
import subprocess
import sys
import time

import setting
import tables
from cli import tenantry
from servers import SERVERS, URLS, database, psql, steps

PEER = "copied"
JOBS = "--jobs=2"
SUBSCRIPTION, POLL_SECONDS = "bench_copy", 0.05
ROW = "repeat(md5(n::text), 6)"
BYTES_PER_ROW = 240


def one_table(tenant, megabytes):
    fill(tenant, "large", megabytes * 1_000_000 // BYTES_PER_ROW)


def many_tables(tenant, megabytes):
    for number in range(200):
        fill(tenant, f"small_{number}", megabytes * 1_000_000 // BYTES_PER_ROW // 200)


def fill(tenant, table, rows):
    psql(database(URLS[0], tenant), f"""
        SET ROLE {tenant}__owner;
        CREATE TABLE {table} (id bigint PRIMARY KEY, kind int, at timestamptz NOT NULL, body text);
        INSERT INTO {table} SELECT n, n % 1000, now() - n * interval '1 s', {ROW} FROM generate_series(1, {rows}) n;
        CREATE INDEX ON {table} (kind);
        ANALYZE {table}""")


def by_move(tenant):
    shown = tenantry("move", "start", tenant, "--to", SERVERS[1], "--verify", "none", "--wait")
    took = steps(shown)
    back = tenantry("move", "reverse", str(shown["id"]), "--wait")
    tenantry("move", "complete", str(back["id"]), "--wait")
    return took["build"][1] - took["arm"][0]


def by_dump(tenant):
    psql(URLS[1], f"CREATE DATABASE {PEER}")
    folder = setting.directory / "dump"
    begun = time.time()
    dump = ["pg_dump", "--format=directory", JOBS, "--compress=0", f"--file={folder}", database(URLS[0], tenant)]
    restore = ["pg_restore", JOBS, "--no-owner", "--no-acl", f"--dbname={database(URLS[1], PEER)}", folder]
    for program, *arguments in (dump, restore):
        subprocess.run([setting.pg_bin / program, *arguments], check=True)
    psql(database(URLS[1], PEER), "ANALYZE")
    ended = time.time()
    shutil.rmtree(folder)
    psql(URLS[1], f"DROP DATABASE {PEER}")
    return ended - begun


def by_subscription(tenant):
    source, target = database(URLS[0], tenant), database(URLS[1], PEER)
    psql(URLS[1], f"CREATE DATABASE {PEER}")
    begun = time.time()
    psql(source, f"CREATE PUBLICATION {SUBSCRIPTION} FOR ALL TABLES")
    dump = subprocess.run([setting.pg_bin / "pg_dump", "--schema-only", "--no-owner", "--no-acl", "--no-publications", source],
                          check=True, stdout=subprocess.PIPE)
    subprocess.run([setting.pg_bin / "psql", target, "--no-psqlrc", "--quiet"], input=dump.stdout, check=True,
                   stdout=subprocess.DEVNULL)
    psql(target, f"CREATE SUBSCRIPTION {SUBSCRIPTION} CONNECTION '{source}' PUBLICATION {SUBSCRIPTION}")
    while psql(target, "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'") != "0":
        time.sleep(POLL_SECONDS)
    psql(target, "ANALYZE")
    ended = time.time()
    psql(target, f"DROP SUBSCRIPTION {SUBSCRIPTION}")
    psql(source, f"DROP PUBLICATION {SUBSCRIPTION}")
    psql(URLS[1], f"DROP DATABASE {PEER}")
    return ended - begun


WAYS = {"move": by_move, "`pg_dump -Fd -j2`, `pg_restore -j2`": by_dump, "subscription": by_subscription}


def measure(title, tenant, rounds):
    seconds = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, copy in WAYS.items():
            # What the one before left to be written is not this one's.
            for url in URLS:
                psql(url, "CHECKPOINT")
            seconds[name].append(copy(tenant))
    fastest = [min(peers) for peers in zip(*(seconds[name] for name in WAYS if name != "move"))]
    size = int(psql(URLS[0], f"SELECT pg_database_size('{tenant}')")) / 1e6
    tables.title(title, f"Until indexes are built and statistics gathered, of {size:,.0f} MB; median of {rounds} with minimum and "
                 "maximum; times as fast: against the faster peer of the same round.")
    tables.head("", "seconds", "times as fast")
    for name, times in seconds.items():
        tables.row(name, tables.spread(times), tables.spread(tables.quotients(fastest, times)))


def main():
    rounds = int(sys.argv[1])
    megabytes = int(sys.argv[2]) if len(sys.argv) > 2 else 2000
    for tenant, title, make in (("one", "Copying one large table", one_table), ("many", "Copying 200 tables", many_tables)):
        tenantry("tenant", "create", tenant, "--server", SERVERS[0], "--wait")
        make(tenant, megabytes)
        measure(title, tenant, rounds)


main()
