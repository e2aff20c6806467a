//! `checkpoint-<step>/`: the adapter in f32, the optimizer's moments and the trainer's state, with the checksum of each. A directory
//! appears whole or not at all; a training that was killed continues from the newest and ends with the same bytes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::optimizer::Moments;
use super::state::{TRAINER_STATE, TrainerState};
use crate::config::AdapterDtype;
use crate::error::{Error, Result};
use crate::files::{WRITING, read_own, read_regular_text, step, sync_directory, write_atomically};
use crate::model::formats::safetensors::{EncodedTensor, read_tensors, write_tensors};
use crate::model::lora::{self, ADAPTER_CONFIG, ADAPTER_WEIGHTS, Adapter};

const PREFIX: &str = "checkpoint-";
const OPTIMIZER: &str = "optimizer.safetensors";
/// The BLAKE3 hash of every other file of a checkpoint, by its name: a flipped bit or an edited step would end in another adapter.
const CHECKSUMS: &str = "checksums.json";
/// The files that have one.
const CHECKED: [&str; 4] = [ADAPTER_WEIGHTS, ADAPTER_CONFIG, OPTIMIZER, TRAINER_STATE];

/// All that a training needs to go on.
pub(crate) struct Checkpoint {
    pub(crate) adapter: Adapter,
    /// By `<module path>.lora_A` / `.lora_B`.
    pub(crate) moments: BTreeMap<String, Moments>,
    pub(crate) state: TrainerState,
}

impl Checkpoint {
    /// Writes `directory/checkpoint-<step>` and removes the oldest beyond `keep`.
    pub(crate) fn save(&self, directory: &Path, keep: usize) -> Result<()> {
        std::fs::create_dir_all(directory).map_err(Error::io(directory, "create"))?;
        let partial =
            tempfile::Builder::new().prefix(WRITING).tempdir_in(directory).map_err(Error::io(directory, "write"))?;
        lora::save(&self.adapter, partial.path(), AdapterDtype::F32)?;
        let mut tensors = Vec::new();
        for (name, moments) in &self.moments {
            for (kind, values) in [("exp_avg", &moments.first), ("exp_avg_sq", &moments.second)] {
                tensors.push(EncodedTensor::f32(format!("{name}.{kind}"), vec![values.len()], values));
            }
        }
        write_tensors(&partial.path().join(OPTIMIZER), &tensors)?;
        self.state.save(&partial.path().join(TRAINER_STATE))?;
        let checksums =
            serde_json::to_string_pretty(&checksums(partial.path())?).map_err(|e| Error::failed(e.to_string()))?;
        write_atomically(&partial.path().join(CHECKSUMS), checksums.as_bytes())?;
        let path = directory.join(format!("{PREFIX}{}", self.state.global_step));
        if path.exists() {
            std::fs::remove_dir_all(&path).map_err(Error::io(&path, "replace"))?;
        }
        step().map_err(Error::io(&path, "write"))?;
        std::fs::rename(partial.path(), &path).map_err(Error::io(&path, "write"))?;
        // It was moved, so there is nothing left to remove.
        let _ = partial.keep();
        sync_directory(directory)?;
        step().map_err(Error::io(&path, "write"))?;
        for (_, old) in list(directory).into_iter().rev().skip(keep) {
            std::fs::remove_dir_all(&old).map_err(Error::io(&old, "remove"))?;
        }
        Ok(())
    }

    /// The newest checkpoint of `directory` whose training has this fingerprint. One that cannot be read is passed over, and the
    /// reason given with the result.
    pub(crate) fn newest(directory: &Path, fingerprint: &str) -> (Option<Self>, Vec<Error>) {
        let mut errors = Vec::new();
        for (_, path) in list(directory).into_iter().rev() {
            match Self::load(&path) {
                Ok(found) if found.state.fingerprint == fingerprint => return (Some(found), errors),
                Ok(_) => {}
                Err(error) => errors.push(error),
            }
        }
        (None, errors)
    }

    fn load(path: &Path) -> Result<Self> {
        check(path)?;
        let state = TrainerState::load(&path.join(TRAINER_STATE))?;
        let adapter = lora::load(path)?;
        let optimizer = path.join(OPTIMIZER);
        let mut tensors = read_tensors(&optimizer)?;
        let mut moments = BTreeMap::new();
        for (module, m) in &adapter.modules {
            for (kind, len) in [("lora_A", m.a.len()), ("lora_B", m.b.len())] {
                let name = format!("{module}.{kind}");
                let mut take = |what: &str| {
                    let tensor = tensors.remove(&format!("{name}.{what}")).filter(|t| t.values.len() == len);
                    let missing =
                        || Error::model(&optimizer, format!("tensor `{name}.{what}` is missing or has another size"));
                    tensor.map(|t| t.values).ok_or_else(missing)
                };
                let (first, second) = (take("exp_avg")?, take("exp_avg_sq")?);
                moments.insert(name, Moments { first, second });
            }
        }
        Ok(Self { adapter, moments, state })
    }
}

/// The state of a training's last checkpoint, when the training is over.
pub(crate) fn finished_state(directory: &Path, fingerprint: &str) -> Option<TrainerState> {
    let state = |(_, path): (usize, PathBuf)| {
        check(&path).ok()?;
        TrainerState::load(&path.join(TRAINER_STATE)).ok()
    };
    let over = |state: &TrainerState| state.fingerprint == fingerprint && state.is_over();
    list(directory).into_iter().rev().filter_map(state).find(over)
}

/// The directory of the checkpoint of one step, a PEFT adapter; `None` when it is not kept.
///
/// # Errors
/// It is damaged.
pub(crate) fn checkpoint_at(directory: &Path, step: usize) -> Result<Option<PathBuf>> {
    let found = list(directory).into_iter().find(|(at, _)| *at == step);
    found.map(|(_, path)| check(&path).map(|()| path)).transpose()
}

/// The steps whose checkpoints are kept, ascending.
pub(crate) fn checkpoint_steps(directory: &Path) -> Vec<usize> {
    list(directory).into_iter().map(|(step, _)| step).collect()
}

/// Checksums of a checkpoint's files.
fn checksums(path: &Path) -> Result<BTreeMap<String, String>> {
    let of = |name: &str| {
        let file = path.join(name);
        let bytes = read_own(&file)?;
        Ok((name.to_owned(), blake3::hash(&bytes).to_hex().to_string()))
    };
    CHECKED.into_iter().map(of).collect()
}

/// Whether a checkpoint is as it was written.
///
/// # Errors
/// A file of it is missing, damaged or edited: by name.
fn check(path: &Path) -> Result<()> {
    let file = path.join(CHECKSUMS);
    let text = read_regular_text(&file, u64::MAX)?;
    let written: BTreeMap<String, String> =
        serde_json::from_str(&text).map_err(|e| Error::input(&file, e.line(), e.to_string()))?;
    for (name, hash) in checksums(path)? {
        if written.get(&name) != Some(&hash) {
            return Err(Error::model(path.join(&name), format!("was damaged or edited: it does not fit {CHECKSUMS}")));
        }
    }
    Ok(())
}

/// Checkpoints by step, oldest first.
fn list(directory: &Path) -> Vec<(usize, PathBuf)> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<(usize, PathBuf)> = entries
        .filter_map(|e| {
            let step = e.file_name().to_str()?.strip_prefix(PREFIX)?.parse().ok()?;
            Some((step, e.path()))
        })
        .collect();
    found.sort();
    found
}
