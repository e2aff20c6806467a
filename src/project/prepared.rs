//! A project whose files are here: what a run, a comparison of backends and a training begin with. Nothing of it is opened twice.

use std::path::{Path, PathBuf};

use super::adapter::{self, Ready};
use super::arms::{self, Tested};
use super::asked::{Checked, open_tokenizer};
use super::base::Base;
use super::{Events, TrainPolicy, backend, early, made};
use crate::backend::{Backend, ENGINE_REVISION};
use crate::config::{BackendName, Config};
use crate::data;
use crate::error::Result;
use crate::files::{Lock, sweep, sweep_directory, write_atomically};
use crate::model::{ModelKind, sources};
use crate::record::{Arm, BASE, ModelInfo, RunRecord, TUNED};
use crate::run::{Inputs, RunEvent, Store, execute};
use crate::snapshot;

/// A project that is locked, checked, and whose base is on the disk.
pub(super) struct Prepared<'c> {
    pub(super) config: &'c Config,
    pub(super) checked: Checked,
    pub(super) base: Base,
    _lock: Lock,
}

impl<'c> Prepared<'c> {
    /// Locks a project and fetches its base. What was `checked` before needs no model.
    ///
    /// # Errors
    /// The project cannot be locked; the base cannot be fetched, or its small files do not fit what is asked.
    pub(super) fn open(config: &'c Config, checked: Checked, on_event: Events<'_>) -> Result<Self> {
        let lock = lock(config, on_event)?;
        let base = fetched(config, &mut |files| early::check_model(config, files, &checked), on_event)?;
        Ok(Self { config, checked, base, _lock: lock })
    }

    /// The project's adapter, trained on the backend `name` if it has to be.
    ///
    /// # Errors
    /// As [`adapter::ready`].
    pub(super) fn adapter(&self, name: BackendName, policy: TrainPolicy, on_event: Events<'_>) -> Result<Ready> {
        adapter::ready(self.config, name, &self.base, &self.checked, policy, on_event)
    }

    /// All adapters that are asked: the project's own, then those of `[arms]`.
    ///
    /// # Errors
    /// As [`arms::further`].
    pub(super) fn arms(&self, name: BackendName, tuned: Ready) -> Result<Vec<Tested>> {
        let further = arms::further(self.config, name, &self.base, &tuned)?;
        Ok(std::iter::once(Tested { name: TUNED.to_owned(), ready: tuned }).chain(further).collect())
    }

    /// A backend with base and these arms; nothing is loaded yet.
    ///
    /// # Errors
    /// It cannot take this base, or this program has none of that name.
    fn backend(&self, name: BackendName, arms: &[Tested]) -> Result<Box<dyn Backend>> {
        backend::of(self.config, name, &self.base, arms)
    }

    /// Asks base and these arms every case on a backend.
    ///
    /// # Errors
    /// The model cannot be loaded or asked.
    pub(super) fn ask(&self, name: BackendName, arms: &[Tested], on_event: Events<'_>) -> Result<RunRecord> {
        let Self { config, checked: Checked { scenarios, drift_text }, base, .. } = self;
        let (family, parameters) =
            arms.first().map_or_else(Default::default, |arm| (arm.ready.family.clone(), arm.ready.parameters));
        let model = ModelInfo {
            source: config.relative(Path::new(&config.model.source)),
            family,
            parameters,
            fingerprint: base.fingerprint.clone(),
            weights: base.weights.clone(),
        };
        let names = scenarios.iter().map(|s| s.name.as_str());
        let arms_shown: Vec<&str> = std::iter::once(BASE).chain(arms.iter().map(|arm| arm.name.as_str())).collect();
        let inputs = Inputs {
            project: config.project.clone(),
            made: made::made(config),
            model,
            arms: self.records(name, arms),
            scenarios,
            drift_text: drift_text.clone(),
            approved: snapshot::approved(&config.run.snapshots, names, &arms_shown),
        };
        let mut backend = self.backend(name, arms)?;
        let store = Store::new(config.store().join("store"));
        let run = execute(&inputs, &mut *backend, &store, on_event);
        // A backend knows no scenarios: of a prompt that does not fit, the check tells the file and the case.
        run.map_err(|error| open_tokenizer(config, &base.files, &self.checked).err().unwrap_or(error))
    }

    fn records(&self, name: BackendName, arms: &[Tested]) -> Vec<Arm> {
        let config = self.config;
        let context = config.model.context.map_or_else(|| "default".to_owned(), |c| c.to_string());
        let fingerprint = |adapter: &str| {
            let engine = format!("{} revision {ENGINE_REVISION}", backend::version(config, name));
            let all = [self.base.fingerprint.as_str(), adapter, &engine, &context].join("\n");
            blake3::hash(all.as_bytes()).to_hex().to_string()
        };
        let base = Arm { name: BASE.into(), fingerprint: fingerprint("none"), adapter: None, scale: 1.0 };
        let record = |Tested { name, ready }: &Tested| Arm {
            name: name.clone(),
            fingerprint: fingerprint(&format!("{} × {}", ready.hash, ready.scale)),
            adapter: Some(config.relative(&ready.directory)),
            scale: ready.scale,
        };
        std::iter::once(base).chain(arms.iter().map(record)).collect()
    }
}

/// One process works on a project at a time; a second waits and says so.
pub(crate) fn lock(config: &Config, on_event: Events<'_>) -> Result<Lock> {
    let path = config.store().join("lock");
    let lock = Lock::acquire(&path, || {
        on_event(RunEvent::note(format!("another finetest works on this project; waiting for {}", path.display())));
    })?;
    sweep_leftovers(config);
    ignore(config.store());
    Ok(lock)
}

/// Keeps a project's store out of its repository. One that somebody wrote stays; without one a run is worth the same.
fn ignore(store: &Path) {
    let path = store.join(".gitignore");
    if path.symlink_metadata().is_err() {
        let _ = write_atomically(&path, b"# Made by finetest; it may all be deleted at any time.\n*\n");
    }
}

/// Removes what killed runs of this project left half written; the project is locked, so nobody is writing.
fn sweep_leftovers(config: &Config) {
    if let Some(adapter) = config.adapter.as_ref().filter(|_| config.recipe.is_some()) {
        sweep_directory(&adapter.path);
    }
    sweep(config.store());
    for room in ["runs", "checkpoints", "replaced", "llama-cpp"] {
        let room = config.store().join(room);
        sweep(&room);
        let inside = std::fs::read_dir(&room).into_iter().flatten().flatten().map(|entry| entry.path());
        inside.filter(|path| path.is_dir()).for_each(|path| sweep(&path));
    }
}

/// Fetches the base model of a project; `check` may refuse it by its small files before its weights are downloaded.
fn fetched(config: &Config, check: sources::Check<'_>, on_event: Events<'_>) -> Result<Base> {
    let sources = sources::Sources::from_env()?;
    let files = sources.resolve_checked(&config.model, check, &mut |e| on_event(e.into()))?;
    let weights = sources.fingerprint(&files, &mut |e| on_event(e.into()))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(weights.as_bytes());
    let mut chat: Vec<&Path> = Vec::new();
    if let ModelKind::HuggingFace(found) = &files.kind {
        let optional = [&found.tokenizer, &found.tokenizer_config, &found.generation_config, &found.chat_template];
        chat.extend(optional.into_iter().flatten().map(PathBuf::as_path));
    }
    chat.extend(config.model.chat_template.as_deref());
    for path in chat {
        hasher.update(data::file_hash(path)?.as_bytes());
    }
    Ok(Base { files, fingerprint: hasher.finalize().to_hex().to_string(), weights })
}
