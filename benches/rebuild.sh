# The catalog made anew from the registries: 10,000 tenants on record at two servers, an empty catalog. Sourced.
# shellcheck shell=bash

# Records without databases: making those would take longer than everything else here. So each is told as a missing one.
per_server=5000
for server in 1 2; do
    url_variable=TENANTRY_SERVER_${server}_URL
    registry="${!url_variable%/*}/tenantry"
    "$pg_bin/psql" "$registry" --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --command "
        INSERT INTO tenant (id, database, epoch, state, term)
        SELECT 'recorded-$server-' || n, 'recorded-$server-' || n, n, 'open', 0 FROM generate_series(1, $per_server) n"
done

# timed COMMAND…: seconds that it takes. What is not there is told by exit status 1.
timed() {
    local begun ended status=0
    begun=$(date +%s%N)
    "$@" >"$dir/timed" 2>&1 || status=$?
    ended=$(date +%s%N)
    [[ $status -le 1 ]] || { tail -3 "$dir/timed" >&2 && exit 1; }
    echo "$begun $ended" | awk '{ print ($2 - $1) / 1e9 }'
}

: >"$dir/verifies"
: >"$dir/plans"
: >"$dir/rebuilds"
for _ in $(seq "$rounds"); do
    "$pg_bin/psql" "$TENANTRY_CATALOG_URL" --no-psqlrc --quiet --command 'TRUNCATE tenant, server, lease'
    timed "$tenantry" map verify -o json >>"$dir/verifies"
    timed "$tenantry" map rebuild -o json >>"$dir/plans"
    timed "$tenantry" map rebuild --apply -o json >>"$dir/rebuilds"
    rebuilt=$("$pg_bin/psql" "$TENANTRY_CATALOG_URL" --no-psqlrc --tuples-only --no-align --command 'SELECT count(*) FROM tenant')
    [[ $rebuilt -ge $((2 * per_server)) ]] || { echo "error: only $rebuilt tenants were rebuilt" >&2 && exit 1; }
done
echo
echo "### A catalog made anew"
echo
echo "$((2 * per_server)) tenants on record at two servers, none in the catalog; seconds of the whole command, in $rounds rounds;"
echo "median (minimum–maximum)."
echo
echo "| \`map verify\` | \`map rebuild\` (the plan) | \`map rebuild --apply\` |"
echo "| --- | --- | --- |"
echo "| $(summary <"$dir/verifies") | $(summary <"$dir/plans") | $(summary <"$dir/rebuilds") |"
