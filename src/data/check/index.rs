//! Which examples are there twice, or nearly: 76 bytes of each are held.

use rayon::prelude::*;

use super::similar::{BAND, NEAR, PLACES, Signature, alike, band, equal_places};

/// Of a bucket, members that a new one is compared with. In larger buckets some pairs are not seen.
const COMPARED: usize = 12;
const NONE: u32 = u32::MAX;

/// What is held of each example.
#[derive(Default)]
pub(super) struct Index {
    /// All zero where a text is too short to be near another.
    signatures: Vec<Signature>,
    whole: Vec<u64>,
    prompt: Vec<u64>,
}

/// What one example says, as hashes.
pub(super) struct Entry {
    pub(super) signature: Option<Signature>,
    pub(super) whole: u64,
    /// 0 where there is no prompt.
    pub(super) prompt: u64,
}

/// What an example is to an earlier one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Relation {
    /// The same, but for white space and case.
    Same(usize),
    /// Nearly the same: this share of sequences is shared.
    Near(usize, f64),
    /// The same prompt with another answer.
    Contradicts(usize),
}

impl Index {
    pub(super) fn push(&mut self, entry: Entry) {
        self.signatures.push(entry.signature.unwrap_or([0; PLACES]));
        self.whole.push(entry.whole);
        self.prompt.push(entry.prompt);
    }

    pub(super) fn len(&self) -> usize {
        self.whole.len()
    }

    /// Tells of every example that has an earlier like it, in no order, and of each the first thing that is true: the same, a contradiction,
    /// nearly the same.
    pub(super) fn relations(&self, on_found: &mut dyn FnMut(usize, Relation)) {
        let n = self.len() as u32;
        let mut order: Vec<u32> = (0..n).collect();
        // What an example is like: itself, where nothing was found yet.
        let mut first: Vec<u32> = vec![NONE; self.len()];
        order.par_sort_unstable_by_key(|i| (self.whole[*i as usize], *i));
        for same in order.chunk_by(|a, b| self.whole[*a as usize] == self.whole[*b as usize]) {
            for later in &same[1..] {
                first[*later as usize] = same[0];
                on_found(*later as usize, Relation::Same(same[0] as usize));
            }
        }
        order.retain(|i| first[*i as usize] == NONE && self.prompt[*i as usize] != 0);
        order.par_sort_unstable_by_key(|i| (self.prompt[*i as usize], *i));
        for asked in order.chunk_by(|a, b| self.prompt[*a as usize] == self.prompt[*b as usize]) {
            for later in &asked[1..] {
                first[*later as usize] = asked[0];
                on_found(*later as usize, Relation::Contradicts(asked[0] as usize));
            }
        }
        self.near(&mut order, &mut first, on_found);
    }

    fn near(&self, order: &mut Vec<u32>, first: &mut [u32], on_found: &mut dyn FnMut(usize, Relation)) {
        for i in 0..PLACES / BAND {
            let key = |at: &u32| band(&self.signatures[*at as usize], i);
            order.clear();
            // A copy has nothing to add: what is near it is near the first of them.
            order.extend(
                (0..self.len() as u32)
                    .filter(|at| first[*at as usize] == NONE && self.signatures[*at as usize] != [0; PLACES]),
            );
            order.par_sort_unstable_by_key(|at| (key(at), *at));
            for bucket in order.chunk_by(|a, b| key(a) == key(b)) {
                for (place, later) in bucket.iter().enumerate().skip(1) {
                    if first[*later as usize] != NONE {
                        continue;
                    }
                    let earlier = bucket[..place]
                        .iter()
                        .take(COMPARED)
                        .chain(bucket[..place].iter().skip(COMPARED).rev().take(COMPARED));
                    let near = earlier.filter(|at| first[**at as usize] == NONE).find_map(|at| {
                        let equal = equal_places(&self.signatures[*at as usize], &self.signatures[*later as usize]);
                        (equal >= NEAR).then_some((*at, equal))
                    });
                    if let Some((at, equal)) = near {
                        first[*later as usize] = at;
                        on_found(*later as usize, Relation::Near(at as usize, alike(equal)));
                    }
                }
            }
        }
    }
}

/// Prompts that training data must not have.
#[derive(Default)]
pub(super) struct Forbidden {
    whole: std::collections::HashMap<u64, usize>,
    bands: std::collections::HashMap<(usize, u32), Vec<usize>>,
    signatures: Vec<Signature>,
    names: Vec<String>,
}

impl Forbidden {
    /// Adds a prompt by its normal text's hash and signature; `name` is where it stands.
    pub(super) fn add(&mut self, hash: u64, signature: Option<Signature>, name: String) {
        let at = self.names.len();
        self.names.push(name);
        self.whole.entry(hash).or_insert(at);
        self.signatures.push(signature.unwrap_or([0; PLACES]));
        for (i, signature) in signature.iter().flat_map(|signature| (0..PLACES / BAND).map(move |i| (i, signature))) {
            let bucket = self.bands.entry((i, band(signature, i))).or_default();
            if bucket.len() < COMPARED {
                bucket.push(at);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Where a prompt stands that is this one, or nearly.
    pub(super) fn find(&self, hash: u64, signature: Option<&Signature>) -> Option<&str> {
        if let Some(at) = self.whole.get(&hash) {
            return Some(&self.names[*at]);
        }
        let signature = signature?;
        let candidates = (0..PLACES / BAND).filter_map(|i| self.bands.get(&(i, band(signature, i)))).flatten();
        let near = candidates.copied().find(|at| equal_places(&self.signatures[*at], signature) >= NEAR)?;
        Some(&self.names[near])
    }
}

#[cfg(test)]
mod tests {
    use super::super::similar::{hash, normal, signature};
    use super::*;

    fn entry(prompt: &str, answer: &str) -> Entry {
        let (mut whole, mut asked) = (String::new(), String::new());
        normal(&format!("{prompt}\n{answer}"), &mut whole);
        normal(prompt, &mut asked);
        Entry { signature: signature(&whole), whole: hash(&whole), prompt: hash(&asked) }
    }

    fn relations(examples: &[(&str, &str)]) -> Vec<(usize, Relation)> {
        let mut index = Index::default();
        examples.iter().for_each(|(prompt, answer)| index.push(entry(prompt, answer)));
        let mut found = Vec::new();
        index.relations(&mut |at, relation| found.push((at, relation)));
        found.sort_by_key(|(at, _)| *at);
        found
    }

    #[test]
    fn the_same_the_near_and_the_contradictory_are_told_apart() {
        let long = "The harbour lies on the north side of the bay, and the boats come in at first light when the tide is right.";
        let other =
            "The harbour lies on the north side of the bay, and the boats come in at first light when the tide is low.";
        let found = relations(&[
            ("Describe the harbour.", long),
            ("describe  the harbour.", long),
            ("Describe the harbour.", "No."),
            ("Describe this harbour.", other),
            ("What is 2 + 2?", "4"),
        ]);
        assert_eq!(found[0], (1, Relation::Same(0)));
        assert_eq!(found[1], (2, Relation::Contradicts(0)));
        let (3, Relation::Near(0, alike)) = found[2] else { panic!("{found:?}") };
        assert!(alike > 0.8 && found.len() == 3, "{found:?}");
    }

    #[test]
    fn short_examples_are_near_nothing() {
        assert_eq!(relations(&[("a", "b"), ("a", "bc"), ("d", "b")]), [(1, Relation::Contradicts(0))]);
        assert_eq!(relations(&[]), []);
    }

    /// Of thousands of copies that differ in a word, all but the first are found.
    #[test]
    fn many_near_copies_are_all_found() {
        let text = "A long sentence about a train that leaves in the morning and comes back at night, number ";
        let texts: Vec<String> = (0..3000).map(|i| format!("{text}{i}")).collect();
        let examples: Vec<(&str, &str)> = texts.iter().map(|text| ("", text.as_str())).collect();
        let mut index = Index::default();
        examples.iter().for_each(|(_, answer)| index.push(Entry { prompt: 0, ..entry("", answer) }));
        let mut near = 0;
        index.relations(&mut |_, relation| near += usize::from(matches!(relation, Relation::Near(..))));
        assert!(near >= 2990, "{near}");
    }

    #[test]
    fn a_forbidden_prompt_is_found_by_its_copy_and_by_what_is_near() {
        let mut forbidden = Forbidden::default();
        let prompt = "which train leaves for the coast at seven in the morning on sundays?";
        forbidden.add(hash(prompt), signature(prompt), "scenarios/trains.toml".into());
        assert_eq!(forbidden.find(hash(prompt), None), Some("scenarios/trains.toml"));
        let near = "which train leaves for the coast at seven in the morning on sunday?";
        assert_eq!(forbidden.find(hash(near), signature(near).as_ref()), Some("scenarios/trains.toml"));
        assert_eq!(forbidden.find(1, signature("something else altogether, of that length").as_ref()), None);
    }
}
