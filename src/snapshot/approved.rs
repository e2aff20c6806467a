//! Approved answers read back out of snapshots, as guesses at what will be answered.

use std::path::Path;

use super::{MOST_BYTES, body_of, file_of};
use crate::files::read_regular_text;
use crate::record::Approved;

/// The answers of `arms` that the snapshots of these scenarios in `directory` hold. What cannot be read is left out: a guess that
/// is missing or wrong costs time and changes nothing.
#[must_use]
pub fn approved<'s>(directory: &Path, scenarios: impl IntoIterator<Item = &'s str>, arms: &[&str]) -> Approved {
    let mut approved = Approved::default();
    for scenario in scenarios {
        let Ok(text) = read_regular_text(&directory.join(file_of(scenario)), MOST_BYTES) else { continue };
        if let Some(body) = body_of(&text.replace("\r\n", "\n")) {
            read(body, scenario, arms, &mut approved);
        }
    }
    approved
}

/// Reads what [`super::render`] wrote: of samples the first, of a cut answer its beginning.
fn read(body: &str, scenario: &str, arms: &[&str], approved: &mut Approved) {
    let (mut case, mut arm) = (None, None);
    let mut turns: Vec<Vec<String>> = Vec::new();
    // One line more, so that the last answer is kept too.
    for line in body.lines().chain(["## "]) {
        if arm.is_some() && line.starts_with("  ") {
            if let Some(quoted) = line.strip_prefix("  |") {
                let text = unescaped(quoted.strip_prefix(' ').unwrap_or(quoted));
                turns.last_mut().into_iter().for_each(|turn| turn.push(text.clone()));
            } else if line.starts_with("  > ") && turns.last().is_some_and(|turn| !turn.is_empty()) {
                turns.push(Vec::new());
            } else if line.starts_with("  sample ") && !line.starts_with("  sample 1:") {
                keep(approved, scenario, case, arm.take(), &mut turns);
            }
            continue;
        }
        keep(approved, scenario, case, arm.take(), &mut turns);
        if let Some(name) = line.strip_prefix("## ") {
            case = Some(name);
        } else if let (Some(case), Some((name, said))) = (case, line.split_once(": ")) {
            arm = arms.iter().find(|arm| **arm == name).copied();
            turns = vec![Vec::new()];
            if let (Some(arm), Some((_, other))) = (arm, said.split_once(" = ")) {
                let same =
                    (0..).map_while(|turn| approved.get(scenario, case, other, turn).map(str::to_owned)).collect();
                approved.insert(scenario, case, arm, same);
            }
        }
    }
}

/// Keeps the turns that were read of an arm.
fn keep(approved: &mut Approved, scenario: &str, case: Option<&str>, arm: Option<&str>, turns: &mut Vec<Vec<String>>) {
    let read = std::mem::take(turns);
    if let (Some(case), Some(arm), true) = (case, arm, read.iter().any(|turn| !turn.is_empty())) {
        approved.insert(scenario, case, arm, read.iter().map(|lines| lines.join("\n")).collect());
    }
}

/// Characters that [`crate::shown::visible`] spelt out.
fn unescaped(line: &str) -> String {
    let mut parts = line.split("\\u{");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let spelt = part
            .split_once('}')
            .and_then(|(hex, rest)| Some((char::from_u32(u32::from_str_radix(hex, 16).ok()?)?, rest)));
        match spelt {
            Some((c, rest)) => {
                text.push(c);
                text.push_str(rest);
            }
            None => {
                text.push_str("\\u{");
                text.push_str(part);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::fixture::{self, F, P};
    use crate::record::{BASE, Role, TUNED};

    #[test]
    fn what_was_rendered_is_read_back() {
        let answers = [
            ("plain", "Paris.", "Rome."),
            ("same", "Yes,\n\n  indeed.", "Yes,\n\n  indeed."),
            ("odd", " a\u{1b}[2J \n\ttail\t", "| no: quote\n## of = base\u{200b} "),
            ("close", "The capital of France is Paris, of course.", "The capital of France is Rome, of course."),
        ];
        let mut scenario = fixture::scenario("facts", Role::Control, &[]);
        for (name, base, tuned) in answers {
            scenario.cases.push(fixture::case(name, "Capital?", (P, base), (F, tuned)));
        }
        let mut approved = Approved::default();
        read(&super::super::render(&scenario, &[BASE, TUNED]), "facts", &[BASE, TUNED], &mut approved);
        for (name, base, tuned) in answers {
            assert_eq!(approved.get("facts", name, BASE, 0), Some(base), "{name}");
            assert_eq!(approved.get("facts", name, TUNED, 0), Some(tuned), "{name}");
        }
        assert_eq!(approved.get("facts", "plain", "other", 0), None);
    }

    #[test]
    fn turns_samples_and_cut_answers_are_guesses_too() {
        let mut scenario = fixture::scenario("names", Role::Target, &[]);
        let babble = "word ".repeat(100);
        let mut case = fixture::case("ada", "I am Ada.", (F, &babble), (P, "Hello.\nAda."));
        case.follow_ups = vec!["Who am I?".into()];
        let tuned = case.answers.get_mut(TUNED).expect("an answer");
        let mut second = tuned.samples[0].turns[0].clone();
        second.text = "You are Ada.".into();
        tuned.samples[0].turns.push(second);
        let mut other = tuned.samples[0].clone();
        other.turns[0].text = "Good day.".into();
        tuned.samples.push(other);
        scenario.cases.push(case);
        let mut approved = Approved::default();
        let body = super::super::render(&scenario, &[BASE, TUNED]);
        assert!(
            body.contains("tuned: passed, 2 of 2 samples\n  sample 1: passed\n  | Hello.\n  | Ada.\n  > Who am I?\n"),
            "{body}"
        );
        read(&body, "names", &[BASE, TUNED], &mut approved);
        let turn = |arm, turn| approved.get("names", "ada", arm, turn);
        assert_eq!(
            [turn(TUNED, 0), turn(TUNED, 1), turn(TUNED, 2)],
            [Some("Hello.\nAda."), Some("You are Ada."), None]
        );
        assert!(turn(BASE, 0).is_some_and(|text| text.len() == 99 + 6 || babble.starts_with(text.trim_end())));
        assert!(body.contains("\n  …\n"), "{body}");
    }

    #[test]
    fn a_file_that_is_no_snapshot_gives_nothing() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join(file_of("facts"));
        for text in ["", "---\nno end", "---\n---\n## \n: \nbase: \n  | x", "---\n---\n## a\nbase: passed = base\n"] {
            std::fs::write(&path, text).expect("written");
            let found = approved(directory.path(), ["facts", "absent"], &[BASE]);
            assert_eq!(found.get("facts", "a", BASE, 0), None);
        }
    }
}
