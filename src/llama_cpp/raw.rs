//! Losses and gradients of an adapter, out of llama.cpp's public C interface: all that `llama-cpp-2` lacks, and all the unsafe.
//!
//! `llama_opt_epoch` runs a forward and a backward of one window of tokens. Before the scheduler computes a node it asks a callback, and
//! after it tells it; that is where everything happens that llama.cpp's own training cannot do:
//!
//! - Several examples share a window: positions and mask are overwritten before the first node that reads them, so that each example
//!   begins at 0 and sees itself alone.
//! - Only labelled tokens count: the gradient of the loss is weighed row by row after it was computed.
//! - Gradients come out: ggml's own step (SGD with a rate of 1e-30) changes nothing, and its input is added up here and cleared, since
//!   ggml never clears what it accumulates in graphs that are made anew.
//! - Products are computed here. ggml's `OUT_PROD` widens a row of quantised weights anew for every token, which took five sixths of
//!   the time; and its forward rounds activations to 8 bits.
//!
//! Tied to the version that is pinned: names of operations, the order of a node's sources and the layout of `ggml_tensor`. What was
//! expected and not met is an error, never a silent gap.

use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::ptr::{NonNull, null_mut};

use llama_cpp_sys_2 as sys;
use rayon::prelude::*;
use sys::{ggml_op, ggml_tensor};

use super::protocol::Window;
use super::tensor::{by_values, is_frozen, matrix, name, source, values, values_mut, widen};
use crate::error::{Error, Result};
use crate::model::ops::gemm::{Into, Mat, MatMut, matmul};

/// The head: a tensor of its own, or the embedding.
const HEADS: [&str; 2] = ["output.weight", "token_embd.weight"];

/// What the callback is to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
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
struct Hook {
    phase: Phase,
    parameters: BTreeMap<String, NonNull<ggml_tensor>>,
    gradients: BTreeMap<String, Vec<f32>>,
    window: Window,
    loss: f64,
    positions_set: bool,
    mask_set: bool,
    loss_seen: bool,
    /// The operation of the node that is computed here in ggml's place.
    replaced: Option<ggml_op>,
    /// Widened weights.
    weights: Vec<f32>,
    error: Option<String>,
}

/// The hook in memory of its own, whose address is llama.cpp's `user_data`: a pointer and no box, which would claim to be the only
/// way there.
struct Hooked(NonNull<Hook>);

impl Hooked {
    fn new() -> Self {
        Self(NonNull::from(Box::leak(Box::new(Hook::new()))))
    }

    fn user_data(&self) -> *mut c_void {
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

/// A model that is freed, its adapters with it, when it goes.
struct Model(NonNull<sys::llama_model>);

impl Drop for Model {
    #[expect(unsafe_code, reason = "llama.cpp's C interface")]
    fn drop(&mut self) {
        // SAFETY: it was loaded once and is freed once, after its context.
        unsafe { sys::llama_model_free(self.0.as_ptr()) };
    }
}

/// A context, which goes before its model and its hook.
struct Context(NonNull<sys::llama_context>);

impl Drop for Context {
    #[expect(unsafe_code, reason = "llama.cpp's C interface")]
    fn drop(&mut self) {
        // SAFETY: it was made once and is freed once.
        unsafe { sys::llama_free(self.0.as_ptr()) };
    }
}

/// A model and an adapter with gradients. One window size a process: llama.cpp keeps it in the model.
pub(super) struct Differentiator {
    dataset: sys::ggml_opt_dataset_t,
    // In the order in which they are dropped.
    context: Context,
    model: Model,
    hook: Hooked,
    window: usize,
}

impl Differentiator {
    /// Loads model and adapter, and prepares windows of `window` tokens, a multiple of 256.
    ///
    /// # Errors
    /// A file that llama.cpp refuses, or an adapter of which it uses no tensor.
    #[expect(unsafe_code, reason = "llama.cpp's C interface")]
    pub(super) fn open(model: &Path, adapter: &Path, window: usize, threads: usize) -> Result<Self> {
        let size = u32::try_from(window).map_err(|e| Error::failed(e.to_string()))?;
        let threads = i32::try_from(threads.max(1)).unwrap_or(1);
        let hook = Hooked::new();
        // SAFETY: every pointer that is handed over is valid for the call, paths are C strings; what comes back is checked for null
        // before it is used. The hook lives as long as the context. The order of the calls is the one that llama.cpp needs: adapter
        // before context; adapter set before the optimizer, and never again, since that frees the scheduler to which the optimizer
        // points; the optimizer once for a context, which asserts that it has none yet.
        unsafe {
            let mut params = sys::llama_model_default_params();
            // Repacked weights have no backward: "GGML_ASSERT(*cur_backend_id != -1)".
            params.use_extra_bufts = false;
            params.n_gpu_layers = 0;
            let loaded = NonNull::new(sys::llama_model_load_from_file(c_path(model)?.as_ptr(), params));
            let loaded = Model(loaded.ok_or_else(|| refused(model, "llama.cpp cannot load it"))?);
            let low_rank = sys::llama_adapter_lora_init(loaded.0.as_ptr(), c_path(adapter)?.as_ptr());
            if low_rank.is_null() {
                return Err(refused(adapter, "llama.cpp cannot put this adapter on the model"));
            }
            let mut params = sys::llama_context_default_params();
            // One micro-batch is the whole context: keys and values are then differentiated, not read from the cache.
            (params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max) = (size, size, size, 1);
            (params.n_threads, params.n_threads_batch) = (threads, threads);
            params.flash_attn_type = sys::LLAMA_FLASH_ATTN_TYPE_DISABLED;
            params.cb_eval = Some(on_node);
            params.cb_eval_user_data = hook.user_data();
            params.no_perf = true;
            let context = NonNull::new(sys::llama_init_from_model(loaded.0.as_ptr(), params)).map(Context);
            let Some(context) = context.filter(|c| sys::llama_n_ctx(c.0.as_ptr()) == size) else {
                return Err(refused(model, &format!("llama.cpp makes no context of {window} tokens to train in")));
            };
            let (mut adapters, mut scales) = ([low_rank], [1f32]);
            sys::llama_set_adapters_lora(context.0.as_ptr(), adapters.as_mut_ptr(), 1, scales.as_mut_ptr());
            let params = sys::llama_opt_params {
                n_ctx_train: 0,
                param_filter: Some(nothing_of_the_base),
                param_filter_ud: null_mut(),
                get_opt_pars: Some(no_step),
                get_opt_pars_ud: null_mut(),
                optimizer_type: sys::GGML_OPT_OPTIMIZER_TYPE_SGD,
            };
            sys::llama_opt_init(context.0.as_ptr(), loaded.0.as_ptr(), params);
            let type_ = sys::GGML_TYPE_I32;
            let dataset = sys::ggml_opt_dataset_init(type_, type_, window as i64, window as i64, 1, 1);
            let mut made = Self { dataset, context, model: loaded, hook, window };
            made.discover()?;
            if made.hook.parameters.is_empty() {
                return Err(refused(adapter, "llama.cpp uses none of its tensors"));
            }
            for tensor in made.hook.parameters.values() {
                sys::ggml_set_param(tensor.as_ptr());
            }
            Ok(made)
        }
    }

    /// Runs an ordinary decode of one window: it installs the callback on the optimizer's scheduler and shows the adapter's tensors.
    #[expect(unsafe_code, reason = "llama.cpp's C interface")]
    fn discover(&mut self) -> Result<()> {
        self.hook.phase = Phase::Discover;
        // SAFETY: the batch was made for `window` tokens of one sequence each, and exactly those are written.
        let status = unsafe {
            let mut batch = sys::llama_batch_init(self.window as i32, 0, 1);
            batch.n_tokens = self.window as i32;
            for i in 0..self.window {
                *batch.token.add(i) = 0;
                *batch.pos.add(i) = i as i32;
                *batch.n_seq_id.add(i) = 1;
                **batch.seq_id.add(i) = 0;
                *batch.logits.add(i) = i8::from(i + 1 == self.window);
            }
            let status = sys::llama_decode(self.context.0.as_ptr(), batch);
            sys::llama_batch_free(batch);
            status
        };
        self.hook.phase = Phase::Off;
        if status == 0 { Ok(()) } else { Err(Error::failed(format!("llama.cpp cannot decode a window: {status}"))) }
    }

    /// The adapter's tensors that are used, and their numbers of values, in the order of their names.
    #[expect(unsafe_code, reason = "llama.cpp's C interface")]
    pub(super) fn tensors(&self) -> Vec<(String, usize)> {
        // SAFETY: the tensors belong to the adapter, which lives as long as the model.
        let len = |tensor: &NonNull<ggml_tensor>| unsafe { sys::ggml_nelements(tensor.as_ptr()) } as usize;
        self.hook.parameters.iter().map(|(name, tensor)| (name.clone(), len(tensor))).collect()
    }

    /// Gives all tensors new values, one after another in the order of [`Self::tensors`].
    ///
    /// # Errors
    /// Too few or too many values.
    #[expect(unsafe_code, reason = "llama.cpp's C interface")]
    pub(super) fn set(&mut self, values: &[f32]) -> Result<()> {
        let sizes = self.tensors();
        let all: usize = sizes.iter().map(|(_, len)| len).sum();
        if all != values.len() {
            return Err(Error::failed(format!("the adapter has {all} values, and {} were given", values.len())));
        }
        let mut rest = values;
        for ((_, len), tensor) in sizes.iter().zip(self.hook.parameters.values()) {
            let (own, after) = rest.split_at(*len);
            rest = after;
            // SAFETY: the tensor holds `len` f32 values, as was checked when it was found.
            unsafe { sys::ggml_backend_tensor_set(tensor.as_ptr(), own.as_ptr().cast(), 0, size_of_val(own)) };
        }
        Ok(())
    }

    /// Σ weight · NLL of a window. With `gradients` they are added to those that [`Self::take`] gives.
    ///
    /// # Errors
    /// A window of another length, a label outside the vocabulary, or a graph without what is expected in it.
    #[expect(unsafe_code, reason = "llama.cpp's C interface")]
    pub(super) fn run(&mut self, window: &Window, gradients: bool) -> Result<f64> {
        let n = self.window;
        let lengths = [&window.tokens, &window.labels, &window.segments, &window.positions].map(Vec::len);
        if lengths != [n; 4] || window.weights.len() != n {
            return Err(Error::failed(format!("a window has {lengths:?} tokens, expected {n}")));
        }
        self.check_tokens(window)?;
        let hook = &mut *self.hook;
        hook.window = window.clone();
        hook.loss = 0.0;
        (hook.positions_set, hook.mask_set, hook.loss_seen) = (false, false, false);
        hook.phase = if gradients { Phase::Train } else { Phase::Evaluate };
        // SAFETY: the dataset holds one row of `n` tokens and labels, whose ids were checked; with one row, split 1 trains on it and
        // split 0 evaluates it. No results and no callbacks are asked for. The hook is not borrowed during the call.
        unsafe {
            for (tensor, ids) in [
                (sys::ggml_opt_dataset_data(self.dataset), &window.tokens),
                (sys::ggml_opt_dataset_labels(self.dataset), &window.labels),
            ] {
                sys::ggml_backend_tensor_set(tensor, ids.as_ptr().cast(), 0, size_of_val(ids.as_slice()));
            }
            let split = i64::from(gradients);
            sys::llama_opt_epoch(self.context.0.as_ptr(), self.dataset, null_mut(), null_mut(), split, None, None);
        }
        let hook = &mut *self.hook;
        hook.phase = Phase::Off;
        if let Some(error) = hook.error.take() {
            return Err(Error::failed(format!("llama.cpp's graph is not what finetest knows: {error}")));
        }
        if !(hook.positions_set && hook.mask_set && hook.loss_seen) {
            let (positions, mask, loss) = (hook.positions_set, hook.mask_set, hook.loss_seen);
            return Err(Error::failed(format!(
                "llama.cpp's graph is not what finetest knows: positions met: {positions}, mask: {mask}, loss: {loss}"
            )));
        }
        // Those of earlier windows of the same step are among them, and every window has all.
        let (got, expected) = (hook.gradients.len(), hook.parameters.len());
        if gradients && got != expected {
            return Err(Error::failed(format!(
                "llama.cpp's graph is not what finetest knows: it gave gradients of {got} of the adapter's {expected} tensors"
            )));
        }
        Ok(hook.loss)
    }

    /// llama.cpp writes past its buffers for a label of −1.
    #[expect(unsafe_code, reason = "llama.cpp's C interface")]
    fn check_tokens(&self, window: &Window) -> Result<()> {
        // SAFETY: the model is loaded.
        let vocabulary = unsafe { sys::llama_vocab_n_tokens(sys::llama_model_get_vocab(self.model.0.as_ptr())) };
        let outside = window.tokens.iter().chain(&window.labels).find(|id| **id < 0 || **id >= vocabulary);
        match outside {
            Some(id) => Err(Error::failed(format!("token {id} is outside the vocabulary of {vocabulary}"))),
            None => Ok(()),
        }
    }

    /// All gradients since the last call, one after another in the order of [`Self::tensors`]; zeros where there was none.
    pub(super) fn take(&mut self) -> Vec<f32> {
        let mut gradients = std::mem::take(&mut self.hook.gradients);
        self.tensors()
            .into_iter()
            .flat_map(|(name, len)| gradients.remove(&name).unwrap_or_else(|| vec![0.0; len]))
            .collect()
    }
}

impl Drop for Differentiator {
    #[expect(unsafe_code, reason = "llama.cpp's C interface")]
    fn drop(&mut self) {
        // SAFETY: it was made once and is freed once; context, model and hook are dropped after it.
        unsafe { sys::ggml_opt_dataset_free(self.dataset) };
    }
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.to_string_lossy().as_bytes()).map_err(|_| Error::model(path, "its name holds a zero byte"))
}

fn refused(path: &Path, what: &str) -> Error {
    Error::model(path, format!("{what}{}", super::because()))
}

#[expect(unsafe_code, reason = "called by llama.cpp")]
unsafe extern "C" fn nothing_of_the_base(_: *const ggml_tensor, _: *mut c_void) -> bool {
    false
}

/// A step that changes nothing: ggml's own optimizer is not wanted.
#[expect(unsafe_code, reason = "called by llama.cpp")]
unsafe extern "C" fn no_step(_: *mut c_void) -> sys::ggml_opt_optimizer_params {
    // SAFETY: the defaults need no user data.
    let mut params = unsafe { sys::ggml_opt_get_default_optimizer_params(null_mut()) };
    // 0 fails an assert.
    params.sgd.alpha = 1e-30;
    params.sgd.wd = 0.0;
    params
}

/// Called before a node is computed (`ask`), and after those that it said yes to.
#[expect(unsafe_code, reason = "called by llama.cpp")]
unsafe extern "C" fn on_node(tensor: *mut ggml_tensor, ask: bool, user_data: *mut c_void) -> bool {
    // SAFETY: llama.cpp calls with a node of its graph, from the thread that called into it, and with the hook's address, which
    // nobody else borrows meanwhile.
    let (hook, node) = unsafe { (&mut *user_data.cast::<Hook>(), &mut *tensor) };
    // A panic must not pass through llama.cpp's frames, and an abort would not say what is wrong.
    let done = catch_unwind(AssertUnwindSafe(|| hook.on_node(node, ask)));
    done.unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        let said = said.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        hook.fail(said.unwrap_or_else(|| "a panic".to_owned()));
        true
    })
}

impl Hook {
    fn on_node(&mut self, node: &mut ggml_tensor, ask: bool) -> bool {
        let hook = self;
        match hook.phase {
            Phase::Off => false,
            Phase::Discover => {
                if ask {
                    hook.find(node);
                }
                false
            }
            Phase::Train | Phase::Evaluate if ask => {
                hook.set_inputs(node);
                hook.replace(node) || hook.wants(node.op)
            }
            Phase::Train | Phase::Evaluate => {
                if let Some(op) = hook.replaced.take() {
                    node.op = op;
                    hook.multiply(node);
                }
                hook.read(node);
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
            mask_set: false,
            loss_seen: false,
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
            && !self.mask_set
            && let Some(input) = source(node, 1)
        {
            let n = self.window.segments.len();
            let fits = input.ne[0] as usize == n && input.ne[1] as usize >= n;
            let Some(mask) = values_mut(input).filter(|_| fits) else {
                return self.fail(format!("a mask of type {} and shape {:?}", input.type_, input.ne));
            };
            for (i, row) in mask.chunks_mut(n).take(n).enumerate() {
                for (j, value) in row.iter_mut().enumerate() {
                    let seen = j <= i && self.window.segments[i] == self.window.segments[j];
                    *value = if seen { 0.0 } else { f32::NEG_INFINITY };
                }
            }
            self.mask_set = true;
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
    fn add_loss(&mut self, logits: Option<&ggml_tensor>, gradient: Option<&ggml_tensor>) {
        let rows = self.window.weights.len();
        let Some((logits, width)) = logits.and_then(|t| Some((values(t)?, t.ne[0] as usize))) else {
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
        match values_mut(gradient).filter(|all| all.len() == rows * width) {
            Some(all) => all.par_chunks_mut(width).zip(&self.window.weights).for_each(|(row, weight)| match weight {
                0.0 => row.fill(0.0),
                weight => row.iter_mut().for_each(|g| *g *= weight * rows as f32),
            }),
            None => self.fail("the gradient of the logits is not dense"),
        }
    }

    /// Adds a parameter's gradient and clears ggml's own sum.
    fn take_gradient(&mut self, node: &ggml_tensor) {
        let (Some(parameter), Some(gradient)) = (source(node, 0), source(node, 1)) else {
            return self.fail("a step without a gradient");
        };
        let (name, Some(own)) = (name(parameter), values_mut(gradient)) else {
            return self.fail("a gradient that is not dense");
        };
        let sum = self.gradients.entry(name).or_insert_with(|| vec![0.0; own.len()]);
        sum.iter_mut().zip(own.iter()).for_each(|(sum, g)| *sum += g);
        own.fill(0.0);
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
        if !(simple && known && values_mut(node).is_some()) {
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
    fn by_weights(&self, node: &ggml_tensor, w: &ggml_tensor, x: &ggml_tensor, scratch: &mut Vec<f32>) -> Option<()> {
        let (inside, outside) = (w.ne[0] as usize, w.ne[1] as usize);
        if x.ne[2] != 1 || x.ne[3] != 1 {
            return None;
        }
        let wide = match w.type_ {
            sys::GGML_TYPE_F32 => values(w)?,
            _ => {
                widen(w, scratch)?;
                scratch.as_slice()
            }
        };
        let forwards = node.op == sys::GGML_OP_MUL_MAT;
        let weights = Mat::new(wide, outside, inside);
        let weights = if forwards { weights.t() } else { weights };
        let x_all = values(x)?;
        let left = matrix(x, x_all, [0, 0])?;
        let left = if forwards { left } else { left.t() };
        let (rows, columns) = (node.ne[1] as usize, node.ne[0] as usize);
        let out = values_mut(node)?;
        // The head's rows without a label have no use forwards, and are zero backwards: most of them in a prompt.
        if rows != self.window.weights.len() {
            matmul(MatMut::new(out, rows, columns), Into::Overwrite, 1.0, left, weights);
            return Some(());
        }
        let is_head = HEADS.contains(&name(w).as_str());
        let wanted: Vec<usize> = (0..rows).filter(|i| self.window.weights[*i] != 0.0).collect();
        if !is_head || wanted.len() * 10 > rows * 9 {
            // Nothing that is learnt sees a token behind the last one that is: what fills the window up stays 0, and so do its
            // gradients.
            let used = wanted.last().map_or(0, |last| last + 1);
            let (out, rest) = out.split_at_mut(used * columns);
            matmul(MatMut::new(out, used, columns), Into::Overwrite, 1.0, left.first_rows(used), weights);
            rest.fill(0.0);
            return Some(());
        }
        let width = if forwards { inside } else { outside };
        let stride = if forwards { x.nb[1] } else { x.nb[0] } / size_of::<f32>();
        let own = |i: usize| x_all.get(i * stride..i * stride + width);
        let packed: Vec<f32> = wanted.iter().map(|i| own(*i)).collect::<Option<Vec<&[f32]>>>()?.concat();
        let mut product = vec![0f32; wanted.len() * columns];
        let left = Mat::new(&packed, wanted.len(), width);
        matmul(MatMut::new(&mut product, wanted.len(), columns), Into::Overwrite, 1.0, left, weights);
        out.fill(0.0);
        for (i, row) in wanted.iter().zip(product.chunks(columns)) {
            out[i * columns..(i + 1) * columns].copy_from_slice(row);
        }
        Some(())
    }
}
