//! The files of a calibration: scenarios without what base can neither lose nor win, and a `[gate]`.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::PackResult;
use crate::config::{Config, MANIFEST_LINE, SCENARIO_LINE};
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::scenario::check_text;
use crate::scenario::packs::Pack;

/// What was written, and what is left to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Written {
    /// Files, relative to the project.
    pub files: Vec<String>,
    /// Whether the manifest has these thresholds now; it has not where it has a `[gate]` of its own.
    pub gate: bool,
}

/// The file of a pack in a project.
pub(super) fn place(config: &Config, pack: &str) -> PathBuf {
    config.run.scenarios.join(format!("pack-{pack}.toml"))
}

/// Refuses to write over a file, before anything is asked.
pub(super) fn check_free(places: &[PathBuf]) -> Result<()> {
    let there = |path: &&PathBuf| path.symlink_metadata().is_ok();
    let errors: Vec<Error> =
        places.iter().filter(there).map(|path| Error::input(path, None, "already exists")).collect();
    if errors.is_empty() {
        return Ok(());
    }
    let advice = "nothing was written: calibrate overwrites no scenario; remove it, name other packs with --pack, or only look with --dry-run";
    Error::collect(errors.into_iter().chain([Error::failed(advice)]).collect())
}

/// Writes the packs and the thresholds.
///
/// # Errors
/// A file that is there; a folder that cannot be written. What was written before is taken away again.
pub(super) fn write(config: &Config, packs: &[Pack], results: &[PackResult], gate: &[String]) -> Result<Written> {
    let mut texts = Vec::new();
    for pack in packs {
        let Some(result) = results.iter().find(|result| result.name == pack.name) else { continue };
        if result.dead.len() == result.questions {
            continue;
        }
        let path = place(config, pack.name);
        let text = format!("{SCENARIO_LINE}{}", without(pack.text, &result.dead));
        check_text(&path, &config.root, &text)?;
        texts.push((path, text));
    }
    check_free(&texts.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>())?;
    let mut written: Vec<&Path> = Vec::new();
    for (path, text) in &texts {
        if let Err(error) = put(path, text) {
            written.iter().for_each(|path| drop(std::fs::remove_file(path)));
            return Err(error);
        }
        written.push(path);
    }
    let mut files: Vec<String> = texts.iter().map(|(path, _)| config.relative(path)).collect();
    let gated = write_gate(config, gate)?;
    if gated {
        files.push(config.relative(&config.manifest));
    }
    Ok(Written { files, gate: gated })
}

fn put(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
    }
    write_atomically(path, text.as_bytes())
}

/// Adds `[gate]` to a manifest that has none, or makes a manifest; says whether it did.
fn write_gate(config: &Config, gate: &[String]) -> Result<bool> {
    let block = gate.join("\n");
    let path = &config.manifest;
    let Ok(text) = std::fs::read_to_string(path) else {
        if path.symlink_metadata().is_ok() {
            return Ok(false);
        }
        let source = toml::Value::String(config.model.source.clone());
        let whole = format!(
            "{MANIFEST_LINE}[model]\nsource = {source}\n\n# The adapter that is tested.\n# [adapter]\n# path = \"out\"\n\n{block}\n"
        );
        write_atomically(path, whole.as_bytes())?;
        return Ok(true);
    };
    let has_gate = toml::from_str::<toml::Table>(&text).map_or(true, |table| table.contains_key("gate"));
    if has_gate {
        return Ok(false);
    }
    let whole = format!("{}\n\n{block}\n", text.trim_end());
    write_atomically(path, whole.as_bytes())?;
    Ok(true)
}

/// A pack's text without the cases of these names.
fn without(text: &str, names: &[String]) -> String {
    let mut kept = String::new();
    let mut blocks = text.split_inclusive('\n').fold(vec![String::new()], |mut blocks: Vec<String>, line| {
        if line.trim_end() == "[[cases]]" {
            blocks.push(String::new());
        }
        if let Some(block) = blocks.last_mut() {
            block.push_str(line);
        }
        blocks
    });
    for block in blocks.drain(..) {
        let name = block.lines().find_map(|line| line.strip_prefix("name = \"")?.split('"').next());
        if name.is_none_or(|name| !names.iter().any(|dead| dead == name)) {
            kept.push_str(&block);
        }
    }
    if names.is_empty() {
        return kept;
    }
    format!("# Left out, since base can neither lose nor win them: {}.\n{kept}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::packs::PACKS;

    #[test]
    fn a_pack_without_some_of_its_questions_is_a_scenario_still() {
        for pack in PACKS {
            let all = pack.scenario().expect("a pack");
            let dead = vec![all.cases[0].name.clone()];
            let text = without(pack.text, &dead);
            let path = format!("pack-{}.toml", pack.name);
            let kept = check_text(Path::new(&path), Path::new(""), &text).expect("a scenario");
            let gone =
                all.cases.iter().filter(|case| case.name == dead[0] || case.family.as_ref() == Some(&dead[0])).count();
            assert_eq!(kept.cases.len() + gone, all.cases.len(), "{}", pack.name);
            assert!(text.starts_with("# Left out"));
            assert_eq!(without(pack.text, &[]), pack.text);
        }
    }

    #[test]
    fn a_gate_is_added_once_and_none_is_changed() {
        let folder = tempfile::tempdir().expect("a folder");
        let manifest = folder.path().join("finetest.toml");
        std::fs::write(&manifest, "[model]\nsource = \"m\"\n").expect("a file");
        let config = Config::load(&manifest).expect("a manifest");
        let gate = vec!["[gate]".to_owned(), "max_drift = 0.15".to_owned()];
        assert!(write_gate(&config, &gate).expect("written"));
        let text = std::fs::read_to_string(&manifest).expect("a file");
        assert_eq!(text, "[model]\nsource = \"m\"\n\n[gate]\nmax_drift = 0.15\n");
        assert_eq!(Config::load(&manifest).expect("a manifest").gate.max_drift, Some(0.15));
        assert!(!write_gate(&config, &gate).expect("left"));
        assert_eq!(std::fs::read_to_string(&manifest).expect("a file"), text);
    }

    #[test]
    fn no_scenario_is_written_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pack-facts.toml");
        assert!(check_free(std::slice::from_ref(&path)).is_ok());
        std::fs::write(&path, "mine").expect("a file");
        let error = check_free(&[path]).expect_err("it is there").to_string();
        assert!(error.contains("already exists") && error.contains("overwrites no scenario"), "{error}");
    }
}
