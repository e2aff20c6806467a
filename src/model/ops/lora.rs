//! A frozen linear layer with its low-rank adapter (Hu et al. 2021, arXiv 2106.09685): y = x Wᵀ + b + s · (x Aᵀ) Bᵀ.
//!
//! The frozen product has no gradient for W, so that a backward costs one product with W and nothing more; W is widened from its
//! file's precision a block at a time, in the forward and again in the backward.

use std::ops::Range;
use std::sync::Mutex;

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::few_rows::{self, MAX_ROWS, Strided};
use super::gemm::{Mat, MatMut, Write, matmul};
use super::low_rank::LoraPair;
use super::matrix::Matrix;
use super::tape::{Tape, apply1, apply3};
use super::{for_each_row, frozen, rows_of, slice, view};
use crate::random::mix;

/// The frozen part: W (out, in) and an optional bias (out).
#[derive(Clone)]
pub(crate) struct Frozen {
    pub(crate) weight: Matrix,
    pub(crate) bias: Option<Tensor>,
}

impl Frozen {
    /// y (rows, out) = x (rows, in) Wᵀ + b.
    fn forward(&self, x: &[f32], rows: usize) -> Result<Vec<f32>> {
        let out_features = self.weight.rows;
        let mut y = vec![0f32; rows * out_features];
        frozen::product(&self.weight, x, &mut y);
        if let Some(bias) = &self.bias {
            let view = view(bias);
            let bias = view.slice()?;
            for_each_row(&mut y, out_features, |_, row| row.iter_mut().zip(bias).for_each(|(y, b)| *y += b));
        }
        Ok(y)
    }

    /// dx (rows, in) = dy (rows, out) W.
    fn backward(&self, dy: &[f32], rows: usize) -> Vec<f32> {
        let mut dx = vec![0f32; rows * self.weight.cols];
        frozen::back(&self.weight, dy, &mut dx);
        dx
    }

    fn check(&self, layout: &Layout) -> Result<(usize, Shape)> {
        let (rows, width) = rows_of(layout);
        if width != self.weight.cols {
            bail!(
                "`{}`: got x {:?}, expected a last dimension of {}",
                self.weight.name,
                layout.dims(),
                self.weight.cols
            );
        }
        let mut dims = layout.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = self.weight.rows;
        }
        Ok((rows, Shape::from(dims)))
    }
}

/// One arm's adapter for one layer, and the rows of the batch that are this arm's.
#[derive(Clone)]
pub(crate) struct Slot {
    pub(crate) rows: Range<usize>,
    pub(crate) pair: LoraPair,
}

impl Slot {
    /// s · (x[rows] Aᵀ) Bᵀ.
    fn product(&self, x: &[f32]) -> Result<Vec<f32>> {
        let pair = &self.pair;
        let (rank, in_features) = pair.a.dims2()?;
        let (out_features, rows) = (pair.b.dim(0)?, self.rows.len());
        // In place where B lies by columns, as that of an attached adapter does.
        let columns = pair.b.t()?.contiguous()?;
        let (a, b) = (view(&pair.a), view(&columns));
        let (a, b, scale) = (a.slice()?, b.slice()?, pair.scale as f32);
        let x = &x[self.rows.start * in_features..self.rows.end * in_features];
        let (mut h, mut y) = (vec![0f32; rows * rank], vec![0f32; rows * out_features]);
        if rows <= MAX_ROWS {
            few_rows::add_product(a, in_features, 1.0, x, &mut h);
            few_rows::add_combination(Strided::dense(b, rank, out_features), scale, &h, &mut y);
        } else {
            let (x, a) = (Mat::new(x, rows, in_features), Mat::new(a, rank, in_features));
            matmul(MatMut::new(&mut h, rows, rank), Write::Overwrite, 1.0, x, a.t());
            let (h, b) = (Mat::new(&h, rows, rank), Mat::new(b, rank, out_features));
            matmul(MatMut::new(&mut y, rows, out_features), Write::Overwrite, scale, h, b);
        }
        Ok(y)
    }

    /// Adds the product to y of these rows; then, where the pair has them, y without its bias times the lengths, plus biases.
    fn add(&self, frozen: &Frozen, product: &[f32], y: &mut [f32]) -> Result<()> {
        let (pair, out_features) = (&self.pair, frozen.weight.rows);
        for_each_row(y, out_features, |i, row| {
            row.iter_mut().zip(&product[i * out_features..]).for_each(|(y, product)| *y += product);
        });
        if let Some(lengths) = &pair.row_gain {
            let bias = frozen.bias.as_ref().map(view);
            let bias = bias.as_ref().map(|b| b.slice()).transpose()?;
            for_each_row(y, out_features, |_, row| {
                for (i, (y, length)) in row.iter_mut().zip(lengths.iter()).enumerate() {
                    let bias = bias.map_or(0.0, |bias| bias[i]);
                    *y = (*y - bias) * length + bias;
                }
            });
        }
        if let Some(bias) = &pair.bias {
            for_each_row(y, out_features, |_, row| row.iter_mut().zip(bias.iter()).for_each(|(y, b)| *y += b));
        }
        Ok(())
    }
}

struct Rows {
    frozen: Frozen,
    slots: Vec<Slot>,
}

/// y = x Wᵀ + b, and each slot's product added to its own rows; rows without a slot never see an adapter.
///
/// Differentiable in x when there are no slots; adapters here are for inference.
pub(crate) fn linear(tape: Option<&Tape>, x: &Tensor, frozen: &Frozen, slots: Vec<Slot>) -> Result<Tensor> {
    apply1(tape, x, Rows { frozen: frozen.clone(), slots })
}

impl CustomOp1 for Rows {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(storage, layout)?;
        let (rows, shape) = self.frozen.check(layout)?;
        let out_features = self.frozen.weight.rows;
        let mut at = 0;
        for Slot { rows: of, pair } in &self.slots {
            if of.start < at || of.end > rows {
                bail!("rows {of:?} of an adapter overlap another's, or are not among the {rows} of x");
            }
            if pair.a.dim(1)? != self.frozen.weight.cols || pair.b.dim(0)? != out_features {
                bail!("`{}`: an adapter's A {:?} and B {:?} do not fit", self.frozen.weight.name, pair.a, pair.b);
            }
            at = of.end;
        }
        // Beside each other: an adapter's products are too small to be shared among threads.
        let (y, products) = rayon::join(
            || self.frozen.forward(x, rows),
            || self.slots.par_iter().map(|slot| slot.product(x)).collect::<Result<Vec<_>>>(),
        );
        let (mut y, products) = (y?, products?);
        for (slot, product) in self.slots.iter().zip(products) {
            slot.add(&self.frozen, &product, &mut y[slot.rows.start * out_features..slot.rows.end * out_features])?;
        }
        Ok((CpuStorage::F32(y), shape))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        if !self.slots.is_empty() {
            bail!("linear: adapters that are trained go through `lora`");
        }
        let dy = dy.contiguous()?;
        let view = view(&dy);
        let dx = self.frozen.backward(view.slice()?, x.elem_count() / self.frozen.weight.cols);
        Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
    }
}

/// Dropping of the adapter's inputs: each is 0 with probability `p`, else divided by 1 − p. The choice depends on `seed` and the
/// element's index alone, so that the backward makes it again and a resumed training makes the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Dropout {
    pub(crate) p: f64,
    pub(crate) seed: u64,
}

impl Dropout {
    fn apply(&self, values: &mut [f32]) {
        let keep = 1.0 / (1.0 - self.p as f32);
        let threshold = (self.p * (u64::MAX as f64)) as u64;
        for_each_row(values, 64, |i, row| {
            for (j, value) in row.iter_mut().enumerate() {
                let index = (i * 64 + j) as u64;
                *value = if mix(self.seed ^ mix(index)) < threshold { 0.0 } else { *value * keep };
            }
        });
    }
}

struct Lora {
    frozen: Frozen,
    scale: f32,
    dropout: Option<Dropout>,
    /// x Aᵀ, which the forward leaves for the backward.
    low: Mutex<Vec<f32>>,
}

/// y = x Wᵀ + b + s · (dropout(x) Aᵀ) Bᵀ with gradients for x, A (r, in) and B (out, r), on all rows.
pub(crate) fn lora(
    tape: Option<&Tape>,
    x: &Tensor,
    frozen: &Frozen,
    [a, b]: [&Tensor; 2],
    scale: f64,
    dropout: Option<Dropout>,
) -> Result<Tensor> {
    let op = Lora { frozen: frozen.clone(), scale: scale as f32, dropout, low: Mutex::default() };
    apply3(tape, [x, a, b], op)
}

impl Lora {
    fn dropped<'x>(&self, x: &'x [f32]) -> std::borrow::Cow<'x, [f32]> {
        match &self.dropout {
            Some(dropout) => {
                let mut x = x.to_vec();
                dropout.apply(&mut x);
                x.into()
            }
            None => x.into(),
        }
    }
}

impl CustomOp3 for Lora {
    fn name(&self) -> &'static str {
        "lora"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, shape) = self.frozen.check(l1)?;
        let (in_features, out_features) = (self.frozen.weight.cols, self.frozen.weight.rows);
        let rank = l2.dims()[0];
        if l2.dims() != [rank, in_features] || l3.dims() != [out_features, rank] {
            let name = &self.frozen.weight.name;
            bail!(
                "`{name}`: got A {:?} and B {:?}, expected [r, {in_features}] and [{out_features}, r]",
                l2.dims(),
                l3.dims()
            );
        }
        let (x, a, b) = (slice(s1, l1)?, slice(s2, l2)?, slice(s3, l3)?);
        let mut y = self.frozen.forward(x, rows)?;
        let dropped = self.dropped(x);
        let mut h = vec![0f32; rows * rank];
        matmul(
            MatMut::new(&mut h, rows, rank),
            Write::Overwrite,
            1.0,
            Mat::new(&dropped, rows, in_features),
            Mat::new(a, rank, in_features).t(),
        );
        let b = Mat::new(b, out_features, rank);
        matmul(MatMut::new(&mut y, rows, out_features), Write::Add, self.scale, Mat::new(&h, rows, rank), b.t());
        if let Ok(mut low) = self.low.lock() {
            *low = h;
        }
        Ok((CpuStorage::F32(y), shape))
    }

    /// With g = dy B and h = x Aᵀ: dx = dy W + s g A, dA = s gᵀ x, dB = s dyᵀ h.
    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (in_features, out_features, rank) = (self.frozen.weight.cols, self.frozen.weight.rows, a.dim(0)?);
        let rows = x.elem_count() / in_features;
        let (x_view, a_view, b_view, dy_view) = (view(x), view(a), view(b), view(&dy));
        let (xs, a_values, dy_values) = (x_view.slice()?, a_view.slice()?, dy_view.slice()?);
        let mut dx = self.frozen.backward(dy_values, rows);

        let dropped = self.dropped(xs);
        let (x_mat, dy_mat) = (Mat::new(&dropped, rows, in_features), Mat::new(dy_values, rows, out_features));
        let (a_mat, b_mat) = (Mat::new(a_values, rank, in_features), Mat::new(b_view.slice()?, out_features, rank));
        let h = self.low.lock().map(|mut low| std::mem::take(&mut *low)).unwrap_or_default();
        if h.len() != rows * rank {
            bail!("`{}`: the backward of a forward that was not run, or that had one already", self.frozen.weight.name);
        }
        let mut g = vec![0f32; rows * rank];
        matmul(MatMut::new(&mut g, rows, rank), Write::Overwrite, 1.0, dy_mat, b_mat);
        let (h, g) = (Mat::new(&h, rows, rank), Mat::new(&g, rows, rank));
        let (mut da, mut db) = (vec![0f32; rank * in_features], vec![0f32; out_features * rank]);
        matmul(MatMut::new(&mut da, rank, in_features), Write::Overwrite, self.scale, g.t(), x_mat);
        matmul(MatMut::new(&mut db, out_features, rank), Write::Overwrite, self.scale, dy_mat.t(), h);
        match &self.dropout {
            Some(dropout) => {
                let mut through = vec![0f32; rows * in_features];
                matmul(MatMut::new(&mut through, rows, in_features), Write::Overwrite, self.scale, g, a_mat);
                dropout.apply(&mut through);
                for_each_row(&mut dx, in_features, |i, row| {
                    row.iter_mut().zip(&through[i * in_features..]).for_each(|(dx, t)| *dx += t);
                });
            }
            None => matmul(MatMut::new(&mut dx, rows, in_features), Write::Add, self.scale, g, a_mat),
        }
        let tensor = |data, like: &Tensor| Tensor::from_vec(data, like.shape(), like.device());
        Ok((Some(tensor(dx, x)?), Some(tensor(da, a)?), Some(tensor(db, b)?)))
    }
}
