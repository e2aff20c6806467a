//! Training against PEFT and torch: losses, gradients and the adapter after three steps of AdamW.

use std::collections::BTreeMap;

use super::encode::Encoded;
use crate::config::{Dtype, Recipe};
use crate::model::architecture::outline::Outline;
use crate::model::decoder::Decoder;
use crate::model::decoder::parity::{FAMILIES, decoder, decoder_in, fixture, reference};
use crate::model::lora::{self, Adapter};
use crate::train::state::TrainerState;
use crate::train::{InProcess, Objective, Trainer, Training};

/// The recipe that the fixtures' references were made with.
pub(crate) fn recipe() -> Recipe {
    Recipe { weight_decay: 0.01, max_grad_norm: 0.0, learning_rate: 1e-3, ..Recipe::default() }
}

/// Families whose training was recorded.
const TRAINED: [&str; 7] = ["llama", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "deepseek_v2", "deepseek_v3"];

/// The others, whose adapters are among the forms.
const FORMS: [(&str, &str); 5] =
    [("conv1d", "gpt2"), ("bloom", "bloom"), ("falcon", "falcon"), ("mpt", "mpt"), ("gemma3", "gemma3_text")];

/// A training that PEFT and torch recorded.
pub(crate) struct Recorded {
    /// The base's directory.
    family: &'static str,
    /// The adapter that it began with.
    adapter: String,
    /// What came of it: tensors, and facts beside them as JSON.
    reference: String,
}

impl Recorded {
    /// Of a family whose directory holds one.
    pub(crate) fn of(family: &'static str) -> Self {
        let (adapter, reference) = (format!("{family}/adapter"), format!("{family}/reference_lora"));
        Self { family, adapter, reference }
    }

    /// From a form of adapter, by `tests/fixtures/adapters/train.py`.
    fn from_form(form: &str, family: &'static str) -> Self {
        Self { family, adapter: format!("adapters/{form}"), reference: format!("adapters/{form}/train") }
    }
}

/// The reference's batch, without its padding.
fn examples() -> Vec<Encoded> {
    examples_of(&Recorded::of("llama"))
}

pub(crate) fn examples_of(recorded: &Recorded) -> Vec<Encoded> {
    let tensors = reference(&format!("{}.safetensors", recorded.reference));
    let rows = |name: &str| tensors[name].to_vec2::<i64>().expect("a matrix of integers");
    let (ids, mask, labels) = (rows("train.input_ids"), rows("train.attention_mask"), rows("train.labels"));
    let example = |i: usize| {
        let len = mask[i].iter().sum::<i64>() as usize;
        Encoded {
            ids: ids[i][..len].iter().map(|id| *id as u32).collect(),
            labels: labels[i][..len].iter().map(|label| *label != -100).collect(),
            line: 0,
        }
    };
    vec![example(0), example(1)]
}

/// Largest difference relative to the largest value of the reference.
fn difference(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let scale = want.iter().fold(0f32, |m, v| m.max(v.abs()));
    crate::model::ops::rows::largest_difference(got, want) / f64::from(scale)
}

fn agrees_with_peft(recorded: &Recorded, widened: bool) {
    let mut decoder = decoder(recorded.family);
    if widened {
        decoder.widen();
    }
    let recipe = recipe();
    descends_as_peft(recorded, Box::new(InProcess::new(&decoder, &recipe)), &recipe);
}

/// Losses, gradients and three steps of a training are those that were recorded, whoever computes them.
pub(crate) fn descends_as_peft(recorded: &Recorded, objective: Box<dyn Objective + '_>, recipe: &Recipe) {
    let family = recorded.family;
    let tensors = reference(&format!("{}.safetensors", recorded.reference));
    let want = |name: &str| {
        let flat = tensors[name].flatten_all().and_then(|t| t.to_vec1::<f32>());
        flat.expect("f32 values")
    };
    let text = std::fs::read_to_string(fixture(&format!("{}.json", recorded.reference))).expect("a reference");
    let json: serde_json::Value = serde_json::from_str(&text).expect("json");
    let losses: Vec<f64> =
        json["losses"].as_array().expect("losses").iter().filter_map(serde_json::Value::as_f64).collect();
    let examples = examples_of(recorded);
    let start = lora::load(&fixture(&recorded.adapter)).expect("an adapter");
    let mut trainer = Trainer::new(objective, recipe, start, TrainerState::default());
    let together = vec![examples.iter().collect::<Vec<_>>()];
    let apart: Vec<Vec<&Encoded>> = examples.iter().map(|e| vec![e]).collect();

    for micro in [&together, &apart] {
        let (loss, gradients) = trainer.gradients(micro).expect("gradients");
        assert!((loss - losses[0]).abs() < 1e-4, "{family}: {loss}");
        assert_eq!(Some(gradients.len() as u64), json["adapter_tensors"].as_u64());
        for (name, gradient) in &gradients {
            let want = want(&format!("grad.base_model.model.{name}.weight"));
            assert!(difference(gradient, &want) < 1e-3, "{family} {name}: {}", difference(gradient, &want));
        }
    }
    for expected in &losses[..3] {
        let entry = trainer.step(&together, 1e-3, 0.0).expect("a step");
        assert!((entry.loss.expect("a loss") - expected).abs() < 1e-4, "{family}: {entry:?}");
    }
    let (last, _) = trainer.gradients(&together).expect("gradients");
    assert!((last - losses[3]).abs() < 1e-4, "{family}: {last}");
    // Where a gradient is nearly zero, Adam's first step is the rate times its sign, which is noise: the reference counts such
    // elements, and no more may differ, each by two steps at most.
    let mut noise = json["gradient_elements_below_1e_6"].as_u64().expect("a count");
    for (path, module) in &trainer.adapter.modules {
        for (kind, values) in [("lora_A", &module.a), ("lora_B", &module.b)] {
            let want = want(&format!("final.base_model.model.{path}.{kind}.weight"));
            let scale = want.iter().fold(0f32, |m, v| m.max(v.abs()));
            for (got, want) in values.iter().zip(&want) {
                let off = (got - want).abs();
                if off.is_nan() || off >= 1e-3 * scale {
                    assert!(noise > 0 && off <= 2e-3 + 1e-3 * scale, "{family} {path}.{kind}: {got}, expected {want}");
                    noise -= 1;
                }
            }
        }
    }
}

#[test]
fn losses_gradients_and_steps_agree_with_peft_for_every_family() {
    for family in TRAINED {
        agrees_with_peft(&Recorded::of(family), false);
    }
    agrees_with_peft(&Recorded::of("llama"), true);
    for (form, family) in FORMS {
        agrees_with_peft(&Recorded::from_form(form, family), false);
    }
}

/// A family's GGUF file with every matrix whose rows fill blocks in 8 bits, experts too; and how many there are.
fn quantised(family: &str, path: &std::path::Path) -> usize {
    use candle_core::quantized::gguf_file::{self, Content};
    use candle_core::quantized::{GgmlDType, QTensor};
    let bytes = std::fs::read(fixture(&format!("{family}/model.gguf"))).expect("a GGUF file");
    let mut reader = std::io::Cursor::new(&bytes);
    let content = Content::read(&mut reader).expect("a GGUF file");
    let mut changed = 0;
    let mut tensors: Vec<(&str, QTensor)> = Vec::new();
    for (name, info) in &content.tensor_infos {
        let own = content.tensor(&mut reader, name, &candle_core::Device::Cpu).expect("a tensor");
        let fits = info.shape.rank() > 1 && info.shape.dims().last().is_some_and(|d| d.is_multiple_of(32));
        let tensor = if fits && !name.contains("ffn_gate_inp") {
            changed += 1;
            let wide = own.dequantize(&candle_core::Device::Cpu).expect("values");
            QTensor::quantize(&wide, GgmlDType::Q8_0).expect("blocks")
        } else {
            own
        };
        tensors.push((name, tensor));
    }
    let metadata: Vec<_> = content.metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let mut file = std::fs::File::create(path).expect("a file");
    gguf_file::write(&mut file, &metadata, &tensors).expect("written");
    changed
}

/// An adapter on all linear layers that changes what they give.
fn begun(recipe: &Recipe, decoder: &Decoder) -> Adapter {
    let mut adapter = Adapter::initialised(recipe, &Outline::of(&decoder.spec), "base").expect("an adapter");
    for (i, value) in adapter.modules.values_mut().flat_map(|m| &mut m.b).enumerate() {
        *value = 0.05 * (i as f32 * 0.7).sin();
    }
    adapter
}

/// QLoRA: weights that stay quantised give the gradients of the same weights in f32, whose training is tested against PEFT above.
#[test]
fn gradients_through_quantised_weights_are_those_of_the_widened_ones() {
    let folder = tempfile::tempdir().expect("a folder");
    let (recipe, examples) = (Recipe { lora_r: 4, ..recipe() }, examples());
    for family in FAMILIES {
        let path = folder.path().join(format!("{family}.gguf"));
        assert!(quantised(family, &path) > 0, "{family}");
        let load = || decoder(&path.display().to_string());
        let (quantised, mut wide) = (load(), load());
        wide.widen();
        let start = begun(&recipe, &quantised);
        let micro = vec![examples.iter().collect::<Vec<_>>()];
        let gradients = |decoder| {
            let objective = Box::new(InProcess::new(decoder, &recipe));
            let mut trainer = Trainer::new(objective, &recipe, start.clone(), TrainerState::default());
            trainer.gradients(&micro).expect("gradients")
        };
        let (got, want) = (gradients(&quantised), gradients(&wide));
        assert!((got.0 - want.0).abs() < 1e-5, "{family}: {} {}", got.0, want.0);
        assert_eq!(got.1.len(), want.1.len());
        for (name, gradient) in &got.1 {
            let off = difference(gradient, &want.1[name]);
            assert!(off < 1e-3, "{family} {name}: {off}");
        }
        let plain = decoder(&format!("{family}/model.gguf"));
        assert!((gradients(&plain).0 - got.0).abs() > 1e-6, "{family}: 8 bits are not 32");
    }
}

/// Packed sequences attend only to themselves, so a batch is the sum of its examples, in any order.
#[test]
fn packing_changes_no_gradient() {
    let (decoder, recipe, examples) = (decoder("llama"), recipe(), examples());
    let start = lora::load(&fixture("llama/adapter")).expect("an adapter");
    let mut trainer =
        Trainer::new(Box::new(InProcess::new(&decoder, &recipe)), &recipe, start, TrainerState::default());
    let packed = trainer.gradients(&[vec![&examples[1], &examples[0], &examples[1]]]).expect("gradients");
    let apart = trainer.gradients(&[vec![&examples[1]], vec![&examples[0]], vec![&examples[1]]]).expect("gradients");
    assert!((packed.0 - apart.0).abs() < 1e-5);
    for (name, gradient) in &packed.1 {
        assert!(difference(gradient, &apart.1[name]) < 1e-4, "{name}");
    }
}

/// Examples that begin alike share rows; the oracle computes each alone.
#[test]
fn sharing_a_prefix_changes_no_gradient() {
    let (decoder, recipe) = (decoder("llama"), recipe());
    let begin: Vec<u32> = (0..20).map(|i| 10 + 7 * i).collect();
    let example = |tail: &[u32]| {
        let ids = [begin.as_slice(), tail].concat();
        let labels = (0..ids.len()).map(|i| i > begin.len()).collect();
        Encoded { ids, labels, line: 0 }
    };
    let examples = [example(&[3, 5, 8, 13]), example(&[21, 34, 55]), example(&[3, 144, 233, 6, 9])];
    let start = lora::load(&fixture("llama/adapter")).expect("an adapter");
    let mut trainer =
        Trainer::new(Box::new(InProcess::new(&decoder, &recipe)), &recipe, start, TrainerState::default());
    let together: Vec<&Encoded> = examples.iter().collect();
    assert_eq!(super::objective::shared_prefix(&together), 20);
    let shared = trainer.gradients(&[together]).expect("gradients");
    let apart: Vec<Vec<&Encoded>> = examples.iter().map(|e| vec![e]).collect();
    let apart = trainer.gradients(&apart).expect("gradients");
    assert!((shared.0 - apart.0).abs() < 1e-5);
    for (name, gradient) in &shared.1 {
        assert!(difference(gradient, &apart.1[name]) < 1e-4, "{name}");
    }
}

/// What is computed again is the same: with dropped inputs, a prefix that examples share, and experts that no token goes to, whose
/// tensors have no gradient either way.
#[test]
fn gradient_checkpointing_changes_no_bit() {
    let example = |tail: &[u32]| {
        let ids = [&[10, 17, 24, 31, 38, 45, 52, 59, 66, 73], tail].concat();
        Encoded { labels: (0..ids.len()).map(|i| i > 10).collect(), ids, line: 0 }
    };
    let sharing = [example(&[3, 5, 8]), example(&[21, 34]), example(&[3, 144, 233, 6])];
    let short = Encoded { ids: vec![3, 5, 8], labels: vec![false, true, true], line: 0 };
    for family in FAMILIES {
        let decoder = decoder(family);
        let kept = Recipe { lora_r: 4, lora_dropout: 0.2, ..recipe() };
        let checkpointed = Recipe { gradient_checkpointing: true, ..kept.clone() };
        let start = begun(&kept, &decoder);
        let sharing: Vec<&Encoded> = sharing.iter().collect();
        assert!(super::objective::shared_prefix(&sharing) > 0);
        for micro in [vec![vec![&short]], vec![sharing, vec![&short]]] {
            let bits = |recipe| {
                let objective = Box::new(InProcess::new(&decoder, recipe));
                let mut trainer = Trainer::new(objective, recipe, start.clone(), TrainerState::default());
                let (loss, gradients) = trainer.gradients(&micro).expect("gradients");
                let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
                (loss.to_bits(), gradients.into_iter().map(|(name, g)| (name, bits(g))).collect::<BTreeMap<_, _>>())
            };
            let (want, got) = (bits(&kept), bits(&checkpointed));
            assert_eq!(got, want, "{family}");
            // Three tokens leave some of the experts without any.
            let (tensors, experts) = (2 * start.modules.len(), start.modules.keys().any(|m| m.contains(".experts.")));
            assert!(micro.len() > 1 || (got.1.len() < tensors) == experts, "{family}: {} of {tensors}", got.1.len());
        }
    }
}

/// In bf16 losses are those that PEFT recorded in f32 to 1 %, and the gradients point where they did.
#[test]
fn in_bf16_losses_and_gradients_are_near_those_of_peft() {
    for family in ["llama", "qwen2", "qwen3"] {
        let recorded = Recorded::of(family);
        let tensors = reference(&format!("{}.safetensors", recorded.reference));
        let text = std::fs::read_to_string(fixture(&format!("{}.json", recorded.reference))).expect("a reference");
        let json: serde_json::Value = serde_json::from_str(&text).expect("json");
        let (decoder, recipe, examples) = (decoder_in(family, Dtype::Bf16), recipe(), examples_of(&recorded));
        let start = lora::load(&fixture(&recorded.adapter)).expect("an adapter");
        let objective = Box::new(InProcess::new(&decoder, &recipe));
        let mut trainer = Trainer::new(objective, &recipe, start, TrainerState::default());
        let (loss, gradients) = trainer.gradients(&[examples.iter().collect()]).expect("gradients");
        let want = json["losses"][0].as_f64().expect("a loss");
        assert!((loss - want).abs() < 0.01 * want && loss != want, "{family}: {loss}, in f32 {want}");
        let (mut dot, mut own, mut theirs) = (0.0, 0.0, 0.0);
        for (name, gradient) in &gradients {
            let want = tensors[&format!("grad.base_model.model.{name}.weight")].flatten_all().expect("a tensor");
            for (got, want) in gradient.iter().zip(want.to_vec1::<f32>().expect("f32 values")) {
                let (got, want) = (f64::from(*got), f64::from(want));
                (dot, own, theirs) = (dot + got * want, own + got * got, theirs + want * want);
            }
        }
        let cosine = dot / (own * theirs).sqrt();
        assert!(cosine > 0.999, "{family}: cosine {cosine}");
    }
}

/// A training that is cut after any step continues from its checkpoint and ends with the same bytes.
#[test]
fn a_resumed_training_ends_with_the_same_bytes() {
    let decoder = decoder("llama");
    let examples: Vec<Encoded> = examples().into_iter().cycle().take(6).collect();
    let recipe = Recipe {
        lora_r: 2,
        lora_dropout: 0.1,
        num_epochs: 2,
        micro_batch_size: 1.into(),
        gradient_accumulation_steps: 2,
        save_steps: Some(1),
        eval_steps: Some(2),
        ..Recipe::default()
    };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let train = |name: &str, stop_after: Option<usize>| {
        let checkpoints = directory.path().join(name);
        let training = Training {
            outline: &Outline::of(&decoder.spec),
            recipe: &recipe,
            train: &examples,
            validation: &examples[..1],
            checkpoints: &checkpoints,
            // Even so: it was cut, and is not over.
            again: true,
            fingerprint: "same",
            base: "base",
        };
        // A panic in the middle is a killed process: nothing after the last checkpoint is kept.
        let run = std::panic::AssertUnwindSafe(|| {
            training.run(Box::new(InProcess::new(&decoder, &recipe)), &mut |event| {
                if let super::TrainEvent::Step { entry, .. } = event
                    && stop_after == Some(entry.step)
                {
                    std::panic::resume_unwind(Box::new("killed"));
                }
            })
        });
        std::panic::catch_unwind(run).ok().map(|trained| trained.expect("a training"))
    };
    let whole = train("whole", None).expect("it was not killed");
    assert_eq!(whole.state.global_step, 6);
    for killed_at in 1..=6 {
        let name = format!("killed-{killed_at}");
        assert!(train(&name, Some(killed_at)).is_none());
        let resumed = train(&name, None).expect("it was not killed");
        assert_eq!(resumed.adapter.modules, whole.adapter.modules, "killed at {killed_at}");
        assert_eq!(resumed.state, whole.state, "killed at {killed_at}");
    }
}

#[test]
fn a_checkpoint_is_resumed_by_the_same_training_that_does_not_begin_again() {
    let decoder = decoder("llama");
    let examples = examples();
    let recipe = Recipe { lora_r: 2, micro_batch_size: 2.into(), ..Recipe::default() };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut resumed = Vec::new();
    for (fingerprint, again) in [("one", false), ("other", false), ("other", false), ("other", true)] {
        let training = Training {
            outline: &Outline::of(&decoder.spec),
            recipe: &recipe,
            train: &examples,
            validation: &[],
            checkpoints: directory.path(),
            again,
            fingerprint,
            base: "base",
        };
        training
            .run(Box::new(InProcess::new(&decoder, &recipe)), &mut |event| {
                if let super::TrainEvent::Started { resumed_at, .. } = event {
                    resumed.push(resumed_at);
                }
            })
            .expect("a training");
    }
    assert_eq!(resumed, [0, 0, 1, 0]);
}
