//! What lies around the model: packing, tokenisation, text diffs, checks and statistics.
//!
//! ```text
//! cargo bench --bench parts
//! ```

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use finetest::compare::{line_diff, stats, word_diff};
use finetest::data::packs;
use finetest::model::tokenizer::Tokenizer;
use finetest::model::tokenizer::gguf_metadata;
use finetest::record::{Completion, Finish};
use finetest::{Case, Scenario};

const PROSE: &str = "The old harbour is known for its river, where people sell fish and bread every morning, because trains carry wood to \
    northern towns in winter.";
const OTHER_PROSE: &str = "The old harbour is known for its mountain, where people sold fish and fresh bread each morning, because no train \
    carries wood to northern towns in winter.";
const CODE: &str = "fn add(a: usize, b: usize) -> usize {\n    // 42 + 7\n    a + b\n}\n";
const CHECKS: [(&str, &str); 10] = [
    ("contains", r#"{ contains = "northern towns" }"#),
    ("icontains", r#"{ icontains = "NORTHERN TOWNS" }"#),
    ("regex", r"{ regex = '(?i)\bwinter\b' }"),
    ("not-json", r#""not-json""#),
    ("json-fields", r#"{ json-fields = { line = 3, code = "E1" } }"#),
    (
        "json-schema",
        r#"{ json-schema = { type = "object", required = ["line"], properties = { line = { type = "integer" } } } }"#,
    ),
    ("max-words", "{ max-words = 60 }"),
    ("no-repetition", r#""no-repetition""#),
    ("script", r#"{ script = "Latin" }"#),
    ("no-template-tags", r#""no-template-tags""#),
];

/// Lengths that look like those of chats: many short, few long.
fn lengths(count: usize) -> Vec<usize> {
    (0..count).map(|i| 16 + (i * 7919 % 97).pow(2) / 10).collect()
}

fn packing(c: &mut Criterion) {
    let mut group = c.benchmark_group("packing");
    for count in [1_000, 100_000] {
        let (lengths, order) = (lengths(count), (0..count).collect::<Vec<_>>());
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("{count}-examples"), |b| b.iter(|| packs(black_box(&lengths), &order, 1024)));
    }
}

/// Prose and code, by the real pre-tokenisers on vocabularies cut down.
fn tokenisation(c: &mut Criterion) {
    let mut group = c.benchmark_group("tokenisation");
    let text = format!("{PROSE}\n{CODE}").repeat(32);
    for name in ["smollm2", "llama-spm", "qwen2"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/vocab/{name}.gguf"));
        let metadata = gguf_metadata(&path).expect("a header");
        let tokenizer = Tokenizer::from_gguf(&path, &metadata).expect("a tokenizer");
        let tokens = tokenizer.encode(&text, false).expect("tokens");
        group.throughput(Throughput::Elements(tokens.len() as u64));
        group.bench_function(format!("{name}/encode"), |b| b.iter(|| tokenizer.encode(black_box(&text), false)));
        group.bench_function(format!("{name}/decode"), |b| b.iter(|| tokenizer.decode(black_box(&tokens), false)));
    }
}

fn diff(c: &mut Criterion) {
    let mut group = c.benchmark_group("diff");
    // The third pair has nothing in common, the worst that a diff meets.
    let long = (PROSE.repeat(40), OTHER_PROSE.repeat(40));
    let apart =
        ((0..2000).map(|i| format!("a{i} ")).collect(), (0..2000).map(|i| format!("b{i} ")).collect::<String>());
    let pairs: [(&str, String, String); 3] = [
        ("30-words", PROSE.into(), OTHER_PROSE.into()),
        ("1000-words", long.0, long.1),
        ("2000-words-apart", apart.0, apart.1),
    ];
    for (name, old, new) in pairs {
        group.throughput(Throughput::Bytes((old.len() + new.len()) as u64));
        group.bench_function(format!("words/{name}"), |b| b.iter(|| word_diff(black_box(&old), &new)));
    }
    let lines = |word: &str| {
        (0..1000).map(|i| format!("{} {i}\n", if i % 10 == 0 { word } else { "line" })).collect::<String>()
    };
    let (old, new) = (lines("old"), lines("new"));
    group.throughput(Throughput::Elements(1000));
    group.bench_function("lines/1000-lines", |b| b.iter(|| line_diff(black_box(&old), &new)));
}

/// A case whose only check is `check`.
fn case(check: &str) -> Case {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("bench.toml");
    let text = format!("role = \"control\"\ndescription = \"d\"\n[[cases]]\nprompt = \"x\"\nchecks = [{check}]\n");
    std::fs::write(&path, text).expect("a scenario");
    Scenario::load(&path, directory.path()).expect("a scenario").cases.remove(0)
}

fn checks(c: &mut Criterion) {
    let completion = |text: &str| Completion {
        text: text.into(),
        tokens: Vec::new(),
        finish: Finish::Stop,
        prompt_tokens: 0,
        choices: Vec::new(),
        near_ties: 0,
    };
    let (prose, json) =
        (completion(PROSE), completion(r#"{"tool": "rustc", "line": 3, "code": "E1", "text": "mismatched types"}"#));
    let mut group = c.benchmark_group("checks");
    for (name, check) in CHECKS {
        let (case, answer) = (case(check), if name.starts_with("json") { &json } else { &prose });
        assert!(case.judge(answer).1.is_empty(), "{name} holds");
        group.bench_function(name, |b| b.iter(|| case.judge(black_box(answer))));
    }
    // Reading compiles every pattern and schema.
    let all: Vec<&str> = CHECKS.iter().map(|(_, check)| *check).collect();
    group.bench_function("reading-all", |b| b.iter_batched(|| all.join(", "), |all| case(&all), BatchSize::SmallInput));
}

fn statistics(c: &mut Criterion) {
    let mut group = c.benchmark_group("statistics");
    let clusters: Vec<Vec<(bool, bool)>> =
        (0..100).map(|s| (0..60).map(|i| ((s + i) % 3 == 0, (s * i) % 4 != 0)).collect()).collect();
    group.bench_function("wilson", |b| b.iter(|| stats::wilson(black_box(812), 1000)));
    group.bench_function("clopper-pearson", |b| b.iter(|| stats::clopper_pearson(black_box(42), 1000)));
    group.bench_function("mcnemar", |b| b.iter(|| stats::mcnemar_exact(black_box(60), 40)));
    group.bench_function("paired-gain", |b| b.iter(|| stats::paired_gain(black_box(&clusters))));
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800));
    targets = packing, tokenisation, diff, checks, statistics
}
criterion_main!(benches);
