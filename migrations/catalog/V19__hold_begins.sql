-- A hold is announced: until then, routers only use fewer of the tenant's connections. At once by default.
ALTER TABLE hold ADD COLUMN begins_at_ms bigint NOT NULL DEFAULT 0;
