"""What a neighbour notices of a copy: the 99th percentile of a tenant's transactions at a fixed rate, while another tenant of
the same server is moved away, and while the same database goes the same way by pg_dump and pg_restore. Each is held against a
pause right before it: neighbour.py ROUNDS [MEGABYTES]"""

import subprocess
import sys
import time

import setting
import tables
from cli import tenantry
from load import Load, initialise, percentile
from servers import SERVERS, URLS, database, psql, steps

NEIGHBOUR, LARGE, PEER = "neighbour", "large", "large_by_dump"
NEIGHBOUR_SCALE, CLIENTS, RATE = 10, 4, 200
# pgbench's tables and their indexes, of scale 1.
MEGABYTES_PER_SCALE = 15
PAUSE_SECONDS = 30
SETTLE_SECONDS = 5


class Way:
    """A way to copy: the seconds of its copies, and the pauses before them."""

    def __init__(self, name):
        self.name = name
        self.pauses, self.spans, self.slowed = [], [], []

    def pause(self):
        # What the one before left to be written is not this one's.
        for url in URLS:
            psql(url, "CHECKPOINT")
        time.sleep(SETTLE_SECONDS)
        begun = time.time()
        time.sleep(PAUSE_SECONDS)
        self.pauses.append((begun, time.time()))

    def tell(self, transactions):
        def of(span):
            begun, ended = span
            return percentile([ms for end, ms in transactions if begun <= end <= ended] or [0.0], 0.99)

        before, during = [of(pause) for pause in self.pauses], [of(span) for span in self.spans]
        seconds = [ended - begun for begun, ended in self.spans]
        tables.row(self.name, tables.spread(before), tables.spread(during),
                   tables.spread(tables.quotients(during, before)), tables.spread(seconds))


class Move(Way):
    """A move, from its first range to its last; its indexes count apart."""

    def __init__(self):
        super().__init__("move: copy")
        self.build = Way("move: indexes, constraints, statistics")

    def run(self):
        shown = tenantry("move", "start", LARGE, "--to", SERVERS[1], "--wait")
        took = steps(shown)
        self.spans.append(took["copy"])
        self.build.spans.append(took["build"])
        self.build.pauses.append(self.pauses[-1])
        back = tenantry("move", "reverse", str(shown["id"]), "--wait")
        tenantry("move", "complete", str(back["id"]), "--wait")


class Dump(Way):
    """pg_dump into pg_restore."""

    def __init__(self):
        super().__init__("`pg_dump \\| pg_restore`")

    def run(self):
        psql(URLS[1], f"CREATE DATABASE {PEER}")
        begun = time.time()
        dump = subprocess.Popen([setting.pg_bin / "pg_dump", "--format=custom", "--compress=0", database(URLS[0], LARGE)],
                                stdout=subprocess.PIPE)
        restore = [setting.pg_bin / "pg_restore", "--no-owner", "--no-acl", f"--dbname={database(URLS[1], PEER)}"]
        subprocess.run(restore, stdin=dump.stdout, check=True)
        if dump.wait() != 0:
            raise RuntimeError("pg_dump failed")
        self.spans.append((begun, time.time()))
        psql(URLS[1], f"DROP DATABASE {PEER}")


def main():
    rounds = int(sys.argv[1])
    megabytes = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    for tenant, scale in ((NEIGHBOUR, NEIGHBOUR_SCALE), (LARGE, max(megabytes // MEGABYTES_PER_SCALE, 1))):
        tenantry("tenant", "create", tenant, "--server", SERVERS[0], "--wait")
        initialise(tenant, scale)
    load = Load(NEIGHBOUR, f"--client={CLIENTS}", "--jobs=1", f"--rate={RATE}")
    move, dump = Move(), Dump()
    for _ in range(rounds):
        for way in (move, dump):
            way.pause()
            way.run()
            load.check()
    transactions = load.stop()
    tables.title("What a neighbour notices of a copy", f"99th percentile of pgbench's standard transaction, {RATE} a second, in ms, "
                 f"on a server from which a database of {megabytes} MB is copied; median of {rounds} with minimum and maximum.")
    tables.head("", "in the pause before", "during", "ratio", "seconds")
    for way in (move, move.build, dump):
        way.tell(transactions)


main()
