-- Of those tenants of the server that had any: sessions at work at once, on average, in thousandths.
ALTER TABLE server_use ADD COLUMN tenants_active_milli jsonb NOT NULL DEFAULT '{}';
