//! The same question in other words: cases of one family.

use std::ops::Range;

use super::{RawCase, Reader};
use crate::data::limits::MOST_TEXT_BYTES;
use crate::record::Prompt;
use crate::scenario::Case;

/// Paraphrases of a case.
const MOST_PARAPHRASES: usize = 100;

/// `germany-2`: the name of a case's first paraphrase, by its position.
pub(super) fn paraphrase_name(case: &str, position: usize) -> String {
    format!("{case}-{}", position + 2)
}

impl Reader<'_> {
    /// The case, and one for each of its paraphrases.
    pub(super) fn family(
        &mut self,
        mut raw: RawCase,
        default_name: impl FnOnce() -> String,
        at: &Range<usize>,
    ) -> Vec<Case> {
        let paraphrases = std::mem::take(&mut raw.paraphrases);
        let mut first = self.case(raw, default_name, at);
        if paraphrases.len() > MOST_PARAPHRASES {
            let got = paraphrases.len();
            self.fail(at, format!("case {} has {got} paraphrases, expected at most {MOST_PARAPHRASES}", first.name));
            return vec![first];
        }
        if !paraphrases.is_empty() {
            first.family = Some(first.name.clone());
        }
        let mut family = vec![first];
        for (position, paraphrase) in paraphrases.into_iter().enumerate() {
            let at = paraphrase.span();
            let mut case = family[0].clone();
            case.name = paraphrase_name(&case.name, position);
            case.line = self.lines.at(&at);
            self.ask_otherwise(&at, &mut case, paraphrase.into_inner());
            family.push(case);
        }
        family
    }

    /// Puts a paraphrase in the place of the user's last message, or of the text.
    fn ask_otherwise(&mut self, at: &Range<usize>, case: &mut Case, paraphrase: String) {
        if paraphrase.trim().is_empty() {
            self.fail(at, format!("case {} asks nothing: its paraphrase is empty", case.name));
        }
        if paraphrase.len() > MOST_TEXT_BYTES {
            let long = paraphrase.len();
            self.fail(at, format!("case {} asks {long} bytes, expected at most {MOST_TEXT_BYTES}", case.name));
        }
        match &mut case.request.prompt {
            Prompt::Text(text) => *text = paraphrase,
            Prompt::Messages(messages) => match messages.iter_mut().rev().find(|message| message.role == "user") {
                Some(message) => message.content = paraphrase,
                None => self
                    .fail(at, format!("case {} has no message of the user that a paraphrase could replace", case.name)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::names;
    use super::super::tests::{cases, refused};
    use super::*;
    use crate::record::Message;

    const TWO: &str = "[[cases]]\nname = \"italy\"\nprompt = \"Capital of Italy?\"\nparaphrases = [\"Italy's capital?\",\n \"Name it.\"]\n\
                       checks = [{ contains = \"Rome\" }]\n";

    #[test]
    fn a_paraphrase_is_a_case_of_the_same_family() {
        let found = cases(TWO).expect("cases");
        let shown: Vec<(&str, usize, Option<&str>)> =
            found.iter().map(|case| (case.name.as_str(), case.line, case.family.as_deref())).collect();
        assert_eq!(shown, [("italy", 3, Some("italy")), ("italy-2", 6, Some("italy")), ("italy-3", 7, Some("italy"))]);
        assert_eq!(found[2].request.prompt, Prompt::Messages(vec![Message::new("user", "Name it.")]));
        assert!(found.iter().all(|case| case.checks.len() == 1));
        let alone = cases("[[cases]]\nprompt = \"x\"\nchecks = [\"json\"]").expect("a case");
        assert_eq!((alone.len(), alone[0].family.as_deref()), (1, None));
    }

    #[test]
    fn a_listing_names_them_too() {
        let file = format!("role = \"control\"\ndescription = \"capitals\"\n{TWO}");
        let listed = names(std::path::Path::new("capitals.toml"), &file).expect("names");
        assert_eq!(listed.cases, ["italy", "italy-2", "italy-3"]);
    }

    #[test]
    fn the_last_message_of_the_user_and_a_text_are_replaced() {
        let messages = "messages = [{ role = \"system\", content = \"s\" }, { role = \"user\", content = \"a\" }]";
        let found =
            cases(&format!("[[cases]]\n{messages}\nparaphrases = [\"b\"]\nchecks = [\"json\"]")).expect("cases");
        let expected = [("system", "s"), ("user", "b")].map(|(role, text)| Message::new(role, text));
        assert_eq!(found[1].request.prompt, Prompt::Messages(expected.to_vec()));
        let found = cases("[[cases]]\ntext = \"a\"\nparaphrases = [\"b\"]\nchecks = [\"json\"]").expect("cases");
        assert_eq!(found[1].request.prompt, Prompt::Text("b".into()));
    }

    #[test]
    fn paraphrases_that_cannot_be_asked_are_refused_with_their_line() {
        let case = |paraphrases: &str| {
            cases(&format!("[[cases]]\nprompt = \"x\"\nchecks = [\"json\"]\nparaphrases = {paraphrases}"))
        };
        refused(case("[\n\" \"]"), 7, "asks nothing: its paraphrase is empty");
        refused(case(&format!("[{}]", "\"x\",".repeat(101))), 3, "has 101 paraphrases, expected at most 100");
        let twice = format!("{TWO}[[cases]]\nname = \"italy-2\"\nprompt = \"x\"\nchecks = [\"json\"]");
        refused(cases(&twice), 9, "italy-2");
        let asked = "messages = [{ role = \"assistant\", content = \"s\" }]";
        let none = cases(&format!("[[cases]]\n{asked}\nparaphrases = [\"b\"]\nchecks = [\"json\"]"));
        assert!(none.is_err());
    }
}
