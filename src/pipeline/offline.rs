//! A pipeline's SQL files as far as they can be judged without a server: as templates, rendered for each table and
//! operation. Which columns there are is not known here, so nothing is said of those.

use crate::change::Operation;
use crate::codes::Code;
use crate::config::{Pipeline, SqlFile};
use crate::postgres::ident::quote_relation;
use crate::transform::SqlProblem;
use crate::transform::render::{Scene, render_file};

/// What is wrong with the templates, each problem once.
pub fn problems(pipeline: &Pipeline) -> Vec<SqlProblem> {
    let sql = &pipeline.sql;
    let mut runs: Vec<(&SqlFile, Operation, bool)> = Vec::new();
    for operation in Operation::ALL {
        let own = match operation {
            Operation::Insert => &sql.insert,
            Operation::Update => &sql.update,
            Operation::Delete => &sql.delete,
        };
        // transform.sql is rendered for each operation, though it may have no part in one that has a file of its own.
        let of_source = [own.as_ref(), sql.transform.as_ref().filter(|_| own.is_none())];
        runs.extend(of_source.into_iter().flatten().map(|file| (file, operation, true)));
        runs.extend(sql.load.iter().map(|file| (file, operation, false)));
    }
    runs.extend(sql.truncate.iter().map(|file| (file, Operation::Delete, false)));
    let mut problems = Vec::new();
    for (file, operation, is_select) in runs {
        if let Err(problem) = render(pipeline, file, operation, is_select)
            && !problems.contains(&problem)
        {
            problems.push(problem);
        }
    }
    problems
}

fn render(
    pipeline: &Pipeline,
    file: &SqlFile,
    operation: Operation,
    is_select: bool,
) -> Result<(), SqlProblem> {
    for table in &pipeline.input.tables {
        let scene = Scene {
            pipeline: &pipeline.name,
            operation,
            table,
            table_sql: quote_relation(&table.schema, &table.table),
            new: Vec::new(),
            old: Vec::new(),
            rows_sql: (!is_select).then(|| "pg_temp.trucker_rows".to_owned()),
        };
        match render_file(file, &scene) {
            Ok(rendered) if is_select => rendered.expect_one_statement()?,
            Ok(_) => {}
            // A loop over columns has nothing to go over here.
            Err(problem) if problem.code == Code::TemplateEmpty => {}
            Err(problem) => return Err(problem),
        }
    }
    Ok(())
}
