//! Keys and values of one sequence's past, layer by layer.

/// What a sequence's tokens left behind for the tokens after them. Copying one shares a prefix.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cache {
    layers: Vec<LayerCache>,
    len: usize,
}

/// One layer's rows: keys (tokens, kv_heads · dim) and values (tokens, kv_heads · value_dim).
#[derive(Clone, Debug, Default)]
pub(crate) struct LayerCache {
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
}

impl Cache {
    pub(crate) fn new(layers: usize) -> Self {
        Self { layers: vec![LayerCache::default(); layers], len: 0 }
    }

    /// Tokens it holds; the position of the next one.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Adds the rows of new tokens to one layer.
    pub(crate) fn append(&mut self, layer: usize, k: &[f32], v: &[f32]) {
        self.layers[layer].k.extend_from_slice(k);
        self.layers[layer].v.extend_from_slice(v);
    }

    /// Says that `tokens` were appended to every layer.
    pub(crate) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    /// Forgets all but the first `tokens`.
    pub(crate) fn truncate(&mut self, tokens: usize) {
        if tokens >= self.len {
            return;
        }
        for LayerCache { k, v } in &mut self.layers {
            // Rows of one layer are of one width.
            k.truncate(k.len() / self.len * tokens);
            v.truncate(v.len() / self.len * tokens);
        }
        self.len = tokens;
    }

    pub(crate) fn layer(&self, layer: usize) -> &LayerCache {
        &self.layers[layer]
    }
}
