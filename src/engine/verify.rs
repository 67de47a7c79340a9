//! Compares outputs with their SQL, and asks for what differs to be put right. Reads; what it asks for stands beside the
//! checkpoint, where the pipeline finds it.

use serde::Serialize;

use super::ask::{self, Answer};
use super::compile::select;
use super::error::EngineError;
use super::findings::Findings;
use super::prepare::{define, postgres};
use crate::config::{Pipeline, Project};
use crate::pipeline::definition::{Checked, Definition};
use crate::pipeline::error::PipelineError;
use crate::pipeline::verify::{Comparison, Difference, Found, why_not};
use crate::postgres::{Purpose, connect};
use crate::sink::{Asked, Output};

const STANDS: &str = "it has failed, or isn't filled yet; see trucker status";
/// Keys that are named, and may be repaired, of one pipeline.
const KEYS_MAX: usize = 10_000;

/// What was found about one pipeline.
#[derive(Debug, Serialize)]
pub struct Verified {
    /// Its name.
    pub pipeline: String,
    /// Why it wasn't compared.
    pub not_compared: Option<String>,
    /// The columns of the key.
    pub key: Vec<String>,
    /// How many keys were compared.
    pub keys: u64,
    /// Keys whose row the output lacks.
    pub missing: Vec<Vec<String>>,
    /// Keys whose row has other values.
    pub different: Vec<Vec<String>>,
    /// Keys of rows that the SQL doesn't return.
    pub extra: Vec<Vec<String>>,
    /// Keys whose row changed all the time, so that nothing can be said of it.
    pub unsettled: Vec<Vec<String>>,
    /// How many differ.
    pub differences: u64,
    /// Nobody runs the project: what isn't loaded yet differs too.
    pub is_stopped: bool,
    /// What became of the repair, if one was asked for.
    #[serde(skip)]
    pub repair: Option<Answer>,
}

/// Compares the pipelines of these names, or all; `chunk` candidates are looked at again together.
///
/// # Errors
/// All names that no pipeline has; what is wrong with their SQL; servers that can't be reached.
pub async fn verify(
    project: &Project,
    names: &[String],
    chunk: usize,
    repairs: bool,
) -> Result<Vec<Verified>, EngineError> {
    let mut verified = Vec::new();
    for pipeline in select(project, names)? {
        let standing = ask::look(project, &pipeline.name).await?;
        let mut result = match of_pipeline(project, pipeline, &standing, chunk).await {
            Ok(result) => result,
            Err(error) => {
                let mut findings = Findings::default();
                findings.pipeline(&pipeline.name, error);
                findings.verdict()?;
                continue;
            }
        };
        let keys: Vec<Vec<String>> =
            [&result.missing, &result.different, &result.extra].into_iter().flatten().cloned().collect();
        if repairs && !keys.is_empty() {
            result.repair = Some(standing.ask(&Asked::Repair { keys }).await?);
        }
        verified.push(result);
    }
    Ok(verified)
}

async fn of_pipeline(
    project: &Project,
    pipeline: &Pipeline,
    standing: &ask::Standing,
    chunk: usize,
) -> Checked<Verified> {
    let mut verified = Verified {
        pipeline: pipeline.name.clone(),
        not_compared: None,
        key: Vec::new(),
        keys: 0,
        missing: Vec::new(),
        different: Vec::new(),
        extra: Vec::new(),
        unsettled: Vec::new(),
        differences: 0,
        is_stopped: !standing.is_running,
        repair: None,
    };
    let definition = definition(project, pipeline).await?;
    let stands = standing.failure().is_some() || standing.loaded_lsn().is_none();
    let reason = why_not(&definition).or_else(|| stands.then(|| STANDS.to_owned()));
    if reason.is_some() {
        verified.not_compared = reason;
        return Ok(verified);
    }
    verified.key = definition.target.as_ref().map(|target| target.key().to_vec()).unwrap_or_default();
    let comparison = Comparison::new(&definition, standing.is_running, chunk).await?;
    let keys = comparison.run(&mut |found| verified.take(found)).await?;
    verified.keys = keys;
    Ok(verified)
}

async fn definition(project: &Project, pipeline: &Pipeline) -> Checked<Definition> {
    let unknown = || PipelineError::Input("its connections aren't those of the project".to_owned());
    let to = project.connection(&pipeline.output.connection).ok_or_else(unknown)?;
    let input = postgres(project, &pipeline.input.connection).ok_or_else(unknown)?;
    let source = connect(input.queried(), Purpose::Source).await?;
    let into = Output::connect(to, Purpose::Control).await?;
    define(project, (input, &source), (to, &into), pipeline).await
}

impl Verified {
    fn take(&mut self, found: Found) {
        for (key, difference) in found {
            let named = match difference {
                Difference::Missing => &mut self.missing,
                Difference::Different => &mut self.different,
                Difference::Extra => &mut self.extra,
                Difference::Unsettled => &mut self.unsettled,
            };
            if named.len() < KEYS_MAX {
                named.push(key.values().map(|value| String::from_utf8_lossy(value).into_owned()).collect());
            }
            self.differences += u64::from(difference != Difference::Unsettled);
        }
    }
}
