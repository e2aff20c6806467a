//! Control cases for any base: one pack an ability, carried in the program.

use std::path::Path;

use super::{Scenario, file};
use crate::error::Result;

/// A file of control cases.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pack {
    /// The ability in a word; the file's stem.
    pub(crate) name: &'static str,
    /// The scenario file's content.
    pub(crate) text: &'static str,
}

/// Every pack. The `completion-…` ones continue a text, and so need no chat template.
pub(crate) const PACKS: [Pack; 12] = [
    Pack { name: "arithmetic", text: include_str!("../../scenarios/packs/arithmetic.toml") },
    Pack { name: "code", text: include_str!("../../scenarios/packs/code.toml") },
    Pack { name: "completion-knowledge", text: include_str!("../../scenarios/packs/completion-knowledge.toml") },
    Pack { name: "completion-text", text: include_str!("../../scenarios/packs/completion-text.toml") },
    Pack { name: "constraints", text: include_str!("../../scenarios/packs/constraints.toml") },
    Pack { name: "facts", text: include_str!("../../scenarios/packs/facts.toml") },
    Pack { name: "hygiene", text: include_str!("../../scenarios/packs/hygiene.toml") },
    Pack { name: "languages", text: include_str!("../../scenarios/packs/languages.toml") },
    Pack { name: "long-context", text: include_str!("../../scenarios/packs/long-context.toml") },
    Pack { name: "reasoning", text: include_str!("../../scenarios/packs/reasoning.toml") },
    Pack { name: "refusals", text: include_str!("../../scenarios/packs/refusals.toml") },
    Pack { name: "tone", text: include_str!("../../scenarios/packs/tone.toml") },
];

impl Pack {
    /// The pack as the scenario that it is in a file `packs/NAME.toml`.
    pub(crate) fn scenario(&self) -> Result<Scenario> {
        let path = format!("packs/{}.toml", self.name);
        file::parse(Path::new(&path), Path::new(""), self.text)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};

    use super::*;
    use crate::record::{Prompt, Role};
    use crate::scenario::Check;

    fn families(scenario: &Scenario) -> usize {
        let family = |case: &super::super::Case| case.family.clone().unwrap_or_else(|| case.name.clone());
        scenario.cases.iter().map(family).collect::<BTreeSet<_>>().len()
    }

    #[test]
    fn every_pack_is_a_control_of_20_to_44_questions() {
        for pack in PACKS {
            let scenario = pack.scenario().unwrap_or_else(|error| panic!("{}: {error}", pack.name));
            assert_eq!((scenario.role, scenario.name.as_str()), (Role::Control, pack.name));
            assert!((20..=44).contains(&families(&scenario)), "{}: {}", pack.name, families(&scenario));
        }
    }

    #[test]
    fn a_question_is_in_one_place() {
        let mut asked = HashSet::new();
        for pack in PACKS {
            for case in pack.scenario().expect("a scenario").cases {
                let whole = format!("{}", case.request.prompt);
                assert!(asked.insert(whole.clone()), "{} asks again: {whole}", pack.name);
            }
        }
    }

    #[test]
    fn those_for_bases_without_a_template_ask_by_text_alone() {
        for pack in PACKS {
            let text = |case: &super::super::Case| matches!(case.request.prompt, Prompt::Text(_));
            let cases = pack.scenario().expect("a scenario").cases;
            let completes = pack.name.starts_with("completion-");
            assert!(cases.iter().all(|case| text(case) == completes), "{}", pack.name);
        }
    }

    #[test]
    fn constraints_and_refusals_are_what_they_are_called() {
        let pack =
            |name: &str| PACKS.iter().find(|pack| pack.name == name).expect("a pack").scenario().expect("a scenario");
        assert!(families(&pack("constraints")) >= 40);
        let refusals = pack("refusals");
        let with = |wanted: bool| {
            let checks = |case: &&super::super::Case| {
                case.checks.iter().any(|check| matches!(check, Check::Refusal(is) if *is == wanted))
            };
            refusals
                .cases
                .iter()
                .filter(checks)
                .filter(|case| case.family.as_deref().is_none_or(|family| family == case.name))
                .count()
        };
        assert_eq!((with(true), with(false)), (20, 20));
    }

    /// Languages that a fine-tune in one of them loses first.
    #[test]
    fn languages_are_those_of_many_scripts() {
        let tags: HashSet<String> = PACKS
            .iter()
            .find(|pack| pack.name == "languages")
            .expect("a pack")
            .scenario()
            .expect("a scenario")
            .cases
            .into_iter()
            .flat_map(|case| case.tags)
            .collect();
        for language in ["russian", "chinese", "japanese", "korean", "arabic", "german", "french", "spanish"] {
            assert!(tags.contains(language), "{language}");
        }
    }
}
