//! How often each detector is right, on labelled examples. `tune.jsonl` was looked at while the detectors were written, `held.jsonl` was not.

use std::collections::BTreeMap;

use super::{DETECTORS, Kind, Seen};
use crate::data::format::{self, Format};

/// The labelled examples of a half.
pub(crate) fn examples(half: &str) -> Vec<(Result<crate::data::Turns, String>, Vec<String>)> {
    let path = format!("{}/tests/fixtures/findings/{half}.jsonl", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).expect("the labelled examples");
    let read = |line: &str| {
        let object = format::object(line.as_bytes()).expect("JSON");
        let defects = object["defects"].as_array().expect("a list").iter();
        let defects = defects.map(|name| name.as_str().expect("a name").to_owned()).collect();
        let format = Format::of(&object).expect("a format");
        (format.turns(object), defects)
    };
    text.lines().map(read).collect()
}

/// Labelled and found, labelled alone, found alone.
#[derive(Clone, Copy, Default)]
pub(crate) struct Rates {
    pub(crate) both: usize,
    pub(crate) missed: usize,
    pub(crate) wrong: usize,
}

impl Rates {
    fn share(part: usize, of: usize) -> f64 {
        if of == 0 { 1.0 } else { part as f64 / of as f64 }
    }

    pub(crate) fn precision(&self) -> f64 {
        Self::share(self.both, self.both + self.wrong)
    }

    pub(crate) fn recall(&self) -> f64 {
        Self::share(self.both, self.both + self.missed)
    }
}

/// Of each detector that has labels, and the clean lines that any detector flags, of all clean ones.
pub(crate) fn rates(half: &str) -> (Vec<(Kind, Rates)>, [usize; 2]) {
    let mut found: BTreeMap<usize, Rates> = BTreeMap::new();
    let (mut flagged, mut clean) = (0, 0);
    for (turns, labels) in examples(half) {
        let seen = turns.as_ref().ok().map(Seen::alone);
        let mut any = false;
        for (i, detector) in DETECTORS.iter().enumerate() {
            let labelled = labels.iter().any(|label| label == detector.kind().name);
            // What is no example of its format is found as unreadable.
            let why = match &seen {
                Some(seen) => detector.finding(seen),
                None => labelled.then(|| "unreadable".to_owned()),
            };
            let rates = found.entry(i).or_default();
            match (labelled, &why) {
                (true, Some(_)) => rates.both += 1,
                (true, None) => rates.missed += 1,
                (false, Some(_)) => rates.wrong += 1,
                (false, None) => {}
            }
            any |= why.is_some();
        }
        clean += usize::from(labels.is_empty());
        flagged += usize::from(labels.is_empty() && any);
    }
    let named = found.into_iter().map(|(i, rates)| (DETECTORS[i].kind(), rates));
    (named.filter(|(_, rates)| rates.both + rates.missed > 0).collect(), [flagged, clean])
}

/// The table of the documentation.
pub(crate) fn table() -> String {
    let (held, [flagged, clean]) = rates("held");
    let mut text = String::from("| Finding | Labelled | Found of them | Found wrongly |\n|---|--:|--:|--:|\n");
    for (kind, rates) in held {
        let Rates { both, missed, wrong } = rates;
        text.push_str(&format!("| `{}` | {} | {both} | {wrong} |\n", kind.name, both + missed));
    }
    text + &format!(
        "\nOf {clean} clean examples, most of which were written to look like defects, {flagged} have a finding.\n"
    )
}

#[test]
fn detectors_are_right_on_what_they_were_written_with_and_on_what_they_never_saw() {
    for (half, least_precision, least_recall) in [("tune", 0.9, 0.9), ("held", 0.7, 0.6)] {
        let (kinds, [flagged, clean]) = rates(half);
        assert_eq!(kinds.len(), 13, "a kind without labelled examples");
        for (kind, rates) in kinds {
            assert!(rates.precision() >= least_precision, "{half} {}: precision {}", kind.name, rates.precision());
            assert!(rates.recall() >= least_recall, "{half} {}: recall {}", kind.name, rates.recall());
        }
        assert!(clean >= 100 && flagged * 10 <= clean, "{flagged} of {clean}");
    }
    let both = examples("tune").len() + examples("held").len();
    assert!(both >= 400, "{both}");
}
