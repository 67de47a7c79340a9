//! What the connection's user may do, asked beforehand. Changes nothing.

use super::Client;
use super::error::Error;
use super::ident::quote_ident;

/// Those of the rights that the user lacks on something: a quoted `database.table`, or `database.*`.
pub async fn fetch_missing<'r>(client: &Client, rights: &[&'r str], on: &str) -> Result<Vec<&'r str>, Error> {
    let mut missing = Vec::new();
    for right in rights {
        let answer = client.select(&format!("CHECK GRANT {right} ON {on}"), &[]).await?;
        if answer.first() != Some("1") {
            missing.push(*right);
        }
    }
    Ok(missing)
}

/// The user's name and the database's, quoted.
pub async fn fetch_names(client: &Client) -> Result<[String; 2], Error> {
    let answer = client.select("SELECT currentUser(), currentDatabase()", &[]).await?;
    let name = |at: usize| answer.rows.first().and_then(|names| names.get(at)?.as_deref()).map(quote_ident);
    Ok([name(0).unwrap_or_default(), name(1).unwrap_or_default()])
}
