-- The registry: a server's own record of the tenants on it. It holds the truth; the catalog is an index of it.
-- Every write carries the term of the controller that makes it, and a term lower than the last one seen is refused,
-- so a controller that lost its lease without noticing can change nothing here.

-- The fleet that this server belongs to, as its catalog has it.
CREATE TABLE fleet (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    id  text NOT NULL
);

CREATE TABLE controller_term (
    one  boolean PRIMARY KEY DEFAULT true CHECK (one),
    term bigint NOT NULL
);
INSERT INTO controller_term (term) VALUES (0);

CREATE TABLE tenant (
    id               text PRIMARY KEY,
    database         text NOT NULL,
    epoch            bigint NOT NULL,
    state            text NOT NULL CHECK (state IN ('arriving', 'open', 'sealed', 'suspended', 'leaving')),
    -- Where it went, once sealed: the server's name in the map, and its address for a router that never heard of it.
    moved_to         text,
    moved_to_address text,
    term             bigint NOT NULL,
    updated_at       timestamptz NOT NULL DEFAULT now(),
    CHECK ((state = 'sealed') = (moved_to IS NOT NULL))
);

-- The row lock is kept to the end of the transaction: a newer controller waits for an older one's commit or rollback,
-- and reads its outcome afterwards.
CREATE FUNCTION check_term(caller bigint) RETURNS void LANGUAGE plpgsql SET search_path = public AS $$
DECLARE
    seen bigint;
BEGIN
    SELECT term INTO seen FROM controller_term FOR UPDATE;
    IF caller < seen THEN
        RAISE EXCEPTION 'controller term % is older than %, which this server has seen', caller, seen
            USING ERRCODE = 'TT001', HINT = 'Another control-plane instance leads now.';
    END IF;
    IF caller > seen THEN
        UPDATE controller_term SET term = caller;
    END IF;
END
$$;

-- Puts a tenant on record, or changes a record that is in one of the states `expected` (NULL: no record yet).
-- An epoch never goes back. Returns the row as it is now; no row means that the record was in another state.
CREATE FUNCTION write_tenant(
    caller bigint, tenant_id text, expected text[], new_state text, new_database text, new_epoch bigint,
    new_moved_to text DEFAULT NULL, new_moved_to_address text DEFAULT NULL
) RETURNS SETOF tenant LANGUAGE plpgsql SET search_path = public AS $$
BEGIN
    PERFORM check_term(caller);
    RETURN QUERY UPDATE tenant SET
            state = new_state, database = new_database, epoch = new_epoch, moved_to = new_moved_to,
            moved_to_address = new_moved_to_address, term = caller, updated_at = now()
        WHERE id = tenant_id AND state = ANY (expected) AND epoch <= new_epoch
        RETURNING *;
    IF NOT FOUND AND array_position(expected, NULL) IS NOT NULL THEN
        RETURN QUERY INSERT INTO tenant (id, state, database, epoch, moved_to, moved_to_address, term)
            VALUES (tenant_id, new_state, new_database, new_epoch, new_moved_to, new_moved_to_address, caller)
            ON CONFLICT DO NOTHING RETURNING *;
    END IF;
END
$$;

-- Takes a tenant off the record, if it is in one of these states.
CREATE FUNCTION remove_tenant(caller bigint, tenant_id text, expected text[]) RETURNS boolean LANGUAGE plpgsql SET search_path = public AS $$
BEGIN
    PERFORM check_term(caller);
    DELETE FROM tenant WHERE id = tenant_id AND state = ANY (expected);
    RETURN FOUND;
END
$$;

-- Routers read, and nothing else.
REVOKE ALL ON FUNCTION check_term, write_tenant, remove_tenant FROM PUBLIC;
