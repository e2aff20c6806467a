//! Training, scoring and decoding of tokens that a file gives, a repetition for each line on stdin and a line of JSON for each: so
//! another program can take turns with it. `benches/peers/run.py` does.
//!
//! ```text
//! echo | cargo bench --bench speed -- MODEL.gguf WORK.json [bf16]
//! ```
//!
//! `WORK.json` is one of `{"train": [[[[ids], prompt], …], …]}`, `{"train-checkpointing": …}` of the same, `{"score": [[ids], …]}`,
//! `{"generate": [[[ids], …], tokens]}` and `{"arms": [[ids], tokens, arms]}`.
#![expect(clippy::print_stdout, reason = "its result is printed")]

use std::io::BufRead;
use std::process::ExitCode;

use finetest::bench::speed::{Repetition, Work, serve};
use finetest::config::Bf16;

fn main() -> ExitCode {
    // `cargo bench` says `--bench` to every program.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let (model, work, bf16) = match arguments.as_slice() {
        [model, work] => (model, work, Bf16::No),
        [model, work, bf16] if bf16 == "bf16" => (model, work, Bf16::Yes),
        _ => {
            println!("give a model and the work: cargo bench --bench speed -- MODEL.gguf WORK.json [bf16]");
            return ExitCode::SUCCESS;
        }
    };
    let text = std::fs::read_to_string(work).expect("WORK.json can be read");
    let work: Work = serde_json::from_str(&text).expect("WORK.json is of its form");
    let mut lines = std::io::stdin().lock().lines();
    let mut next = |said: Option<Repetition>| {
        if let Some(repetition) = said {
            println!("{}", serde_json::to_string(&repetition).expect("plain data"));
        }
        lines.next().is_some()
    };
    match serve(model, &work, bf16, &mut next) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{}", serde_json::json!({ "error": error.to_string() }));
            ExitCode::FAILURE
        }
    }
}
