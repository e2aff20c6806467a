//! Losses and gradients by llama.cpp, in a process of its own. The loop, the optimizer, the schedule and the checkpoints are those of
//! every training; values and gradients cross in files, since a line of text for each value would take longer than the step.

use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::Value;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use super::process::{End, Worker};
use super::protocol::{Job, OpeningToTrain, Reply, Window, floats};
use crate::config::{Bf16, ModelConfig, Recipe};
use crate::error::{Error, Result};
use crate::model::architecture::families::{NO_EXPERTS, without_backward};
use crate::model::architecture::outline::Outline;
use crate::model::lora::Adapter;
use crate::model::{ModelFiles, ModelKind, load_decoder};
use crate::train::encode::Encoded;
use crate::train::{Gradients, Objective, targets};

/// llama.cpp's windows are multiples of this, since attention in training reads no cache.
const STEP: usize = 256;
/// Longest window that is chosen to be filled better: memory grows with it (1.6 GB for a model of 135 million weights at 512, 2.4 GB at 768).
const MOST_TOKENS: usize = 512;

/// llama.cpp as what a training descends.
pub(crate) struct LlamaCppObjective<'a> {
    base: ModelFiles,
    config: ModelConfig,
    model: PathBuf,
    outline: &'a Outline,
    /// Tokens of a window: what the longest example needs.
    window: usize,
    files: tempfile::TempDir,
    opened: Option<Opened>,
}

struct Opened {
    worker: Worker,
    places: Vec<Place>,
}

/// One of the adapter's tensors, as the worker has them one after another.
struct Place {
    /// Path of its layer.
    path: String,
    /// B, not A.
    is_b: bool,
    len: usize,
    /// Where row i of Hugging Face's order lies in llama.cpp's; `None`: at i.
    order: Option<Vec<usize>>,
}

impl<'a> LlamaCppObjective<'a> {
    /// Nothing is started yet; what llama.cpp cannot differentiate is refused here, before one of its asserts would end the worker.
    ///
    /// # Errors
    /// A base that is not GGUF, a family or a recipe that cannot be trained so, examples longer than the context.
    pub(crate) fn new(
        files: &ModelFiles,
        config: &ModelConfig,
        outline: &'a Outline,
        recipe: &Recipe,
        examples: &[&[Encoded]],
        directory: &Path,
    ) -> Result<Self> {
        let refuse = |what: String| Error::model(&files.root, format!("{what}; train with --backend candle"));
        let ModelKind::Gguf(model) = &files.kind else {
            return Err(refuse("is safetensors, and llama.cpp trains on a GGUF file".into()));
        };
        let family = &outline.family;
        let architecture = outline.architecture.as_str();
        let why = match without_backward().find(|(name, _)| *name == architecture) {
            // A file of Llama's architecture may have experts, as Mixtral's do.
            Some((_, None)) => (outline.experts > 0).then_some(NO_EXPERTS),
            Some((_, why)) => why,
            None => {
                let trained: Vec<&str> =
                    without_backward().filter(|(_, why)| why.is_none()).map(|(name, _)| name).collect();
                let message = format!(
                    "is of the family {family}, of which it is not known whether llama.cpp can differentiate it; it trains {}",
                    trained.join(", ")
                );
                return Err(Error::model(&files.root, message));
            }
        };
        if let Some(why) = why {
            return Err(refuse(format!("is of the family {family}: llama.cpp has no backward for {why}")));
        }
        if recipe.lora_dropout > 0.0 {
            let dropout = recipe.lora_dropout;
            return Err(refuse(format!("lora_dropout is {dropout}, and llama.cpp's graph has no dropout")));
        }
        if recipe.gradient_checkpointing {
            return Err(refuse("gradient_checkpointing is true, and llama.cpp's graph keeps what it computed".into()));
        }
        if recipe.bf16 == Bf16::Yes {
            return Err(refuse("bf16 is true, and llama.cpp trains on the file's weights in its own precision".into()));
        }
        let (longest, context) = (longest(examples), outline.context);
        if longest > context {
            return Err(refuse(format!(
                "has a context of {context} tokens, and an example has {longest}: lower sequence_len, or shorten it"
            )));
        }
        // Each example sees itself as a whole: the masks are written here, in every layer.
        if let Some(size) = outline.window.filter(|size| *size < longest) {
            return Err(refuse(format!(
                "has layers that see back {size} tokens, and an example has {longest}: lower sequence_len"
            )));
        }
        let window = window_of(examples, recipe.examples_per_step());
        std::fs::create_dir_all(directory).map_err(Error::io(directory, "create"))?;
        let kept = tempfile::Builder::new().prefix("llama-cpp-training-").tempdir_in(directory);
        let kept = kept.map_err(Error::io(directory, "create a directory in"))?;
        let (base, config, model) = (files.clone(), config.clone(), model.clone());
        Ok(Self { base, config, model, outline, window, files: kept, opened: None })
    }

    /// The worker with this adapter's shapes; started at the first call.
    fn open(&mut self, adapter: &Adapter) -> Result<&mut Opened> {
        if self.opened.is_none() {
            let path = self.files.path().join("adapter.gguf");
            let places = self.write_shapes(adapter, &path)?;
            let mut worker = Worker::start()?;
            let job = Job::OpenTraining(OpeningToTrain {
                model: self.model.clone(),
                adapter: path,
                window: self.window,
                threads: rayon::current_num_threads(),
                log: tracing::level_filters::LevelFilter::current().to_string(),
            });
            let mut tensors = Vec::new();
            let end = worker.run(&job, &mut |reply| {
                if let Reply::Tensors(found) = reply {
                    tensors = found;
                }
            })?;
            if let End::Died(why) = end {
                return Err(Error::model(&self.model, format!("llama.cpp crashed while preparing to train: {why}")));
            }
            // The worker tells its tensors in the order of their names.
            let same = tensors.len() == places.len()
                && tensors.iter().zip(&places).all(|((name, len), (own, p))| name == own && *len == p.len);
            if !same {
                let (got, expected) = (tensors.len(), places.len());
                let message = format!("llama.cpp trains {got} of the adapter's {expected} tensors, or others");
                return Err(Error::model(&self.model, message));
            }
            self.opened = Some(Opened { worker, places: places.into_iter().map(|(_, place)| place).collect() });
        }
        self.opened.as_mut().ok_or_else(|| Error::failed("the worker is not started"))
    }

    /// Writes an adapter of this one's shapes and scale, all zero, and says which of its tensors is which, by llama.cpp's names.
    fn write_shapes(&self, adapter: &Adapter, path: &Path) -> Result<Vec<(String, Place)>> {
        let (mut tensors, mut places) = (Vec::new(), Vec::new());
        for (module, m) in &adapter.modules {
            let unnamed = || Error::failed(format!("`{module}` has no name in GGUF"));
            let name = self.outline.gguf(module).ok_or_else(unnamed)?;
            for (is_b, kind, shape) in
                [(false, "lora_a", (m.rank, m.in_features)), (true, "lora_b", (m.out_features, m.rank))]
            {
                let name = format!("{name}.weight.{kind}");
                let zeros = Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu)?;
                tensors.push((name.clone(), QTensor::quantize(&zeros, GgmlDType::F32)?));
                let order = if is_b { self.outline.order(module, m.out_features) } else { None };
                places.push((name, Place { path: module.clone(), is_b, len: shape.0 * shape.1, order }));
            }
        }
        places.sort_by(|a, b| a.0.cmp(&b.0));
        // llama.cpp divides alpha by the rank, as PEFT does.
        let metadata = crate::model::lora::gguf::metadata(self.outline, adapter.alpha as f32);
        let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (*key, value)).collect();
        let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        crate::model::formats::gguf::write(path, &metadata, &tensors)?;
        Ok(places)
    }

    /// Loss of the adapter on windows, and its gradients when they are wanted.
    fn descend(&mut self, adapter: &Adapter, windows: Vec<Window>, wanted: bool) -> Result<(f64, Gradients)> {
        let parameters = self.files.path().join("parameters.f32");
        let gradients = self.files.path().join("gradients.f32");
        let opened = self.open(adapter)?;
        let bytes: Vec<u8> =
            opened.places.iter().flat_map(|place| place.values(adapter)).flat_map(f32::to_le_bytes).collect();
        std::fs::write(&parameters, bytes).map_err(Error::io(&parameters, "write"))?;
        let job = Job::Descend { parameters, gradients: wanted.then(|| gradients.clone()), windows };
        let mut loss = f64::NAN;
        let end = opened.worker.run(&job, &mut |reply| {
            if let Reply::Loss(found) = reply {
                loss = found.unwrap_or(f64::NAN);
            }
        })?;
        if let End::Died(why) = end {
            return Err(Error::failed(format!("llama.cpp died in a training step: {why}")));
        }
        let mut found = Gradients::new();
        if wanted {
            let bytes = std::fs::read(&gradients).map_err(Error::io(&gradients, "read"))?;
            let all = floats(&bytes);
            let expected: usize = opened.places.iter().map(|p| p.len).sum();
            if all.len() != expected {
                return Err(Error::failed(format!("llama.cpp gave {} gradients, expected {expected}", all.len())));
            }
            found = by_name(&opened.places, &all);
        }
        Ok((loss, found))
    }
}

impl Place {
    /// As gradients call it.
    fn name(&self) -> String {
        format!("{}.{}", self.path, if self.is_b { "lora_B" } else { "lora_A" })
    }

    /// The adapter's values as llama.cpp orders them.
    fn values(&self, adapter: &Adapter) -> Vec<f32> {
        let Some(module) = adapter.modules.get(&self.path) else { return Vec::new() };
        let values = if self.is_b { &module.b } else { &module.a };
        let Some(order) = &self.order else { return values.clone() };
        let width = values.len() / order.len().max(1);
        let mut out = vec![0f32; values.len()];
        for (row, at) in order.iter().enumerate() {
            out[at * width..(at + 1) * width].copy_from_slice(&values[row * width..(row + 1) * width]);
        }
        out
    }

    fn in_hugging_face_order(&self, values: &[f32]) -> Vec<f32> {
        let Some(order) = &self.order else { return values.to_vec() };
        let width = values.len() / order.len().max(1);
        order.iter().flat_map(|at| &values[at * width..(at + 1) * width]).copied().collect()
    }
}

/// Gradients as the loop knows them, out of all values one after another; they are as many as the places hold.
fn by_name(places: &[Place], all: &[f32]) -> Gradients {
    let mut rest = all;
    let own = |place: &Place| {
        let (own, after) = rest.split_at(place.len);
        rest = after;
        (place.name(), place.in_hugging_face_order(own))
    };
    places.iter().map(own).collect()
}

/// Positions of the longest example; its last token predicts nothing and has none.
fn longest(examples: &[&[Encoded]]) -> usize {
    let own = |e: &Encoded| e.ids.len().saturating_sub(1).max(1);
    examples.iter().flat_map(|e| e.iter()).map(own).max().unwrap_or(1)
}

/// Tokens of the windows that cost least: a window is computed whole, however little of it is filled.
///
/// A step's examples are only guessed here, since their order is the recipe's; any window holds the longest example.
fn window_of(examples: &[&[Encoded]], per_step: usize) -> usize {
    let shortest = longest(examples).div_ceil(STEP) * STEP;
    let cost = |window: usize| {
        let steps = examples.first().into_iter().flat_map(|train| train.chunks(per_step.max(1)));
        steps.map(|step| windows(&step.iter().collect::<Vec<_>>(), window, 0.0).len() * window).sum::<usize>()
    };
    let larger = (0..4).map(|i| shortest + i * STEP).filter(|window| *window <= MOST_TOKENS.max(shortest));
    larger.min_by_key(|window| (cost(*window), *window)).unwrap_or(shortest)
}

/// Puts examples side by side into windows of `len` tokens, in order; `weight` is that of each labelled token.
fn windows(examples: &[&Encoded], len: usize, weight: f32) -> Vec<Window> {
    let mut all: Vec<Window> = Vec::new();
    for example in examples {
        // The last token predicts nothing.
        let own = example.ids.len().saturating_sub(1);
        if all.last().is_none_or(|w| w.tokens.len() + own > len) {
            all.push(Window::default());
        }
        let Some(window) = all.last_mut() else { continue };
        let (start, segment) = (window.tokens.len(), window.segments.last().map_or(0, |s| s + 1));
        let ids = |range: std::ops::Range<usize>| example.ids[range].iter().map(|id| *id as i32);
        window.tokens.extend(ids(0..own));
        window.labels.extend(ids(1..own + 1));
        window.weights.resize(start + own, 0.0);
        for (row, _) in targets(example) {
            window.weights[start + row] = weight;
        }
        window.segments.extend(std::iter::repeat_n(segment, own));
        window.positions.extend(0..own as i32);
    }
    for window in &mut all {
        // What fills a window up sees itself alone and teaches nothing; llama.cpp wants a token of its vocabulary.
        let (filled, next) = (window.tokens.len(), window.segments.last().map_or(0, |s| s + 1));
        let rest = len - filled;
        window.tokens.resize(len, 0);
        window.labels.resize(len, 0);
        window.weights.resize(len, 0.0);
        window.segments.extend((next..).take(rest));
        window.positions.resize(len, 0);
    }
    all
}

impl Objective for LlamaCppObjective<'_> {
    fn gradients(&mut self, adapter: &Adapter, micro: &[Vec<&Encoded>], _step: usize) -> Result<(f64, Gradients)> {
        let examples: Vec<&Encoded> = micro.iter().flatten().copied().collect();
        let labelled: usize = examples.iter().map(|e| targets(e).count()).sum();
        let windows = windows(&examples, self.window, (1.0 / labelled.max(1) as f64) as f32);
        self.descend(adapter, windows, true)
    }

    fn loss(&mut self, adapter: &Adapter, examples: &[Encoded]) -> Result<f64> {
        let examples: Vec<&Encoded> = examples.iter().filter(|e| targets(e).next().is_some()).collect();
        let labelled: usize = examples.iter().map(|e| targets(e).count()).sum();
        let windows = windows(&examples, self.window, (1.0 / labelled.max(1) as f64) as f32);
        Ok(self.descend(adapter, windows, false)?.0)
    }

    fn first_non_finite(&self) -> Result<Option<String>> {
        Ok(load_decoder(&self.base, &self.config)?.first_non_finite())
    }
}

#[cfg(test)]
mod parity;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_the_one_that_wastes_least() {
        let train = |len: usize, n: usize| vec![Encoded { ids: vec![1; len], labels: vec![true; len], line: 0 }; n];
        // Three of 151 tokens fit a window of 512, and take a window of 256 each.
        assert_eq!(window_of(&[&train(151, 30), &[]], 3), 512);
        assert_eq!(window_of(&[&train(121, 30), &[]], 2), 256);
        assert_eq!(window_of(&[&train(121, 30), &train(300, 1)], 1), 512, "the longest fits, whatever it costs");
        assert_eq!(window_of(&[&train(2000, 3), &[]], 4), 2048);
    }

    #[test]
    fn examples_lie_side_by_side_and_only_labelled_tokens_weigh() {
        let example = |ids: &[u32], labels: &[bool]| Encoded { ids: ids.to_vec(), labels: labels.to_vec(), line: 0 };
        let a = example(&[5, 6, 7], &[false, false, true]);
        let b = example(&[8, 9, 10, 11], &[false, true, false, true]);
        let made = windows(&[&a, &b, &a], 6, 0.5);
        assert_eq!(made.len(), 2);
        assert_eq!(made[0].tokens, [5, 6, 8, 9, 10, 0]);
        assert_eq!(made[0].labels, [6, 7, 9, 10, 11, 0]);
        assert_eq!(made[0].weights, [0.0, 0.5, 0.5, 0.0, 0.5, 0.0]);
        assert_eq!(made[0].segments, [0, 0, 1, 1, 1, 2]);
        assert_eq!(made[0].positions, [0, 1, 0, 1, 2, 0]);
        assert_eq!(
            (made[1].tokens.as_slice(), made[1].weights.as_slice()),
            (&[5, 6, 0, 0, 0, 0][..], &[0.0, 0.5, 0.0, 0.0, 0.0, 0.0][..])
        );
        assert_eq!(made[1].segments, [0, 0, 1, 2, 3, 4]);
    }
}
