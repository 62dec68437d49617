//! Metrics, as Prometheus reads them.

use std::collections::{BTreeMap, HashMap};

/// Samples by name with labels, as they are written: `name{label="value"}`; and what each metric is.
#[derive(Debug)]
pub(crate) struct Metrics(HashMap<String, f64>, BTreeMap<String, String>);

impl Metrics {
    pub(crate) async fn read(url: &str) -> Self {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let text = client.get(url).send().await.unwrap().error_for_status().unwrap().text().await.unwrap();
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        let kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        Self(samples.collect(), kinds.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect())
    }

    /// What each metric is: a counter, a gauge or a histogram.
    pub(crate) fn kinds(&self) -> &BTreeMap<String, String> {
        &self.1
    }

    /// One sample; 0 for one that was never counted.
    pub(crate) fn get(&self, sample: &str) -> f64 {
        self.0.get(sample).copied().unwrap_or(0.0)
    }

    /// Whether there is a metric of this name, with whatever labels.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.keys().any(|sample| sample.split('{').next() == Some(name))
    }

    /// The values of a metric, by one of its labels.
    pub(crate) fn labelled(&self, name: &str, label: &str) -> Vec<(String, f64)> {
        let of_name = self.0.iter().filter(|(sample, _)| sample.split('{').next() == Some(name));
        let value =
            |sample: &str| sample.split(&format!("{label}=\"")).nth(1)?.split('"').next().map(str::to_owned);
        of_name.filter_map(|(sample, number)| Some((value(sample)?, *number))).collect()
    }

    /// The sum of all samples of a name whose labels contain all of these texts.
    pub(crate) fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let matching = self.0.iter().filter(|(sample, _)| {
            sample.split('{').next() == Some(name) && labels.iter().all(|label| sample.contains(label))
        });
        matching.map(|(_, value)| value).sum()
    }
}
