//! What another trainer is started with: its Python, and the user's configuration for it.

use std::path::{Path, PathBuf};

use crate::config::{Config, Recipe};
use crate::error::{Error, Result};
use crate::files::read_regular_text;

/// Bytes of a configuration.
pub(super) const MOST_BYTES: u64 = 1 << 20;

/// Checks, without a model, what starting an engine needs.
///
/// # Errors
/// Its Python or the user's configuration is not there; the base is a file that no engine reads.
pub(super) fn check(config: &Config, recipe: &Recipe) -> Result<()> {
    if recipe.engine.is_own() {
        return Ok(());
    }
    python(config, recipe)?;
    own_config(config, recipe)?;
    if recipe.launch.model.is_none() && config.model.source.ends_with(".gguf") {
        return Err(no_gguf(recipe, &config.manifest));
    }
    Ok(())
}

/// An engine is to train a base that is a GGUF file; `place` says so.
pub(super) fn no_gguf(recipe: &Recipe, place: &Path) -> Error {
    let message = format!(
        "{} does not train a GGUF file; name the model that it was made from: [train.launch] model = \"ORG/NAME\", or a directory",
        recipe.engine.name()
    );
    Error::input(place, None, message)
}

/// The Python that an engine is started with; `None` where the user's command names its program.
pub(super) fn python(config: &Config, recipe: &Recipe) -> Result<Option<PathBuf>> {
    let (engine, launch) = (recipe.engine, &recipe.launch);
    let from_env = || engine.python_variable().and_then(std::env::var_os).map(PathBuf::from);
    let Some(named) = launch.python.clone().or_else(from_env) else {
        let is_named = !launch.command.is_empty() && !launch.command.iter().any(|word| word.contains("{python}"));
        let Some(variable) = engine.python_variable().filter(|_| !is_named) else { return Ok(None) };
        return Err(Error::Usage(format!(
            "{} is installed in a Python environment of its own, and none is named; give its Python: [train.launch] python = \"/opt/trainer/bin/python\", or the variable {variable}",
            engine.name()
        )));
    };
    // A bare name is looked for in PATH.
    if named.components().count() == 1 {
        return Ok(Some(named));
    }
    let path = config.root.join(named);
    if !path.is_file() {
        return Err(Error::Usage(format!(
            "{}: there is no such Python, to start {} with: [train.launch] python",
            path.display(),
            engine.name()
        )));
    }
    // Links are not followed: an environment's Python is one.
    std::path::absolute(&path).map(Some).map_err(Error::io(&path, "find"))
}

/// The user's configuration: its path and text.
pub(super) fn own_config(config: &Config, recipe: &Recipe) -> Result<Option<(PathBuf, String)>> {
    let Some(path) = recipe.launch.config.as_ref().map(|path| config.root.join(path)) else { return Ok(None) };
    let text = read_regular_text(&path, MOST_BYTES)?;
    Ok(Some((path, text)))
}

/// What decides an adapter besides `[train]`: the user's configuration.
pub(super) fn decisive(config: &Config, recipe: &Recipe) -> Result<String> {
    Ok(own_config(config, recipe)?.map_or_else(String::new, |(_, text)| text))
}
