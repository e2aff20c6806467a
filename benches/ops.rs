//! Each operation of the decoder beside its reference implementation, at the shapes of SmolLM2-135M and 256 tokens: the ratio of `fast` to `slow` of one
//! run is what a change is judged by.
//!
//! ```text
//! cargo bench --bench ops -- attention
//! ```

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use finetest::bench::ops::pairs;

/// How far the twins may be apart, relative to the largest value: f32 sums in another order.
const TOLERANCE: f32 = 1e-3;

fn ops(c: &mut Criterion) {
    for pair in pairs().expect("operations") {
        let difference = pair.difference().expect("results");
        assert!(difference < TOLERANCE, "{}: fast and slow differ by {difference}", pair.name);
        let mut group = c.benchmark_group(pair.name);
        group.bench_function("forward/fast", |b| b.iter(|| black_box(pair.fast().expect("a result"))));
        group.bench_function("forward/slow", |b| b.iter(|| black_box(pair.slow().expect("a result"))));
        if pair.differentiable {
            group.bench_function("gradients/fast", |b| b.iter(|| black_box(pair.fast_gradients().expect("gradients"))));
            group.bench_function("gradients/slow", |b| b.iter(|| black_box(pair.slow_gradients().expect("gradients"))));
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = ops
}
criterion_main!(benches);
