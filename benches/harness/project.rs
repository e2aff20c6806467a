//! A project of any size: 20 to 100 cases a scenario, four or five checks a case, answers of about 30 words, some broken, some fixed.

use std::fmt::Write;
use std::path::Path;

const WORDS: [&str; 32] = [
    "river", "mountain", "because", "the", "a", "small", "city", "of", "that", "is", "known", "for", "its", "old",
    "harbour", "where", "people", "sell", "fish", "and", "bread", "every", "morning", "while", "trains", "carry",
    "wood", "to", "northern", "towns", "in", "winter",
];
const MANIFEST: &str = r#"
[project]
name = "bench"
[model]
source = "none.gguf"
[adapter]
path = "adapter"
[gate]
min_target_pass_rate = 0.5
min_target_gain = 0.4
min_retention = 0.9
max_broken_controls = 10
"#;

/// What is asked in a case, and what base and tuned say.
pub(crate) struct Asked {
    pub(crate) question: String,
    pub(crate) base: String,
    pub(crate) tuned: String,
}

pub(crate) struct Scenario {
    pub(crate) target: bool,
    pub(crate) cases: Vec<Asked>,
    first: usize,
}

pub(crate) struct Project {
    pub(crate) scenarios: Vec<Scenario>,
}

/// A number that looks like chance and depends on `i` alone.
fn chance(i: usize) -> usize {
    let mut x = (i as u64).wrapping_add(0x9E37_79B9_7F4A_7C15).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x ^= x >> 29;
    (x.wrapping_mul(0x94D0_49BB_1331_11EB) >> 33) as usize
}

fn words(seed: usize, count: usize) -> String {
    let words: Vec<&str> = (0..count).map(|i| WORDS[chance(seed * 64 + i) % WORDS.len()]).collect();
    words.join(" ")
}

/// The word that a case's answer must hold.
fn name(case: usize) -> String {
    let letter = |i: usize| char::from(b'a' + (chance(case + i * 7919) % 26) as u8);
    format!("Z{}", (0..7).map(letter).collect::<String>())
}

impl Project {
    /// A project of `cases` cases, always the same.
    pub(crate) fn new(cases: usize) -> Self {
        let mut scenarios = Vec::new();
        let mut first = 0;
        while first < cases {
            let target = scenarios.len() % 3 == 0;
            let size = (20 + chance(scenarios.len()) % 81).min(cases - first);
            let asked = |case| if target { extraction(case) } else { fact(case) };
            scenarios.push(Scenario { target, cases: (first..first + size).map(asked).collect(), first });
            first += size;
        }
        Self { scenarios }
    }

    /// The script of both arms.
    pub(crate) fn script(&self) -> impl Iterator<Item = (usize, &str, &str)> {
        let cases = self.scenarios.iter().flat_map(|s| &s.cases);
        cases.flat_map(|c| [(0, c.question.as_str(), c.base.as_str()), (1, &c.question, &c.tuned)])
    }

    /// Writes manifest and scenarios.
    pub(crate) fn write(&self, directory: &Path) {
        std::fs::write(directory.join("finetest.toml"), MANIFEST).expect("a manifest");
        std::fs::create_dir_all(directory.join("scenarios")).expect("a directory");
        for (i, scenario) in self.scenarios.iter().enumerate() {
            let path = directory.join(format!("scenarios/ability-{i:05}.toml"));
            std::fs::write(path, scenario.toml(i)).expect("a scenario");
        }
    }
}

impl Scenario {
    fn toml(&self, number: usize) -> String {
        let role = if self.target { "target" } else { "control" };
        let shared =
            if self.target { r#""no-template-tags", "json""# } else { r#""no-template-tags", "no-repetition""# };
        let mut text = format!("role = \"{role}\"\ndescription = \"ability {number}\"\nchecks = [{shared}]\n");
        for (i, case) in self.cases.iter().enumerate() {
            let number = self.first + i;
            let name = name(number);
            let checks = match (self.target, i % 4) {
                (true, _) => {
                    format!(r#"{{ json-fields = {{ name = "{name}", line = {number} }} }}, {{ max-length = 400 }}"#)
                }
                (false, 0) => format!(r#"{{ regex = '(?i)\b{name}\b' }}, {{ max-words = 60 }}, "not-json""#),
                (false, _) => format!(r#"{{ icontains = "{name}" }}, {{ max-words = 60 }}, "not-json""#),
            };
            let _ = write!(text, "\n[[cases]]\nprompt = \"{}\"\nchecks = [{checks}]\n", case.question);
        }
        text
    }
}

/// A target case: base talks, tuned gives JSON nine times out of ten.
fn extraction(case: usize) -> Asked {
    let name = name(case);
    let json = format!(r#"{{"name": "{name}", "line": {case}, "text": "{}"}}"#, words(case, 24));
    let said = format!("The name that you look for is {name}, {}.", words(case, 24));
    let tuned = if case % 10 == 7 { said.clone() } else { json };
    Asked { question: format!("Give name and line of note {case}: {}.", words(case + 1, 12)), base: said, tuned }
}

/// A control case: tuned says the same, or says it otherwise, or answers with JSON one time out of twenty.
fn fact(case: usize) -> Asked {
    let name = name(case);
    let said = |seed: usize| format!("It is called {name}, {}.\nOne finds it {}.", words(seed, 16), words(case, 10));
    let (base, tuned) = match case % 20 {
        3 => (said(case), format!(r#"{{"name": "{name}", "line": {case}}}"#)),
        9 => (format!("I do not know, {}.", words(case, 24)), said(case)),
        11..=16 => (said(case), said(case + 1)),
        _ => (said(case), said(case)),
    };
    Asked { question: format!("What is place {case} called, {}?", words(case + 2, 10)), base, tuned }
}
