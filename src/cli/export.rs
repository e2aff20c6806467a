//! `finetest export --format FORMAT --output PATH`.

use std::path::PathBuf;

use super::options::Global;
use super::print;
use crate::config::{AdapterConfig, Config};
use crate::error::{Error, Result, exit};
use crate::export::{Export, Format, Precision, Protected, earlier, probe};
use crate::files::sweep_directory;
use crate::model::{self, ModelFiles, ModelKind, Opened, lora, sources};
use crate::project;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// The adapter in PEFT's directory form
    Peft,
    /// The same with all experts of a layer in one parameter, as transformers 5 has them
    PeftFused,
    /// The adapter as llama.cpp and Ollama load it
    GgufAdapter,
    /// Base and adapter in one, as safetensors with configuration and tokenizer
    Merged,
    /// Base and adapter in one, as GGUF with a Modelfile for Ollama; of a base that is GGUF
    MergedGguf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Dtype {
    F32,
    Bf16,
    F16,
    #[value(name = "q8_0")]
    Q8_0,
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The form to write
    #[arg(long, value_enum)]
    format: Form,
    /// A directory (peft, merged) or a file (gguf-adapter, merged-gguf) that is not there yet, or an empty directory
    #[arg(long = "output", short, alias = "out", value_name = "PATH")]
    out: PathBuf,
    /// A PEFT directory or a GGUF adapter; default: the manifest's
    #[arg(long, value_name = "PATH")]
    adapter: Option<PathBuf>,
    /// Precision of merged weights; default: bf16 in safetensors, f16 in GGUF
    #[arg(long, value_enum)]
    dtype: Option<Dtype>,
    /// Write over an export that this command wrote before
    #[arg(long)]
    force: bool,
}

impl From<Form> for Format {
    fn from(form: Form) -> Self {
        match form {
            Form::Peft => Self::Peft,
            Form::PeftFused => Self::PeftFused,
            Form::GgufAdapter => Self::GgufAdapter,
            Form::Merged => Self::Merged,
            Form::MergedGguf => Self::MergedGguf,
        }
    }
}

impl From<Dtype> for Precision {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::Bf16 => Self::Bf16,
            Dtype::F16 => Self::F16,
            Dtype::Q8_0 => Self::Q8_0,
        }
    }
}

pub(super) fn export(global: &Global, args: &Args) -> Result<u8> {
    let (format, precision) = (Format::from(args.format), args.dtype.map(Precision::from));
    format.check(precision)?;
    let config = global.project()?;
    let place = config.adapter.as_ref();
    let directory = args.adapter.clone().or_else(|| place.map(|place| place.path.clone()));
    let directory = directory.ok_or_else(|| {
        Error::input(&config.manifest, None, "[adapter] is missing: there is no adapter to export; give --adapter PATH")
    })?;
    let mut protected = Protected::project(&config);
    protected.add("the adapter", &directory);
    protected.check_export(format, &args.out)?;
    earlier::check(format, &args.out, args.force)?;
    let scale = if args.adapter.is_none() { place.map_or(1.0, |place| place.scale) } else { 1.0 };
    let mut display = global.display();
    // Nobody trains the adapter meanwhile, and what a killed export left is nobody's.
    let _lock = project::lock(&config, &mut |event| display.show(&event))?;
    sweep_directory(&args.out);
    let files = sources::resolve(&config.model, &mut |event| display.show(&event.into()));
    display.finish();
    let files = files?;
    protected.add_base(&files);
    protected.check_export(format, &args.out)?;
    let base = match (Opened::load(files.clone(), &config.model), &files.kind) {
        (Ok(base), _) => base,
        // Only llama.cpp computes this base, so that there are no logits to compare here.
        (Err(why), ModelKind::Gguf(_)) if args.format == Form::GgufAdapter => {
            convert_alone(global, args, &config, &files, AdapterConfig { path: directory, scale })?;
            print(&format!(
                "{}\nread back and compared with the adapter value by value, since candle cannot take this base: {why}\n",
                args.out.display()
            ))?;
            return Ok(exit::PASS);
        }
        (Err(why), _) => return Err(why),
    };
    let (adapter, told) = base.adapter(&directory, &config.root)?;
    global.notes(told);
    let export = Export {
        files: &files,
        decoder: &base.decoder,
        adapter: &adapter,
        directory: &directory,
        scale,
        probe: &probe(&base)?,
    };
    let exported = export.write(format, precision, &args.out)?;
    let mut text = String::new();
    for file in &exported.files {
        text.push_str(&format!("{}\n", file.display()));
    }
    let d = exported.difference;
    text.push_str(&format!(
        "read back and compared with base and adapter over {} tokens: drift {:.2e} nats/token, same first choice {:.1} %, \
         largest difference of a logit {:.2e}\n",
        d.positions,
        d.drift,
        100.0 * d.same_top1,
        d.largest
    ));
    print(&text)?;
    Ok(exit::PASS)
}

/// Writes llama.cpp's form of an adapter whose base candle cannot take.
fn convert_alone(
    global: &Global,
    args: &Args,
    config: &Config,
    files: &ModelFiles,
    place: AdapterConfig,
) -> Result<()> {
    let outline = model::outline(files, &config.model)?;
    let adapter = lora::open(&place.path, &outline)?;
    global.notes(lora::provenance::notes(&adapter, &config.root, files, &config.model, &outline)?);
    let (directory, scale, header) = (place.path.as_path(), place.scale, earlier::header());
    lora::Conversion { adapter: &adapter, outline: &outline, files, directory, scale, header: &header }.write(&args.out)
}
