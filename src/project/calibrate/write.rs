//! The files of a calibration: scenarios without what base can neither lose nor win, and a `[gate]`.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::PackResult;
use crate::config::{Config, MANIFEST_LINE, SCENARIO_LINE};
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::scenario::check_text;
use crate::scenario::packs::Pack;

/// How the line begins that names what was left out of a pack.
const LEFT_OUT: &str = "# Left out";

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

/// Refuses to write over a file, before anything is asked. One that has nothing but a pack's own lines may be what an interrupted calibration
/// left: [`write`] tells.
pub(super) fn check_free(config: &Config, packs: &[Pack]) -> Result<()> {
    let taken = |pack: &&Pack| {
        let path = place(config, pack.name);
        path.symlink_metadata().is_ok() && !std::fs::read_to_string(path).is_ok_and(|text| is_of(&text, pack))
    };
    refuse(packs.iter().filter(taken).map(|pack| place(config, pack.name)).collect())
}

/// Whether all of a file's lines are a pack's, or calibrate's.
fn is_of(text: &str, pack: &Pack) -> bool {
    let known: std::collections::HashSet<&str> = pack.text.lines().chain(SCENARIO_LINE.lines()).collect();
    text.starts_with(SCENARIO_LINE) && text.lines().all(|line| known.contains(line) || line.starts_with(LEFT_OUT))
}

fn refuse(taken: Vec<PathBuf>) -> Result<()> {
    if taken.is_empty() {
        return Ok(());
    }
    let advice = "nothing was written: calibrate overwrites no scenario; remove it, name other packs with --pack, or only look with --dry-run";
    let errors = taken.iter().map(|path| Error::input(path, None, "already exists"));
    Error::collect(errors.chain([Error::failed(advice)]).collect())
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
    // What is there and is the same was written by a calibration that was interrupted.
    let same = |path: &Path, text: &str| std::fs::read_to_string(path).is_ok_and(|there| there == text);
    let taken = texts.iter().filter(|(path, text)| path.symlink_metadata().is_ok() && !same(path, text));
    refuse(taken.map(|(path, _)| path.clone()).collect())?;
    let mut written: Vec<&Path> = Vec::new();
    for (path, text) in texts.iter().filter(|(path, text)| !same(path, text)) {
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
    format!("{LEFT_OUT}, since base can neither lose nor win them: {}.\n{kept}", names.join(", "))
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
    fn no_scenario_is_written_over_but_what_an_interrupted_calibration_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let manifest = folder.path().join("finetest.toml");
        std::fs::write(&manifest, "[model]\nsource = \"m\"\n").expect("a file");
        let config = Config::load(&manifest).expect("a manifest");
        let packs: Vec<Pack> = PACKS.iter().take(2).copied().collect();
        let result = |pack: &Pack| {
            let scenario = pack.scenario().expect("a scenario");
            let dead = vec![scenario.cases[0].name.clone()];
            PackResult { name: pack.name.into(), questions: scenario.cases.len(), passed: 1, partly: 0, dead }
        };
        let results: Vec<PackResult> = packs.iter().map(result).collect();
        let gate = ["[gate]".to_owned(), "max_drift = 0.15".to_owned()];
        let whole = write(&config, &packs, &results, &gate).expect("written");
        assert_eq!((whole.files.len(), whole.gate), (3, true));
        // Killed after the first of two files.
        let (first, second) = (place(&config, packs[0].name), place(&config, packs[1].name));
        let texts = [&first, &second].map(|path| std::fs::read_to_string(path).expect("a file"));
        std::fs::remove_file(&second).expect("removed");
        std::fs::write(&manifest, "[model]\nsource = \"m\"\n").expect("a file");
        check_free(&config, &packs).expect("its own");
        assert_eq!(write(&config, &packs, &results, &gate).expect("written"), whole);
        assert_eq!([&first, &second].map(|path| std::fs::read_to_string(path).expect("a file")), texts);
        // A case that somebody took out is gone for good, and one that somebody added is seen at once.
        let shorter = texts[0].rsplit_once("[[cases]]").expect("a case").0.to_owned();
        std::fs::write(&first, &shorter).expect("a file");
        check_free(&config, &packs).expect("all lines are the pack's");
        let error = write(&config, &packs, &results, &gate).expect_err("it is another").to_string();
        assert!(error.contains("already exists") && error.contains("overwrites no scenario"), "{error}");
        assert_eq!(std::fs::read_to_string(&first).expect("a file"), shorter);
        std::fs::write(&first, texts[0].clone() + "# mine\n").expect("a file");
        assert!(check_free(&config, &packs).expect_err("mine").to_string().contains("already exists"));
    }
}
