//! Drift of two distributions of which only the most likely tokens are known.
//!
//! Joining outcomes into one can only lower a KL divergence, so every division of the vocabulary gives a lower bound. Here the tokens that
//! both lists have stand alone, and so do those that base's list alone has: of them it is known that tuned finds them no likelier than the
//! last token of its own list. All other tokens are one outcome. What is not known is chosen so that the divergence is least. There is no
//! upper bound: a token outside tuned's list may have any smaller probability.

use super::server::{Scored, sorted};
use crate::backend::engine::Compared;
use crate::model::ops::rows::log_normaliser;

/// Probability that is left to what is not known, at least: lists are rounded.
const LEAST: f64 = 1e-12;

/// KL(base ‖ tuned) at a position, at least; nats.
fn lower_bound(base: &[(u32, f64)], tuned: &[(u32, f64)]) -> f64 {
    let of_tuned = |token: u32| tuned.iter().find(|(id, _)| *id == token).map(|(_, q)| *q);
    let last = tuned.iter().map(|(_, q)| *q).fold(f64::INFINITY, f64::min).exp();
    let (mut kl, mut p_left, mut q_left) = (0.0, 1.0, 1.0);
    let mut alone: Vec<f64> = Vec::new();
    for (token, log_p) in base {
        let p = log_p.exp();
        p_left -= p;
        match of_tuned(*token) {
            Some(log_q) => {
                kl += p * (log_p - log_q);
                q_left -= log_q.exp();
            }
            None => alone.push(p),
        }
    }
    let (p_rest, q_all) = (p_left.max(0.0), q_left.max(LEAST));
    kl + least(&alone, p_rest, q_all, last)
}

/// The least Σ p ln(p/q) over `alone` and the rest, whose q add up to `q_all` and those of `alone` are at most `most`: q is in proportion
/// to p where that is below `most`.
fn least(alone: &[f64], p_rest: f64, q_all: f64, most: f64) -> f64 {
    let mut alone = alone.to_vec();
    alone.sort_by(|a, b| b.total_cmp(a));
    let free: f64 = p_rest + alone.iter().sum::<f64>();
    let (mut p_free, mut q_free, mut capped) = (free, q_all, 0);
    // The tokens that base finds most likely reach the bound first.
    while let Some(p) = alone.get(capped) {
        if p_free <= 0.0 || p * q_free / p_free <= most {
            break;
        }
        p_free -= p;
        q_free = (q_free - most).max(LEAST);
        capped += 1;
    }
    let of_capped: f64 = alone[..capped].iter().map(|p| p * (p / most).ln()).sum();
    let of_free = if p_free > 0.0 { p_free * (p_free / q_free).ln() } else { 0.0 };
    of_capped + of_free
}

/// Probability that base's list has of all.
fn covered(base: &[(u32, f64)]) -> f64 {
    base.iter().map(|(_, p)| p.exp()).sum::<f64>().min(1.0)
}

/// What a server with these logits would tell.
pub(super) fn of_logits(row: &[f32], token: u32, k: usize) -> Scored {
    let normaliser = log_normaliser(row);
    let log_probability = |id: u32| row.get(id as usize).map_or(f64::NEG_INFINITY, |l| f64::from(*l) - normaliser);
    let mut ids: Vec<u32> = (0..row.len() as u32).collect();
    let likelier = |a: &u32, b: &u32| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b));
    if k < ids.len() {
        ids.select_nth_unstable_by(k, likelier);
        ids.truncate(k);
    }
    let top = sorted(ids.into_iter().map(|id| (id, log_probability(id))).collect());
    Scored { log_probability: log_probability(token), top }
}

/// The fewest tokens of each list that have `share` of the probability on the mean of these positions; `None` when all of them have less.
pub(super) fn enough(scored: &[Scored], share: f64) -> Option<usize> {
    let longest = scored.iter().map(|position| position.top.len()).max()?;
    let mut seen = 0.0;
    (1..=longest).find(|k| {
        seen += scored.iter().filter_map(|position| Some(position.top.get(k - 1)?.1.exp())).sum::<f64>();
        seen >= share * scored.len() as f64
    })
}

/// Both arms' lists on one text, and the share of base's probability that its lists have, position by position.
pub(super) fn compared(base: &[Scored], tuned: &[Scored]) -> (Compared, Vec<f64>) {
    let mut found = Compared::default();
    let mut share = Vec::new();
    for (base, tuned) in base.iter().zip(tuned) {
        found.kl.push(lower_bound(&base.top, &tuned.top).max(0.0));
        found.nll_base.push(-base.log_probability);
        found.nll_tuned.push(-tuned.log_probability);
        let first = |scored: &Scored| scored.top.first().map_or((u32::MAX, f64::NAN), |(token, p)| (*token, -p));
        found.top_base.push(first(base));
        found.top_tuned.push(first(tuned));
        share.push(covered(&base.top));
    }
    (found, share)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SplitMix64;

    fn distribution(random: &mut SplitMix64, n: usize, peak: f64) -> Vec<f64> {
        let weights: Vec<f64> = (0..n).map(|_| (crate::random::unit(random.draw()) * peak).exp()).collect();
        let sum: f64 = weights.iter().sum();
        weights.into_iter().map(|weight| weight / sum).collect()
    }

    fn top(p: &[f64], k: usize) -> Vec<(u32, f64)> {
        let mut all: Vec<(u32, f64)> = p.iter().enumerate().map(|(i, p)| (i as u32, p.ln())).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        all.truncate(k);
        all
    }

    #[test]
    fn the_bound_is_below_the_divergence_grows_with_k_and_is_it_when_all_is_known() {
        let mut random = SplitMix64::new(7, 1);
        for round in 0..200 {
            let n = 40;
            let p = distribution(&mut random, n, 8.0);
            // A near distribution, and one that has nothing to do with it.
            let q = match round % 2 {
                0 => distribution(&mut random, n, 8.0),
                _ => {
                    let other = distribution(&mut random, n, 2.0);
                    p.iter().zip(other).map(|(p, o)| 0.8 * p + 0.2 * o).collect()
                }
            };
            let kl: f64 = p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum();
            let mut before = 0.0;
            for k in [1, 2, 5, 10, 20, 40] {
                let bound = lower_bound(&top(&p, k), &top(&q, k));
                assert!(bound <= kl + 1e-9, "{k}: {bound} above {kl}");
                assert!(bound >= before - 1e-9, "{k}: {bound} below {before}");
                before = bound;
            }
            assert!((before - kl).abs() < 1e-9, "{before} {kl}");
        }
    }

    #[test]
    fn the_fewest_tokens_that_have_enough_are_found() {
        let position = |p: &[f64]| Scored { log_probability: 0.0, top: p.iter().map(|p| (0, p.ln())).collect() };
        let scored = [position(&[0.9, 0.05, 0.05]), position(&[0.5, 0.3, 0.1])];
        for (share, expected) in [(0.5, Some(1)), (0.7, Some(1)), (0.71, Some(2)), (0.9, Some(3)), (0.99, None)] {
            assert_eq!(enough(&scored, share), expected, "{share}");
        }
        assert_eq!(enough(&[], 0.9), None);
    }

    #[test]
    fn logits_are_told_as_a_server_would() {
        let found = of_logits(&[1.0, 3.0, 3.0, -2.0], 3, 2);
        let normaliser = [1.0f64, 3.0, 3.0, -2.0].map(f64::exp).iter().sum::<f64>().ln();
        assert_eq!(found.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2]);
        assert!((found.top[0].1 - (3.0 - normaliser)).abs() < 1e-6);
        assert!((found.log_probability - (-2.0 - normaliser)).abs() < 1e-6);
        assert_eq!(of_logits(&[1.0, 2.0], 7, 9).log_probability, f64::NEG_INFINITY);
    }

    /// Worked by hand: base's second token is not in tuned's list of one, whose probability is 0.9.
    #[test]
    fn a_token_that_tuned_lacks_has_at_most_its_last_probability() {
        let ln = f64::ln;
        let (base, tuned) = ([(1, ln(0.5)), (2, ln(0.4))], [(1, ln(0.9)), (3, ln(0.04))]);
        // Of tuned's 0.1 that are not token 1, token 2 has 0.04 at most, and the rest 0.06.
        let expected = 0.5 * ln(0.5 / 0.9) + 0.4 * ln(0.4 / 0.04) + 0.1 * ln(0.1 / 0.06);
        assert!((lower_bound(&base, &tuned) - expected).abs() < 1e-12);
        assert!((covered(&base) - 0.9).abs() < 1e-12);
    }
}
