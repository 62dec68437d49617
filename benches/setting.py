"""What `benches/run` has set up, as it tells by the environment."""

import os
import pathlib
import urllib.parse

program = os.environ["BENCH_PROGRAM"]
pg_bin = pathlib.Path(os.environ["BENCH_PG_BIN"])
directory = pathlib.Path(os.environ["BENCH_DIRECTORY"])
# Empty where it can't be had.
pgbouncer = os.environ.get("BENCH_PGBOUNCER", "")
clients = int(os.environ.get("BENCH_CLIENTS", "10000"))

user = os.environ["TENANTRY_USER"]
password = os.environ["TENANTRY_PASSWORD"]
catalog = os.environ["TENANTRY_CATALOG_URL"]
server_url = os.environ["TENANTRY_SERVER_3_URL"]
server_name = os.environ["TENANTRY_SERVER_3"]
server_port = urllib.parse.urlsplit(server_url).port
host = "127.0.0.1"
tenants = [f"t{number:04}" for number in range(1, 21)]
large_tenant = "big"
