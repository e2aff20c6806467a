//! Values of GGUF's quantised blocks, in f32: bit for bit what candle makes of them, with vector instructions chosen at run time.
//!
//! Every form is unpacked to codes of 8 bits, sixteen of which share `code · d + m`. The product is exact in f32 (but for Q6_K,
//! whose m is 0), so that there is one rounding, fused or not.

use candle_core::quantized::GgmlDType;
use half::f16;
use pulp::{Arch, NullaryFnOnce};

/// Sixteen values: what a step of vector instructions makes.
const GROUP: usize = 16;

/// Writes the values of whole blocks. False: this form has no fast way here.
pub(super) fn widen(dtype: GgmlDType, bytes: &[u8], out: &mut [f32]) -> bool {
    let known = [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K].contains(&dtype);
    if known {
        Arch::new().dispatch(Widen { dtype, bytes, out });
    }
    known
}

use GgmlDType::{Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};

struct Widen<'a> {
    dtype: GgmlDType,
    bytes: &'a [u8],
    out: &'a mut [f32],
}

impl NullaryFnOnce for Widen<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        #[cfg(target_arch = "x86_64")]
        if let Some(v3) = pulp::x86::V3::try_new() {
            return self.with(v3);
        }
        self.with(Portable);
    }
}

impl Widen<'_> {
    #[inline(always)]
    fn with<S: Scaled>(self, s: S) {
        let Self { dtype, bytes, out } = self;
        // A macro, since a closure may become a function of its own, which would not have the vector instructions.
        macro_rules! each {
            ($write:ident) => {
                for (block, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
                    $write(s, block, out);
                }
            };
        }
        match dtype {
            Q4_0 => each!(q4_0),
            Q4_1 => each!(q4_1),
            Q5_0 => each!(q5_0),
            Q5_1 => each!(q5_1),
            Q8_0 => each!(q8_0),
            Q2K => each!(q2_k),
            Q3K => each!(q3_k),
            Q4K => each!(q4_k),
            Q5K => each!(q5_k),
            Q6K => each!(q6_k),
            _ => {}
        }
    }
}

/// What vector instructions do.
trait Scaled: Copy {
    /// `code · d + m` for sixteen codes.
    fn write(self, codes: [i8; GROUP], d: f32, m: f32, out: &mut [f32; GROUP]);

    /// Two f16, the first in the lower bits.
    fn halves(self, bits: u32) -> (f32, f32);
}

#[derive(Clone, Copy)]
struct Portable;

impl Scaled for Portable {
    #[inline(always)]
    fn write(self, codes: [i8; GROUP], d: f32, m: f32, out: &mut [f32; GROUP]) {
        out.iter_mut().zip(codes).for_each(|(out, code)| *out = f32::from(code) * d + m);
    }

    #[inline(always)]
    fn halves(self, bits: u32) -> (f32, f32) {
        (f16::from_bits(bits as u16).to_f32(), f16::from_bits((bits >> 16) as u16).to_f32())
    }
}

#[cfg(target_arch = "x86_64")]
impl Scaled for pulp::x86::V3 {
    #[inline(always)]
    fn write(self, codes: [i8; GROUP], d: f32, m: f32, out: &mut [f32; GROUP]) {
        let codes: std::arch::x86_64::__m128i = pulp::cast(codes);
        let (d, m) = (self.avx._mm256_set1_ps(d), self.avx._mm256_set1_ps(m));
        let low = self.avx2._mm256_cvtepi8_epi32(codes);
        let high = self.avx2._mm256_cvtepi8_epi32(self.sse2._mm_srli_si128::<8>(codes));
        let low = self.fma._mm256_fmadd_ps(self.avx._mm256_cvtepi32_ps(low), d, m);
        let high = self.fma._mm256_fmadd_ps(self.avx._mm256_cvtepi32_ps(high), d, m);
        *out = pulp::cast([low, high]);
    }

    /// Exponent and mantissa moved to their place and multiplied by 2¹¹², which is right for subnormal numbers too; what was
    /// infinite or NaN gets all bits of the exponent again.
    #[inline(always)]
    fn halves(self, bits: u32) -> (f32, f32) {
        const REBIAS: i32 = (127 + 127 - 15) << 23;
        let Self { sse, sse2, sse4_1, .. } = self;
        let bits = sse4_1._mm_cvtepu16_epi32(sse2._mm_cvtsi32_si128(bits as i32));
        let moved = sse2._mm_slli_epi32::<13>(sse2._mm_and_si128(bits, sse2._mm_set1_epi32(0x7fff)));
        let scaled = sse._mm_mul_ps(pulp::cast(moved), pulp::cast(sse2._mm_set1_epi32(REBIAS)));
        let special = sse2._mm_cmpgt_epi32(moved, sse2._mm_set1_epi32(0x0f7f_ffff));
        let exponent = sse2._mm_and_si128(special, sse2._mm_set1_epi32(0x7f80_0000));
        let sign = sse2._mm_slli_epi32::<16>(sse2._mm_and_si128(bits, sse2._mm_set1_epi32(0x8000)));
        let found: [f32; 4] = pulp::cast(sse2._mm_or_si128(sse2._mm_or_si128(pulp::cast(scaled), exponent), sign));
        (found[0], found[1])
    }
}

/// Two scales that lie side by side: f16, little-endian.
#[inline(always)]
fn two_halves<S: Scaled>(s: S, block: &[u8], at: usize) -> (f32, f32) {
    s.halves(u32::from_le_bytes(part(block, at)))
}

/// A scale.
#[inline(always)]
fn half<S: Scaled>(s: S, block: &[u8], at: usize) -> f32 {
    s.halves(u32::from(u16::from_le_bytes(part(block, at)))).0
}

/// `N` bytes from `at` on.
#[inline(always)]
fn part<const N: usize>(block: &[u8], at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&block[at..at + N]);
    part
}

/// The codes that `f` makes of each byte and its place.
#[inline(always)]
fn codes(bytes: [u8; GROUP], f: impl Fn(usize, u8) -> u8) -> [i8; GROUP] {
    let mut codes = [0i8; GROUP];
    let mut i = 0;
    while i < GROUP {
        codes[i] = f(i, bytes[i]) as i8;
        i += 1;
    }
    codes
}

/// The `i`-th sixteen values of a block.
#[inline(always)]
fn group<const N: usize>(out: &mut [f32; N], i: usize) -> &mut [f32; GROUP] {
    &mut out.as_chunks_mut::<GROUP>().0[i]
}

#[inline(always)]
fn q4_0<S: Scaled>(s: S, block: &[u8; 18], out: &mut [f32; 32]) {
    let (d, q) = (half(s, block, 0), part(block, 2));
    s.write(codes(q, |_, q| (q & 15).wrapping_sub(8)), d, 0.0, group(out, 0));
    s.write(codes(q, |_, q| (q >> 4).wrapping_sub(8)), d, 0.0, group(out, 1));
}

#[inline(always)]
fn q4_1<S: Scaled>(s: S, block: &[u8; 20], out: &mut [f32; 32]) {
    let ((d, m), q) = (two_halves(s, block, 0), part(block, 4));
    s.write(codes(q, |_, q| q & 15), d, m, group(out, 0));
    s.write(codes(q, |_, q| q >> 4), d, m, group(out, 1));
}

/// The fifth bits of 32 codes: a byte of 16 or 0 each.
#[inline(always)]
fn fifth_bits(block: &[u8], at: usize) -> [[u8; GROUP]; 2] {
    let bits = u32::from_le_bytes(part(block, at));
    let mut fifth = [[0; GROUP]; 2];
    for i in 0..2 * GROUP {
        fifth[i / GROUP][i % GROUP] = ((bits >> i & 1) << 4) as u8;
    }
    fifth
}

#[inline(always)]
fn q5_0<S: Scaled>(s: S, block: &[u8; 22], out: &mut [f32; 32]) {
    let (d, [low, high], q) = (half(s, block, 0), fifth_bits(block, 2), part(block, 6));
    s.write(codes(q, |i, q| (q & 15 | low[i]).wrapping_sub(16)), d, 0.0, group(out, 0));
    s.write(codes(q, |i, q| (q >> 4 | high[i]).wrapping_sub(16)), d, 0.0, group(out, 1));
}

#[inline(always)]
fn q5_1<S: Scaled>(s: S, block: &[u8; 24], out: &mut [f32; 32]) {
    let ((d, m), [low, high], q) = (two_halves(s, block, 0), fifth_bits(block, 4), part(block, 8));
    s.write(codes(q, |i, q| q & 15 | low[i]), d, m, group(out, 0));
    s.write(codes(q, |i, q| q >> 4 | high[i]), d, m, group(out, 1));
}

#[inline(always)]
fn q8_0<S: Scaled>(s: S, block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half(s, block, 0);
    for i in 0..2 {
        s.write(codes(part(block, 2 + i * GROUP), |_, q| q), d, 0.0, group(out, i));
    }
}

/// Scales of 4 bits, minima of 4 bits; codes of 2 bits.
#[inline(always)]
fn q2_k<S: Scaled>(s: S, block: &[u8; 84], out: &mut [f32; 256]) {
    let (d, min) = two_halves(s, block, 80);
    for i in 0..16 {
        // 128 values, the two bits of each byte that are theirs, and the half of 32 bytes.
        let (run, shift, side) = (i / 8, 2 * (i % 8 / 2), i % 2);
        let (scale, q) = (block[i], part(block, 16 + 32 * run + GROUP * side));
        let m = -(min * f32::from(scale >> 4));
        s.write(codes(q, |_, q| q >> shift & 3), d * f32::from(scale & 15), m, group(out, i));
    }
}

/// Scales of 6 bits; codes of 3 bits, whose third lies in the block's first 32 bytes.
#[inline(always)]
fn q3_k<S: Scaled>(s: S, block: &[u8; 110], out: &mut [f32; 256]) {
    let d = half(s, block, 108);
    for i in 0..16 {
        let (run, shift, side) = (i / 8, 2 * (i % 8 / 2), i % 2);
        let low = block[96 + i % 8] >> (4 * (i / 8)) & 15;
        let high = block[104 + i % 4] >> (2 * (i / 4)) & 3;
        let scale = f32::from(low | high << 4) - 32.0;
        let third: [u8; GROUP] = part(block, GROUP * side);
        let q = part(block, 32 + 32 * run + GROUP * side);
        let code = |i: usize, q: u8| (q >> shift & 3).wrapping_sub(4 * (!third[i] >> (4 * run + shift / 2) & 1));
        s.write(codes(q, code), d * scale, 0.0, group(out, i));
    }
}

/// The `i`-th of eight scales and minima of 6 bits each.
#[inline(always)]
fn scale_and_min(block: &[u8], i: usize) -> (f32, f32) {
    let at = |i: usize| block[4 + i];
    let (scale, min) = match i {
        0..4 => (at(i) & 63, at(i + 4) & 63),
        _ => (at(i + 4) & 15 | at(i - 4) >> 6 << 4, at(i + 4) >> 4 | at(i) >> 6 << 4),
    };
    (f32::from(scale), f32::from(min))
}

#[inline(always)]
fn q4_k<S: Scaled>(s: S, block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, min) = two_halves(s, block, 0);
    for i in 0..8 {
        let (scale, m) = scale_and_min(block, i);
        for side in 0..2 {
            let q = part(block, 16 + 32 * (i / 2) + GROUP * side);
            let shift = 4 * (i % 2);
            s.write(codes(q, |_, q| q >> shift & 15), d * scale, -(min * m), group(out, 2 * i + side));
        }
    }
}

#[inline(always)]
fn q5_k<S: Scaled>(s: S, block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, min) = two_halves(s, block, 0);
    for i in 0..8 {
        let (scale, m) = scale_and_min(block, i);
        for side in 0..2 {
            let fifth: [u8; GROUP] = part(block, 16 + GROUP * side);
            let q = part(block, 48 + 32 * (i / 2) + GROUP * side);
            let shift = 4 * (i % 2);
            let code = |at: usize, q: u8| q >> shift & 15 | (fifth[at] >> i & 1) << 4;
            s.write(codes(q, code), d * scale, -(min * m), group(out, 2 * i + side));
        }
    }
}

/// Scales of 8 bits for sixteen values each; codes of 6 bits, whose upper two lie apart.
#[inline(always)]
fn q6_k<S: Scaled>(s: S, block: &[u8; 210], out: &mut [f32; 256]) {
    let d = half(s, block, 208);
    for i in 0..16 {
        // 128 values, a quarter of them, and half of that.
        let (run, quarter, side) = (i / 8, i % 8 / 2, i % 2);
        let low = part(block, 64 * run + 32 * (quarter % 2) + GROUP * side);
        let high: [u8; GROUP] = part(block, 128 + 32 * run + GROUP * side);
        let code = |at: usize, q: u8| {
            let low = q >> (4 * (quarter / 2)) & 15;
            (low | (high[at] >> (2 * quarter) & 3) << 4).wrapping_sub(32)
        };
        let scale = f32::from(block[192 + i] as i8);
        s.write(codes(low, code), d * scale, 0.0, group(out, i));
    }
}

#[cfg(test)]
mod tests {
    use candle_core::CpuStorage;
    use proptest::prelude::*;

    use super::*;

    const FORMS: [GgmlDType; 10] = [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K];

    fn same(a: f32, b: f32) -> bool {
        a == b || a.is_nan() && b.is_nan()
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
                Widen { dtype, bytes, out: &mut portable }.with(Portable);
                for (i, expected) in expected.iter().enumerate() {
                    prop_assert!(same(fast[i], *expected), "{dtype:?}, value {i}: {} and {expected}", fast[i]);
                    prop_assert!(same(portable[i], *expected), "{dtype:?}, value {i}: {} and {expected}", portable[i]);
                }
            }
        }
    }

    #[test]
    fn halves_are_read_exactly() {
        struct Read(u32);
        impl NullaryFnOnce for Read {
            type Output = (f32, f32);

            fn call(self) -> (f32, f32) {
                #[cfg(target_arch = "x86_64")]
                if let Some(v3) = pulp::x86::V3::try_new() {
                    return v3.halves(self.0);
                }
                Portable.halves(self.0)
            }
        }
        for bits in 0..=u16::MAX {
            let got = Arch::new().dispatch(Read(u32::from(bits) | u32::from(!bits) << 16));
            let expected = (f16::from_bits(bits).to_f32(), f16::from_bits(!bits).to_f32());
            assert!(same(got.0, expected.0) && same(got.1, expected.1), "{bits:#06x}: {got:?} and {expected:?}");
        }
    }
}
