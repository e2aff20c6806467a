//! What finetest costs without a model: a generated project is read, asked of the scripted backend, judged, compared, gated, held
//! against its snapshots and reported, at 1 000, 10 000 and 100 000 cases; and `--list` of the test harness.
//!
//! ```text
//! cargo bench --bench harness
//! ```
//!
//! Each size runs in a process of its own, so that its peak of memory is its own. `first` finds no stored answers, `again` finds all.
#![expect(clippy::print_stdout, reason = "its result is printed")]

#[path = "harness/project.rs"]
mod project;

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use finetest::backend::Scripted;
use finetest::config::Config;
use finetest::record::{Arm, BASE, ModelInfo, RunRecord, TUNED};
use finetest::report::{Report, Style, annotations, junit, markdown, terminal};
use finetest::run::{Inputs, Store, execute};
use finetest::scenario::load_all;
use finetest::snapshot::{SnapshotState, compare_files, render};
use finetest::{Comparison, Scenario, decide};
use project::Project;

/// What this process is to do instead of measuring others: `run`, `approve` or `list`, and the project's directory.
const TASK: &str = "FINETEST_BENCH_TASK";
const SIZES: [usize; 3] = [1_000, 10_000, 100_000];
/// The size that `--list` is measured at, and how often.
const LISTED: usize = 10_000;
const LISTINGS: usize = 9;

fn main() -> ExitCode {
    let task = std::env::var(TASK).unwrap_or_default();
    match task.split_once(' ') {
        Some(("list", directory)) => return finetest::harness::main(directory, finetest::snapshot_assertion!()),
        Some(("approve", directory)) => approve(Path::new(directory)),
        Some((_, directory)) => run(Path::new(directory)),
        None => measure(),
    }
    ExitCode::SUCCESS
}

fn measure() {
    // `cargo bench -- FILTER` and `-- --save-baseline NAME` are for criterion's benches.
    if std::env::args().skip(1).any(|a| !a.starts_with("--") && !"harness".contains(&a)) {
        return;
    }
    let stages = ["read", "run", "compare", "snapshots", "reports"].map(|s| format!("{s:>9}")).concat();
    println!("   cases         {stages}    in all   peak MB");
    for cases in SIZES {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Project::new(cases).write(directory.path());
        output("approve", directory.path(), &[]);
        for round in ["first", "again"] {
            let row = output("run", directory.path(), &[]);
            println!("{cases:>8}  {round} {}", row.trim_end());
        }
        if cases == LISTED {
            let mut seconds: Vec<f64> = (0..LISTINGS).map(|_| list(directory.path())).collect();
            seconds.sort_by(f64::total_cmp);
            println!("{cases:>8}  --list {:.0} ms (median of {LISTINGS})", 1e3 * seconds[LISTINGS / 2]);
        }
    }
}

/// What this program prints when it is run for a task.
fn output(task: &str, directory: &Path, arguments: &[&str]) -> String {
    let child = Command::new(std::env::current_exe().expect("this program"))
        .env(TASK, format!("{task} {}", directory.display()))
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .expect("it starts");
    assert!(child.status.success(), "{task}: {}", child.status);
    String::from_utf8(child.stdout).expect("text")
}

/// Seconds of a listing, from the start of its process to its end.
fn list(directory: &Path) -> f64 {
    let started = Instant::now();
    let listed = output("list", directory, &["--list"]);
    let seconds = started.elapsed().as_secs_f64();
    assert!(listed.lines().filter(|l| l.contains("::case_")).count() == LISTED, "every case is listed");
    seconds
}

/// Asks the project's cases of the script that belongs to them.
fn ask(directory: &Path, scenarios: &[Scenario], store: &str) -> RunRecord {
    let cases = scenarios.iter().map(|s| s.cases.len()).sum();
    let project = Project::new(cases);
    let mut backend = Scripted::new(project.script());
    let arm = |name: &str| Arm { name: name.into(), fingerprint: name.into(), adapter: None, scale: 1.0 };
    let model = ModelInfo {
        source: "script".into(),
        family: "none".into(),
        parameters: 0,
        fingerprint: "0".into(),
        weights: "0".into(),
    };
    let arms = vec![arm(BASE), arm(TUNED)];
    let inputs = Inputs { model, arms, ..Inputs::new("bench", "script", &backend, scenarios) };
    execute(&inputs, &mut backend, &Store::new(directory.join(store)), &mut |_| {}).expect("a run")
}

/// Writes the project's snapshots, every tenth of them as it was before some answer changed.
fn approve(directory: &Path) {
    let config = Config::load(directory.join("finetest.toml")).expect("a manifest");
    let run = ask(directory, &load_all(&config).expect("scenarios"), "approved");
    std::fs::create_dir_all(&config.run.snapshots).expect("a directory");
    for (i, scenario) in run.scenarios.iter().enumerate() {
        let mut body = render(scenario, &[BASE, TUNED]);
        if i % 10 == 0 {
            body = body.replace("mountain", "valley");
        }
        let path = config.run.snapshots.join(format!("{}.snap", scenario.name));
        std::fs::write(path, format!("---\n---\n{body}")).expect("a snapshot");
    }
    // Its answers must not be found by the run that is measured.
    std::fs::remove_dir_all(directory.join("approved")).expect("removed");
}

/// One row of the table.
fn run(directory: &Path) {
    let started = Instant::now();
    let mut last = started;
    let mut row = String::new();
    let mut stage = || {
        row.push_str(&format!("{:>8.3}s", last.elapsed().as_secs_f64()));
        last = Instant::now();
    };
    let config = Config::load(directory.join("finetest.toml")).expect("a manifest");
    let scenarios = load_all(&config).expect("scenarios");
    stage();
    let run = ask(directory, &scenarios, "store");
    stage();
    let comparisons = Comparison::all(&run);
    let decision = decide(&run, &config.gate);
    stage();
    let states =
        run.scenarios.iter().map(|s| compare_files(&config.run.snapshots, s, &[BASE, TUNED]).expect("a snapshot"));
    let changed = states.filter(|s| matches!(s, SnapshotState::Changed { .. })).count();
    stage();
    let report = Report { run: &run, comparisons: &comparisons, decision: &decision, files: &[] };
    let pages = [
        ("report.txt", terminal(&report, Style { color: true, width: 100 })),
        ("report.md", markdown(&report)),
        ("annotations", annotations(&report).join("\n")),
        ("junit.xml", junit(&report).expect("xml")),
        ("run.json", serde_json::to_string_pretty(&run).expect("json")),
    ];
    for (name, page) in pages {
        std::fs::write(directory.join(name), page).expect("a report");
    }
    stage();
    assert!(
        changed > 0 && comparisons[0].broken().count() > 0 && comparisons[0].fixed().count() > 0,
        "there is all to report"
    );
    println!("{row} {:>8.3}s {:>9.1}", started.elapsed().as_secs_f64(), peak_mb());
}

/// The most memory that this process held, in MB of 10⁶ bytes; 0 where the system does not say.
fn peak_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib: f64 = line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0.0);
    kib * 1024.0 / 1e6
}
