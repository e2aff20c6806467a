//! Verdicts as they come: a line for each case and arm, once base's and the arm's are known.

use std::collections::HashMap;

use crate::record::{BASE, Verdict};
use crate::run::RunEvent;
use crate::shown::{plain, visible};

/// Characters of a failure.
const LONGEST: usize = 100;

/// What is known of cases that are not told yet.
#[derive(Default)]
pub(super) struct Verdicts {
    base: HashMap<String, Verdict>,
    /// Arms that were judged before base was.
    waiting: HashMap<String, Vec<(String, Verdict, Option<String>)>>,
}

impl Verdicts {
    /// The lines that an event completes. Answers that were stored make none unless `all` are wanted: they were shown when they were
    /// computed.
    pub(super) fn lines(&mut self, event: &RunEvent, colors: bool, all: bool) -> Vec<String> {
        let RunEvent::CaseFinished { test, arm, verdict, why, stored, .. } = event else { return Vec::new() };
        if arm == BASE {
            self.base.insert(test.clone(), *verdict);
            let waiting = self.waiting.remove(test).unwrap_or_default();
            let line = |(arm, tuned, why): (String, Verdict, Option<String>)| {
                line(test, &arm, (*verdict, tuned), why.as_deref(), colors)
            };
            return waiting.into_iter().map(line).collect();
        }
        match self.base.get(test) {
            _ if *stored && !all => Vec::new(),
            Some(base) => vec![line(test, arm, (*base, *verdict), why.as_deref(), colors)],
            None => {
                let known = (arm.clone(), *verdict, why.clone());
                self.waiting.entry(test.clone()).or_default().push(known);
                Vec::new()
            }
        }
    }
}

/// `  ▼ broken  control::facts::france  contains "Paris": got …`.
fn line(test: &str, arm: &str, verdicts: (Verdict, Verdict), why: Option<&str>, colors: bool) -> String {
    let (sign, word, color) = match verdicts {
        (Verdict::Passed, Verdict::Passed) => ("✓", "passed", "32"),
        (Verdict::Failed, Verdict::Passed) => ("▲", "fixed", "32"),
        (Verdict::Passed, Verdict::Failed) => ("▼", "broken", "31"),
        (Verdict::Failed, Verdict::Failed) => ("✗", "both fail", "33"),
        _ => ("?", "not evaluated", "33"),
    };
    let arm = if arm == crate::record::TUNED { String::new() } else { format!(" [{}]", visible(arm)) };
    let why = why.map_or_else(String::new, |why| format!("  {}", plain(why, LONGEST)));
    let head = format!("{sign} {word:<9}");
    let head = if colors { format!("\u{1b}[{color}m{head}\u{1b}[0m") } else { head };
    format!("  {head} {}{arm}{why}", visible(test))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::fixture::{F, P};

    fn event(arm: &str, verdict: Verdict, why: Option<&str>) -> RunEvent {
        RunEvent::CaseFinished {
            test: "control::facts::france".into(),
            file: "scenarios/facts.toml".into(),
            line: 7,
            arm: arm.into(),
            verdict,
            why: why.map(str::to_owned),
            stored: false,
            seconds: 0.5,
        }
    }

    #[test]
    fn a_case_is_told_when_both_arms_are_judged_whichever_comes_first() {
        let mut verdicts = Verdicts::default();
        assert!(verdicts.lines(&event("tuned", F, Some("contains \"Paris\": \u{1b}[2Jx")), false, false).is_empty());
        assert_eq!(
            verdicts.lines(&event("base", P, None), false, false),
            ["  ▼ broken    control::facts::france  contains \"Paris\": \\u{1b}[2Jx"]
        );
        assert_eq!(
            verdicts.lines(&event("half", P, None), false, false),
            ["  ✓ passed    control::facts::france [half]"]
        );
        let coloured = verdicts.lines(&event("half", F, None), true, false);
        assert!(coloured[0].starts_with("  \u{1b}[31m▼ broken   \u{1b}[0m "), "{coloured:?}");
    }
}
