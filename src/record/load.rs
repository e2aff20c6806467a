//! A recorded run in a file.

use std::collections::HashSet;
use std::path::Path;

use serde::Deserialize;

use super::{BASE, RunRecord, TUNED, Verdict};
use crate::error::{Error, Result};
use crate::files::{read_regular_text, write_atomically};

/// Bytes of a recorded run: one of 100 000 cases has fewer.
const MOST_BYTES: u64 = 1 << 30;

#[derive(Deserialize)]
struct Version {
    version: Option<serde_json::Value>,
}

impl RunRecord {
    /// Writes the run as JSON, at once or not at all.
    ///
    /// # Errors
    /// The file cannot be written; an old one is then untouched.
    pub fn save(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self).map_err(|e| Error::failed(e.to_string()))?;
        write_atomically(path, json.as_bytes())
    }

    /// Reads a recorded run, the `run.json` that `finetest run` writes.
    ///
    /// # Errors
    /// A file that is no run, of another version, or contradicts itself; one without a case.
    pub fn load(path: &Path) -> Result<Self> {
        let text = read_regular_text(path, MOST_BYTES)?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        if text.trim().is_empty() {
            return Err(Error::input(path, None, "is empty, expected the run.json that `finetest run` writes"));
        }
        let wrong = |e: serde_json::Error| {
            let message = format!("is not a run as finetest writes it: {}; make the run again", plain(&e.to_string()));
            Error::input(path, e.line(), message)
        };
        let Version { version } = serde_json::from_str(text).map_err(wrong)?;
        if version.as_ref().and_then(serde_json::Value::as_u64) != Some(u64::from(Self::VERSION)) {
            let got = version.map_or_else(|| "none".to_owned(), |v| v.to_string().chars().take(40).collect());
            let message = format!(
                "is not a run of this finetest: its version is {got}, expected {}; make the run again",
                Self::VERSION
            );
            return Err(Error::input(path, None, message));
        }
        let run: Self = serde_json::from_str(text).map_err(wrong)?;
        if run.scenarios.iter().all(|s| s.cases.is_empty()) {
            return Err(Error::NothingRan(format!("{}: holds no case", path.display())));
        }
        if let Some(problem) = contradiction(&run) {
            return Err(Error::input(path, None, format!("{problem}; it was edited or damaged, make the run again")));
        }
        Ok(run)
    }
}

/// What the JSON parser says, without this program's names of types.
fn plain(message: &str) -> String {
    let mut words: Vec<&str> = Vec::new();
    for word in message.split(' ') {
        let bare = word.trim_end_matches(',');
        match (bare, words.last()) {
            (_, Some(&"struct" | &"enum")) => {
                words.pop();
                words.push("an object");
            }
            ("f64" | "f32", _) => words.push("a number"),
            ("usize" | "u64" | "u32" | "u8" | "i64", _) => words.push("a whole number"),
            _ => words.push(word),
        }
    }
    words.join(" ").replace("a map", "an object").replace("a sequence", "a list")
}

/// Most below 0 that a mean divergence is by rounding.
const ROUNDING: f64 = 1e-3;

/// What a run says that no run can say; rules and reports would be read wrongly.
fn contradiction(run: &RunRecord) -> Option<String> {
    let mut arms = HashSet::new();
    if let Some(twice) = run.arms.iter().find(|arm| !arms.insert(arm.name.as_str())) {
        return Some(format!("has two arms with the name `{}`", twice.name));
    }
    if let Some(absent) = [BASE, TUNED].into_iter().find(|arm| !arms.contains(arm)) {
        let all = run.arms.iter().take(8).map(|arm| arm.name.as_str()).collect::<Vec<_>>().join(", ");
        return Some(format!("has no arm `{absent}`; its arms are: {all}"));
    }
    let mut names = HashSet::new();
    for (scenario, case) in run.cases() {
        let name = scenario.test_name(case);
        for (arm, answer) in &case.answers {
            let judged = match answer.verdict {
                Verdict::NotEvaluated => continue,
                Verdict::Passed => "passed",
                Verdict::Failed => "failed",
            };
            if answer.completion.is_none() {
                return Some(format!("says that {arm} {judged} {name}, and holds no answer"));
            }
        }
        if let Some(twice) = names.replace(name) {
            return Some(format!("has two cases with the name {twice}"));
        }
    }
    if let Some(d) = &run.drift {
        let finite = [d.kl_mean, d.kl_se, d.kl_median, d.kl_p99, d.nll_base, d.nll_tuned, d.nll_change_se];
        let possible = d.kl_mean >= -ROUNDING && d.kl_se >= 0.0 && (0.0..=1.0).contains(&d.same_top1);
        if !(possible && finite.iter().all(|value| value.is_finite())) {
            return Some(format!("says that drift is {} ± {} nats/token, which cannot be", d.kl_mean, d.kl_se));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::exit;
    use crate::record::Role;
    use crate::record::fixture::{self, F, P};

    fn run() -> RunRecord {
        fixture::run(vec![fixture::scenario("facts", Role::Control, &[(P, P), (P, F)])])
    }

    fn read_back(change: impl FnOnce(&mut serde_json::Value)) -> Result<RunRecord> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("run.json");
        let mut json = serde_json::to_value(run()).expect("JSON");
        change(&mut json);
        std::fs::write(&path, json.to_string()).expect("a file");
        RunRecord::load(&path)
    }

    #[test]
    fn what_no_run_can_say_is_refused_with_the_file_and_what_to_do() {
        assert_eq!(read_back(|_| {}).expect("a run"), run());
        type Change = fn(&mut serde_json::Value);
        let cases: [(Change, &str); 10] = [
            (|run| run["arms"][1]["name"] = "base".into(), "has two arms with the name `base`"),
            (|run| run["arms"][1]["name"] = "other".into(), "has no arm `tuned`; its arms are: base, other"),
            (|run| run["arms"] = serde_json::json!([]), "has no arm `base`"),
            (
                |run| run["scenarios"][0]["cases"][1]["name"] = "case_1".into(),
                "has two cases with the name control::facts::case_1",
            ),
            (
                |run| run["scenarios"][0]["cases"][0]["answers"]["tuned"]["completion"] = serde_json::Value::Null,
                "says that tuned passed control::facts::case_1, and holds no answer",
            ),
            (|run| run["drift"]["kl_mean"] = (-5.0).into(), "says that drift is -5 ± 0.0031"),
            (|run| run["drift"]["same_top1"] = 7.into(), "which cannot be"),
            (|run| run["drift"]["kl_mean"] = serde_json::Value::Null, "invalid type: null, expected a number"),
            (|run| run["scenarios"] = 3.into(), "expected a list"),
            (|run| run["cost"]["computed"] = "many".into(), "expected a whole number"),
        ];
        for (change, expected) in cases {
            let error = read_back(change).expect_err(expected);
            let message = error.to_string();
            assert!(message.contains(expected) && message.contains("run.json"), "{expected}: {message}");
            assert!(message.contains("make the run again"), "{message}");
            for word in ["f64", "usize", "struct"] {
                assert!(!message.contains(word), "{message}");
            }
            assert_eq!(error.exit_code(), exit::ERROR);
        }
    }

    #[test]
    fn deep_nesting_is_read_in_bounded_memory() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("run.json");
        let deep = "[".repeat(200_000);
        std::fs::write(&path, format!("{{\"version\": 1, \"x\": {deep}")).expect("a file");
        assert!(RunRecord::load(&path).expect_err("no run").to_string().contains("is not a run as finetest writes it"));
        std::fs::write(&path, deep).expect("a file");
        assert!(RunRecord::load(&path).is_err());
    }
}
