//! Matrix products on slices: a checked, safe face over the `gemm` crate (kernels chosen at run time).

use rayon::current_num_threads;

/// A matrix inside a slice, with a stride (in elements) for each direction.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// Row-major and dense.
    pub(crate) fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// Rows of `cols` elements that begin `row_stride` apart.
    pub(crate) fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        let mat = Self { data, rows, cols, row_stride, col_stride: 1 };
        mat.check();
        mat
    }

    /// The transpose, without moving anything.
    pub(crate) fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    /// Its first rows, at most so many.
    #[cfg(feature = "llama-cpp")]
    pub(crate) fn first_rows(self, rows: usize) -> Self {
        Self { rows: rows.min(self.rows), ..self }
    }

    fn check(&self) {
        assert!(self.last() < self.data.len() || self.rows == 0 || self.cols == 0, "matrix reaches outside its slice");
    }

    fn last(&self) -> usize {
        self.rows.saturating_sub(1) * self.row_stride + self.cols.saturating_sub(1) * self.col_stride
    }
}

/// The matrix that a product is written to: rows that begin `row_stride` apart.
pub(crate) struct MatMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl<'a> MatMut<'a> {
    /// Row-major and dense.
    pub(crate) fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// Rows of `cols` elements that begin `row_stride` apart.
    pub(crate) fn strided(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        let last = rows.saturating_sub(1) * row_stride + cols.saturating_sub(1);
        assert!(row_stride >= cols, "rows overlap");
        assert!(last < data.len() || rows == 0 || cols == 0, "matrix reaches outside its slice");
        Self { data, rows, cols, row_stride }
    }
}

/// What happens to what the destination holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    /// `dst = scale · lhs · rhs`
    Overwrite,
    /// `dst += scale · lhs · rhs`
    Add,
}

/// `dst (m, n) = [dst +] scale · lhs (m, k) · rhs (k, n)`, on all threads of the current pool.
pub(crate) fn matmul(dst: MatMut<'_>, into: Write, scale: f32, lhs: Mat<'_>, rhs: Mat<'_>) {
    product(dst, into, scale, lhs, rhs, current_num_threads());
}

/// As [`matmul`], on the calling thread alone: for small products inside a parallel loop.
pub(crate) fn matmul_single(dst: MatMut<'_>, into: Write, scale: f32, lhs: Mat<'_>, rhs: Mat<'_>) {
    product(dst, into, scale, lhs, rhs, 1);
}

fn product(dst: MatMut<'_>, into: Write, scale: f32, lhs: Mat<'_>, rhs: Mat<'_>, threads: usize) {
    let (m, n, k) = (dst.rows, dst.cols, lhs.cols);
    assert!(
        lhs.rows == m && rhs.cols == n && rhs.rows == k,
        "product of ({}, {k}) and ({}, {}) into ({m}, {n})",
        lhs.rows,
        rhs.rows,
        rhs.cols
    );
    if m == 0 || n == 0 {
        return;
    }
    let parallelism = if threads > 1 { gemm::Parallelism::Rayon(threads) } else { gemm::Parallelism::None };
    let stride = |s: usize| s as isize;
    // SAFETY: `Mat` and `MatMut` checked on creation that every index below `rows` and `cols` lies within their slices
    // (all strides are non-negative), the shapes fit as asserted above, and `dst` is an exclusive borrow whose rows do not
    // overlap.
    #[expect(unsafe_code, reason = "the kernels' interface is raw pointers")]
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.data.as_mut_ptr(),
            1,
            stride(dst.row_stride),
            into == Write::Add,
            lhs.data.as_ptr(),
            stride(lhs.col_stride),
            stride(lhs.row_stride),
            rhs.data.as_ptr(),
            stride(rhs.col_stride),
            stride(rhs.row_stride),
            1.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference;
    use super::*;

    #[test]
    fn agrees_with_three_loops_whatever_the_strides() {
        let (m, n, k) = (7, 5, 11);
        let a: Vec<f32> = (0..m * k).map(|i| (i as f32 * 0.37).sin()).collect();
        let b: Vec<f32> = (0..n * k).map(|i| (i as f32 * 0.71).cos()).collect();
        let expected = reference::product(m, n, k, &a, &b);
        let mut wide = vec![1.0; m * 9];
        matmul(MatMut::strided(&mut wide, m, n, 9), Write::Add, 2.0, Mat::new(&a, m, k), Mat::new(&b, n, k).t());
        for i in 0..m {
            for j in 0..9 {
                let want = if j < n { 1.0 + 2.0 * expected[i * n + j] } else { 1.0 };
                assert!((wide[i * 9 + j] - want).abs() < 1e-5, "({i}, {j})");
            }
        }
    }

    #[test]
    #[should_panic(expected = "outside its slice")]
    fn a_matrix_larger_than_its_slice_is_refused() {
        let _ = Mat::new(&[0.0; 5], 2, 3);
    }
}
