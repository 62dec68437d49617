//! How the parts make their metrics: each is registered as it is made, and known by what it says of itself, which is what the
//! documentation says of it.

use std::cell::RefCell;

use prometheus::core::Collector;
use prometheus::proto::MetricType;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// Makes metrics and registers them.
pub struct Maker<'r> {
    registry: &'r Registry,
    made: RefCell<Vec<Described>>,
}

/// What a metric says of itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Described {
    /// Its name, with the unit that it is in.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// The names of its labels.
    pub labels: Vec<String>,
    /// What it tells.
    pub help: String,
}

impl<'r> Maker<'r> {
    /// Registers what it makes here.
    #[must_use]
    pub fn new(registry: &'r Registry) -> Self {
        Self { registry, made: RefCell::default() }
    }

    /// A counter.
    ///
    /// # Errors
    /// When the registry has one of this name; so have all others.
    pub fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.add(IntCounter::new(name, help)?)
    }

    /// A counter with labels.
    ///
    /// # Errors
    /// As [`Self::counter`].
    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    /// A gauge.
    ///
    /// # Errors
    /// As [`Self::counter`].
    pub fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.add(IntGauge::new(name, help)?)
    }

    /// A gauge with labels.
    ///
    /// # Errors
    /// As [`Self::counter`].
    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    /// A histogram of seconds, with the upper ends of its buckets.
    ///
    /// # Errors
    /// As [`Self::counter`].
    pub fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> prometheus::Result<Histogram> {
        self.add(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?)
    }

    /// A histogram with labels.
    ///
    /// # Errors
    /// As [`Self::counter`].
    pub fn histograms(
        &self,
        (name, help): (&str, &str),
        labels: &[&str],
        buckets: &[f64],
    ) -> prometheus::Result<HistogramVec> {
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?)
    }

    /// What was made, by name.
    #[must_use]
    pub fn made(self) -> Vec<Described> {
        let mut made = self.made.into_inner();
        made.sort();
        made
    }

    fn add<C: Collector + Clone + 'static>(&self, metric: C) -> prometheus::Result<C> {
        self.registry.register(Box::new(metric.clone()))?;
        // What has no series yet says its type all the same.
        let kind = match metric.collect().first().map(prometheus::proto::MetricFamily::get_field_type) {
            Some(MetricType::COUNTER) => "counter",
            Some(MetricType::HISTOGRAM) => "histogram",
            Some(MetricType::GAUGE) => "gauge",
            other => {
                return Err(prometheus::Error::Msg(format!("a metric of type {other:?} is not documented")));
            }
        };
        self.made.borrow_mut().extend(metric.desc().into_iter().map(|desc| Described {
            name: desc.fq_name.clone(),
            kind,
            labels: desc.variable_labels.clone(),
            help: desc.help.clone(),
        }));
        Ok(metric)
    }
}
