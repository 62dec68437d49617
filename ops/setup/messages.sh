# shellcheck shell=bash
# How the set-up scripts speak: on stderr, because stdout is for answers. Sourced, not run.

say() { echo "set-up: $1" >&2; }

# fail MESSAGE HINT: what is wrong, and what to do about it.
fail() {
    echo "error: $1" >&2
    echo "hint: $2" >&2
    exit 1
}
