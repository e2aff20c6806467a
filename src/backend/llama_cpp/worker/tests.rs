//! llama.cpp against numbers of transformers and PEFT, and against itself: shared beginnings, batches, arms.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};

use super::{Session, VERSION, VERSION_F32};
use crate::backend::engine::{Compared, Continuation, Ends, Engine, Generated, Generation};
use crate::backend::llama_cpp::memory::Memory;
use crate::backend::llama_cpp::protocol::{Opening, Placement, Reply};
use crate::config::{GPU, GpuConfig, ModelConfig};
use crate::model::decoder::parity::{decoder, fixture, reference, relative};
use crate::model::lora;
use crate::model::outline;
use crate::model::{Family, ModelFiles, ModelKind};
use crate::record::{Finish, Sampling};

/// A draw, so that the same luck on both sides gives the same tokens.
const LUCK: Sampling = Sampling { temperature: 1.0, top_k: 50, top_p: 0.95, seed: 11 };

/// Some that candle has too, and those that it does not have, with an adapter each.
const FAMILIES: [&str; 7] = [
    "llama",
    "qwen2",
    "qwen3",
    "llama_cpp_only/granite",
    "llama_cpp_only/olmo2",
    "llama_cpp_only/phi3",
    "llama_cpp_only/smollm3",
];

/// How far logits may be from other programs', of the largest one: Vulkan multiplies in 16 bits.
const CLOSE: f64 = if GPU.is_some() { 2e-2 } else { 1e-3 };

/// Answers token for token; of a GPU, whose rounding decides between near ties, their beginnings.
fn assert_same(found: &[Generated], expected: &[Generated], what: &str) {
    let begun = |answers: &[Generated]| answers.iter().map(|a| a.tokens[..a.tokens.len().min(4)].to_vec()).collect();
    let (beginnings, wanted): (Vec<Vec<u32>>, Vec<Vec<u32>>) = (begun(found), begun(expected));
    assert_eq!(beginnings, wanted, "{what}");
    assert!(GPU.is_some() || found == expected, "{what}: {found:?} {expected:?}");
}

fn ids(tensor: &Tensor) -> Vec<u32> {
    tensor.to_vec1::<i64>().expect("ids").into_iter().map(|id| id as u32).collect()
}

fn prompts(family: &str) -> [Vec<u32>; 2] {
    let expected = reference(&format!("{family}/reference.safetensors"));
    [0, 1].map(|i| ids(&expected[&format!("input_ids_{i}")]))
}

fn session(family: &str, arms: Vec<Option<PathBuf>>, batch: usize) -> Session {
    let model = fixture(&format!("{family}/model.gguf"));
    let memory = Memory::of(&model).expect("a header");
    let placement = GPU.map(|_| Placement { gpu: GpuConfig::default(), memory });
    let opening = Opening { model, arms, placement, batch, threads: 2, log: "OFF".into() };
    Session::open(&opening).expect("a session")
}

/// A family's PEFT adapter, as our own export writes it for llama.cpp.
fn converted(family: &str, directory: &Path) -> PathBuf {
    let (model, peft) = (fixture(&format!("{family}/model.gguf")), fixture(&format!("{family}/adapter")));
    let adapter = lora::load(&peft).expect("an adapter");
    let files = ModelFiles { root: model.clone(), kind: ModelKind::Gguf(model) };
    let outline = outline(&files, &ModelConfig::default()).expect("an outline");
    let out = directory.join(format!("{}.gguf", family.replace('/', "-")));
    let conversion = lora::Conversion {
        adapter: &adapter,
        outline: &outline,
        files: &files,
        directory: &peft,
        scale: 1.0,
        header: &[],
    };
    conversion.write(&out).expect("an adapter for llama.cpp");
    out
}

/// Answers are stored under it.
#[test]
fn the_version_is_the_one_that_is_pinned() {
    let version = VERSION.rsplit(' ').next().expect("a number");
    assert_eq!(VERSION_F32, format!("{VERSION} f32"));
    for name in ["llama-cpp-2", "llama-cpp-sys-2"] {
        let line = include_str!("../../../../Cargo.toml").lines().find(|line| line.starts_with(&format!("{name} =")));
        assert!(line.expect("a dependency").contains(&format!("\"={version}\"")), "{line:?}");
    }
}

/// Logits of every position, (tokens, vocabulary).
fn logits(session: &mut Session, arm: usize, prompt: &[u32]) -> Tensor {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let item = Continuation { arm, prompt: prompt[..1].to_vec(), tokens: [&prompt[1..], &[0]].concat() };
    session.logits(&[item], directory.path(), &mut |_| Ok(())).expect("logits");
    let bytes = std::fs::read(directory.path().join("0")).expect("a file");
    let values: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let rows = prompt.len();
    Tensor::from_vec(values.clone(), (rows, values.len() / rows), &Device::Cpu).expect("a table")
}

fn generate(session: &mut Session, items: &[Generation], stop: &[u32]) -> Vec<Generated> {
    let mut found = vec![None; items.len()];
    let mut take = |reply| {
        if let Reply::Generated(i, generated) = reply {
            found[i] = Some(generated);
        }
        Ok(())
    };
    session.generate(items, stop, &mut take).expect("answers");
    found.into_iter().map(|found| found.expect("an answer to each")).collect()
}

fn ask(arm: usize, prompt: &[u32], max_tokens: usize) -> Generation {
    Generation::greedy(arm, prompt.to_vec(), max_tokens)
}

fn score(session: &mut Session, items: &[Continuation]) -> Vec<f64> {
    let mut found = vec![f64::NAN; items.len()];
    let mut take = |reply| {
        if let Reply::Scored(i, score) = reply {
            found[i] = score;
        }
        Ok(())
    };
    session.score(items, &mut take).expect("scores");
    found
}

/// The cache is in f32 and flash attention off, so f32 weights give f32's logits.
#[test]
fn logits_of_every_position_agree_with_transformers() {
    let others = FAMILIES.iter().copied().filter(|family| family.starts_with("llama_cpp_only"));
    // llama.cpp takes a file without a rank of the queries for DeepSeek-V2 Lite, which it knows by its 27 layers; the fixture has 3.
    let own = Family::ALL.into_iter().filter(|family| *family != Family::DeepseekV2).map(Family::name);
    for family in own.chain(others) {
        let mut session = session(family, vec![None], 4);
        // ggml looks GELU up in a table of 16 bits.
        let most =
            if ["gemma3_text", "bloom", "mpt", "falcon", "gpt2"].contains(&family) { CLOSE.max(5e-3) } else { CLOSE };
        // Of some the converter was given a changed copy.
        let own = format!("{family}/reference_gguf.safetensors");
        let own = if fixture(&own).is_file() { own } else { format!("{family}/reference.safetensors") };
        let expected = reference(&own);
        for (i, prompt) in prompts(family).iter().enumerate() {
            let off = relative(&logits(&mut session, 0, prompt), &expected[&format!("logits_{i}")]);
            assert!(off < most, "{family}: logits differ by {off}");
        }
    }
}

#[test]
fn an_adapter_of_our_export_agrees_with_peft_and_leaves_base_alone() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for family in FAMILIES {
        let adapter = converted(family, directory.path());
        let mut session = session(family, vec![None, Some(adapter)], 4);
        let expected = ["reference", "reference_lora"].map(|kind| reference(&format!("{family}/{kind}.safetensors")));
        for (i, prompt) in prompts(family).iter().enumerate() {
            for (arm, expected) in expected.iter().enumerate() {
                let off = relative(&logits(&mut session, arm, prompt), &expected[&format!("logits_{i}")]);
                assert!(off < CLOSE, "{family}, arm {arm}: {off}");
            }
        }
        let (effect, base) = session.probe_adapter(&prompts(family), (0, 1)).expect("a proof");
        assert!(effect > 0.1 && base < 1e-6, "{family}: {effect} {base}");
    }
}

/// What llama.cpp's own converter made of the same adapters is read as PEFT's directory is, and is what our export writes.
#[test]
fn an_adapter_that_llama_cpp_s_converter_wrote_is_read_as_peft_s() {
    let families = FAMILIES.iter().filter(|family| family.starts_with("llama_cpp_only"));
    let theirs = families.map(|family| (*family, format!("{family}/adapter.gguf")));
    for (family, theirs) in theirs.chain([("llama", "llama_cpp_only/llama_adapter.gguf".to_owned())]) {
        let model = fixture(&format!("{family}/model.gguf"));
        let files = ModelFiles { root: model.clone(), kind: ModelKind::Gguf(model) };
        let outline = outline(&files, &ModelConfig::default()).expect("an outline");
        let read = lora::open(&fixture(&theirs), &outline).expect("an adapter");
        let peft = lora::load(&fixture(&format!("{family}/adapter"))).expect("an adapter");
        assert_eq!(read.modules, peft.modules, "{family}");
        let mut session = session(family, vec![None, Some(fixture(&theirs))], 4);
        let expected = reference(&format!("{family}/reference_lora.safetensors"));
        for (i, prompt) in prompts(family).iter().enumerate() {
            let off = relative(&logits(&mut session, 1, prompt), &expected[&format!("logits_{i}")]);
            assert!(off < CLOSE, "{family}: {off}");
        }
    }
}

/// Both prompts, one of them twice, both arms: what transformers decodes one by one, and what our own engine does with the adapter.
#[test]
fn batched_answers_agree_with_transformers_token_for_token() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for family in ["llama", "qwen2"] {
        let adapter = converted(family, directory.path());
        let prompts = prompts(family);
        let items: Vec<Generation> =
            [0, 1].iter().flat_map(|arm| [0, 1, 0].map(|i: usize| ask(*arm, &prompts[i], 24))).collect();
        let decoder = decoder(&format!("{family}/model.gguf"));
        let peft = lora::load(&fixture(&format!("{family}/adapter"))).expect("an adapter");
        let peft = peft.attached(&decoder, 1.0).expect("tensors");
        let engine = Engine { decoder: &decoder, arms: &[None, Some(peft)], batch: 8 };
        let expected = engine.generate(&items, &Ends::NONE, &mut |_| {}).expect("answers");
        let drawn: Vec<Generation> = items.iter().cloned().map(|item| Generation { sampling: LUCK, ..item }).collect();
        let expected_drawn = engine.generate(&drawn, &Ends::NONE, &mut |_| {}).expect("answers");
        assert_ne!(expected_drawn, expected);
        for batch in [1, 2, 8] {
            let mut session = session(family, vec![None, Some(adapter.clone())], batch);
            assert_same(&generate(&mut session, &items, &[]), &expected, &format!("{family}, batch {batch}"));
            let drawn = generate(&mut session, &drawn, &[]);
            assert_same(&drawn, &expected_drawn, &format!("{family}, batch {batch}, drawn"));
        }
        let greedy = reference(&format!("{family}/reference.safetensors"));
        for (answer, i) in expected.iter().zip([0, 1, 0]) {
            assert_eq!(answer.tokens, ids(&greedy[&format!("greedy_{i}")]), "{family}");
        }
    }
}

#[test]
fn a_string_stops_an_answer_where_it_is_complete() {
    let prompts = prompts("llama");
    let mut session = session("llama", vec![None], 4);
    let whole = generate(&mut session, &[ask(0, &prompts[0], 24)], &[]).remove(0).tokens;
    let pieces = session.pieces().expect("pieces");
    let text = |tokens: &[u32]| -> String {
        let bytes: Vec<u8> = tokens.iter().flat_map(|t| pieces[*t as usize].clone()).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    // The end of one token and the beginning of the next.
    let (before, after) = (text(&whole[..6]).chars().count(), text(&whole[..8]));
    let stop: String = after.chars().skip(before - 1).take(2).collect();
    let expected = (1..=24).find(|n| text(&whole[..*n]).contains(&stop)).expect("it is there");
    let stopped = Generation { stop: vec!["never said".into(), stop], ..ask(0, &prompts[0], 24) };
    let answers = generate(&mut session, &[stopped, ask(0, &prompts[0], 24)], &[]);
    assert_eq!(answers[0], Generated { tokens: whole[..expected].to_vec(), finish: Finish::Stop, near_ties: 0 });
    assert_eq!(answers[1].tokens, whole, "another answer goes on");
}

#[test]
fn an_answer_ends_before_a_token_that_ends_the_turn() {
    let prompts = prompts("llama");
    let mut session = session("llama", vec![None], 4);
    let whole = generate(&mut session, &[ask(0, &prompts[0], 24)], &[]).remove(0).tokens;
    let stop = whole[5];
    let at = whole.iter().position(|token| *token == stop).expect("it is there");
    let answers = generate(&mut session, &[ask(0, &prompts[0], 24), ask(0, &prompts[0], 2)], &[stop]);
    assert_eq!(answers[0], Generated { tokens: whole[..at].to_vec(), finish: Finish::Stop, near_ties: 0 });
    assert_eq!(answers[1].tokens.len(), 2.min(at));
}

/// A beginning that is computed once and shared, in many sequences of unequal length, and longer than one batch of tokens.
#[test]
fn shared_beginnings_and_batches_change_nothing() {
    let long: Vec<u32> = (0..120).map(|i| 3 + (i * 7) % 300).collect();
    let texts: Vec<Vec<u32>> = (0..9u32).map(|i| [&long[..], &vec![5 + i; 1 + i as usize * 3]].concat()).collect();
    let items: Vec<Generation> = texts.iter().map(|text| ask(0, text, 12)).collect();
    let scored: Vec<Continuation> = texts
        .iter()
        .flat_map(|text| [vec![9, 8, 7], vec![11]].map(|tokens| Continuation { arm: 0, prompt: text.clone(), tokens }))
        .collect();
    let mut many = session("llama", vec![None], 8);
    let (answers, scores) = (generate(&mut many, &items, &[]), score(&mut many, &scored));
    let mut single = session("llama", vec![None], 1);
    for (item, answer) in items.iter().zip(answers) {
        assert_same(&[answer], &generate(&mut single, std::slice::from_ref(item), &[]), "together and alone");
    }
    for (item, together) in scored.iter().zip(scores) {
        let alone = score(&mut single, std::slice::from_ref(item))[0];
        assert!((together - alone).abs() < if GPU.is_some() { CLOSE } else { 1e-4 }, "{together} {alone}");
    }
}

/// Both arms fed in lockstep: candle's KL, likelihoods and first choices.
#[test]
fn distributions_of_two_arms_agree_with_candle() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let adapter = converted("llama", directory.path());
    let items: Vec<Continuation> = prompts("llama")
        .iter()
        .map(|p| Continuation { arm: 0, prompt: p[..4].to_vec(), tokens: p[4..].to_vec() })
        .chain([Continuation { arm: 0, prompt: vec![1, 2], tokens: Vec::new() }])
        .collect();
    let mut found = vec![None; items.len()];
    let mut take = |reply| {
        if let Reply::Compared(i, compared) = reply {
            found[i] = Some(compared);
        }
        Ok(())
    };
    session("llama", vec![None, Some(adapter)], 4).compare(&items, (0, 1), &mut take).expect("compared");
    let decoder = decoder("llama/model.gguf");
    let peft = lora::load(&fixture("llama/adapter")).expect("an adapter").attached(&decoder, 1.0).expect("tensors");
    let engine = Engine { decoder: &decoder, arms: &[None, Some(peft)], batch: 4 };
    let expected = engine.compare(&items, 0, &[1], &mut |_| {}).expect("compared").remove(0);
    for (found, expected) in found.into_iter().map(|f: Option<Compared>| f.expect("each")).zip(expected) {
        let tops = |compared: &Compared| compared.top_tuned.iter().map(|(token, _)| *token).collect::<Vec<_>>();
        assert_eq!(tops(&found), tops(&expected));
        for (a, b) in [(&found.kl, &expected.kl), (&found.nll_base, &expected.nll_base)] {
            assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < CLOSE), "{a:?} {b:?}");
        }
    }
}

#[test]
fn texts_are_cut_as_by_our_tokenizer() {
    let mut session = session("llama", vec![None], 1);
    let path = fixture("llama/model.gguf");
    let metadata = crate::model::tokenizer::gguf_metadata(&path).expect("metadata");
    let ours = crate::model::tokenizer::Tokenizer::from_gguf(&path, &metadata).expect("a tokenizer");
    for text in ["the 1234 cats", "<|im_start|>user\nhé 你好<|im_end|>", "\u{1b}[31m  x\t\n"] {
        assert_eq!(session.tokenize(text).expect("tokens"), ours.encode(text, true).expect("tokens"), "{text:?}");
    }
}
