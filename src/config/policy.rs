//! `[gate]`: what a run is judged by.

use serde::{Deserialize, Serialize};

use super::places::Places;
use crate::error::Error;
use crate::record::TUNED;

/// `[gate]`: only the thresholds that are given are applied.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Least share of target cases that tuned passes, 0 to 1.
    pub min_target_pass_rate: Option<f64>,
    /// Least difference in target pass rate, tuned − base, −1 to 1.
    pub min_target_gain: Option<f64>,
    /// Least share of the control cases that base passes which tuned passes too, 0 to 1.
    pub min_retention: Option<f64>,
    /// Most control cases that base passes and tuned fails.
    pub max_broken_controls: Option<usize>,
    /// Most mean KL(base ‖ tuned) on control text, nats/token, over questions.
    pub max_drift: Option<f64>,
    /// Most that the pass rate on all control cases may fall, base − tuned, 0 to 1.
    pub max_net_loss: Option<f64>,
    /// Most that the loss of the right answer among the choices of a control may grow on average, nats.
    pub max_choice_loss: Option<f64>,
    /// What happens when these cases do not show whether the controls are kept: `"warn"`, or `"fail"`, which fails the gate; default: `"fail"` in CI,
    /// `"warn"` elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_shown: Option<NotShown>,
    /// The arms that are compared with the thresholds; default `["tuned"]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub arms: Vec<String>,
}

/// What a gate does when its cases cannot tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum NotShown {
    /// Says so.
    Warn,
    /// Does not pass.
    Fail,
}

impl Policy {
    /// Whether a threshold bounds what happens to the controls.
    #[must_use]
    pub fn bounds_controls(&self) -> bool {
        let shares = [self.min_retention, self.max_drift, self.max_net_loss, self.max_choice_loss];
        self.max_broken_controls.is_some() || shares.iter().any(Option::is_some)
    }

    /// The arms that are compared with the thresholds.
    #[must_use]
    pub fn arms(&self) -> Vec<&str> {
        if self.arms.is_empty() { vec![TUNED] } else { self.arms.iter().map(String::as_str).collect() }
    }

    /// Names of the thresholds that are given, in the order they are reported.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        let given = [
            ("min_target_pass_rate", self.min_target_pass_rate.is_some()),
            ("min_target_gain", self.min_target_gain.is_some()),
            ("min_retention", self.min_retention.is_some()),
            ("max_broken_controls", self.max_broken_controls.is_some()),
            ("max_drift", self.max_drift.is_some()),
            ("max_net_loss", self.max_net_loss.is_some()),
            ("max_choice_loss", self.max_choice_loss.is_some()),
        ];
        given.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
    }

    /// Every threshold of every arm that is gated: the arm, and the rule's [label](crate::record::Rule::label).
    #[must_use]
    pub fn labels(&self) -> Vec<(String, String)> {
        let label = |arm: &str, name: &str| match arm {
            TUNED => name.to_owned(),
            arm => format!("{arm}::{name}"),
        };
        let of =
            |arm: &str| self.names().into_iter().map(|name| (arm.to_owned(), label(arm, name))).collect::<Vec<_>>();
        self.arms().into_iter().flat_map(of).collect()
    }

    pub(super) fn check(&self, places: &Places, errors: &mut Vec<Error>) {
        let ranges = [
            ("min_target_pass_rate", self.min_target_pass_rate, 0.0, 1.0),
            ("min_target_gain", self.min_target_gain, -1.0, 1.0),
            ("min_retention", self.min_retention, 0.0, 1.0),
            ("max_drift", self.max_drift, 0.0, f64::MAX),
            ("max_net_loss", self.max_net_loss, 0.0, 1.0),
            ("max_choice_loss", self.max_choice_loss, 0.0, f64::MAX),
        ];
        for (key, value, low, high) in ranges {
            if let Some(value) = value
                && !(low..=high).contains(&value)
            {
                let high = if high == f64::MAX { String::new() } else { format!(" and at most {high}") };
                errors.push(places.error(&format!("gate.{key}"), format!("is {value}, expected at least {low}{high}")));
            }
        }
    }
}
