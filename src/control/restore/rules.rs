//! What of a tenant's own an operator had to do with: things that its roles could not have made, although one of them owns
//! them. They are restored by the superuser, as an operator made them.

use super::toc::Rules;
use crate::error::Result;
use crate::server::Connection;
use shard_map::{Access, TenantId};

/// Schemas in which a tenant's roles have something.
pub(super) type Schemas = Vec<String>;

/// Functions of untrusted languages, that promise not to leak, or that set what only superusers set, or an extension's setting,
/// which nobody else may before the extension is loaded, if nothing is worked out for them; aggregates with an internal state; base
/// types. Triggers that call, and foreign keys that refer to, what is not the tenant's and what none of its
/// roles may use so. Tables below one that is not the tenant's.
const OPERATORS: &str = "
    WITH own AS MATERIALIZED (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = ANY ($1))
    SELECT 'pg_catalog.pg_proc'::regclass::oid, p.oid FROM pg_catalog.pg_proc p
    JOIN pg_catalog.pg_language l ON l.oid = p.prolang
    WHERE p.proowner IN (SELECT oid FROM own) AND CASE WHEN p.prokind = 'a' THEN EXISTS (
            SELECT FROM pg_catalog.pg_aggregate a
            WHERE a.aggfnoid = p.oid AND 'pg_catalog.internal'::regtype IN (a.aggtranstype, a.aggmtranstype))
        ELSE NOT l.lanpltrusted OR p.proleakproof OR EXISTS (
            SELECT FROM unnest(p.proconfig) c (setting)
            JOIN pg_catalog.pg_settings s ON s.name = split_part(c.setting, '=', 1) WHERE s.context = 'superuser')
            OR p.pronargdefaults = 0 AND p.prosqlbody IS NULL AND EXISTS (
                SELECT FROM unnest(p.proconfig) c (setting) WHERE split_part(c.setting, '=', 1) LIKE '%.%') END
    UNION ALL
    SELECT 'pg_catalog.pg_type'::regclass, t.oid FROM pg_catalog.pg_type t
    WHERE t.typowner IN (SELECT oid FROM own) AND (NOT t.typisdefined
        OR t.typtype = 'b' AND NOT EXISTS (SELECT FROM pg_catalog.pg_type e WHERE e.typarray = t.oid))
    UNION ALL
    SELECT 'pg_catalog.pg_trigger'::regclass, t.oid FROM pg_catalog.pg_trigger t
    JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    WHERE NOT t.tgisinternal AND p.proowner NOT IN (SELECT oid FROM own)
        AND (NOT EXISTS (SELECT FROM own WHERE has_function_privilege(own.oid, p.oid, 'EXECUTE'))
            OR n.nspowner NOT IN (SELECT oid FROM own)
                AND NOT EXISTS (SELECT FROM own WHERE has_schema_privilege(own.oid, n.oid, 'USAGE')))
    UNION ALL
    SELECT 'pg_catalog.pg_constraint'::regclass, k.oid FROM pg_catalog.pg_constraint k
    JOIN pg_catalog.pg_class c ON c.oid = k.confrelid
    WHERE k.contype = 'f' AND c.relowner NOT IN (SELECT oid FROM own)
        AND NOT EXISTS (SELECT FROM own WHERE has_any_column_privilege(own.oid, c.oid, 'REFERENCES'))
    UNION ALL
    SELECT 'pg_catalog.pg_class'::regclass, c.oid FROM pg_catalog.pg_inherits i
    JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid JOIN pg_catalog.pg_class p ON p.oid = i.inhparent
    WHERE NOT c.relispartition AND p.relowner NOT IN (SELECT oid FROM own)";
/// Partitions, and indexes of such, one side of which is the tenant's and the other is not: an archive numbers them not.
const MIXED: &str = r"
    WITH own AS MATERIALIZED (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = ANY ($1))
    SELECT CASE WHEN c.relkind IN ('i', 'I') THEN 'INDEX' ELSE 'TABLE' END || ' ATTACH '
        || translate(n.nspname || ' ' || c.relname, E'\n\r', '  ') || ' '
    FROM pg_catalog.pg_inherits i
    JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid JOIN pg_catalog.pg_class p ON p.oid = i.inhparent
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relispartition
        AND (c.relowner IN (SELECT oid FROM own)) <> (p.relowner IN (SELECT oid FROM own))";
const SCHEMAS: &str = "
    SELECT DISTINCT n.nspname::text FROM (
        SELECT relnamespace, relowner FROM pg_catalog.pg_class
        UNION ALL SELECT pronamespace, proowner FROM pg_catalog.pg_proc
        UNION ALL SELECT typnamespace, typowner FROM pg_catalog.pg_type
        UNION ALL SELECT oprnamespace, oprowner FROM pg_catalog.pg_operator
        UNION ALL SELECT collnamespace, collowner FROM pg_catalog.pg_collation
        UNION ALL SELECT stxnamespace, stxowner FROM pg_catalog.pg_statistic_ext
        UNION ALL SELECT connamespace, conowner FROM pg_catalog.pg_conversion
        UNION ALL SELECT cfgnamespace, cfgowner FROM pg_catalog.pg_ts_config
        UNION ALL SELECT dictnamespace, dictowner FROM pg_catalog.pg_ts_dict
    ) objects (namespace, owner)
    JOIN pg_catalog.pg_namespace n ON n.oid = namespace JOIN pg_catalog.pg_roles r ON r.oid = owner
    WHERE r.rolname = ANY ($1) AND n.nspname !~ '^pg_'";

/// Looks at the tenant's database, as the archive has it.
pub(super) async fn look(source: &Connection, tenant: &TenantId) -> Result<(Rules, Schemas)> {
    let roles: Vec<String> = Access::ALL.map(|access| access.role(tenant)).into();
    let operators = source.rows(OPERATORS, &[&roles]).await?;
    let mixed = source.rows(MIXED, &[&roles]).await?;
    let schemas = source.rows(SCHEMAS, &[&roles]).await?;
    let rules = Rules {
        operators: operators.iter().map(|row| (row.get(0), row.get(1))).collect(),
        operators_lines: mixed.iter().map(|row| row.get(0)).collect(),
        ..Rules::of(tenant)
    };
    Ok((rules, schemas.iter().map(|row| row.get(0)).collect()))
}
