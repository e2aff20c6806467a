//! When, from what and on what a run was made. It decides no answer, and is no part of what a run found.

use serde::{Deserialize, Serialize};

/// The circumstances of a run. Empty where they are not known, as in records of version 1.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Made {
    /// When it began, in UTC: `2026-11-29T12:00:00Z`.
    pub time: String,
    /// The manifest, relative to the project.
    pub manifest: String,
    /// What the project's repository was at; `None` where it is in none, or git cannot be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub git: Option<Commit>,
    /// The class of the machine, of which rounding may depend: system, architecture, vector units and threads.
    pub machine: String,
    /// Whether it was made in CI, where nobody reads a warning.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ci: bool,
    /// Only these of the project's cases were asked; `None`: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selected: Option<Selected>,
}

/// A part of a project's cases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Selected {
    /// The expression that selects them.
    pub filter: String,
    /// How many they are.
    pub cases: usize,
    /// How many the project has.
    pub of: usize,
}

/// A commit of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Commit {
    /// Its hash, in hex.
    pub commit: String,
    /// Files that git follows differed from it.
    pub dirty: bool,
}

impl Made {
    /// Here and now, of no manifest.
    #[must_use]
    pub fn now() -> Self {
        let time = chrono::Utc::now().format("%Y-%m-%dT%H:%M:%SZ").to_string();
        Self { time, machine: machine(), ..Self::default() }
    }
}

/// `linux x86_64 (AVX2, AVX-512, bf16), 2 threads`.
fn machine() -> String {
    let units = units();
    let units = if units.is_empty() { String::new() } else { format!(" ({})", units.join(", ")) };
    let threads = rayon::current_num_threads();
    let threads = if threads == 1 { "1 thread".to_owned() } else { format!("{threads} threads") };
    format!("{} {}{units}, {threads}", std::env::consts::OS, std::env::consts::ARCH)
}

#[cfg(target_arch = "x86_64")]
fn units() -> Vec<&'static str> {
    let known = [
        ("AVX2", std::is_x86_feature_detected!("avx2")),
        ("AVX-512", std::is_x86_feature_detected!("avx512f")),
        ("bf16", std::is_x86_feature_detected!("avx512bf16")),
    ];
    known.into_iter().filter(|(_, has)| *has).map(|(unit, _)| unit).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn units() -> Vec<&'static str> {
    Vec::new()
}
