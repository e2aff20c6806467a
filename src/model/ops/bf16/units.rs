//! Products on AVX-512's bf16 instructions: two values of each operand at a time, summed in f32.
//!
//! The left matrix lies in groups of rows, and the right one in panels of columns, both in pairs along the inner dimension. Each
//! sum is made pair by pair in order, so that a row's result depends on no other row and on no thread.

use std::arch::x86_64::{__m512, __m512bh, __m512i, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps};
use std::cell::RefCell;
use std::mem::transmute;
use std::ops::Range;

use pulp::NullaryFnOnce;
use rayon::prelude::*;

use crate::model::ops::matrix::Matrix;

/// Rows of the left matrix in a group: with three vectors of columns as many sums as the registers hold.
const ROWS: usize = 8;
const LANES: usize = 16;
const VECTORS: usize = 3;
/// Columns of a panel.
const COLUMNS: usize = VECTORS * LANES;
/// Rows of the left matrix from which on threads share rows and no longer panels.
const MANY: usize = 64;
/// Weights that are packed at once, in two bytes each: they stay in the cache until they are multiplied.
const BLOCK: usize = 1 << 20;
/// Weight rows that a thread packs at a time for [`Units::back`].
const SEGMENT: usize = 32;

/// Two bf16, the first in the lower half.
type Pair = u32;
/// A pair of each column of a panel.
type Columns = [[Pair; LANES]; VECTORS];

pulp::simd_type! {
    /// AVX-512 with bf16: a proof that the processor has them.
    pub(super) struct Units {
        pub sse: "sse",
        pub sse2: "sse2",
        pub avx: "avx",
        pub avx2: "avx2",
        pub fma: "fma",
        pub avx512f: "avx512f",
        pub avx512bw: "avx512bw",
        pub avx512vl: "avx512vl",
        pub avx512dq: "avx512dq",
        pub avx512bf16: "avx512bf16",
    }
}

thread_local! {
    static PANELS: RefCell<Vec<Columns>> = const { RefCell::new(Vec::new()) };
    static WIDENED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Units {
    /// y (rows, out) = x (rows, in) Wᵀ.
    pub(super) fn product(self, weight: &Matrix, x: &[f32], y: &mut [f32]) {
        let (in_features, out_features) = (weight.cols, weight.rows);
        let (left, pairs) = (Left::new(self, x, in_features), in_features.div_ceil(2));
        let step = (BLOCK / in_features.max(1)).max(1).next_multiple_of(COLUMNS);
        let mut data = PANELS.take();
        for start in (0..out_features).step_by(step) {
            let block = start..(start + step).min(out_features);
            data.resize(block.len().div_ceil(COLUMNS) * pairs, [[0; LANES]; VECTORS]);
            data.par_chunks_mut(pairs.max(1)).enumerate().for_each(|(i, panel)| {
                let rows = block.start + i * COLUMNS..(block.start + (i + 1) * COLUMNS).min(block.end);
                self.pack_rows(weight, rows, panel);
            });
            let right = Right { columns: block.len(), first: 0, segment: pairs, data: &data };
            self.multiply(&left, &right, y, Place { stride: out_features, at: block.start, add: false });
        }
        PANELS.set(data);
    }

    /// dx (rows, in) += dy (rows, out) W.
    pub(super) fn back(self, weight: &Matrix, dy: &[f32], dx: &mut [f32]) {
        let (in_features, out_features) = (weight.cols, weight.rows);
        let left = Left::new(self, dy, out_features);
        let panels = in_features.div_ceil(COLUMNS);
        let step = (BLOCK / in_features.max(1)).max(1).next_multiple_of(2 * SEGMENT);
        let mut data = PANELS.take();
        for start in (0..out_features).step_by(step) {
            let block = start..(start + step).min(out_features);
            let segments = block.len().div_ceil(2 * SEGMENT);
            // The last segment's missing rows are zeros, as the left matrix has none for them.
            data.resize(segments * panels * SEGMENT, [[0; LANES]; VECTORS]);
            data.par_chunks_mut(panels * SEGMENT).enumerate().for_each(|(i, segment)| {
                let first = block.start + i * 2 * SEGMENT;
                self.pack_columns(weight, first..(first + 2 * SEGMENT).min(block.end), segment);
            });
            let right = Right { columns: in_features, first: start / 2, segment: SEGMENT, data: &data };
            self.multiply(&left, &right, dx, Place { stride: in_features, at: 0, add: true });
        }
        PANELS.set(data);
    }

    /// A panel of which each column is a row of the weights.
    fn pack_rows(self, weight: &Matrix, rows: Range<usize>, panel: &mut [Columns]) {
        let width = weight.cols;
        let mut widened = WIDENED.take();
        widened.resize(LANES * width, 0.0);
        for v in 0..VECTORS {
            let start = (rows.start + v * LANES).min(rows.end);
            let some = start..(start + LANES).min(rows.end);
            let (values, missing) = widened.split_at_mut(some.len() * width);
            weight.widen_serially(some, values);
            missing.fill(0.0);
            self.vectorize(PackRows { s: self, values: &widened, width, v, panel });
        }
        WIDENED.set(widened);
    }

    /// Panels of which each pair is of two rows of the weights: all of those for [`SEGMENT`] pairs.
    fn pack_columns(self, weight: &Matrix, rows: Range<usize>, panels: &mut [Columns]) {
        let width = weight.cols;
        let mut widened = WIDENED.take();
        widened.resize(2 * width, 0.0);
        for pair in 0..SEGMENT {
            let start = (rows.start + 2 * pair).min(rows.end);
            let some = start..(start + 2).min(rows.end);
            let (values, missing) = widened.split_at_mut(some.len() * width);
            weight.widen_serially(some, values);
            missing.fill(0.0);
            let [even, odd] = [&widened[..width], &widened[width..]];
            self.vectorize(PackColumns { s: self, even, odd, pair, panels });
        }
        WIDENED.set(widened);
    }

    /// dst[i, at + j] = [dst +] Σ left[i, first + p] · right[p, j].
    fn multiply(self, left: &Left, right: &Right<'_>, dst: &mut [f32], to: Place) {
        let Place { stride, at, add } = to;
        let panels = right.columns.div_ceil(COLUMNS);
        if left.rows >= MANY {
            let threads = rayon::current_num_threads();
            let rows = left.rows.div_ceil(4 * threads).next_multiple_of(ROWS);
            dst.par_chunks_mut(rows * stride).enumerate().for_each(|(i, dst)| {
                let groups = i * rows / ROWS..(i * rows + dst.len() / stride).div_ceil(ROWS);
                for panel in 0..panels {
                    let to = Place { at: at + panel * COLUMNS, ..to };
                    self.vectorize(Panel { s: self, left, groups: groups.clone(), right, panel, dst, to });
                }
            });
            return;
        }
        let part = |panel: usize| {
            let mut part = vec![0f32; left.rows * COLUMNS];
            let to = Place { stride: COLUMNS, at: 0, add: false };
            let groups = 0..left.rows.div_ceil(ROWS);
            self.vectorize(Panel { s: self, left, groups, right, panel, dst: &mut part, to });
            part
        };
        let parts: Vec<Vec<f32>> = (0..panels).into_par_iter().map(part).collect();
        for (panel, part) in parts.iter().enumerate() {
            for (part, dst) in part.chunks(COLUMNS).zip(dst.chunks_mut(stride)) {
                let dst = &mut dst[at + panel * COLUMNS..][..right.width(panel)];
                dst.iter_mut().zip(part).for_each(|(dst, part)| *dst = if add { *dst + part } else { *part });
            }
        }
    }

    /// Two vectors of f32 as bf16, those of `low` first.
    #[inline(always)]
    #[expect(unsafe_code, reason = "pulp has no name for this instruction")]
    fn bf16(self, low: __m512, high: __m512) -> __m512i {
        // SAFETY: `self` is a proof that the processor has avx512bf16; both types are 64 bytes of which any are values.
        unsafe { transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
    }

    /// sum + the products of two pairs in each lane.
    #[inline(always)]
    #[expect(unsafe_code, reason = "pulp has no name for this instruction")]
    fn add_products(self, sum: __m512, a: __m512i, b: __m512i) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_dpbf16_ps(sum, transmute::<__m512i, __m512bh>(a), transmute::<__m512i, __m512bh>(b)) }
    }
}

/// The left matrix: groups of [`ROWS`] rows, the last of what is left, and in each the rows' pairs beside each other.
struct Left {
    rows: usize,
    pairs: usize,
    data: Vec<Pair>,
}

impl Left {
    fn new(s: Units, x: &[f32], in_features: usize) -> Self {
        let (rows, pairs) = (x.len() / in_features.max(1), in_features.div_ceil(2));
        let mut data = vec![0; rows * pairs];
        let groups = data.par_chunks_mut((ROWS * pairs).max(1)).zip(x.par_chunks((ROWS * in_features).max(1)));
        groups.for_each(|(group, x)| s.vectorize(PackLeft { s, x, in_features, group }));
        Self { rows, pairs, data }
    }

    /// Pairs from `first` on of a group, and how many rows it has.
    fn group(&self, group: usize, first: usize) -> (&[Pair], usize) {
        let rows = (self.rows - group * ROWS).min(ROWS);
        let start = group * ROWS * self.pairs;
        (&self.data[start + first * rows..start + self.pairs * rows], rows)
    }
}

/// Panels of the right matrix: segments of so many pairs, each with its part of every panel.
struct Right<'a> {
    columns: usize,
    /// The left matrix's pair that meets the first of these.
    first: usize,
    segment: usize,
    data: &'a [Columns],
}

impl Right<'_> {
    fn width(&self, panel: usize) -> usize {
        (self.columns - panel * COLUMNS).min(COLUMNS)
    }
}

/// Where a panel's products go.
#[derive(Clone, Copy)]
struct Place {
    stride: usize,
    /// Their first column.
    at: usize,
    add: bool,
}

/// 32 values as 16 pairs; what is missing is 0.
#[inline(always)]
fn pairs_of(s: Units, values: &[f32]) -> __m512i {
    let mut all = [[0f32; LANES]; 2];
    match values.as_chunks().0 {
        [low, high] => all = [*low, *high],
        _ => all.as_flattened_mut()[..values.len()].copy_from_slice(values),
    }
    s.bf16(pulp::cast(all[0]), pulp::cast(all[1]))
}

struct PackLeft<'a> {
    s: Units,
    x: &'a [f32],
    in_features: usize,
    group: &'a mut [Pair],
}

impl NullaryFnOnce for PackLeft<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let rows = self.x.len() / self.in_features;
        for (row, x) in self.x.chunks_exact(self.in_features).enumerate() {
            for (i, x) in x.chunks(2 * LANES).enumerate() {
                let pairs: [Pair; LANES] = pulp::cast(pairs_of(self.s, x));
                for (to, pair) in self.group[i * LANES * rows..].chunks_exact_mut(rows).zip(pairs) {
                    to[row] = pair;
                }
            }
        }
    }
}

struct PackRows<'a> {
    s: Units,
    /// Sixteen rows.
    values: &'a [f32],
    width: usize,
    v: usize,
    panel: &'a mut [Columns],
}

/// Lanes of two vectors that change places so that squares of `1 << step` lanes are transposed.
const SWAPS: [[[u32; LANES]; 2]; 4] = {
    let mut swaps = [[[0; LANES]; 2]; 4];
    let mut step = 0;
    while step < 4 {
        let (mut lane, distance) = (0, 1 << step);
        while lane < LANES {
            let own = lane & distance == 0;
            swaps[step][0][lane] = (if own { lane } else { LANES + lane - distance }) as u32;
            swaps[step][1][lane] = (if own { lane + distance } else { LANES + lane }) as u32;
            lane += 1;
        }
        step += 1;
    }
    swaps
};

impl NullaryFnOnce for PackRows<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { s, values, width, v, panel } = self;
        for (i, panel) in panel.chunks_mut(LANES).enumerate() {
            let columns = i * 2 * LANES..((i + 1) * 2 * LANES).min(width);
            let mut square = [pulp::cast::<[u32; LANES], __m512i>([0; LANES]); LANES];
            for (row, pairs) in square.iter_mut().enumerate() {
                *pairs = pairs_of(s, &values[row * width + columns.start..row * width + columns.end]);
            }
            for (step, [low, high]) in SWAPS.into_iter().enumerate() {
                let distance = 1 << step;
                let (low, high): (__m512i, __m512i) = (pulp::cast(low), pulp::cast(high));
                for at in 0..LANES {
                    if at & distance == 0 {
                        let (a, b) = (square[at], square[at + distance]);
                        square[at] = s.avx512f._mm512_permutex2var_epi32(a, low, b);
                        square[at + distance] = s.avx512f._mm512_permutex2var_epi32(a, high, b);
                    }
                }
            }
            for (to, pairs) in panel.iter_mut().zip(square) {
                to[v] = pulp::cast(pairs);
            }
        }
    }
}

struct PackColumns<'a> {
    s: Units,
    even: &'a [f32],
    odd: &'a [f32],
    pair: usize,
    panels: &'a mut [Columns],
}

/// Places of 16 values, and of 16 others after them, that alternate.
const ALTERNATE: [u16; 2 * LANES] = {
    let mut places = [0; 2 * LANES];
    let mut i = 0;
    while i < 2 * LANES {
        places[i] = (i / 2 + i % 2 * LANES) as u16;
        i += 1;
    }
    places
};

impl NullaryFnOnce for PackColumns<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { s, even, odd, pair, panels } = self;
        for (i, (even, odd)) in even.chunks(LANES).zip(odd.chunks(LANES)).enumerate() {
            let mut both = [[0f32; LANES]; 2];
            match (even.first_chunk(), odd.first_chunk()) {
                (Some(even), Some(odd)) => both = [*even, *odd],
                _ => {
                    both[0][..even.len()].copy_from_slice(even);
                    both[1][..odd.len()].copy_from_slice(odd);
                }
            }
            let both = s.bf16(pulp::cast(both[0]), pulp::cast(both[1]));
            let pairs = s.avx512bw._mm512_permutexvar_epi16(pulp::cast(ALTERNATE), both);
            panels[i / VECTORS * SEGMENT + pair][i % VECTORS] = pulp::cast(pairs);
        }
    }
}

/// The products of some groups of rows with one panel.
struct Panel<'a> {
    s: Units,
    left: &'a Left,
    groups: Range<usize>,
    right: &'a Right<'a>,
    panel: usize,
    /// Rows of the first group on.
    dst: &'a mut [f32],
    to: Place,
}

impl NullaryFnOnce for Panel<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { s, left, groups, right, panel, dst, to } = self;
        let columns = right.width(panel);
        let parts = right.data.len() / right.segment.max(1);
        let panels = right.columns.div_ceil(COLUMNS);
        for (i, group) in groups.enumerate() {
            let (pairs, rows) = left.group(group, right.first);
            let dst = &mut dst[i * ROWS * to.stride..];
            macro_rules! of_rows {
                ($($rows:literal)*) => {
                    match rows {
                        $($rows => {
                            let mut sums = [[pulp::cast::<[f32; LANES], __m512>([0.0; LANES]); VECTORS]; $rows];
                            for part in (panel..parts).step_by(panels) {
                                let right = &right.data[part * right.segment..(part + 1) * right.segment];
                                let left = &pairs.as_chunks::<$rows>().0[part / panels * right.len()..];
                                sums = tile(s, left, right, sums);
                            }
                            put(sums, dst, to, columns);
                        })*
                        _ => {}
                    }
                };
            }
            of_rows!(1 2 3 4 5 6 7 8);
        }
    }
}

#[allow(clippy::needless_range_loop, reason = "by their numbers sums stay in registers")]
#[inline(always)]
fn tile<const N: usize>(
    s: Units,
    left: &[[Pair; N]],
    right: &[Columns],
    mut sums: [[__m512; VECTORS]; N],
) -> [[__m512; VECTORS]; N] {
    for (left, right) in left.iter().zip(right) {
        let mut columns = [pulp::cast::<[u32; LANES], __m512i>([0; LANES]); VECTORS];
        for v in 0..VECTORS {
            columns[v] = pulp::cast(right[v]);
        }
        for row in 0..N {
            let pair = s.avx512f._mm512_set1_epi32(left[row] as i32);
            for v in 0..VECTORS {
                sums[row][v] = s.add_products(sums[row][v], pair, columns[v]);
            }
        }
    }
    sums
}

#[allow(clippy::needless_range_loop, reason = "by their numbers sums stay in registers")]
#[inline(always)]
fn put<const N: usize>(sums: [[__m512; VECTORS]; N], dst: &mut [f32], to: Place, columns: usize) {
    for row in 0..N {
        let dst = &mut dst[row * to.stride + to.at..][..columns];
        let sums: [f32; COLUMNS] = pulp::cast(sums[row]);
        match <&mut [f32; COLUMNS]>::try_from(&mut *dst) {
            Ok(dst) if to.add => (0..COLUMNS).for_each(|i| dst[i] += sums[i]),
            Ok(dst) => *dst = sums,
            Err(_) => dst.iter_mut().zip(sums).for_each(|(dst, sum)| *dst = if to.add { *dst + sum } else { sum }),
        }
    }
}
