//! Every operation against its reference implementation, values and gradients, and its gradients against finite differences.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor, Var};

use super::activation::{activate, gated};
use super::attention::{Heads, Sequence, alibi_slopes, attention};
use super::columns::{Piece, columns};
use super::cross_entropy::head_cross_entropy;
use super::experts::{Share, combine, route};
use super::layer_norm::layer_norm;
use super::lora::{Dropout, Frozen, linear, lora};
use super::matrix::Matrix;
use super::reference;
use super::rms_norm::rms_norm;
use super::rope::{RopeTable, rope};
use super::tape::Tape;
use crate::model::architecture::{Activation, Groups, Router, Score};
use crate::random::mix;

fn values(seed: u64, len: usize) -> Vec<f32> {
    let unit = |i: usize| (mix(seed ^ mix(i as u64)) >> 40) as f32 / (1u64 << 24) as f32;
    (0..len).map(|i| 2.0 * unit(i) - 1.0).collect()
}

fn var(seed: u64, shape: &[usize]) -> Var {
    let tensor = Tensor::from_vec(values(seed, shape.iter().product()), shape, &Device::Cpu).expect("a tensor");
    Var::from_tensor(&tensor).expect("a variable")
}

/// A scalar that weighs every element differently.
fn weighed(y: &Tensor) -> Result<Tensor> {
    let weights = Tensor::from_vec(values(99, y.elem_count()), y.shape(), y.device())?;
    (y * weights)?.sum_all()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("f32 values")
}

fn assert_close(what: &str, got: &Tensor, want: &Tensor) {
    let (got, want) = (flat(got), flat(want));
    let scale = want.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
    for (i, (g, w)) in got.iter().zip(&want).enumerate() {
        assert!((g - w).abs() <= 2e-5 * scale, "{what} [{i}]: {g}, expected {w}");
    }
}

/// Fused and slow have equal values and equal gradients for all inputs, and the gradients are those of finite differences.
fn agree(
    inputs: &[Var],
    fused: impl Fn(Option<&Tape>, &[Tensor]) -> Result<Tensor>,
    slow: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let tensors: Vec<Tensor> = inputs.iter().map(|v| v.as_tensor().clone()).collect();
    let (y, gradients) = with_gradients(&tensors, &fused);
    let want = slow(&tensors).expect("slow");
    assert_close("values", &y, &want);
    let expected = weighed(&want).and_then(|l| l.backward()).expect("a backward");
    for (i, input) in inputs.iter().enumerate() {
        assert_close(&format!("gradient of input {i}"), &gradients[i], expected.get(input).expect("a gradient"));
        finite_difference(&tensors, i, &gradients[i], |x| fused(None, x));
    }
}

/// A result, and the gradients of its weighed sum by the tape.
fn with_gradients(inputs: &[Tensor], f: impl Fn(Option<&Tape>, &[Tensor]) -> Result<Tensor>) -> (Tensor, Vec<Tensor>) {
    let tape = Tape::default();
    inputs.iter().for_each(|input| tape.watch(input));
    let y = f(Some(&tape), inputs).expect("a forward");
    let dy = Tensor::from_vec(values(99, y.elem_count()), y.shape(), y.device()).expect("weights");
    let mut found = tape.backward(&y, dy).expect("a backward");
    let gradients = inputs.iter().map(|input| found.remove(&input.id()).expect("a gradient")).collect();
    (y, gradients)
}

fn finite_difference(inputs: &[Tensor], which: usize, gradient: &Tensor, f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let shape = inputs[which].shape().clone();
    let direction = Tensor::from_vec(values(7, shape.elem_count()), &shape, &Device::Cpu).expect("a direction");
    let step = 1e-2;
    let at = |sign: f64| {
        let mut moved: Vec<Tensor> = inputs.iter().map(Tensor::detach).collect();
        moved[which] = (&moved[which] + (&direction * (sign * step)).expect("a step")).expect("a point");
        let y = f(&moved).and_then(|y| weighed(&y)).and_then(|l| l.to_scalar::<f32>());
        f64::from(y.expect("a value"))
    };
    let slope = (at(1.0) - at(-1.0)) / (2.0 * step);
    let along = (gradient * &direction).and_then(|p| p.sum_all()).and_then(|s| s.to_scalar::<f32>()).expect("a number");
    let scale = slope.abs().max(1.0);
    assert!((slope - f64::from(along)).abs() < 1e-2 * scale, "input {which}: slope {slope}, gradient says {along}");
}

#[test]
fn rms_norm_agrees() {
    let weight = var(2, &[24]).as_tensor().detach();
    agree(
        &[var(1, &[37, 24])],
        |t, x| rms_norm(t, &x[0], &weight, 1e-5),
        |x| reference::rms_norm(&x[0], &weight, 1e-5),
    );
}

#[test]
fn layer_norm_agrees() {
    let (weight, bias) = (var(2, &[24]).as_tensor().detach(), var(3, &[24]).as_tensor().detach());
    agree(
        &[var(1, &[37, 24])],
        |t, x| layer_norm(t, &x[0], &weight, Some(&bias), 1e-5),
        |x| reference::layer_norm(&x[0], &weight, &bias, 1e-5),
    );
}

#[test]
fn every_activation_agrees_alone_and_gated() {
    for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
        agree(&[var(1, &[19, 40])], |t, x| activate(t, activation, &x[0]), |x| reference::activate(activation, &x[0]));
        agree(
            &[var(1, &[19, 40]), var(2, &[19, 40])],
            |t, x| gated(t, activation, &x[0], &x[1]),
            |x| reference::activate(activation, &x[0])? * &x[1],
        );
    }
}

#[test]
fn rope_agrees_also_interleaved_and_when_a_part_of_the_head_is_not_turned() {
    for (width, interleaved) in [(8, false), (12, false), (8, true)] {
        let table = Arc::new(RopeTable::new(&[1.0, 0.3, 0.1, 0.01], 40, 1.25, interleaved));
        let positions = Arc::new(vec![0, 1, 2, 30, 31, 5]);
        agree(
            &[var(1, &[6, 3, width])],
            |t, x| rope(t, &x[0], &table, &positions),
            |x| reference::rope(&x[0], &table, &positions),
        );
    }
}

/// A column that is taken twice gets both gradients.
#[test]
fn columns_of_two_tensors_agree_with_narrow_and_cat() {
    let pieces = [(1, 2, 3), (0, 0, 2), (1, 1, 3), (0, 4, 1)];
    agree(
        &[var(1, &[9, 5]), var(2, &[9, 6])],
        |t, x| {
            let pieces = pieces.map(|(source, start, len)| Piece::of(source, start, len));
            columns(t, &[&x[0], &x[1]], pieces.into())
        },
        |x| {
            let parts = pieces.map(|(source, start, len)| x[source].narrow(1, start, len));
            Tensor::cat(&parts.into_iter().collect::<Result<Vec<_>>>()?, 1)
        },
    );
    let x = var(1, &[9, 5]);
    assert!(columns(None, &[x.as_tensor()], vec![Piece::of(0, 3, 3)]).is_err());
}

/// Scores by softmax and by sigmoid, with and without division by their sum; the twin takes the same experts.
#[test]
fn routing_agrees_with_gather() {
    for (score, normalize) in
        [(Score::Softmax, true), (Score::Softmax, false), (Score::Sigmoid, true), (Score::Sigmoid, false)]
    {
        let rule = Router { score, correction: false, groups: None, normalize, scale: 2.5 };
        // Far enough apart that a small step does not change the choice.
        let apart: Vec<f32> = (0..23 * 6).map(|i| (i / 6 * 7 + i % 6 * 5) as f32 % 11.0 * 0.3).collect();
        let logits = Tensor::from_vec(apart, (23, 6), &Device::Cpu).and_then(|t| Var::from_tensor(&t)).expect("logits");
        let chosen = route(None, logits.as_tensor(), None, &rule, 2).expect("routes").chosen;
        let index: Vec<u32> = chosen.iter().map(|e| *e as u32).collect();
        let index = Tensor::from_vec(index, (23, 2), &Device::Cpu).expect("an index");
        agree(
            &[logits],
            |t, x| Ok(route(t, &x[0], None, &rule, 2)?.weights),
            |x| {
                let scores = match score {
                    Score::Softmax => reference::softmax(&x[0])?,
                    Score::Sigmoid => ((x[0].neg()?.exp()? + 1.0)?).recip()?,
                };
                let taken = scores.gather(&index, 1)?;
                let weights = if normalize { taken.broadcast_div(&taken.sum_keepdim(1)?)? } else { taken };
                weights * 2.5
            },
        );
    }
}

#[test]
fn the_choice_minds_groups_and_correction_and_the_weights_do_not() {
    let logits = Tensor::new(&[[2.0f32, -9.0, 1.0, 1.0, 0.5, 0.0]], &Device::Cpu).expect("logits");
    let mut rule = Router { score: Score::Sigmoid, correction: true, groups: None, normalize: false, scale: 1.0 };
    let chosen = |rule: &Router, correction: Option<&[f32]>| {
        route(None, &logits, correction, rule, 2).map(|routes| (routes.chosen, flat(&routes.weights))).expect("routes")
    };
    assert_eq!(chosen(&rule, None).0, [0, 2]);
    // The pair (1, 1) is better together than (2, -9) and (0.5, 0).
    rule.groups = Some(Groups { count: 3, keep: 1, best: 2 });
    assert_eq!(chosen(&rule, None).0, [2, 3]);
    rule.groups = Some(Groups { count: 3, keep: 1, best: 1 });
    assert_eq!(chosen(&rule, None).0, [0, 1]);
    rule.groups = None;
    let (experts, weights) = chosen(&rule, Some(&[0.0, 0.0, 0.0, 0.0, 0.0, 9.0]));
    assert_eq!(experts, [5, 0]);
    assert!((weights[0] - 0.5).abs() < 1e-6, "{weights:?}");
    let nan = Tensor::new(&[[f32::NAN, 0.0]], &Device::Cpu).expect("logits");
    assert!(route(None, &nan, None, &rule, 1).is_err());
}

#[test]
fn the_sum_over_experts_agrees_with_dense_products() {
    // Token 0 goes to experts a and b, token 1 to b and a, token 2 to a and b.
    let (rows, a, b) = ([0u32, 1, 2], [0usize, 1, 0], [1usize, 0, 1]);
    agree(
        &[var(1, &[3, 2]), var(2, &[3, 5]), var(3, &[3, 5])],
        |t, x| {
            let share = |values: &Tensor, places: [usize; 3]| Share {
                rows: rows.into(),
                places: places.into(),
                values: values.clone(),
            };
            combine(t, &x[0], vec![share(&x[1], a), share(&x[2], b)], 5)
        },
        |x| {
            let column = |places: [usize; 3]| {
                let index = Tensor::from_vec(places.map(|p| p as u32).to_vec(), (3, 1), &Device::Cpu)?;
                x[0].gather(&index, 1)
            };
            x[1].broadcast_mul(&column(a)?)? + x[2].broadcast_mul(&column(b)?)?
        },
    );
}

/// The slopes of BLOOM's and MPT's code for 4 and for 6 heads.
#[test]
fn alibi_slopes_are_its_authors() {
    assert_eq!(alibi_slopes(4, 8.0), [0.25, 0.0625, 0.015_625, 0.003_906_25]);
    assert_eq!(alibi_slopes(6, 8.0), [0.25, 0.0625, 0.015_625, 0.003_906_25, 0.5, 0.125]);
}

/// Positions are computed in chunks, when they are asked for: the first, the last of a chunk, and whatever a model promises.
#[test]
fn a_rope_table_has_the_angles_of_every_position_and_no_memory_for_those_that_nobody_asks_for() {
    let frequencies = [1.0, 0.037];
    let table = RopeTable::new(&frequencies, 1 << 28, 1.5, false);
    for position in [0, 1, 255, 256, 1000, (1 << 24) - 1] {
        let (cos, sin) = table.at(position);
        for (i, f) in frequencies.iter().enumerate() {
            let angle = f64::from(position as f32 * *f as f32);
            assert!((f64::from(cos[i]) - 1.5 * angle.cos()).abs() < 1e-6, "{position}");
            assert!((f64::from(sin[i]) - 1.5 * angle.sin()).abs() < 1e-6, "{position}");
        }
    }
}

#[test]
fn a_position_past_the_table_is_refused() {
    let table = Arc::new(RopeTable::new(&[1.0], 4, 1.0, false));
    let error = rope(None, var(1, &[1, 1, 2]).as_tensor(), &table, &Arc::new(vec![4])).expect_err("past the table");
    assert!(error.to_string().contains("position 4 is past the 4 positions"));
}

/// Sequences of unequal lengths, one longer than a block of queries, two that share a prefix; values wider than keys.
#[test]
fn attention_agrees_for_ragged_batches_and_shared_prefixes() {
    let sequences = Arc::new(vec![
        Sequence::alone(0..5),
        Sequence { rows: 5..8, prefix: 0..5 },
        Sequence { rows: 8..9, prefix: 0..5 },
        Sequence::alone(9..9 + 140),
    ]);
    let plain = Heads { heads: 4, kv_heads: 2, dim: 8, value_dim: 6, scale: 0.3, window: None, slopes: None };
    let windowed = Heads { window: Some(3), ..plain.clone() };
    let alibi = Heads { slopes: Some(Arc::new(alibi_slopes(4, 8.0))), ..plain.clone() };
    for heads in [plain, windowed, alibi] {
        agree(
            &[var(1, &[149, 4, 8]), var(2, &[149, 2, 8]), var(3, &[149, 2, 6])],
            |t, x| attention(t, &x[0], &x[1], &x[2], heads.clone(), &sequences),
            |x| reference::attention(&x[0], &x[1], &x[2], &heads, &sequences),
        );
    }
}

fn frozen(rows: usize, cols: usize) -> (Frozen, Tensor, Tensor) {
    let weight = values(11, rows * cols);
    let bias = Tensor::from_vec(values(12, rows), rows, &Device::Cpu).expect("a bias");
    let tensor = Tensor::from_vec(weight.clone(), (rows, cols), &Device::Cpu).expect("a weight");
    (Frozen { weight: Matrix::from_values("w", weight, rows, cols), bias: Some(bias.clone()) }, tensor, bias)
}

#[test]
fn lora_agrees_with_its_formula() {
    let (frozen, weight, bias) = frozen(10, 14);
    agree(
        &[var(1, &[23, 14]), var(2, &[3, 14]), var(3, &[10, 3])],
        |t, x| lora(t, &x[0], &frozen, [&x[1], &x[2]], 0.7, None),
        |x| reference::lora(&x[0], &weight, Some(&bias), [&x[1], &x[2]], 0.7),
    );
}

#[test]
fn a_linear_layer_without_an_adapter_passes_the_gradient_on() {
    let (frozen, weight, bias) = frozen(10, 14);
    agree(
        &[var(1, &[23, 14])],
        |t, x| linear(t, &x[0], &frozen, Vec::new()),
        |x| x[0].matmul(&weight.t()?)?.broadcast_add(&bias),
    );
}

#[test]
fn dropout_drops_its_share_keeps_the_mean_and_has_a_gradient() {
    let (frozen, _, _) = frozen(4, 200);
    let dropout = Some(Dropout { p: 0.25, seed: 5 });
    let (x, a, b) = (var(1, &[50, 200]), var(2, &[1, 200]), var(3, &[4, 1]));
    let ones = Tensor::ones((50, 200), candle_core::DType::F32, &Device::Cpu).expect("ones");
    let sum = Tensor::ones((1, 200), candle_core::DType::F32, &Device::Cpu).expect("ones");
    let up = Tensor::ones((4, 1), candle_core::DType::F32, &Device::Cpu).expect("ones");
    let zero = Frozen { weight: Matrix::from_values("w", vec![0.0; 800], 4, 200), bias: None };
    let kept = lora(None, &ones, &zero, [&sum, &up], 1.0, dropout).and_then(|y| y.mean_all()).expect("a mean");
    let share = kept.to_scalar::<f32>().expect("a number") / 200.0;
    assert!((share - 1.0).abs() < 0.02, "{share}");
    let inputs = [x, a, b];
    let tensors: Vec<Tensor> = inputs.iter().map(|v| v.as_tensor().clone()).collect();
    let f = |t: Option<&Tape>, x: &[Tensor]| lora(t, &x[0], &frozen, [&x[1], &x[2]], 0.5, dropout);
    let (_, gradients) = with_gradients(&tensors, f);
    for (i, gradient) in gradients.iter().enumerate() {
        finite_difference(&tensors, i, gradient, |x| f(None, x));
    }
}

#[test]
fn head_cross_entropy_agrees_with_softmax_and_logarithm() {
    let (vocab, width, rows) = (50, 12, 150);
    let head = values(11, vocab * width);
    let tensor = Tensor::from_vec(head.clone(), (vocab, width), &Device::Cpu).expect("a head");
    let head = Matrix::from_values("head", head, vocab, width);
    let targets: Vec<u32> = (0..rows).map(|i| (i * 7 % vocab) as u32).collect();
    agree(
        &[var(1, &[rows, width])],
        |t, x| head_cross_entropy(t, &x[0], &head, targets.clone(), 3.0),
        |x| reference::head_cross_entropy(&x[0], &tensor, &targets, 3.0),
    );
}

#[test]
fn a_target_outside_the_vocabulary_is_refused() {
    let head = Matrix::from_values("head", vec![0.0; 8], 4, 2);
    let error = head_cross_entropy(None, var(1, &[1, 2]).as_tensor(), &head, vec![4], 1.0).expect_err("outside");
    assert!(error.to_string().contains("outside the vocabulary of 4"));
}
