//! The built program, run as a user runs it: exit codes, messages, files, and that nothing is lost.
//!
//! One program for all of these tests, since each costs a newcomer a link. `cargo test --test commands -- faults::` runs a part.

#[cfg(feature = "candle")]
mod arms;
#[cfg(feature = "candle")]
mod calibrate;
#[cfg(feature = "candle")]
mod cli;
#[cfg(feature = "candle")]
mod compared;
#[cfg(feature = "candle")]
mod data;
#[cfg(feature = "candle")]
mod diagnose;
#[cfg(all(feature = "candle", unix))]
mod faults;
#[cfg(feature = "candle")]
mod gguf;
#[cfg(feature = "candle")]
mod hostile;
#[cfg(all(feature = "candle", unix))]
mod init;
#[cfg(feature = "candle")]
mod inspect;
#[cfg(feature = "llama-cpp")]
mod llama_cpp;
#[cfg(feature = "candle")]
mod new_scenario;
#[cfg(feature = "candle")]
mod own_project;
#[cfg(feature = "candle")]
#[path = "../library/pages.rs"]
mod pages;
#[cfg(feature = "candle")]
mod plan;
#[cfg(feature = "candle")]
mod remote;
#[cfg(feature = "candle")]
mod selected;
#[cfg(feature = "candle")]
mod snapshots;
#[cfg(feature = "candle")]
mod support;
#[cfg(all(feature = "candle", unix))]
mod trainers;
