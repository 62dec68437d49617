-- Tenants that somebody looks at just now: routers tell what these have to do, busy or not. Nothing is lost with it.
CREATE UNLOGGED TABLE watched_tenant (
    tenant text PRIMARY KEY,
    looked_at timestamptz NOT NULL DEFAULT now()
);
