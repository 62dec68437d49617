-- What a tenant's turn in a migration run took: for the run's rate, and for the estimate of the next one.
ALTER TABLE migration_target ADD COLUMN tries integer NOT NULL DEFAULT 0;
ALTER TABLE migration_target ADD COLUMN took_ms bigint;
