//! Two normals together.

use statrs::distribution::{ContinuousCDF, Normal};

/// Nodes and weights of Gauss and Legendre on [0, 1], for [`bivariate_normal`]: ten, used on each of eight parts.
const NODES: [(f64, f64); 5] = [
    (0.148_874_338_981_631_2, 0.295_524_224_714_752_9),
    (0.433_395_394_129_247_2, 0.269_266_719_309_996_4),
    (0.679_409_568_299_024_4, 0.219_086_362_515_982_04),
    (0.865_063_366_688_984_5, 0.149_451_349_150_580_6),
    (0.973_906_528_517_171_7, 0.066_671_344_308_688_14),
];

/// P(X ≤ h, Y ≤ k) of two standard normals with this correlation.
///
/// Φ(h)Φ(k) + (1/2π) ∫₀^asin ρ exp(−(h² + k² − 2hk sin t) / (2cos² t)) dt; Drezner and Wesolowsky, J. Stat. Comput. Simul. 35 (1990) 101.
pub(super) fn bivariate_normal(h: f64, k: f64, correlation: f64) -> f64 {
    const PARTS: usize = 8;
    let normal = Normal::standard();
    let independent = normal.cdf(h) * normal.cdf(k);
    let end = correlation.clamp(-1.0, 1.0).asin();
    let density = |t: f64| {
        let cosine2 = t.cos().powi(2);
        if cosine2 <= 0.0 { 0.0 } else { (-(h * h + k * k - 2.0 * h * k * t.sin()) / (2.0 * cosine2)).exp() }
    };
    let half = end / (2 * PARTS) as f64;
    let part = |i: usize| {
        let centre = half * (2 * i + 1) as f64;
        let node = |(x, weight): &(f64, f64)| weight * (density(centre - half * x) + density(centre + half * x));
        NODES.iter().map(node).sum::<f64>() * half
    };
    let integral: f64 = (0..PARTS).map(part).sum();
    (independent + integral / std::f64::consts::TAU).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::super::tests::close;
    use super::*;

    #[test]
    fn the_bivariate_normal_agrees_with_scipy() {
        // scipy.stats.multivariate_normal(cov=[[1, r], [r, 1]]).cdf([h, k])
        let computed = [
            (0.5, -0.3, 0.4, 0.317_126_928_3),
            (-1.2, 0.8, -0.7, 0.036_054_117_6),
            (1.5, 1.0, 0.95, 0.839_948_973_4),
            (-2.0, -1.0, 0.2, 0.006_741_575_2),
        ];
        for (h, k, r, expected) in computed {
            close(bivariate_normal(h, k, r), expected, 1e-7);
        }
        // At (0, 0) it is ¼ + asin ρ / 2π.
        for r in [-0.9, -0.3, 0.5, 0.99_f64] {
            close(bivariate_normal(0.0, 0.0, r), 0.25 + r.asin() / std::f64::consts::TAU, 1e-9);
        }
    }
}
