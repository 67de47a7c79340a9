//! Finds the valid name that somebody who wrote another one probably meant.

/// The nearest of the names, if one is near.
pub fn nearest<'n>(word: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let word = word.to_lowercase();
    let names: Vec<&str> = names.into_iter().collect();
    let typo = names
        .iter()
        .map(|name| (strsim::damerau_levenshtein(&word, &name.to_lowercase()), *name))
        .filter(|(distance, name)| *distance <= (word.len().max(name.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance);
    // `password` for `pass`, `db` for `database`: another word for it, with the same beginning.
    let kin = || {
        let similar = names.iter().map(|name| (strsim::jaro_winkler(&word, name), *name));
        let similar = similar.filter(|(similarity, _)| *similarity >= 0.7);
        similar.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
    };
    typo.map(|(_, name)| name).or_else(kin)
}

/// The sentence that offers the nearest name, or else lists all.
pub fn did_you_mean<'n>(word: &str, names: impl IntoIterator<Item = &'n str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    match nearest(word, names.iter().copied()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => known(names),
    }
}

/// The sentence that lists all names.
pub(super) fn known<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    if names.is_empty() { "there is none".to_owned() } else { format!("valid here: {}", list(&names)) }
}

/// `a`, `b` and `c`
pub(super) fn list(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_name() {
        let keys = ["name", "adapter", "host", "port", "database", "user", "pass", "sslmode", "replica_host"];
        let cases = [
            ("hsot", Some("host")),
            ("Port", Some("port")),
            ("password", Some("pass")),
            ("username", Some("user")),
            ("db", Some("database")),
            ("ssl_mode", Some("sslmode")),
            ("adaptor", Some("adapter")),
            ("replica_hosts", Some("replica_host")),
            ("zebra", None),
            ("", None),
        ];
        for (word, expected) in cases {
            assert_eq!(nearest(word, keys), expected, "{word}");
        }
    }
}
