//! `finetest list`.

use super::json;
use super::options::{Global, ListFormat, Output};
use super::run::Select;
use crate::error::{Result, exit};
use crate::project;
use crate::shown::visible;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// List only the tests whose name contains one of these
    #[arg(value_name = "NAME")]
    filters: Vec<String>,
    #[command(flatten)]
    select: Select,
    #[command(flatten)]
    output: Output<ListFormat>,
}

pub(super) fn list(global: &Global, args: &Args) -> Result<u8> {
    let selection = args.select.selection(&args.filters)?;
    let config = global.project()?;
    args.output.check(Some(&config))?;
    let tests = project::list(&config, &selection)?;
    let text = match args.output.format() {
        ListFormat::Json => json(&tests)?,
        ListFormat::Terminal => {
            let line = |test: &project::Listed| {
                let tags: String = test.tags.iter().map(|tag| format!(" #{tag}")).collect();
                let last = test.last.last().map_or_else(String::new, |last| format!("  [{last}]"));
                format!("{}{tags}{last}\n", test.test)
            };
            visible(&tests.iter().map(line).collect::<String>()).into_owned()
        }
    };
    args.output.print(&text)?;
    Ok(exit::PASS)
}
