//! Mixtures of experts: which experts a token goes to, with which weights (Shazeer et al. 2017, arXiv 1701.06538), and the
//! weighed sum of what they make of it.

use std::cmp::Ordering;

use candle_core::{Device, Result, Tensor, bail};

use super::exp::{exp_in_place, max};
use super::tape::Tape;
use super::{dot, for_each_row, view};
use crate::model::architecture::{Router, Score};

/// DeepSeek's guard against a sum of zero.
const LEAST_SUM: f32 = 1e-20;

/// Each token's experts and their weights.
pub(crate) struct Routes {
    /// (tokens, per_token), row-major.
    pub(crate) chosen: Vec<usize>,
    /// (tokens, per_token)
    pub(crate) weights: Tensor,
}

impl Routes {
    /// The tokens that go to an expert, ascending, and in which of their places it stands.
    pub(crate) fn tokens_of(&self, expert: usize, per_token: usize) -> (Vec<u32>, Vec<usize>) {
        let places = self.chosen.iter().enumerate().filter(|(_, chosen)| **chosen == expert);
        places.map(|(i, _)| ((i / per_token) as u32, i % per_token)).unzip()
    }
}

/// Chooses `per_token` experts for each row of `logits` (tokens, experts). `correction` (experts) is added for the choice
/// alone. The weights are differentiable in `logits`; the choice is not.
///
/// # Errors
/// Logits that are not numbers.
pub(crate) fn route(
    tape: Option<&Tape>,
    logits: &Tensor,
    correction: Option<&[f32]>,
    router: &Router,
    per_token: usize,
) -> Result<Routes> {
    let (tokens, experts) = logits.dims2()?;
    let scores = scores(logits, router.score)?;
    let (mut chosen, mut weights) = (Vec::with_capacity(tokens * per_token), Vec::with_capacity(tokens * per_token));
    for row in scores.chunks(experts) {
        if row.iter().any(|score| !score.is_finite()) {
            bail!("the router's scores are not finite: the weights hold NaN or infinite values");
        }
        let best = choose(row, correction, router, per_token);
        let sum = best.iter().map(|e| row[*e]).sum::<f32>() + LEAST_SUM;
        let divisor = if router.normalize { sum } else { 1.0 };
        weights.extend(best.iter().map(|e| row[*e] / divisor * router.scale as f32));
        chosen.extend(best);
    }
    let weights = Tensor::from_vec(weights, (tokens, per_token), &Device::Cpu)?;
    if let Some(tape) = tape {
        let (chosen, router) = (chosen.clone(), router.clone());
        let backward = move |dw: &Tensor| {
            let dw = dw.contiguous()?;
            let dw_view = view(&dw);
            let dws = dw_view.slice()?;
            let mut d = vec![0f32; tokens * experts];
            for_each_row(&mut d, experts, |token, d| {
                let at = token * per_token..(token + 1) * per_token;
                let (best, dw, s) = (&chosen[at.clone()], &dws[at], &scores[token * experts..][..experts]);
                score_gradient(&router, best, dw, s, d);
            });
            Ok(vec![Some(Tensor::from_vec(d, (tokens, experts), &Device::Cpu)?)])
        };
        tape.push(&[logits], &weights, Box::new(backward));
    }
    Ok(Routes { chosen, weights })
}

fn scores(logits: &Tensor, score: Score) -> Result<Vec<f32>> {
    let (_, experts) = logits.dims2()?;
    let logits = logits.contiguous()?;
    let view = view(&logits);
    let mut scores = view.slice()?.to_vec();
    for row in scores.chunks_mut(experts) {
        match score {
            Score::Sigmoid => row.iter_mut().for_each(|x| *x = 1.0 / (1.0 + (-*x).exp())),
            Score::Softmax => {
                let largest = max(row);
                let sum = exp_in_place(row, largest) as f32;
                row.iter_mut().for_each(|x| *x /= sum);
            }
        }
    }
    Ok(scores)
}

fn choose(scores: &[f32], correction: Option<&[f32]>, router: &Router, per_token: usize) -> Vec<usize> {
    let mut values = scores.to_vec();
    if let Some(correction) = correction {
        values.iter_mut().zip(correction).for_each(|(v, c)| *v += c);
    }
    if let Some(groups) = router.groups {
        let size = scores.len() / groups.count;
        let worth: Vec<f32> =
            values.chunks(size).map(|group| best(group, groups.best).iter().map(|i| group[*i]).sum()).collect();
        let kept = best(&worth, groups.keep);
        for (group, values) in values.chunks_mut(size).enumerate() {
            if !kept.contains(&group) {
                values.fill(f32::NEG_INFINITY);
            }
        }
    }
    best(&values, per_token)
}

/// Indices of the `n` largest; of equal ones the first.
fn best(values: &[f32], n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*b].partial_cmp(&values[*a]).unwrap_or(Ordering::Equal));
    order.truncate(n);
    order
}

/// Adds d logits of one token, from d weights.
fn score_gradient(router: &Router, best: &[usize], dw: &[f32], s: &[f32], d: &mut [f32]) {
    let scale = router.scale as f32;
    if router.normalize {
        let sum = best.iter().map(|e| s[*e]).sum::<f32>() + LEAST_SUM;
        let along: f32 = best.iter().zip(dw).map(|(e, dw)| dw * s[*e]).sum::<f32>() / (sum * sum);
        best.iter().zip(dw).for_each(|(e, dw)| d[*e] = scale * (dw / sum - along));
    } else {
        best.iter().zip(dw).for_each(|(e, dw)| d[*e] = scale * dw);
    }
    match router.score {
        Score::Sigmoid => d.iter_mut().zip(s).for_each(|(d, s)| *d *= s * (1.0 - s)),
        Score::Softmax => {
            let along = dot(d, s);
            d.iter_mut().zip(s).for_each(|(d, s)| *d = s * (*d - along));
        }
    }
}

/// What one expert made of its tokens.
pub(crate) struct Share {
    /// Its tokens, in the order of `values`' rows.
    pub(crate) rows: Vec<u32>,
    /// In which of each token's places it stands.
    pub(crate) places: Vec<usize>,
    /// (its tokens, width)
    pub(crate) values: Tensor,
}

/// Σ over a token's experts of weight · value: (tokens, width), differentiable in the values and the weights.
pub(crate) fn combine(tape: Option<&Tape>, weights: &Tensor, shares: Vec<Share>, width: usize) -> Result<Tensor> {
    let (tokens, per_token) = weights.dims2()?;
    let mut out = vec![0f32; tokens * width];
    {
        let w_view = view(weights);
        let w = w_view.slice()?;
        for share in &shares {
            let values = view(&share.values);
            for ((row, place), value) in share.rows.iter().zip(&share.places).zip(values.slice()?.chunks(width)) {
                let w = w[*row as usize * per_token + place];
                out[*row as usize * width..][..width].iter_mut().zip(value).for_each(|(o, v)| *o += w * v);
            }
        }
    }
    let y = Tensor::from_vec(out, (tokens, width), &Device::Cpu)?;
    if let Some(tape) = tape {
        let weights = weights.clone();
        let inputs: Vec<Tensor> = std::iter::once(&weights).chain(shares.iter().map(|s| &s.values)).cloned().collect();
        let backward = move |dy: &Tensor| {
            let dy = dy.contiguous()?;
            let (dy_view, w_view) = (view(&dy), view(&weights));
            let (dys, w) = (dy_view.slice()?, w_view.slice()?);
            let mut dw = vec![0f32; tokens * per_token];
            let mut gradients = vec![None];
            for share in &shares {
                let values = view(&share.values);
                let mut dv = vec![0f32; share.rows.len() * width];
                let rows = share.rows.iter().zip(&share.places).zip(values.slice()?.chunks(width));
                for (((row, place), value), dv) in rows.zip(dv.chunks_mut(width)) {
                    let (at, dy) = (*row as usize * per_token + place, &dys[*row as usize * width..][..width]);
                    dw[at] += dot(dy, value);
                    dv.iter_mut().zip(dy).for_each(|(dv, dy)| *dv = w[at] * dy);
                }
                gradients.push(Some(Tensor::from_vec(dv, share.values.shape(), &Device::Cpu)?));
            }
            gradients[0] = Some(Tensor::from_vec(dw, (tokens, per_token), &Device::Cpu)?);
            Ok(gradients)
        };
        tape.push(&inputs.iter().collect::<Vec<_>>(), &y, Box::new(backward));
    }
    Ok(y)
}
