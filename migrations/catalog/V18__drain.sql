-- What is known of servers that drain, beside moves. Nothing of the map: without it, everybody is tried anew.
CREATE TABLE drain (
    server   text PRIMARY KEY,
    -- Moves that failed before count no more.
    asked_at timestamptz NOT NULL DEFAULT now()
);

-- Tenants whose moves off such a server could not even start.
CREATE TABLE drain_aside (
    tenant   text PRIMARY KEY,
    server   text NOT NULL,
    why      text NOT NULL,
    remedy   text NOT NULL,
    may_pass boolean NOT NULL,
    -- In a row, of those that may pass.
    tries    integer NOT NULL DEFAULT 1,
    at       timestamptz NOT NULL DEFAULT now()
);
