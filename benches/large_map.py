"""A router with 100,000 tenants in its map, beside one with few, and beside pgbouncer with as many databases in its
configuration: large_map.py ROUNDS SECONDS

The tenants are rows in the catalog. Their databases are not made: a router opens none that nobody asks for."""

import argparse
import contextlib
import os
import subprocess
import sys
import time
import urllib.request

import setting
import tables
from endpoints import Direct, PgBouncer, Router, psql
from session import Session, Workload

TENANTS = 100_000
SERVERS = 200
CATCH_UP_SECONDS = 120
SETTLE_SECONDS = 3
SNAPSHOT_SECONDS = 60
LOOKS = 20
SELECT = Workload("select, simple, 16 clients", ("--select-only", "--protocol=simple", "--client=16", "--jobs=2"))


def change(sql):
    command = [setting.pg_bin / "psql", setting.catalog, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"]
    subprocess.run(command, input=sql, text=True, check=True)


def add_tenants():
    """Customers as they might be, with a label, over many servers. Nobody listens at those servers' ports."""
    change("INSERT INTO server (name, host, port, class, max_connections, system_identifier) SELECT 'far-' || n, "
           f"'{setting.host}', n, 'shared', 100, n FROM generate_series(1, {SERVERS - 1}) n;\n"
           "INSERT INTO tenant (id, server, epoch, state, labels) SELECT 'customer-' || lpad(n::text, 6, '0'), "
           f"CASE n % {SERVERS} WHEN 0 THEN '{setting.server_name}' ELSE 'far-' || n % {SERVERS} END, "
           f"1, 'open', '{{\"plan\": \"basic\"}}' FROM generate_series(1, {TENANTS}) n;\n")


def tenant_names():
    return psql(setting.catalog, "SELECT id FROM tenant WHERE state = 'open'").split()


def save_snapshot(name):
    """The file that a router writes which starts without one."""
    file = setting.directory / name
    with Router(snapshot=file):
        deadline = time.monotonic() + SNAPSHOT_SECONDS
        while not file.exists():
            if time.monotonic() > deadline:
                raise RuntimeError("the router wrote no snapshot")
            time.sleep(0.1)
    return file


def snapshot_version(file):
    with contextlib.suppress(FileNotFoundError), open(file, encoding="ascii") as lines:
        return int(lines.readline().split()[1])
    return 0


def catch_up(rounds):
    """Every tenant is changed at once: until a router that follows the map has all of it on its disk."""
    tables.title("Large map: catching up", f"All {TENANTS:,} customers change in one statement; from its end until a router "
                 f"that follows the map has the last change in its snapshot. {rounds} rounds; median (minimum–maximum).")
    tables.head("statement, s", "catching up, s")
    file = setting.directory / "followed.snapshot"
    seen = []
    with Router(snapshot=file):
        for number in range(rounds):
            begun = time.monotonic()
            change(f"UPDATE tenant SET labels = '{{\"round\": \"{number}\"}}' WHERE id LIKE 'customer-%';\n")
            changed = time.monotonic()
            version = int(psql(setting.catalog, "SELECT version FROM map_version"))
            while snapshot_version(file) < version:
                if time.monotonic() > changed + CATCH_UP_SECONDS:
                    raise RuntimeError("the router did not catch up")
                time.sleep(0.02)
            seen.append((changed - begun, time.monotonic() - changed))
    tables.row(*map(tables.spread, zip(*seen)))


def starts(size, ways, peers, rounds):
    """Time from a process's start to its first answer, and its memory, one process after the other. The peers run."""
    tables.title("Large map: start", f"Each tenant has one label; the file of the map has {size / 1e6:.1f} MB. "
                 f"Memory is the resident set, {SETTLE_SECONDS} s after the first answer. {rounds} rounds, pgbouncer once; "
                 "median (minimum–maximum).")
    tables.head("process", "first answer, s", "memory, MB")
    seen = {what: [] for what in ways}
    for _ in range(rounds):
        for what, start in ways.items():
            with start() as proxy:
                time.sleep(SETTLE_SECONDS)
                seen[what].append((proxy.first_answer_seconds, proxy.resident_bytes() / 1e6))
    for peer in peers:
        seen[peer.name] = [(peer.first_answer_seconds, peer.resident_bytes() / 1e6)]
    for what, values in seen.items():
        tables.row(what, *map(tables.spread, zip(*values)))


def transactions(ways, peers, session):
    """The same load on each of them; quotients are to the first."""
    tables.title("Large map: transactions", f"{SELECT.name.capitalize()}. {session}")
    tables.head("process", "CPU µs per transaction", "÷ first row", "throughput ÷ direct")
    with session.or_why_not(SELECT.name), contextlib.ExitStack() as stack:
        proxies = [stack.enter_context(start()) for start in ways.values()]
        for proxy, what in zip(proxies, ways):
            proxy.name = what
        proxies += peers
        outcomes = session.compare([Direct(), *proxies], SELECT)
        reference = [one.cpu_us for one in outcomes[proxies[0].name]]
        for proxy in proxies:
            cpu = [one.cpu_us for one in outcomes[proxy.name]]
            rates = ([one.per_second for one in outcomes[which]] for which in (proxy.name, "direct"))
            cells = (cpu, tables.quotients(cpu, reference), tables.quotients(*rates))
            tables.row(proxy.name, *map(tables.spread, cells))


def looks(name):
    """What the page asks of a control plane, each time of a request of its own."""
    tables.title("Large map: the page's questions", f"Each {LOOKS} times, one after the other; from the request to the end of the answer.")
    tables.head("question", "answer, ms", "kB")
    asked = {
        "a hundred tenants, and how each is served": "tenants?limit=100&serving=true",
        "tenants with a part of the name that few have": f"tenants?limit=8&q={name[-5:]}",
        "tenants with a part of the name that none has": "tenants?limit=8&q=nobody",
        "each server's largest and busiest, for the heat map": "crowds",
        "how one tenant is served": f"tenants/{name}/serving",
        "one tenant": f"tenants/{name}",
    }
    for what, path in asked.items():
        took = []
        for _ in range(LOOKS):
            request = urllib.request.Request(f"{os.environ['TENANTRY_API']}/v1/{path}")
            request.add_header("Authorization", f"Bearer {os.environ['TENANTRY_TOKEN']}")
            begun = time.perf_counter()
            with urllib.request.urlopen(request, timeout=60) as answer:
                size = len(answer.read())
            took.append((time.perf_counter() - begun) * 1000)
        tables.row(what, tables.spread(took), tables.number(size / 1000))


def main():
    parser = argparse.ArgumentParser(description="Measures a router with a large map.")
    parser.add_argument("rounds", type=int)
    parser.add_argument("seconds", type=int)
    given = parser.parse_args()
    session = Session(given.rounds, given.seconds)

    few = len(tenant_names())
    small = save_snapshot("small.snapshot")
    add_tenants()
    large = save_snapshot("large.snapshot")
    names = tenant_names()

    by_snapshot = {
        f"tenantry, {few:,} tenants, by its snapshot alone": lambda: Router(with_catalog=False, snapshot=small),
        f"tenantry, {len(names):,} tenants, by its snapshot alone": lambda: Router(with_catalog=False, snapshot=large),
    }
    by_catalog = {
        f"tenantry, {len(names):,} tenants, snapshot and catalog": lambda: Router(snapshot=large),
        f"tenantry, {len(names):,} tenants, catalog and no snapshot": Router,
    }
    looks(names[len(names) // 2])
    catch_up(given.rounds)
    with contextlib.ExitStack() as stack:
        peers = []
        if setting.pgbouncer:
            # It takes a minute to start with these, so it does once for both tables.
            peers.append(stack.enter_context(PgBouncer(f"pgbouncer, {len(names):,} databases", databases=names)))
        starts(large.stat().st_size, {**by_snapshot, **by_catalog}, peers, given.rounds)
        transactions(by_snapshot, peers, session)
    sys.exit(1 if session.failures else 0)


if __name__ == "__main__":
    main()
