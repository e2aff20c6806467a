//! What the examples of a file have in common. An instruction that all prompts have before or after what differs: without it examples that say
//! different things look nearly the same. And whether answers end a sentence: one that does not is then cut.

use super::Seen;
use super::answers::{Ending, ending};
use crate::data::Turns;

/// Share of the prompts at each end of the order, or of the answers, that may lack it.
const LACK: f64 = 0.05;
/// Prompts or answers below which nothing is taken to be shared.
const FEWEST: usize = 20;

/// What almost all examples of a file share.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Shared {
    /// Beginnings and ends of the last prompts, in bytes of their text.
    before: String,
    after: String,
    /// Answers of prose end a sentence.
    pub(super) sentences: bool,
}

impl Shared {
    /// Of these examples.
    pub(super) fn of<'a>(examples: impl Iterator<Item = &'a Turns> + Clone) -> Self {
        let sentences = end_sentences(examples.clone());
        let mut prompts: Vec<&str> = examples.filter_map(last_prompt).collect();
        if prompts.len() < FEWEST {
            return Self { sentences, ..Self::default() };
        }
        // Of sorted texts, all between two share at least what these two do.
        let [low, high] = [LACK, 1.0 - LACK].map(|share| (share * (prompts.len() - 1) as f64) as usize);
        prompts.sort_unstable();
        let before = common(prompts[low].chars(), prompts[high].chars());
        prompts.sort_unstable_by(|a, b| a.chars().rev().cmp(b.chars().rev()));
        let after = common(prompts[low].chars().rev(), prompts[high].chars().rev()).chars().rev().collect();
        Self { before, after, sentences }
    }

    /// What an example says of its own: its last prompt without what is shared, and its answers; no system message.
    pub(super) fn own<'a>(&self, seen: &Seen<'a>) -> Vec<&'a str> {
        let last = last_prompt(seen.turns);
        let mut texts = Vec::new();
        for text in seen.said() {
            texts.push(if Some(text) == last { self.without(text) } else { text });
        }
        texts
    }

    /// A prompt without what is shared.
    fn without<'a>(&self, text: &'a str) -> &'a str {
        let text = text.strip_prefix(self.before.as_str()).unwrap_or(text);
        text.strip_suffix(self.after.as_str()).unwrap_or(text)
    }
}

/// Whether almost all answers of prose end a sentence.
fn end_sentences<'a>(examples: impl Iterator<Item = &'a Turns>) -> bool {
    let (mut ended, mut all) = (0usize, 0usize);
    for answer in
        examples.filter(|turns| !matches!(turns, Turns::Text(_))).flat_map(|turns| Seen::alone(turns).answers())
    {
        match ending(answer) {
            Ending::Sentence => (ended, all) = (ended + 1, all + 1),
            Ending::Word => all += 1,
            Ending::Other => {}
        }
    }
    all >= FEWEST && (all - ended) as f64 <= LACK * all as f64
}

fn last_prompt(turns: &Turns) -> Option<&str> {
    match turns {
        Turns::Chat { messages, .. } => {
            messages.iter().rev().find(|message| message.role == "user").map(|message| message.content.as_str())
        }
        Turns::Completion { prompt, .. } => Some(prompt),
        Turns::Text(_) => None,
    }
}

fn common(a: impl Iterator<Item = char>, b: impl Iterator<Item = char>) -> String {
    a.zip(b).take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(prompt: String) -> Turns {
        Turns::Completion { prompt, completion: "yes".into() }
    }

    #[test]
    fn an_instruction_that_almost_all_share_is_taken_away_and_what_some_share_is_not() {
        let label =
            |i: usize| turns(format!("Is this text polite? Answer yes or no.\nText: the {i}th letter\nAnswer:"));
        let mut all: Vec<Turns> = (0..50).map(label).collect();
        all.push(turns("Something else?".into()));
        let shared = Shared::of(all.iter());
        assert_eq!(
            (shared.before.as_str(), shared.after.as_str()),
            ("Is this text polite? Answer yes or no.\nText: the ", "th letter\nAnswer:")
        );
        let own = |turns: &Turns| shared.own(&Seen::alone(turns)).join("|");
        assert_eq!((own(&all[7]), own(&all[50])), ("7|yes".into(), "Something else?|yes".into()));
        let some: Vec<Turns> = (0..50).map(|i| if i % 2 == 0 { label(i) } else { turns(format!("{i}?")) }).collect();
        assert_eq!(Shared::of(some.iter()), Shared::default());
        assert_eq!(Shared::of(all.iter().take(5)), Shared::default());
    }

    #[test]
    fn answers_that_almost_all_end_a_sentence_are_seen_and_code_and_lists_do_not_count() {
        let answer = |text: &str| Turns::Completion { prompt: "?".into(), completion: text.into() };
        let whole = answer("The harbour lies on the north side of the bay.");
        let cut = answer("The harbour lies on the north side of the bay and fishing");
        let others = [
            "{\"a\": 1}",
            "yes",
            "let a = first + second + third + fourth + fifth",
            "- one of two\n- two of the things that we have",
        ];
        let shares = |cut_ones: usize| {
            let all = std::iter::repeat_n(&whole, 40 - cut_ones).chain(std::iter::repeat_n(&cut, cut_ones));
            let others: Vec<Turns> = others.iter().map(|text| answer(text)).collect();
            Shared::of(all.chain(&others)).sentences
        };
        assert_eq!([0, 2, 3].map(shares), [true, true, false]);
        assert!(!Shared::of(std::iter::repeat_n(&whole, FEWEST - 1)).sentences);
    }
}
