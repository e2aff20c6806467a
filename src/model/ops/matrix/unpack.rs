//! Unpacking of quantised blocks: into memory, or straight into the products of a few rows, where no value is ever stored.

use std::marker::PhantomData;

use candle_core::quantized::GgmlDType;
use pulp::{NullaryFnOnce, f32x8};

use super::blocks::{Form, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, Sink};
use super::vectors::{Fastest, GROUP, Portable, Vectors};

/// Calls a function with a form as its type. False: this type of tensor has no form here.
macro_rules! with_form {
    ($dtype:expr, $call:ident $args:tt) => {
        match $dtype {
            GgmlDType::Q4_0 => $call::<Q4_0, _, _> $args,
            GgmlDType::Q4_1 => $call::<Q4_1, _, _> $args,
            GgmlDType::Q5_0 => $call::<Q5_0, _, _> $args,
            GgmlDType::Q5_1 => $call::<Q5_1, _, _> $args,
            GgmlDType::Q8_0 => $call::<Q8_0, _, _> $args,
            GgmlDType::Q2K => $call::<Q2K, _, _> $args,
            GgmlDType::Q3K => $call::<Q3K, _, _> $args,
            GgmlDType::Q4K => $call::<Q4K, _, _> $args,
            GgmlDType::Q5K => $call::<Q5K, _, _> $args,
            GgmlDType::Q6K => $call::<Q6K, _, _> $args,
            _ => false,
        }
    };
}

/// Writes the values of whole blocks. False: this form has no fast way here.
pub(super) fn widen(dtype: GgmlDType, bytes: &[u8], out: &mut [f32]) -> bool {
    with_form!(dtype, widen_form(bytes, out))
}

/// products[i, o] = x[i] · w[o], where `bytes` are the blocks of w's rows, of `in_features` values each. False: there is no fast way for
/// this form, number of rows or processor.
///
/// A sum is made of eight, of which each adds every eighth product in order, as pulp's vectors of eight would.
pub(super) fn products(dtype: GgmlDType, bytes: &[u8], in_features: usize, x: &[f32], products: &mut [f32]) -> bool {
    with_form!(dtype, products_of_form(bytes, in_features, x, products))
}

fn widen_form<F: Form<BYTES, VALUES>, const BYTES: usize, const VALUES: usize>(bytes: &[u8], out: &mut [f32]) -> bool {
    match Fastest::try_new() {
        Some(s) => s.vectorize(Widen::<_, F, BYTES, VALUES> { s, bytes, out, form: PhantomData }),
        None => Widen::<_, F, BYTES, VALUES> { s: Portable, bytes, out, form: PhantomData }.call(),
    }
    true
}

struct Widen<'a, S, F, const BYTES: usize, const VALUES: usize> {
    s: S,
    bytes: &'a [u8],
    out: &'a mut [f32],
    form: PhantomData<F>,
}

impl<S: Vectors, F: Form<BYTES, VALUES>, const BYTES: usize, const VALUES: usize> NullaryFnOnce
    for Widen<'_, S, F, BYTES, VALUES>
{
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let blocks = self.bytes.as_chunks::<BYTES>().0;
        for (block, out) in blocks.iter().zip(self.out.as_chunks_mut::<VALUES>().0) {
            F::unpack(self.s, block, &mut Store(out));
        }
    }
}

struct Store<'a, const VALUES: usize>(&'a mut [f32; VALUES]);

impl<S: Vectors, const VALUES: usize> Sink<S> for Store<'_, VALUES> {
    #[inline(always)]
    fn put(&mut self, s: S, group: usize, values: S::Values) {
        s.store(values, &mut self.0.as_chunks_mut::<GROUP>().0[group]);
    }
}

fn products_of_form<F: Form<BYTES, VALUES>, const BYTES: usize, const VALUES: usize>(
    bytes: &[u8],
    in_features: usize,
    x: &[f32],
    products: &mut [f32],
) -> bool {
    let Some(s) = Fastest::try_new() else { return false };
    let rows = x.len().checked_div(in_features).unwrap_or(0);
    let (x, bytes) = (x.as_chunks().0, bytes.as_chunks().0);
    let (blocks, form) = (in_features / VALUES, PhantomData);
    let fits = |outs| blocks > 0 && bytes.len().is_multiple_of(outs * blocks);
    match rows {
        1 if fits(4) => s.vectorize(Products::<_, F, BYTES, VALUES, 1, 4> { s, blocks, bytes, x, products, form }),
        2 if fits(2) => s.vectorize(Products::<_, F, BYTES, VALUES, 2, 2> { s, blocks, bytes, x, products, form }),
        // With more rows it is no faster than from the values in memory.
        _ => return false,
    }
    true
}

/// Products of `ROWS` rows of x with all rows of w.
struct Products<'a, S, F, const BYTES: usize, const VALUES: usize, const ROWS: usize, const OUTS: usize> {
    s: S,
    /// In a row.
    blocks: usize,
    bytes: &'a [[u8; BYTES]],
    x: &'a [[f32; VALUES]],
    products: &'a mut [f32],
    form: PhantomData<F>,
}

/// Defines the products with some rows of w at a time: as many as hide the time that each sum waits for the one before, and no more
/// than the registers hold sums of. They lie far apart, so that each is read on and on, which the processor foresees: of rows side by
/// side, all but the first begin where nothing was read before. Written out, since sums in an array would be kept in memory.
macro_rules! beside {
    ($outs:literal: $($out:literal $w:ident $sums:ident),*) => {
        impl<S: Vectors, F: Form<BYTES, VALUES>, const BYTES: usize, const VALUES: usize, const ROWS: usize> NullaryFnOnce
            for Products<'_, S, F, BYTES, VALUES, ROWS, $outs>
        {
            type Output = ();

            #[inline(always)]
            fn call(self) {
                let Self { s, blocks, bytes, x, products, .. } = self;
                let out_features = bytes.len() / blocks;
                let apart = out_features / $outs;
                for o in 0..apart {
                    $(
                        let $w = &bytes[(o + $out * apart) * blocks..(o + $out * apart + 1) * blocks];
                        let mut $sums = [pulp::cast::<[f32; 8], f32x8>([0.0; 8]); ROWS];
                    )*
                    for block in 0..blocks {
                        let mut at = [&x[block]; ROWS];
                        let mut row = 1;
                        while row < ROWS {
                            at[row] = &x[row * blocks + block];
                            row += 1;
                        }
                        $(
                            let mut sink = Sums { x: at, sums: $sums };
                            F::unpack(s, &$w[block], &mut sink);
                            $sums = sink.sums;
                        )*
                    }
                    let mut row = 0;
                    while row < ROWS {
                        $(products[row * out_features + o + $out * apart] = s.total($sums[row]);)*
                        row += 1;
                    }
                }
            }
        }
    };
}

#[cfg(test)]
beside!(1: 0 w0 sums0);
beside!(2: 0 w0 sums0, 1 w1 sums1);
beside!(4: 0 w0 sums0, 1 w1 sums1, 2 w2 sums2, 3 w3 sums3);

struct Sums<'a, const VALUES: usize, const ROWS: usize> {
    x: [&'a [f32; VALUES]; ROWS],
    sums: [f32x8; ROWS],
}

impl<S: Vectors, const VALUES: usize, const ROWS: usize> Sink<S> for Sums<'_, VALUES, ROWS> {
    #[inline(always)]
    fn put(&mut self, s: S, group: usize, values: S::Values) {
        let mut row = 0;
        while row < ROWS {
            self.sums[row] = s.add_products(values, &self.x[row].as_chunks::<GROUP>().0[group], self.sums[row]);
            row += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::CpuStorage;
    use proptest::prelude::*;

    use super::*;

    const FORMS: [GgmlDType; 10] = [
        GgmlDType::Q4_0,
        GgmlDType::Q4_1,
        GgmlDType::Q5_0,
        GgmlDType::Q5_1,
        GgmlDType::Q8_0,
        GgmlDType::Q2K,
        GgmlDType::Q3K,
        GgmlDType::Q4K,
        GgmlDType::Q5K,
        GgmlDType::Q6K,
    ];

    fn widen_portably<F: Form<BYTES, VALUES>, const BYTES: usize, const VALUES: usize>(
        bytes: &[u8],
        out: &mut [f32],
    ) -> bool {
        Widen::<_, F, BYTES, VALUES> { s: Portable, bytes, out, form: PhantomData }.call();
        true
    }

    /// One row of x, one of w at a time.
    fn products_portably<F: Form<BYTES, VALUES>, const BYTES: usize, const VALUES: usize>(
        bytes: &[u8],
        x: &[f32],
        products: &mut [f32],
    ) -> bool {
        let (x, bytes, blocks) = (x.as_chunks().0, bytes.as_chunks().0, x.len() / VALUES);
        let s = Portable;
        Products::<_, F, BYTES, VALUES, 1, 1> { s, blocks, bytes, x, products, form: PhantomData }.call();
        true
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Any bytes at all, infinite and subnormal scales among them.
        #[test]
        fn blocks_of_any_bytes_are_what_candle_makes_of_them(bytes in prop::collection::vec(any::<u8>(), 3 * 210)) {
            for dtype in FORMS {
                let (size, values) = (dtype.type_size(), dtype.block_size());
                let count = bytes.len() / size;
                let bytes = &bytes[..count * size];
                let oracle = dtype.from_data(std::borrow::Cow::Borrowed(bytes)).dequantize(count * values);
                let Ok(CpuStorage::F32(expected)) = oracle else { panic!("{dtype:?} has no oracle") };
                let (mut fast, mut portable) = (vec![7f32; count * values], vec![7f32; count * values]);
                prop_assert!(widen(dtype, bytes, &mut fast));
                prop_assert!(with_form!(dtype, widen_portably(bytes, &mut portable)));
                // A corrupt file's infinite scale gives NaN here and infinity there.
                let same = |a: f32, b: f32| a == b || !a.is_finite() && !b.is_finite();
                for (i, expected) in expected.iter().enumerate() {
                    prop_assert!(same(fast[i], *expected), "{dtype:?}, value {i}: {} and {expected}", fast[i]);
                    prop_assert!(same(portable[i], *expected), "{dtype:?}, value {i}: {} and {expected}", portable[i]);
                }
            }
        }
    }

    /// Blocks whose f16 are all small numbers: bytes of 6 bits.
    fn tame(count: usize) -> Vec<u8> {
        (0..count).map(|i| (i * 7919 % 61) as u8).collect()
    }

    #[test]
    fn products_are_those_of_the_values_in_the_same_order() {
        for dtype in FORMS {
            let (blocks, out_features) = (3, 8);
            let (in_features, bytes) = (blocks * dtype.block_size(), tame(out_features * blocks * dtype.type_size()));
            let mut w = vec![0f32; out_features * in_features];
            assert!(widen(dtype, &bytes, &mut w));
            for rows in 1..=2 {
                let x: Vec<f32> = (0..rows * in_features).map(|i| (i as f32 * 0.71).sin()).collect();
                let mut fast = vec![0f32; rows * out_features];
                if !products(dtype, &bytes, in_features, &x, &mut fast) {
                    // A processor without AVX2: everything goes by the values.
                    return;
                }
                for (row, (x, fast)) in x.chunks(in_features).zip(fast.chunks(out_features)).enumerate() {
                    let mut alone = vec![0f32; out_features];
                    with_form!(dtype, products_portably(&bytes, x, &mut alone));
                    assert_eq!(fast, alone, "{dtype:?}, row {row} of {rows}");
                    for (w, fast) in w.chunks(in_features).zip(fast) {
                        let exact: f64 = w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                        let size: f64 = w.iter().zip(x).map(|(w, x)| f64::from(w * x).abs()).sum();
                        assert!((f64::from(*fast) - exact).abs() <= 1e-6 * size, "{dtype:?}: {fast} and {exact}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_has_no_fast_products_is_left_to_the_values() {
        let (bytes, x) = (tame(8 * 18), vec![1f32; 5 * 32]);
        assert!(!products(GgmlDType::Q4_0, &bytes, 32, &x, &mut [0.0; 40]), "five rows");
        assert!(!products(GgmlDType::Q4_0, &bytes[..5 * 18], 32, &x[..32], &mut [0.0; 5]), "an odd weight row");
        assert!(!products(GgmlDType::F32, &bytes, 32, &x[..32], &mut [0.0; 8]), "no blocks");
    }
}
