//! load.sql, which runs on the output over rows instead of the default write.

use std::sync::Arc;

use crate::clickhouse::Encoding;

/// A column of the relation that load.sql reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadColumn {
    /// Its name.
    pub name: String,
    /// Its type, as the output's SQL names it.
    pub type_sql: String,
    /// How its values are written, where the output takes them in binary form (ClickHouse).
    pub words: Option<Words>,
}

/// How a column's values are written: type and encoding, where NULLs may be among them and where not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words {
    /// Where there can be no NULL.
    pub plain: (String, Encoding),
    /// Where there can.
    pub nullable: (String, Encoding),
}

/// load.sql, rendered for one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// Name of the relation that it reads.
    pub relation: String,
    /// Its columns.
    pub columns: Arc<[LoadColumn]>,
    /// The SQL.
    pub sql: Arc<str>,
}
