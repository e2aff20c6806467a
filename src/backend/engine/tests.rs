//! A draft changes how fast an answer is found, and nothing else.

use proptest::prelude::*;

use super::{Continuation, Draft, Ends, Engine, Generated, Generation};
use crate::backend::ENGINE_REVISION;
use crate::model::decoder::Decoder;
use crate::model::decoder::parity::{decoder, fixture};
use crate::model::lora;
use crate::model::ops::low_rank::LowRank;
use crate::record::Sampling;

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
    fn applied(self, tokens: &[u32]) -> Vec<u32> {
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
            let adapter = lora::load(&fixture(adapter)).expect("an adapter");
            let tuned = adapter.attached(&decoder, 1.0).expect("tensors");
            Model { decoder, tuned }
        };
        FAMILIES.iter().map(model).collect()
    })
}

fn answers(model: &Model, batch: usize, asked: &[Generation], stop: &[u32]) -> Vec<Generated> {
    let engine = Engine { decoder: &model.decoder, arms: &[None, Some(model.tuned.clone())], batch };
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
                asked.draft = Draft { tokens: edit.applied(&plain.tokens), approved };
                asked.draft.tokens.truncate(LENGTH);
            }
        }
        for (plain, drafted) in plain.iter().zip(answers(model, batch, &asked, &stop)) {
            // How many ties there are may differ by rounding, where a margin is as wide as a tie may be; the answer may not.
            if plain.near_ties == 0 {
                prop_assert_eq!((&plain.tokens, plain.finish), (&drafted.tokens, drafted.finish));
            }
        }
    }
}

/// Steps are what a draft saves.
#[test]
fn an_approved_answer_that_holds_takes_one_step_and_a_broken_one_goes_on_from_there() {
    let model = &models()[0];
    let engine = Engine { decoder: &model.decoder, arms: &[None], batch: 4 };
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

/// What every family answers today, by this machine's rounding: stored with the revision it was made by.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Golden {
    revision: u32,
    families: std::collections::BTreeMap<String, Heard>,
}

/// A family's answers to one prompt.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Heard {
    greedy: Vec<u32>,
    drawn: Vec<u32>,
    /// Logits of the prompt's last position.
    logits: Vec<f32>,
}

const GOLDEN: &str = "engine_revision.json";
/// Rounding of other processors' sums, as a share of the largest logit.
const ROUNDING: f32 = 2e-5;
const ALL_FAMILIES: [&str; 12] = [
    "bloom",
    "deepseek_v2",
    "deepseek_v3",
    "falcon",
    "gemma3_text",
    "gpt2",
    "llama",
    "mpt",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
];

fn heard(family: &str) -> Heard {
    let decoder = decoder(family);
    let engine = Engine { decoder: &decoder, arms: &[None], batch: 2 };
    let prompt = vec![5, 9, 2, 77, 31, 8];
    let drawn = Sampling { temperature: 0.8, top_p: 0.9, seed: 7, ..Sampling::default() };
    let greedy = Generation::greedy(0, prompt.clone(), 12);
    let asked = [greedy.clone(), Generation { sampling: drawn, ..greedy }];
    let mut answers = engine.generate(&asked, &Ends::NONE, &mut |_| {}).expect(family);
    let logits = engine.last_logits(&prompt, &[0]).expect(family).remove(0);
    let (drawn, greedy) = (answers.remove(1).tokens, answers.remove(0).tokens);
    Heard { greedy, drawn, logits: logits.into_iter().step_by(7).collect() }
}

/// A stored answer is valid as long as the code would give it again. `FINETEST_WRITE_GOLDEN=1` writes the file again.
#[test]
fn the_engine_answers_as_its_revision_did() {
    let path = fixture(GOLDEN);
    if std::env::var_os("FINETEST_WRITE_GOLDEN").is_some() {
        let families = ALL_FAMILIES.iter().map(|family| (family.to_string(), heard(family))).collect();
        let golden = Golden { revision: ENGINE_REVISION, families };
        std::fs::write(&path, serde_json::to_string(&golden).expect("JSON") + "\n").expect("written");
    }
    let golden: Golden = serde_json::from_slice(&std::fs::read(&path).expect("a file")).expect("JSON");
    let what_to_do = "raise ENGINE_REVISION in src/backend/mod.rs, so that no stored answer of the old code is read, and write \
                      tests/fixtures/engine_revision.json again: FINETEST_WRITE_GOLDEN=1 cargo test --lib the_engine_answers";
    assert_eq!(golden.revision, ENGINE_REVISION, "the file is of another revision; {what_to_do}");
    for family in ALL_FAMILIES {
        let (now, then) = (heard(family), &golden.families[family]);
        assert_eq!(
            (&now.greedy, &now.drawn),
            (&then.greedy, &then.drawn),
            "{family} answers differently: {what_to_do}"
        );
        let largest = then.logits.iter().fold(0f32, |most, logit| most.max(logit.abs()));
        let most = now.logits.iter().zip(&then.logits).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(most <= ROUNDING * largest, "{family}'s logits changed by {most} of {largest}: {what_to_do}");
    }
}

#[test]
fn a_token_outside_the_vocabulary_is_an_error() {
    let decoder = decoder("llama");
    let engine = Engine { decoder: &decoder, arms: &[None, None], batch: 4 };
    let text = |token| [Continuation { arm: 0, prompt: vec![1, 2], tokens: vec![3, token] }];
    let outside = text(u32::try_from(decoder.spec.vocab_size).expect("a small vocabulary"));
    let words = format!("is outside the vocabulary of {}", decoder.spec.vocab_size);
    let told = engine.log_likelihoods(&outside).expect_err("refused").to_string();
    assert!(told.contains(&words), "{told}");
    let told = engine.compare(&outside, 0, &[1], &mut |_| ()).expect_err("refused").to_string();
    assert!(told.contains(&words), "{told}");
    assert!(engine.log_likelihoods(&text(4)).is_ok());
}

#[test]
fn arms_compared_together_are_as_their_logits_say() {
    let decoder = decoder("llama");
    let adapter = lora::load(&fixture("llama/adapter")).expect("an adapter");
    let scaled = |scale| Some(adapter.attached(&decoder, scale).expect("tensors"));
    let engine = Engine { decoder: &decoder, arms: &[None, scaled(1.0), scaled(0.25)], batch: 4 };
    let beginning: Vec<u32> = (3..15).collect();
    let text = |arm, last: u32, tokens: Vec<u32>| Continuation {
        arm,
        prompt: [beginning.as_slice(), &[last]].concat(),
        tokens,
    };
    let texts =
        |arm| vec![text(arm, 20, vec![21, 22, 23]), text(arm, 30, Vec::new()), text(arm, 40, (50..90).collect())];
    let (mut tokens, mut done) = (0, 0);
    let mut count = |event| match event {
        super::Event::Tokens(n) => tokens += n,
        super::Event::Done(n) => done += n,
    };
    let found = engine.compare(&texts(0), 0, &[1, 2], &mut count).expect("compared");
    // Base once: a text of 3 tokens and one of 40 after their last own token, of three arms.
    assert_eq!((tokens, done), (3 * (3 + 40), 2));
    let logits = |arm| engine.logits_of(&texts(arm)).expect("logits");
    let base = logits(0);
    let shares = |row: &[f32]| {
        let sum: f64 = row.iter().map(|logit| f64::from(*logit).exp()).sum();
        row.iter().map(|logit| f64::from(*logit).exp() / sum).collect::<Vec<f64>>()
    };
    for (arm, of_arm) in (1..).zip(&found) {
        for ((base, tuned), found) in base.iter().zip(&logits(arm)).zip(of_arm) {
            assert_eq!(found.kl.len(), base.len());
            for ((p, q), kl) in base.iter().zip(tuned).zip(&found.kl) {
                let expected: f64 = shares(p).iter().zip(shares(q)).map(|(p, q)| p * (p / q).ln()).sum();
                assert!((kl - expected).abs() < 1e-5, "arm {arm}: {kl}, expected {expected}");
            }
        }
    }
    assert!(found[0][0].kl != found[1][0].kl && found[0][1].kl.is_empty());
}
