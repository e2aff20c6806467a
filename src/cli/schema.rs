//! `finetest schema`: the JSON Schemas that are made from the types which read these files, as they are in `schemas/`.

use clap::ValueEnum;

use super::print;
use crate::config::{MANIFEST_SCHEMA, RUN_SCHEMA, SCENARIO_SCHEMA};
use crate::error::{Result, exit};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
An editor with a TOML language server checks and completes a file that begins with
  #:schema .finetest/schemas/manifest.schema.json
Every run writes the schemas of its version there.")]
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
        File::Manifest => MANIFEST_SCHEMA,
        File::Scenario => SCENARIO_SCHEMA,
        File::Run => RUN_SCHEMA,
    })?;
    Ok(exit::PASS)
}
