//! What a startup packet asks for beside user and database.

use shard_map::PoolMode;
use wire::startup::{BadOption, Startup, settings_of_options};

use crate::error::ClientError;

/// The startup option with which a client chooses its pool mode.
const POOL_MODE_OPTION: &str = "tenantry.pool_mode";
/// The startup option with which a client names its tenant.
const TENANT_OPTION: &str = "tenant";

/// What is asked for.
pub(super) struct Settings {
    /// Names and values, in order.
    pub(super) values: Vec<(String, String)>,
    pub(super) pool_mode: Option<PoolMode>,
    pub(super) tenant: Option<String>,
    /// Minor version of the protocol.
    pub(super) minor: u16,
}

impl Settings {
    /// Reads a startup packet, in the order in which Postgres makes settings: those in `options` first.
    pub(super) fn of(startup: &Startup) -> Result<Self, ClientError> {
        let mut settings =
            Self { values: Vec::new(), pool_mode: None, tenant: None, minor: startup.minor_spoken() };
        let from_options = match startup.get("options") {
            Some(options) => settings_of_options(options)?,
            None => Vec::new(),
        };
        let plain = startup
            .parameters
            .iter()
            .filter(|(name, _)| !matches!(name.as_str(), "user" | "database" | "options" | "replication"));
        for (name, value) in from_options.into_iter().chain(plain.cloned()) {
            settings.take(name.to_ascii_lowercase(), value)?;
        }
        Ok(settings)
    }

    fn take(&mut self, name: String, value: String) -> Result<(), ClientError> {
        if name == POOL_MODE_OPTION {
            let mode = value.parse::<PoolMode>();
            self.pool_mode = Some(mode.map_err(|_| ClientError::Option(format!("{name}={value}")))?);
            return Ok(());
        }
        if name == TENANT_OPTION {
            self.tenant = Some(value);
            return Ok(());
        }
        // Texts could not be read reliably without it.
        if name == "standard_conforming_strings" && !matches!(value.as_str(), "on" | "true" | "yes" | "1") {
            return Err(ClientError::Option(format!("{name}={value}")));
        }
        self.values.retain(|(known, _)| *known != name);
        self.values.push((name, value));
        Ok(())
    }
}

impl From<BadOption> for ClientError {
    fn from(option: BadOption) -> Self {
        match option {
            BadOption::Unknown(word) => Self::Option(word),
            BadOption::NoValue(option) => Self::OptionValue(option),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(parameters: &[(&str, &str)]) -> Result<Settings, ClientError> {
        let parameters = parameters.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect();
        Settings::of(&Startup { parameters, ..Startup::default() })
    }

    #[test]
    fn a_startup_packet_asks_for_settings_a_pool_mode_and_a_tenant() {
        let settings = settings(&[
            ("user", "u"),
            ("options", "-c tenantry.pool_mode=session -c work_mem=1MB -c DateStyle=ISO -c tenant=acme"),
            ("DateStyle", "German"),
        ])
        .unwrap();
        assert_eq!(settings.pool_mode, Some(PoolMode::Session));
        assert_eq!(settings.tenant.as_deref(), Some("acme"));
        assert_eq!(
            settings.values,
            [("work_mem".into(), "1MB".into()), ("datestyle".into(), "German".into())]
        );
    }

    #[test]
    fn what_would_be_misread_is_refused() {
        for options in ["-c standard_conforming_strings=off", "-c tenantry.pool_mode=x", "-B 5"] {
            assert!(matches!(settings(&[("options", options)]), Err(ClientError::Option(_))));
        }
        let error = settings(&[("options", "-c work_mem=1MB -c foo")]).err().unwrap();
        assert_eq!(error.to_string(), "startup option -c foo requires a value");
    }
}
