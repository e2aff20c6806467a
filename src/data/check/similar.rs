//! How alike two texts are, from sixty bytes of each: MinHash (Broder 1997), of whose values one byte is kept (Li and König 2010).

/// Bytes of a signature.
pub(super) const PLACES: usize = 60;
/// Bytes that have to be equal for two texts to be compared: a signature has fifteen such bands.
pub(super) const BAND: usize = 4;
/// Equal bytes of two near duplicates: about 83 % of their sequences are shared, give or take 5 %.
pub(super) const NEAR: usize = 50;
/// Characters of a sequence.
const SEQUENCE: usize = 5;
/// Characters below which a text is too short to be near another.
const SHORTEST: usize = 12;

/// A text's signature.
pub(super) type Signature = [u8; PLACES];

/// Multipliers, one for each place: odd numbers out of SplitMix64.
const MULTIPLIERS: [u32; PLACES] = multipliers();

const fn multipliers() -> [u32; PLACES] {
    let mut all = [0; PLACES];
    let (mut i, mut state) = (0, 0x9e37_79b9_7f4a_7c15_u64);
    while i < PLACES {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        all[i] = (z >> 32) as u32 | 1;
        i += 1;
    }
    all
}

/// A text in lower case, each stretch of white space as one space: what two copies of it share.
pub(super) fn normal(text: &str, into: &mut String) {
    let mut words = text.split_whitespace();
    if let Some(first) = words.next() {
        into.extend(first.chars().flat_map(char::to_lowercase));
    }
    for word in words {
        into.push(' ');
        into.extend(word.chars().flat_map(char::to_lowercase));
    }
}

/// Hash of a text: equal texts only have equal ones, but for one pair of 2⁶⁴.
pub(super) fn hash(text: &str) -> u64 {
    let bytes = blake3::hash(text.as_bytes());
    u64::from_le_bytes(bytes.as_bytes()[..8].try_into().unwrap_or_default())
}

/// The signature of a [normal](normal) text; `None` of a short one.
pub(super) fn signature(text: &str) -> Option<Signature> {
    let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    if starts.len() <= SHORTEST {
        return None;
    }
    let mut least = [u32::MAX; PLACES];
    for ends in starts.windows(SEQUENCE + 1) {
        let sequence = &text.as_bytes()[ends[0]..ends[SEQUENCE]];
        let hash = sequence_hash(sequence);
        for (least, multiplier) in least.iter_mut().zip(MULTIPLIERS) {
            *least = (*least).min(hash.wrapping_mul(multiplier).rotate_left(13).wrapping_mul(0x9e37_79b1));
        }
    }
    Some(least.map(|value| (value.wrapping_mul(0x85eb_ca6b) >> 24) as u8))
}

/// FNV-1a, whose bits are mixed once more.
fn sequence_hash(bytes: &[u8]) -> u32 {
    let hash = bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    (hash ^ (hash >> 15)).wrapping_mul(0x2c1b_3c6d)
}

/// Places at which two signatures agree.
pub(super) fn equal_places(a: &Signature, b: &Signature) -> usize {
    a.iter().zip(b).filter(|(a, b)| a == b).count()
}

/// Share of sequences that two texts have in common, estimated. Of places that differ one in 256 agrees by chance.
pub(super) fn alike(equal: usize) -> f64 {
    let chance = 1.0 / 256.0;
    ((equal as f64 / PLACES as f64 - chance) / (1.0 - chance)).max(0.0)
}

/// The bytes of a band, as a number.
pub(super) fn band(signature: &Signature, i: usize) -> u32 {
    u32::from_le_bytes(signature[i * BAND..(i + 1) * BAND].try_into().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::random::SplitMix64;

    fn sequences(text: &str) -> HashSet<Vec<char>> {
        text.chars().collect::<Vec<char>>().windows(SEQUENCE).map(<[char]>::to_vec).collect()
    }

    fn jaccard(a: &str, b: &str) -> f64 {
        let (a, b) = (sequences(a), sequences(b));
        a.intersection(&b).count() as f64 / a.union(&b).count() as f64
    }

    /// The estimate against the share counted out, over 400 pairs of texts that differ more and more.
    #[test]
    fn the_estimate_is_that_of_the_sequences_counted_out() {
        let mut random = SplitMix64::new(7, 1);
        let mut word =
            || -> String { (0..4 + random.below(5)).map(|_| (b'a' + random.below(26) as u8) as char).collect() };
        let (mut error, mut square, mut n) = (0.0, 0.0, 0.0);
        for changed in 0..40 {
            for _ in 0..10 {
                let words: Vec<String> = (0..60).map(|_| word()).collect();
                let mut other = words.clone();
                other.iter_mut().take(changed).for_each(|w| *w = word());
                let (a, b) = (words.join(" "), other.join(" "));
                let found = equal_places(&signature(&a).expect("long"), &signature(&b).expect("long"));
                let difference = alike(found) - jaccard(&a, &b);
                error += difference;
                square += difference * difference;
                n += 1.0;
            }
        }
        let (bias, spread) = (error / n, (square / n).sqrt());
        assert!(bias.abs() < 0.01, "{bias}");
        // √(J(1−J)/60) is at most 0.065.
        assert!(spread < 0.062, "{spread}");
    }

    #[test]
    fn white_space_and_case_are_no_difference() {
        let of = |text: &str| {
            let mut into = String::new();
            normal(text, &mut into);
            into
        };
        assert_eq!(of("  A\tB\n\nc "), "a b c");
        assert_eq!(signature("too short"), None);
        assert_eq!(of("ÄÖ"), "äö");
    }
}
