//! The next token out of logits, and whether an answer is over with it: the same for every backend.

use super::Generation;
use crate::model::ops::rows::argmax;
use crate::random::{SplitMix64, unit};
use crate::record::{Finish, NEAR_TIE, Sampling};

/// What ends an answer before its limit.
pub(crate) struct Ends<'a> {
    /// Tokens that end a turn.
    pub(crate) tokens: &'a [u32],
    /// The text of tokens, in which strings are looked for that end an answer.
    pub(crate) text: &'a dyn Fn(&[u32]) -> String,
}

impl Ends<'_> {
    /// Nothing but the limit.
    pub(crate) const NONE: Ends<'static> = Ends { tokens: &[], text: &|_| String::new() };

    /// How an answer ended, when it is over with its last token; one that ends a turn is taken out of it.
    pub(crate) fn ended(&self, asked: &Generation, answer: &mut Vec<u32>) -> Option<Finish> {
        if answer.last().is_some_and(|last| self.tokens.contains(last)) {
            answer.pop();
            return Some(Finish::Stop);
        }
        if !asked.stop.is_empty() {
            let text = (self.text)(answer);
            if asked.stop.iter().any(|stop| text.contains(stop)) {
                return Some(Finish::Stop);
            }
        }
        (answer.len() >= asked.max_tokens).then_some(Finish::Length)
    }
}

/// Logits this close are the same but for rounding: sums in another order (another batch, another number of threads) differ by
/// about 3e-5 on a model whose logits reach 30.
const TIE: f32 = NEAR_TIE as f32;

/// A token that was chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Choice {
    pub(crate) token: u32,
    /// Another one is as likely but for rounding.
    pub(crate) near_tie: bool,
}

/// The token after `position` others of an answer; a greedy one is `approved`, the token that was approved there, where that ties
/// with the most likely.
pub(crate) fn choose(logits: &[f32], sampling: &Sampling, position: usize, approved: Option<u32>) -> Choice {
    if !sampling.is_greedy() {
        return Choice { token: draw(logits, sampling, position), near_tie: false };
    }
    let likeliest = argmax(logits);
    let close = logits[likeliest as usize] - TIE;
    let ties = |token: &u32| logits.get(*token as usize).is_some_and(|logit| *logit >= close);
    let near_tie = logits.iter().filter(|logit| **logit >= close).count() > 1;
    Choice { token: approved.filter(ties).unwrap_or(likeliest), near_tie }
}

fn draw(logits: &[f32], sampling: &Sampling, position: usize) -> u32 {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let likelier = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let kept = if sampling.top_k == 0 { order.len() } else { sampling.top_k.min(order.len()) };
    if kept < order.len() {
        order.select_nth_unstable_by(kept, likelier);
        order.truncate(kept);
    }
    order.sort_unstable_by(likelier);
    let most = f64::from(logits[order[0] as usize]);
    let weight = |token: &u32| ((f64::from(logits[*token as usize]) - most) / sampling.temperature).exp();
    let weights: Vec<f64> = order.iter().map(weight).collect();
    let within = sampling.top_p * weights.iter().sum::<f64>();
    let (mut kept, mut mass) = (0, 0.0);
    while kept < weights.len() && (kept == 0 || mass < within) {
        mass += weights[kept];
        kept += 1;
    }
    let mut left = uniform(sampling.seed, position) * mass;
    for (token, weight) in order.iter().zip(&weights[..kept]) {
        left -= weight;
        if left < 0.0 {
            return *token;
        }
    }
    order[kept - 1]
}

/// In [0, 1), of a generator of its own for each position: 53 bits of its first number.
fn uniform(seed: u64, position: usize) -> f64 {
    unit(SplitMix64::new(seed, position as u64).draw())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [0.0, 2.0, 1.0, -1.0, 2.5];

    fn sampling(temperature: f64, top_k: usize, top_p: f64) -> Sampling {
        Sampling { temperature, top_k, top_p, seed: 7 }
    }

    fn frequencies(sampling: &Sampling) -> [f64; 5] {
        const DRAWS: usize = 20_000;
        let mut found = [0.0; 5];
        for position in 0..DRAWS {
            found[draw(&LOGITS, sampling, position) as usize] += 1.0 / DRAWS as f64;
        }
        found
    }

    fn expected(temperature: f64, kept: &[usize]) -> [f64; 5] {
        let weight = |i: usize| (f64::from(LOGITS[i]) / temperature).exp();
        let sum: f64 = kept.iter().map(|i| weight(*i)).sum();
        std::array::from_fn(|i| if kept.contains(&i) { weight(i) / sum } else { 0.0 })
    }

    #[test]
    fn draws_follow_the_distribution_at_its_temperature_within_top_k_and_top_p() {
        // top_p 0.7 at T = 1: 2.5 and 2.0 have 0.55 and 0.33 of what top_k = 4 leaves.
        let cases = [
            (sampling(1.0, 0, 1.0), expected(1.0, &[0, 1, 2, 3, 4])),
            (sampling(2.0, 0, 1.0), expected(2.0, &[0, 1, 2, 3, 4])),
            (sampling(1.0, 3, 1.0), expected(1.0, &[1, 2, 4])),
            (sampling(1.0, 4, 0.7), expected(1.0, &[1, 4])),
            (sampling(1.0, 0, 1e-9), expected(1.0, &[4])),
        ];
        for (sampling, expected) in cases {
            for (found, expected) in frequencies(&sampling).iter().zip(expected) {
                // Four standard errors of 20 000 draws.
                assert!((found - expected).abs() < 0.015, "{sampling:?}: {found} for {expected}");
                assert!(expected > 0.0 || *found == 0.0, "{sampling:?}");
            }
        }
    }

    #[test]
    fn a_draw_depends_on_seed_and_position_alone() {
        let draws = |seed| -> Vec<u32> {
            let sampling = Sampling { seed, ..sampling(1.0, 0, 1.0) };
            (0..64).map(|position| draw(&LOGITS, &sampling, position)).collect()
        };
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
        assert_eq!(choose(&LOGITS, &Sampling::default(), 3, None).token, 4, "greedy without a temperature");
    }

    #[test]
    fn an_approved_token_stands_when_it_ties_and_no_other_does() {
        let logits = [1.0, 3.0, 2.9995, 2.99];
        let chosen = |approved| choose(&logits, &Sampling::default(), 0, approved).token;
        // The last one is no token of the model.
        assert_eq!([0, 1, 2, 3, 99].map(|token| chosen(Some(token))), [1, 1, 2, 1, 1]);
        assert_eq!(chosen(None), 1);
        assert!(choose(&logits, &Sampling::default(), 0, None).near_tie);
        assert!(!choose(&LOGITS, &Sampling::default(), 0, None).near_tie);
    }

    #[test]
    fn an_answer_ends_with_a_turn_a_string_or_its_limit() {
        let text = |tokens: &[u32]| tokens.iter().map(|t| char::from(b'a' + *t as u8)).collect::<String>();
        let ends = Ends { tokens: &[25], text: &text };
        let asked = Generation { stop: vec!["cd".into()], ..Generation::greedy(0, Vec::new(), 4) };
        let after = |mut tokens: Vec<u32>| (ends.ended(&asked, &mut tokens), tokens);
        assert_eq!(after(vec![0, 2]), (None, vec![0, 2]));
        assert_eq!(after(vec![0, 25]), (Some(Finish::Stop), vec![0]));
        assert_eq!(after(vec![2, 3]), (Some(Finish::Stop), vec![2, 3]), "the string is cut out of the text later");
        assert_eq!(after(vec![0, 0, 0, 0]), (Some(Finish::Length), vec![0, 0, 0, 0]));
    }
}
