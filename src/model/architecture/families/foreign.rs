//! Families that llama.cpp computes and this crate's decoder does not.

use crate::model::architecture::names::{LLAMA, Names};
use crate::model::architecture::rows::GgufRows;

/// What is known of one.
pub(crate) struct Foreign {
    /// GGUF's `general.architecture`.
    pub(crate) architecture: &'static str,
    /// What Hugging Face calls its layers.
    pub(crate) names: Names,
    /// How llama.cpp's converter orders their rows.
    pub(crate) rows: GgufRows,
    /// What llama.cpp has no backward of; `None`: it can be trained there.
    pub(crate) without_backward: Option<&'static str>,
}

const GRANITE: Foreign =
    Foreign { architecture: "granite", names: LLAMA, rows: GgufRows::Interleaved, without_backward: None };

/// All of them.
pub(crate) const FOREIGN: [Foreign; 4] = [
    GRANITE,
    Foreign { architecture: "olmo2", rows: GgufRows::Same, ..GRANITE },
    Foreign {
        architecture: "phi3",
        // Gate and up are one layer.
        names: Names { up: "mlp.gate_up_proj", ..LLAMA },
        rows: GgufRows::Same,
        without_backward: Some("SwiGLU of a layer that is gate and up together"),
    },
    Foreign { architecture: "smollm3", ..GRANITE },
];
