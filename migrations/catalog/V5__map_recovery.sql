-- Changes of the map are logged statement by statement: a map of 10,000 tenants is written anew in a second, where a
-- trigger for each row took ten. Versions stay without a gap: the one row's lock gives them their order, as before.

-- TG_ARGV: the entry's word in the log, the key column, the word for "gone". `changed` holds the statement's rows.
CREATE FUNCTION log_changes() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    count        bigint;
    last_version bigint;
BEGIN
    SELECT count(*) INTO count FROM changed;
    IF count = 0 THEN
        RETURN NULL;
    END IF;
    UPDATE map_version SET version = version + count RETURNING version INTO last_version;
    IF TG_OP = 'DELETE' THEN
        INSERT INTO change_log (version, entry)
            SELECT last_version - count + row_number() OVER (),
                jsonb_build_object(TG_ARGV[2], to_jsonb(c) -> TG_ARGV[1]) FROM changed c;
    ELSE
        INSERT INTO change_log (version, entry)
            SELECT last_version - count + row_number() OVER (), jsonb_build_object(TG_ARGV[0], to_jsonb(c))
            FROM changed c;
    END IF;
    PERFORM pg_notify('tenantry_map', last_version::text);
    RETURN NULL;
END
$$;

-- A trigger that sees its rows as a table is for one kind of statement only.
DO $$
DECLARE
    logged record;
BEGIN
    FOR logged IN SELECT * FROM (VALUES
        ('server', 'server', 'name', 'no_server'), ('tenant', 'tenant', 'id', 'no_tenant'),
        ('router_user', 'user', 'name', 'no_user'), ('hold', 'hold', 'tenant', 'no_hold')
    ) AS l (tbl, word, key, gone) LOOP
        EXECUTE format('DROP TRIGGER log_change ON %I', logged.tbl);
        EXECUTE format('CREATE TRIGGER log_inserted AFTER INSERT ON %I REFERENCING NEW TABLE AS changed
            FOR EACH STATEMENT EXECUTE FUNCTION log_changes(%L, %L, %L)',
            logged.tbl, logged.word, logged.key, logged.gone);
        EXECUTE format('CREATE TRIGGER log_updated AFTER UPDATE ON %I REFERENCING NEW TABLE AS changed
            FOR EACH STATEMENT EXECUTE FUNCTION log_changes(%L, %L, %L)',
            logged.tbl, logged.word, logged.key, logged.gone);
        EXECUTE format('CREATE TRIGGER log_deleted AFTER DELETE ON %I REFERENCING OLD TABLE AS changed
            FOR EACH STATEMENT EXECUTE FUNCTION log_changes(%L, %L, %L)',
            logged.tbl, logged.word, logged.key, logged.gone);
    END LOOP;
END
$$;
DROP FUNCTION log_change();

-- Policies for choosing a server, once they are declared (`map apply`); before, the control plane's configuration counts.
CREATE TABLE placement_policy (
    one                    boolean PRIMARY KEY DEFAULT true CHECK (one),
    tenants_per_server_max integer NOT NULL CHECK (tenants_per_server_max > 0)
);

-- What the last look at catalog, registries and databases found.
CREATE TABLE map_check (
    one         boolean PRIMARY KEY DEFAULT true CHECK (one),
    checked_at  timestamptz NOT NULL,
    duration_ms bigint NOT NULL,
    -- The first ones of them, and how many there are of each kind.
    findings    jsonb NOT NULL,
    counts      jsonb NOT NULL
);
