"""One run of pgbench through an endpoint, and what it cost the endpoint."""

import os
import re
import subprocess
from dataclasses import dataclass

import setting

RUN_SECONDS_MAX = 300


class Failed(Exception):
    """A run that measured nothing, or something else than it should."""


@dataclass
class Outcome:
    """What a run measured."""

    cpu_us: float
    per_second: float
    latency_ms: float


def connection_of(endpoint, tls=False):
    """The environment by which Postgres's programs connect to an endpoint."""
    return {
        **os.environ,
        "PGHOST": setting.host,
        "PGPORT": str(endpoint.port),
        "PGUSER": setting.user,
        "PGPASSWORD": setting.password,
        "PGSSLMODE": "require" if tls else "disable",
        "PGGSSENCMODE": "disable",
    }


def run(endpoint, arguments, databases, tls=False):
    """A pgbench for each of the databases, all at the same time."""
    command = [setting.pg_bin / "pgbench", "--no-vacuum", *arguments]
    environment = connection_of(endpoint, tls)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    before = endpoint.cpu_seconds()
    started = [subprocess.Popen([*command, name], env=environment, **pipes) for name in databases]
    ended = [(process, *process.communicate(timeout=RUN_SECONDS_MAX)) for process in started]
    cpu_us = (endpoint.cpu_seconds() - before) * 1e6
    said = [_check(endpoint, *one) for one in ended]
    transactions = sum(_number(r"actually processed: (\d+)", text) for text in said)
    if not transactions:
        raise Failed(f"{endpoint.name}: no transaction")
    return Outcome(
        cpu_us=cpu_us / transactions,
        per_second=sum(_number(r"tps = ([\d.]+)", text) for text in said),
        latency_ms=sum(_number(r"latency average = ([\d.]+)", text) for text in said) / len(said),
    )


def _check(endpoint, process, output, errors):
    failed = re.search(r"number of failed transactions: [1-9]", output)
    if process.returncode or failed or "aborted" in errors:
        raise Failed(f"{endpoint.name}: {(errors or output).strip()[-300:]}")
    return output


def _number(pattern, text):
    """A figure that pgbench printed; it leaves out those of a run without a transaction."""
    found = re.search(pattern, text)
    return float(found.group(1)) if found else 0.0
