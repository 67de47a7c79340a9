//! Tells whether a pipeline's SQL is still what it was: one short text for all that its templates print, for each input table
//! and operation. What trucker puts around the files has no part in it, so that a new version of trucker changes none.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::chain::InputTable;
use super::render::{Scene, render_file};
use crate::change::Operation;
use crate::config::{Pipeline, TableName};
use crate::postgres::catalog::Table;

/// The text: the same for the same files over the same tables.
pub fn fingerprint(pipeline: &Pipeline, tables: &[Arc<Table>]) -> String {
    let sql = &pipeline.sql;
    let files = [
        (&sql.transform, None),
        (&sql.insert, Some(Operation::Insert)),
        (&sql.update, Some(Operation::Update)),
        (&sql.delete, Some(Operation::Delete)),
        (&sql.load, None),
        (&sql.truncate, None),
    ];
    let mut hash = Sha256::new();
    for table in tables {
        let input = InputTable::new(table, &table.relation());
        let name = TableName { schema: table.schema.clone(), table: table.table.clone() };
        for operation in Operation::ALL {
            let scene = Scene {
                pipeline: &pipeline.name,
                operation,
                table: &name,
                table_sql: table.sql(),
                new: input.new_columns(),
                old: input.old_columns(),
                rows_sql: Some("trucker_rows".to_owned()),
            };
            for (place, (file, of)) in files.iter().enumerate() {
                let Some(file) = file.as_ref().filter(|_| of.is_none_or(|of| of == operation)) else {
                    continue;
                };
                // A template may leave nothing for an operation that is ignored.
                let Ok(rendered) = render_file(file, &scene) else { continue };
                let statement = rendered.text().trim();
                hash.update(format!("{name} {operation} {place} {}\n{statement}", statement.len()));
            }
        }
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
