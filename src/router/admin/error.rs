//! What an administrator is told when a command can't be carried out; each says what to do.

use bytes::BytesMut;
use wire::{ErrorFields, Severity, WireError};

use crate::admin::command::{Deed, Show};
use crate::ask::NoAnswer;

/// An error of the console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AdminError {
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) detail: Option<String>,
    pub(crate) hint: String,
}

impl AdminError {
    pub(crate) fn new(code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, message: message.into(), detail: None, hint: hint.into() }
    }

    pub(crate) fn unknown_command() -> Self {
        Self::new("42601", "unknown command", "This is tenantry's console; SHOW HELP lists its commands.")
    }

    pub(crate) fn unknown_table() -> Self {
        let names: Vec<_> = Show::ALL.iter().map(|table| table.name()).collect();
        Self::new("42601", "there is nothing of that name to show", format!("SHOW {}.", names.join(" | ")))
    }

    pub(crate) fn no_tenant_named(deed: Deed) -> Self {
        let name = deed.name();
        let message = format!("{name} needs the name of one tenant");
        Self::new(
            "42601",
            message,
            format!("Write {name} tenant; SHOW TENANTS lists those with clients here."),
        )
    }

    pub(crate) fn open_quote() -> Self {
        Self::new("42601", "a quote is not closed", "Close it with a quote of the same kind.")
    }

    pub(crate) fn unknown_setting() -> Self {
        let hint = "SHOW CONFIG lists the configuration, which is changed in its file.";
        Self::new("42704", "there is no such setting here", hint)
    }

    pub(crate) fn unknown_tenant(tenant: &str) -> Self {
        let hint = "SHOW TENANTS lists those with clients here, `tenantry tenant list` all.";
        Self::new("3D000", format!("tenant \"{tenant}\" does not exist"), hint)
    }

    pub(crate) fn not_reloaded(why: &str) -> Self {
        let message = format!("configuration not reloaded, the old one stays in force: {why}");
        Self::new("F0000", message, "Mend the configuration and say RELOAD again.")
    }

    pub(crate) fn no_log_filter(why: &str) -> Self {
        let hint = "Write error, warn, info, debug or trace, or a list such as 'info,router=debug'.";
        Self::new("22023", format!("not a log filter: {why}"), hint)
    }

    pub(crate) fn may_not(command: &str) -> Self {
        let message = format!("permission denied for {command}");
        Self::new("42501", message, "Only users listed in admin_users may; those in stats_users may SHOW.")
    }

    pub(crate) fn shutting_down() -> Self {
        Self::new("57P01", "terminating connection: the router is shutting down", "Connect again.")
    }

    pub(crate) fn protocol(message: impl Into<String>) -> Self {
        Self::new("08P01", message, "The console takes no parameters: write names into the text.")
    }

    pub(crate) fn write(&self, out: &mut BytesMut, severity: Severity) {
        let fields = ErrorFields {
            severity: severity.as_str(),
            code: self.code,
            message: &self.message,
            detail: self.detail.as_deref(),
            hint: Some(&self.hint),
            routine: None,
        };
        fields.write_error(out);
    }
}

impl From<NoAnswer> for AdminError {
    fn from(error: NoAnswer) -> Self {
        Self::new("57014", error.to_string(), "It is busy or the router is shutting down; try again.")
    }
}

impl From<WireError> for AdminError {
    fn from(error: WireError) -> Self {
        Self::new(error.sqlstate(), error.to_string(), "Send what the protocol allows.")
    }
}
