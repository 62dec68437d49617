-- One failover of a server at a time.
CREATE UNIQUE INDEX operation_failover ON operation ((input->>'server')) WHERE state = 'running' AND kind = 'failover';
CREATE INDEX operation_by_server ON operation ((input->>'server'), id) WHERE kind = 'failover';

-- Addresses of servers beside the one in the map: hosts that a server may be at after its next promotion, and those that it was
-- at before. No router knows them.
CREATE TABLE server_address (
    server            text NOT NULL,
    -- A server of the same name that is another cluster has nothing to do with them.
    system_identifier bigint NOT NULL,
    host              text NOT NULL,
    port              integer NOT NULL CHECK (port BETWEEN 1 AND 65535),
    -- Whether an operator said that the server may be there.
    is_member         boolean NOT NULL,
    -- Of the log that was written there when it was seen last; none of a standby, and before it was seen.
    timeline          integer,
    state             text NOT NULL,
    detail            text NOT NULL DEFAULT '',
    since             timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (server, host, port)
);
