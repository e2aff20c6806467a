//! The arms of `[arms]`: further adapters, checkpoints of the project's own training, or its adapter at another scale.

use std::path::PathBuf;
use std::sync::Arc;

use super::adapter::{LoadedAdapter, hash_of};
use super::base::Base;
use super::provenance::expected_provenance;
use super::train;
use crate::config::{ArmConfig, ArmSource, BackendName, Config};
use crate::error::{Error, Result};
use crate::model::architecture::outline::Outline;
use crate::model::{self, lora};
use crate::train::{checkpoint_at, checkpoint_steps};

/// An adapter that is asked, by its arm's name.
pub(super) struct Tested {
    pub(super) name: String,
    pub(super) ready: LoadedAdapter,
}

/// The arms of `[arms]`, in the order of their names.
///
/// # Errors
/// An adapter that cannot be read or does not fit the base; a checkpoint that is not there; two arms that are the same.
pub(super) fn further(config: &Config, name: BackendName, base: &Base, tuned: &LoadedAdapter) -> Result<Vec<Tested>> {
    let mut found: Vec<Tested> = Vec::new();
    let mut outline = None;
    for arm in &config.arms {
        let directory = match &arm.source {
            ArmSource::Own => None,
            ArmSource::Adapter(path) => Some(path.clone()),
            ArmSource::Checkpoint(step) => Some(checkpoint(config, name, base, arm, *step)?),
        };
        let ready = match directory {
            None => LoadedAdapter { scale: arm.scale, ..tuned.clone() },
            Some(directory) => {
                // One for all arms: of a GGUF base it is read from the file's header.
                let outline = match &mut outline {
                    Some(known) => known,
                    unknown => unknown.insert(model::outline(&base.files, &config.model)?),
                };
                open(config, outline, tuned, directory, arm)?
            }
        };
        let same = |hash: &str, scale: f64| hash == ready.hash && scale == ready.scale;
        let twin =
            found.iter().find(|other| same(&other.ready.hash, other.ready.scale)).map(|other| other.name.as_str());
        if let Some(twin) = twin.or_else(|| same(&tuned.hash, tuned.scale).then_some("tuned")) {
            let message =
                format!("[arms.{}] is the same adapter at the same scale as {twin}; take one of them out", arm.name);
            return Err(Error::input(&config.manifest, arm.line, message));
        }
        found.push(Tested { name: arm.name.clone(), ready });
    }
    Ok(found)
}

fn open(
    config: &Config,
    outline: &Outline,
    tuned: &LoadedAdapter,
    directory: PathBuf,
    arm: &ArmConfig,
) -> Result<LoadedAdapter> {
    let adapter = lora::open(&directory, outline)
        .map_err(|error| Error::input(&config.manifest, arm.line, format!("[arms.{}]: {error}", arm.name)))?;
    let hash = hash_of(&directory)?;
    Ok(LoadedAdapter { adapter: Arc::new(adapter), hash, directory, scale: arm.scale, ..tuned.clone() })
}

/// The directory of a checkpoint of the project's own training.
fn checkpoint(config: &Config, name: BackendName, base: &Base, arm: &ArmConfig, step: usize) -> Result<PathBuf> {
    let fail =
        |message: String| Error::input(&config.manifest, arm.line, format!("[arms.{}] checkpoint {message}", arm.name));
    let recipe = config.recipe.as_ref().ok_or_else(|| {
        fail(
            "needs [train]: it is a step of the project's own training; give an adapter's directory instead".to_owned(),
        )
    })?;
    let fingerprint = expected_provenance(config, recipe, base)?.fingerprint(name);
    let all = train::checkpoints(config, &fingerprint);
    if let Some(path) = checkpoint_at(&all, step)? {
        return Ok(path);
    }
    let steps: Vec<String> = checkpoint_steps(&all).iter().map(ToString::to_string).collect();
    let there = if steps.is_empty() { "none is".to_owned() } else { format!("there are {}", steps.join(", ")) };
    Err(fail(format!(
        "{step} is not kept ({there}); train with [train] save_steps, and save_total_limit large enough to keep it, by \
         `finetest train --force`"
    )))
}
