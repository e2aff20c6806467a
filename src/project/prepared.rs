//! A project whose files are here: what a run, a comparison of backends and a training begin with. Nothing of it is opened twice.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::asked::Checked;
use super::base::{Base, OF_SERVER, files_here};
use super::{Events, early, server};
use crate::backend::Remote;
use crate::config::{Config, write_schemas};
use crate::data;
use crate::error::Result;
use crate::files::{Lock, sweep, sweep_directory, write_atomically};
use crate::model::{ModelFiles, ModelKind, sources};
use crate::run::RunEvent;

/// A project that is locked, checked, and whose base is on the disk.
pub(super) struct Prepared<'c> {
    pub(super) config: &'c Config,
    pub(super) checked: Checked,
    pub(super) base: Base,
    /// The server that answers, where one does.
    pub(super) server: Option<Arc<Remote>>,
    _lock: Lock,
}

impl<'c> Prepared<'c> {
    /// Locks a project and fetches its base, without the weights where a server has them. What was `checked` before needs no model.
    ///
    /// # Errors
    /// The project cannot be locked; the base cannot be fetched, or its small files do not fit what is asked.
    pub(super) fn open(config: &'c Config, checked: Checked, on_event: Events<'_>) -> Result<Self> {
        let compared = config.remote.as_ref().is_some_and(|remote| remote.prove_weights);
        let weights = compared || config.recipe.is_some() || files_here(config).is_some();
        Self::open_with(config, checked, weights, on_event)
    }

    /// As [`Self::open`], with the weights in any case.
    pub(super) fn open_whole(config: &'c Config, checked: Checked, on_event: Events<'_>) -> Result<Self> {
        Self::open_with(config, checked, true, on_event)
    }

    fn open_with(config: &'c Config, checked: Checked, weights: bool, on_event: Events<'_>) -> Result<Self> {
        let lock = lock(config, on_event)?;
        // Before anything is downloaded. A training needs no server.
        let server = if checked.scenarios.is_empty() { None } else { server::reach(config)? };
        let check = &mut |files: &ModelFiles| early::check_model(config, files, &checked);
        let base = match &server {
            Some(_) if !weights => described(config, check, on_event)?,
            _ => fetched(config, check, on_event)?,
        };
        Ok(Self { config, checked, base, server, _lock: lock })
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
    write_schemas(config.store());
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
    for room in ["runs", "checkpoints", "replaced", "llama-cpp", "schemas"] {
        let room = config.store().join(room);
        sweep(&room);
        let inside = std::fs::read_dir(&room).into_iter().flatten().flatten().map(|entry| entry.path());
        inside.filter(|path| path.is_dir()).for_each(|path| sweep(&path));
    }
}

/// A base whose weights are a server's: of a repository its small files are downloaded, and no weights.
fn described(config: &Config, check: sources::Check<'_>, on_event: Events<'_>) -> Result<Base> {
    let files = sources::Sources::from_env()?.describe(&config.model, &mut |e| on_event(e.into()))?;
    check(&files)?;
    let mut hasher = blake3::Hasher::new();
    if let ModelKind::HuggingFace(found) = &files.kind {
        hasher.update(data::file_hash(&found.config)?.as_bytes());
    }
    hash_chat(&files, config, &mut hasher)?;
    Ok(Base { files, fingerprint: hasher.finalize().to_hex().to_string(), weights: OF_SERVER.into() })
}

/// Fetches the base model of a project; `check` may refuse it by its small files before its weights are downloaded.
fn fetched(config: &Config, check: sources::Check<'_>, on_event: Events<'_>) -> Result<Base> {
    let sources = sources::Sources::from_env()?;
    let files = sources.resolve_checked(&config.model, check, &mut |e| on_event(e.into()))?;
    let weights = sources.fingerprint(&files, &mut |e| on_event(e.into()))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(weights.as_bytes());
    hash_chat(&files, config, &mut hasher)?;
    Ok(Base { files, fingerprint: hasher.finalize().to_hex().to_string(), weights })
}

/// Hashes the files that prompts are made with.
fn hash_chat(files: &ModelFiles, config: &Config, hasher: &mut blake3::Hasher) -> Result<()> {
    let mut chat: Vec<&Path> = Vec::new();
    if let ModelKind::HuggingFace(found) = &files.kind {
        let optional = [&found.tokenizer, &found.tokenizer_config, &found.generation_config, &found.chat_template];
        chat.extend(optional.into_iter().flatten().map(PathBuf::as_path));
    }
    chat.extend(config.model.chat_template.as_deref());
    for path in chat {
        hasher.update(data::file_hash(path)?.as_bytes());
    }
    Ok(())
}
