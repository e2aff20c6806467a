//! The feed-forward part of a block: one for all tokens, or experts of which each token uses some.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::linear::{Adapters, Linear};
use super::loader::Loader;
use crate::model::architecture::layers::{self, Layers, Place};
use crate::model::architecture::{Activation, Experts, Router, Score};
use crate::model::ops::activation::{activate, gated};
use crate::model::ops::experts::{Share, combine, route};
use crate::model::ops::lora::linear;
use crate::model::ops::low_rank::LowRank;
use crate::model::ops::tape::{add, select_rows};

/// The feed-forward part of one block.
pub(crate) enum FeedForward {
    Dense(Box<Dense>),
    Sparse(Box<Sparse>),
}

/// One feed-forward network: down(f(gate x) · up x), or down(f(up x)).
pub(crate) struct Dense {
    gate: Option<Linear>,
    up: Linear,
    down: Linear,
    activation: Activation,
}

/// Experts, a router, and perhaps an expert that every token uses.
pub(crate) struct Sparse {
    router: Linear,
    correction: Option<Vec<f32>>,
    experts: Vec<Dense>,
    shared: Option<Dense>,
    shared_gate: Option<Linear>,
    rule: Router,
    per_token: usize,
}

impl Dense {
    fn forward(&self, h: &Tensor, adapters: Adapters<'_>) -> Result<Tensor> {
        let tape = adapters.tape();
        let up = self.up.forward(h, adapters)?;
        let inner = match &self.gate {
            Some(gate) => gated(tape, self.activation, &gate.forward(h, adapters)?, &up)?,
            None => activate(tape, self.activation, &up)?,
        };
        self.down.forward(&inner, adapters)
    }

    fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.gate.iter().chain([&self.up, &self.down])
    }

    fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.gate.iter_mut().chain([&mut self.up, &mut self.down])
    }
}

impl FeedForward {
    pub(crate) fn load(loader: &Loader<'_>, layer: usize) -> crate::Result<Self> {
        let (f, names, all) = (&loader.spec.feed_forward, &loader.names, layers::feed_forward(loader.spec, layer));
        let Some(experts) = loader.spec.experts(layer) else {
            let linear = |module: &str| loader.linear(layer, all.get(Place::Block, module)?);
            return Ok(Self::Dense(Box::new(Dense {
                gate: f.gated.then(|| linear(names.gate)).transpose()?,
                up: linear(names.up)?,
                down: linear(names.down)?,
                activation: f.activation,
            })));
        };
        Sparse::load(loader, layer, &all, experts).map(|sparse| Self::Sparse(Box::new(sparse)))
    }

    /// Of the normed input `h` (tokens, hidden).
    pub(crate) fn forward(&self, h: &Tensor, adapters: Adapters<'_>) -> Result<Tensor> {
        match self {
            Self::Dense(dense) => dense.forward(h, adapters),
            Self::Sparse(sparse) => sparse.forward(h, adapters),
        }
    }

    pub(crate) fn linears(&self) -> Vec<&Linear> {
        match self {
            Self::Dense(dense) => dense.linears().collect(),
            Self::Sparse(s) => s.experts.iter().chain(&s.shared).flat_map(Dense::linears).collect(),
        }
    }

    pub(crate) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        match self {
            Self::Dense(dense) => dense.linears_mut().collect(),
            Self::Sparse(s) => s.experts.iter_mut().chain(&mut s.shared).flat_map(Dense::linears_mut).collect(),
        }
    }

    /// The bias of the router's choice.
    pub(crate) fn correction(&self) -> Option<&[f32]> {
        match self {
            Self::Dense(_) => None,
            Self::Sparse(s) => s.correction.as_deref(),
        }
    }

    /// Layers that no adapter reaches.
    pub(crate) fn routers(&self) -> Vec<&Linear> {
        match self {
            Self::Dense(_) => Vec::new(),
            Self::Sparse(s) => std::iter::once(&s.router).chain(&s.shared_gate).collect(),
        }
    }
}

impl Sparse {
    fn load(loader: &Loader<'_>, layer: usize, all: &Layers, e: &Experts) -> crate::Result<Self> {
        let names = &loader.names;
        let activation = loader.spec.feed_forward.activation;
        let expert = |i: usize| {
            let linear = |module: &str| loader.expert(layer, i, all.get(Place::Expert, module)?);
            Ok(Dense {
                gate: Some(linear(names.expert_gate)?),
                up: linear(names.expert_up)?,
                down: linear(names.expert_down)?,
                activation,
            })
        };
        let shared = || -> crate::Result<Dense> {
            let linear = |module: &str| loader.linear(layer, all.get(Place::Shared, module)?);
            Ok(Dense {
                gate: Some(linear(names.expert_gate)?),
                up: linear(names.expert_up)?,
                down: linear(names.expert_down)?,
                activation,
            })
        };
        let router = |module: &str| loader.router(layer, all.get(Place::Router, module)?);
        let correction = if e.router.correction {
            Some(loader.vector(names.block(layer, names.correction), e.count)?.to_vec1::<f32>()?)
        } else {
            None
        };
        Ok(Self {
            router: router(names.router)?,
            correction,
            experts: (0..e.count).map(expert).collect::<crate::Result<_>>()?,
            shared: (e.shared_size > 0).then(shared).transpose()?,
            shared_gate: e.shared_gate.then(|| router(names.shared_gate)).transpose()?,
            rule: e.router.clone(),
            per_token: e.per_token,
        })
    }

    fn forward(&self, h: &Tensor, adapters: Adapters<'_>) -> Result<Tensor> {
        let tape = adapters.tape();
        let (tokens, width) = h.dims2()?;
        let logits = linear(tape, h, &self.router.frozen, Vec::new())?;
        let routes = route(tape, &logits, self.correction.as_deref(), &self.rule, self.per_token)?;
        let mut shares = Vec::new();
        for (i, expert) in self.experts.iter().enumerate() {
            let (rows, places) = routes.tokens_of(i, self.per_token);
            if rows.is_empty() {
                continue;
            }
            let own = select_rows(tape, h, rows.clone())?;
            let slots = adapters.slots(&rows);
            let values = expert.forward(&own, adapters.with_slots(&slots))?;
            shares.push(Share { rows, places, values });
        }
        let mixed = combine(tape, &routes.weights, shares, width)?;
        let Some(shared) = &self.shared else { return Ok(mixed) };
        let mut always = shared.forward(h, adapters)?;
        if let Some(gate) = &self.shared_gate {
            // One score a token, which is the weight of its only expert.
            let logits = linear(tape, h, &gate.frozen, Vec::new())?;
            let rule = Router { score: Score::Sigmoid, correction: false, groups: None, normalize: false, scale: 1.0 };
            let weights = route(tape, &logits, None, &rule, 1)?.weights;
            let rows = (0..tokens as u32).collect();
            always = combine(tape, &weights, vec![Share { rows, places: vec![0; tokens], values: always }], width)?;
        }
        add(tape, &mixed, &always)
    }
}

impl<'a> Adapters<'a> {
    /// Which of some rows of the batch, ascending, see which adapter.
    fn slots(&self, rows: &[u32]) -> Vec<(Range<usize>, &'a LowRank)> {
        let place = |row: usize| rows.partition_point(|r| (*r as usize) < row);
        let moved = self.rows().iter().map(|(range, adapter)| (place(range.start)..place(range.end), *adapter));
        moved.filter(|(range, _)| !range.is_empty()).collect()
    }

    fn with_slots<'b>(self, slots: &'b [(Range<usize>, &'a LowRank)]) -> Adapters<'b>
    where
        'a: 'b,
    {
        match self {
            Self::Rows(_) => Adapters::Rows(slots),
            Self::Train { adapter, dropout, tape, checkpointing } => {
                Adapters::Train { adapter, dropout, tape, checkpointing }
            }
        }
    }
}
