"""A pgbench on a tenant, through the router, that goes on while something else is measured, and logs each transaction."""

import math
import os
import subprocess
import time

import pgbench
import setting
from endpoints import Direct

# Writing the log, which pgbench does a page at a time, comes a little after what it tells.
LOG_SECONDS = 1


class Through(Direct):
    """The router of the fleet."""

    name = "router"
    port = int(os.environ["TENANTRY_ROUTER_PORT"])


def initialise(tenant, scale):
    command = [setting.pg_bin / "pgbench", "--quiet", "--initialize", f"--scale={scale}", tenant]
    subprocess.run(command, check=True, env=pgbench.connection_of(Through()), stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)


class Load:
    """pgbench on the tenant."""

    def __init__(self, tenant, *options):
        self._prefix = f"log-{tenant}"
        command = [setting.pg_bin / "pgbench", "--no-vacuum", *options, "--time=36000", "--log",
                   f"--log-prefix={self._prefix}", tenant]
        self._errors = setting.directory / f"{self._prefix}.errors"
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
        for file in setting.directory.glob(f"{self._prefix}.*"):
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
