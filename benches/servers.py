"""The fleet's servers, past the router, and when things happened there."""

import datetime
import os
import subprocess
import urllib.parse

import setting

SERVERS = (os.environ["TENANTRY_SERVER_1"], os.environ["TENANTRY_SERVER_2"])
URLS = (os.environ["TENANTRY_SERVER_1_URL"], os.environ["TENANTRY_SERVER_2_URL"])


def database(url, name):
    return urllib.parse.urlsplit(url)._replace(path=f"/{name}").geturl()


def psql(url, sql):
    """What a statement answers, unaligned and without a head."""
    command = [setting.pg_bin / "psql", url, "--no-psqlrc", "--quiet", "--tuples-only", "--no-align",
               "--set=ON_ERROR_STOP=1", "--command", sql]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def steps(shown):
    """(begin, end) in seconds of each step of a move that has ended."""
    def moment(text):
        return datetime.datetime.fromisoformat(text).timestamp()

    return {step["step"]: (moment(step["started_at"]), moment(step["ended_at"])) for step in shown["steps"]
            if step["ended_at"]}
