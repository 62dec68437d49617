# A fleet for measurements, stopped when the script ends. Sourced.
# shellcheck shell=bash

pg_bin=${TENANTRY_PG_BIN:-$(ops/setup/postgres)}
tenantry=${CARGO_TARGET_DIR:-target}/release/tenantry
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
    "$tenantry" dev --dir "$dir/fleet" --pg-bin "$pg_bin" --router-port 16432 --api-port 17432 --base-port 17500 \
        >"$dir/out" 2>"$dir/err" &
    pids+=($!)
    until grep -q ready "$dir/out" 2>/dev/null; do
        kill -0 "${pids[0]}" 2>/dev/null || { cat "$dir/err" >&2 && exit 1; }
        sleep 0.2
    done
    # shellcheck disable=SC1091
    source "$dir/fleet/env"
    "$tenantry" tenant create bench --server pg-1 --wait >/dev/null 2>&1
    PGPASSWORD=$TENANTRY_PASSWORD "$pg_bin/pgbench" -q -i -s 10 -h "$TENANTRY_ROUTER_HOST" -p "$TENANTRY_ROUTER_PORT" \
        -U "$TENANTRY_USER" bench >/dev/null 2>&1
}

# pgbench with these arguments, through the router.
through_router() {
    PGPASSWORD=$TENANTRY_PASSWORD "$pg_bin/pgbench" -n -h "$TENANTRY_ROUTER_HOST" -p "$TENANTRY_ROUTER_PORT" \
        -U "$TENANTRY_USER" "$@" bench
}

# Median, minimum and maximum of numbers on standard input.
summary() {
    sort -n | awk '{ v[NR] = $1 } END { if (NR) printf "%.1f (%.1f–%.1f)", v[int((NR + 1) / 2)], v[1], v[NR] }'
}
