"""COPY of a table out of and into the database, as often as the time of a round allows."""

import subprocess
import time

import pgbench
import setting
import tables
from endpoints import Direct, psql
from rounds import interleave
from session import COLUMNS, show_cpu

SECONDS_MAX = 300
OUT = "COPY pgbench_accounts TO STDOUT"
IN = "COPY copied FROM STDIN"
DATABASE_URL = setting.server_url.rpartition("/")[0] + "/" + setting.large_tenant


def measure(session):
    """Prints the table. What it calls throughput is in bytes."""
    tables.title("COPY", f"CPU seconds of the proxy for each GB. {session}")
    tables.head("direction", "CPU s: tenantry", *COLUMNS[1:])
    file = setting.directory / "accounts.copy"
    with open(file, "wb") as saved:
        _copy(Direct(), OUT, stdout=saved)
    for direction in ("out", "in"):
        with session.or_why_not(direction), session.proxies() as proxies:
            endpoints = [Direct(), *proxies]
            show_cpu(direction, interleave(endpoints, session.rounds, lambda endpoint: _repeat(
                endpoint, direction, session.seconds, file)))
    file.unlink()


def _repeat(endpoint, direction, seconds, file):
    """Copies until the time is over. The unit of the outcome's figures is the GB."""
    gigabytes = spent = cpu = 0.0
    while spent < seconds:
        if direction == "in":
            psql(DATABASE_URL, "TRUNCATE copied")
        before, begun = endpoint.cpu_seconds(), time.monotonic()
        if direction == "in":
            with open(file, "rb") as saved:
                _copy(endpoint, IN, stdin=saved)
        else:
            _copy(endpoint, OUT)
        spent += time.monotonic() - begun
        cpu += endpoint.cpu_seconds() - before
        gigabytes += file.stat().st_size / 1e9
    return pgbench.Outcome(cpu_us=cpu / gigabytes, per_second=gigabytes / spent, latency_ms=0.0)


def _copy(endpoint, statement, **streams):
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, **streams}
    arguments = [setting.pg_bin / "psql", "--no-psqlrc", "--quiet", "--command", statement, setting.large_tenant]
    ended = subprocess.run(arguments, env=pgbench.connection_of(endpoint), stderr=subprocess.PIPE, text=True,
                           timeout=SECONDS_MAX, check=False, **streams)
    if ended.returncode:
        raise pgbench.Failed(f"{endpoint.name}: {ended.stderr.strip()[-300:]}")
