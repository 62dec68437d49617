//! A tenant's schema is made elsewhere: by whom, entry by entry of an archive. What Postgres plans or works out while it makes an
//! object may call functions of the tenant: of keys of partitions, of generated columns, of domains that a constant is read
//! as, of what a foreign key's first check plans. So what the tenant's roles own is made by a role of the operation that is
//! no superuser (its reader, [`crate::server::reader`]), and given to its owner afterwards. The rest, and what only a
//! superuser can make, is made by the control plane.
//!
//! Whatever such functions do with the role's rights, they do in the tenant's own database, before anybody is let in.

mod rules;
mod script;
mod toc;

use std::path::{Path, PathBuf};

use shard_map::{Access, Server, TenantId};

use crate::error::{Error, Result};
use crate::moves::Programs;
use crate::server::{Connection, Connector, database, ident};
use rules::Schemas;
use toc::{Part, Rules};

/// A commit that is on disk when it is answered, and all before it with it.
const FLUSH: &str = "SELECT pg_catalog.pg_logical_emit_message(true, 'tenantry', 'restored')";

/// Sessions that the database takes meanwhile. Before PostgreSQL 18 also superusers' count, and workers of autovacuum, which
/// rows that were just loaded draw. No router leads there.
const SESSIONS_MAX: i32 = 64;

/// Where a schema is made.
pub(crate) struct Place<'p> {
    pub(crate) server: &'p Server,
    pub(crate) database: &'p str,
    /// Whose roles own what is made.
    pub(crate) tenant: &'p TenantId,
    /// Under which plain roles are let in meanwhile; none if they are let in anyway.
    pub(crate) term: Option<i64>,
}

/// An archive on its way into a database.
pub(crate) struct Restore<'r> {
    connector: &'r Connector,
    programs: Programs<'r>,
    /// Makes what is the tenant's, at the place: name and password of a role that is a member of the tenant's.
    maker: (String, String),
    to: Place<'r>,
    archive: &'r Path,
    /// Whose roles the archive names.
    of: &'r TenantId,
    known: (Rules, Schemas),
}

/// The part of an archive that a copy of rows comes after, or before.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Section {
    /// In one transaction each.
    PreData,
    /// By so many jobs.
    PostData(&'static str),
}

impl Section {
    fn name(self) -> &'static str {
        match self {
            Self::PreData => "--section=pre-data",
            Self::PostData(_) => "--section=post-data",
        }
    }

    fn pace(self) -> &'static str {
        match self {
            Self::PreData => "--single-transaction",
            Self::PostData(jobs) => jobs,
        }
    }
}

impl<'r> Restore<'r> {
    /// Of an archive of the tenant's database that a session is in.
    pub(crate) async fn of(
        (source, of): (&Connection, &'r TenantId),
        archive: &'r Path,
        (connector, programs): (&'r Connector, Programs<'r>),
        (maker, to): ((String, String), Place<'r>),
    ) -> Result<Self> {
        let known = rules::look(source, of).await?;
        Ok(Self { connector, programs, maker, to, archive, of, known })
    }

    /// Makes what a section has. Who makes it stays, with what it was given: [`Restore::end`].
    pub(crate) async fn section(&self, section: Section) -> Result<()> {
        let list =
            self.programs.run_local("pg_restore", &["--list", section.name(), text(self.archive)?]).await?;
        self.let_in(SESSIONS_MAX).await?;
        let made = async {
            for part in toc::parts(&list, &self.known.0) {
                self.part(&part, section).await?;
            }
            Ok(())
        };
        let made = made.await;
        let closed = self.let_in(0).await;
        made.and(closed)
    }

    /// Takes from who made it what it was given there.
    pub(crate) async fn end(&self) -> Result<()> {
        let database = self.control().await?;
        database.run(&format!("DROP OWNED BY {} CASCADE", ident(&self.maker.0))).await?;
        database.close().await;
        Ok(())
    }

    async fn let_in(&self, sessions: i32) -> Result<()> {
        let Some(term) = self.to.term else { return Ok(()) };
        let registry = self.connector.registry(self.to.server).await?;
        database::set_limit(&registry, term, self.to.database, sessions).await
    }

    async fn control(&self) -> Result<Connection> {
        let connection = self.connector.database(self.to.server, self.to.database).await?;
        connection.without_statement_limit().await
    }

    async fn part(&self, part: &Part, section: Section) -> Result<()> {
        let list = list_file(self.archive);
        let io = |source| Error::Io { what: list.display().to_string(), source };
        tokio::fs::write(&list, &part.list).await.map_err(io)?;
        let mut args = vec!["--exit-on-error", "--no-tablespaces", "--use-list", text(&list)?];
        let control = self.control().await?;
        if part.whose.is_some() {
            args.push("--no-owner");
            self.allow(&control).await?;
        }
        let archive = text(self.archive)?;
        if self.of == self.to.tenant {
            args.extend([section.pace(), archive]);
            let login = part.whose.map(|_| self.maker.clone());
            self.programs.run_as(login, ("pg_restore", self.to.server, self.to.database), &args).await?;
        } else {
            args.extend(["--file=-", archive]);
            let sql = self.programs.run_local("pg_restore", &args).await?;
            self.run_script(part.whose, &script::for_tenant(&sql, self.of, self.to.tenant)).await?;
        }
        if let Some(access) = part.whose {
            let (maker, owner) = (ident(&self.maker.0), ident(&access.role(self.to.tenant)));
            control.run(&format!("REASSIGN OWNED BY {maker} TO {owner}")).await?;
        }
        // By the session that was there before: had the server gone down meanwhile, with what was only committed, it would be lost.
        control.run(FLUSH).await?;
        control.close().await;
        Ok(())
    }

    /// In a session of its own: the script changes settings.
    async fn run_script(&self, whose: Option<Access>, sql: &str) -> Result<()> {
        let session = match whose {
            Some(_) => {
                let (server, database) = (self.to.server, self.to.database);
                let session = self.connector.as_reader(server, &self.maker, database).await?;
                session.run("SET default_transaction_read_only = off").await?;
                session.without_statement_limit().await?
            }
            None => self.control().await?,
        };
        session.run(sql).await?;
        session.close().await;
        Ok(())
    }

    /// Gives who makes the tenant's own the rights that its roles may have lost since they made it: to make things in the
    /// schemas that they have some in, and to use what is theirs.
    async fn allow(&self, control: &Connection) -> Result<()> {
        const LACKING: &str = "
            SELECT format('GRANT USAGE, CREATE ON SCHEMA %I TO %I', nspname, $1::text) FROM pg_catalog.pg_namespace
            WHERE nspname = ANY ($2)
                AND NOT (has_schema_privilege($1::text, oid, 'CREATE') AND has_schema_privilege($1::text, oid, 'USAGE'))
            UNION ALL
            SELECT format('GRANT REFERENCES, TRIGGER ON %s TO %I', c.oid::regclass, $1::text) FROM pg_catalog.pg_class c
            WHERE c.relkind IN ('r', 'p', 'v', 'f') AND pg_get_userbyid(c.relowner) = ANY ($3)
                AND NOT (has_table_privilege($1::text, c.oid, 'REFERENCES') AND has_table_privilege($1::text, c.oid, 'TRIGGER'))
            UNION ALL
            SELECT format('GRANT EXECUTE ON ROUTINE %s TO %I', p.oid::regprocedure, $1::text) FROM pg_catalog.pg_proc p
            WHERE pg_get_userbyid(p.proowner) = ANY ($3) AND NOT has_function_privilege($1::text, p.oid, 'EXECUTE')";
        let roles: Vec<String> = Access::ALL.map(|access| access.role(self.to.tenant)).into();
        let lacking = control.rows(LACKING, &[&self.maker.0, &self.known.1, &roles]).await?;
        for row in lacking {
            control.run(row.get(0)).await?;
        }
        Ok(())
    }
}

/// Where the list of what is restored at once is written.
fn list_file(archive: &Path) -> PathBuf {
    archive.with_extension("list")
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::Failed("work_dir: its path is not UTF-8".into()))
}

/// Removes an archive, and what was written beside it.
///
/// Before one is made, too: a pg_dump that has outlived an earlier instance goes on writing into what it has open.
pub(crate) async fn remove_archive(archive: &Path) {
    for file in [&list_file(archive), archive] {
        // They may not be there; and a file left in work_dir does no harm.
        drop(tokio::fs::remove_file(file).await);
    }
}
