//! What contrib/ ships fits the program: rules and dashboard parse, and ask for nothing that docs/metrics.md doesn't
//! promise; each alert has its page; the unit and the manifests say what the program needs. What needs other programs
//! than promtool is checked by scripts/check-contrib.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

#[path = "harness/promtool.rs"]
mod promtool;

use promtool::promtool;
use serde_json::Value;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Metrics that are documented, with their labels.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let text = read("docs/metrics.md");
    let (tables, _) = text.split_once("\n## /status").unwrap();
    let quoted =
        |cell: &str| -> BTreeSet<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let mut metrics = BTreeMap::new();
    for line in tables.lines().filter(|line| line.starts_with("| `trucker_")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let name = cells[1].trim_matches('`');
        let mut labels = quoted(cells[3]);
        if cells[2] == "histogram" {
            labels.insert("le".to_owned());
            for part in ["bucket", "sum", "count"] {
                metrics.insert(format!("{name}_{part}"), labels.clone());
            }
        } else {
            metrics.insert(name.to_owned(), labels);
        }
    }
    for name in quoted(tables).into_iter().filter(|name| name.starts_with("process_")) {
        metrics.insert(name, BTreeSet::new());
    }
    assert!(metrics.len() > 30, "{metrics:?}");
    metrics
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_alphanumeric() && letter != '_').filter(|word| !word.is_empty())
}

/// What an expression asks for that isn't promised.
fn unknown(expression: &str, metrics: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut unknown = Vec::new();
    for name in words(expression).filter(|word| word.starts_with("trucker_") || word.starts_with("process_"))
    {
        if !metrics.contains_key(name) {
            unknown.push(name.to_owned());
        }
    }
    // Labels that Prometheus adds, and those of all metrics, for `by` and `on`.
    let all: BTreeSet<&str> =
        metrics.values().flatten().map(String::as_str).chain(["job", "instance"]).collect();
    for (start, _) in expression.match_indices('{') {
        let name = words(&expression[..start]).last().unwrap_or_default();
        let matchers = &expression[start + 1..start + expression[start..].find('}').unwrap()];
        for matcher in matchers.split(',').filter(|matcher| matcher.contains('=')) {
            let label = words(matcher).next().unwrap_or_default();
            let is_known = metrics.get(name).is_none_or(|labels| labels.contains(label));
            if !is_known && !["job", "instance"].contains(&label) {
                unknown.push(format!("{name}{{{label}}}"));
            }
        }
    }
    for grouping in ["by (", "on ("] {
        for (start, _) in expression.match_indices(grouping) {
            let list = &expression[start + grouping.len()..];
            let list = &list[..list.find(')').unwrap()];
            unknown.extend(words(list).filter(|label| !all.contains(label)).map(str::to_owned));
        }
    }
    unknown
}

#[test]
fn what_is_not_promised_is_found() {
    let metrics = documented();
    let clean = "sum by (job, pipeline) (trucker_pipeline_state{state=\"failed\"}) and on (instance) up == 0";
    assert_eq!(unknown(clean, &metrics), Vec::<String>::new());
    let wrong =
        "sum by (table) (trucker_pipeline_lag{pipeline=\"x\"} or trucker_source_connected{pipeline=\"x\"})";
    assert_eq!(
        unknown(wrong, &metrics),
        ["trucker_pipeline_lag", "trucker_source_connected{pipeline}", "table"]
    );
}

/// The alerts by name: the lines of each.
fn alerts() -> BTreeMap<String, String> {
    let text = read("contrib/prometheus/alerts.yml");
    let mut alerts = BTreeMap::new();
    for part in text.split("- alert: ").skip(1) {
        let (name, rest) = part.split_once('\n').unwrap();
        alerts.insert(name.trim().to_owned(), rest.to_owned());
    }
    assert!(alerts.len() > 10);
    alerts
}

#[test]
fn alert_rules_parse_and_ask_for_documented_metrics_alone() {
    let folder = tempfile::tempdir().unwrap();
    promtool("check", folder.path(), &read("contrib/prometheus/alerts.yml")).unwrap();
    let metrics = documented();
    for (name, lines) in alerts() {
        let (expression, _) = lines.split_once("labels: {").unwrap();
        assert_eq!(unknown(expression, &metrics), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn each_alert_says_what_it_means_what_it_costs_and_what_to_do_and_has_its_page() {
    let page = read("docs/alerts.md");
    let headings: BTreeSet<&str> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let alerts = alerts();
    let names: BTreeSet<&str> = alerts.keys().map(String::as_str).collect();
    assert_eq!(names, headings, "docs/alerts.md has a heading for each alert, and no other");
    for (name, lines) in &alerts {
        for annotation in ["summary: ", "description: ", "action: "] {
            assert!(lines.contains(annotation), "{name} has no {annotation}");
        }
        assert!(lines.contains(&format!("docs/alerts.md#{}\n", name.to_lowercase())), "{name}'s runbook");
        assert!(lines.contains("severity: critical}") || lines.contains("severity: warning}"), "{name}");
    }
}

#[test]
fn the_dashboard_parses_and_asks_for_documented_metrics_alone() {
    let dashboard: Value = serde_json::from_str(&read("contrib/grafana/trucker.json")).unwrap();
    let variables: Vec<&str> = dashboard["templating"]["list"]
        .as_array()
        .unwrap()
        .iter()
        .map(|variable| variable["name"].as_str().unwrap())
        .collect();
    let metrics = documented();
    let (mut ids, mut places, mut rules) =
        (BTreeSet::new(), Vec::new(), "groups: [{name: g, rules: [\n".to_owned());
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is taken");
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        let place = (at("x"), at("y"), at("x") + at("w"), at("y") + at("h"));
        assert!(place.2 <= 24, "{title}");
        let is_apart =
            |o: &(u64, u64, u64, u64)| o.2 <= place.0 || place.2 <= o.0 || o.3 <= place.1 || place.3 <= o.1;
        assert!(places.iter().all(is_apart), "{title} lies upon another");
        places.push(place);
        if panel["type"] == "row" {
            continue;
        }
        assert!(!panel["description"].as_str().unwrap().is_empty(), "{title} says nothing");
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            assert_eq!(unknown(expression, &metrics), Vec::<String>::new(), "{title}");
            for (at, _) in expression.match_indices('$') {
                let name = words(&expression[at + 1..]).next().unwrap();
                assert!(name == "__rate_interval" || variables.contains(&name), "{title}: ${name}");
            }
            let plain = expression.replace("$__rate_interval", "5m").replace('$', "");
            rules += &format!("{{record: r, expr: {}}},\n", serde_json::to_string(&plain).unwrap());
        }
    }
    let folder = tempfile::tempdir().unwrap();
    promtool("check", folder.path(), &(rules + "]}]\n")).unwrap();
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        let query = variable["definition"].as_str().unwrap_or_default();
        assert_eq!(unknown(query, &metrics), Vec::<String>::new());
    }
}

#[test]
fn what_is_shipped_uses_options_and_variables_that_the_program_has() {
    let unit = read("contrib/systemd/trucker.service");
    for line in ["Type=notify", "DynamicUser=yes", "ProtectSystem=strict", "RestartPreventExitStatus=2 3"] {
        assert!(unit.lines().any(|l| l == line), "{line}");
    }
    assert!(unit.contains("LoadCredential=") && unit.contains("WatchdogSec="));
    for file in ["trucker.yaml", "trucker-standby.yaml"] {
        let manifest = read(&format!("contrib/kubernetes/{file}"));
        for part in [
            "path: /livez",
            "runAsNonRoot: true",
            "readOnlyRootFilesystem: true",
            "allowPrivilegeEscalation: false",
            "automountServiceAccountToken: false",
            "terminationGracePeriodSeconds: 40",
            "pass_path: /run/secrets/trucker/",
            "\"--http\", \"0.0.0.0:8484\"",
        ] {
            assert!(manifest.contains(part), "{file}: {part}");
        }
    }
    let single = read("contrib/kubernetes/trucker.yaml");
    assert!(
        single.contains("replicas: 1")
            && single.contains("type: Recreate")
            && single.contains("path: /readyz")
    );
    let pair = read("contrib/kubernetes/trucker-standby.yaml");
    // One that stands by is never ready by /readyz, and a rollout would wait for it for ever.
    assert!(pair.contains("replicas: 2") && !pair.contains("path: /readyz"));
}
