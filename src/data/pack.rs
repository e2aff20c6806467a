//! Packing: several examples in one sequence, so that few positions are padding.

use std::collections::VecDeque;

/// Packs that are still filled: far fewer than examples, so that a pack's examples are near each other in the order and an
/// epoch stays shuffled.
const OPEN: usize = 32;

/// Puts examples of `lengths` into packs of at most `capacity` tokens, in the given order: each goes into the first of the
/// last 32 packs with room for it, else into a new one (first fit). Packs come in the order in which they were begun.
///
/// Every element of `order` is in exactly one pack. One that is longer than `capacity` is alone in its pack; the caller
/// refuses or cuts such examples beforehand. `order` holds indices into `lengths`; others are left out.
#[must_use]
pub fn packs(lengths: &[usize], order: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let mut packs: Vec<Vec<usize>> = Vec::new();
    let mut open: VecDeque<(usize, usize)> = VecDeque::new(); // (pack, room)
    for &example in order {
        let Some(&length) = lengths.get(example) else { continue };
        if let Some((pack, room)) = open.iter_mut().find(|(_, room)| *room >= length) {
            packs[*pack].push(example);
            *room -= length;
            continue;
        }
        packs.push(vec![example]);
        // A pack that is full from the start needs no place in the window.
        if length < capacity {
            open.push_back((packs.len() - 1, capacity - length));
        }
        if open.len() > OPEN {
            open.pop_front();
        }
    }
    packs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_pack_with_room_takes_an_example() {
        assert_eq!(packs(&[6, 5, 4, 3, 2], &[0, 1, 2, 3, 4], 10), [vec![0, 2], vec![1, 3, 4]]);
        assert_eq!(packs(&[6, 5, 4, 3, 2], &[4, 3, 2, 1, 0], 10), [vec![4, 3, 2], vec![1], vec![0]]);
        assert_eq!(packs(&[], &[], 10), Vec::<Vec<usize>>::new());
    }

    #[test]
    fn a_pack_is_closed_when_too_many_are_open() {
        // 40 packs with a room of 1 each; only the last 32 may take one of the ones.
        let lengths: Vec<usize> = std::iter::repeat_n(9, 40).chain(std::iter::repeat_n(1, 40)).collect();
        let order: Vec<usize> = (0..80).collect();
        let found = packs(&lengths, &order, 10);
        assert!(found[..8].iter().all(|pack| pack.len() == 1));
        assert!(found[8..40].iter().all(|pack| pack.len() == 2));
        assert_eq!(found[40..], [(72..80).collect::<Vec<_>>()]);
    }

    #[test]
    fn what_is_too_long_is_alone() {
        assert_eq!(packs(&[3, 99, 3], &[0, 1, 2], 10), [vec![0, 2], vec![1]]);
    }

    proptest! {
        #[test]
        fn every_example_is_in_one_pack_and_no_pack_is_too_long(
            lengths in proptest::collection::vec(1..=64_usize, 0..200), seed: u64,
        ) {
            let order = super::super::order(lengths.len(), seed, 0);
            let packs = packs(&lengths, &order, 64);
            for pack in &packs {
                prop_assert!(!pack.is_empty());
                prop_assert!(pack.iter().map(|&i| lengths[i]).sum::<usize>() <= 64);
            }
            let mut all = packs.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
        }

        #[test]
        fn at_most_one_of_the_open_packs_is_less_than_half_full(
            lengths in proptest::collection::vec(1..=64_usize, 0..32),
        ) {
            let order: Vec<usize> = (0..lengths.len()).collect();
            let packs = packs(&lengths, &order, 64);
            let loose = packs.iter().filter(|p| p.iter().map(|&i| lengths[i]).sum::<usize>() <= 32).count();
            prop_assert!(loose <= 1);
        }
    }
}
