"""What the router costs, beside pgbouncer in the same rounds: router.py ROUNDS SECONDS [--tls]

The main figure is the CPU time of the proxy's process for each transaction. Throughput and latency depend on what else
the machine does, and are given as they relate to others in the same round."""

import argparse
import contextlib
import os
import pathlib
import sys

import bulk_copy
import setting
import tables
from endpoints import Direct, PgBouncer, Router
from session import COLUMNS, Session, Workload, show_cpu

SELECT_1 = pathlib.Path(__file__).with_name("select1.sql")
SIXTEEN = ("--client=16", "--jobs=2")
ALL_TENANTS = tuple(setting.tenants)


def select(mode, *clients):
    return ("--select-only", f"--protocol={mode}", *clients)


TRANSACTIONS = [
    Workload("select, simple, 16 clients", select("simple", *SIXTEEN)),
    Workload("select, extended, 16 clients", select("extended", *SIXTEEN)),
    Workload("select, prepared, 16 clients", select("prepared", *SIXTEEN)),
    Workload("TPC-B-like, scale 20, 16 clients", ("--protocol=simple", *SIXTEEN), (setting.large_tenant,)),
    Workload("`SELECT 1`, 64 clients", (f"--file={SELECT_1}", "--client=64", "--jobs=2")),
    Workload("select, simple, 20 tenants, 2 clients each", select("simple", "--client=2"), ALL_TENANTS),
]
ONE_CLIENT = [
    Workload("select, simple", select("simple", "--client=1")),
    Workload("select, prepared", select("prepared", "--client=1")),
]
SPREAD = Workload("select, prepared, 20 tenants, 2 clients each", select("prepared", "--client=2"), ALL_TENANTS)
LOGIN = Workload("login and one select, 8 clients", ("--connect", "--select-only", "--client=8", "--jobs=2"))


def transactions(session):
    tables.title("Transactions", f"CPU µs of the proxy for each transaction. {session}")
    tables.head("workload", *COLUMNS)
    session.rows(TRANSACTIONS, show_cpu)


def latency(session):
    tables.title("Latency for one client", f"In µs; what a proxy adds is the difference to direct. {session}")
    tables.head("workload", "direct", "tenantry adds", "pgbouncer adds", "latency: tenantry ÷ pgbouncer")

    def show(name, outcomes):
        times = {key: [one.latency_ms * 1000 for one in some] for key, some in outcomes.items()}
        added = {key: [through - direct for through, direct in zip(some, times["direct"])]
                 for key, some in times.items()}
        ratio = tables.quotients(times["tenantry"], times.get("pgbouncer", []))
        values = (times["direct"], added["tenantry"], added.get("pgbouncer", []), ratio)
        tables.row(name, *map(tables.spread, values))

    session.rows(ONE_CLIENT, show)


def workers(session):
    """The same load on routers with one worker thread, with two, and so on to one for each core."""
    tables.title("Worker threads", f"{SPREAD.name.capitalize()}. {session}")
    tables.head("proxy", "CPU µs per transaction", "throughput ÷ direct", "÷ pgbouncer's", "÷ one worker's")
    cores = os.cpu_count() or 1
    counts = sorted({1, 2, cores} | {count for count in (4, 8, 16) if count < cores})
    names = [f"tenantry, workers = {count}" for count in counts]
    with session.or_why_not(SPREAD.name), contextlib.ExitStack() as stack:
        proxies = [stack.enter_context(Router(name, workers=count)) for name, count in zip(names, counts)]
        if setting.pgbouncer:
            proxies.append(stack.enter_context(PgBouncer()))
        outcomes = session.compare([Direct(), *proxies], SPREAD)
        rates = {name: [one.per_second for one in some] for name, some in outcomes.items()}
        for proxy in proxies:
            others = (rates["direct"], rates.get("pgbouncer", []), rates[names[0]])
            cells = [tables.spread(tables.quotients(rates[proxy.name], theirs)) for theirs in others]
            tables.row(proxy.name, tables.spread([one.cpu_us for one in outcomes[proxy.name]]), *cells)


def logins(session):
    tables.title("Logins", f"SCRAM-SHA-256 against verifiers, at both; CPU µs of the proxy for each. {session}")
    tables.head("workload", *COLUMNS)
    session.rows([LOGIN], show_cpu)


def over_tls(session):
    tables.title("TLS", "CPU µs of the proxy for each transaction or login, with clients on TLS 1.3 and an ECDSA key "
                 f"(P-256). Direct connections are plain. {session}")
    if not Router.knows_tls():
        print("Skipped: this program has no key `tls_cert_file`.", flush=True)
        return
    tables.head("workload", *COLUMNS)
    session.rows([*TRANSACTIONS[:3], LOGIN], show_cpu)


def main():
    parser = argparse.ArgumentParser(description="Measures the router beside pgbouncer.")
    parser.add_argument("rounds", type=int)
    parser.add_argument("seconds", type=int)
    parser.add_argument("--tls", action="store_true")
    given = parser.parse_args()
    session = Session(given.rounds, given.seconds, given.tls)
    parts = [over_tls] if given.tls else [transactions, latency, workers, bulk_copy.measure, logins]
    for part in parts:
        part(session)
    sys.exit(1 if session.failures else 0)


if __name__ == "__main__":
    main()
