//! AdamW with decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101), as torch computes it, with a state that can be
//! saved.

/// Constants of AdamW.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdamWConfig {
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    pub(crate) eps: f64,
    pub(crate) weight_decay: f64,
}

/// First and second moments of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Moments {
    pub(crate) first: Vec<f32>,
    pub(crate) second: Vec<f32>,
}

impl Moments {
    pub(crate) fn zero(len: usize) -> Self {
        Self { first: vec![0.0; len], second: vec![0.0; len] }
    }
}

impl AdamWConfig {
    /// Step `t` (from 1): p ← p·(1 − lr·λ) − lr · m̂ / (√v̂ + ε).
    pub(crate) fn step(&self, t: usize, lr: f64, parameters: &mut [f32], gradient: &[f32], moments: &mut Moments) {
        let (b1, b2) = (self.beta1 as f32, self.beta2 as f32);
        let power = i32::try_from(t).unwrap_or(i32::MAX);
        let size = (lr / (1.0 - self.beta1.powi(power))) as f32;
        let root = (1.0 - self.beta2.powi(power)).sqrt() as f32;
        let keep = (1.0 - lr * self.weight_decay) as f32;
        let eps = self.eps as f32;
        let state = moments.first.iter_mut().zip(&mut moments.second);
        for ((p, g), (m, v)) in parameters.iter_mut().zip(gradient).zip(state) {
            *m += (g - *m) * (1.0 - b1);
            *v = *v * b2 + g * g * (1.0 - b2);
            *p = *p * keep - size * *m / (v.sqrt() / root + eps);
        }
    }
}

/// Norm of the whole gradient.
pub(crate) fn norm<'g>(gradients: impl Iterator<Item = &'g Vec<f32>>) -> f64 {
    gradients.flatten().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of torch.optim.AdamW(lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01) on p = [1, -2], gradients
    /// [0.5, 0.25] then [-1, 0.25].
    #[test]
    fn two_steps_agree_with_torch() {
        let config = AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 };
        let (mut p, mut moments) = (vec![1.0, -2.0], Moments::zero(2));
        config.step(1, 0.1, &mut p, &[0.5, 0.25], &mut moments);
        let close = |got: &[f32], want: [f32; 2]| got.iter().zip(want).all(|(g, w)| (g - w).abs() < 2e-6);
        assert!(close(&p, [0.899, -2.098]), "{p:?}");
        config.step(2, 0.1, &mut p, &[-1.0, 0.25], &mut moments);
        assert!(close(&p, [0.934_711_2, -2.195_902]), "{p:?}");
    }

    #[test]
    fn the_norm_is_over_all_tensors() {
        assert!((norm([vec![3.0f32], vec![0.0, 4.0]].iter()) - 5.0).abs() < 1e-12);
    }
}
