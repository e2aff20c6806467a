//! What a project starts with. `finetest init` looks at a folder, decides what suits it, and writes a manifest and first scenarios;
//! `finetest new scenario` adds a scenario.
//!
//! `found.rs` looks at the folder, `plan.rs` decides what to write, `place.rs` writes all files or none.

mod base;
mod control;
mod convert;
mod found;
mod manifest;
mod material;
mod place;
mod plan;
mod sample;
mod scenario;
mod task;
mod yaml;

use std::path::PathBuf;

pub(crate) use found::Found;
pub(crate) use place::{place, undo_killed};
pub(crate) use plan::{Plan, plan};
pub(crate) use scenario::{NewScenario, new_scenario};

/// What a person wants of a new project; `None` leaves it to what is found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wishes {
    /// Source of the base model.
    pub(crate) model: Option<String>,
    /// An adapter to test.
    pub(crate) adapter: Option<PathBuf>,
    /// Training data.
    pub(crate) data: Option<PathBuf>,
    /// The project's name.
    pub(crate) name: Option<String>,
    /// What the scenarios are run from, besides the command line.
    pub(crate) language: Option<Language>,
    /// Which CI gets a workflow.
    pub(crate) ci: Ci,
    /// Whether the project trains its adapter.
    pub(crate) train: Option<bool>,
}

/// What kind of project a folder is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Language {
    Rust,
    Python,
    #[default]
    Plain,
}

/// A CI that a workflow is written for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Ci {
    Github,
    Gitlab,
    #[default]
    None,
}

/// A file of a new project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewFile {
    /// Relative to the project's folder, with `/`.
    pub(crate) path: String,
    /// All of its content.
    pub(crate) text: String,
    /// Whether it takes the place of a file that is there: of a `.gitignore`, which keeps its lines.
    pub(crate) replaces: bool,
}

impl NewFile {
    fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self { path: path.into(), text: text.into(), replaces: false }
    }
}

/// A text as TOML writes it, in quotes.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
