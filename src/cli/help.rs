//! `finetest man` and `finetest completions SHELL`: made from the command line's own definition.

use clap_complete::Shell;

use super::{command, print};
use crate::error::{Error, Result, exit};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  finetest completions bash > ~/.local/share/bash-completion/completions/finetest
  finetest completions zsh > ~/.zfunc/_finetest
  finetest completions fish > ~/.config/fish/completions/finetest.fish")]
pub(super) struct CompletionsArgs {
    /// Shell to complete commands in
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

pub(super) fn completions(args: &CompletionsArgs) -> Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "finetest", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(exit::PASS)
}

/// Prints the manual page: the program's, then a section for each command.
pub(super) fn man() -> Result<u8> {
    let mut page = Vec::new();
    let mut all = command();
    all.build();
    let fail = |error: std::io::Error| Error::failed(error.to_string());
    clap_mangen::Man::new(all.clone()).render(&mut page).map_err(fail)?;
    for command in all.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help") {
        let man = clap_mangen::Man::new(command.clone());
        page.extend(format!(".SH \"finetest {}\"\n", command.get_name()).into_bytes());
        man.render_description_section(&mut page).map_err(fail)?;
        man.render_options_section(&mut page).map_err(fail)?;
    }
    print(&String::from_utf8_lossy(&page))?;
    Ok(exit::PASS)
}
