//! Training through llama.cpp against numbers that PEFT and torch computed, without a worker between.

use std::path::Path;

use super::{LlamaCppObjective, Place, windows};
use crate::adapter::{self, Adapter};
use crate::config::{ModelConfig, Recipe};
use crate::data::encode::Encoded;
use crate::error::Result;
use crate::llama_cpp::Differentiator;
use crate::model::parity::fixture;
use crate::model::{outline, source};
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
        let all = self.differentiator.take();
        let mut rest = all.as_slice();
        let mut found = Gradients::new();
        for place in &self.places {
            let (own, after) = rest.split_at(place.len);
            rest = after;
            found.insert(place.name(), place.in_hugging_face_order(own));
        }
        Ok((loss, found))
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
    let files = source::resolve(&config, &mut |_| {}).expect("files");
    let (outline, recipe) = (outline(&files, &config).expect("an outline"), Recipe { lora_dropout: 0.0, ..recipe() });
    let recorded = Recorded::of(family);
    let examples = examples_of(&recorded);
    let directory = tempfile::tempdir().expect("a directory");
    let objective = LlamaCppObjective::new(&files, &config, &outline, &recipe, &[&examples], directory.path())
        .expect("an objective");
    let start = adapter::load(&fixture(&format!("{family}/adapter"))).expect("an adapter");
    descends_as_peft(&recorded, Box::new(Here::new(&objective, &start)), &recipe);
}

#[test]
fn every_family_trains_as_peft_does() {
    for family in FAMILIES {
        agrees(family, &fixture(&format!("{family}/model.gguf")));
    }
}
