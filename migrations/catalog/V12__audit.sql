-- Who changed what by the API, or was refused to for lack of rights. What a request's body held is not in it.
CREATE TABLE audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    who text NOT NULL,
    role text NOT NULL,
    address text NOT NULL,
    method text NOT NULL,
    path text NOT NULL,
    -- Such as 'tenant acme'.
    about text[] NOT NULL,
    -- None while it is under way; for good when the instance did not live to say it.
    status integer,
    operation bigint
);
CREATE INDEX audit_by_time ON audit (at);

-- Answers to requests that came with a key, so that who asks again gets the same one.
CREATE TABLE idempotency_key (
    who text NOT NULL,
    key text NOT NULL,
    -- Hash of method, path and body.
    request bytea NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    -- None while it is under way.
    status integer,
    -- None for one that held a secret.
    answer text,
    PRIMARY KEY (who, key)
);
CREATE INDEX idempotency_key_by_time ON idempotency_key (at);
