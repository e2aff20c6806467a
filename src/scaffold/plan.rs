//! What `finetest init` writes into a folder, decided from what is wanted and what was found there.

use std::path::{Path, PathBuf};

use super::base::{Base, Template, template_beside};
use super::found::Found;
use super::manifest::Manifest;
use super::material::{Material, Origin};
use super::task::{Head, scenario};
use super::{Ci, Language, NewFile, Wishes, control, sample, task};
use crate::config::{MANIFEST, SCENARIO_LINE};
use crate::error::{Error, Result};
use crate::files::read_regular_text;
use crate::model::lora;
use crate::record::Role;
use crate::shown::plain;

/// finetest's own folder, which belongs into no repository.
const STORE: &str = ".finetest/";
/// Bytes of a `.gitignore`.
const MOST_IGNORE_BYTES: u64 = 1 << 20;

/// What is written, and what a person should know.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// All files; the manifest is one of them.
    pub(crate) files: Vec<NewFile>,
    /// What was chosen, and why.
    pub(crate) notes: Vec<String>,
    /// What to do next, a line each.
    pub(crate) next: Vec<String>,
}

/// What is tested: an adapter as it is, or one that is trained.
struct Subject {
    adapter: Option<PathBuf>,
    material: Option<Material>,
    base: Base,
    chat_template: Option<Template>,
}

/// Decides what to write.
///
/// # Errors
/// Several adapters or data files could be meant, a base is not known, or a file that is named cannot be used.
pub(crate) fn plan(root: &Path, found: &Found, wishes: &Wishes) -> Result<Plan> {
    let mut notes = Vec::new();
    let subject = subject(root, found, wishes, &mut notes)?;
    let is_chat = subject.is_chat(root);
    let (task, is_exact) = subject.task(is_chat);
    let mut files = Vec::new();
    let chat_template = subject.chat_template.as_ref().map(|template| match template {
        Template::File(path) => task::shown(path),
        Template::Text(text) => {
            files.push(NewFile::new("chat_template.jinja", text.as_str()));
            "chat_template.jinja".to_owned()
        }
    });
    let name = project_name(root, wishes)?;
    let manifest = Manifest {
        name: &name,
        base: &subject.base,
        chat_template,
        adapter: subject.adapter.as_deref(),
        material: subject.material.as_ref(),
        is_exact,
        has_task: subject.material.is_some(),
    };
    files.push(NewFile::new(MANIFEST, manifest.text()));
    files.push(task);
    files.extend(control::scenarios(is_chat));
    for scenario in files.iter_mut().filter(|file| file.path.starts_with("scenarios/")) {
        scenario.text.insert_str(0, SCENARIO_LINE);
    }
    files.extend(subject.material.iter().filter_map(|material| material.file.clone()));
    let mut next = next_steps(&subject, &name);
    files.extend(ignored(root, &mut next));
    let language = wishes.language.unwrap_or(found.language);
    if language == Language::Rust {
        files.extend(rust(found, &mut next));
    }
    let trains = subject.adapter.is_none();
    files.extend(workflow(root, wishes.ci, trains, &mut next));
    notes.extend(subject.base.note.clone());
    Ok(Plan { files, notes, next })
}

fn subject(root: &Path, found: &Found, wishes: &Wishes, notes: &mut Vec<String>) -> Result<Subject> {
    let adapter = match &wishes.adapter {
        Some(path) => Some(inside(root, path)),
        None if wishes.train == Some(true) => None,
        None => one(&found.adapters, "adapters", "--adapter PATH, or --train to train one")?,
    };
    let described = adapter.as_ref().map(|path| lora::describe(&root.join(path))).transpose()?;
    if adapter.is_none() && wishes.train == Some(false) {
        let message = "--no-train needs an adapter to test, and there is none here; name one: --adapter PATH";
        return Err(Error::Usage(message.into()));
    }
    if let (Some(path), Some(described)) = (&adapter, &described) {
        let rank = described.r.map_or(String::new(), |r| format!(", rank {r}"));
        let base = if described.base.is_empty() {
            "names no base"
        } else {
            &format!("trained on {}", plain(&described.base, 100))
        };
        notes.push(format!("adapter {}: {base}{rank}", task::shown(path)));
    }
    let base = base(root, found, wishes, adapter.as_deref(), described.as_ref().map(|d| d.base.as_str()))?;
    let material = material(root, found, wishes, adapter.is_none(), &base, notes)?;
    let beside = adapter.as_ref().and_then(|path| template_beside(root, path));
    let chat_template = beside.filter(|template| template.is_usable(root));
    Ok(Subject { adapter, material, base, chat_template })
}

/// The base: the one that is named, the adapter's, the one of the only training that is described here, or the default.
fn base(root: &Path, found: &Found, wishes: &Wishes, adapter: Option<&Path>, of_adapter: Option<&str>) -> Result<Base> {
    if let Some(source) = &wishes.model {
        return Base::named(root, source);
    }
    let named = found.trainings.iter().map(|training| training.base.as_str());
    if let (Some(adapter), Some(name)) = (adapter, of_adapter) {
        // A path of the machine that it was trained on says nothing; the configuration beside it may name the hub's model.
        let known = std::iter::once(name).chain(named).find_map(|name| Base::of_training(root, name));
        return known.ok_or_else(|| {
            let said = if name.is_empty() {
                "names no base model".to_owned()
            } else {
                format!("names {name:?} as its base, which is not here")
            };
            Error::model(adapter, format!("{said}; name the model that it was trained on: --model SOURCE"))
        });
    }
    let mut bases: Vec<Base> = named.filter_map(|name| Base::of_training(root, name)).collect();
    bases.dedup();
    Ok(if bases.len() == 1 { bases.remove(0) } else { Base::default() })
}

fn material(
    root: &Path,
    found: &Found,
    wishes: &Wishes,
    trains: bool,
    base: &Base,
    notes: &mut Vec<String>,
) -> Result<Option<Material>> {
    let here = |path: &str| Some(PathBuf::from(path)).filter(|path| root.join(path).is_file());
    let of_training = || found.trainings.iter().find_map(|training| here(training.data.as_deref()?));
    let path = match &wishes.data {
        Some(path) => Some(inside(root, path)),
        None if trains => match of_training() {
            Some(path) => Some(path),
            None => one(&found.data, "files of training data", "--data FILE")?,
        },
        // An adapter is tested without its data too.
        None => of_training().or_else(|| found.data.first().filter(|_| found.data.len() == 1).cloned()),
    };
    let Some(path) = path else {
        if !trains {
            return Ok(None);
        }
        notes.push(format!("found no training data, so {} is a small example task", sample::TRAIN));
        return Material::sample(base.is_chat(root) == Some(true)).map(Some);
    };
    match Material::read(root, &path, &found.sets, trains) {
        Ok(material) => {
            let (examples, written) = (material.examples, &material.train);
            let of =
                if material.file.is_some() { format!(", converted to JSON Lines in {written}") } else { String::new() };
            notes.push(format!("data {}: {examples} examples{of}", task::shown(&path)));
            if trains && material.is_chat && base.is_chat(root) == Some(false) {
                notes.push(format!(
                    "{} has no chat template, and the data are chats; set [model] chat_template",
                    base.source
                ));
            }
            Ok(Some(material))
        }
        // What was only found need not be usable.
        Err(_) if !trains && wishes.data.is_none() => Ok(None),
        Err(error) => Err(error),
    }
}

impl Subject {
    /// Whether questions can be asked as chats.
    fn is_chat(&self, root: &Path) -> bool {
        let of_data = self.material.as_ref().is_some_and(|material| material.is_chat);
        self.chat_template.is_some() || self.base.is_chat(root).unwrap_or(of_data)
    }

    /// The target scenario, and whether its cases say exactly what is right.
    fn task(&self, is_chat: bool) -> (NewFile, bool) {
        const PATH: &str = "scenarios/task.toml";
        match &self.material {
            Some(material) if material.origin == Origin::Sample => (sample::scenario(material.is_chat), true),
            Some(material) if !material.asked.is_empty() => {
                let comment = material.comment();
                let description = format!("answers as {} does", material.train);
                let head = Head { comment: &comment, role: Role::Target, description: &description };
                let made = scenario(&head, &material.asked);
                if made.cases > 0 {
                    (NewFile::new(PATH, made.text), made.is_exact)
                } else {
                    (placeholder(PATH, is_chat), false)
                }
            }
            _ => (placeholder(PATH, is_chat), false),
        }
    }
}

/// A target scenario where nobody knows what the adapter is for.
fn placeholder(path: &str, is_chat: bool) -> NewFile {
    let text = if is_chat { include_str!("texts/task.toml") } else { include_str!("texts/task-raw.toml") };
    NewFile::new(path, text)
}

/// The one that was found, if one was.
fn one(found: &[PathBuf], what: &str, how: &str) -> Result<Option<PathBuf>> {
    match found {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        several => {
            let shown: Vec<String> = several.iter().take(5).map(|path| task::shown(path)).collect();
            let more = if several.len() > 5 { format!(" and {} more", several.len() - 5) } else { String::new() };
            Err(Error::Usage(format!("there are several {what} here: {}{more}; name one: {how}", shown.join(", "))))
        }
    }
}

/// A path as the manifest says it: relative to the project's folder where it lies in it.
fn inside(root: &Path, path: &Path) -> PathBuf {
    let relative = crate::config::relative(root, path);
    if relative.is_empty() { PathBuf::from(".") } else { PathBuf::from(relative) }
}

/// The project's name, and so its adapter's: the one that is wanted, else the folder's.
fn project_name(root: &Path, wishes: &Wishes) -> Result<String> {
    if let Some(name) = &wishes.name {
        let fits = |c: char| c.is_alphanumeric() || "-_. ".contains(c);
        if name.trim().is_empty() || name.starts_with('.') || name.len() > 100 || !name.chars().all(fits) {
            return Err(Error::Usage(format!("--name is {name:?}, expected letters, digits, -, _ and .")));
        }
        return Ok(name.trim().to_owned());
    }
    let folder = std::path::absolute(root).ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    let allowed = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let name: String = folder.unwrap_or_default().chars().map(allowed).take(60).collect();
    let name = name.trim_start_matches('.');
    Ok(if name.is_empty() { "project".to_owned() } else { name.to_owned() })
}

/// The `.gitignore` with finetest's folder in it, unless it is there.
fn ignored(root: &Path, next: &mut Vec<String>) -> Option<NewFile> {
    let path = root.join(".gitignore");
    let file = |text: String| Some(NewFile { replaces: true, ..NewFile::new(".gitignore", text) });
    let Ok(there) = path.symlink_metadata() else { return file(format!("{STORE}\n")) };
    let text = read_regular_text(&path, MOST_IGNORE_BYTES).ok();
    let has_it = |line: &str| [".finetest", ".finetest/", "/.finetest", "/.finetest/"].contains(&line.trim());
    match text.filter(|_| there.is_file()) {
        Some(text) if text.lines().any(has_it) => None,
        Some(text) => {
            let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
            file(format!("{text}{end}{STORE}\n"))
        }
        // A link leads to a file that other projects may share.
        None => {
            next.push(format!(".gitignore             add {STORE} to it; it is a link or not a text file"));
            None
        }
    }
}

fn next_steps(subject: &Subject, name: &str) -> Vec<String> {
    let mut next = Vec::new();
    if subject.material.is_none() {
        next.push("scenarios/task.toml    write cases for what the adapter does".to_owned());
    }
    if subject.adapter.is_none() {
        next.push(format!("finetest run           train adapters/{name}, then test it"));
    } else {
        next.push("finetest run           test the adapter".to_owned());
    }
    next.push("finetest check         memory and time that a run will take".to_owned());
    next
}

/// `tests/scenarios.rs`, and what Cargo.toml needs for it, which is for a person to add.
fn rust(found: &Found, next: &mut Vec<String>) -> Option<NewFile> {
    if !found.has_package {
        next.push("cargo test             needs a package: run finetest init in the folder of one".to_owned());
        return None;
    }
    next.push(
        "cargo test             first add this to Cargo.toml:\n\n\
         [dev-dependencies]\nfinetest = { path = \"../finetest\" }   # its folder: finetest is not on crates.io yet\n\n\
         [[test]]\nname = \"scenarios\"\nharness = false\n"
            .to_owned(),
    );
    let text = "//! The scenarios of finetest.toml as tests. Cargo.toml needs a `[[test]]` named \"scenarios\" with `harness = false`.\n\n\
                finetest::scenarios!();\n";
    Some(NewFile::new("tests/scenarios.rs", text))
}

/// The workflow of a CI.
fn workflow(root: &Path, ci: Ci, trains: bool, next: &mut Vec<String>) -> Option<NewFile> {
    let train = if trains { "auto" } else { "never" };
    let file = match ci {
        Ci::None => return None,
        Ci::Github => {
            let text = include_str!("texts/github.yml").replace("TRAIN: TRAIN", &format!("TRAIN: {train}"));
            NewFile::new(".github/workflows/finetest.yml", text)
        }
        Ci::Gitlab => {
            let text = include_str!("texts/gitlab.yml").replace("TRAIN: TRAIN", &format!("TRAIN: {train}"));
            // A project has one such file, which may be its own.
            let is_free = root.join(".gitlab-ci.yml").symlink_metadata().is_err();
            if !is_free {
                next.push(".gitlab-ci.yml         add this line: include: { local: .gitlab/finetest.yml }".to_owned());
            }
            NewFile::new(if is_free { ".gitlab-ci.yml" } else { ".gitlab/finetest.yml" }, text)
        }
    };
    next.push(format!("{:<22} replace REPOSITORY with the address of finetest's repository", file.path));
    if trains {
        next.push("git add adapters       commit the trained adapter: without it, each CI job trains one".to_owned());
    }
    Some(file)
}
