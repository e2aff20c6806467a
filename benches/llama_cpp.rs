//! What finetest adds to llama.cpp: prompt and generation tokens/s through its worker, against a plain loop on the bindings, in one
//! run, alternately.
//!
//! ```text
//! cargo bench --features llama-cpp --bench llama_cpp -- MODEL.gguf
//! ```
#![expect(clippy::print_stdout, reason = "its result is printed")]

use std::io::{BufRead, BufReader, Write};
use std::num::NonZeroU32;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use llama_cpp_2::context::params::{KvCacheType, LlamaContextParams};
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;
use serde_json::{Value, json};

const ROUNDS: usize = 7;
/// Tokens of the prompt whose speed is measured.
const PROMPT: usize = 512;
/// Tokens that are generated, after a short prompt.
const GENERATED: usize = 64;
const SHORT: usize = 8;
/// As the worker's.
const BATCH: usize = 256;
const CELLS: u32 = 1024;
/// How long idle threads look for work, on both sides as in finetest's own worker. libgomp reads it when it is loaded, so this program
/// starts itself once more with it.
const SPIN: (&str, &str) = ("GOMP_SPINCOUNT", "5000");

fn ids(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| 100 + (i * 37) % 2000).collect()
}

/// finetest's worker, spoken to as the backend does.
struct Worker {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Worker {
    fn start(model: &str, threads: usize) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_finetest"))
            .env("FINETEST_WORKER", "llama-cpp")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the worker starts");
        let (input, output) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        let mut worker = Self { child, input, output: BufReader::new(output) };
        worker.read();
        worker.ask(&json!({"Open": {"model": model, "arms": [null], "batch": 1, "threads": threads, "log": "OFF"}}));
        worker
    }

    fn read(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a reply");
        serde_json::from_str(&line).expect("json")
    }

    fn ask(&mut self, job: &Value) {
        writeln!(self.input, "{job}").expect("a job");
        loop {
            let reply = self.read();
            assert!(reply.get("Failed").is_none(), "{reply}");
            if reply == "Done" {
                return;
            }
        }
    }

    /// Seconds of a prompt and `tokens` more.
    fn seconds(&mut self, prompt: &[u32], tokens: usize) -> f64 {
        let started = Instant::now();
        let item = json!({"arm": 0, "prompt": prompt, "max_tokens": tokens});
        self.ask(&json!({"Generate": {"items": [item], "stop": []}}));
        started.elapsed().as_secs_f64()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The same work in a plain loop: a context, the prompt, and one token after another.
fn plain(backend: &LlamaBackend, model: &LlamaModel, threads: i32, prompt: &[u32], tokens: usize) -> f64 {
    let started = Instant::now();
    let params = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(CELLS))
        .with_n_batch(BATCH as u32)
        .with_n_ubatch(BATCH as u32)
        .with_type_k(KvCacheType::F32)
        .with_type_v(KvCacheType::F32)
        .with_flash_attention_policy(llama_cpp_sys_2::LLAMA_FLASH_ATTN_TYPE_DISABLED)
        .with_n_threads(threads)
        .with_n_threads_batch(threads);
    let mut context = model.new_context(backend, params).expect("a context");
    let mut batch = LlamaBatch::new(BATCH, 1);
    let mut last = 0;
    for (chunk, part) in prompt.chunks(BATCH).enumerate() {
        batch.clear();
        for (i, id) in part.iter().enumerate() {
            let position = chunk * BATCH + i;
            let wanted = position + 1 == prompt.len();
            batch.add(LlamaToken(*id as i32), position as i32, &[0], wanted).expect("room");
            last = i as i32;
        }
        context.decode(&mut batch).expect("a batch");
    }
    for made in 0..tokens {
        let logits = context.get_logits_ith(last);
        let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).expect("a token");
        if made + 1 == tokens {
            break;
        }
        batch.clear();
        batch.add(LlamaToken(best as i32), (prompt.len() + made) as i32, &[0], true).expect("room");
        context.decode(&mut batch).expect("a batch");
        last = 0;
    }
    started.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let Some(path) = std::env::args().nth(1).filter(|a| a.ends_with(".gguf")) else {
        println!("give a GGUF file: cargo bench --features llama-cpp --bench llama_cpp -- MODEL.gguf");
        return;
    };
    if std::env::var_os(SPIN.0).is_none() {
        let this = std::env::current_exe().expect("this program");
        let status = Command::new(this).args(std::env::args_os().skip(1)).env(SPIN.0, SPIN.1).status();
        assert!(status.expect("it starts").success());
        return;
    }
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let mut backend = LlamaBackend::init().expect("llama.cpp");
    backend.void_logs();
    let model = LlamaModel::load_from_file(&backend, &path, &LlamaModelParams::default()).expect("a model");
    let mut worker = Worker::start(&path, threads);
    let cases = [("prompt", ids(PROMPT), 1), ("generation", ids(SHORT), GENERATED)];
    for (what, prompt, tokens) in cases {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        worker.seconds(&prompt, tokens);
        plain(&backend, &model, threads as i32, &prompt, tokens);
        for _ in 0..ROUNDS {
            ours.push(worker.seconds(&prompt, tokens));
            theirs.push(plain(&backend, &model, threads as i32, &prompt, tokens));
        }
        let ratios = ours.iter().zip(&theirs).map(|(a, b)| a / b).collect::<Vec<f64>>();
        let n = if what == "prompt" { prompt.len() } else { tokens } as f64;
        let (ours, theirs, ratio) = (median(ours), median(theirs), median(ratios));
        println!(
            "{what}: finetest {:.1} tokens/s, plain loop {:.1} tokens/s, finetest takes {:+.1} % longer (median of {ROUNDS} pairs)",
            n / ours,
            n / theirs,
            100.0 * (ratio - 1.0)
        );
    }
}
