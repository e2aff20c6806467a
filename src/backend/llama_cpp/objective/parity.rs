//! Training through llama.cpp against numbers that PEFT and torch computed, without a worker between.

use std::path::Path;

use candle_core::quantized::gguf_file::Value;

use super::{LlamaCppObjective, Place, by_name, windows};
use crate::backend::llama_cpp::worker::Differentiator;
use crate::config::{ModelConfig, Recipe};
use crate::error::Result;
use crate::model::decoder::parity::fixture;
use crate::model::formats::gguf::Header;
use crate::model::formats::mapped::map_file;
use crate::model::lora::{self, Adapter};
use crate::model::outline;
use crate::model::sources;
use crate::train::encode::Encoded;
use crate::train::parity::{Recorded, descends_as_peft, examples_of, recipe};
use crate::train::{Gradients, Objective, targets};

/// Every family that can be trained so, and whose training was recorded.
const FAMILIES: [&str; 6] =
    ["llama", "qwen2", "qwen3", "llama_cpp_only/granite", "llama_cpp_only/olmo2", "llama_cpp_only/smollm3"];

/// The objective with llama.cpp in this process.
struct Here {
    places: Vec<Place>,
    differentiator: Differentiator,
    window: usize,
}

impl Here {
    fn new(objective: &LlamaCppObjective<'_>, adapter: &Adapter) -> Self {
        let path = objective.files.path().join("adapter.gguf");
        let places = objective.write_shapes(adapter, &path).expect("shapes");
        let differentiator = Differentiator::open(&objective.model, &path, objective.window, 2).expect("llama.cpp");
        let tensors = differentiator.tensors();
        assert_eq!(tensors.len(), places.len());
        assert!(tensors.iter().zip(&places).all(|(own, place)| own == &(place.0.clone(), place.1.len)));
        Self { places: places.into_iter().map(|(_, place)| place).collect(), differentiator, window: objective.window }
    }

    fn descend(&mut self, adapter: &Adapter, examples: &[&Encoded], wanted: bool) -> Result<(f64, Gradients)> {
        let labelled: usize = examples.iter().map(|e| targets(e).count()).sum();
        let values: Vec<f32> = self.places.iter().flat_map(|place| place.values(adapter)).collect();
        self.differentiator.set(&values)?;
        let mut loss = 0.0;
        for window in windows(examples, self.window, (1.0 / labelled as f64) as f32) {
            loss += self.differentiator.run(&window, wanted)?;
        }
        Ok((loss, by_name(&self.places, &self.differentiator.take())))
    }
}

impl Objective for Here {
    fn gradients(&mut self, adapter: &Adapter, micro: &[Vec<&Encoded>], _: usize) -> Result<(f64, Gradients)> {
        self.descend(adapter, &micro.concat(), true)
    }

    fn loss(&mut self, adapter: &Adapter, examples: &[Encoded]) -> Result<f64> {
        Ok(self.descend(adapter, &examples.iter().collect::<Vec<_>>(), false)?.0)
    }

    fn first_non_finite(&self) -> Result<Option<String>> {
        Ok(None)
    }
}

/// What a family's training is through llama.cpp, `model` being its file.
fn agrees(family: &'static str, model: &Path) {
    let config = ModelConfig { source: model.display().to_string(), ..ModelConfig::default() };
    let files = sources::resolve(&config, &mut |_| {}).expect("files");
    let (outline, recipe) = (outline(&files, &config).expect("an outline"), Recipe { lora_dropout: 0.0, ..recipe() });
    let recorded = Recorded::of(family);
    let examples = examples_of(&recorded);
    let directory = tempfile::tempdir().expect("a directory");
    let objective = LlamaCppObjective::new(&files, &config, &outline, &recipe, &[&examples], directory.path())
        .expect("an objective");
    let start = lora::load(&fixture(&format!("{family}/adapter"))).expect("an adapter");
    descends_as_peft(&recorded, Box::new(Here::new(&objective, &start)), &recipe);
}

/// Why OLMo 2's recorded training is refused on this file.
fn refused(model: &Path) -> String {
    let config = ModelConfig { source: model.display().to_string(), ..ModelConfig::default() };
    let files = sources::resolve(&config, &mut |_| {}).expect("files");
    let outline = outline(&files, &config).expect("an outline");
    let examples = examples_of(&Recorded::of("llama_cpp_only/olmo2"));
    let directory = tempfile::tempdir().expect("a directory");
    let objective = LlamaCppObjective::new(&files, &config, &outline, &recipe(), &[&examples], directory.path());
    objective.err().expect("must be refused").to_string()
}

#[test]
fn every_family_trains_as_peft_does() {
    for family in FAMILIES {
        agrees(family, &fixture(&format!("{family}/model.gguf")));
    }
}

/// OLMo 3's form: some layers see back a window alone, which is longer than any example, and have a mask of their own.
#[test]
fn layers_with_a_window_see_each_example_alone_too() {
    let base = fixture("llama_cpp_only/olmo2/model.gguf");
    let map = map_file(&base).expect("a file");
    let mut header = Header::read(&base, &map).expect("a header");
    for (key, value) in [("sliding_window", 64), ("sliding_window_pattern", 2)] {
        header.metadata.insert(format!("olmo2.attention.{key}"), Value::U32(value));
    }
    let tensors = header.in_order().into_iter().map(|(name, info)| (name, header.tensor(&base, &map, name, info)));
    let tensors: Vec<_> = tensors.map(|(name, tensor)| (name.as_str(), tensor.expect("a tensor"))).collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let metadata: Vec<_> = header.metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("model.gguf");
    crate::model::formats::gguf::write(&path, &metadata, &tensors).expect("a file");
    agrees("llama_cpp_only/olmo2", &path);

    // Shorter than an example it would have to be kept to, and the masks that are written here know nothing of it.
    let window = metadata.iter().position(|(key, _)| *key == "olmo2.attention.sliding_window").expect("it is there");
    let mut metadata = metadata;
    let short = Value::U32(16);
    metadata[window].1 = &short;
    crate::model::formats::gguf::write(&path, &metadata, &tensors).expect("a file");
    let message = refused(&path);
    assert!(message.contains("see back 16 tokens, and an example has 23: lower sequence_len"), "{message}");
}
