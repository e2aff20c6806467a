//! In what precision products with a model's weights are computed.

use super::bf16::has_units;
use crate::config::Dtype;

/// What products with the base's weights are computed in. All else is in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    #[default]
    F32,
    /// Both sides are rounded to bf16, the sums are in f32.
    Bf16,
}

impl Arithmetic {
    /// What a configuration asks for, on this processor.
    pub(crate) fn of(dtype: Dtype) -> Self {
        match dtype {
            Dtype::Auto if !has_units() => Self::F32,
            Dtype::Auto | Dtype::Bf16 => Self::Bf16,
            Dtype::F32 => Self::F32,
        }
    }
}
