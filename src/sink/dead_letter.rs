//! A change that could not be loaded, as it is recorded. Here, and only here, are a row's values kept: the table is in
//! the user's own database.

use crate::change::{Cell, Lsn, Relation, Tuple};

/// A change that isn't loaded.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// Start of its transaction's commit record.
    pub commit_lsn: Lsn,
    /// Which of the pipeline's changes in the transaction, from 1.
    pub ordinal: u64,
    /// Its transaction.
    pub xid: u32,
    /// The input table.
    pub table: String,
    /// `insert`, `update`, `delete` or `truncate`.
    pub operation: &'static str,
    /// The row before, as JSON.
    pub old: Option<String>,
    /// The row after, as JSON.
    pub new: Option<String>,
    /// Why.
    pub error: String,
    /// The server's code.
    pub sqlstate: Option<String>,
    /// The SQL file.
    pub file: Option<String>,
    /// Somebody said so, by `trucker skip`.
    pub is_skipped: bool,
}

/// A row as a JSON object of texts; a value that wasn't sent, since it hadn't changed, is `{"unchanged": true}`, which no
/// value can be. Of an old row, only the columns that are sent.
pub fn row_json(relation: &Relation, tuple: &Tuple, is_old: bool) -> String {
    let columns = relation.columns.iter().enumerate().take(tuple.len());
    let columns = columns.filter(|(at, _)| !is_old || relation.is_sent_in_old(*at));
    let value = |cell: Cell<'_>| match cell {
        Cell::Null => serde_json::Value::Null,
        Cell::Unchanged => serde_json::json!({"unchanged": true}),
        Cell::Text(text) => String::from_utf8_lossy(text).into_owned().into(),
    };
    let object: serde_json::Map<_, _> =
        columns.map(|(at, column)| (column.name.clone(), value(tuple.cell(at)))).collect();
    serde_json::Value::Object(object).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Column, ReplicaIdentity};

    #[test]
    fn a_value_that_was_not_sent_is_neither_null_nor_a_text() {
        let column = |name: &str, is_identity| Column {
            is_later: false,
            name: name.into(),
            type_oid: 25,
            type_modifier: -1,
            is_identity,
        };
        let relation = Relation {
            oid: 1,
            schema: "s".into(),
            table: "t".into(),
            identity: ReplicaIdentity::Default,
            columns: vec![column("id", true), column("a", false), column("b", false)],
        };
        let tuple: Tuple = [Cell::Text(b"1"), Cell::Null, Cell::Unchanged].into_iter().collect();
        assert_eq!(row_json(&relation, &tuple, false), r#"{"a":null,"b":{"unchanged":true},"id":"1"}"#);
        assert_eq!(row_json(&relation, &tuple, true), r#"{"id":"1"}"#);
    }
}
