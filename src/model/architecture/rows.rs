//! The order of a matrix's rows in a GGUF file, where it is not Hugging Face's.

use super::DecoderSpec;
use super::names::Names;

/// How GGUF orders rows that Hugging Face orders otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GgufRows {
    /// As Hugging Face.
    Same,
    /// q and k with the halves of a head interleaved.
    Interleaved,
    /// A fused layer in blocks of all queries, all keys, all values.
    Blocks,
}

/// What a matrix is, of which the order of its rows depends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MatrixRole {
    /// Queries or keys.
    Rotary,
    /// Queries, keys and values together.
    Fused,
    /// Anything else.
    Other,
}

/// An order, with the heads that it goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowOrder {
    pub(crate) file: GgufRows,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
}

impl RowOrder {
    /// Hugging Face's own.
    pub(crate) const SAME: Self = Self { file: GgufRows::Same, heads: 1, kv_heads: 1, head_dim: 1 };

    /// The order of a decoder's rows in a file that orders them so.
    pub(crate) fn new(spec: &DecoderSpec, file: GgufRows) -> Self {
        let a = &spec.attention;
        Self { file, heads: a.heads, kv_heads: a.kv_heads, head_dim: a.head_dim }
    }

    /// Where row i of Hugging Face's order lies in the file; `None` when it is row i there too.
    pub(crate) fn positions(&self, role: MatrixRole, rows: usize) -> Option<Vec<usize>> {
        let dim = self.head_dim;
        match (self.file, role) {
            (GgufRows::Interleaved, MatrixRole::Rotary) => {
                let half = dim / 2;
                Some((0..rows).map(|i| i / dim * dim + 2 * (i % dim % half) + i % dim / half).collect())
            }
            (GgufRows::Blocks, MatrixRole::Fused) => {
                let group = self.heads / self.kv_heads;
                let of = |i: usize| {
                    let (place, element) = (i / dim, i % dim);
                    let (kv, slot) = (place / (group + 2), place % (group + 2));
                    let head = match slot.checked_sub(group) {
                        None => kv * group + slot,
                        Some(0) => self.heads + kv,
                        Some(_) => self.heads + self.kv_heads + kv,
                    };
                    head * dim + element
                };
                Some((0..rows).map(of).collect())
            }
            _ => None,
        }
    }

    /// As [`Self::of`], for the layer at `path`.
    pub(crate) fn of_path(&self, names: &Names, path: &str, rows: usize) -> Option<Vec<usize>> {
        self.positions(Self::role(names, path), rows)
    }

    /// Can the layer at `path` have so many rows?
    pub(crate) fn fits(&self, names: &Names, path: &str, rows: usize) -> bool {
        match (self.file, Self::role(names, path)) {
            (GgufRows::Interleaved, MatrixRole::Rotary) => rows.is_multiple_of(self.head_dim),
            (GgufRows::Blocks, MatrixRole::Fused) => {
                let heads = self.kv_heads.checked_mul(2).and_then(|n| n.checked_add(self.heads));
                heads.and_then(|n| n.checked_mul(self.head_dim)) == Some(rows)
            }
            _ => true,
        }
    }

    fn role(names: &Names, path: &str) -> MatrixRole {
        let is = |name: &str| path.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'));
        if is(names.q) || is(names.k) {
            MatrixRole::Rotary
        } else if is(names.qkv) {
            MatrixRole::Fused
        } else {
            MatrixRole::Other
        }
    }
}
