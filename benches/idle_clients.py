"""What an idle client costs a proxy: idle_clients.py SECONDS

Clients log in one after the other, spread over the tenants, and stay; then each asks one query. Memory is the growth of
the process's resident set since it was new, divided by the clients: what a login leaves behind counts, too."""

import argparse
import contextlib
import resource
import time

import setting
import tables
from client import Client
from endpoints import PgBouncer, Router

SETTLE_SECONDS = 2
# Idle CPU is little, and told in ticks of 10 ms: it takes a while to see it.
LONGER = 4
# Files that a process needs beside its clients' sockets.
FILES_RESERVE = 300


def clients_possible():
    """How many clients the limit on open files lets this process, and each proxy that it starts, have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return setting.clients if hard == resource.RLIM_INFINITY else min(setting.clients, hard - FILES_RESERVE)


def measure(proxy, count, seconds, tls):
    """The cells of a row: bytes per client after login and after a query, CPU ms per second, CPU µs per login."""
    begun = proxy.resident_bytes()
    with contextlib.ExitStack() as stack:
        before = proxy.cpu_seconds()
        clients = [stack.enter_context(Client(proxy.port, setting.tenants[number % len(setting.tenants)], tls))
                   for number in range(count)]
        per_login = (proxy.cpu_seconds() - before) * 1e6 / count
        after_login = per_client(proxy, begun, count)
        for client in clients:
            client.query("SELECT 1")
        after_query = per_client(proxy, begun, count)
        before = proxy.cpu_seconds()
        time.sleep(seconds * LONGER)
        idle = (proxy.cpu_seconds() - before) * 1e3 / (seconds * LONGER)
    return after_login, after_query, idle, per_login


def per_client(proxy, begun, count):
    time.sleep(SETTLE_SECONDS)
    return (proxy.resident_bytes() - begun) / count


def proxies(tls):
    """What starts each of them."""
    yield "tenantry", lambda: Router(**Router.tls_settings() if tls else {})
    if setting.pgbouncer:
        yield "pgbouncer", lambda: PgBouncer(tls=tls)


def main():
    parser = argparse.ArgumentParser(description="Measures what idle clients cost.")
    parser.add_argument("seconds", type=int)
    seconds = parser.parse_args().seconds
    count = clients_possible()
    tables.title("Idle clients", f"{count:,} clients over {len(setting.tenants)} tenants, one run; idle CPU over "
                 f"{seconds * LONGER} s.")
    tables.head("clients", "proxy", "bytes each, logged in", "after one query each", "idle CPU, ms per s",
                "CPU µs per login, one at a time")
    for kind, tls in (("plain", False), ("TLS", True)):
        if tls and not Router.knows_tls():
            print("\nTLS skipped: this program has no key `tls_cert_file`.", flush=True)
            continue
        for name, start in proxies(tls):
            with start() as proxy:
                tables.row(kind, name, *map(tables.number, measure(proxy, count, seconds, tls)))


if __name__ == "__main__":
    main()
