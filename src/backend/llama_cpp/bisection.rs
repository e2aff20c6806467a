//! Which items of a job a process crashes on: groups of them are tried, and one that it died in is tried again in halves.

/// Groups of items that are still to be tried.
pub(super) struct Bisection {
    /// The last one is next.
    pending: Vec<Vec<usize>>,
}

/// One try of a group.
pub(super) struct Attempt {
    pub(super) items: Vec<usize>,
    begun: Vec<bool>,
    answered: Vec<bool>,
}

impl Bisection {
    /// All items, `0..count`, in one group.
    pub(super) fn new(count: usize) -> Self {
        Self { pending: vec![(0..count).collect()] }
    }

    /// The group to try next; none when all items are settled.
    pub(super) fn next_attempt(&mut self) -> Option<Attempt> {
        let items = self.pending.pop().filter(|items| !items.is_empty())?;
        Some(Attempt { begun: vec![false; items.len()], answered: vec![false; items.len()], items })
    }

    /// Settles what follows from the death of the process in this try: the item that it crashed on, if that is certain. Otherwise the
    /// items that it had begun are tried again in halves. What it had not begun is tried first.
    pub(super) fn died(&mut self, attempt: &Attempt) -> Option<usize> {
        let (suspects, rest) = attempt.suspects();
        let cause = match suspects.as_slice() {
            [] => None,
            [item] => Some(*item),
            many => {
                let (first, second) = many.split_at(many.len() / 2);
                self.pending.extend([second.to_vec(), first.to_vec()]);
                None
            }
        };
        self.pending.push(rest);
        self.pending.retain(|group| !group.is_empty());
        cause
    }

    /// Gives up: all items that are not settled, those of this try among them.
    pub(super) fn give_up(self, attempt: &Attempt) -> Vec<usize> {
        self.pending.into_iter().flatten().chain(attempt.unanswered()).collect()
    }
}

impl Attempt {
    /// The process says that it begins with an item of the group, by its place there.
    pub(super) fn begin(&mut self, place: usize) {
        if let Some(begun) = self.begun.get_mut(place) {
            *begun = true;
        }
    }

    /// The item at this place of the group, when it is answered for the first time.
    pub(super) fn answer(&mut self, place: usize) -> Option<usize> {
        let answered = self.answered.get_mut(place)?;
        if std::mem::replace(answered, true) { None } else { self.items.get(place).copied() }
    }

    /// Items without an answer, in their order.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = usize> {
        self.items.iter().zip(&self.answered).filter(|(_, answered)| !**answered).map(|(item, _)| *item)
    }

    /// Whether an item was answered.
    pub(super) fn has_answers(&self) -> bool {
        self.answered.contains(&true)
    }

    /// What the process may have crashed on, and the rest. If it had begun with none that is left, it crashed on what they begin with in
    /// common, and any may be the reason.
    fn suspects(&self) -> (Vec<usize>, Vec<usize>) {
        let left = || (0..self.items.len()).filter(|place| !self.answered[*place]);
        let none_begun = left().all(|place| !self.begun[place]);
        let (suspects, rest): (Vec<usize>, Vec<usize>) = left().partition(|place| none_begun || self.begun[*place]);
        let items = |places: Vec<usize>| places.into_iter().map(|place| self.items[place]).collect();
        (items(suspects), items(rest))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A process that begins with `batch` items at once and dies when a deadly one is among them. Returns the items it answered, those
    /// found deadly, and how often it died.
    fn run(count: usize, batch: usize, deadly: &[usize]) -> (Vec<usize>, Vec<usize>, usize) {
        let (mut answered, mut causes, mut deaths) = (Vec::new(), Vec::new(), 0);
        let mut bisection = Bisection::new(count);
        while let Some(mut attempt) = bisection.next_attempt() {
            let items = attempt.items.clone();
            let mut died = false;
            for places in (0..items.len()).collect::<Vec<_>>().chunks(batch) {
                places.iter().for_each(|place| attempt.begin(*place));
                died = places.iter().any(|place| deadly.contains(&items[*place]));
                if died {
                    break;
                }
                answered.extend(places.iter().filter_map(|place| attempt.answer(*place)));
            }
            if died {
                deaths += 1;
                causes.extend(bisection.died(&attempt));
            }
        }
        (answered, causes, deaths)
    }

    proptest! {
        #[test]
        fn every_deadly_item_is_found_and_every_other_is_answered_once(
            count in 0_usize..40, batch in 1_usize..9, deadly in prop::collection::btree_set(0_usize..40, 0..5),
        ) {
            let deadly: Vec<usize> = deadly.into_iter().filter(|item| *item < count).collect();
            let (mut answered, mut causes, deaths) = run(count, batch, &deadly);
            answered.sort_unstable();
            causes.sort_unstable();
            prop_assert_eq!(&causes, &deadly);
            let healthy: Vec<usize> = (0..count).filter(|item| !deadly.contains(item)).collect();
            prop_assert_eq!(answered, healthy);
            // Halving a batch takes its logarithm of deaths for each item.
            prop_assert!(deaths <= deadly.len() * 5, "{} deaths", deaths);
        }
    }

    #[test]
    fn items_that_were_begun_are_tried_again_behind_those_that_were_not() {
        let mut bisection = Bisection::new(5);
        let mut attempt = bisection.next_attempt().expect("all items");
        assert_eq!(attempt.answer(0), Some(0));
        assert_eq!(attempt.answer(0), None, "an item is answered once");
        assert_eq!(attempt.answer(9), None, "there is no such place");
        attempt.begin(1);
        attempt.begin(2);
        assert_eq!(bisection.died(&attempt), None);
        let mut tried = Vec::new();
        while let Some(mut attempt) = bisection.next_attempt() {
            tried.push(attempt.items.clone());
            for place in 0..attempt.items.len() {
                attempt.answer(place);
            }
        }
        assert_eq!(tried, [vec![3, 4], vec![1], vec![2]]);
    }

    #[test]
    fn giving_up_names_all_that_is_left() {
        let mut bisection = Bisection::new(4);
        let mut attempt = bisection.next_attempt().expect("all items");
        attempt.begin(0);
        assert_eq!(attempt.answer(1), Some(1));
        assert_eq!(bisection.died(&attempt), Some(0));
        let attempt = bisection.next_attempt().expect("what was not begun");
        assert!(!attempt.has_answers());
        assert_eq!(bisection.give_up(&attempt), [2, 3]);
    }
}
