//! What the worker process is asked and what it replies: a line of JSON each, of bounded length.

use std::io::{BufRead, Read, Write};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::memory::Memory;
use crate::backend::engine::{Compared, Continuation, Generated, Generation};
use crate::config::GpuConfig;
use crate::error::{Error, Result};
use crate::record::Message;

/// First thing a worker says; another program that was started by mistake says something else.
pub(crate) const HELLO: &str = concat!("finetest worker ", env!("CARGO_PKG_VERSION"));
/// Longest line that either side reads, in bytes.
const LONGEST: u64 = 256 << 20;

/// What is computed on a GPU, and how large that is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Placement {
    pub(crate) gpu: GpuConfig,
    pub(crate) memory: Memory,
}

/// A model, and the adapter of each arm.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Opening {
    /// A GGUF file.
    pub(crate) model: PathBuf,
    /// A GGUF adapter each; `None` is base.
    pub(crate) arms: Vec<Option<PathBuf>>,
    /// What a GPU computes; nothing of it by default.
    pub(crate) placement: Option<Placement>,
    /// Most sequences decoded together.
    pub(crate) batch: usize,
    /// Threads to compute with.
    pub(crate) threads: usize,
    /// Which of llama.cpp's messages are wanted: `OFF`, `ERROR`, … `TRACE`.
    pub(crate) log: String,
}

/// A model and an adapter to be trained.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct OpeningToTrain {
    /// A GGUF file.
    pub(crate) model: PathBuf,
    /// A GGUF adapter.
    pub(crate) adapter: PathBuf,
    /// Tokens of every window.
    pub(crate) window: usize,
    /// Threads to compute with.
    pub(crate) threads: usize,
    /// As [`Opening::log`].
    pub(crate) log: String,
}

/// Several examples side by side, filled up to the window's length.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Window {
    /// What goes in.
    pub(crate) tokens: Vec<i32>,
    /// The token that follows each.
    pub(crate) labels: Vec<i32>,
    /// What its NLL is multiplied by; 0 where nothing is learnt.
    pub(crate) weights: Vec<f32>,
    /// Which example a token is of. Each sees itself alone.
    pub(crate) segments: Vec<i32>,
    /// Its place in its example.
    pub(crate) positions: Vec<i32>,
}

/// What a model is, once it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Opened {
    /// Logits of a position.
    pub(crate) vocabulary: usize,
    /// Positions it was trained for.
    pub(crate) context: usize,
}

/// What the worker is asked to do. Everything but [`Job::Open`] needs an open model.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Job {
    Open(Opening),
    Generate {
        items: Vec<Generation>,
        stop: Vec<u32>,
    },
    Score {
        items: Vec<Continuation>,
    },
    Compare {
        items: Vec<Continuation>,
        arms: (usize, usize),
    },
    Prove {
        prompts: Vec<Vec<u32>>,
        arms: (usize, usize),
    },
    /// Logits of every position that predicts one of an item's tokens, as little-endian f32 in a file `NUMBER` of a directory.
    Logits {
        items: Vec<Continuation>,
        directory: PathBuf,
    },
    /// Opens a model with an adapter to be trained, instead of [`Job::Open`].
    OpenTraining(OpeningToTrain),
    /// Loss and gradients of the adapter whose values lie in a file, little-endian f32 in the order of [`Reply::Tensors`]; gradients are
    /// written likewise. Without a place for them the loss alone is computed.
    Descend {
        parameters: PathBuf,
        gradients: Option<PathBuf>,
        windows: Vec<Window>,
    },
    /// Tokens of texts by llama.cpp's own tokenizer; special tokens spelt in a text are those tokens.
    Tokenize {
        texts: Vec<String>,
    },
    /// Texts of conversations by the form that llama.cpp has built in for the model's template.
    Render {
        conversations: Vec<Vec<Message>>,
    },
}

/// What the worker says. A job ends with [`Reply::Done`] or [`Reply::Failed`], or with the process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Hello(String),
    /// A message of llama.cpp: its level and text.
    Log(String, String),
    /// Something that whoever waits should know.
    Note(String),
    Opened(Opened),
    /// The model begins with this item: if the process dies now, it is one of those that may be why.
    Started(usize),
    /// So many tokens were computed.
    Tokens(usize),
    Generated(usize, Generated),
    Scored(usize, f64),
    Compared(usize, Compared),
    /// The item's file is written.
    Written(usize),
    Proved {
        effect: f64,
        base: f64,
    },
    Tokenized(Vec<Vec<u32>>),
    /// Nothing where llama.cpp has no form of its own.
    Rendered(Vec<Option<String>>),
    /// The adapter's tensors by llama.cpp's names, and their numbers of values.
    Tensors(Vec<(String, usize)>),
    /// Σ weight · NLL over all windows; nothing where it is not finite, which JSON cannot say.
    Loss(Option<f64>),
    Done,
    Failed(String),
}

/// Values that crossed in a file.
pub(crate) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Writes one line.
pub(crate) fn write_line(out: &mut impl Write, value: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    out.write_all(&line)?;
    out.flush()
}

/// Reads one line; `None` at the end.
pub(crate) fn read_line<T: DeserializeOwned>(input: &mut impl BufRead) -> Result<Option<T>> {
    let mut line = Vec::new();
    let read = input.take(LONGEST).read_until(b'\n', &mut line).map_err(|e| Error::failed(e.to_string()))?;
    if read == 0 {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        // A process that died in the middle of a line said nothing.
        return if read as u64 == LONGEST { Err(Error::failed("a line is too long")) } else { Ok(None) };
    }
    serde_json::from_slice(&line).map(Some).map_err(|e| {
        let start: String = String::from_utf8_lossy(&line).chars().take(80).collect();
        Error::failed(format!("{start:?} is not what is said between finetest and its worker: {e}"))
    })
}
