//! The program: its role by its first argument, its exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    // Before anything is allocated that the supervisor would keep for years.
    if args.next().is_some_and(|a| a == coloc::runtime::monitor::ROLE) {
        return match coloc::runtime::monitor::Job::from_args(args) {
            Some(job) => coloc::cli::report(&coloc::runtime::monitor::run(&job)),
            None => ExitCode::from(2),
        };
    }
    coloc::cli::main()
}
