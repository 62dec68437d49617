"""The program's commands, and what they answer."""

import json
import subprocess

import setting


def tenantry(*arguments):
    command = [setting.program, *arguments, "-o", "json"]
    outcome = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if outcome.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)}: {outcome.stderr.strip().splitlines()[-1]}")
    return json.loads(outcome.stdout)
