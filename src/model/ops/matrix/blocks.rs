//! Values of GGUF's quantised blocks, in f32: bit for bit what candle makes of them wherever that is finite.
//!
//! Every form is unpacked to codes of 8 bits, sixteen of which share `code · d + m`. Where that is `(code - c) · d`, m is −c · d:
//! products and sum are exact in f32, so that there is one rounding at most, fused or not.

use super::vectors::{GROUP, Vectors};

/// A form of blocks: each of `BYTES` bytes, which hold `VALUES` values.
pub(super) trait Form<const BYTES: usize, const VALUES: usize> {
    /// Gives the sink the block's values, sixteen at a time.
    fn unpack<S: Vectors>(s: S, block: &[u8; BYTES], sink: &mut impl Sink<S>);
}

/// Where a block's values go.
pub(super) trait Sink<S: Vectors> {
    /// The `group`-th sixteen values of the block.
    fn put(&mut self, s: S, group: usize, values: S::Values);
}

/// Two scales that lie side by side: f16, little-endian.
#[inline(always)]
fn two_halves<S: Vectors>(s: S, block: &[u8], at: usize) -> [S::Scale; 2] {
    s.halves(u32::from_le_bytes(part(block, at)))
}

/// A scale.
#[inline(always)]
fn half<S: Vectors>(s: S, block: &[u8], at: usize) -> S::Scale {
    s.half(u16::from_le_bytes(part(block, at)))
}

/// `N` bytes from `at` on.
#[inline(always)]
fn part<const N: usize>(block: &[u8], at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&block[at..at + N]);
    part
}

/// Sixteen bytes from `at` on.
#[inline(always)]
fn bytes<S: Vectors>(s: S, block: &[u8], at: usize) -> S::Bytes {
    s.load(part(block, at))
}

/// 32 codes of 4 bits, the lower half of each byte first, and with them higher bits where there are some.
#[inline(always)]
fn nibbles<S: Vectors>(
    s: S,
    q: S::Bytes,
    higher: Option<[S::Bytes; 2]>,
    [d, m]: [S::Scale; 2],
    sink: &mut impl Sink<S>,
) {
    let [mut low, mut high] = [s.bits(q, 0, 15), s.bits(q, 4, 15)];
    if let Some(higher) = higher {
        [low, high] = [s.or(low, higher[0]), s.or(high, higher[1])];
    }
    sink.put(s, 0, s.scaled(low, d, m));
    sink.put(s, 1, s.scaled(high, d, m));
}

/// The fifth bits of 32 codes, in their place.
#[inline(always)]
fn fifth_bits<S: Vectors>(s: S, block: &[u8], at: usize) -> Option<[S::Bytes; 2]> {
    let bits = |at| s.spread(u16::from_le_bytes(part(block, at)), 16);
    Some([bits(at), bits(at + 2)])
}

pub(super) struct Q4_0;

impl Form<18, 32> for Q4_0 {
    #[inline(always)]
    fn unpack<S: Vectors>(s: S, block: &[u8; 18], sink: &mut impl Sink<S>) {
        let d = half(s, block, 0);
        nibbles(s, bytes(s, block, 2), None, [d, s.times(d, -8.0)], sink);
    }
}

pub(super) struct Q4_1;

impl Form<20, 32> for Q4_1 {
    #[inline(always)]
    fn unpack<S: Vectors>(s: S, block: &[u8; 20], sink: &mut impl Sink<S>) {
        nibbles(s, bytes(s, block, 4), None, two_halves(s, block, 0), sink);
    }
}

pub(super) struct Q5_0;

impl Form<22, 32> for Q5_0 {
    #[inline(always)]
    fn unpack<S: Vectors>(s: S, block: &[u8; 22], sink: &mut impl Sink<S>) {
        let d = half(s, block, 0);
        nibbles(s, bytes(s, block, 6), fifth_bits(s, block, 2), [d, s.times(d, -16.0)], sink);
    }
}

pub(super) struct Q5_1;

impl Form<24, 32> for Q5_1 {
    #[inline(always)]
    fn unpack<S: Vectors>(s: S, block: &[u8; 24], sink: &mut impl Sink<S>) {
        nibbles(s, bytes(s, block, 8), fifth_bits(s, block, 4), two_halves(s, block, 0), sink);
    }
}

pub(super) struct Q8_0;

impl Form<34, 32> for Q8_0 {
    #[inline(always)]
    fn unpack<S: Vectors>(s: S, block: &[u8; 34], sink: &mut impl Sink<S>) {
        let d = half(s, block, 0);
        sink.put(s, 0, s.scaled_signed(part(block, 2), d));
        sink.put(s, 1, s.scaled_signed(part(block, 2 + GROUP), d));
    }
}

/// Scales of 4 bits, minima of 4 bits; codes of 2 bits.
pub(super) struct Q2K;

impl Form<84, 256> for Q2K {
    #[inline(always)]
    fn unpack<S: Vectors>(s: S, block: &[u8; 84], sink: &mut impl Sink<S>) {
        let [d, min] = two_halves(s, block, 80);
        for i in 0..16 {
            // 128 values, the two bits of each byte that are theirs, and the half of 32 bytes.
            let (run, shift, side) = (i / 8, 2 * (i as i32 % 8 / 2), i % 2);
            let (scale, q) = (block[i], bytes(s, block, 16 + 32 * run + GROUP * side));
            let (d, m) = (s.times(d, f32::from(scale & 15)), s.times(min, -f32::from(scale >> 4)));
            sink.put(s, i, s.scaled(s.bits(q, shift, 3), d, m));
        }
    }
}

/// Scales of 6 bits; codes of 3 bits, whose third lies in the block's first 32 bytes.
pub(super) struct Q3K;

impl Form<110, 256> for Q3K {
    #[inline(always)]
    fn unpack<S: Vectors>(s: S, block: &[u8; 110], sink: &mut impl Sink<S>) {
        let d = half(s, block, 108);
        for i in 0..16 {
            let (run, shift, side) = (i / 8, 2 * (i as i32 % 8 / 2), i % 2);
            let low = block[96 + i % 8] >> (4 * (i / 8)) & 15;
            let high = block[104 + i % 4] >> (2 * (i / 4)) & 3;
            let d = s.times(d, f32::from(low | high << 4) - 32.0);
            let third = bytes(s, block, GROUP * side);
            let q = bytes(s, block, 32 + 32 * run + GROUP * side);
            let third = s.bits(third, 4 * run as i32 + shift / 2 - 2, 4);
            sink.put(s, i, s.scaled(s.or(s.bits(q, shift, 3), third), d, s.times(d, -4.0)));
        }
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

pub(super) struct Q4K;

impl Form<144, 256> for Q4K {
    #[inline(always)]
    fn unpack<S: Vectors>(s: S, block: &[u8; 144], sink: &mut impl Sink<S>) {
        let [d, min] = two_halves(s, block, 0);
        for i in 0..8 {
            let (scale, minimum) = scale_and_min(block, i);
            let (d, m) = (s.times(d, scale), s.times(min, -minimum));
            for side in 0..2 {
                let q = bytes(s, block, 16 + 32 * (i / 2) + GROUP * side);
                let shift = 4 * (i as i32 % 2);
                sink.put(s, 2 * i + side, s.scaled(s.bits(q, shift, 15), d, m));
            }
        }
    }
}

pub(super) struct Q5K;

impl Form<176, 256> for Q5K {
    #[inline(always)]
    fn unpack<S: Vectors>(s: S, block: &[u8; 176], sink: &mut impl Sink<S>) {
        let [d, min] = two_halves(s, block, 0);
        for i in 0..8 {
            let (scale, minimum) = scale_and_min(block, i);
            let (d, m) = (s.times(d, scale), s.times(min, -minimum));
            for side in 0..2 {
                let fifth = bytes(s, block, 16 + GROUP * side);
                let q = bytes(s, block, 48 + 32 * (i / 2) + GROUP * side);
                let shift = 4 * (i as i32 % 2);
                let codes = s.or(s.bits(q, shift, 15), s.bits(fifth, i as i32 - 4, 16));
                sink.put(s, 2 * i + side, s.scaled(codes, d, m));
            }
        }
    }
}

/// Scales of 8 bits for sixteen values each; codes of 6 bits, whose upper two lie apart.
pub(super) struct Q6K;

impl Form<210, 256> for Q6K {
    #[inline(always)]
    fn unpack<S: Vectors>(s: S, block: &[u8; 210], sink: &mut impl Sink<S>) {
        let d = half(s, block, 208);
        for i in 0..16 {
            // 128 values, a quarter of them, and half of that.
            let (run, quarter, side) = (i / 8, i as i32 % 8 / 2, i % 2);
            let low = bytes(s, block, 64 * run + 32 * (i / 2 % 2) + GROUP * side);
            let high = bytes(s, block, 128 + 32 * run + GROUP * side);
            let codes = s.or(s.bits(low, 4 * (quarter / 2), 15), s.bits(high, 2 * quarter - 4, 48));
            let d = s.times(d, f32::from(block[192 + i] as i8));
            sink.put(s, i, s.scaled(codes, d, s.times(d, -32.0)));
        }
    }
}
