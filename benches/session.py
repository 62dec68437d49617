"""A measurement of several workloads: what all of its tables share."""

import contextlib
from dataclasses import dataclass

import pgbench
import setting
import tables
from endpoints import Direct, PgBouncer, Router
from pgbench import Failed
from rounds import interleave

WARM_UP = "--transactions=20"
COLUMNS = ("CPU µs: tenantry", "pgbouncer", "tenantry ÷ pgbouncer",
           "throughput ÷ direct: tenantry", "pgbouncer", "throughput: tenantry ÷ pgbouncer")


@dataclass(frozen=True)
class Workload:
    """Something that pgbench does, in each of the databases at the same time."""

    name: str
    arguments: tuple
    databases: tuple = tuple(setting.tenants[:1])


class Session:
    """Rounds, and what could not be measured in them."""

    def __init__(self, rounds, seconds, tls=False):
        self.rounds = rounds
        self.seconds = seconds
        self.tls = tls
        self.failures = 0

    def __str__(self):
        """How it was measured, for a table's heading."""
        return f"{self.rounds} rounds of {self.seconds} s; median (minimum–maximum)."

    @contextlib.contextmanager
    def proxies(self):
        """A new router and a new pgbouncer."""
        with contextlib.ExitStack() as stack:
            started = [stack.enter_context(Router(**Router.tls_settings() if self.tls else {}))]
            if setting.pgbouncer:
                started.append(stack.enter_context(PgBouncer(tls=self.tls)))
            yield started

    def compare(self, endpoints, workload):
        """Outcomes of a workload at each endpoint, by name; the pools are warm."""

        def measure(endpoint, length=f"--time={self.seconds}"):
            # Postgres has no TLS here.
            tls = self.tls and not isinstance(endpoint, Direct)
            return pgbench.run(endpoint, (length, *workload.arguments), workload.databases, tls)

        for endpoint in endpoints:
            measure(endpoint, WARM_UP)
        return interleave(endpoints, self.rounds, measure)

    def rows(self, workloads, show):
        """A row for each workload."""
        for workload in workloads:
            with self.or_why_not(workload.name), self.proxies() as proxies:
                show(workload.name, self.compare([Direct(), *proxies], workload))

    @contextlib.contextmanager
    def or_why_not(self, name):
        """What can't be measured has a row that says why, and the rest goes on."""
        try:
            yield
        except (Failed, RuntimeError) as failure:
            self.failures += 1
            tables.row(name, f"not measured: {failure}".replace("\n", " ").replace("|", "/"))


def show_cpu(name, outcomes):
    """CPU and throughput, as a row of `COLUMNS`."""
    cpu = {key: [one.cpu_us for one in some] for key, some in outcomes.items()}
    rate = {key: [one.per_second for one in some] for key, some in outcomes.items()}
    ours, theirs = "tenantry", "pgbouncer"
    for values in (cpu, rate):
        values.setdefault(theirs, [])
    quotients = ((cpu, ours, theirs), (rate, ours, "direct"), (rate, theirs, "direct"), (rate, ours, theirs))
    tables.row(name, tables.spread(cpu[ours]), tables.spread(cpu[theirs]),
               *(tables.spread(tables.quotients(values[over], values[under])) for values, over, under in quotients))
