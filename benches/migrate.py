"""One run of three migrations over many small tenants on three servers, beside the same SQL by psql over connections that
are ready, and what applications on ten of them notice meanwhile: migrate.py [TENANTS]"""

import concurrent.futures
import contextlib
import os
import queue
import subprocess
import sys
import time
import urllib.parse

import setting
import tables
from cli import tenantry

SERVERS = [name for name in (os.environ.get(f"TENANTRY_SERVER_{number}") for number in (1, 2, 3)) if name]
URLS = {os.environ[f"TENANTRY_SERVER_{number}"]: os.environ[f"TENANTRY_SERVER_{number}_URL"] for number in (1, 2, 3)}
PER_SERVER = int(os.environ.get("BENCH_PER_SERVER", "2"))
# Transactions a second of each application, and how many there are.
RATE = os.environ.get("BENCH_RATE", "20")
APPLICATIONS = 10
QUIET_SECONDS = int(os.environ.get("BENCH_QUIET", "30"))
LABEL = "bench=migrate"
# psql processes that are ready at once at each server.
READY = 40
MIGRATIONS = [
    "CREATE TABLE people (id bigint PRIMARY KEY, email text NOT NULL, made timestamptz DEFAULT now());",
    "CREATE TABLE events (person bigint REFERENCES people, kind text, at timestamptz);\n"
    "CREATE INDEX ON events (person, at);",
    "ALTER TABLE people ADD score integer NOT NULL DEFAULT 0;\nCREATE INDEX ON people (score);",
]


def create(tenants):
    begun = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda pair: tenantry("tenant", "create", pair[0], "--server", pair[1], "--label",
                                              LABEL, "--wait"),
                      tenants.items()))
    return time.monotonic() - begun


def write_migrations():
    directory = setting.directory / "migrations"
    directory.mkdir()
    for version, sql in enumerate(MIGRATIONS, 1):
        (directory / f"V{version}__step.sql").write_text(sql + "\n", encoding="ascii")
    return directory


class Ready:
    """A psql that is connected, and waits for its input."""

    def __init__(self, server, tenant):
        url = urllib.parse.urlsplit(URLS[server])._replace(path=f"/{tenant}").geturl()
        command = [setting.pg_bin / "psql", url, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.ask("CREATE SCHEMA bound; SET search_path = bound;")

    def ask(self, sql):
        self.process.stdin.write(sql + "\n\\echo done\n")
        self.process.stdin.flush()
        if self.process.stdout.readline() != "done\n":
            raise RuntimeError("psql ended")

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def lower_bound(tenants):
    """Seconds for the same transactions, as many at once as the run may have, in a schema of their own."""
    sql = "\n".join(f"BEGIN; {migration} COMMIT;" for migration in MIGRATIONS)
    seconds, left = 0.0, {server: [t for t, s in tenants.items() if s == server] for server in SERVERS}

    def work(waiting):
        with contextlib.suppress(queue.Empty):
            while True:
                waiting.get_nowait().ask(sql)

    while any(left.values()):
        batch = {server: [Ready(server, tenant) for tenant in names[:READY]] for server, names in left.items()}
        left = {server: names[READY:] for server, names in left.items()}
        queues = [queue.SimpleQueue() for _ in SERVERS]
        for waiting, ready in zip(queues, batch.values()):
            for one in ready:
                waiting.put(one)
        begun = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(PER_SERVER * len(SERVERS)) as pool:
            list(pool.map(work, queues * PER_SERVER))
        seconds += time.monotonic() - begun
        for one in (one for ready in batch.values() for one in ready):
            one.close()
    return seconds


class Applications:
    """pgbench at a fixed rate on some tenants, through the router; with the latency of each transaction."""

    def __init__(self, tenants, label):
        self.label = label
        self.processes = [self.start(tenant) for tenant in tenants]

    def start(self, tenant):
        command = [setting.pg_bin / "pgbench", "--no-vacuum", "--skip-some-updates", "--client=1", f"--rate={RATE}",
                   "--time=36000", "--log", f"--log-prefix={self.label}-{tenant}", tenant]
        return subprocess.Popen(command, cwd=setting.directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self):
        """The 99th percentile in ms, and how many transactions there were."""
        if any(process.poll() is not None for process in self.processes):
            raise RuntimeError("an application saw an error")
        for process in self.processes:
            process.kill()
            process.wait()
        latencies = []
        for file in setting.directory.glob(f"{self.label}-*"):
            # The last line may be cut off.
            lines = file.read_text(encoding="ascii").splitlines()[:-1]
            latencies += [int(line.split()[2]) / 1000 for line in lines]
            file.unlink()
        latencies.sort()
        return latencies[int(len(latencies) * 0.99)], len(latencies)


def quiet(tenants, label):
    applications = Applications(tenants, label)
    time.sleep(QUIET_SECONDS)
    return applications.stop()


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    os.environ.update(PGHOST=os.environ["TENANTRY_ROUTER_HOST"], PGPORT=os.environ["TENANTRY_ROUTER_PORT"],
                      PGUSER=setting.user, PGPASSWORD=setting.password)
    tenants = {f"m{number:04}": SERVERS[number % len(SERVERS)] for number in range(count)}
    created = create(tenants)
    busy = list(tenants)[:APPLICATIONS]
    for tenant in busy:
        subprocess.run([setting.pg_bin / "pgbench", "--quiet", "--initialize", "--scale=1", tenant], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    bound = lower_bound(tenants)
    before = quiet(busy, "before")
    applications = Applications(busy, "during")
    time.sleep(2)
    begun = time.monotonic()
    run = tenantry("migrate", "run", "--dir", str(write_migrations()), "--canary", "3", "--waves", "10%,100%",
                   "--per-server", str(PER_SERVER), "--selector", LABEL)
    seconds = time.monotonic() - begun
    during = applications.stop()
    after = quiet(busy, "after")
    if run["done"] != count:
        raise RuntimeError(f"only {run['done']} were migrated")

    tables.title("A run of migrations", f"{count} tenants on three servers, three migrations with {PER_SERVER} at once on "
                 f"each server; meanwhile pgbench on {len(busy)} of them, {RATE} transactions a second each. The lower "
                 "bound is the same SQL by psql over connections that were ready before, as many at once, without "
                 f"pgbench. One run; before and after it, {QUIET_SECONDS} s of pgbench alone.")
    tables.head("making the tenants, s", "the run, s", "lower bound, s", "run ÷ bound", "99th percentile alone, ms",
                "during the run, ms", "÷ alone")
    alone = [before[0], after[0]]
    mean = sum(alone) / len(alone)
    tables.row(tables.number(created), tables.number(seconds), tables.number(bound), tables.number(seconds / bound),
               tables.spread(alone), tables.number(during[0]), tables.number(during[0] / mean))


main()
