"""Moves of a database under load, to and fro: the hold as the control plane measures it, and the longest transaction of
any client from the start of the move to its end, with its copy: hold.py MOVES

One pgbench goes on through all of them. Between two moves there is a pause as long as a move, whose longest transactions
say what is usual here."""

import json
import math
import os
import subprocess
import sys
import time

import pgbench
import setting
import tables
from endpoints import Direct

TENANT = "moved"
CLIENTS = 16
SCALE = 10
SERVERS = (os.environ["TENANTRY_SERVER_1"], os.environ["TENANTRY_SERVER_2"])
# Writing the log, which pgbench does a page at a time, comes a little after what it tells.
LOG_SECONDS = 1
ACTS = ("drain", "fence", "apply", "sequences", "detach", "seal", "check", "advance", "decide", "release")


def tenantry(*arguments):
    command = [setting.program, *arguments, "-o", "json"]
    outcome = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if outcome.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)}: {outcome.stderr.strip().splitlines()[-1]}")
    return json.loads(outcome.stdout)


class Through(Direct):
    """The router of the fleet."""

    name = "router"
    port = int(os.environ["TENANTRY_ROUTER_PORT"])


class Load:
    """pgbench on the tenant, which logs each transaction."""

    def __init__(self):
        command = [setting.pg_bin / "pgbench", "--no-vacuum", f"--client={CLIENTS}", "--jobs=2", "--time=36000",
                   "--log", "--log-prefix=hold", TENANT]
        self._errors = setting.directory / "hold.errors"
        with open(self._errors, "wb") as errors:
            self._process = subprocess.Popen(command, cwd=setting.directory, env=pgbench.connection_of(Through()),
                                             stdout=subprocess.DEVNULL, stderr=errors)

    def check(self):
        if self._process.poll() is not None or self._errors.stat().st_size:
            raise RuntimeError(f"a client saw an error: {self._errors.read_text(encoding='utf-8')[-300:]}")

    def stop(self):
        """(end, milliseconds) of every transaction, in order."""
        time.sleep(LOG_SECONDS)
        self.check()
        self._process.kill()
        self._process.wait()
        transactions = []
        for file in setting.directory.glob("hold.*"):
            if file == self._errors:
                continue
            # The last line may be cut off.
            for line in file.read_text(encoding="ascii").splitlines()[:-1]:
                _, _, micros, _, second, part, *_ = line.split()
                transactions.append((int(second) + int(part) / 1e6, int(micros) / 1000))
            file.unlink()
        return sorted(transactions)


def percentile(values, share):
    """The smallest value that this share of all is not above."""
    return sorted(values)[math.ceil(len(values) * share) - 1]


def longest(transactions, spans):
    return [max((ms for end, ms in transactions if begun <= end <= ended), default=0.0) for begun, ended in spans]


def cells(values):
    return [tables.number(percentile(values, share)) for share in (0.5, 0.99, 1)]


def main():
    moves = int(sys.argv[1])
    tenantry("tenant", "create", TENANT, "--server", SERVERS[0], "--wait")
    initialise = [setting.pg_bin / "pgbench", "--quiet", "--initialize", f"--scale={SCALE}", TENANT]
    subprocess.run(initialise, check=True, env=pgbench.connection_of(Through()), stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    load, moved, quiet, seen = Load(), [], [], []
    time.sleep(2)
    for number in range(moves):
        begun = time.time()
        seen.append(tenantry("move", "start", TENANT, "--to", SERVERS[(number + 1) % 2], "--wait"))
        ended = time.time()
        moved.append((begun, ended))
        time.sleep(ended - begun)
        quiet.append((ended, time.time()))
        load.check()
    transactions = load.stop()

    tables.title("The hold of a move", f"{moves} moves of a pgbench database (scale {SCALE}) to and fro under its standard "
                 f"transaction, {CLIENTS} clients; in ms. No transaction failed. {sum(one['taken_back'] for one in seen)} "
                 "cutovers were taken back.")
    tables.head("", "median", "99th percentile", "worst")
    tables.row("hold", *cells([one["hold_ms"] for one in seen]))
    tables.row("longest transaction of any client during the move", *cells(longest(transactions, moved)))
    tables.row("longest transaction of any client in as long a time without a move", *cells(longest(transactions, quiet)))
    for act in ACTS:
        tables.row(f"{act}", *cells([one["hold_parts_ms"][act] for one in seen]))


main()
