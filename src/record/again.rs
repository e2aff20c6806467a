//! What a server answers when it is asked the same once more.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{BASE, RunRecord};

/// A case that was asked a second time, in another batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AskedAgain {
    /// The case's test.
    pub case: String,
    /// The answer reads otherwise.
    pub other_answer: bool,
    /// The verdict is another one.
    pub other_verdict: bool,
}

/// What answers of base and of an arm differ by themselves: less than this is no change that the fine-tune made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noise {
    /// Cases that were asked again.
    pub cases: usize,
    /// Of these, by base or by the arm, read otherwise.
    pub answers: usize,
    /// Of these, by base or by the arm, with another verdict.
    pub verdicts: usize,
}

impl Noise {
    /// Share of the cases with another verdict.
    #[must_use]
    pub fn share(self) -> f64 {
        if self.cases == 0 { 0.0 } else { self.verdicts as f64 / self.cases as f64 }
    }
}

impl RunRecord {
    /// What base and an arm answer otherwise by themselves; `None` where nothing was asked again.
    #[must_use]
    pub fn noise(&self, arm: &str) -> Option<Noise> {
        let (base, arm) = (self.again.get(BASE)?, self.again.get(arm)?);
        let of_arm: HashMap<&str, &AskedAgain> = arm.iter().map(|asked| (asked.case.as_str(), asked)).collect();
        let pairs = base.iter().filter_map(|one| Some((one, of_arm.get(one.case.as_str())?)));
        let mut noise = Noise::default();
        for (one, other) in pairs {
            noise.cases += 1;
            noise.answers += usize::from(one.other_answer || other.other_answer);
            noise.verdicts += usize::from(one.other_verdict || other.other_verdict);
        }
        (noise.cases > 0).then_some(noise)
    }
}
