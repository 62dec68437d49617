-- Operations may be of more kinds by and by: the program knows which there are.
ALTER TABLE operation DROP CONSTRAINT operation_kind_check;
-- For what became of a tenant's last change.
CREATE INDEX operation_by_tenant ON operation (tenant, id);
