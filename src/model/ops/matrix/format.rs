//! How a tensor's values lie in its file, and how they become f32.

use std::sync::LazyLock;

use candle_core::CpuStorage;
use candle_core::quantized::GgmlDType;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::unpack;

/// How a tensor's values lie in its file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Format {
    F32,
    F16,
    Bf16,
    /// E4M3, with a scale for each block of values beside it.
    Fp8,
    Quantised(GgmlDType),
}

impl Format {
    /// Bytes of `elements` consecutive values; `None` when they do not fill whole blocks.
    pub(crate) fn bytes(self, elements: usize) -> Option<usize> {
        let (block, size) = match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Fp8 => (1, 1),
            Self::Quantised(dtype) => (dtype.block_size(), dtype.type_size()),
        };
        elements.is_multiple_of(block).then(|| (elements / block).checked_mul(size)).flatten()
    }

    /// Writes `out.len()` values.
    pub(crate) fn widen(self, bytes: &[u8], out: &mut [f32]) {
        match self {
            Self::F32 => out
                .iter_mut()
                .zip(bytes.chunks_exact(4))
                .for_each(|(o, b)| *o = f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            Self::F16 => widen_f16(bytes, out),
            Self::Bf16 => out
                .iter_mut()
                .zip(bytes.chunks_exact(2))
                .for_each(|(o, b)| *o = bf16::from_le_bytes([b[0], b[1]]).to_f32()),
            Self::Fp8 => out.iter_mut().zip(bytes).for_each(|(o, b)| *o = FP8[usize::from(*b)]),
            Self::Quantised(dtype) if unpack::widen(dtype, bytes, out) => {}
            Self::Quantised(dtype) => {
                let blocks = dtype.from_data(std::borrow::Cow::Borrowed(bytes));
                match blocks.dequantize(out.len()) {
                    Ok(CpuStorage::F32(values)) => out.copy_from_slice(&values),
                    // Not reached: the sizes were checked on loading. NaN makes the next check of logits or loss fail.
                    _ => out.fill(f32::NAN),
                }
            }
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::F32 => f.write_str("f32"),
            Self::F16 => f.write_str("f16"),
            Self::Bf16 => f.write_str("bf16"),
            Self::Fp8 => f.write_str("fp8"),
            Self::Quantised(dtype) => write!(f, "{}", format!("{dtype:?}").to_lowercase()),
        }
    }
}

/// Some at a time, so that the processor's own conversion is used where it has one.
fn widen_f16(bytes: &[u8], out: &mut [f32]) {
    const AT_ONCE: usize = 64;
    let mut halves = [f16::ZERO; AT_ONCE];
    for (out, bytes) in out.chunks_mut(AT_ONCE).zip(bytes.chunks(2 * AT_ONCE)) {
        for (half, b) in halves.iter_mut().zip(bytes.chunks_exact(2)) {
            *half = f16::from_le_bytes([b[0], b[1]]);
        }
        halves[..out.len()].convert_to_f32_slice(out);
    }
}

static FP8: LazyLock<[f32; 256]> = LazyLock::new(|| std::array::from_fn(|byte| fp8(byte as u8)));

/// The values of an FP8 E4M3 number without infinities: sign, four bits of exponent (bias 7), three of mantissa.
pub(crate) fn fp8(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let magnitude = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * (-9f32).exp2(),
        _ => (1.0 + mantissa / 8.0) * ((exponent - 7) as f32).exp2(),
    };
    if byte & 128 == 0 { magnitude } else { -magnitude }
}
