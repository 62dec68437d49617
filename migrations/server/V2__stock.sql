-- Prepared databases that wait for a tenant: with the fleet's schema, under names of their own. A claim takes one of them
-- off the stock, gives database and roles the tenant's names, and puts the tenant on record, all in one transaction:
-- whoever dies before its commit has changed nothing, and none is ever given twice.

CREATE TABLE stock (
    -- The name of the database, and of its roles before `__owner`, `__app` and `__readonly`.
    name    text PRIMARY KEY,
    -- Being made or brought to another schema; for the taking; on its way out.
    state   text NOT NULL CHECK (state IN ('making', 'ready', 'dropping')),
    -- Fingerprint of the migrations that ran in it; none: it is empty.
    schema  text,
    term    bigint NOT NULL,
    made_at timestamptz NOT NULL DEFAULT now()
);

-- Puts a new one on record before anything of it is made. Returns its name, which nothing else has or had.
CREATE FUNCTION add_stock(caller bigint) RETURNS text LANGUAGE plpgsql SET search_path = public AS $$
DECLARE
    added text := 's' || left(replace(gen_random_uuid()::text, '-', ''), 16) || '__stock';
BEGIN
    PERFORM check_term(caller);
    INSERT INTO stock (name, state, term) VALUES (added, 'making', caller);
    RETURN added;
END
$$;

-- False: it is off the record, claimed by a tenant.
CREATE FUNCTION set_stock(caller bigint, of_name text, new_state text, new_schema text) RETURNS boolean
LANGUAGE plpgsql SET search_path = public AS $$
BEGIN
    PERFORM check_term(caller);
    UPDATE stock SET state = new_state, schema = new_schema, term = caller WHERE name = of_name;
    RETURN FOUND;
END
$$;

CREATE FUNCTION remove_stock(caller bigint, of_name text) RETURNS void LANGUAGE plpgsql SET search_path = public AS $$
BEGIN
    PERFORM check_term(caller);
    DELETE FROM stock WHERE name = of_name AND state = 'dropping';
END
$$;

-- Makes one of the stock the tenant's, open. Returns
--   claimed: it is so, now or by an earlier call;
--   none:    there is none with this schema, or roles of an earlier tenant of this name are there;
--   taken:   a database or a record of this name is there that is not of this call.
-- `verifiers`: the passwords of the roles owner, app and readonly, as SCRAM verifiers; renaming a role keeps those.
CREATE FUNCTION claim_stock(caller bigint, tenant_id text, new_epoch bigint, wanted_schema text, verifiers text[])
RETURNS text LANGUAGE plpgsql SET search_path = public AS $$
DECLARE
    suffixes text[] := '{__owner,__app,__readonly}';
    item     text;
BEGIN
    PERFORM check_term(caller);
    IF EXISTS (SELECT FROM tenant WHERE id = tenant_id AND state = 'open' AND epoch = new_epoch) THEN
        RETURN 'claimed';
    END IF;
    -- A sealed record is what an earlier tenant of this name left when it moved away.
    IF EXISTS (SELECT FROM tenant WHERE id = tenant_id AND state <> 'sealed')
        OR EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = tenant_id) THEN
        RETURN 'taken';
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.pg_roles, unnest(suffixes) suffix WHERE rolname = tenant_id || suffix) THEN
        RETURN 'none';
    END IF;
    DELETE FROM stock WHERE name = (
        SELECT s.name FROM stock s JOIN pg_catalog.pg_database d ON d.datname = s.name AND d.datconnlimit <> -2
        WHERE s.state = 'ready' AND s.schema IS NOT DISTINCT FROM wanted_schema ORDER BY s.made_at, s.name LIMIT 1
    ) RETURNING name INTO item;
    IF item IS NULL THEN
        RETURN 'none';
    END IF;
    PERFORM write_tenant(caller, tenant_id, ARRAY[NULL, 'sealed'], 'open', tenant_id, new_epoch);
    IF NOT EXISTS (SELECT FROM tenant WHERE id = tenant_id AND state = 'open' AND epoch = new_epoch) THEN
        RAISE EXCEPTION 'tenant % is on record at a higher epoch than %', tenant_id, new_epoch;
    END IF;
    EXECUTE format('ALTER DATABASE %I RENAME TO %I', item, tenant_id);
    EXECUTE format('ALTER DATABASE %I CONNECTION LIMIT -1', tenant_id);
    FOR i IN 1 .. 3 LOOP
        EXECUTE format('ALTER ROLE %I RENAME TO %I', item || suffixes[i], tenant_id || suffixes[i]);
        EXECUTE format('ALTER ROLE %I PASSWORD %L', tenant_id || suffixes[i], verifiers[i]);
    END LOOP;
    RETURN 'claimed';
END
$$;

REVOKE ALL ON FUNCTION add_stock, set_stock, remove_stock, claim_stock FROM PUBLIC;
