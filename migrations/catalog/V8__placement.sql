-- What servers can bear and what they bear; policies as they were declared.

-- Where it differs from its class's.
ALTER TABLE server ADD COLUMN capacity jsonb NOT NULL DEFAULT '{}';
-- Where it differs from that of its server's class.
ALTER TABLE tenant ADD COLUMN quota jsonb NOT NULL DEFAULT '{}';

-- As a whole: what is added to the policies needs no column of its own.
ALTER TABLE placement_policy ADD COLUMN policy jsonb;
UPDATE placement_policy SET policy = jsonb_build_object('tenants_per_server_max', tenants_per_server_max);
ALTER TABLE placement_policy ALTER COLUMN policy SET NOT NULL, DROP COLUMN tenants_per_server_max;

-- What the leader measured last. It is no part of the map: routers do not need it, and what is lost here comes back.
CREATE TABLE server_use (
    server                text PRIMARY KEY,
    bytes                 bigint,
    active_sessions_milli bigint,
    measured_at           timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE tenant_use (
    tenant      text PRIMARY KEY,
    bytes       bigint NOT NULL,
    measured_at timestamptz NOT NULL DEFAULT now()
);
