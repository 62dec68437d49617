-- Durable work of the control plane, and the lease that says which instance does it.

CREATE TABLE lease (
    one        boolean PRIMARY KEY DEFAULT true CHECK (one),
    holder     text NOT NULL,
    -- Grows with every change of holder; registries refuse the calls of a lower one.
    term       bigint NOT NULL,
    expires_at timestamptz NOT NULL
);

CREATE TABLE operation (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind            text NOT NULL CHECK (kind IN ('create', 'suspend', 'resume', 'delete', 'undelete', 'migrate', 'move')),
    tenant          text,
    state           text NOT NULL CHECK (state IN ('running', 'done', 'switched', 'completed', 'aborted', 'failed')),
    step            text NOT NULL,
    input           jsonb NOT NULL,
    -- What the steps found out and later ones (or another controller) need.
    data            jsonb NOT NULL DEFAULT '{}',
    error           text,
    abort_requested boolean NOT NULL DEFAULT false,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now()
);
-- One operation at a time changes a tenant, and one migration run at a time changes the fleet.
CREATE UNIQUE INDEX operation_of_tenant ON operation (tenant) WHERE state = 'running';
CREATE UNIQUE INDEX operation_migrate ON operation (kind) WHERE state = 'running' AND kind = 'migrate';
CREATE INDEX operation_open ON operation (id) WHERE state IN ('running', 'switched');

-- The journal: a row when a step's deeds begin, completed when they have ended.
CREATE TABLE operation_step (
    operation  bigint NOT NULL REFERENCES operation,
    number     integer NOT NULL,
    step       text NOT NULL,
    term       bigint NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at   timestamptz,
    result     text,
    PRIMARY KEY (operation, number)
);

CREATE TABLE migration_target (
    run        bigint NOT NULL REFERENCES operation,
    tenant     text NOT NULL,
    wave       integer NOT NULL,
    state      text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'done', 'failed', 'gone')),
    error      text,
    ended_at   timestamptz,
    PRIMARY KEY (run, tenant)
);
CREATE INDEX migration_target_pending ON migration_target (run, wave) WHERE state = 'pending';
