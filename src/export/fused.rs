//! A PEFT directory for transformers 5, in which all experts of a layer are one parameter: `target_parameters` instead of a layer
//! for each expert.
//!
//! With E experts and rank r, A is (E·r, in), one expert after another, and B is (out, r·E), the expert's index the fastest. Gate and
//! up are one parameter and share their A: its rank is the sum of theirs, and each has zeros where the other's is. One rank for all is
//! what every version of PEFT reads, so other layers are filled up with zeros to it; each layer's scale is in its B.

use std::path::Path;

use serde_json::json;

use super::{Export, Exported, Tuned};
use crate::error::{Error, Result};
use crate::model::architecture::Experts;
use crate::model::formats::safetensors::{EncodedTensor, write_tensors};
use crate::model::lora::{self, ADAPTER_CONFIG, ADAPTER_WEIGHTS, Module, PREFIX};

/// A and B with room for `rank`.
struct Room {
    a: Vec<f32>,
    b: Vec<f32>,
    rank: usize,
    count: usize,
    in_features: usize,
    out_features: usize,
}

impl Room {
    fn new(count: usize, rank: usize, in_features: usize, out_features: usize) -> Self {
        let (a, b) = (vec![0f32; count * rank * in_features], vec![0f32; out_features * rank * count]);
        Self { a, b, rank, count, in_features, out_features }
    }

    /// Puts a pair in at `place` of the rank, for the rows of the layer that begin at `row`.
    fn put(&mut self, module: &Module, expert: usize, place: usize, row: usize) {
        let start = (expert * self.rank + place) * self.in_features;
        self.a[start..start + module.a.len()].copy_from_slice(&module.a);
        for (i, values) in module.b.chunks(module.rank).enumerate() {
            for (r, value) in values.iter().enumerate() {
                let at = (row + i) * self.rank * self.count + (place + r) * self.count + expert;
                self.b[at] = value * module.scale as f32;
            }
        }
    }

    fn stored(self, module: &str) -> [EncodedTensor; 2] {
        let across = self.rank * self.count;
        let named = |kind: &str| format!("{PREFIX}{module}.lora_{kind}.weight");
        [
            EncodedTensor::f32(named("A"), vec![across, self.in_features], &self.a),
            EncodedTensor::f32(named("B"), vec![self.out_features, across], &self.b),
        ]
    }
}

impl Export<'_> {
    pub(super) fn peft_fused(&self, out: &Path, tuned: &Tuned) -> Result<Exported> {
        if self.scale != 1.0 {
            return Err(self.no_scale());
        }
        let (names, experts) = (self.decoder.names(), self.fusible()?);
        let rank = self.fused_rank(experts);
        let (mut tensors, mut targets): (Vec<EncodedTensor>, Vec<&str>) = (Vec::new(), Vec::new());
        for (path, module) in self.adapter.modules.iter().filter(|(path, _)| names.expert(path).is_none()) {
            let mut room = Room::new(1, rank, module.in_features, module.out_features);
            room.put(module, 0, 0, 0);
            tensors.extend(room.stored(path));
            targets.extend(path.rsplit('.').next());
        }
        targets.sort_unstable();
        targets.dedup();
        for layer in (0..self.decoder.spec.layers).filter(|layer| experts.layers[*layer]) {
            tensors.extend(self.fused_layer(layer, experts, rank));
        }
        let parameters = ["gate_up_proj", names.expert_down].map(|part| format!("{}.{part}", names.experts));
        let config = json!({
            "base_model_name_or_path": self.adapter.base,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "lora_alpha": rank,
            "lora_dropout": 0.0,
            "modules_to_save": null,
            "peft_type": "LORA",
            "r": rank,
            "rank_pattern": {},
            "alpha_pattern": {},
            "target_modules": targets,
            "target_parameters": parameters,
            "task_type": "CAUSAL_LM",
            "use_dora": false,
            "use_rslora": false,
        });
        std::fs::create_dir_all(out).map_err(Error::io(out, "create"))?;
        let files = [ADAPTER_WEIGHTS, ADAPTER_CONFIG].map(|name| out.join(name));
        write_tensors(&files[0], &tensors)?;
        let config = serde_json::to_string_pretty(&config).map_err(|e| Error::failed(e.to_string()))?;
        crate::files::write_atomically(&files[1], config.as_bytes())?;
        let read_back = lora::load(out)?.attached(self.decoder, 1.0)?;
        let difference = self.compared(&tuned.expected, self.decoder, Some(&read_back))?;
        Ok(Exported { files: files.to_vec(), difference })
    }

    /// The base's experts, if this form can hold the adapter.
    ///
    /// # Errors
    /// It cannot, by what it has.
    fn fusible(&self) -> Result<&Experts> {
        let refuse = |what: &str| {
            let message = format!("{what}; export --format peft writes a layer for each module");
            Error::model(self.directory, message)
        };
        let names = self.decoder.names();
        let Some(experts) = &self.decoder.spec.feed_forward.experts else {
            return Err(refuse("the base has no experts that could be fused"));
        };
        let all = &self.adapter.modules;
        if !all.keys().any(|path| names.expert(path).is_some()) {
            return Err(refuse("the adapter has no module of an expert"));
        }
        if !self.adapter.saved.is_empty() || all.values().any(|m| m.magnitude.is_some() || m.bias.is_some()) {
            return Err(refuse("the adapter has DoRA, biases or modules_to_save, which this form cannot hold"));
        }
        // PEFT 0.21 takes every target of these names for the experts' on transformers 5, and would leave these layers out.
        let parts = [names.expert_gate, names.expert_up, names.expert_down];
        let dense = |path: &&String| {
            names.expert(path).is_none() && path.rsplit('.').next().is_some_and(|p| parts.contains(&p))
        };
        if let Some(path) = all.keys().find(dense) {
            return Err(refuse(&format!(
                "the adapter changes `{path}`, which is no expert's, and PEFT on transformers 5 would leave it out"
            )));
        }
        Ok(experts)
    }

    /// The module of one part of an expert.
    fn part(&self, layer: usize, expert: usize, part: &str) -> Option<&Module> {
        let names = self.decoder.names();
        self.adapter.modules.get(&names.block(layer, &format!("{}.{expert}.{part}", names.experts)))
    }

    /// The rank that everything fits in.
    fn fused_rank(&self, experts: &Experts) -> usize {
        let names = self.decoder.names();
        let rank = |module: Option<&Module>| module.map_or(0, |m| m.rank);
        let pairs =
            (0..self.decoder.spec.layers).flat_map(|layer| (0..experts.count).map(move |expert| (layer, expert)));
        let together = pairs.map(|(layer, expert)| {
            rank(self.part(layer, expert, names.expert_gate)) + rank(self.part(layer, expert, names.expert_up))
        });
        together.chain(self.adapter.modules.values().map(|m| m.rank)).max().unwrap_or(1)
    }

    /// All experts of a layer: gate and up, and around them down.
    fn fused_layer(&self, layer: usize, experts: &Experts, rank: usize) -> Vec<EncodedTensor> {
        let (names, hidden, in_features) =
            (self.decoder.names(), self.decoder.spec.hidden_size, experts.intermediate_size);
        let mut gate_up = Room::new(experts.count, rank, hidden, 2 * in_features);
        let mut down = Room::new(experts.count, rank, in_features, hidden);
        for expert in 0..experts.count {
            let gate = self.part(layer, expert, names.expert_gate);
            if let Some(gate) = gate {
                gate_up.put(gate, expert, 0, 0);
            }
            if let Some(up) = self.part(layer, expert, names.expert_up) {
                gate_up.put(up, expert, gate.map_or(0, |gate| gate.rank), in_features);
            }
            if let Some(of_down) = self.part(layer, expert, names.expert_down) {
                down.put(of_down, expert, 0, 0);
            }
        }
        let path = names.block(layer, names.experts);
        gate_up.stored(&format!("{path}.base_layer")).into_iter().chain(down.stored(&path)).collect()
    }
}
