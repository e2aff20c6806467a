//! Rounding to bf16, in f32.

use pulp::{Arch, Simd, WithSimd};

/// Rounds to the nearest bf16, of two equally near ones to the even one.
pub(crate) fn round(values: &mut [f32]) {
    struct Round<'a>(&'a mut [f32]);

    impl WithSimd for Round<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) {
            for value in self.0 {
                let bits = value.to_bits();
                let nearest = bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) & 0xFFFF_0000;
                *value = if value.is_nan() { *value } else { f32::from_bits(nearest) };
            }
        }
    }

    Arch::new().dispatch(Round(values));
}

/// The values, rounded.
pub(crate) fn rounded(values: &[f32]) -> Vec<f32> {
    let mut values = values.to_vec();
    round(&mut values);
    values
}
