//! `finetest schema`: the JSON Schemas that are made from the types which read these files, as they are in `schemas/`.

use clap::ValueEnum;

use super::print;
use crate::error::{Result, exit};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
An editor with a TOML language server checks and completes a file that begins with
  #:schema ./finetest.schema.json
where `finetest schema manifest > finetest.schema.json` wrote the schema.")]
pub(super) struct Args {
    /// File that the schema is of
    #[arg(value_enum, value_name = "FILE")]
    file: File,
}

/// A file with a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum File {
    /// finetest.toml
    Manifest,
    /// scenarios/NAME.toml
    Scenario,
    /// run.json
    Run,
}

pub(super) fn schema(args: &Args) -> Result<u8> {
    print(match args.file {
        File::Manifest => include_str!("../../schemas/manifest.schema.json"),
        File::Scenario => include_str!("../../schemas/scenario.schema.json"),
        File::Run => include_str!("../../schemas/run.schema.json"),
    })?;
    Ok(exit::PASS)
}
