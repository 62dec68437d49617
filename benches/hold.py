"""Moves of a database under load, each of them turned round by `move reverse`: the hold as the control plane measures it,
and the longest transaction of any client from the start of a move to its end, with its copy: hold.py MOVES

One pgbench goes on through all of them. Behind each move and its way back there is a pause as long as both, whose longest
transactions say what is usual here."""

import math
import os
import subprocess
import sys
import time

import pgbench
import setting
import tables
from cli import tenantry
from endpoints import Direct

TENANT = "moved"
CLIENTS = 16
SCALE = 10
SERVERS = (os.environ["TENANTRY_SERVER_1"], os.environ["TENANTRY_SERVER_2"])
# Writing the log, which pgbench does a page at a time, comes a little after what it tells.
LOG_SECONDS = 1
ACTS = ("drain", "fence", "apply", "sequences", "detach", "seal", "check", "advance", "decide", "release")


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


class Direction:
    """Moves of one kind, and when they were."""

    def __init__(self, name):
        self.name = name
        self.spans, self.seen = [], []

    def measure(self, *command):
        begun = time.time()
        self.seen.append(tenantry(*command))
        self.spans.append((begun, time.time()))
        return self.seen[-1]

    def tell(self, moves, transactions, quiet):
        taken_back = sum(one["taken_back"] for one in self.seen)
        tables.title(f"The hold of a {self.name}", f"{moves} times, with a pgbench database (scale {SCALE}) under its standard "
                     f"transaction, {CLIENTS} clients; in ms. No transaction failed. {taken_back} cutovers were taken back.")
        tables.head("", "median", "99th percentile", "worst")
        tables.row("hold", *cells([one["hold_ms"] for one in self.seen]))
        tables.row("longest transaction of any client from its start to its end", *cells(longest(transactions, self.spans)))
        tables.row("longest transaction in a pause", *cells(longest(transactions, quiet)))
        for act in ACTS:
            tables.row(act, *cells([one["hold_parts_ms"][act] for one in self.seen]))


def main():
    moves = int(sys.argv[1])
    tenantry("tenant", "create", TENANT, "--server", SERVERS[0], "--wait")
    initialise = [setting.pg_bin / "pgbench", "--quiet", "--initialize", f"--scale={SCALE}", TENANT]
    subprocess.run(initialise, check=True, env=pgbench.connection_of(Through()), stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    load, quiet = Load(), []
    there, back = Direction("move"), Direction("way back")
    time.sleep(2)
    for _ in range(moves):
        begun = time.time()
        shown = there.measure("move", "start", TENANT, "--to", SERVERS[1], "--wait")
        back.measure("move", "reverse", str(shown["id"]), "--wait")
        ended = time.time()
        time.sleep(ended - begun)
        quiet.append((ended, time.time()))
        load.check()
    transactions = load.stop()

    for direction in (there, back):
        direction.tell(moves, transactions, quiet)

main()
