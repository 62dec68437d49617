-- When the instance that is at a request with a key last said that it still is.
ALTER TABLE idempotency_key ADD COLUMN alive_at timestamptz NOT NULL DEFAULT now();

-- Requests that were refused for lack of rights are bounded by themselves: they must not push out the others.
CREATE INDEX audit_refused ON audit (id) WHERE status = 403;
