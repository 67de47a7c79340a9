//! Finds the programs of a Postgres server. Looks only; installs nothing.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::SandboxError;

/// A folder with initdb, pg_ctl and postgres in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Binaries {
    dir: PathBuf,
    major: u32,
}

impl Binaries {
    /// The programs to use: `TRUCKER_PG_BIN` if that is set, else the first of PATH, Debian's folders
    /// (newest version first), /usr/local and wherever pg_config points; of version `major` if one is asked for.
    pub fn find(major: Option<u32>) -> Result<Self, SandboxError> {
        candidates()
            .into_iter()
            .filter_map(|dir| Binaries::in_dir(&dir))
            .find(|found| major.is_none_or(|wanted| wanted == found.major))
            .ok_or_else(|| SandboxError::NoBinaries {
                wanted: major.map(|m| format!(" of version {m}")).unwrap_or_default(),
            })
    }

    /// The programs in `dir`, if all of them are there and run.
    pub fn in_dir(dir: &Path) -> Option<Self> {
        let complete = ["initdb", "pg_ctl", "postgres"].iter().all(|name| dir.join(name).is_file());
        if !complete {
            return None;
        }
        let output = Command::new(dir.join("postgres")).arg("--version").output().ok()?;
        let major = parse_major(&String::from_utf8_lossy(&output.stdout))?;
        Some(Binaries { dir: dir.to_owned(), major })
    }

    /// Major version, such as 15.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// Where they are.
    pub fn folder(&self) -> &Path {
        &self.dir
    }

    /// Path of one of the programs; whether it exists is certain only for initdb, pg_ctl and postgres.
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

fn candidates() -> Vec<PathBuf> {
    if let Some(dir) = env::var_os("TRUCKER_PG_BIN") {
        return vec![dir.into()];
    }
    let mut dirs: Vec<PathBuf> =
        env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
    dirs.extend(debian_dirs());
    dirs.extend(["/usr/local/pgsql/bin", "/usr/local/bin"].map(PathBuf::from));
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        dirs.push(String::from_utf8_lossy(&output.stdout).trim().into());
    }
    dirs
}

/// `/usr/lib/postgresql/MAJOR/bin`, newest first.
fn debian_dirs() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut majors: Vec<u32> = entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    majors.sort_unstable_by(|a, b| b.cmp(a));
    majors.iter().map(|major| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"))).collect()
}

/// From `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, also from `18beta1`.
fn parse_major(version: &str) -> Option<u32> {
    let number = version.split_whitespace().nth(2)?;
    let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_what_postgres_prints() {
        for (text, major) in [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", Some(15)),
            ("postgres (PostgreSQL) 18beta1\n", Some(18)),
            ("postgres (PostgreSQL) 17\n", Some(17)),
            ("postgres (PostgreSQL) x\n", None),
            ("", None),
        ] {
            assert_eq!(parse_major(text), major, "{text:?}");
        }
    }

    #[test]
    fn a_folder_without_the_programs_is_no_answer() {
        assert_eq!(Binaries::in_dir(Path::new("/nonexistent")), None);
    }
}
