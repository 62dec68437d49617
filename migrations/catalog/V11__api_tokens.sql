-- Tokens of the API. Only their hashes are kept: a token is random enough that its hash can't be turned round.
CREATE TABLE api_token (
    name text PRIMARY KEY,
    role text NOT NULL,
    hash bytea NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    expires_at timestamptz,
    -- Within a minute.
    last_used_at timestamptz
);
