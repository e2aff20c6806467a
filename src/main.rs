//! The command line; see [`finetest::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    finetest::cli::main(std::env::args_os())
}
