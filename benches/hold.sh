# The hold of moves under load: what the control plane measures, and the longest stall that a client saw. Sourced.
# shellcheck shell=bash

"$tenantry" tenant create bench --server pg-1 --wait >/dev/null 2>&1
through_router -q -i -s 10 >/dev/null 2>&1

target=pg-2
: >"$dir/holds"
: >"$dir/stalls"
for _ in $(seq "$((rounds * 2))"); do
    through_router -c 16 -j 2 -T 20 --log --log-prefix="$dir/stall" >"$dir/pgbench" 2>&1 &
    load=$!
    sleep 1
    "$tenantry" move start bench --to $target --wait -o json 2>/dev/null |
        sed -n 's/.*"hold_ms": *\([0-9.]*\).*/\1/p' >>"$dir/holds"
    kill -INT $load 2>/dev/null || true
    wait $load 2>/dev/null || true
    # pgbench's log: client, transaction, microseconds, …
    cat "$dir"/stall.* | awk '$3 > most { most = $3 } END { print most / 1000 }' >>"$dir/stalls"
    rm -f "$dir"/stall.*
    [ $target = pg-2 ] && target=pg-1 || target=pg-2
done
echo
echo "### The hold of a move"
echo
echo "Moves of a pgbench database (scale 10) under its standard transaction, 16 clients, $((rounds * 2)) moves;"
echo "median (minimum–maximum) in ms."
echo
echo "| hold | longest transaction of any client |"
echo "| --- | --- |"
echo "| $(summary <"$dir/holds") | $(summary <"$dir/stalls") |"
