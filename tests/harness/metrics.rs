//! Prometheus's text format, read strictly: whatever a scraper would refuse or misread fails the test.

use std::collections::BTreeMap;

/// What a scrape has, by name and labels: `name{a="b",c="d"}`, labels in the order of the text.
#[derive(Debug)]
pub struct Metrics {
    samples: BTreeMap<String, f64>,
    kinds: BTreeMap<String, String>,
}

impl Metrics {
    /// Reads a scrape; panics at what isn't right.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let mut metrics = Metrics { samples: BTreeMap::new(), kinds: BTreeMap::new() };
        let mut family = String::new();
        assert!(text.ends_with('\n'), "the last line isn't ended");
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("HELP has a text");
                assert!(is_name(name) && !help.trim().is_empty(), "{line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("TYPE has a type");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                let before = metrics.kinds.insert(name.to_owned(), kind.to_owned());
                assert!(before.is_none(), "the samples of {name} are not together");
                name.clone_into(&mut family);
            } else {
                metrics.sample(line, &family);
            }
        }
        metrics.check_histograms();
        metrics
    }

    fn sample(&mut self, line: &str, family: &str) {
        let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
        let name = series.split('{').next().unwrap();
        let of_family = match self.kinds.get(family).map(String::as_str) {
            Some("histogram") => {
                ["_bucket", "_sum", "_count"].iter().any(|end| name == format!("{family}{end}"))
            }
            _ => name == family,
        };
        assert!(is_name(name) && of_family, "{line} after the TYPE of {family}");
        if let Some(labels) = series[name.len()..].strip_prefix('{') {
            check_labels(labels.strip_suffix('}').expect("labels are closed"));
        }
        let number: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        assert!(number.is_finite(), "{line}");
        let before = self.samples.insert(series.to_owned(), number);
        assert!(before.is_none(), "twice: {series}");
    }

    fn check_histograms(&self) {
        for name in self.kinds.iter().filter(|(_, kind)| *kind == "histogram").map(|(name, _)| name) {
            for (series, count) in self.of(&format!("{name}_count")) {
                let labels =
                    series.strip_suffix('}').unwrap_or(series).split_once('{').map_or("", |(_, l)| l);
                let all = format!("{name}_bucket{{{labels},le=\"+Inf\"}}");
                assert_eq!(self.samples.get(&all), Some(count), "{all}");
            }
        }
    }

    fn of<'m>(&'m self, name: &'m str) -> impl Iterator<Item = (&'m String, &'m f64)> {
        self.samples.iter().filter(move |(series, _)| series.split('{').next() == Some(name))
    }

    /// The value of a series, written as in the text.
    #[track_caller]
    pub fn value(&self, series: &str) -> f64 {
        self.get(series).unwrap_or_else(|| panic!("no {series} in {:#?}", self.samples))
    }

    /// The same, where it may not be there.
    pub fn get(&self, series: &str) -> Option<f64> {
        self.samples.get(series).copied()
    }

    /// The state that a one-hot family says, and that it is one: `labels` are those before `state`.
    #[track_caller]
    pub fn state(&self, name: &str, labels: &str) -> String {
        let start = format!("{name}{{{labels}");
        let hot: Vec<&String> = self
            .of(name)
            .filter(|(series, on)| series.starts_with(&start) && **on == 1.0)
            .map(|(s, _)| s)
            .collect();
        assert_eq!(hot.len(), 1, "{name}: {hot:?}");
        hot[0].split("state=\"").nth(1).unwrap().trim_end_matches("\"}").to_owned()
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !name.starts_with(|c: char| c.is_ascii_digit())
}

fn check_labels(labels: &str) {
    let mut rest = labels;
    while !rest.is_empty() {
        let (name, value) = rest.split_once("=\"").expect("a label has a value in quotes");
        assert!(is_name(name), "{labels}");
        let mut escaped = false;
        let end = value.char_indices().find(|(_, letter)| {
            let ends = *letter == '"' && !escaped;
            escaped = *letter == '\\' && !escaped;
            ends
        });
        let end = end.expect("a label's value is closed").0;
        rest = &value[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
}
