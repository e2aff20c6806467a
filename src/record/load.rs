//! A recorded run in a file.

use std::collections::HashSet;
use std::path::Path;

use serde::Deserialize;

use super::{BASE, Drift, RunRecord, TUNED, Verdict, version1};
use crate::error::{Error, Result};
use crate::files::{read_regular_text, write_atomically};

/// Bytes of a recorded run: one of 100 000 cases has fewer.
const MOST_BYTES: u64 = 1 << 30;

#[derive(Deserialize)]
struct Version {
    version: Option<serde_json::Value>,
    run: Option<serde::de::IgnoredAny>,
}

/// What `finetest run --format json` prints: the run beside its decision.
#[derive(Deserialize)]
struct Printed {
    run: RunRecord,
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
        let Version { version, run: printed } = serde_json::from_str(text).map_err(wrong)?;
        let number = version.as_ref().and_then(serde_json::Value::as_u64);
        let run: Self = match number {
            None if printed.is_some() => {
                let Printed { run } = serde_json::from_str(text).map_err(wrong)?;
                if run.version != Self::VERSION {
                    let message = format!(
                        "is a run of version {}, and this finetest reads version {} of what it prints",
                        run.version,
                        Self::VERSION
                    );
                    return Err(Error::input(path, None, message));
                }
                run
            }
            Some(1) => serde_json::from_str::<version1::Run>(text).map_err(wrong)?.into(),
            Some(number) if number == u64::from(Self::VERSION) => serde_json::from_str(text).map_err(wrong)?,
            Some(newer) if newer > u64::from(Self::VERSION) => {
                let message = format!(
                    "is a run of version {newer}, which a newer finetest wrote; this one, {}, reads up to version {}: update \
                     finetest, or make the run again",
                    env!("CARGO_PKG_VERSION"),
                    Self::VERSION
                );
                return Err(Error::input(path, None, message));
            }
            _ => {
                let got = version.map_or_else(|| "none".to_owned(), |v| v.to_string().chars().take(40).collect());
                let message = format!(
                    "is not a run of finetest: its version is {got}, expected 1 to {}; make the run again",
                    Self::VERSION
                );
                return Err(Error::input(path, None, message));
            }
        };
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
            if !arms.contains(arm.as_str()) {
                return Some(format!("holds an answer of {arm} to {name}, and has no such arm"));
            }
            let judged = |verdict: Verdict| match verdict {
                Verdict::NotEvaluated => None,
                Verdict::Passed => Some("passed"),
                Verdict::Failed => Some("failed"),
            };
            let unanswered = answer.samples.iter().find(|s| s.turns.is_empty() && judged(s.verdict).is_some());
            let verdict = match unanswered {
                Some(sample) => judged(sample.verdict),
                None => judged(answer.verdict).filter(|_| answer.samples.is_empty()),
            };
            if let Some(judged) = verdict {
                return Some(format!("says that {arm} {judged} {name}, and holds no answer"));
            }
            let found = scenario.aggregate.verdict(answer.samples.iter().map(|sample| sample.verdict));
            if found != answer.verdict {
                return Some(format!("says of {arm} and {name} another verdict than its samples come to"));
            }
        }
        if let Some(twice) = names.replace(name) {
            return Some(format!("has two cases with the name {twice}"));
        }
    }
    let known = |what: &str, arm: &String| {
        (!arms.contains(arm.as_str())).then(|| format!("holds {what} of {arm}, and has no such arm"))
    };
    let strange = run.drift.keys().find_map(|arm| known("the drift", arm));
    let strange = strange.or_else(|| run.target_drift.keys().find_map(|arm| known("the drift on targets", arm)));
    let strange = strange.or_else(|| run.proof.keys().find_map(|arm| known("the proof", arm)));
    strange.or_else(|| run.drift.values().chain(run.target_drift.values()).find_map(impossible))
}

/// Why a drift cannot be one.
fn impossible(drift: &Drift) -> Option<String> {
    let likelihoods = [drift.nll_base, drift.nll_tuned, drift.nll_change_se];
    let shares = drift.same_top1.is_none_or(|share| (0.0..=1.0).contains(&share));
    let divergence = drift.kl.is_none_or(|kl| {
        let finite = [kl.mean, kl.se, kl.median, kl.p99].iter().all(|value| value.is_finite());
        finite && kl.mean >= -ROUNDING && kl.se >= 0.0
    });
    let texts = drift.texts.iter().all(|text| {
        let values = text.values.iter().all(|value| value.is_finite());
        let means = text.means.is_none_or(|means| {
            means.nll_change.is_finite() && means.kl.is_none_or(|kl| kl.is_finite() && kl >= -ROUNDING)
        });
        values && means
    });
    if shares && divergence && texts && likelihoods.iter().all(|value| value.is_finite()) {
        return None;
    }
    let (mean, se) = drift.kl.map_or((drift.nll_change(), drift.nll_change_se), |kl| (kl.mean, kl.se));
    Some(format!("says that drift is {mean} ± {se} nats/token, which cannot be"))
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
        let cases: [(Change, &str); 15] = [
            (|run| run["arms"][1]["name"] = "base".into(), "has two arms with the name `base`"),
            (|run| run["arms"][1]["name"] = "other".into(), "has no arm `tuned`; its arms are: base, other"),
            (|run| run["arms"] = serde_json::json!([]), "has no arm `base`"),
            (
                |run| run["scenarios"][0]["cases"][1]["name"] = "case_1".into(),
                "has two cases with the name control::facts::case_1",
            ),
            (
                |run| {
                    run["scenarios"][0]["cases"][0]["answers"]["tuned"]["samples"][0]["turns"] = serde_json::json!([]);
                },
                "says that tuned passed control::facts::case_1, and holds no answer",
            ),
            (
                |run| run["scenarios"][0]["cases"][0]["answers"]["tuned"]["samples"] = serde_json::json!([]),
                "says that tuned passed control::facts::case_1, and holds no answer",
            ),
            (
                |run| run["scenarios"][0]["cases"][0]["answers"]["tuned"]["verdict"] = "failed".into(),
                "another verdict than its samples come to",
            ),
            (
                |run| {
                    run["scenarios"][0]["cases"][0]["answers"]["third"] =
                        run["scenarios"][0]["cases"][0]["answers"]["base"].clone();
                },
                "holds an answer of third to control::facts::case_1, and has no such arm",
            ),
            (|run| run["drift"]["third"] = run["drift"]["tuned"].clone(), "holds the drift of third"),
            (|run| run["drift"]["tuned"]["kl"]["mean"] = (-5.0).into(), "says that drift is -5 ± 0.0031"),
            (|run| run["drift"]["tuned"]["same_top1"] = 7.into(), "which cannot be"),
            (
                |run| run["drift"]["tuned"]["kl"]["mean"] = serde_json::Value::Null,
                "invalid type: null, expected a number",
            ),
            (|run| run["finetest"] = serde_json::Value::Null, "expected a string"),
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

    /// As finetest 0.1.0 wrote it, with fewer cases, and one without an answer.
    const VERSION_1: &str = include_str!("../../tests/fixtures/run_version1.json");

    #[test]
    fn a_run_of_version_1_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("run.json");
        std::fs::write(&path, VERSION_1).expect("a file");
        let run = RunRecord::load(&path).expect("a run");
        assert_eq!((run.version, run.scenarios.len(), run.cases().count()), (2, 2, 4));
        let drift = &run.drift[TUNED];
        let kl = drift.kl.expect("a divergence");
        assert!((kl.mean - 0.1722).abs() < 1e-3 && drift.tokens > 1000, "{kl:?}");
        assert_eq!(run.proof[TUNED].adapted_modules, 210);
        let answers: Vec<(Verdict, Verdict)> =
            run.cases().map(|(_, case)| (case.verdict(BASE), case.verdict(TUNED))).collect();
        assert_eq!(answers[0], (Verdict::Failed, Verdict::Passed));
        let (_, lost) = run.cases().last().expect("a case");
        assert_eq!(lost.errors().collect::<Vec<_>>(), [(TUNED, "out of memory")]);
        assert_eq!(lost.verdict(TUNED), Verdict::NotEvaluated);
        // Written again it is a run of this version, and the same.
        run.save(&path).expect("written");
        assert_eq!(RunRecord::load(&path).expect("a run"), run);
    }

    #[test]
    fn runs_of_other_versions_are_refused_by_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("run.json");
        let refused = |text: &str| {
            std::fs::write(&path, text).expect("a file");
            RunRecord::load(&path).expect_err(text).to_string()
        };
        let newer = VERSION_1.replacen("\"version\": 1", "\"version\": 3", 1);
        assert!(refused(&newer).contains("is a run of version 3, which a newer finetest wrote"), "{}", refused(&newer));
        assert!(refused("{\"version\": \"1\"}").contains("its version is \"1\", expected 1 to 2"));
        assert!(refused("{}").contains("its version is none"));
        let missing = VERSION_1.replacen("\"project\"", "\"projekt\"", 1);
        assert!(refused(&missing).contains("missing field `project`"), "{}", refused(&missing));
        let cut = &VERSION_1[..VERSION_1.len() / 2];
        assert!(refused(cut).contains("make the run again"), "{}", refused(cut));
        let edited = VERSION_1.replacen("\"verdict\": \"failed\"", "\"verdict\": \"fine\"", 1);
        assert!(refused(&edited).contains("unknown variant `fine`"), "{}", refused(&edited));
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
