//! When certificates end, as a metric: nothing else tells it before they have.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{IntGaugeVec, Opts, Registry};

/// When the certificates end that are shown to clients and to servers.
pub struct CertificateEnds(IntGaugeVec);

impl CertificateEnds {
    /// Makes the metric of this name, and registers it.
    ///
    /// # Errors
    /// When `registry` has it already.
    pub fn register(name: &str, registry: &Registry) -> prometheus::Result<Self> {
        let help = "When the certificate ends that is in use, in seconds since 1970, by whom it is shown to.";
        let ends = IntGaugeVec::new(Opts::new(name, help), &["shown_to"])?;
        registry.register(Box::new(ends.clone()))?;
        Ok(Self(ends))
    }

    /// Notes the end of the certificate for `clients` or `servers`; none where none is shown.
    pub fn set(&self, shown_to: &str, end: Option<SystemTime>) {
        match end.and_then(|end| end.duration_since(UNIX_EPOCH).ok()) {
            Some(since) => {
                let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
                self.0.with_label_values(&[shown_to]).set(seconds);
            }
            // An error says that there was none before.
            None => drop(self.0.remove_label_values(&[shown_to])),
        }
    }
}
