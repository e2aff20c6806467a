//! Which examples validate, and in which order the others are learnt: the same on every machine.

use std::collections::HashMap;

use super::Example;
use crate::random::SplitMix64;

/// Splits off about `share` of the examples to validate with: `(train, validation)`, each in the given order.
///
/// An example's content and `seed` decide, not its place, so identical examples are on one side, and adding an example moves
/// few others. At least one is held back when `share` is above 0, and at least one is left to train on, if the contents
/// differ at all.
#[must_use]
pub fn hold_back(examples: Vec<Example>, share: f64, seed: u64) -> (Vec<Example>, Vec<Example>) {
    if examples.is_empty() || share.is_nan() || share <= 0.0 {
        return (examples, Vec::new());
    }
    let key = |example: &Example| *example.turns.seeded_hash(&seed.to_le_bytes()).as_bytes();
    let keys: Vec<[u8; 32]> = examples.iter().map(key).collect();
    let mut groups: HashMap<[u8; 32], usize> = HashMap::new();
    for key in &keys {
        *groups.entry(*key).or_default() += 1;
    }
    let mut groups: Vec<([u8; 32], usize)> = groups.into_iter().collect();
    groups.sort_unstable();
    groups.pop(); // One group is always left to train on.
    let wanted = (share.min(1.0) * examples.len() as f64).round().max(1.0) as usize;
    let mut held = 0;
    let mut last = None;
    for (key, count) in groups {
        if held >= wanted {
            break;
        }
        held += count;
        last = Some(key);
    }
    let (validation, train): (Vec<_>, Vec<_>) =
        examples.into_iter().zip(keys).partition(|(_, key)| last.is_some_and(|last| *key <= last));
    let examples = |side: Vec<(Example, [u8; 32])>| side.into_iter().map(|(example, _)| example).collect();
    (examples(train), examples(validation))
}

/// The order in which `n` examples are learnt in an epoch: a permutation of `0..n`, by Fisher and Yates's shuffle.
#[must_use]
pub fn order(n: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    let mut random = SplitMix64::new(seed, epoch);
    for last in (1..n).rev() {
        order.swap(last, random.below(last as u64 + 1) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::super::Turns;
    use super::*;

    fn examples(texts: &[u8]) -> Vec<Example> {
        texts.iter().enumerate().map(|(i, t)| Example { line: i + 1, turns: Turns::Text(t.to_string()) }).collect()
    }

    fn lines(examples: &[Example]) -> Vec<usize> {
        examples.iter().map(|e| e.line).collect()
    }

    #[test]
    fn a_tenth_is_held_back_and_another_seed_holds_back_others() {
        let all: Vec<u8> = (0..200).collect();
        let (train, validation) = hold_back(examples(&all), 0.1, 42);
        assert_eq!((train.len(), validation.len()), (180, 20));
        assert_ne!(lines(&validation), lines(&hold_back(examples(&all), 0.1, 43).1));
        // Spread over the file, not a block of it.
        assert!(validation[0].line < 60 && validation[19].line > 140, "{:?}", lines(&validation));
    }

    #[test]
    fn adding_an_example_moves_few_others() {
        let all: Vec<u8> = (0..200).collect();
        let before: HashSet<usize> = lines(&hold_back(examples(&all[..199]), 0.1, 42).1).into_iter().collect();
        let after: HashSet<usize> = lines(&hold_back(examples(&all), 0.1, 42).1).into_iter().collect();
        assert!(before.symmetric_difference(&after).count() <= 2, "{before:?} {after:?}");
    }

    #[test]
    fn small_sets_keep_something_on_both_sides() {
        assert_eq!(hold_back(examples(&[1, 2]), 0.01, 1).1.len(), 1);
        assert_eq!(hold_back(examples(&[1, 2, 3]), 1.0, 1).0.len(), 1);
        assert_eq!(hold_back(examples(&[1, 1, 1]), 0.5, 1).1.len(), 0);
        assert_eq!(hold_back(examples(&[1, 2]), 0.0, 1).1.len(), 0);
        assert_eq!(hold_back(Vec::new(), 0.5, 1), (Vec::new(), Vec::new()));
    }

    #[test]
    fn each_epoch_and_seed_has_its_order() {
        assert_eq!(order(100, 1, 0), order(100, 1, 0));
        assert_ne!(order(100, 1, 0), order(100, 1, 1));
        assert_ne!(order(100, 1, 0), order(100, 0, 1));
        assert_eq!(order(0, 1, 1), Vec::<usize>::new());
        // Fixed for good: a resumed training must meet the same order.
        assert_eq!(order(8, 42, 0), order_written_out(8, 42, 0));
    }

    /// The reference implementation: draws one of those left, from the end.
    fn order_written_out(n: usize, seed: u64, epoch: u64) -> Vec<usize> {
        let mut random = SplitMix64::new(seed, epoch);
        let mut left: Vec<usize> = (0..n).collect();
        let mut drawn = Vec::new();
        while left.len() > 1 {
            let at = random.below(left.len() as u64) as usize;
            drawn.push(left.swap_remove(at));
        }
        drawn.extend(left);
        drawn.reverse();
        drawn
    }

    proptest! {
        #[test]
        fn an_order_is_a_permutation(n in 0..300_usize, seed: u64, epoch in 0..5_u64) {
            let order = order(n, seed, epoch);
            prop_assert_eq!(&order, &order_written_out(n, seed, epoch));
            let mut sorted = order;
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..n).collect::<Vec<_>>());
        }

        #[test]
        fn every_example_is_on_one_side_and_so_are_its_twins(
            texts in proptest::collection::vec(0..30_u8, 0..60), share in 0.0..1.0_f64, seed: u64,
        ) {
            let (train, validation) = hold_back(examples(&texts), share, seed);
            prop_assert_eq!(train.len() + validation.len(), texts.len());
            let contents = |side: &[Example]| -> HashSet<String> { side.iter().map(|e| format!("{:?}", e.turns)).collect() };
            prop_assert!(contents(&train).is_disjoint(&contents(&validation)));
            prop_assert!(lines(&train).is_sorted() && lines(&validation).is_sorted());
            prop_assert!(texts.is_empty() || !train.is_empty());
        }
    }
}
