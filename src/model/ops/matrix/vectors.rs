//! The vector instructions that unpack blocks, chosen at run time.

use half::f16;
use pulp::f32x8;

/// Values that share a scale.
pub(super) const GROUP: usize = 16;

/// What vector instructions do with sixteen bytes, and with the sixteen values that they become.
pub(super) trait Vectors: Copy {
    /// Sixteen bytes.
    type Bytes: Copy;
    /// What values are multiplied by, or are added to.
    type Scale: Copy;
    /// Sixteen values.
    type Values: Copy;

    fn load(self, bytes: [u8; GROUP]) -> Self::Bytes;

    /// `byte >> shift & mask`, to the left where `shift` is negative. The mask has bits of the byte alone.
    fn bits(self, bytes: Self::Bytes, shift: i32, mask: u8) -> Self::Bytes;

    /// `mask` where one of sixteen bits is 1, else 0.
    fn spread(self, bits: u16, mask: u8) -> Self::Bytes;

    fn or(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;

    /// `code · d + m`.
    fn scaled(self, codes: Self::Bytes, d: Self::Scale, m: Self::Scale) -> Self::Values;

    /// `code · d` for signed codes.
    fn scaled_signed(self, codes: [u8; GROUP], d: Self::Scale) -> Self::Values;

    /// An f16.
    fn half(self, bits: u16) -> Self::Scale;

    /// Two f16, the first in the lower bits.
    fn halves(self, bits: u32) -> [Self::Scale; 2];

    fn times(self, scale: Self::Scale, factor: f32) -> Self::Scale;

    /// Writes the values.
    fn store(self, values: Self::Values, out: &mut [f32; GROUP]);

    /// sum + values · x, in eight sums, of which each adds every eighth product in order.
    fn add_products(self, values: Self::Values, x: &[f32; GROUP], sum: f32x8) -> f32x8;

    /// The eight sums in one, as `Simd::reduce_sum_f32s` adds them.
    fn total(self, sum: f32x8) -> f32;
}

/// What any processor does, and the oracle of the others.
#[derive(Clone, Copy)]
pub(super) struct Portable;

impl Vectors for Portable {
    type Bytes = [u8; GROUP];
    type Scale = f32;
    type Values = [f32; GROUP];

    #[inline(always)]
    fn load(self, bytes: [u8; GROUP]) -> [u8; GROUP] {
        bytes
    }

    #[inline(always)]
    fn bits(self, mut bytes: [u8; GROUP], shift: i32, mask: u8) -> [u8; GROUP] {
        let moved = |byte: u8| if shift < 0 { byte << -shift } else { byte >> shift };
        bytes.iter_mut().for_each(|byte| *byte = moved(*byte) & mask);
        bytes
    }

    #[inline(always)]
    fn spread(self, bits: u16, mask: u8) -> [u8; GROUP] {
        let mut bytes = [0; GROUP];
        bytes.iter_mut().enumerate().for_each(|(i, byte)| *byte = if bits >> i & 1 == 1 { mask } else { 0 });
        bytes
    }

    #[inline(always)]
    fn or(self, mut a: [u8; GROUP], b: [u8; GROUP]) -> [u8; GROUP] {
        a.iter_mut().zip(b).for_each(|(a, b)| *a |= b);
        a
    }

    #[inline(always)]
    fn scaled(self, codes: [u8; GROUP], d: f32, m: f32) -> [f32; GROUP] {
        let mut values = [0.0; GROUP];
        values.iter_mut().zip(codes).for_each(|(value, code)| *value = f32::from(code) * d + m);
        values
    }

    #[inline(always)]
    fn scaled_signed(self, codes: [u8; GROUP], d: f32) -> [f32; GROUP] {
        let mut values = [0.0; GROUP];
        values.iter_mut().zip(codes).for_each(|(value, code)| *value = f32::from(code as i8) * d);
        values
    }

    #[inline(always)]
    fn half(self, bits: u16) -> f32 {
        f16::from_bits(bits).to_f32()
    }

    #[inline(always)]
    fn halves(self, bits: u32) -> [f32; 2] {
        [self.half(bits as u16), self.half((bits >> 16) as u16)]
    }

    #[inline(always)]
    fn times(self, scale: f32, factor: f32) -> f32 {
        scale * factor
    }

    #[inline(always)]
    fn store(self, values: [f32; GROUP], out: &mut [f32; GROUP]) {
        *out = values;
    }

    #[inline(always)]
    fn add_products(self, values: [f32; GROUP], x: &[f32; GROUP], sum: f32x8) -> f32x8 {
        let mut sums: [f32; 8] = pulp::cast(sum);
        for (i, (value, x)) in values.iter().zip(x).enumerate() {
            sums[i % 8] = value.mul_add(*x, sums[i % 8]);
        }
        pulp::cast(sums)
    }

    #[inline(always)]
    fn total(self, sum: f32x8) -> f32 {
        let s: [f32; 8] = pulp::cast(sum);
        let mut four = [0.0; 4];
        for i in 0..4 {
            four[i] = s[i] + s[i + 4];
        }
        (four[0] + four[2]) + (four[1] + four[3])
    }
}

/// The fastest vectors for this architecture, which sum by eight; a processor may lack them.
#[cfg(target_arch = "x86_64")]
pub(super) type Fastest = Avx2;
#[cfg(not(target_arch = "x86_64"))]
pub(super) type Fastest = Portable;

#[cfg(not(target_arch = "x86_64"))]
impl Portable {
    pub(super) fn try_new() -> Option<Self> {
        None
    }

    pub(super) fn vectorize<F: pulp::NullaryFnOnce>(self, f: F) -> F::Output {
        f.call()
    }
}

#[cfg(target_arch = "x86_64")]
pulp::simd_type! {
    /// AVX2, FMA and the conversion of f16, which `pulp::x86::V3` lacks.
    pub(super) struct Avx2 {
        pub sse: "sse",
        pub sse2: "sse2",
        pub ssse3: "ssse3",
        pub sse4_1: "sse4.1",
        pub avx: "avx",
        pub avx2: "avx2",
        pub bmi1: "bmi1",
        pub bmi2: "bmi2",
        pub fma: "fma",
        pub f16c: "f16c",
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{__m128, __m256, __m256i, _mm_cvtph_ps, _mm256_cvtph_ps};

    use super::*;

    /// Places of the first eight codes, and of the last eight, each as the lowest byte of 32 bits. A place past 127 gives 0.
    const PLACES: [[u8; 2 * GROUP]; 2] = {
        let mut places = [[128; 2 * GROUP]; 2];
        let mut i = 0;
        while i < GROUP {
            places[i / 8][4 * (i % 8)] = i as u8;
            i += 1;
        }
        places
    };

    impl Vectors for Avx2 {
        /// The sixteen twice: each half of a vector has all of them, since no instruction takes bytes from one to the other.
        type Bytes = __m256i;
        type Scale = __m256;
        type Values = [__m256; 2];

        #[inline(always)]
        fn load(self, bytes: [u8; GROUP]) -> __m256i {
            self.avx2._mm256_broadcastsi128_si256(pulp::cast(bytes))
        }

        /// By sixteen bits at a time, which takes bits across bytes: not those of a mask for the byte alone.
        #[inline(always)]
        fn bits(self, bytes: __m256i, shift: i32, mask: u8) -> __m256i {
            let count = self.sse2._mm_cvtsi32_si128(shift.abs());
            let moved = match shift {
                ..0 => self.avx2._mm256_sll_epi16(bytes, count),
                0 => bytes,
                1.. => self.avx2._mm256_srl_epi16(bytes, count),
            };
            self.avx2._mm256_and_si256(moved, self.avx._mm256_set1_epi8(mask as i8))
        }

        #[inline(always)]
        fn spread(self, bits: u16, mask: u8) -> __m256i {
            let bit = self.avx._mm256_set1_epi64x(i64::from_le_bytes([1, 2, 4, 8, 16, 32, 64, 128]));
            let first_or_second = pulp::cast([[0u8; 8], [1; 8], [0; 8], [1; 8]]);
            let bytes = self.avx2._mm256_shuffle_epi8(self.avx._mm256_set1_epi16(bits as i16), first_or_second);
            let is_set = self.avx2._mm256_cmpeq_epi8(self.avx2._mm256_and_si256(bytes, bit), bit);
            self.avx2._mm256_and_si256(is_set, self.avx._mm256_set1_epi8(mask as i8))
        }

        #[inline(always)]
        fn or(self, a: __m256i, b: __m256i) -> __m256i {
            self.avx2._mm256_or_si256(a, b)
        }

        #[inline(always)]
        fn scaled(self, codes: __m256i, d: __m256, m: __m256) -> [__m256; 2] {
            let low = self.avx2._mm256_shuffle_epi8(codes, pulp::cast(PLACES[0]));
            let high = self.avx2._mm256_shuffle_epi8(codes, pulp::cast(PLACES[1]));
            [
                self.fma._mm256_fmadd_ps(self.avx._mm256_cvtepi32_ps(low), d, m),
                self.fma._mm256_fmadd_ps(self.avx._mm256_cvtepi32_ps(high), d, m),
            ]
        }

        #[inline(always)]
        fn scaled_signed(self, codes: [u8; GROUP], d: __m256) -> [__m256; 2] {
            // Each half from memory, as the instruction takes it.
            let [low, high]: [i64; 2] = pulp::cast(codes);
            let low = self.avx2._mm256_cvtepi8_epi32(pulp::cast([low, 0]));
            let high = self.avx2._mm256_cvtepi8_epi32(pulp::cast([high, 0]));
            [
                self.avx._mm256_mul_ps(self.avx._mm256_cvtepi32_ps(low), d),
                self.avx._mm256_mul_ps(self.avx._mm256_cvtepi32_ps(high), d),
            ]
        }

        /// Converted in all places: of one alone, the others would come from some register, and wait for what it is written by.
        #[inline(always)]
        #[expect(unsafe_code, reason = "pulp has no name for this instruction")]
        fn half(self, bits: u16) -> __m256 {
            // SAFETY: `self` is a proof that the processor has f16c.
            unsafe { _mm256_cvtph_ps(self.sse2._mm_set1_epi16(bits as i16)) }
        }

        #[inline(always)]
        #[expect(unsafe_code, reason = "pulp has no name for this instruction")]
        fn halves(self, bits: u32) -> [__m256; 2] {
            // SAFETY: as above.
            let found: __m128 = unsafe { _mm_cvtph_ps(self.sse2._mm_cvtsi32_si128(bits as i32)) };
            let found: [f32; 4] = pulp::cast(found);
            [self.avx._mm256_set1_ps(found[0]), self.avx._mm256_set1_ps(found[1])]
        }

        #[inline(always)]
        fn times(self, scale: __m256, factor: f32) -> __m256 {
            self.avx._mm256_mul_ps(scale, self.avx._mm256_set1_ps(factor))
        }

        #[inline(always)]
        fn store(self, values: [__m256; 2], out: &mut [f32; GROUP]) {
            *out = pulp::cast(values);
        }

        #[inline(always)]
        fn add_products(self, values: [__m256; 2], x: &[f32; GROUP], sum: f32x8) -> f32x8 {
            let [low, high]: [__m256; 2] = pulp::cast(*x);
            let sum = self.fma._mm256_fmadd_ps(values[0], low, pulp::cast(sum));
            pulp::cast(self.fma._mm256_fmadd_ps(values[1], high, sum))
        }

        #[inline(always)]
        fn total(self, sum: f32x8) -> f32 {
            let sum: __m256 = pulp::cast(sum);
            let four =
                self.sse._mm_add_ps(self.avx._mm256_castps256_ps128(sum), self.avx._mm256_extractf128_ps::<1>(sum));
            let four: [f32; 4] = pulp::cast(four);
            (four[0] + four[2]) + (four[1] + four[3])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn halves_are_read_exactly() {
        let Some(avx2) = Avx2::try_new() else { return };
        for bits in 0..=u16::MAX {
            let both = u32::from(bits) | u32::from(!bits) << 16;
            let first = |scale: std::arch::x86_64::__m256| pulp::cast::<_, [f32; 8]>(scale)[0];
            let [low, high] = avx2.halves(both);
            let expected = Portable.halves(both);
            for (got, expected) in [(low, expected[0]), (high, expected[1]), (avx2.half(bits), expected[0])] {
                let got = first(got);
                assert!(got == expected || got.is_nan() && expected.is_nan(), "{bits:#06x}: {got} and {expected}");
            }
        }
    }
}
