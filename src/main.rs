//! The `trucker` binary: hands the command line to the library and exits with its code.
//! It holds no logic of its own.

fn main() -> std::process::ExitCode {
    trucker::cli::main()
}
