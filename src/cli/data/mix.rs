//! `finetest data mix`.

use std::path::{Path, PathBuf};

use super::{check_free, data_format, reading, same_place, share};
use crate::cli::options::Global;
use crate::config::DataFormat;
use crate::data::mix::{Mixture, Part, mix};
use crate::error::{Error, Result, exit};
use crate::files::write_atomically;
use crate::shown::visible;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  finetest data mix train.jsonl --add general=chat.jsonl:0.2 -o mixed.jsonl
  finetest data mix train.jsonl --add general=chat.jsonl:0.2 --add code=code.jsonl:0.1 -o mixed.jsonl

The shares are of the new file. The data is taken whole, and of each other file as many examples as make its share, none twice.
A ledger beside the new file says how many came from where. No file is overwritten.")]
pub(super) struct MixArgs {
    /// Path to the data
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Data that is mixed in, by a name for the ledger, and its share of the new file; may be given several times
    #[arg(long, value_name = "NAME=FILE:SHARE", required = true, value_parser = part)]
    add: Vec<Part>,
    /// Path to the new file, JSON Lines
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Seed of the draw
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,
    /// Format of the examples, the same in all files: auto, messages, sharegpt, alpaca, completion or text
    #[arg(long, value_name = "FORMAT", default_value = "auto", value_parser = data_format)]
    data_format: DataFormat,
}

fn part(text: &str) -> Result<Part, String> {
    let expected = || "expected NAME=FILE:SHARE, for example general=chat.jsonl:0.2".to_owned();
    let (name, rest) = text.split_once('=').ok_or_else(expected)?;
    let (path, of) = rest.rsplit_once(':').ok_or_else(expected)?;
    if name.trim().is_empty() || path.is_empty() {
        return Err(expected());
    }
    let share = share(of).map_err(|why| format!("the share is {of:?}, {why}"))?;
    Ok(Part { name: name.trim().to_owned(), path: PathBuf::from(path), share })
}

pub(super) fn run(global: &Global, args: &MixArgs) -> Result<u8> {
    let mut name = args.output.as_os_str().to_owned();
    name.push(".mix.json");
    let ledger = PathBuf::from(name);
    check_free("data mix", [&args.output, &ledger])?;
    for (i, part) in args.add.iter().enumerate() {
        if part.name == "data" || args.add[..i].iter().any(|other| other.name == part.name) {
            let why = format!(
                "--add {}: the name is taken; each file needs one of its own, and `data` is the data's",
                part.name
            );
            return Err(Error::Usage(why));
        }
        if same_place(&part.path, &args.file) {
            return Err(Error::Usage(format!("--add {}: it is the data itself", part.name)));
        }
    }
    let files: Vec<&Path> =
        std::iter::once(&args.file).chain(args.add.iter().map(|part| &part.path)).map(PathBuf::as_path).collect();
    // Each is read twice: to count, and to write.
    let mixture = reading(global, "mixing data", &files.repeat(2), |on_read| {
        mix(&args.file, &args.add, (args.data_format, args.seed), &args.output, on_read)
    })?;
    let json = serde_json::to_string_pretty(&mixture).map_err(|e| Error::failed(e.to_string()))? + "\n";
    write_atomically(&ledger, json.as_bytes())?;
    crate::cli::print(&visible(&text(&mixture, &args.output, &ledger)))?;
    Ok(exit::PASS)
}

fn text(mixture: &Mixture, output: &Path, ledger: &Path) -> String {
    let total: usize = mixture.parts.iter().map(|part| part.taken).sum();
    let mut text = String::new();
    for part in &mixture.parts {
        text.push_str(&format!(
            "{:<12} {:>8} of {:<8} {:>5.1} %  {}\n",
            part.name,
            part.taken,
            part.available,
            100.0 * part.share,
            part.path.display()
        ));
    }
    text + &format!("{:<12} {total:>8}  {}\nledger       {}\n", "in all", output.display(), ledger.display())
}
