//! `cargo finetest`: the same command line, under the name that cargo looks for.

use std::process::ExitCode;

fn main() -> ExitCode {
    finetest::cli::main(std::env::args_os())
}
