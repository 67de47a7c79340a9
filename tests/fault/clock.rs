//! The program's wall clock, set from outside: a small library that is compiled on first use and preloaded.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// One process's clock.
pub struct Clock {
    file: PathBuf,
}

impl Clock {
    /// A clock that is right, kept in a file of that folder.
    pub fn new(folder: &Path) -> Self {
        let clock = Clock { file: folder.join("clock") };
        clock.set(0);
        clock
    }

    /// So many seconds off, from now on.
    pub fn set(&self, seconds: i64) {
        fs::write(&self.file, seconds.to_string()).unwrap();
    }

    /// What the program has to be started with.
    pub fn variables(&self) -> Vec<(String, String)> {
        let pair = |name: &str, path: &Path| (name.to_owned(), path.to_str().unwrap().to_owned());
        vec![pair("LD_PRELOAD", library()), pair("CLOCK_OFFSET_FILE", &self.file)]
    }
}

fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let path = folder.join(format!("clock-{}.so", std::process::id()));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fault/clock.c");
        let status =
            Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&path).arg(source).status();
        assert!(status.expect("a C compiler").success(), "the clock's library does not compile");
        path
    })
}
