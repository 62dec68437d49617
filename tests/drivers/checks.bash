# For the checks that are shell scripts: `check NAME COMMAND…` runs one, `finish` counts.
passed=0 failed=0
PATH=$TENANTRY_PG_BIN:$PATH
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

check() {
    local name=$1
    shift
    if (set -euo pipefail && "$@") >"$scratch/output" 2>&1; then
        echo "ok      $name"
        passed=$((passed + 1))
    else
        echo "FAILED  $name"
        sed 's/^/        /' "$scratch/output"
        failed=$((failed + 1))
    fi
}

finish() {
    echo "$passed passed, $failed failed"
    ((failed == 0))
}

# Runs SQL; the answer is bare text.
sql() { psql --no-psqlrc --quiet --tuples-only --no-align --set ON_ERROR_STOP=1 "$@"; }

# expect WANTED COMMAND… : the command's output is exactly this.
expect() {
    local wanted=$1 got
    shift
    got=$("$@")
    [[ $got == "$wanted" ]] || { echo "wanted: $wanted"; echo "got:    $got"; return 1; }
}
