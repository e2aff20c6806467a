//! Taking columns out of tensors and putting them beside each other: queries out of a fused layer, a key out of the part that
//! is each head's own and the part that all heads share.

use std::ops::Range;

use candle_core::{Result, Tensor, bail};

use super::tape::Tape;
use super::{for_each_row, view};

/// Columns of one of the sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) source: usize,
    pub(crate) columns: Range<usize>,
}

impl Piece {
    pub(crate) fn of(source: usize, start: usize, len: usize) -> Self {
        Self { source, columns: start..start + len }
    }
}

/// The pieces, in order, of `sources` (rows, …) seen as (rows, columns): (rows, sum of the pieces' widths).
///
/// # Errors
/// Sources of unequal length, or a piece outside its source.
pub(crate) fn columns(tape: Option<&Tape>, sources: &[&Tensor], pieces: Vec<Piece>) -> Result<Tensor> {
    let rows = sources.first().map_or(Ok(0), |s| s.dim(0))?;
    let widths: Vec<usize> = sources.iter().map(|s| s.elem_count().checked_div(rows).unwrap_or(0)).collect();
    if sources.iter().any(|s| s.dims().first() != Some(&rows)) {
        bail!("columns of sources with unequal rows");
    }
    if let Some(piece) = pieces.iter().find(|p| widths.get(p.source).is_none_or(|w| p.columns.end > *w)) {
        bail!("columns {:?} of source {} are outside {widths:?}", piece.columns, piece.source);
    }
    let width: usize = pieces.iter().map(|p| p.columns.len()).sum();
    let mut out = vec![0f32; rows * width];
    {
        let views: Vec<_> = sources.iter().map(|s| view(s)).collect();
        let slices = views.iter().map(|v| v.slice()).collect::<Result<Vec<_>>>()?;
        for_each_row(&mut out, width.max(1), |row, mut out| {
            for piece in &pieces {
                let (to, rest) = out.split_at_mut(piece.columns.len());
                let start = row * widths[piece.source];
                to.copy_from_slice(&slices[piece.source][start + piece.columns.start..start + piece.columns.end]);
                out = rest;
            }
        });
    }
    let y = Tensor::from_vec(out, (rows, width), &candle_core::Device::Cpu)?;
    if let Some(tape) = tape {
        let shapes: Vec<_> = sources.iter().map(|s| s.shape().clone()).collect();
        let backward = move |dy: &Tensor| {
            let dy = dy.contiguous()?;
            let dy_view = view(&dy);
            let dys = dy_view.slice()?;
            let gradient = |source: usize| {
                let mut dx = vec![0f32; rows * widths[source]];
                for_each_row(&mut dx, widths[source].max(1), |row, dx| {
                    let mut at = row * width;
                    for piece in &pieces {
                        if piece.source == source {
                            let from = &dys[at..at + piece.columns.len()];
                            dx[piece.columns.clone()].iter_mut().zip(from).for_each(|(dx, dy)| *dx += dy);
                        }
                        at += piece.columns.len();
                    }
                });
                Tensor::from_vec(dx, &shapes[source], &candle_core::Device::Cpu).map(Some)
            };
            (0..shapes.len()).map(gradient).collect()
        };
        tape.push(sources, &y, Box::new(backward));
    }
    Ok(y)
}
