# A fleet for measurements, stopped when the script ends. Sourced.
# shellcheck shell=bash

pg_bin=${TENANTRY_PG_BIN:-$(ops/setup/postgres)}
tenantry=${TENANTRY_BIN:-${CARGO_TARGET_DIR:-target}/release/tenantry}
[[ -n ${TENANTRY_BIN:-} ]] || cargo build --release --locked --quiet
port=${BENCH_PORT:-16432}
dir=$(mktemp -d)
chmod 755 "$dir"
pids=()

stop_all() {
    for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$dir"
}
trap stop_all EXIT

start_fleet() {
    "$tenantry" dev --dir "$dir/fleet" --pg-bin "$pg_bin" --router-port "$port" --api-port $((port + 1000)) \
        --base-port $((port + 1100)) --stock 0 >"$dir/out" 2>"$dir/err" &
    pids+=($!)
    until grep -q ready "$dir/out" 2>/dev/null; do
        kill -0 "${pids[0]}" 2>/dev/null || { cat "$dir/err" >&2 && exit 1; }
        sleep 0.2
    done
    # shellcheck disable=SC1091
    source "$dir/fleet/env"
    export BENCH_DIRECTORY=$dir BENCH_PROGRAM=$tenantry BENCH_PG_BIN=$pg_bin
}

# What was measured, in words.
versions() {
    local revision
    revision=$(git rev-parse --short HEAD 2>/dev/null || true)
    [[ -z ${TENANTRY_BIN:-} ]] || revision="as in TENANTRY_BIN"
    echo "$("$tenantry" --version)${revision:+ ($revision)}"
}

find_peer() {
    BENCH_PGBOUNCER=$(ops/setup/pgbouncer) || BENCH_PGBOUNCER=
    export BENCH_PGBOUNCER
    echo
    if [[ -n $BENCH_PGBOUNCER ]]; then
        "$BENCH_PGBOUNCER" --version | head -1
    else
        echo "pgbouncer could not be had: measured without it."
    fi
}

# in_parallel COMMAND ARGUMENT…: the command for each argument, a few at a time.
in_parallel() {
    printf '%s\n' "${@:2}" | xargs -P 4 -I {} bash -c "$1" >"$dir/seed" 2>&1 || { cat "$dir/seed" >&2 && exit 1; }
}

# Tenants t0001 … t0020 with pgbench's tables, and `big` with larger ones, all on the server that allows the most
# connections. There the router's user exists, too, as a role of its own, so that the same name and password log in to
# Postgres, to pgbouncer and to the router.
seed_tenants() {
    local tenants
    mapfile -t tenants < <(printf 't%04d\n' {1..20}; echo big)
    "$pg_bin/psql" "$TENANTRY_SERVER_3_URL" --no-psqlrc --quiet --variable user="$TENANTRY_USER" \
        --variable password="$TENANTRY_PASSWORD" <<<'CREATE ROLE :"user" SUPERUSER LOGIN PASSWORD :'"'password'"
    export PGHOST=$TENANTRY_ROUTER_HOST PGPORT=$TENANTRY_ROUTER_PORT PGUSER=$TENANTRY_USER PGPASSWORD=$TENANTRY_PASSWORD
    in_parallel "'$tenantry' tenant create {} --server $TENANTRY_SERVER_3 --wait" "${tenants[@]}"
    in_parallel "'$pg_bin/pgbench' -q -i -s 1 {}" "${tenants[@]:0:20}"
    in_parallel "'$pg_bin/pgbench' -q -i -s 20 {}" big
    "$pg_bin/psql" --no-psqlrc --quiet --command 'CREATE UNLOGGED TABLE copied (LIKE pgbench_accounts)' big
}

# Median, minimum and maximum of numbers on standard input.
summary() {
    sort -n | awk '{ v[NR] = $1 } END { if (NR) printf "%.1f (%.1f–%.1f)", v[int((NR + 1) / 2)], v[1], v[NR] }'
}
