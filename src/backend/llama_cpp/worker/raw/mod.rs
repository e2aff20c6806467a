//! Losses and gradients of an adapter, out of llama.cpp's public C interface: all that `llama-cpp-2` lacks, and all the unsafe:
//! `hook.rs` works on the nodes of the graph, `tensor.rs` on a node's memory.
//!
//! `llama_opt_epoch` runs a forward and a backward of one window of tokens. Before the scheduler computes a node it asks a callback, and
//! after it tells it; that is where everything happens that llama.cpp's own training cannot do:
//!
//! - Several examples share a window: positions and mask are overwritten before the first node that reads them, so that each example
//!   begins at 0 and sees itself alone.
//! - Only labelled tokens count: the gradient of the loss is weighed row by row after it was computed.
//! - Gradients come out: ggml's own step (SGD with a rate of 1e-30) changes nothing, and its input is added up here and cleared, since
//!   ggml never clears what it accumulates in graphs that are made again.
//! - Products are computed here. ggml's `OUT_PROD` widens a row of quantised weights again for every token, which took five sixths of
//!   the time; and its forward rounds activations to 8 bits.
//!
//! Tied to the version that is pinned: names of operations, the order of a node's sources and the layout of `ggml_tensor`. What was
//! expected and not met is an error, never a silent gap.

mod hook;
mod tensor;

use std::ffi::{CString, c_void};
use std::path::Path;
use std::ptr::{NonNull, null_mut};

use llama_cpp_sys_2 as sys;
use sys::ggml_tensor;

use crate::backend::llama_cpp::protocol::Window;
use crate::error::{Error, Result};
use hook::{Hooked, Phase, on_node};

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
pub(crate) struct Differentiator {
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
    pub(crate) fn open(model: &Path, adapter: &Path, window: usize, threads: usize) -> Result<Self> {
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
            // No device at all: a build for a GPU sends large products there whatever the layers are, past the hook.
            let mut devices = [null_mut()];
            (params.n_gpu_layers, params.devices) = (0, devices.as_mut_ptr());
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
    pub(crate) fn tensors(&self) -> Vec<(String, usize)> {
        // SAFETY: the tensors belong to the adapter, which lives as long as the model.
        let len = |tensor: &NonNull<ggml_tensor>| unsafe { sys::ggml_nelements(tensor.as_ptr()) } as usize;
        self.hook.parameters.iter().map(|(name, tensor)| (name.clone(), len(tensor))).collect()
    }

    /// Gives all tensors new values, one after another in the order of [`Self::tensors`].
    ///
    /// # Errors
    /// Too few or too many values.
    #[expect(unsafe_code, reason = "llama.cpp's C interface")]
    pub(crate) fn set(&mut self, values: &[f32]) -> Result<()> {
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
    pub(crate) fn run(&mut self, window: &Window, gradients: bool) -> Result<f64> {
        let n = self.window;
        let lengths = [&window.tokens, &window.labels, &window.segments, &window.positions].map(Vec::len);
        if lengths != [n; 4] || window.weights.len() != n {
            return Err(Error::failed(format!("a window has {lengths:?} tokens, expected {n}")));
        }
        self.check_tokens(window)?;
        let hook = &mut *self.hook;
        hook.window = window.clone();
        hook.loss = 0.0;
        (hook.positions_set, hook.loss_seen, hook.taken) = (false, false, 0);
        hook.masks.clear();
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
        let mask = !hook.masks.is_empty();
        if !(hook.positions_set && mask && hook.loss_seen) {
            let (positions, loss) = (hook.positions_set, hook.loss_seen);
            return Err(Error::failed(format!(
                "llama.cpp's graph is not what finetest knows: positions met: {positions}, mask: {mask}, loss: {loss}"
            )));
        }
        let (got, expected) = (hook.taken, hook.parameters.len());
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
    pub(crate) fn take(&mut self) -> Vec<f32> {
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
