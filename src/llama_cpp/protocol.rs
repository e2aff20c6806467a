//! What the worker process is asked and what it replies: a line of JSON each, of bounded length.

use std::io::{BufRead, Read, Write};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::engine::{Compared, Continuation, Generated, Generation};
use crate::error::{Error, Result};

/// First thing a worker says; another program that was started by mistake says something else.
pub(crate) const HELLO: &str = concat!("finetest worker ", env!("CARGO_PKG_VERSION"));
/// Longest line that either side reads, in bytes.
const LONGEST: u64 = 256 << 20;

/// A model, and the adapter of each arm.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Opening {
    /// A GGUF file.
    pub(crate) model: PathBuf,
    /// A GGUF adapter each; `None` is base.
    pub(crate) arms: Vec<Option<PathBuf>>,
    /// Most sequences decoded together.
    pub(crate) batch: usize,
    /// Threads to compute with.
    pub(crate) threads: usize,
    /// Which of llama.cpp's messages are wanted: `OFF`, `ERROR`, … `TRACE`.
    pub(crate) log: String,
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
    /// Tokens of texts by llama.cpp's own tokenizer; special tokens spelt in a text are those tokens.
    Tokenize {
        texts: Vec<String>,
    },
}

/// What the worker says. A job ends with [`Reply::Done`] or [`Reply::Failed`], or with the process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Hello(String),
    /// A message of llama.cpp: its level and text.
    Log(String, String),
    Opened(Opened),
    /// The model begins with this item: if the process dies now, it is one of those that may be why.
    Started(usize),
    /// So many tokens were computed.
    Tokens(usize),
    Generated(usize, Generated),
    Scored(usize, f64),
    Compared(usize, Compared),
    Proved {
        effect: f64,
        base: f64,
    },
    Tokenized(Vec<Vec<u32>>),
    Done,
    Failed(String),
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
