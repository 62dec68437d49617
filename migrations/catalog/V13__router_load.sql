-- What tenants do at a router just now. Not a part of its report, which all other routers read each second.
ALTER TABLE router ADD COLUMN load jsonb NOT NULL DEFAULT '{}';
