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

/// Reads what [`super::render`] wrote.
fn read(body: &str, scenario: &str, arms: &[&str], approved: &mut Approved) {
    let (mut case, mut arm, mut answer) = (None, None, Vec::new());
    // One line more, so that the last answer is kept too.
    for line in body.lines().chain(["## "]) {
        if let (Some(_), Some(quoted)) = (arm, line.strip_prefix("  |")) {
            answer.push(unescaped(quoted.strip_prefix(' ').unwrap_or(quoted)));
            continue;
        }
        if let (Some(case), Some(arm), false) = (case, arm, answer.is_empty()) {
            approved.insert(scenario, case, arm, std::mem::take(&mut answer).join("\n"));
        }
        arm = None;
        if let Some(name) = line.strip_prefix("## ") {
            case = Some(name);
        } else if let (Some(case), Some((name, said))) = (case, line.split_once(": ")) {
            arm = arms.iter().find(|arm| **arm == name).copied();
            let same = said.split_once(" = ").and_then(|(_, other)| approved.get(scenario, case, other));
            if let (Some(arm), Some(same)) = (arm, same.map(str::to_owned)) {
                approved.insert(scenario, case, arm, same);
            }
        }
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
        read(&super::super::render(&scenario, BASE, TUNED), "facts", &[BASE, TUNED], &mut approved);
        for (name, base, tuned) in answers {
            assert_eq!(approved.get("facts", name, BASE), Some(base), "{name}");
            assert_eq!(approved.get("facts", name, TUNED), Some(tuned), "{name}");
        }
        assert_eq!(approved.get("facts", "plain", "other"), None);
    }

    #[test]
    fn a_file_that_is_no_snapshot_gives_nothing() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join(file_of("facts"));
        for text in ["", "---\nno end", "---\n---\n## \n: \nbase: \n  | x", "---\n---\n## a\nbase: passed = base\n"] {
            std::fs::write(&path, text).expect("written");
            let found = approved(directory.path(), ["facts", "absent"], &[BASE]);
            assert_eq!(found.get("facts", "a", BASE), None);
        }
    }
}
