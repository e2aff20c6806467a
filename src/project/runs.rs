//! Where runs are written: `<store>/runs/<manifest>/<time>-<hash>/`, a folder for each, and `latest`, which leads to the newest.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::train::LOSS_PLOT;
use crate::compare::Comparison;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::files::{WRITING, read_regular_text, replace_directory, write_atomically};
use crate::record::{Cost, Decision, Made, RunRecord};
use crate::report::{self, Report};

/// Leads to the newest run of a manifest.
const LATEST: &str = "latest";
/// Names the run before it.
const PREVIOUS: &str = "previous";
/// The record of a run.
const RECORD: &str = "run.json";
/// The files of a run: what each is, and its name.
const FILES: [(&str, &str); 3] = [("record", RECORD), ("report", "report.md"), ("JUnit", "junit.xml")];
/// Digits of a run's hash in its folder's name.
const HASH_DIGITS: usize = 8;
/// Runs of a manifest that are kept; older ones are removed.
const KEPT: usize = 100;
/// Longest name of a manifest's folder.
const LONGEST_NAME: usize = 100;

/// Writes a run into a folder of its own, and says what is there: a label and a path each.
///
/// A run that computed nothing and found what the latest one found is that run: under `cargo nextest` every test of a project would
/// write another one.
pub(super) fn write(config: &Config, run: &RunRecord, decision: &Decision) -> Result<Vec<(String, String)>> {
    let all = config.store().join("runs").join(folder_name(&config.relative(&config.manifest)));
    let hash = hash(run, decision)?;
    let is_part = run.made.selected.is_some();
    if let Some(latest) = latest(&all).filter(|latest| !is_part && run.cost.computed == 0 && is_of(latest, &hash)) {
        return Ok(files(config, &latest));
    }
    let name = format!("{}-{hash}", chrono::Utc::now().format("%Y%m%dT%H%M%SZ"));
    let directory = all.join(&name);
    let files = files(config, &directory);
    if !directory.exists() {
        let comparisons = Comparison::all(run);
        let report = Report { run, comparisons: &comparisons, decision, files: &files };
        replace_directory(&directory, &[], |staged| {
            run.save(&staged.join(RECORD))?;
            write_atomically(&staged.join("report.md"), report::markdown(&report).as_bytes())?;
            write_atomically(&staged.join("junit.xml"), report::junit(&report)?.as_bytes())
        })?;
    }
    if !is_part {
        point_to(&all, &name)?;
    }
    prune(&all, &name);
    Ok(files)
}

/// The record of a manifest's last run; a run of a part of its cases is none.
///
/// # Errors
/// There is none yet.
pub(crate) fn last_record(config: &Config) -> Result<PathBuf> {
    let manifest = config.relative(&config.manifest);
    let all = config.store().join("runs").join(folder_name(&manifest));
    let found = latest(&all).map(|folder| folder.join(RECORD)).filter(|path| path.is_file());
    found
        .ok_or_else(|| Error::Usage(format!("{manifest} has no run yet; `finetest run` makes one, or name a run.json")))
}

/// The folder with a manifest's recorded runs, and the names of these, newest first.
pub(crate) fn recorded(config: &Config) -> (PathBuf, Vec<String>) {
    let all = config.store().join("runs").join(folder_name(&config.relative(&config.manifest)));
    let entries = std::fs::read_dir(&all).into_iter().flatten().flatten();
    let mut runs: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    runs.retain(|name| is_run(name));
    // A name begins with its time.
    runs.sort_unstable_by(|one, other| other.cmp(one));
    (all, runs)
}

/// The record of a run by its name: `latest`, `previous`, or that of its folder or the hash at its end, as `finetest runs` lists it.
/// Several runs with one hash found the same; the newest is taken.
///
/// # Errors
/// There is no such run.
pub(crate) fn named_record(config: &Config, name: &str) -> Result<PathBuf> {
    match name {
        LATEST => last_record(config),
        PREVIOUS => previous_record(config),
        _ => {
            let (all, runs) = recorded(config);
            let manifest = config.relative(&config.manifest);
            let message = || format!("{manifest} has no run {name}; `finetest runs` lists those it has");
            let is_named = |run: &String| run == name || run.split('-').nth(1) == Some(name);
            let found = runs.into_iter().find(is_named);
            found.map(|run| all.join(run).join(RECORD)).ok_or_else(|| Error::Usage(message()))
        }
    }
}

/// Is it the name of a run, rather than a path?
pub(crate) fn is_run_name(name: &str) -> bool {
    matches!(name, LATEST | PREVIOUS) || is_run(name) || is_hash(name)
}

/// The record in a path: the file, or the one in a run's folder.
pub(crate) fn record_in(path: &Path) -> PathBuf {
    if path.is_dir() { path.join(RECORD) } else { path.to_path_buf() }
}

/// The newest record of all cases but the last one.
fn previous_record(config: &Config) -> Result<PathBuf> {
    #[derive(serde::Deserialize)]
    struct Head {
        #[serde(default)]
        made: Made,
    }
    let (all, runs) = recorded(config);
    let last = latest(&all);
    let is_whole = |path: &PathBuf| {
        let text = read_regular_text(path, u64::MAX).ok();
        let head = text.and_then(|text| serde_json::from_str::<Head>(&text).ok());
        head.is_some_and(|head| head.made.selected.is_none())
    };
    let others = runs.iter().map(|name| all.join(name)).filter(|folder| Some(folder) != last.as_ref());
    others.map(|folder| folder.join(RECORD)).find(is_whole).ok_or_else(|| {
        let manifest = config.relative(&config.manifest);
        Error::Usage(format!("{manifest} has no run before its last one; `finetest run` makes one, or name a run.json"))
    })
}

/// Removes all but the newest [`KEPT`] runs of a manifest; `this` is kept whatever the clock says. What finetest did not name is not
/// touched, and what cannot be removed stays.
fn prune(all: &Path, this: &str) {
    let entries = std::fs::read_dir(all).into_iter().flatten().flatten();
    let mut runs: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    runs.retain(|name| is_run(name) && name != this);
    // A name begins with its time.
    runs.sort_unstable();
    runs.truncate((runs.len() + 1).saturating_sub(KEPT));
    for name in runs {
        let _ = std::fs::remove_dir_all(all.join(name));
    }
}

/// Is it a run's folder by its name: `20261128T120000Z-0123abcd`?
fn is_run(name: &str) -> bool {
    let Some((time, hash)) = name.split_once('-') else { return false };
    let digits = |text: &str, count: usize| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_time = time.strip_suffix('Z').and_then(|time| time.split_once('T'));
    is_time.is_some_and(|(day, second)| digits(day, 8) && digits(second, 6)) && is_hash(hash)
}

fn is_hash(text: &str) -> bool {
    text.len() == HASH_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A manifest's path as the name of one folder: no two paths have the same.
fn folder_name(manifest: &str) -> String {
    let path = manifest.strip_suffix(".toml").unwrap_or(manifest);
    let mut name = String::new();
    for (i, c) in path.char_indices() {
        match c {
            '/' => name.push('+'),
            '.' if i == 0 => name.push_str("%2E"),
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' | '-' => name.push(c),
            other => other.to_string().bytes().for_each(|byte| name.push_str(&format!("%{byte:02X}"))),
        }
    }
    if name.len() > LONGEST_NAME {
        let hash = blake3::hash(path.as_bytes()).to_hex();
        name.truncate(LONGEST_NAME - 17);
        name = format!("{name}-{}", &hash[..16]);
    }
    name
}

/// Hash of what was found: neither of what it cost, nor of when and from what it was made.
fn hash(run: &RunRecord, decision: &Decision) -> Result<String> {
    let mut found = run.clone();
    (found.made, found.cost, found.decision) = (Made::default(), Cost::default(), Some(decision.clone()));
    let mut hasher = io::BufWriter::new(blake3::Hasher::new());
    serde_json::to_writer(&mut hasher, &found).map_err(|e| Error::failed(e.to_string()))?;
    hasher.flush().map_err(|e| Error::failed(e.to_string()))?;
    Ok(hasher.get_ref().finalize().to_hex()[..HASH_DIGITS].to_owned())
}

/// Whether a folder is a whole run with this hash.
fn is_of(folder: &Path, hash: &str) -> bool {
    let name = folder.file_name().map_or_else(Default::default, |name| name.to_string_lossy());
    name.ends_with(&format!("-{hash}")) && FILES.iter().all(|(_, file)| folder.join(file).is_file())
}

/// The folder of a manifest's newest run.
fn latest(all: &Path) -> Option<PathBuf> {
    let link = all.join(LATEST);
    let name = match std::fs::read_link(&link) {
        Ok(name) => name.to_string_lossy().into_owned(),
        Err(_) => read_regular_text(&link, 4096).ok()?.trim().to_owned(),
    };
    let is_name = !name.is_empty() && !name.contains(['/', '\\']) && name != "..";
    is_name.then(|| all.join(name)).filter(|folder| folder.is_dir())
}

/// Has `latest` lead to a run: a link, or a text file with the folder's name where there are no links.
fn point_to(all: &Path, name: &str) -> Result<()> {
    let latest = all.join(LATEST);
    #[cfg(unix)]
    {
        let link = all.join(format!("{WRITING}{LATEST}-{}", std::process::id()));
        let linked = std::os::unix::fs::symlink(name, &link).and_then(|()| std::fs::rename(&link, &latest));
        if linked.is_ok() {
            return crate::files::sync_directory(all);
        }
        let _ = std::fs::remove_file(&link);
    }
    let _ = WRITING;
    write_atomically(&latest, name.as_bytes())
}

/// What a run's folder holds: a label and a path each; and the plot of its adapter's training.
fn files(config: &Config, folder: &Path) -> Vec<(String, String)> {
    let mut files: Vec<(String, String)> =
        FILES.iter().map(|(label, name)| ((*label).to_owned(), shown(&folder.join(name)))).collect();
    let plot = config.adapter.as_ref().map(|a| a.path.join(LOSS_PLOT)).filter(|p| p.is_file());
    files.extend(plot.map(|p| ("loss".to_owned(), shown(&p))));
    files
}

/// A path as a person reads it: without `./` in front.
fn shown(path: &Path) -> String {
    path.strip_prefix(".").unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_manifest_has_a_folder_of_its_own() {
        let paths = [
            "finetest.toml",
            "recipes/finetest.toml",
            "recipes+finetest.toml",
            "recipes-finetest.toml",
            "../finetest.toml",
            "..toml",
            "finetest",
            "a b.toml",
            "äöü.toml",
            ".toml",
        ];
        let mut names: Vec<String> = paths.iter().map(|path| folder_name(path)).collect();
        assert_eq!(names[1], "recipes+finetest");
        assert!(names.iter().all(|name| !name.starts_with('.') && !name.contains('/')), "{names:?}");
        names.sort();
        names.dedup();
        // `finetest` and `finetest.toml` are the same name in one folder; only the latter is found by itself.
        assert_eq!(names.len(), paths.len() - 1, "{names:?}");
        assert!(folder_name(&"long/".repeat(99)).len() <= LONGEST_NAME);
        assert_ne!(folder_name(&"long/".repeat(99)), folder_name(&"long/".repeat(98)));
    }

    #[test]
    fn the_newest_runs_are_kept_and_what_is_no_run_is_left_alone() {
        let root = tempfile::tempdir().expect("a directory");
        let all = root.path();
        let run = |i: usize| format!("20260101T{i:06}Z-0123abcd");
        let other = ["notes", "20260101T000001Z-mine", "20260101-0123abcd"];
        let names = (0..KEPT + 5).map(run).chain(other.map(str::to_owned));
        names.for_each(|name| std::fs::create_dir(all.join(name)).expect("a directory"));
        // The clock was set back: this run's name is the oldest.
        prune(all, &run(0));
        let kept: Vec<bool> = (0..KEPT + 5).map(|i| all.join(run(i)).is_dir()).collect();
        assert_eq!(kept.iter().filter(|kept| **kept).count(), KEPT);
        assert!(kept[0] && !kept[1] && !kept[5] && kept[6]);
        assert!(other.iter().all(|name| all.join(name).is_dir()));
    }

    #[test]
    fn latest_leads_to_the_newest_and_to_nothing_outside() {
        let root = tempfile::tempdir().expect("a directory");
        let all = root.path();
        assert_eq!(latest(all), None);
        for name in ["one", "two"] {
            std::fs::create_dir(all.join(name)).expect("a directory");
            point_to(all, name).expect("pointed");
            assert_eq!(latest(all), Some(all.join(name)));
        }
        std::fs::remove_file(all.join(LATEST)).expect("removed");
        for (text, found) in [("one\n", Some(all.join("one"))), ("..", None), ("../x", None), ("", None)] {
            std::fs::write(all.join(LATEST), text).expect("a file");
            assert_eq!(latest(all), found, "{text:?}");
        }
    }
}
