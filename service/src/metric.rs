//! The metrics of a service. Names are an interface: dashboards and alerts use them.

use metrics::{counter, describe_counter, describe_gauge, describe_histogram};

/// Every metric of a service: name and help text, by kind.
#[derive(Clone, Copy, Debug)]
pub struct Metrics {
    /// Values that go up and down.
    pub gauges: &'static [(&'static str, &'static str)],
    /// Counts that only grow.
    pub counters: &'static [(&'static str, &'static str)],
    /// Distributions, in seconds.
    pub histograms: &'static [(&'static str, &'static str)],
    /// Those that tell of trouble: an alert of the chart is about each of them.
    pub alarms: &'static [&'static str],
    /// Counters that are there from the start: what appears with its first count has no increase, and
    /// no alert would be about that. Those with labels are begun by whoever knows the labels.
    pub from_zero: &'static [&'static str],
}

impl Metrics {
    /// Gives every metric its help text, and begins counters.
    pub fn describe(&self) {
        for (name, help) in self.gauges {
            describe_gauge!(*name, *help);
        }
        for (name, help) in self.counters {
            describe_counter!(*name, *help);
        }
        for (name, help) in self.histograms {
            describe_histogram!(*name, *help);
        }
        for name in self.from_zero {
            counter!(*name).increment(0);
        }
    }

    /// All names, so that a test can freeze them.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        let all = self
            .gauges
            .iter()
            .chain(self.counters)
            .chain(self.histograms);
        all.map(|(name, _)| *name).collect()
    }
}

/// A count as a metric takes it: rounded beyond 2^53, which nothing that is counted comes near.
#[expect(clippy::cast_precision_loss, reason = "a metric may be rounded")]
#[must_use]
pub fn to_f64(count: u64) -> f64 {
    count as f64
}
