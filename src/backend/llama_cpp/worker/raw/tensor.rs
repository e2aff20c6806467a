//! Reading a `ggml_tensor` as slices and matrices, and products of them in ggml's place.

use std::ffi::{CStr, c_void};

use llama_cpp_sys_2 as sys;
use rayon::prelude::*;
use sys::ggml_tensor;

use crate::model::ops::gemm::{Mat, MatMut, Write, matmul, matmul_single};

pub(super) fn name(tensor: &ggml_tensor) -> String {
    let bytes: Vec<u8> = tensor.name.iter().map(|c| *c as u8).collect();
    CStr::from_bytes_until_nul(&bytes).map_or_else(|_| String::new(), |name| name.to_string_lossy().into_owned())
}

/// A node's source.
#[expect(unsafe_code, reason = "a node's sources are nodes")]
pub(super) fn source(node: &ggml_tensor, i: usize) -> Option<&ggml_tensor> {
    // SAFETY: sources are null or tensors of the same graph, which lives longer than the callback.
    unsafe { node.src[i].as_ref() }
}

/// Does it hold f32 values that lie in this process?
fn has_values(tensor: &ggml_tensor) -> bool {
    tensor.type_ == sys::GGML_TYPE_F32 && !tensor.data.is_null()
}

/// Can [`values_mut`] give its values? Makes no reference to them.
#[expect(unsafe_code, reason = "ggml looks at the shape and the strides")]
pub(super) fn is_dense(tensor: &ggml_tensor) -> bool {
    // SAFETY: it reads fields of the tensor alone.
    has_values(tensor) && unsafe { sys::ggml_is_contiguous(tensor) }
}

/// All bytes from a tensor's first value to its last, as f32 values; `None` unless it holds such and they lie in this process.
///
/// # Safety
/// The tensor's data is memory of a CPU buffer that outlives the borrow of `tensor`, and while the slice lives nothing writes to it:
/// neither ggml, which is so during a callback, nor a slice of [`values_mut`] of this tensor or of one that shares its memory.
#[expect(unsafe_code, reason = "on the CPU a tensor's data is plain memory")]
pub(super) unsafe fn values(tensor: &ggml_tensor) -> Option<&[f32]> {
    if !has_values(tensor) {
        return None;
    }
    // SAFETY: ggml_nbytes counts from `data` to the end of the last value, strides included, all of it allocated; the CPU's buffers
    // are aligned for f32. That nobody writes meanwhile is the caller's promise.
    Some(unsafe { std::slice::from_raw_parts(tensor.data.cast::<f32>(), sys::ggml_nbytes(tensor) / size_of::<f32>()) })
}

/// The same to write to, of a dense tensor.
///
/// # Safety
/// As [`values`], and while the slice lives nothing reads that memory either: there is no other slice of this tensor or of one that
/// shares its memory.
#[expect(unsafe_code, reason = "on the CPU a tensor's data is plain memory")]
#[expect(clippy::mut_from_ref, reason = "the memory belongs to ggml, which computes nothing during the callback")]
pub(super) unsafe fn values_mut(tensor: &ggml_tensor) -> Option<&mut [f32]> {
    if !is_dense(tensor) {
        return None;
    }
    // SAFETY: as in `values`; that this is the only slice of the memory is the caller's promise.
    Some(unsafe {
        std::slice::from_raw_parts_mut(tensor.data.cast::<f32>(), sys::ggml_nbytes(tensor) / size_of::<f32>())
    })
}

/// One matrix of a tensor, (ne1, ne0), where it is dense in one direction.
pub(super) fn matrix<'t>(tensor: &ggml_tensor, all: &'t [f32], index: [usize; 2]) -> Option<Mat<'t>> {
    let [columns, rows] = [tensor.ne[0] as usize, tensor.ne[1] as usize];
    let at = (index[0] * tensor.nb[2] + index[1] * tensor.nb[3]) / size_of::<f32>();
    let (own, size) = (all.get(at..)?, size_of::<f32>());
    match (tensor.nb[0] == size, tensor.nb[1] == size) {
        (true, _) => Some(Mat::strided(own, rows, columns, tensor.nb[1] / size)),
        (false, true) => Some(Mat::strided(own, columns, rows, tensor.nb[0] / size).t()),
        (false, false) => None,
    }
}

/// Is it a weight of the base? Those are leaves with such a name, in two dimensions.
pub(super) fn is_frozen(tensor: &ggml_tensor) -> bool {
    tensor.op == sys::GGML_OP_NONE && tensor.ne[2] == 1 && tensor.ne[3] == 1 && name(tensor).ends_with(".weight")
}

/// A product of f32 tensors, matrix by matrix; those of the left side serve several of the right (grouped queries).
#[expect(unsafe_code, reason = "a tensor's values are plain memory")]
pub(super) fn by_values(node: &ggml_tensor, left: &ggml_tensor, right: &ggml_tensor) -> Option<()> {
    let forwards = node.op == sys::GGML_OP_MUL_MAT;
    let (rows, columns) = (node.ne[1] as usize, node.ne[0] as usize);
    let [n2, n3] = [node.ne[2] as usize, node.ne[3] as usize];
    let repeats = [n2 / left.ne[2].max(1) as usize, n3 / left.ne[3].max(1) as usize].map(|n| n.max(1));
    // SAFETY: called from the callback, while ggml computes nothing. A product's result is a tensor of its own, which neither side
    // shares memory with; the two sides are only read.
    let (left_all, right_all, out) = unsafe { (values(left)?, values(right)?, values_mut(node)?) };
    let factors = |i: usize| {
        let (i2, i3) = (i % n2, i / n2);
        let w = matrix(left, left_all, [i2 / repeats[0], i3 / repeats[1]])?;
        let x = matrix(right, right_all, [i2, i3])?;
        Some(if forwards { (x, w.t()) } else { (x.t(), w) })
    };
    let factors: Vec<(Mat<'_>, Mat<'_>)> = (0..n2 * n3).map(factors).collect::<Option<_>>()?;
    match factors.as_slice() {
        [(x, w)] => matmul(MatMut::new(out, rows, columns), Write::Overwrite, 1.0, *x, *w),
        many => out.par_chunks_mut(rows * columns).zip(many).for_each(|(out, (x, w))| {
            matmul_single(MatMut::new(out, rows, columns), Write::Overwrite, 1.0, *x, *w);
        }),
    }
    Some(())
}

/// Widens quantised weights, all rows, in parallel.
#[expect(unsafe_code, reason = "ggml's own widening works on pointers")]
pub(super) fn widen(weights: &ggml_tensor, out: &mut Vec<f32>) -> Option<()> {
    let (in_features, out_features) = (weights.ne[0] as usize, weights.ne[1] as usize);
    // SAFETY: the table has an entry for every type.
    let to_float = unsafe { (*sys::ggml_get_type_traits(weights.type_)).to_float }?;
    if out.len() < in_features * out_features {
        out.resize(in_features * out_features, 0.0);
    }
    out.truncate(in_features * out_features);
    let (start, stride) = (weights.data as usize, weights.nb[1]);
    out.par_chunks_mut(in_features).enumerate().for_each(|(row, values)| {
        // SAFETY: row `row` begins `row · stride` bytes after the tensor's data and holds `in_features` values; exactly as many are
        // written.
        unsafe { to_float((start + row * stride) as *const c_void, values.as_mut_ptr(), in_features as i64) };
    });
    Some(())
}
