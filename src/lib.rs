//! Fine-tuned language models, tested the way code is.
//!
//! finetest trains a LoRA or QLoRA adapter, keeps the untouched base model as the control group, asks both the same scenarios, and
//! says what was gained and what was forgotten. `cargo test` runs the scenarios, pull requests show answers as snapshot diffs,
//! and a gate refuses what forgets too much.
//!
//! Data flows one way:
//!
//! ```text
//! finetest.toml ─► config ─► scenario files ─► run ─► record ─► compare ─► gate ─► snapshot, report, exit code
//!                     │                         │
//!                     └► data ─► train ─► adapter ─► engine (arms × cases, one pass) ◄─ model ◄─ weights
//! ```
//!
//! | to | begin at |
//! |---|---|
//! | test a project under `cargo test` | [`scenarios!`], [`harness`] |
//! | run a project | [`project::run`] |
//! | judge a recorded run | [`Comparison::of`], [`decide`], [`Report`] |
//! | write a backend | [`backend::Backend`] |
//!
//! # A backend of your own
//!
//! What answers is a [`Backend`]: here a script. Its name says all that decides its answers, since stored ones are found by it.
//!
//! ```
//! use finetest::{BASE, Comparison, Inputs, Scenario, Scripted, Store, TUNED, Verdict, execute};
//!
//! # fn main() -> finetest::Result<()> {
//! let directory = tempfile::tempdir().unwrap();
//! let path = directory.path().join("capitals.toml");
//! std::fs::write(&path, r#"
//!     role = "control"
//!     description = "capitals of countries"
//!     [[cases]]
//!     prompt = "What is the capital of France?"
//!     checks = [{ contains = "Paris" }, "not-json"]
//! "#).unwrap();
//! let scenarios = [Scenario::load(&path, directory.path())?];
//! let mut backend = Scripted::new([
//!     (0, "What is the capital of France?", "The capital of France is Paris."),
//!     (1, "What is the capital of France?", r#"{"name": "France", "city": "Paris"}"#),
//! ]);
//!
//! let inputs = Inputs::new("example", "a script", &backend, &scenarios);
//! let store = Store::new(directory.path().join("store"));
//! let run = execute(&inputs, &mut backend, &store, &mut |_| {})?;
//!
//! let case = &run.scenarios[0].cases[0];
//! assert_eq!(case.verdict(BASE), Verdict::Passed);
//! assert_eq!(case.verdict(TUNED), Verdict::Failed);
//! let comparison = Comparison::of(&run, BASE, TUNED);
//! assert_eq!(comparison.control.retention().share(), Some(0.0));
//! # Ok(())
//! # }
//! ```

// docs.rs, on nightly Rust, shows which feature a module needs.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(not(feature = "candle"), allow(dead_code, reason = "what only the engine's rooms use"))]

pub mod backend;
#[cfg(feature = "candle")]
#[doc(hidden)]
pub mod bench;
#[cfg(feature = "candle")]
#[doc(hidden)]
pub mod cli;
pub mod compare;
pub mod config;
#[doc(hidden)]
pub mod data;
pub mod diagnosis;
pub mod error;
#[cfg(feature = "candle")]
pub(crate) mod export;
pub(crate) mod files;
pub mod gate;
#[cfg(feature = "candle")]
pub mod harness;
#[cfg(feature = "candle")]
#[doc(hidden)]
pub mod inspect;
#[cfg(feature = "candle")]
#[doc(hidden)]
pub mod model;
#[cfg(feature = "candle")]
#[doc(hidden)]
pub mod plan;
#[cfg(feature = "candle")]
pub mod project;
pub(crate) mod random;
pub mod record;
pub mod report;
pub mod run;
#[cfg(feature = "candle")]
pub(crate) mod scaffold;
pub mod scenario;
pub(crate) mod shown;
pub mod snapshot;
pub(crate) mod text;
#[cfg(feature = "candle")]
#[doc(hidden)]
pub mod train;

pub use backend::{Answered, Backend, Capabilities, Progress, Question, Scripted};
pub use compare::{Comparison, Flip};
pub use config::{Config, Policy};
pub use error::{Error, Result};
pub use gate::decide;
#[cfg(feature = "candle")]
pub use project::{Outcome, TrainPolicy};
pub use record::{BASE, Completion, Decision, Prompt, Request, RunRecord, TUNED, Verdict};
pub use report::Report;
pub use run::{Inputs, RunEvent, Store, execute};
pub use scenario::{Case, Check, Scenario};

#[doc(hidden)]
pub use insta;
