//! A part of a run that several machines share, and what joining it with the others needs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{DriftMethod, DriftSample};

/// Which part of the cases a run asked, and what it measured on them: means and percentiles of a whole run cannot be had from those of its
/// parts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Part {
    /// Its number, from 1 on.
    pub number: usize,
    /// How many parts there are.
    pub of: usize,
    /// The expression that selects the cases of all parts together; `None`: all of the project's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// By the arm's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub measured: BTreeMap<String, ArmMeasured>,
}

/// What was measured of one arm.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ArmMeasured {
    /// On base's answers to the control cases and the project's text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<Measurements>,
    /// On base's answers to the target cases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_drift: Option<Measurements>,
}

/// What drift is summed up from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Measurements {
    /// What the tokens are.
    pub source: String,
    /// By what it was measured.
    pub method: DriftMethod,
    /// Each text, by its name.
    pub texts: Vec<(String, DriftSample)>,
    /// So many of the first answers are measured once more.
    pub repeated: usize,
    /// What came out of these, each alone.
    pub again: Vec<(String, DriftSample)>,
    /// Of the first answers: with how many likely tokens enough is seen, where the method sees a part and that number was found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decided_by: Vec<(String, Option<usize>)>,
    /// Why further texts have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
}
