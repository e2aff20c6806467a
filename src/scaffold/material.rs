//! The data that a new project trains on and takes its first target cases from.

use std::path::{Path, PathBuf};

use super::convert::{self, LocalSet};
use super::task::{self, suitable};
use super::{NewFile, sample};
use crate::config::{DataFormat, OnError, Recipe};
use crate::data::{self, Dataset, Example};
use crate::error::Result;

/// Target cases that are made of data.
const CASES: usize = 8;
/// The largest share that is held back from training for them.
const MOST_HELD_BACK: f64 = 0.25;
/// Names of files that hold examples to validate with.
const VALIDATION: [&str; 5] = ["validation", "valid", "val", "dev", "eval"];

/// Data of a new project.
pub(super) struct Material {
    /// `[data] train`.
    pub(super) train: String,
    /// `[data] validation`.
    pub(super) validation: Option<String>,
    /// `[data] on_error = "skip"`: lines that cannot be used.
    pub(super) skipped: usize,
    /// `[train] val_set_size`, when it is not the default.
    pub(super) val_set_size: Option<f64>,
    /// A file that has to be written: data of another form, or data of finetest's own.
    pub(super) file: Option<NewFile>,
    /// What the target cases are made of.
    pub(super) asked: Vec<Example>,
    /// What a training does with those.
    pub(super) origin: Origin,
    /// How many examples there are.
    pub(super) examples: usize,
    /// Bytes of all of them.
    pub(super) bytes: usize,
    /// Bytes of the longest.
    pub(super) longest: usize,
    /// Whether they are chats.
    pub(super) is_chat: bool,
}

/// Where the lines of target cases are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// finetest holds them back from its training.
    HeldBack,
    /// A file of their own.
    Validation,
    /// The training data: the adapter may have learnt them.
    Trained,
    /// finetest's own task, whose scenario is written beside it.
    Sample,
}

impl Material {
    /// finetest's own task.
    pub(super) fn sample(is_chat: bool) -> Result<Self> {
        let file = sample::data(is_chat);
        let examples = data::read_text(Path::new(&file.path), &file.text, OnError::Stop)?.examples;
        let path = file.path.clone();
        Ok(Self { file: Some(file), ..Self::of(path, &examples, Origin::Sample) })
    }

    /// A person's own data. `trains`: whether finetest is to train on it.
    ///
    /// # Errors
    /// A file that cannot be read, or holds no example that can be used.
    pub(super) fn read(root: &Path, path: &Path, sets: &[LocalSet], trains: bool) -> Result<Self> {
        let shown = task::shown(path);
        let set = sets.iter().find(|set| set.path == path);
        let full = root.join(path);
        let is_lines = path.extension().is_some_and(|e| e == "jsonl");
        let whole = if is_lines { data::load(&full, DataFormat::Auto, OnError::Stop).ok() } else { None };
        let (dataset, file, skipped) = match whole {
            Some(dataset) => (dataset, None, 0),
            None if is_lines && set.is_none() => {
                let dataset = data::load(&full, DataFormat::Auto, OnError::Skip)?;
                let skipped = dataset.skipped.len();
                (dataset, None, skipped)
            }
            None => {
                let (dataset, file, unused) = converted(root, &full, set)?;
                (dataset, Some(file), unused)
            }
        };
        let written = file.as_ref().filter(|_| trains).map_or(shown, |file| file.path.clone());
        let mut material = Self::of(written, &dataset.examples, Origin::Trained);
        // What was converted has no line that cannot be used.
        material.skipped = if file.is_some() { 0 } else { skipped };
        // Only a training reads it.
        material.file = file.filter(|_| trains);
        match validation_beside(root, path).filter(|_| set.is_none()) {
            Some((path, examples)) => {
                material.validation = Some(task::shown(&path));
                material.asked = suitable(&examples, CASES);
                material.origin = Origin::Validation;
            }
            None if trains => material.hold_back(dataset.examples),
            None => {}
        }
        Ok(material)
    }

    fn of(train: String, examples: &[Example], origin: Origin) -> Self {
        Self {
            train,
            validation: None,
            skipped: 0,
            val_set_size: None,
            file: None,
            asked: suitable(examples, CASES),
            origin,
            examples: examples.len(),
            bytes: examples.iter().map(|example| example.turns.bytes()).sum(),
            longest: examples.iter().map(|example| example.turns.bytes()).max().unwrap_or_default(),
            is_chat: task::is_chat(examples),
        }
    }

    /// Asks the lines that the training holds back for validation: it never learns them.
    fn hold_back(&mut self, examples: Vec<Example>) {
        let default = Recipe::default();
        let share = (CASES as f64 / examples.len() as f64).clamp(default.val_set_size, MOST_HELD_BACK);
        let share = (share * 100.0).ceil() / 100.0;
        let (_, held) = data::hold_back(examples, share, default.seed);
        let asked = suitable(&held, CASES);
        if !asked.is_empty() {
            self.asked = asked;
            self.origin = Origin::HeldBack;
            self.val_set_size = Some(share);
        }
    }

    /// The comment above a target scenario of these lines.
    pub(super) fn comment(&self) -> String {
        let train = &self.train;
        match self.origin {
            Origin::HeldBack => format!(
                "# What the fine-tune is for. These are lines of {train} that finetest holds back from training.\n\
                 # [train] val_set_size and seed decide which lines these are: if you change them, write cases of your own here.\n"
            ),
            Origin::Validation => format!(
                "# What the fine-tune is for. These are lines of {}, which finetest does not train on.\n",
                self.validation.as_deref().unwrap_or(train)
            ),
            Origin::Trained | Origin::Sample => format!(
                "# What the fine-tune is for. These are lines of {train}: the adapter may have been trained on them.\n\
                 # Replace them with lines that it has not seen, or the result says little.\n"
            ),
        }
    }
}

/// The examples of a file in another form, and the file that they become.
fn converted(root: &Path, path: &Path, set: Option<&LocalSet>) -> Result<(Dataset, NewFile, usize)> {
    let (text, unused) = convert::to_lines(path, set)?;
    // A name that is free, if one is: what is there is never replaced.
    let names = [sample::TRAIN, "data/finetest-train.jsonl"];
    let free = names.iter().find(|name| root.join(name).symlink_metadata().is_err());
    let name = *free.unwrap_or(&names[1]);
    let mut dataset = data::read_text(Path::new(name), &text, OnError::Skip)?;
    let lines: Vec<&str> = text.lines().collect();
    let kept: String = dataset.examples.iter().map(|example| format!("{}\n", lines[example.line - 1])).collect();
    for (at, example) in dataset.examples.iter_mut().enumerate() {
        example.line = at + 1;
    }
    let unused = unused + dataset.skipped.len();
    Ok((dataset, NewFile::new(name, kept), unused))
}

/// Validation data that lies beside training data: `data/validation.jsonl`.
fn validation_beside(root: &Path, train: &Path) -> Option<(PathBuf, Vec<Example>)> {
    let folder = train.parent().unwrap_or(Path::new(""));
    let paths = VALIDATION.iter().map(|name| folder.join(format!("{name}.jsonl")));
    paths.filter(|path| root.join(path).is_file()).find_map(|path| {
        let examples = data::load(root.join(&path), DataFormat::Auto, OnError::Stop).ok()?.examples;
        Some((path, examples))
    })
}
