"""What clients may connect to: Postgres itself, a router, pgbouncer. Each proxy is a process of its own, made for one
measurement, so that none is measured with what an earlier one left behind."""

import itertools
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

import setting
from client import Client, Refused
from process import Process

START_SECONDS = 300
CLIENTS_MAX = 20_000
# Of both proxies: server connections for one tenant and user, and when an unused one is closed.
POOL_MAX = 20
IDLE_SERVER_SECONDS = 60

_numbers = itertools.count(1)


class Direct:
    """Postgres itself: what there is without a proxy."""

    name = "direct"
    port = setting.server_port

    def cpu_seconds(self):
        return 0.0


class Proxy(Process):
    """A proxy, from its start until it has answered a query."""

    def __init__(self, name, port, command, **options):
        self.name = name
        self.port = port
        self._begun = time.monotonic()
        super().__init__(command, setting.directory / f"{port}.log", **options)
        self.first_answer_seconds = self._await_answer()

    def _await_answer(self):
        while time.monotonic() - self._begun < START_SECONDS and self.is_running():
            try:
                with Client(self.port, setting.tenants[0]) as client:
                    client.query("SELECT 1")
                return time.monotonic() - self._begun
            except (OSError, Refused):
                time.sleep(0.002)
        self.stop()
        tail = pathlib.Path(self.log).read_text(encoding="utf-8", errors="replace")[-500:]
        raise RuntimeError(f"{self.name} gave no answer: {tail}")


class Router(Proxy):
    """A router of the fleet beside the one that `tenantry dev` runs, which has no clients meanwhile."""

    def __init__(self, name="tenantry", *, with_catalog=True, snapshot=None, **settings):
        port = _free_port()
        secrets = setting.directory / "fleet" / "secrets"
        keys = {
            "name": f"bench-{port}",
            "listen": f"{setting.host}:{port}",
            "metrics_listen": f"{setting.host}:{_free_port()}",
            "master_key_file": secrets / "master_key",
            "snapshot_file": snapshot or _own_folder("router") / "snapshot",
            "clients_max": CLIENTS_MAX,
            "connections_per_tenant_max": POOL_MAX,
            "idle_server_timeout": f"{IDLE_SERVER_SECONDS}s",
            "shutdown_timeout": "1s",
            **settings,
        }
        if with_catalog:
            keys["catalog_url_file"] = secrets / "catalog_url"
        command = [setting.program, "router", "--log", "warn"]
        for key, value in keys.items():
            command += ["--set", f"{key}={value}"]
        super().__init__(name, port, command)

    @staticmethod
    def tls_settings():
        certificate, key = _certificate()
        return {"tls_mode": "allow", "tls_cert_file": certificate, "tls_key_file": key}

    @staticmethod
    def knows_tls():
        """An unknown key makes the program say which ones it knows."""
        key = setting.directory / "fleet" / "secrets" / "master_key"
        command = [setting.program, "router", "--set", f"master_key_file={key}", "--set", "unknown=1"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS, check=False).stderr
        return "tls_cert_file" in said


class PgBouncer(Proxy):
    """pgbouncer in transaction mode. Its users are known by their SCRAM verifiers, as the router's are: from passwords
    it would derive a key at each login, which takes milliseconds."""

    # SIGTERM waits for its clients.
    stop_signal = signal.SIGQUIT

    def __init__(self, name="pgbouncer", *, databases=("*",), tls=False):
        port = _free_port()
        folder = _own_folder("pgbouncer")
        # Where the account that it runs under when we are root can reach it.
        program = folder / "program"
        shutil.copy(setting.pgbouncer, program)
        _write(folder / "users", f'"{setting.user}" "{_verifier()}"\n')
        _write(folder / "ini", _pgbouncer_ini(folder, port, databases, tls))
        options = {}
        if os.geteuid() == 0:
            options = {"user": "nobody", "group": "nogroup", "extra_groups": []}
        super().__init__(name, port, [program, "-q", folder / "ini"], **options)


def _pgbouncer_ini(folder, port, databases, tls):
    lines = ["[databases]"]
    lines += [f"{name} = host={setting.host} port={setting.server_port}" for name in databases]
    lines += [
        "[pgbouncer]",
        f"listen_addr = {setting.host}",
        f"listen_port = {port}",
        "unix_socket_dir =",
        "auth_type = scram-sha-256",
        f"auth_file = {folder}/users",
        "pool_mode = transaction",
        f"max_client_conn = {CLIENTS_MAX}",
        f"default_pool_size = {POOL_MAX}",
        f"server_idle_timeout = {IDLE_SERVER_SECONDS}",
        "max_prepared_statements = 200",
        "log_connections = 0",
        "log_disconnections = 0",
    ]
    if tls:
        certificate, key = _certificate()
        for source, name in ((certificate, "server.crt"), (key, "server.key")):
            _write(folder / name, source.read_text(encoding="ascii"))
        lines += ["client_tls_sslmode = allow"]
        lines += [f"client_tls_cert_file = {folder}/server.crt", f"client_tls_key_file = {folder}/server.key"]
    return "\n".join(lines) + "\n"


def psql(url, *commands):
    """What Postgres answers to these commands, bare."""
    arguments = [setting.pg_bin / "psql", url, "--no-psqlrc", "--quiet", "--tuples-only", "--no-align"]
    for command in commands:
        arguments += ["--command", command]
    return subprocess.run(arguments, check=True, capture_output=True, text=True).stdout.strip()


def _verifier():
    return psql(setting.server_url, f"SELECT rolpassword FROM pg_authid WHERE rolname = '{setting.user}'")


def _certificate():
    certificate, key = setting.directory / "tls.crt", setting.directory / "tls.key"
    if not certificate.exists():
        arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost"
        files = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", certificate]
        subprocess.run(["openssl", *arguments.split(), *files], check=True, capture_output=True)
    return certificate, key


def _own_folder(name):
    folder = setting.directory / f"{name}-{next(_numbers)}"
    folder.mkdir()
    folder.chmod(0o755)
    return folder


def _write(path, text):
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)


def _free_port():
    with socket.socket() as probe:
        probe.bind((setting.host, 0))
        return probe.getsockname()[1]
