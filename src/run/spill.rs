//! What of the target's form has spilled over into the controls, out of the answers that a run has.

use crate::record::{CaseRecord, Finish, FormCount, Role, ScenarioRecord, SpillOver};
use crate::scenario::Scenario;
use crate::scenario::habits::{Habits, forms};

/// Base's and an arm's answers to the controls, by how they look; `None` where no control has text of both.
pub(super) fn spill_over(
    scenarios: &[Scenario],
    records: &[ScenarioRecord],
    base: &str,
    arm: &str,
) -> Option<SpillOver> {
    let forms = forms(scenarios);
    let text = |case: &'_ CaseRecord, arm: &str| {
        let first = case.answers.get(arm)?.samples.first()?.turns.first()?;
        (first.finish != Finish::Scored).then(|| first.text.clone())
    };
    let controls = records.iter().filter(|scenario| scenario.role == Role::Control);
    let cases = controls.flat_map(|scenario| &scenario.cases);
    let pairs: Vec<[String; 2]> = cases.filter_map(|case| Some([text(case, base)?, text(case, arm)?])).collect();
    if pairs.is_empty() {
        return None;
    }
    let mut spill = SpillOver { answers: pairs.len(), ..SpillOver::default() };
    for pair in &pairs {
        for (side, text) in pair.iter().enumerate() {
            let habits = Habits::new(text);
            spill.empty[side] += usize::from(habits.empty);
            spill.loops[side] += usize::from(habits.loops);
            spill.tags[side] += usize::from(habits.tags);
            spill.refusals[side] += usize::from(habits.refuses);
            spill.words[side] += habits.words as f64 / pairs.len() as f64;
        }
    }
    spill.forms = forms
        .iter()
        .map(|form| {
            let count = |side: usize| pairs.iter().filter(|pair| form.fits(&pair[side])).count();
            FormCount { form: form.name.clone(), base: count(0), arm: count(1) }
        })
        .collect();
    Some(spill)
}
