//! When certificates end, as a metric: nothing else tells it before they have.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::IntGaugeVec;

use crate::metrics::Maker;

/// When the certificates end that are shown to clients and to servers.
pub struct CertificateEnds(IntGaugeVec);

impl CertificateEnds {
    /// Makes the metric of this name, and registers it.
    ///
    /// # Errors
    /// When there is one already.
    pub fn register(name: &str, make: &Maker<'_>) -> prometheus::Result<Self> {
        let help = "When the certificate in use ends, in seconds since 1970, of those shown to `clients` and to `servers`; \
                    of a chain, the first that ends.";
        make.gauges(name, help, &["shown_to"]).map(Self)
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
