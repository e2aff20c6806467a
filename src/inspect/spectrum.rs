//! Singular values of a product B·A of small rank, without the product.
//!
//! They are the square roots of the eigenvalues of Lᵀ(BᵀB)L, where LLᵀ = AAᵀ: matrices of the rank's size. Values below 1e-8 of the largest
//! are rounding.

use crate::model::lora::Module;

/// A square matrix, row by row.
struct Square {
    n: usize,
    values: Vec<f64>,
}

impl Square {
    fn new(n: usize) -> Self {
        Self { n, values: vec![0.0; n * n] }
    }

    fn at(&self, i: usize, j: usize) -> f64 {
        self.values[i * self.n + j]
    }

    fn set(&mut self, i: usize, j: usize, value: f64) {
        self.values[i * self.n + j] = value;
    }

    /// Inner products of vectors.
    fn gram(n: usize, inner: impl Fn(usize, usize) -> f64) -> Self {
        let mut gram = Self::new(n);
        for i in 0..n {
            for j in 0..=i {
                let value = inner(i, j);
                gram.set(i, j, value);
                gram.set(j, i, value);
            }
        }
        gram
    }

    fn times(&self, other: &Self) -> Self {
        let mut product = Self::new(self.n);
        for i in 0..self.n {
            for k in 0..self.n {
                let factor = self.at(i, k);
                for j in 0..self.n {
                    product.values[i * self.n + j] += factor * other.at(k, j);
                }
            }
        }
        product
    }

    fn transposed(&self) -> Self {
        let mut turned = Self::new(self.n);
        (0..self.n).for_each(|i| (0..self.n).for_each(|j| turned.set(j, i, self.at(i, j))));
        turned
    }

    /// L of LLᵀ; a column whose vector depends on those before is zero.
    fn cholesky(&self) -> Self {
        let mut l = Self::new(self.n);
        let least = 1e-15 * (0..self.n).map(|i| self.at(i, i)).sum::<f64>();
        for j in 0..self.n {
            let dot = |l: &Self, i: usize| (0..j).map(|k| l.at(i, k) * l.at(j, k)).sum::<f64>();
            let rest = self.at(j, j) - dot(&l, j);
            if rest <= least {
                continue;
            }
            let pivot = rest.sqrt();
            l.set(j, j, pivot);
            for i in j + 1..self.n {
                let value = (self.at(i, j) - dot(&l, i)) / pivot;
                l.set(i, j, value);
            }
        }
        l
    }

    /// Diagonal and sub-diagonal of a tridiagonal matrix with the same eigenvalues, by Householder's reflections (Golub & Van Loan,
    /// Matrix Computations, 8.3.1).
    fn tridiagonal(mut self) -> (Vec<f64>, Vec<f64>) {
        let n = self.n;
        let (mut diagonal, mut beside) = (vec![0.0; n], vec![0.0; n.saturating_sub(1)]);
        for k in 0..n {
            diagonal[k] = self.at(k, k);
            if k + 1 == n {
                break;
            }
            let mut v: Vec<f64> = (k + 1..n).map(|i| self.at(i, k)).collect();
            let length = v.iter().map(|x| x * x).sum::<f64>().sqrt();
            let alpha = if v[0] > 0.0 { -length } else { length };
            beside[k] = alpha;
            v[0] -= alpha;
            let squares: f64 = v.iter().map(|x| x * x).sum();
            if squares == 0.0 {
                continue;
            }
            let m = v.len();
            let product: Vec<f64> = (0..m)
                .map(|i| (0..m).map(|j| self.at(k + 1 + i, k + 1 + j) * v[j]).sum::<f64>() * 2.0 / squares)
                .collect();
            let along: f64 = product.iter().zip(&v).map(|(p, x)| p * x).sum::<f64>() / squares;
            let w: Vec<f64> = product.iter().zip(&v).map(|(p, x)| p - along * x).collect();
            for i in 0..m {
                for j in 0..m {
                    self.values[(k + 1 + i) * n + k + 1 + j] -= v[i] * w[j] + w[i] * v[j];
                }
            }
        }
        (diagonal, beside)
    }

    /// Eigenvalues of a symmetric matrix, the largest first, by bisection (Golub & Van Loan, 8.4.1).
    fn eigenvalues(self) -> Vec<f64> {
        let n = self.n;
        let (diagonal, beside) = self.tridiagonal();
        let bound = (0..n)
            .map(|i| {
                let left = if i > 0 { beside[i - 1].abs() } else { 0.0 };
                diagonal[i].abs() + left + beside.get(i).map_or(0.0, |x| x.abs())
            })
            .fold(0.0, f64::max);
        // Eigenvalues below `x`.
        let below = |x: f64| {
            let (mut count, mut q) = (0, 1.0);
            for i in 0..n {
                let coupled = if i > 0 { beside[i - 1].powi(2) / q } else { 0.0 };
                q = diagonal[i] - x - coupled;
                if q == 0.0 {
                    q = -bound.max(1.0) * f64::EPSILON;
                }
                count += usize::from(q < 0.0);
            }
            count
        };
        let value = |k: usize| {
            let (mut low, mut high) = (-bound, bound);
            for _ in 0..64 {
                let middle = low.midpoint(high);
                if below(middle) > k { high = middle } else { low = middle }
            }
            low.midpoint(high)
        };
        (0..n).rev().map(value).collect()
    }
}

/// Singular values of s·B·A, the largest first, `rank` of them.
pub(super) fn singular_values(module: &Module) -> Vec<f64> {
    let (r, width) = (module.rank, module.in_features);
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let a = Square::gram(r, |i, j| dot(&module.a[i * width..(i + 1) * width], &module.a[j * width..(j + 1) * width]));
    let b = Square::gram(r, |i, j| module.b.chunks(r).map(|row| f64::from(row[i]) * f64::from(row[j])).sum());
    let l = a.cholesky();
    let squares = l.transposed().times(&b.times(&l)).eigenvalues();
    squares.into_iter().map(|square| module.scale.abs() * square.max(0.0).sqrt()).collect()
}

/// exp of the entropy of the singular values' shares: 1 for a single direction, n for n of one size (Roy & Vetterli 2007, "The effective
/// rank"); 0 where all are zero.
pub(super) fn effective_rank(values: &[f64]) -> f64 {
    let total: f64 = values.iter().sum();
    if total <= 0.0 {
        return 0.0;
    }
    let entropy: f64 = values.iter().map(|v| v / total).filter(|p| *p > 0.0).map(|p| -p * p.ln()).sum();
    entropy.exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(rank: usize, width: usize, height: usize, scale: f64) -> Module {
        // Values that NumPy makes alike.
        let value = |i: usize, step: f64| ((i * i) as f64 * step).sin() as f32;
        Module {
            a: (0..rank * width).map(|i| value(i, 0.7)).collect(),
            b: (0..height * rank).map(|i| value(i, 1.3)).collect(),
            rank,
            in_features: width,
            out_features: height,
            scale,
            magnitude: None,
            bias: None,
        }
    }

    /// `numpy.linalg.svd(2.5 * B @ A, compute_uv=False)` of NumPy 2.4.6, with a = sin(0.7 i²) of (4, 9) and b = sin(1.3 i²) of (7, 4).
    #[test]
    fn singular_values_are_those_of_numpy() {
        let found = singular_values(&module(4, 9, 7, 2.5));
        for (found, expected) in found.iter().zip(NUMPY) {
            assert!((found - expected).abs() < 1e-5 * expected.max(1e-2), "{found} {expected}");
        }
    }

    const NUMPY: [f64; 4] = [17.193941661, 11.692032497, 1.400594749, 0.026660388];

    #[test]
    fn many_directions_are_found_and_none_of_a_zero() {
        let many = module(48, 100, 80, 1.0);
        let squares: f64 = singular_values(&many).iter().map(|v| v * v).sum();
        assert!((squares.sqrt() - many.norm()).abs() < 1e-6 * many.norm());
        let zero = Module { b: vec![0.0; 28], ..module(4, 9, 7, 1.0) };
        assert_eq!(singular_values(&zero), [0.0; 4]);
        assert_eq!(effective_rank(&[0.0, 0.0]), 0.0);
        assert!((effective_rank(&[2.0, 2.0, 2.0]) - 3.0).abs() < 1e-12);
        assert!((effective_rank(&[5.0, 0.0]) - 1.0).abs() < 1e-12);
    }
}
