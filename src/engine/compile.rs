//! The SQL that a project would run, as files. Asks its servers for columns and types, since what trucker puts around the
//! user's SQL depends on them; changes nothing.

use super::error::EngineError;
use super::findings::Findings;
use super::prepare::{define, postgres};
use crate::config::{Diagnostic, Pipeline, Project};
use crate::pipeline::definition::Checked;
use crate::pipeline::listing::{self, Listed};
use crate::postgres::{Purpose, connect};
use crate::sink::Output;

/// The statements of the pipelines of these names, or of all, by pipeline.
///
/// # Errors
/// All names that no pipeline has; all that is wrong with their SQL; servers that can't be reached.
pub async fn compile(project: &Project, names: &[String]) -> Result<Vec<(String, Vec<Listed>)>, EngineError> {
    let mut findings = Findings::default();
    let mut compiled = Vec::new();
    for pipeline in select(project, names)? {
        match of_pipeline(project, pipeline).await {
            Ok(listed) => compiled.push((pipeline.name.clone(), listed)),
            Err(error) => findings.pipeline(&pipeline.name, error),
        }
    }
    findings.verdict().map(|()| compiled)
}

/// The pipelines of these names, or all.
pub(super) fn select<'p>(project: &'p Project, names: &[String]) -> Result<Vec<&'p Pipeline>, EngineError> {
    if names.is_empty() {
        return Ok(project.pipelines.iter().collect());
    }
    let (mut chosen, mut problems): (Vec<&Pipeline>, Vec<Diagnostic>) = (Vec::new(), Vec::new());
    for name in names {
        match project.pipeline(name) {
            Ok(pipeline) if chosen.iter().any(|known| known.name == pipeline.name) => {}
            Ok(pipeline) => chosen.push(pipeline),
            Err(problem) => problems.push(*problem),
        }
    }
    if problems.is_empty() { Ok(chosen) } else { Err(EngineError::Files(problems.into_iter().collect())) }
}

async fn of_pipeline(project: &Project, pipeline: &Pipeline) -> Checked<Vec<Listed>> {
    let ends =
        postgres(project, &pipeline.input.connection).zip(project.connection(&pipeline.output.connection));
    let Some((input, output)) = ends else {
        return Ok(Vec::new());
    };
    let source = connect(input.queried(), Purpose::Source).await?;
    let into = Output::connect(output, Purpose::Control).await?;
    let definition = define(project, (input, &source), (output, &into), pipeline).await?;
    listing::list(&definition, &source).await
}
