"""A program that is measured: started, looked at through /proc, stopped."""

import os
import signal
import subprocess

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
STOP_SECONDS = 30


class Process:
    """Ends with the `with` block that it is used in. Its output goes to a file."""

    stop_signal = signal.SIGTERM

    def __init__(self, command, log, **options):
        with open(log, "ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output, **options)
        self.log = log

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def is_running(self):
        return self._process.poll() is None

    def stop(self):
        if self.is_running():
            self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def cpu_seconds(self):
        """User and system time so far, of all threads; the kernel tells it in ticks of 10 ms."""
        with open(f"/proc/{self._process.pid}/stat", encoding="ascii") as file:
            # The name before the last bracket may hold anything.
            fields = file.read().rpartition(")")[2].split()
        user, system = int(fields[11]), int(fields[12])
        return (user + system) / TICKS_PER_SECOND

    def resident_bytes(self):
        with open(f"/proc/{self._process.pid}/status", encoding="ascii") as file:
            for line in file:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) * 1024
        raise RuntimeError("no VmRSS: the process has ended")
