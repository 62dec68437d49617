-- The shard map: what routers need to serve. Every change of these tables is written to the change log by a trigger,
-- in the same transaction, so no code path can forget to tell the routers.

-- Which fleet this is: servers' registries carry the same, so that no server is taken into two.
CREATE TABLE fleet (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    id  text NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO fleet DEFAULT VALUES;

CREATE TABLE server (
    name            text PRIMARY KEY,
    host            text NOT NULL,
    port            integer NOT NULL CHECK (port BETWEEN 1 AND 65535),
    class           text NOT NULL CHECK (class IN ('shared', 'dedicated')),
    max_connections integer NOT NULL CHECK (max_connections > 0),
    labels          jsonb NOT NULL DEFAULT '{}',
    state           text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'draining')),
    -- From pg_control_system(): another cluster that answers at the same address is not this server.
    system_identifier bigint NOT NULL UNIQUE,
    created_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (host, port)
);

CREATE TABLE tenant (
    id             text PRIMARY KEY,
    server         text NOT NULL REFERENCES server,
    epoch          bigint NOT NULL,
    state          text NOT NULL CHECK (state IN ('creating', 'open', 'suspended', 'deleted')),
    labels         jsonb NOT NULL DEFAULT '{}',
    key_version    integer NOT NULL DEFAULT 1,
    schema_version integer,
    created_at     timestamptz NOT NULL DEFAULT now(),
    deleted_at     timestamptz
);
CREATE INDEX tenant_server ON tenant (server);

-- Logins at the router. `verifier` is a SCRAM-SHA-256 verifier in Postgres's form, never a password.
CREATE TABLE router_user (
    name       text PRIMARY KEY,
    verifier   text NOT NULL,
    tenants    text NOT NULL,
    access     text NOT NULL CHECK (access IN ('owner', 'app', 'readonly')),
    pool_mode  text NOT NULL CHECK (pool_mode IN ('transaction', 'session')),
    created_at timestamptz NOT NULL DEFAULT now()
);

-- New transactions of these tenants wait at the routers until the row goes or the lease runs out.
CREATE SEQUENCE hold_id;
CREATE TABLE hold (
    tenant        text PRIMARY KEY,
    -- Each attempt at a cutover has its own, so that a late acknowledgement of an earlier one counts for nothing.
    id            bigint NOT NULL DEFAULT nextval('hold_id'),
    expires_at_ms bigint NOT NULL
);

-- The one row whose lock gives versions their order: a version is visible only when all lower ones are.
CREATE TABLE map_version (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    version bigint NOT NULL
);
INSERT INTO map_version (version) VALUES (0);

CREATE TABLE change_log (
    version bigint PRIMARY KEY,
    entry   jsonb NOT NULL,
    at      timestamptz NOT NULL DEFAULT now()
);

-- TG_ARGV: the entry's word in the log, the key column, the word for "gone".
CREATE FUNCTION log_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    next_version bigint;
    entry        jsonb;
BEGIN
    IF TG_OP = 'DELETE' THEN
        entry := jsonb_build_object(TG_ARGV[2], to_jsonb(OLD) -> TG_ARGV[1]);
    ELSE
        entry := jsonb_build_object(TG_ARGV[0], to_jsonb(NEW));
    END IF;
    UPDATE map_version SET version = version + 1 RETURNING version INTO next_version;
    INSERT INTO change_log (version, entry) VALUES (next_version, entry);
    PERFORM pg_notify('tenantry_map', next_version::text);
    RETURN NULL;
END
$$;

CREATE TRIGGER log_change AFTER INSERT OR UPDATE OR DELETE ON server
    FOR EACH ROW EXECUTE FUNCTION log_change('server', 'name', 'no_server');
CREATE TRIGGER log_change AFTER INSERT OR UPDATE OR DELETE ON tenant
    FOR EACH ROW EXECUTE FUNCTION log_change('tenant', 'id', 'no_tenant');
CREATE TRIGGER log_change AFTER INSERT OR UPDATE OR DELETE ON router_user
    FOR EACH ROW EXECUTE FUNCTION log_change('user', 'name', 'no_user');
CREATE TRIGGER log_change AFTER INSERT OR UPDATE OR DELETE ON hold
    FOR EACH ROW EXECUTE FUNCTION log_change('hold', 'tenant', 'no_hold');
