//! The extended protocol at the console: statements and portals, without parameters.

use wire::WireError;
use wire::backend::{self, tag as reply};
use wire::frontend::{self, tag};
use wire::results::{self, Formats, write_bare, write_row_description};

use crate::admin::command::Command;
use crate::admin::rows::Rows;
use crate::admin::session::{Over, Session, parse};
use crate::admin::{AdminError, show};

/// Prepared statements of a session, and portals.
const STATEMENTS_MAX: usize = 1000;
const PORTALS_MAX: usize = 100;

/// A prepared statement.
pub(super) type Statement = Command;

/// A statement bound to the formats of its result.
pub(super) struct Portal {
    command: Command,
    formats: Formats,
    /// Once it was executed, what is left of its rows.
    rows: Option<Rows>,
    executed: bool,
}

fn malformed(error: WireError) -> Over {
    Over::Refused(error.into())
}

fn refused(code: &'static str, message: &str, hint: &str) -> Over {
    Over::Refused(AdminError::new(code, message, hint))
}

impl Session {
    /// Takes one message of the extended protocol.
    pub(super) async fn extended(&mut self, kind: u8, body: &[u8]) -> Result<(), Over> {
        match kind {
            tag::PARSE => self.parse(body),
            tag::BIND => self.bind(body),
            tag::DESCRIBE => self.describe(body),
            tag::EXECUTE => self.execute(body).await,
            _ => self.close(body),
        }
    }

    fn parse(&mut self, body: &[u8]) -> Result<(), Over> {
        let read = frontend::parse(body).map_err(malformed)?;
        let commands = parse(read.query)?;
        let [command] = &commands[..] else {
            let message = "cannot insert multiple commands into a prepared statement";
            return Err(refused("42601", message, "Prepare each command by itself."));
        };
        if !read.name.is_empty() && self.statements.contains_key(read.name) {
            return Err(refused("42P05", "prepared statement already exists", "Close it first."));
        }
        if self.statements.len() >= STATEMENTS_MAX {
            return Err(refused("54000", "too many prepared statements", "Close some of them."));
        }
        self.statements.insert(read.name.to_vec(), command.clone());
        backend::write_parse_complete(&mut self.output);
        Ok(())
    }

    fn bind(&mut self, body: &[u8]) -> Result<(), Over> {
        let bind = frontend::bind(body).map_err(malformed)?;
        let (parameters, formats) = results::bind_rest(bind.rest).map_err(malformed)?;
        let command = self.statement(bind.statement)?.clone();
        if parameters > 0 {
            let message =
                format!("bind message supplies {parameters} parameters, but the command takes none");
            return Err(Over::Refused(AdminError::protocol(message)));
        }
        if !formats.fit(columns(&command).map_or(0, <[_]>::len)) {
            return Err(Over::Refused(AdminError::protocol("as many result formats as columns are needed")));
        }
        if !bind.portal.is_empty() && self.portals.contains_key(bind.portal) {
            return Err(refused("42P03", "portal already exists", "Close it first."));
        }
        if self.portals.len() >= PORTALS_MAX {
            return Err(refused("54000", "too many portals", "Close some of them."));
        }
        let portal = Portal { command, formats, rows: None, executed: false };
        self.portals.insert(bind.portal.to_vec(), portal);
        write_bare(&mut self.output, reply::BIND_COMPLETE);
        Ok(())
    }

    fn describe(&mut self, body: &[u8]) -> Result<(), Over> {
        let target = frontend::target(body).map_err(malformed)?;
        let (command, formats) = if target.kind == b'S' {
            (self.statement(target.name)?.clone(), Formats::default())
        } else {
            let portal = self.portals.get(target.name).ok_or_else(no_portal)?;
            (portal.command.clone(), portal.formats.clone())
        };
        if target.kind == b'S' {
            results::write_no_parameters(&mut self.output);
        }
        match columns(&command) {
            Some(columns) => write_row_description(&mut self.output, columns, &formats),
            None => write_bare(&mut self.output, reply::NO_DATA),
        }
        Ok(())
    }

    async fn execute(&mut self, body: &[u8]) -> Result<(), Over> {
        let (name, most) = frontend::execute(body).map_err(malformed)?;
        let mut portal = self.portals.remove(name).ok_or_else(no_portal)?;
        if portal.executed && portal.rows.is_none() && !matches!(portal.command, Command::Empty) {
            return Err(refused("55000", "portal cannot be run", "Bind the statement again."));
        }
        if !portal.executed {
            portal.executed = true;
            portal.rows = self.carry_out(&portal.command).await?;
        }
        // As in Postgres, a limit of 0 or less is none.
        let most = usize::try_from(most).unwrap_or(0);
        self.send_rows(&portal.command, portal.rows.as_mut(), &portal.formats, most).await?;
        self.portals.insert(name.to_vec(), portal);
        Ok(())
    }

    fn close(&mut self, body: &[u8]) -> Result<(), Over> {
        let target = frontend::target(body).map_err(malformed)?;
        if target.kind == b'S' {
            self.statements.remove(target.name);
        } else {
            self.portals.remove(target.name);
        }
        backend::write_close_complete(&mut self.output);
        Ok(())
    }

    fn statement(&self, name: &[u8]) -> Result<&Statement, Over> {
        let missing = || refused("26000", "prepared statement does not exist", "Prepare it first.");
        self.statements.get(name).ok_or_else(missing)
    }
}

fn no_portal() -> Over {
    refused("34000", "portal does not exist", "Bind a statement to it first.")
}

/// The columns of a command's result, if it has one.
fn columns(command: &Command) -> Option<&'static [results::Column]> {
    match command {
        Command::Show(table) => Some(show::columns(*table)),
        _ => None,
    }
}
