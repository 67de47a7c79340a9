//! A project's configuration: any text as its files, and any value in files that are right.

use std::fs;
use std::path::Path;

use trucker::config::{Connection, Loaded, Variables, load_with};

const PROJECT: &str = r#"name: {{ env("FIXED") }}
connections:
  - name: a
    adapter: postgres
    host: db.example.org
    database: shop # {{ env("V") }}
    user: u{{ env("V") }}
    pass: {{ env("V") }}
  - {name: b, adapter: postgres, host: h, database: "{{ env('V') }}x", user: v, sslmode: disable, pass: '{{ env("V") }}'}
"#;

const PIPELINE: &str = "input:\n  connection: a\n  table: t\noutput:\n  connection: b\n  table: u\n";

/// A first byte of `=`: the rest is a value. Else the text, cut at each NUL, is trucker.yml, a pipeline's config.yml
/// and the value of a variable.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let folder = tempfile::tempdir().expect("a folder can be made");
    fs::create_dir(folder.path().join("p")).expect("a folder can be made");
    if let Some(value) = text.strip_prefix('=') {
        return check_value(folder.path(), value);
    }
    let mut parts = text.split('\0');
    let mut next = || parts.next().unwrap_or_default();
    if let Ok(loaded) = load(folder.path(), next(), next(), next()) {
        // What can be loaded can be shown.
        let _ = format!("{:?} {}", loaded.project, loaded.warnings);
    }
}

/// Whatever bytes a value holds, it is the value, and the file around it is what it was.
fn check_value(folder: &Path, value: &str) {
    let loaded = match load(folder, PROJECT, PIPELINE, value) {
        Ok(loaded) => loaded,
        Err(problems) => {
            // What no server takes may be refused, in so many words.
            let is_odd = value.is_empty() || value.contains('\0');
            return assert!(is_odd, "{value:?}: {problems}");
        }
    };
    let (a, b) = match &loaded.project.connections[..] {
        [Connection::Postgres(a), Connection::Postgres(b)] => (a, b),
        other => panic!("{value:?} made {} connections", other.len()),
    };
    assert_eq!(loaded.project.name.as_deref(), Some("shop"));
    assert_eq!((&*a.name, &*a.host, &*a.database), ("a", "db.example.org", "shop"));
    assert_eq!(a.user, format!("u{value}"));
    assert_eq!(b.database, format!("{value}x"));
    for pass in [&a.pass, &b.pass] {
        assert_eq!(pass.as_ref().map(|pass| pass.expose()), Some(value.as_bytes()));
    }
    assert_eq!(loaded.project.pipelines.len(), 1);
}

fn load(
    folder: &Path,
    project: &str,
    pipeline: &str,
    value: &str,
) -> Result<Loaded, trucker::config::Diagnostics> {
    fs::write(folder.join("trucker.yml"), project).expect("a file can be written");
    fs::write(folder.join("p/config.yml"), pipeline).expect("a file can be written");
    load_with(folder, &Variables::new([("V", value), ("FIXED", "shop")]))
}
