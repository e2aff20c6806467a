//! The data of an adapter as the operations take it.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::Tensor;

use super::matrix::Matrix;

/// One layer's low-rank pair; its product B·A is added with the adapter's scale.
#[derive(Clone, Debug)]
pub(crate) struct LoraPair {
    /// (r, in)
    pub(crate) a: Tensor,
    /// (out, r); by columns where the adapter is attached for inference
    pub(crate) b: Tensor,
    /// What the product is multiplied by: alpha/r, times the arm's own factor.
    pub(crate) scale: f64,
    /// What each row of the layer's product is multiplied by, (out): DoRA's lengths. For inference.
    pub(crate) row_gain: Option<Arc<[f32]>>,
    /// What is added to the layer's bias, (out). For inference.
    pub(crate) bias: Option<Arc<[f32]>>,
}

/// Low-rank pairs by module path (`model.layers.0.self_attn.q_proj`), and whole matrices instead of base's.
#[derive(Clone, Default)]
pub(crate) struct LowRank {
    pub(crate) pairs: BTreeMap<String, LoraPair>,
    /// Instead of the embedding. For inference.
    pub(crate) embedding: Option<Matrix>,
    /// Instead of the head. For inference.
    pub(crate) head: Option<Matrix>,
}
