//! `trucker check`: what `run` would look at before it creates anything, and some things that a run only trips over. Changes
//! nothing on any server.

use super::continuity;
use super::findings::Findings;
use super::prepare::{Creation, PreparedProject, survey};
use crate::config::{Loaded, Project};
use crate::pipeline::error::PipelineError;
use crate::pipeline::{nullable, offline};

/// Looks at the files alone.
pub fn check_offline(loaded: &Loaded) -> Findings {
    let mut findings = files(loaded);
    for pipeline in &loaded.project.pipelines {
        findings.of_pipeline(&pipeline.name);
        match offline::problems(pipeline) {
            problems if problems.is_empty() => {
                let names: Vec<String> = pipeline.sql.files().map(|file| file.name()).collect();
                findings.ok("templates", if names.is_empty() { "none".to_owned() } else { names.join(", ") });
            }
            problems => findings.pipeline(&pipeline.name, PipelineError::Problems(problems)),
        }
        findings.skip("tables and SQL", "--offline asks no server");
    }
    findings
}

/// Looks at files and servers, and how they fit.
pub async fn check(loaded: &Loaded) -> Findings {
    let mut findings = files(loaded);
    let prepared = survey(&loaded.project, Creation::Allowed, &mut findings).await;
    continue_where_it_was(&prepared, &mut findings).await;
    for source in &prepared.sources {
        for pipeline in &source.pipelines {
            findings.of_pipeline(&pipeline.definition.pipeline.name);
            match nullable::warnings(&pipeline.definition, &source.queried().client).await {
                Ok(warnings) => warnings.into_iter().for_each(|warning| {
                    let warning = super::findings::diagnostic(&pipeline.definition.pipeline.name, warning);
                    findings.add(warning.as_warning());
                }),
                Err(error) => findings.pipeline(&pipeline.definition.pipeline.name, error),
            }
        }
    }
    findings
}

fn files(loaded: &Loaded) -> Findings {
    let mut findings = Findings::default();
    let Project { connections, pipelines, .. } = &loaded.project;
    findings.ok("connections", connections.len().to_string());
    findings.ok("pipelines", pipelines.len().to_string());
    loaded.warnings.iter().for_each(|warning| findings.add(warning.clone()));
    findings
}

/// Whether stored progress fits the servers.
async fn continue_where_it_was(prepared: &PreparedProject, findings: &mut Findings) {
    for source in &prepared.sources {
        let before = findings.errors().count();
        continuity::look(source, findings).await;
        if findings.errors().count() > before {
            continue;
        }
        findings.of_connection(&source.connection.name);
        match &source.slot {
            None => findings.ok("slot", "none yet: `trucker run` makes it"),
            Some(_) => findings.ok("slot", format!("{} goes on where it was", source.slot_name)),
        }
    }
}
