//! The example project on candle and on llama.cpp, one after the other in one run: the whole suite with an empty answer store, and
//! steps of training; seconds, tokens/s of training and peak memory of the process with its children.
//!
//! ```text
//! cargo bench --features llama-cpp --bench backends
//! ```
//!
//! The suite is asked three ways on candle: snapshots verified, answers generated without a guess, and that one row at a time. Training
//! is done twice: the example's own, whose system message candle computes once a step, and its conversations without that message in
//! packed windows of 256 tokens.
#![expect(clippy::print_stdout, reason = "its result is printed")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Optimizer steps of four examples each.
const STEPS: usize = 12;
/// Optimizer steps of one packed window each.
const PACKED: usize = 40;

fn main() {
    // `cargo bench -- FILTER` is for criterion's benches.
    if std::env::args().skip(1).any(|a| !a.starts_with("--") && !"backends".contains(&a)) {
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let root = directory.path();
    for part in ["finetest.toml", "scenarios", "snapshots", "data", "adapters"] {
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join(part), &root.join(part));
    }
    let own = |name: &str, text: &str| {
        std::fs::write(root.join(name), format!("extends = \"finetest.toml\"\n{text}")).expect("a manifest");
    };
    own("verified.toml", "");
    own("generated.toml", "[run]\nsnapshots = \"none\"\n");
    own("one-by-one.toml", "[run]\nsnapshots = \"none\"\nbatch = 1\n");
    let train = format!(
        "[adapter]\npath = \"trained\"\n[train]\nmax_steps = {STEPS}\nmicro_batch_size = 4\neval_steps = 1000\n"
    );
    own("train.toml", &train);
    std::fs::write(root.join("data/packed.jsonl"), without_system(&root.join("data/train.jsonl"))).expect("data");
    let packed = format!(
        "[adapter]\npath = \"packed\"\n[data]\ntrain = \"data/packed.jsonl\"\n[train]\nmax_steps = {PACKED}\nsample_packing = true\n\
         sequence_len = 256\neval_steps = 1000\n"
    );
    own("train-packed.toml", &packed);
    println!("{:>10}  {:<12} {:>9} {:>10} {:>9}", "backend", "work", "seconds", "tokens/s", "peak MB");
    for (backend, suites) in [("candle", vec!["verified", "generated", "one-by-one"]), ("llama-cpp", vec!["generated"])]
    {
        for suite in suites {
            let _ = std::fs::remove_dir_all(root.join(".finetest/store"));
            measure(root, backend, suite, &["run"]);
        }
        for (work, adapter) in [("train", "trained"), ("train-packed", "packed")] {
            let _ = std::fs::remove_dir_all(root.join(adapter));
            measure(root, backend, work, &["train", "--force"]);
        }
    }
}

/// Lines of data without their system messages.
fn without_system(path: &Path) -> String {
    let line = |line: &str| {
        let mut example: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let messages = example["messages"].as_array_mut().expect("messages");
        messages.retain(|message| message["role"] != "system");
        format!("{example}\n")
    };
    std::fs::read_to_string(path).expect("data").lines().map(line).collect()
}

/// Runs the command line on a manifest and prints a row.
fn measure(root: &Path, backend: &str, work: &str, command: &[&str]) {
    let started = Instant::now();
    let child = Command::new(env!("CARGO_BIN_EXE_finetest"))
        .args(command)
        .args(["--manifest", &format!("{work}.toml"), "--backend", backend])
        .current_dir(root)
        .env("FINETEST_TRAIN", "never")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("finetest starts");
    let (id, over) = (child.id(), AtomicBool::new(false));
    let (output, peak) = std::thread::scope(|scope| {
        let peak = scope.spawn(|| {
            let mut peak = 0.0f64;
            while !over.load(Ordering::Relaxed) {
                peak = peak.max(held(id));
                std::thread::sleep(Duration::from_millis(50));
            }
            peak
        });
        let output = child.wait_with_output().expect("it ends");
        over.store(true, Ordering::Relaxed);
        (output, peak.join().expect("a number"))
    });
    let seconds = started.elapsed().as_secs_f64();
    let said = String::from_utf8_lossy(&output.stderr);
    // 100: the gate's verdict is no matter here.
    assert!(matches!(output.status.code(), Some(0 | 100)), "{backend} {work}: {said}");
    let rate =
        said.lines().rev().find_map(|line| line.split_once(" tokens/s")?.0.rsplit(' ').next()?.parse::<f64>().ok());
    let rate = rate.filter(|_| work.starts_with("train")).map_or_else(|| "–".to_owned(), |rate| format!("{rate:.0}"));
    println!("{backend:>10}  {work:<12} {seconds:>9.1} {rate:>10} {peak:>9.0}");
}

/// Memory of a process and its children, in MB of 10⁶ bytes; 0 where the system does not say.
fn held(id: u32) -> f64 {
    let read = |path: String| std::fs::read_to_string(path).unwrap_or_default();
    let status = read(format!("/proc/{id}/status"));
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    let children = read(format!("/proc/{id}/task/{id}/children"));
    let children = children.split_whitespace().filter_map(|child| child.parse().ok()).map(held);
    kib.unwrap_or(0.0) * 1024.0 / 1e6 + children.sum::<f64>()
}

fn copy(from: &Path, to: &Path) {
    if from.is_file() {
        std::fs::copy(from, to).expect("a copy");
        return;
    }
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let name = entry.expect("an entry").file_name();
        copy(&from.join(&name), &to.join(&name));
    }
}
