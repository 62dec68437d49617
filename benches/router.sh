# CPU microseconds of the proxy for each transaction, and throughput as a share of a direct connection's. Sourced.
# shellcheck shell=bash

# User and system time of a process so far, in microseconds.
cpu_us() {
    awk -v hz="$(getconf CLK_TCK)" '{ sub(/.*\) /, ""); printf "%d", ($12 + $13) * 1000000 / hz }' "/proc/$1/stat"
}

router_pid=$(pgrep -f "^[^ ]*tenantry router --config $dir/" | head -1)
endpoints=(direct tenantry)
# shellcheck disable=SC2154
superuser=$TENANTRY_SERVER_1_URL

# Prepared statements in transaction mode came with 1.21; an older one is left out.
if command -v pgbouncer >/dev/null && [ "$(pgbouncer --version | sed -n "s/^PgBouncer 1\.\([0-9]*\).*/\1/p")" -ge 21 ]; then
    endpoints+=(pgbouncer)
    mkdir "$dir/pgbouncer"
    authority=${superuser#*://}
    userinfo=${authority%@*}
    hostport=${authority#*@}
    hostport=${hostport%%/*}
    printf '"%s" "%s"\n' "${userinfo%%:*}" "${userinfo#*:}" >"$dir/pgbouncer/users"
    cat >"$dir/pgbouncer/ini" <<INI
[databases]
* = host=${hostport%:*} port=${hostport#*:}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = 16433
unix_socket_dir =
auth_type = scram-sha-256
auth_file = $dir/pgbouncer/users
pool_mode = transaction
max_client_conn = 1000
default_pool_size = 20
max_prepared_statements = 200
logfile = $dir/pgbouncer/log
INI
    chmod -R a+rX "$dir/pgbouncer"
    user=()
    [ "$(id -u)" != 0 ] || user=(setpriv --reuid nobody --regid nogroup --clear-groups)
    touch "$dir/pgbouncer/log" && chmod 666 "$dir/pgbouncer/log"
    "${user[@]}" pgbouncer -q "$dir/pgbouncer/ini" 2>/dev/null &
    pids+=($!)
    bouncer_pid=$!
    sleep 1
fi

# ENDPOINT MODE: one run; prints "transactions_per_second cpu_us_per_transaction".
one_run() {
    local pid=0 before=0 after=0 out
    case $1 in
    direct) run=("$pg_bin/pgbench" -n "${superuser%/*}/bench") ;;
    pgbouncer) pid=$bouncer_pid run=("$pg_bin/pgbench" -n "postgres://$userinfo@127.0.0.1:16433/bench") ;;
    tenantry) pid=$router_pid run=(through_router) ;;
    esac
    [ "$pid" = 0 ] || before=$(cpu_us "$pid")
    # The database goes last for a URL, first for the function: pgbench takes options in any order.
    out=$("${run[@]}" -S -M "$2" -c 16 -j 2 -T "$seconds" 2>/dev/null)
    [ "$pid" = 0 ] || after=$(cpu_us "$pid")
    awk -v cpu=$((after - before)) '/number of transactions actually/ { n = $6 } /^tps/ { t = $3 }
        END { printf "%.1f %.2f\n", t, cpu / n }' <<<"$out"
}

for mode in simple extended prepared; do
    for _ in $(seq "$rounds"); do
        for endpoint in "${endpoints[@]}"; do
            one_run "$endpoint" $mode >>"$dir/$endpoint.$mode"
        done
    done
done

echo
echo "Select of one row (pgbench -S), 16 clients, $rounds rounds of $seconds s; median (minimum–maximum)."
echo
echo "| endpoint | protocol | CPU µs per transaction | throughput ÷ direct |"
echo "| --- | --- | --- | --- |"
for endpoint in "${endpoints[@]}"; do
    [ "$endpoint" != direct ] || continue
    for mode in simple extended prepared; do
        cpu=$(awk '{ print $2 }' "$dir/$endpoint.$mode" | summary)
        ratio=$(paste "$dir/$endpoint.$mode" "$dir/direct.$mode" | awk '{ printf "%.3f\n", $1 / $3 }' | sort -n |
            awk '{ v[NR] = $1 } END { printf "%.2f (%.2f–%.2f)", v[int((NR + 1) / 2)], v[1], v[NR] }')
        echo "| $endpoint | $mode | $cpu | $ratio |"
    done
done
