//! What was measured: medians and ratios as one table, everything as JSON. Knows no scenario.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use serde_json::json;

use crate::consumer::Cost;

/// All measurements of a run, in order.
pub struct Report {
    repetitions: usize,
    lines: Vec<Line>,
}

struct Line {
    scenario: String,
    unit: &'static str,
    amount: f64,
    /// By who, trucker first.
    costs: Vec<(String, Vec<Cost>)>,
    /// Of the first one to each of the others, what is aimed at: at least so many times their throughput.
    targets: BTreeMap<String, f64>,
}

impl Report {
    pub fn new(repetitions: usize) -> Self {
        Report { repetitions, lines: Vec::new() }
    }

    /// Begins a scenario: each repetition has so much to do of that.
    pub fn scenario(&mut self, name: &str, amount: f64, unit: &'static str, targets: &[(&str, f64)]) {
        eprintln!("== {name}: {amount} {unit}, {} times", self.repetitions);
        let targets = targets.iter().map(|(who, ratio)| ((*who).to_owned(), *ratio)).collect();
        self.lines.push(Line { scenario: name.to_owned(), unit, amount, costs: Vec::new(), targets });
    }

    /// Adds a measurement to the scenario that was begun last.
    pub fn add(&mut self, who: &str, cost: Cost) {
        eprintln!("   {who}: {:.3} s", cost.seconds);
        let line = self.lines.last_mut().expect("a scenario was begun");
        match line.costs.iter_mut().find(|(name, _)| name == who) {
            Some((_, costs)) => costs.push(cost),
            // Everybody else is compared with the first.
            None if who == "trucker" => line.costs.insert(0, (who.to_owned(), vec![cost])),
            None => line.costs.push((who.to_owned(), vec![cost])),
        }
    }

    /// One line for each scenario and contender. Ratios are throughputs: trucker's, by the contender's. CPU is that of the process
    /// per change or row (so seconds per million), memory the most of all repetitions.
    pub fn table(&self) -> String {
        let mut text = format!(
            "\n{:<22} {:<22} {:>10} {:>12} {:>9} {:>8} {:>9} {:>8}\n",
            "scenario", "who", "median s", "per second", "trucker×", "aim", "µs CPU", "peak MiB"
        );
        for line in &self.lines {
            let ours = line.costs.first().map(|(_, costs)| median(costs.iter().map(|cost| cost.seconds)));
            for (index, (who, costs)) in line.costs.iter().enumerate() {
                let seconds = median(costs.iter().map(|cost| cost.seconds));
                let ratio =
                    ours.filter(|_| index > 0).map_or(String::new(), |ours| format!("{:.2}", seconds / ours));
                let aim = line.targets.get(who).map_or(String::new(), |aim| format!("{aim:.2}"));
                let optional = |values: Vec<f64>, factor: f64| {
                    if values.is_empty() {
                        String::new()
                    } else {
                        format!("{:.2}", median(values.into_iter()) * factor)
                    }
                };
                let cpu =
                    optional(costs.iter().filter_map(|cost| cost.cpu_seconds).collect(), 1e6 / line.amount);
                let most = costs.iter().filter_map(|cost| cost.peak_mib).reduce(f64::max);
                let peak = optional(most.into_iter().collect(), 1.0);
                let _ = writeln!(
                    text,
                    "{:<22} {who:<22} {seconds:>10.4} {:>12.0} {ratio:>9} {aim:>8} {cpu:>9} {peak:>8}",
                    if index == 0 { &line.scenario } else { "" },
                    line.amount / seconds,
                );
            }
        }
        text
    }

    /// Writes `target/bench/latest.json`.
    pub fn write_json(&self) -> PathBuf {
        let scenarios: Vec<_> = self.lines.iter().map(Line::json).collect();
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../bench");
        std::fs::create_dir_all(&dir).expect("a folder can be made");
        let path = dir.join("latest.json");
        let text =
            serde_json::to_string_pretty(&json!({ "scenarios": scenarios })).expect("numbers and names");
        std::fs::write(&path, text).expect("a file can be written");
        path.canonicalize().unwrap_or(path)
    }
}

impl Line {
    fn json(&self) -> serde_json::Value {
        let who: Vec<_> = self
            .costs
            .iter()
            .map(|(who, costs)| {
                let all = |of: fn(&Cost) -> Option<f64>| costs.iter().map(of).collect::<Vec<_>>();
                json!({
                    "who": who,
                    "seconds": all(|cost| Some(cost.seconds)),
                    "cpu_seconds": all(|cost| cost.cpu_seconds),
                    "peak_mib": all(|cost| cost.peak_mib),
                })
            })
            .collect();
        json!({ "scenario": self.scenario, "unit": self.unit, "amount": self.amount, "who": who, "aims": self.targets })
    }
}

/// The middle of them.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    percentile(values, 0.5)
}

/// The value below which that part of them lies.
pub fn percentile(values: impl Iterator<Item = f64>, part: f64) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let index = ((values.len().saturating_sub(1)) as f64 * part).round() as usize;
    values.get(index).copied().unwrap_or(f64::NAN)
}
