"""Moves of a database under load, each of them turned round by `move reverse`: the hold as the control plane measures it,
and the longest transaction of any client from the start of a move to its end, with its copy: hold.py MOVES

One pgbench goes on through all of them. Behind each move and its way back there is a pause as long as both, whose longest
transactions say what is usual here."""

import os
import sys
import time

import tables
from cli import tenantry
from load import Load, initialise, percentile

TENANT = "moved"
CLIENTS = 16
SCALE = 10
SERVERS = (os.environ["TENANTRY_SERVER_1"], os.environ["TENANTRY_SERVER_2"])
ACTS = ("drain", "fence", "apply", "sequences", "detach", "seal", "check", "advance", "decide", "release")


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
    initialise(TENANT, SCALE)
    load, quiet = Load(TENANT, f"--client={CLIENTS}", "--jobs=2"), []
    there, back = Direction("move"), Direction("way back")
    time.sleep(2)
    for _ in range(moves):
        begun = time.time()
        # What is compared does not change the hold, and rows grow from move to move.
        shown = there.measure("move", "start", TENANT, "--to", SERVERS[1], "--verify", "count", "--wait")
        back.measure("move", "reverse", str(shown["id"]), "--wait")
        ended = time.time()
        time.sleep(ended - begun)
        quiet.append((ended, time.time()))
        load.check()
    transactions = load.stop()

    for direction in (there, back):
        direction.tell(moves, transactions, quiet)

main()
