-- Quotas: what a tenant may use. A tenant has its own, or those of its server's class; the map carries both, so that routers
-- enforce them by themselves, and a move changes nothing that is not in it.

-- What each tenant there gets that has no quota of its own: by the policy of the server's class.
ALTER TABLE server ADD COLUMN quota jsonb NOT NULL DEFAULT '{}';
-- Over its size: it is read, and not written to.
ALTER TABLE tenant ADD COLUMN read_only boolean NOT NULL DEFAULT false;
-- Until then an operator lets a tenant write that is over its size, to make room.
ALTER TABLE tenant_use ADD COLUMN writable_until timestamptz;

CREATE FUNCTION quota_of_class(class text) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT coalesce((SELECT policy->class->'quota' FROM placement_policy), '{}')
$$;

-- Whoever writes a server or the policy: the servers have what the policy says.
CREATE FUNCTION keep_server_quota() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.quota := quota_of_class(NEW.class);
    RETURN NEW;
END
$$;
CREATE TRIGGER keep_quota BEFORE INSERT OR UPDATE ON server FOR EACH ROW EXECUTE FUNCTION keep_server_quota();

CREATE FUNCTION spread_class_quotas() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE server SET quota = quota_of_class(class) WHERE quota <> quota_of_class(class);
    RETURN NULL;
END
$$;
CREATE TRIGGER spread_quotas AFTER INSERT OR UPDATE OR DELETE ON placement_policy
    FOR EACH STATEMENT EXECUTE FUNCTION spread_class_quotas();
