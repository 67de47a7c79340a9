//! The fuzz targets (`fuzz/src/`) for a few seconds: over the seeds in the repository, then over random mutations of
//! them. `TRUCKER_FUZZ_SECONDS=n` makes each take longer, TRUCKER_SEED=n repeats a run. Hours are cargo-fuzz's.

#![allow(clippy::unwrap_used)] // A test that cannot go on says where by panicking.

#[allow(dead_code)] // Shared with the tests against servers, which use the rest.
#[path = "harness/disorder.rs"]
mod disorder;
#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use disorder::{Random, is_soak};

const LENGTH_MAX: usize = 4096;

/// What stands for something in one of the inputs, so that chance alone need not find it.
const WORDS: &[&[u8]] = &[
    b"{{ ",
    b" }}",
    b"{% set x %}",
    b"{% endset %}",
    b"{% for i in [1, 2] %}",
    b"{% endfor %}",
    b"{% raw %}",
    b"{% endraw %}",
    b"{#",
    b"#}",
    b"{%- if true -%}",
    b"{% endif %}",
    b"env('V')",
    b"new.",
    b"old.id",
    b"row",
    b"transformed.x",
    b"$$",
    b"$a$",
    b"E'",
    b"U&\"",
    b"--",
    b"/*",
    b"*/",
    b"''",
    b"\"\"",
    b"\\",
    b";",
    b": ",
    b"- ",
    b"&a ",
    b"*a",
    b"<<: ",
    b"|\n",
    b"!!binary ",
    b"\n",
    b"\r\n",
    b"\t",
    b"\0",
    b"\xC3\xA9",
    b"\xF3\xB0\x80\x81",
    b"\xFF",
    b"\xFF\xFF\xFF\xFF",
    b"\x7F\xFF\xFF\xFF",
    b"\x80\x00\x00\x00",
    b"\x7F\xFF",
    b"\x00\x00\x00\x01",
    b"d\0\0\0",
    b"E\0\0\0",
];

struct Target {
    name: &'static str,
    check: fn(&[u8]),
}

impl Target {
    /// Seeds first, each as it is; then mutations of them, for the time.
    fn run(&self) {
        let seeds = self.seeds();
        assert!(!seeds.is_empty(), "fuzz/seeds/{} is empty", self.name);
        for (path, seed) in &seeds {
            self.try_one(seed, &path.display().to_string());
        }
        let mut random =
            Random::seeded(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs());
        let time = time();
        let started = Instant::now();
        let mut count = 0u64;
        while started.elapsed() < time {
            let mut choice = random.fork();
            let mut input = seeds[choice.below(seeds.len())].1.clone();
            for _ in 0..=choice.below(6) {
                let other = &seeds[choice.below(seeds.len())].1;
                mutate(&mut input, other, &mut choice);
            }
            self.try_one(&input, "a mutation");
            count += 1;
        }
        println!("{}: {count} inputs", self.name);
    }

    fn seeds(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(self.name);
        let mut paths: Vec<PathBuf> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
    }

    /// What breaks a rule is kept, as cargo-fuzz would keep it.
    fn try_one(&self, input: &[u8], from: &str) {
        if catch_unwind(|| (self.check)(input)).is_err() {
            let path = std::env::temp_dir().join(format!("trucker-fuzz-{}", self.name));
            fs::write(&path, input).unwrap();
            panic!(
                "{} ({from}) breaks a rule; it is kept in {}: {:?}",
                self.name,
                path.display(),
                input.escape_ascii().to_string()
            );
        }
    }
}

fn time() -> Duration {
    let seconds = std::env::var("TRUCKER_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(if is_soak() { 60 } else { 2 }))
}

trait Below {
    fn below(&mut self, end: usize) -> usize;
}

impl Below for Random {
    /// A number less than `end`, which is more than 0.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.within(0..end as u64)).unwrap()
    }
}

fn mutate(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let at = random.below(input.len() + 1);
    let end = (at + random.below(9)).min(input.len());
    match random.below(7) {
        0 => drop(input.drain(at..end)),
        1 => insert(input, at, WORDS[random.below(WORDS.len())]),
        2 => insert(input, at, &[random.below(256) as u8]),
        3 => {
            let copy = input[at..end].to_vec();
            insert(input, at, &copy);
        }
        4 => {
            let from = random.below(other.len() + 1);
            let to = (from + random.below(64)).min(other.len());
            insert(input, at, &other[from..to]);
        }
        5 => input.truncate(at.max(1)),
        _ => {
            if let Some(byte) = input.get_mut(at) {
                *byte = [*byte ^ 1 << random.below(8), 0, 1, 0x7F, 0x80, 0xFF][random.below(6)];
            }
        }
    }
    input.truncate(LENGTH_MAX);
}

fn insert(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    input.splice(at..at, bytes.iter().copied());
}

#[test]
fn a_pgoutput_message_is_read_whole_or_refused() {
    Target { name: "decoder", check: targets::decoder::check }.run();
}

#[test]
fn a_stream_says_the_same_however_the_network_cuts_it() {
    Target { name: "stream", check: targets::stream::check }.run();
}

#[test]
fn keeping_track_of_lines_changes_no_text() {
    Target { name: "template", check: targets::template::check }.run();
}

#[test]
fn no_file_makes_the_configuration_panic_and_no_value_changes_its_structure() {
    Target { name: "config", check: targets::config::check }.run();
}

#[test]
fn a_sql_file_is_scanned_and_rendered_whatever_it_holds_and_no_name_becomes_sql() {
    Target { name: "sql", check: targets::sql::check }.run();
}

#[test]
fn a_value_for_clickhouse_is_bytes_or_an_error() {
    Target { name: "clickhouse", check: targets::clickhouse::check }.run();
}
