//! Prometheus's own checker of rules, for what contrib/ ships.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The program: on the PATH, or where scripts/ensure-promtool puts it.
fn program() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/promtool");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).map(|folder| folder.join("promtool")).chain([own]);
    places.find(|place| place.is_file()).expect("no promtool: scripts/ensure-promtool brings it")
}

/// Runs `promtool check rules` or `promtool test rules` on this text; what it printed where it isn't content. Files that
/// the text names are looked for in `folder`.
pub fn promtool(what: &str, folder: &Path, text: &str) -> Result<(), String> {
    let file = folder.join(format!("{what}.yml"));
    fs::write(&file, text).unwrap();
    let done = Command::new(program()).args([what, "rules"]).arg(&file).output().unwrap();
    let printed =
        format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    if done.status.success() { Ok(()) } else { Err(printed) }
}
