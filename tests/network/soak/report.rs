//! What a run shows: JSON for programs, Markdown and plots for people.

use std::{fmt::Write as _, fs, path::Path, time::Duration};

use serde_json::{Value, json};

use super::{
    Asked, ROLLUPS, VALIDATORS,
    audit::Audit,
    book::{Book, Entry, Kind},
    faults::Step,
    load::SENDERS,
    plot::{Band, Line, Scale, draw},
};

/// Stretches of time that a plot has points for.
const BUCKETS: u32 = 180;

/// How far a transaction got: its name, and when.
type Hop = (&'static str, fn(&Entry) -> Option<Duration>);
const HOPS: [Hop; 3] = [
    ("acknowledged", |entry| entry.acknowledged),
    ("ordered, verified", |entry| entry.ordered),
    ("in the head", |entry| entry.executed),
];

pub(super) struct Report<'a> {
    asked: &'a Asked,
    audit: &'a Audit,
    steps: &'a [Step],
    /// What senders sent through the composer, by due time.
    sent: Vec<Entry>,
    /// When the load had begun, and how long all took.
    from: Duration,
    length: Duration,
}

impl<'a> Report<'a> {
    pub(super) fn new(asked: &'a Asked, book: &Book, audit: &'a Audit, steps: &'a [Step]) -> Self {
        let entries = book.entries().into_values();
        let mut sent: Vec<Entry> = entries.filter(|entry| entry.kind == Kind::Own).collect();
        sent.sort_by_key(|entry| entry.due);
        let times = sent
            .iter()
            .flat_map(|entry| HOPS.map(|(_, time)| time(entry)));
        let last = times.flatten().max().unwrap_or_default();
        let from = sent.first().map(|entry| entry.due).unwrap_or_default();
        Self {
            asked,
            audit,
            steps,
            from,
            length: last.saturating_sub(from),
            sent,
        }
    }

    pub(super) fn json(&self) -> Value {
        let audit = self.audit;
        json!({
            "validators": VALIDATORS,
            "rollups": ROLLUPS,
            "senders": SENDERS * ROLLUPS,
            "seed": self.asked.seed,
            "seconds": self.asked.length.as_secs(),
            "offered_per_second": self.asked.rate,
            "heights": audit.height,
            "blocks": audit.blocks,
            "faults": self.steps.iter().map(|step| self.step(step)).collect::<Vec<_>>(),
            "sent": self.sent.len(),
            "acknowledged": audit.acknowledged,
            "executed": audit.executed,
            "skipped_in_list": audit.skipped_in_list,
            "rejected_before_list": audit.skipped_before_list,
            "reasons": audit.reasons,
            "refused": audit.refused,
            "rivals": { "executed": audit.rivals[0], "skipped": audit.rivals[1] },
            "latency": self.latencies(),
        })
    }

    /// Seconds from the due time to each hop, of all, of what was due in calm and in trouble.
    fn latencies(&self) -> Value {
        let troubled = |entry: &Entry| self.steps.iter().any(|step| is_hit(step, entry));
        let hop = |(name, time): Hop| {
            let of = |keep: &dyn Fn(&Entry) -> bool| {
                let entries = self.sent.iter().filter(|entry| keep(entry));
                quantiles(entries.filter_map(|entry| Some(time(entry)?.saturating_sub(entry.due))))
            };
            let value = json!({
                "all": of(&|_| true),
                "calm": of(&|entry| !troubled(entry)),
                "faults": of(&troubled),
            });
            (name.to_owned(), value)
        };
        HOPS.into_iter().map(hop).collect()
    }

    /// A step, and how long after its end the last of what was due in it was in the head.
    fn step(&self, step: &Step) -> Value {
        let due = self.sent.iter().filter(|entry| is_hit(step, entry));
        let last = due.filter_map(|entry| entry.executed).max();
        let caught_up = last.map(|last| last.saturating_sub(step.healed));
        json!({
            "at_seconds": seconds(step.at.saturating_sub(self.from)),
            "lasted_seconds": seconds(step.healed.saturating_sub(step.at)),
            "faults": step.faults,
            "caught_up_seconds": caught_up.map(seconds),
        })
    }

    /// Writes `soak.json`, `soak.md` and the plots.
    pub(super) fn write(&self, directory: &Path) {
        fs::create_dir_all(directory).unwrap();
        let json = serde_json::to_string_pretty(&self.json()).unwrap();
        let files = [
            ("soak.json", json + "\n"),
            ("soak.md", self.markdown()),
            ("soak-throughput.svg", self.throughput()),
            ("soak-latency.svg", self.latency()),
        ];
        for (name, text) in files {
            fs::write(directory.join(name), text).unwrap();
        }
    }

    fn markdown(&self) -> String {
        let (audit, report) = (self.audit, self.json());
        let mut text = format!(
            "{VALIDATORS} validators, {ROLLUPS} rollups, {} senders at {} transactions per second for {} s, \
             seed {}: {} sequencer blocks, {} rollup blocks, {} steps of faults.\n\n\
             | | |\n|---|---|\n",
            SENDERS * ROLLUPS,
            self.asked.rate,
            self.asked.length.as_secs(),
            self.asked.seed,
            audit.height,
            audit.blocks.iter().sum::<u64>(),
            self.steps.len(),
        );
        let rows = [
            ("sent by wallets", self.sent.len()),
            ("acknowledged", audit.acknowledged),
            ("of these executed, each once", audit.executed),
            (
                "of these skipped at their place in a verified list",
                audit.skipped_in_list,
            ),
            (
                "of these rejected before a list, the nonce being used",
                audit.skipped_before_list,
            ),
            (
                "refused: the nonce was used, by a rival or by an attempt whose answer was lost",
                audit.refused,
            ),
            ("rivals that ran", audit.rivals[0]),
            ("rivals that were skipped", audit.rivals[1]),
            ("lost", 0),
            ("run twice", 0),
        ];
        for (what, count) in rows {
            let _ = writeln!(text, "| {what} | {count} |");
        }
        text.push_str(
            "\nSeconds from the moment when a transaction was due:\n\n\
             | | p50 | p99 | most | p50 in calm | p99 in calm | p50 in faults | p99 in faults |\n\
             |---|---|---|---|---|---|---|---|\n",
        );
        for (name, _) in HOPS {
            let hop = &report["latency"][name];
            let _ = writeln!(
                text,
                "| {name} | {} | {} | {} | {} | {} | {} | {} |",
                hop["all"]["p50"],
                hop["all"]["p99"],
                hop["all"]["most"],
                hop["calm"]["p50"],
                hop["calm"]["p99"],
                hop["faults"]["p50"],
                hop["faults"]["p99"],
            );
        }
        text.push_str(
            "\n![throughput](plots/soak-throughput.svg)\n\n![latency](plots/soak-latency.svg)\n\n\
             | at | for | fault | all that was due in it was in the head |\n|---|---|---|---|\n",
        );
        for step in self.steps {
            let shown = self.step(step);
            let _ = writeln!(
                text,
                "| {} s | {} s | {} | {} s after it |",
                shown["at_seconds"],
                shown["lasted_seconds"],
                step.faults.join(", "),
                shown["caught_up_seconds"],
            );
        }
        text
    }

    fn bands(&self) -> Vec<Band> {
        let bands = |step: &Step| {
            let (from, to) = (
                step.at.saturating_sub(self.from),
                step.healed.saturating_sub(self.from),
            );
            let band = move |says: &String| {
                let kind = match says {
                    kill if kill.starts_with("kill") => 0,
                    slow if slow.ends_with("slow") => 2,
                    _ => 1,
                };
                Band { kind, from, to }
            };
            step.faults.iter().map(band).collect::<Vec<_>>()
        };
        self.steps.iter().flat_map(bands).collect()
    }

    /// How many got how far in each stretch of time.
    fn throughput(&self) -> String {
        let width = self.length.as_secs_f64() / f64::from(BUCKETS);
        let line = |(name, time): Hop| {
            let mut counts = vec![0_u32; BUCKETS as usize + 1];
            for time in self.sent.iter().filter_map(time) {
                counts[self.bucket(time)] += 1;
            }
            let points = counts.into_iter().zip(0_u32..);
            let points =
                points.map(|(count, at)| ((f64::from(at) + 0.5) * width, f64::from(count) / width));
            Line {
                name,
                points: points.take(BUCKETS as usize).collect(),
            }
        };
        let lines: Vec<Line> = HOPS.into_iter().map(line).collect();
        let most = 4.0 * f64::from(self.asked.rate);
        let title = "transactions per second";
        draw(
            title,
            self.length.as_secs_f64(),
            Scale::Linear { most },
            &lines,
            &self.bands(),
        )
    }

    /// How long what was due in a stretch of time took, half of it and all of it.
    fn latency(&self) -> String {
        let width = self.length.as_secs_f64() / f64::from(BUCKETS);
        let line = |name: &'static str, time: fn(&Entry) -> Option<Duration>, quantile: f64| {
            let mut taken = vec![Vec::new(); BUCKETS as usize + 1];
            for entry in &self.sent {
                if let Some(time) = time(entry) {
                    taken[self.bucket(entry.due)].push(time.saturating_sub(entry.due));
                }
            }
            let points = taken
                .into_iter()
                .zip(0_u32..)
                .filter_map(|(mut taken, at)| {
                    taken.sort();
                    let value = of_sorted(&taken, quantile)?.as_secs_f64();
                    Some(((f64::from(at) + 0.5) * width, value))
                });
            Line {
                name,
                points: points.collect(),
            }
        };
        let lines = [
            line("acknowledged, half", HOPS[0].1, 0.5),
            line("ordered, half", HOPS[1].1, 0.5),
            line("in the head, half", HOPS[2].1, 0.5),
            line("in the head, all", HOPS[2].1, 1.0),
        ];
        let scale = Scale::Logarithmic {
            least: 0.001,
            most: 100.0,
        };
        let title = "seconds from due to";
        draw(
            title,
            self.length.as_secs_f64(),
            scale,
            &lines,
            &self.bands(),
        )
    }

    fn bucket(&self, time: Duration) -> usize {
        let share = time.saturating_sub(self.from).as_secs_f64() / self.length.as_secs_f64();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 to BUCKETS"
        )]
        let bucket = (share.clamp(0.0, 1.0) * f64::from(BUCKETS)) as usize;
        bucket
    }
}

/// Whether a transaction was due during a step.
fn is_hit(step: &Step, entry: &Entry) -> bool {
    (step.at..step.healed).contains(&entry.due)
}

fn quantiles(times: impl Iterator<Item = Duration>) -> Value {
    let mut times: Vec<Duration> = times.collect();
    times.sort();
    let at = |quantile| of_sorted(&times, quantile).map(seconds);
    json!({ "count": times.len(), "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "most": at(1.0) })
}

fn of_sorted(times: &[Duration], quantile: f64) -> Option<Duration> {
    let last = u32::try_from(times.len().checked_sub(1)?).unwrap();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 to last"
    )]
    let at = (f64::from(last) * quantile).round() as usize;
    times.get(at).copied()
}

/// Seconds, to the millisecond.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1_000.0).round() / 1_000.0
}
