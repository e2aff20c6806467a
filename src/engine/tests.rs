//! A draft changes how fast an answer is found, and nothing else.

use proptest::prelude::*;

use super::{Continuation, Draft, Ends, Engine, Generated, Generation};
use crate::adapter;
use crate::model::decoder::Decoder;
use crate::model::linear::LowRank;
use crate::model::parity::{decoder, fixture};

/// Grouped queries, norms of queries and keys, windows, latent attention, ALiBi: each keeps another cache.
const FAMILIES: [(&str, &str); 5] = [
    ("llama", "llama/adapter"),
    ("qwen3", "qwen3/adapter"),
    ("gemma3_text", "adapters/gemma3"),
    ("deepseek_v3", "deepseek_v3/adapter"),
    ("bloom", "adapters/bloom"),
];
const LENGTH: usize = 20;

/// How an approved text was changed.
#[derive(Clone, Copy, Debug)]
enum Edit {
    None,
    Replaced(usize, u32),
    Truncated(usize),
    Extended(u32),
    Inserted(usize, u32),
    Other(u32),
}

impl Edit {
    fn of(self, tokens: &[u32]) -> Vec<u32> {
        let mut edited = tokens.to_vec();
        match self {
            Self::None => {}
            Self::Replaced(at, token) => edited[place(at, tokens)] = token,
            Self::Truncated(at) => edited.truncate(place(at, tokens)),
            Self::Extended(token) => edited.extend([token, token, token]),
            Self::Inserted(at, token) => edited.insert(place(at, tokens), token),
            Self::Other(token) => edited.fill(token),
        }
        edited
    }
}

/// Tenths of the way through a text: 0 is its first token, 10 its last.
fn place(tenths: usize, tokens: &[u32]) -> usize {
    (tokens.len() - 1) * tenths / 10
}

fn edits() -> impl Strategy<Value = Edit> {
    prop_oneof![
        Just(Edit::None),
        (0..=10usize, 0..300u32).prop_map(|(at, token)| Edit::Replaced(at, token)),
        (0..=10usize).prop_map(Edit::Truncated),
        (0..300u32).prop_map(Edit::Extended),
        (0..=10usize, 0..300u32).prop_map(|(at, token)| Edit::Inserted(at, token)),
        (0..300u32).prop_map(Edit::Other),
    ]
}

struct Model {
    decoder: Decoder,
    tuned: LowRank,
}

fn models() -> &'static [Model] {
    static MODELS: std::sync::OnceLock<Vec<Model>> = std::sync::OnceLock::new();
    MODELS.get_or_init(|| {
        let model = |(family, adapter): &(&str, &str)| {
            let decoder = decoder(family);
            let adapter = adapter::load(&fixture(adapter)).expect("an adapter");
            let tuned = adapter.attached(&decoder, 1.0).expect("tensors");
            Model { decoder, tuned }
        };
        FAMILIES.iter().map(model).collect()
    })
}

fn answers(model: &Model, batch: usize, asked: &[Generation], stop: &[u32]) -> Vec<Generated> {
    let engine = Engine { decoder: &model.decoder, arms: vec![None, Some(model.tuned.clone())], batch };
    engine.generate(asked, &Ends { tokens: stop, ..Ends::NONE }, &mut |_| {}).expect("answers")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_answer_is_the_same_whatever_was_drafted(
        family in 0..FAMILIES.len(),
        batch in 1..5usize,
        approved in any::<bool>(),
        ends in any::<bool>(),
        questions in prop::collection::vec((prop::collection::vec(3..250u32, 1..12), 0..2usize, edits()), 1..5),
    ) {
        let model = &models()[family];
        let mut asked: Vec<Generation> =
            questions.iter().map(|(prompt, arm, _)| Generation::greedy(*arm, prompt.clone(), LENGTH)).collect();
        let plain = answers(model, 8, &asked, &[]);
        // A turn ends with the token in the middle of the first answer.
        let stop: Vec<u32> = ends.then_some(plain[0].tokens[LENGTH / 2]).into_iter().collect();
        let plain = answers(model, 8, &asked, &stop);
        for ((asked, plain), (_, _, edit)) in asked.iter_mut().zip(&plain).zip(&questions) {
            if !plain.tokens.is_empty() {
                asked.draft = Draft { tokens: edit.of(&plain.tokens), approved };
                asked.draft.tokens.truncate(LENGTH);
            }
        }
        for (plain, drafted) in plain.iter().zip(answers(model, batch, &asked, &stop)) {
            if plain.near_ties == 0 {
                prop_assert_eq!(plain, &drafted);
            }
        }
    }
}

/// Steps are what a draft saves.
#[test]
fn an_approved_answer_that_holds_takes_one_step_and_a_broken_one_goes_on_from_there() {
    let model = &models()[0];
    let engine = Engine { decoder: &model.decoder, arms: vec![None], batch: 4 };
    let steps = |draft: Draft| {
        let asked = Generation { draft, ..Generation::greedy(0, vec![5, 9, 2], LENGTH) };
        let mut steps = 0;
        let found = engine.generate(&[asked], &Ends::NONE, &mut |event| {
            steps += usize::from(matches!(event, super::Event::Tokens(_)));
        });
        (steps, found.expect("an answer").remove(0).tokens)
    };
    let (plain, answer) = steps(Draft::default());
    assert_eq!(plain, LENGTH);
    let draft = |tokens: &[u32], approved| steps(Draft { tokens: tokens.to_vec(), approved });
    assert_eq!(draft(&answer, true), (1, answer.clone()));
    // One token alone, then up to seven drafted ones with each that is chosen.
    assert_eq!(draft(&answer, false), (3, answer.clone()));
    let mut broken = answer.clone();
    broken[10] = (broken[10] + 1) % 200;
    let (some, same) = draft(&broken, true);
    assert!(1 < some && some < LENGTH, "{some}");
    assert_eq!(same, answer);
}

#[test]
fn a_token_outside_the_vocabulary_is_an_error() {
    let decoder = decoder("llama");
    let engine = Engine { decoder: &decoder, arms: vec![None, None], batch: 4 };
    let text = |token| [Continuation { arm: 0, prompt: vec![1, 2], tokens: vec![3, token] }];
    let outside = text(u32::try_from(decoder.spec.vocab_size).expect("a small vocabulary"));
    let words = format!("is outside the vocabulary of {}", decoder.spec.vocab_size);
    let told = engine.log_likelihoods(&outside).expect_err("refused").to_string();
    assert!(told.contains(&words), "{told}");
    let told = engine.compare(&outside, 0, 1, &mut |_| ()).expect_err("refused").to_string();
    assert!(told.contains(&words), "{told}");
    assert!(engine.log_likelihoods(&text(4)).is_ok());
}
