//! Null adapters: random, and as large as a given one. What they do to a model is what any change of that size does.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Adapter, Module, named, uniform};
use crate::model::architecture::outline::Outline;
use crate::random::mix;

/// Rank of a null adapter that is like no other.
const RANK: usize = 8;

impl Adapter {
    /// A random adapter of rank 8 on every linear layer; its values depend on the seed and the layers' names alone.
    pub(crate) fn null(outline: &Outline, base: &str, seed: u64) -> Self {
        let module = |(path, shape): (&String, &[usize; 2])| (path.clone(), Module::random(path, *shape, RANK, seed));
        Self { modules: outline.layers.iter().map(module).collect(), ..Self::empty(base, RANK) }
    }

    /// A random adapter with the modules, ranks and Frobenius norms ‖s·B·A‖ of this one. Lengths, biases and whole matrices are left out.
    pub(crate) fn null_like(&self, seed: u64) -> Self {
        let module = |(path, own): (&String, &Module)| {
            let mut random = Module::random(path, [own.out_features, own.in_features], own.rank, seed);
            let (wanted, there) = (own.norm(), random.norm());
            let factor = if there > 0.0 { (wanted / there) as f32 } else { 0.0 };
            random.b.iter_mut().for_each(|value| *value *= factor);
            (path.clone(), random)
        };
        Self { modules: self.modules.iter().map(module).collect(), ..Self::empty(&self.base, self.r) }
    }

    fn empty(base: &str, r: usize) -> Self {
        Self {
            r,
            alpha: r as f64,
            dropout: 0.0,
            base: base.to_owned(),
            revision: None,
            path: PathBuf::new(),
            targets: None,
            modules: BTreeMap::new(),
            saved: BTreeMap::new(),
        }
    }
}

impl Module {
    /// A and B uniform in ±1/√in and ±1/√rank: the product moves an output by about as much as its inputs are large, over √in.
    fn random(path: &str, [out_features, in_features]: [usize; 2], rank: usize, seed: u64) -> Self {
        let name = named(mix(seed), path);
        let (a, b) = (1.0 / (in_features as f64).sqrt(), 1.0 / (rank as f64 * in_features as f64).sqrt());
        Self {
            a: (0..rank * in_features).map(|i| uniform(name, i, a)).collect(),
            b: (0..out_features * rank).map(|i| uniform(name, rank * in_features + i, b)).collect(),
            rank,
            in_features,
            out_features,
            scale: 1.0,
            magnitude: None,
            bias: None,
        }
    }

    /// ‖s·B·A‖ of Frobenius, without the product: its square is s² tr(BᵀB · AAᵀ), of two matrices (rank, rank).
    pub(crate) fn norm(&self) -> f64 {
        let r = self.rank;
        let (mut outer, mut inner) = (vec![0f64; r * r], vec![0f64; r * r]);
        for i in 0..r {
            for j in 0..=i {
                let row = |k: usize| &self.a[k * self.in_features..(k + 1) * self.in_features];
                let a: f64 = row(i).iter().zip(row(j)).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
                let b: f64 = self.b.chunks(r).map(|row| f64::from(row[i]) * f64::from(row[j])).sum();
                (outer[i * r + j], outer[j * r + i]) = (a, a);
                (inner[i * r + j], inner[j * r + i]) = (b, b);
            }
        }
        let squares: f64 = outer.iter().zip(&inner).map(|(a, b)| a * b).sum();
        self.scale.abs() * squares.max(0.0).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product_norm(module: &Module) -> f64 {
        let mut squares = 0f64;
        for o in 0..module.out_features {
            for i in 0..module.in_features {
                let value: f32 = (0..module.rank)
                    .map(|k| module.b[o * module.rank + k] * module.a[k * module.in_features + i])
                    .sum();
                squares += f64::from(value).powi(2);
            }
        }
        module.scale * squares.sqrt()
    }

    #[test]
    fn a_norm_is_that_of_the_product() {
        let module = Module { scale: 2.5, ..Module::random("m", [7, 5], 3, 1) };
        assert!((module.norm() - product_norm(&module)).abs() < 1e-6 * product_norm(&module));
    }

    #[test]
    fn a_null_adapter_is_as_large_and_another_for_each_seed() {
        let mut like = Adapter::empty("b", 3);
        for (path, scale) in [("one", 0.5), ("two", 3.0)] {
            like.modules.insert(path.into(), Module { scale, ..Module::random(path, [6, 9], 3, 77) });
        }
        let (first, second) = (like.null_like(1), like.null_like(2));
        for (path, own) in &like.modules {
            let (a, b) = (&first.modules[path], &second.modules[path]);
            assert!((a.norm() - own.norm()).abs() < 1e-6 * own.norm(), "{path}");
            assert_ne!(a.b, b.b);
            assert_ne!(a.a, own.a);
        }
        assert_eq!(like.null_like(1).modules, first.modules);
        assert_ne!(first.modules["one"].a, first.modules["two"].a);
    }
}
