//! What the prompts of a file have in common: an instruction before or after what differs. Without it examples that say different things look
//! nearly the same.

use super::Seen;
use crate::data::Turns;

/// Share of the prompts at each end of the order that may lack it.
const LACK: f64 = 0.05;
/// Prompts below which nothing is taken to be shared.
const FEWEST: usize = 20;

/// Beginnings and ends that almost all last prompts of a file share, in bytes of their text.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SharedText {
    before: String,
    after: String,
}

impl SharedText {
    /// Of these examples.
    pub(super) fn of<'a>(examples: impl Iterator<Item = &'a Turns>) -> Self {
        let mut prompts: Vec<&str> = examples.filter_map(last_prompt).collect();
        if prompts.len() < FEWEST {
            return Self::default();
        }
        // Of sorted texts, all between two share at least what these two do.
        let [low, high] = [LACK, 1.0 - LACK].map(|share| (share * (prompts.len() - 1) as f64) as usize);
        prompts.sort_unstable();
        let before = common(prompts[low].chars(), prompts[high].chars());
        prompts.sort_unstable_by(|a, b| a.chars().rev().cmp(b.chars().rev()));
        let after = common(prompts[low].chars().rev(), prompts[high].chars().rev()).chars().rev().collect();
        Self { before, after }
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
        let shared = SharedText::of(all.iter());
        assert_eq!(
            (shared.before.as_str(), shared.after.as_str()),
            ("Is this text polite? Answer yes or no.\nText: the ", "th letter\nAnswer:")
        );
        let own = |turns: &Turns| shared.own(&Seen { turns, longest: None }).join("|");
        assert_eq!((own(&all[7]), own(&all[50])), ("7|yes".into(), "Something else?|yes".into()));
        let some: Vec<Turns> = (0..50).map(|i| if i % 2 == 0 { label(i) } else { turns(format!("{i}?")) }).collect();
        assert_eq!(SharedText::of(some.iter()), SharedText::default());
        assert_eq!(SharedText::of(all.iter().take(5)), SharedText::default());
    }
}
