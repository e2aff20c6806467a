//! What is done to each node of llama.cpp's graph while it is computed.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;
use rayon::prelude::*;
use sys::{ggml_op, ggml_tensor};

use super::tensor::{by_values, is_dense, is_frozen, matrix, name, source, values, values_mut, widen};
use crate::backend::llama_cpp::protocol::Window;
use crate::error::panic_message;
use crate::model::ops::gemm::{Mat, MatMut, Write, matmul};

/// The head: a tensor of its own, or the embedding.
const HEADS: [&str; 2] = ["output.weight", "token_embd.weight"];

/// What the callback is to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing.
    Off,
    /// Finds the adapter's tensors.
    Discover,
    /// Loss and gradients.
    Train,
    /// The loss alone.
    Evaluate,
}

/// What the callback works on.
pub(super) struct Hook {
    pub(super) phase: Phase,
    pub(super) parameters: BTreeMap<String, NonNull<ggml_tensor>>,
    pub(super) gradients: BTreeMap<String, Vec<f32>>,
    pub(super) window: Window,
    pub(super) loss: f64,
    pub(super) positions_set: bool,
    /// Masks that this window was written into: layers with a sliding window have one of their own.
    pub(super) masks: Vec<NonNull<ggml_tensor>>,
    pub(super) loss_seen: bool,
    /// Gradients that this window gave.
    pub(super) taken: usize,
    /// The operation of the node that is computed here in ggml's place.
    replaced: Option<ggml_op>,
    /// Widened weights.
    weights: Vec<f32>,
    pub(super) error: Option<String>,
}

/// The hook in memory of its own, whose address is llama.cpp's `user_data`: a pointer and no box, which would claim to be the only
/// way there.
pub(super) struct Hooked(NonNull<Hook>);

impl Hooked {
    pub(super) fn new() -> Self {
        Self(NonNull::from(Box::leak(Box::new(Hook::new()))))
    }

    pub(super) fn user_data(&self) -> *mut c_void {
        self.0.as_ptr().cast()
    }
}

impl Deref for Hooked {
    type Target = Hook;

    #[expect(unsafe_code, reason = "shared with a callback")]
    fn deref(&self) -> &Hook {
        // SAFETY: it is made in `new` and freed in `drop`. The callback borrows it only while a call of llama.cpp runs, and no borrow
        // of this side's lasts over such a call.
        unsafe { self.0.as_ref() }
    }
}

impl DerefMut for Hooked {
    #[expect(unsafe_code, reason = "shared with a callback")]
    fn deref_mut(&mut self) -> &mut Hook {
        // SAFETY: as in `deref`.
        unsafe { self.0.as_mut() }
    }
}

impl Drop for Hooked {
    #[expect(unsafe_code, reason = "shared with a callback")]
    fn drop(&mut self) {
        // SAFETY: it came out of a box in `new`; the context that has its address is freed before, or was never made.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// Called before a node is computed (`ask`), and after those that it said yes to.
#[expect(unsafe_code, reason = "called by llama.cpp")]
pub(super) unsafe extern "C" fn on_node(tensor: *mut ggml_tensor, ask: bool, user_data: *mut c_void) -> bool {
    // SAFETY: llama.cpp calls with a node of its graph, from the thread that called into it, and with the hook's address, which
    // nobody else borrows meanwhile.
    let (hook, node) = unsafe { (&mut *user_data.cast::<Hook>(), &mut *tensor) };
    // A panic must not pass through llama.cpp's frames, and an abort would not say what is wrong.
    let done = catch_unwind(AssertUnwindSafe(|| hook.on_node(node, ask)));
    done.unwrap_or_else(|panic| {
        hook.fail(panic_message(panic.as_ref()).unwrap_or("a panic"));
        true
    })
}

impl Hook {
    fn on_node(&mut self, node: &mut ggml_tensor, ask: bool) -> bool {
        match self.phase {
            Phase::Off => false,
            Phase::Discover => {
                if ask {
                    self.find(node);
                }
                false
            }
            Phase::Train | Phase::Evaluate if ask => {
                self.set_inputs(node);
                self.replace(node) || self.wants(node.op)
            }
            Phase::Train | Phase::Evaluate => {
                if let Some(op) = self.replaced.take() {
                    node.op = op;
                    self.multiply(node);
                }
                self.read(node);
                // After an error the rest of the graph is still computed: it is stopped by no one, and its result is dropped.
                true
            }
        }
    }

    fn new() -> Self {
        Self {
            phase: Phase::Off,
            parameters: BTreeMap::new(),
            gradients: BTreeMap::new(),
            window: Window::default(),
            loss: 0.0,
            positions_set: false,
            masks: Vec::new(),
            loss_seen: false,
            taken: 0,
            replaced: None,
            weights: Vec::new(),
            error: None,
        }
    }

    fn fail(&mut self, what: impl std::fmt::Display) {
        self.error.get_or_insert_with(|| what.to_string());
    }

    fn find(&mut self, node: &ggml_tensor) {
        if node.op != sys::GGML_OP_MUL_MAT {
            return;
        }
        let Some(tensor) = source(node, 0) else { return };
        let name = name(tensor);
        if (name.ends_with(".lora_a") || name.ends_with(".lora_b")) && tensor.type_ == sys::GGML_TYPE_F32 {
            // As ggml has it, and not by way of `tensor`, through which nothing could be written.
            self.parameters.extend(NonNull::new(node.src[0]).map(|tensor| (name, tensor)));
        }
    }

    /// Overwrites positions and mask before the first node that reads them.
    #[expect(unsafe_code, reason = "on the CPU a tensor's data is plain memory")]
    fn set_inputs(&mut self, node: &ggml_tensor) {
        if node.op == sys::GGML_OP_ROPE
            && !self.positions_set
            && let Some(input) = source(node, 1)
        {
            let n = self.window.positions.len();
            if input.type_ != sys::GGML_TYPE_I32 || input.ne[0] as usize != n || input.data.is_null() {
                return self.fail(format!("positions of type {} and length {}", input.type_, input.ne[0]));
            }
            // SAFETY: it holds `n` i32 values, as was just checked, and is computed by no node.
            unsafe { std::slice::from_raw_parts_mut(input.data.cast::<i32>(), n) }
                .copy_from_slice(&self.window.positions);
            self.positions_set = true;
        }
        if node.op == sys::GGML_OP_SOFT_MAX
            && let (Some(input), Some(place)) = (source(node, 1), NonNull::new(node.src[1]))
            && !self.masks.contains(&place)
        {
            let n = self.window.segments.len();
            let fits = input.ne[0] as usize == n && input.ne[1] as usize >= n;
            // SAFETY: the mask is an input, which ggml computes nothing with during the callback, and no other slice of it lives.
            let Some(mask) = (unsafe { values_mut(input) }).filter(|_| fits) else {
                return self.fail(format!("a mask of type {} and shape {:?}", input.type_, input.ne));
            };
            for (i, row) in mask.chunks_mut(n).take(n).enumerate() {
                for (j, value) in row.iter_mut().enumerate() {
                    let seen = j <= i && self.window.segments[i] == self.window.segments[j];
                    *value = if seen { 0.0 } else { f32::NEG_INFINITY };
                }
            }
            self.masks.push(place);
        }
    }

    /// Does the callback read this operation's result?
    fn wants(&self, op: ggml_op) -> bool {
        match self.phase {
            Phase::Train => op == sys::GGML_OP_CROSS_ENTROPY_LOSS_BACK || op == sys::GGML_OP_OPT_STEP_SGD,
            Phase::Evaluate => op == sys::GGML_OP_CROSS_ENTROPY_LOSS,
            Phase::Off | Phase::Discover => false,
        }
    }

    fn read(&mut self, node: &ggml_tensor) {
        match node.op {
            op if op == sys::GGML_OP_CROSS_ENTROPY_LOSS && self.phase == Phase::Evaluate => {
                self.add_loss(source(node, 0), None);
            }
            op if op == sys::GGML_OP_CROSS_ENTROPY_LOSS_BACK => self.add_loss(source(node, 1), Some(node)),
            op if op == sys::GGML_OP_OPT_STEP_SGD => self.take_gradient(node),
            _ => {}
        }
    }

    /// Adds the weighed loss of a window's logits, and weighs their gradient, which ggml divided by the number of rows.
    #[expect(unsafe_code, reason = "a tensor's values are plain memory")]
    fn add_loss(&mut self, logits: Option<&ggml_tensor>, gradient: Option<&ggml_tensor>) {
        let rows = self.window.weights.len();
        // SAFETY: the node was computed, and ggml goes on after the callback. The slice is last read before the gradient's is made.
        let Some((logits, width)) = logits.and_then(|t| Some((unsafe { values(t) }?, t.ne[0] as usize))) else {
            return self.fail("the loss has no logits");
        };
        if logits.len() != rows * width {
            return self.fail(format!("{} logits for {rows} tokens of {width}", logits.len()));
        }
        let (window, nll) = (&self.window, |row: &[f32], label: usize| {
            let most = row.iter().copied().fold(f32::MIN, f32::max);
            let sum: f64 = row.iter().map(|l| f64::from((l - most).exp())).sum();
            f64::from(most - row[label]) + sum.ln()
        });
        let labelled = (0..rows).into_par_iter().filter(|i| window.weights[*i] != 0.0);
        let loss: f64 = labelled
            .map(|i| f64::from(window.weights[i]) * nll(&logits[i * width..(i + 1) * width], window.labels[i] as usize))
            .collect::<Vec<f64>>()
            .iter()
            .sum();
        self.loss += loss;
        self.loss_seen = true;
        let Some(gradient) = gradient else { return };
        // SAFETY: as above; the gradient is the only slice from here on, even where ggml put it in the logits' memory.
        match (unsafe { values_mut(gradient) }).filter(|all| all.len() == rows * width) {
            Some(all) => all.par_chunks_mut(width).zip(&self.window.weights).for_each(|(row, weight)| match weight {
                0.0 => row.fill(0.0),
                weight => row.iter_mut().for_each(|g| *g *= weight * rows as f32),
            }),
            None => self.fail("the gradient of the logits is not dense"),
        }
    }

    /// Adds a parameter's gradient and clears ggml's own sum.
    #[expect(unsafe_code, reason = "a tensor's values are plain memory")]
    fn take_gradient(&mut self, node: &ggml_tensor) {
        let (Some(parameter), Some(gradient)) = (source(node, 0), source(node, 1)) else {
            return self.fail("a step without a gradient");
        };
        // SAFETY: the step is one that does nothing, and no other slice of the gradient lives during the callback.
        let (name, Some(own)) = (name(parameter), unsafe { values_mut(gradient) }) else {
            return self.fail("a gradient that is not dense");
        };
        let sum = self.gradients.entry(name).or_insert_with(|| vec![0.0; own.len()]);
        sum.iter_mut().zip(own.iter()).for_each(|(sum, g)| *sum += g);
        own.fill(0.0);
        self.taken += 1;
    }

    /// Takes a product out of ggml's hands, where it is of a form that [`Self::multiply`] knows.
    fn replace(&mut self, node: &mut ggml_tensor) -> bool {
        let op = node.op;
        if op != sys::GGML_OP_MUL_MAT && op != sys::GGML_OP_OUT_PROD {
            return false;
        }
        let (Some(left), Some(right)) = (source(node, 0), source(node, 1)) else { return false };
        let dense = |t: &ggml_tensor| t.nb[0] == size_of::<f32>() || t.nb[1] == size_of::<f32>();
        let simple = node.type_ == sys::GGML_TYPE_F32 && right.type_ == sys::GGML_TYPE_F32 && dense(right);
        let known = is_frozen(left) || (left.type_ == sys::GGML_TYPE_F32 && dense(left));
        if !(simple && known && is_dense(node)) {
            return false;
        }
        self.replaced = Some(op);
        node.op = sys::GGML_OP_NONE;
        true
    }

    fn multiply(&mut self, node: &ggml_tensor) {
        let (Some(left), Some(right)) = (source(node, 0), source(node, 1)) else { return };
        let done = if is_frozen(left) {
            let mut weights = std::mem::take(&mut self.weights);
            let done = self.by_weights(node, left, right, &mut weights);
            self.weights = weights;
            done
        } else {
            by_values(node, left, right)
        };
        if done.is_none() {
            self.fail(format!("a product of {:?} and {:?} into {:?}", left.ne, right.ne, node.ne));
        }
    }

    /// x Wᵀ forwards (`MUL_MAT`), and g W backwards (`OUT_PROD`), of a frozen W in whatever quantisation.
    #[expect(unsafe_code, reason = "a tensor's values are plain memory")]
    fn by_weights(&self, node: &ggml_tensor, w: &ggml_tensor, x: &ggml_tensor, scratch: &mut Vec<f32>) -> Option<()> {
        let (in_features, out_features) = (w.ne[0] as usize, w.ne[1] as usize);
        if x.ne[2] != 1 || x.ne[3] != 1 {
            return None;
        }
        let wide = match w.type_ {
            // SAFETY: nothing writes the base's weights.
            sys::GGML_TYPE_F32 => unsafe { values(w) }?,
            _ => {
                widen(w, scratch)?;
                scratch.as_slice()
            }
        };
        let forwards = node.op == sys::GGML_OP_MUL_MAT;
        let weights = Mat::new(wide, out_features, in_features);
        let weights = if forwards { weights.t() } else { weights };
        // SAFETY: ggml computes nothing during the callback, and below only the result is written, which shares no memory with x.
        let x_all = unsafe { values(x) }?;
        let left = matrix(x, x_all, [0, 0])?;
        let left = if forwards { left } else { left.t() };
        let (rows, columns) = (node.ne[1] as usize, node.ne[0] as usize);
        // SAFETY: a product's result is a tensor of its own, and this is the only slice of it.
        let out = unsafe { values_mut(node) }?;
        // The head's rows without a label have no use forwards, and are zero backwards: most of them in a prompt.
        if rows != self.window.weights.len() {
            matmul(MatMut::new(out, rows, columns), Write::Overwrite, 1.0, left, weights);
            return Some(());
        }
        let is_head = HEADS.contains(&name(w).as_str());
        let wanted: Vec<usize> = (0..rows).filter(|i| self.window.weights[*i] != 0.0).collect();
        if !is_head || wanted.len() * 10 > rows * 9 {
            // Nothing that is learnt sees a token behind the last one that is: what fills the window up stays 0, and so do its
            // gradients.
            let used = wanted.last().map_or(0, |last| last + 1);
            let (out, rest) = out.split_at_mut(used * columns);
            matmul(MatMut::new(out, used, columns), Write::Overwrite, 1.0, left.first_rows(used), weights);
            rest.fill(0.0);
            return Some(());
        }
        let width = if forwards { in_features } else { out_features };
        let stride = if forwards { x.nb[1] } else { x.nb[0] } / size_of::<f32>();
        let own = |i: usize| x_all.get(i * stride..i * stride + width);
        let packed: Vec<f32> = wanted.iter().map(|i| own(*i)).collect::<Option<Vec<&[f32]>>>()?.concat();
        let mut product = vec![0f32; wanted.len() * columns];
        let left = Mat::new(&packed, wanted.len(), width);
        matmul(MatMut::new(&mut product, wanted.len(), columns), Write::Overwrite, 1.0, left, weights);
        out.fill(0.0);
        for (i, row) in wanted.iter().zip(product.chunks(columns)) {
            out[i * columns..(i + 1) * columns].copy_from_slice(row);
        }
        Some(())
    }
}
