-- What routers report: who they are, how far they follow the map, what they measure, and which holds they have in force.

CREATE TABLE router (
    name          text PRIMARY KEY,
    address       text NOT NULL,
    map_version   bigint NOT NULL,
    -- Sessions that can't be held, by tenant and reason; statement latency by server.
    report        jsonb NOT NULL DEFAULT '{}',
    started_at    timestamptz NOT NULL,
    seen_at       timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE hold_ack (
    router text NOT NULL,
    hold   bigint NOT NULL,
    -- Pinned sessions that keep a server connection through the hold; the fence ends them.
    pinned integer NOT NULL,
    at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (hold, router)
);
