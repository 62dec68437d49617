"""Making tenants through the API: from the stock of prepared databases, and by CREATE DATABASE with all migrations.

Rounds alternate, so what disturbs the machine disturbs both. A round without a stock makes fewer: each takes long.

    provision.py ROUNDS
"""

import concurrent.futures
import http.client
import json
import os
import pathlib
import subprocess
import sys
import time
import urllib.parse

import setting
import tables

FROM_STOCK, BY_HAND = 32, 8
AT_ONCE = 4
SHARED_SERVERS = 2
READY_SECONDS = 600
api = urllib.parse.urlsplit(os.environ["TENANTRY_API"])
made = 0


def connect():
    return http.client.HTTPConnection(api.hostname, api.port, timeout=120)


def ask(connection, method, path, body=None):
    headers = {"Authorization": f"Bearer {os.environ['TENANTRY_TOKEN']}", "Content-Type": "application/json"}
    connection.request(method, path, json.dumps(body) if body is not None else None, headers)
    response = connection.getresponse()
    text = response.read().decode()
    if response.status >= 400:
        raise RuntimeError(f"{method} {path}: {response.status} {text}")
    return text


def stock():
    """Prepared databases that are ready, by the control plane's own metric."""
    lines = ask(connect(), "GET", "/metrics").splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("tenantry_control_stock{"))


def keep_in_stock(count):
    """Declares it and waits until it is so."""
    declared = f"[placement]\nstock_per_server = {count // SHARED_SERVERS}\n"
    ask(connect(), "POST", "/v1/map/apply", {"declared": declared})
    deadline = time.monotonic() + READY_SECONDS
    while stock() != count:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the stock has {stock()} and not {count}")
        time.sleep(0.2)


def create(connection):
    """Makes one tenant; milliseconds until it serves, as the client sees it."""
    global made
    made += 1
    body = {"id": f"made-{made}", "wait_ms": 60_000}
    begun = time.perf_counter()
    tenant = json.loads(ask(connection, "POST", "/v1/tenants", body))
    taken = (time.perf_counter() - begun) * 1e3
    if tenant["state"] != "open":
        raise RuntimeError(f"not open: {tenant}")
    return taken


def one_by_one(count):
    """Milliseconds of each, and tenants a second."""
    connection = connect()
    create(connection)
    begun = time.perf_counter()
    taken = [create(connection) for _ in range(count - 1)]
    return taken, len(taken) / (time.perf_counter() - begun)


def some_at_once(count):
    """Tenants a second."""
    begun = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda _: create(connect()), range(count)))
    return count / (time.perf_counter() - begun)


def measure(count, in_stock):
    keep_in_stock(0)
    keep_in_stock(in_stock)
    taken, rate = one_by_one(count // 2)
    return taken, rate, some_at_once(count - count // 2)


def main():
    rounds = int(sys.argv[1])
    files = sorted(pathlib.Path("migrations/tenant").glob("V*.sql"), key=lambda f: int(f.name[1:].split("__")[0]))
    run = [setting.program, "migrate", "run", "--dir", "migrations/tenant"]
    subprocess.run(run, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    kinds = {"from the stock": (FROM_STOCK, FROM_STOCK + SHARED_SERVERS), "CREATE DATABASE and migrations": (BY_HAND, 0)}
    found = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind, (count, in_stock) in kinds.items():
            found[kind].append(measure(count, in_stock))
    tables.title(
        "Making a tenant",
        f"Through the API, from the request to the answer that it serves, with the {len(files)} migrations of the example\n"
        f"product; {rounds} interleaved rounds of {FROM_STOCK} tenants from the stock and {BY_HAND} without one; median "
        f"(minimum–maximum).",
    )
    tables.head("made", "ms each", "a second, one by one", f"a second, {AT_ONCE} at once", "÷ without a stock")
    base = [one for _, one, _ in found["CREATE DATABASE and migrations"]]
    for kind, outcomes in found.items():
        each = [ms for taken, _, _ in outcomes for ms in taken]
        single, many = [one for _, one, _ in outcomes], [rate for _, _, rate in outcomes]
        ratio = tables.spread(tables.quotients(single, base))
        tables.row(kind, tables.spread(each), tables.spread(single), tables.spread(many), ratio)


main()
