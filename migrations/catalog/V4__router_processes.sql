-- While one process takes over from another, both have the router's name and its port: what reports, acknowledges holds
-- and is sent cancel requests is the process.

-- Routers report every second: what is lost here comes back.
DELETE FROM router;
DELETE FROM hold_ack;

ALTER TABLE router
    DROP CONSTRAINT router_pkey,
    ADD COLUMN process text PRIMARY KEY,
    -- In the process ids that its clients are told, so that any router knows whom a cancel request is for.
    ADD COLUMN number integer UNIQUE CHECK (number BETWEEN 1 AND 1023),
    -- Where it takes cancel requests from other routers.
    ADD COLUMN cancel_address text NOT NULL;

ALTER TABLE hold_ack RENAME COLUMN router TO process;

-- The smallest number that nobody has; none when all are taken.
CREATE FUNCTION free_router_number() RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
    -- Two that begin at once take turns: the lock goes with the transaction, when the row is there for the other to see.
    PERFORM pg_advisory_xact_lock(hashtext('tenantry.router.number'));
    RETURN (
        SELECT min(n) FROM generate_series(1, 1023) n WHERE NOT EXISTS (SELECT FROM router r WHERE r.number = n)
    );
END
$$;
