//! `finetest new`.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use super::options::Global;
use super::print;
use crate::error::{Result, exit};
use crate::record;
use crate::scaffold::{NewScenario, new_scenario};
use crate::shown::visible;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Write a scenario: a template, or cases from a JSONL or CSV file
    Scenario(Scenario),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  finetest new scenario refunds                           a template to write in
  finetest new scenario greetings --role control
  finetest new scenario capitals --from capitals.csv --prompt 'What is the capital of {{country}}?' \\
      --check 'contains = \"{{capital}}\"'
  finetest new scenario tickets --from heldout.jsonl      lines of a training format: messages, alpaca, sharegpt, …")]
struct Scenario {
    /// Name of the scenario: letters a to z, digits, - and _
    #[arg(value_name = "NAME")]
    name: String,
    /// Whether the fine-tune is for it, or must not lose it
    #[arg(long, value_enum, value_name = "ROLE", default_value = "target")]
    role: Role,
    /// Description of the ability, in one line
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// File that cases are made from: .jsonl or .csv
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Prompt of each case; {{column}} is replaced by the row's text
    #[arg(long, value_name = "TEXT", requires = "from")]
    prompt: Option<String>,
    /// Check of each answer, such as 'contains = "{{answer}}"' or json; may be given several times
    #[arg(long, value_name = "CHECK", requires = "prompt")]
    check: Vec<String>,
    /// Maximum number of cases
    #[arg(long, value_name = "N", requires = "from", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
}

/// Roles of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    Target,
    Control,
}

pub(super) fn new(global: &Global, args: &Args) -> Result<u8> {
    let What::Scenario(args) = &args.what;
    let config = global.project()?;
    let role = match args.role {
        Role::Target => record::Role::Target,
        Role::Control => record::Role::Control,
    };
    let wanted = NewScenario {
        name: &args.name,
        role,
        description: args.description.as_deref(),
        from: args.from.as_deref(),
        prompt: args.prompt.as_deref(),
        checks: &args.check,
        limit: args.limit.map(|limit| limit as usize),
    };
    let (path, cases) = new_scenario(&config, &wanted)?;
    let cases = if cases == 1 { "1 case".to_owned() } else { format!("{cases} cases") };
    print(&format!("{}: {cases}\n", visible(&path.display().to_string())))?;
    Ok(exit::PASS)
}
