//! llama.cpp, in a process of its own. Prompts are rendered and tokenised here, by the same code as candle's; the worker knows
//! tokens only.

mod bisection;
mod memory;
mod objective;
mod process;
pub(crate) mod protocol;
mod widened;
pub(crate) mod worker;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use objective::LlamaCppObjective;

use super::encode::Answers;
use super::engine::{Compared, Continuation, Generated, Generation};
use super::second::{self, Second};
use super::{Backend, Capabilities, DriftText, Logits, Measured, OnAnswers, Progress, Question, encode};
use crate::compare::DriftSample;
use crate::config::{Dtype, GpuConfig, ModelConfig};
use crate::error::{Error, Result};
use crate::model::architecture::outline::Outline;
use crate::model::lora::{self, Adapter, is_gguf};
use crate::model::tokenizer::ChatTokenizer;
use crate::model::{self, ModelFiles, ModelKind};
use crate::record::{Message, Prompt, Proof};
use memory::Memory;
use process::{Isolated, OnOutcome};
use protocol::{Job, Opening, Placement, Reply, floats};
use worker::{VERSION, VERSION_F32};

/// Raised when the same adapter would be converted to another file.
const CONVERSION: u32 = 1;

/// Converted adapters that are kept.
const CONVERTED: usize = 8;
/// What the name of a base in f32 ends with.
const WIDENED: &str = "-f32.gguf";

/// An arm's adapter.
pub(crate) struct LlamaAdapter {
    pub(crate) adapter: Arc<Adapter>,
    /// Its PEFT directory, or its GGUF file.
    pub(crate) directory: PathBuf,
    pub(crate) scale: f64,
    /// Hash of the adapter's files and of the base's.
    pub(crate) hash: String,
}

/// Where files in llama.cpp's form are kept, and whether its weights are the base's own or f32.
pub(crate) struct ConvertedFiles {
    pub(crate) directory: PathBuf,
    /// Hash of the base, when llama.cpp runs on its weights in f32.
    pub(crate) f32_of: Option<String>,
}

/// The worker is started, and the model loaded, at the first question that the store has no answer to.
pub(crate) struct LlamaCppBackend {
    files: ModelFiles,
    gguf: PathBuf,
    config: ModelConfig,
    arms: Vec<Option<LlamaAdapter>>,
    converted: ConvertedFiles,
    gpu: Option<GpuConfig>,
    batch: usize,
    loaded: Option<Loaded>,
}

struct Loaded {
    chat: ChatTokenizer,
    worker: Isolated,
    context: usize,
    vocabulary: usize,
}

impl LlamaCppBackend {
    /// Nothing is loaded yet.
    ///
    /// # Errors
    /// A base that is not GGUF.
    pub(crate) fn new(
        files: ModelFiles,
        config: ModelConfig,
        arms: Vec<Option<LlamaAdapter>>,
        converted: ConvertedFiles,
        (gpu, batch): (Option<GpuConfig>, usize),
    ) -> Result<Self> {
        if config.dtype == Dtype::Bf16 {
            return Err(Error::model(
                &files.root,
                "[model] dtype is bf16, and llama.cpp computes in the precision of the file; remove it, say \"auto\", or use \
                 --backend candle",
            ));
        }
        let gguf = match &files.kind {
            ModelKind::Gguf(path) => path.clone(),
            ModelKind::HuggingFace(_) => {
                return Err(Error::model(
                    &files.root,
                    "is safetensors, and llama.cpp reads GGUF; convert it with llama.cpp's convert_hf_to_gguf.py and give that \
                     file as [model] source, or use --backend candle",
                ));
            }
        };
        Ok(Self { files, gguf, config, arms, converted, gpu, batch, loaded: None })
    }

    /// Name and version, as they decide an answer; `f32`: on widened weights.
    #[must_use]
    pub(crate) fn version(f32: bool, gpu: Option<&GpuConfig>) -> String {
        let version = if f32 { VERSION_F32 } else { VERSION };
        gpu.map_or_else(|| version.into(), |gpu| format!("{version} ({})", gpu.described()))
    }

    fn load(&mut self, on_progress: &mut dyn FnMut(Progress)) -> Result<&mut Loaded> {
        if self.loaded.is_none() {
            on_progress(Progress::Started { what: "loading the model", units: 0 });
            let chat = ChatTokenizer::load(&self.files, &self.config)?;
            // What is wrong with the file is reported before llama.cpp has it.
            let outline = model::outline(&self.files, &self.config)?;
            let arms = self.arms.iter().map(|arm| arm.as_ref().map(|a| self.convert(a, &outline)).transpose());
            let (model, arms) = (self.model()?, arms.collect::<Result<Vec<_>>>()?);
            let placement = match &self.gpu {
                Some(gpu) => Some(Placement { gpu: gpu.clone(), memory: Memory::of(&model)? }),
                None => None,
            };
            let opening = Opening {
                placement,
                model,
                arms,
                batch: self.batch,
                threads: rayon::current_num_threads(),
                log: tracing::level_filters::LevelFilter::current().to_string(),
            };
            let mut worker = Isolated::new(opening);
            let opened = worker.opened()?;
            if let Some(note) = worker.note() {
                on_progress(Progress::Note(note));
            }
            chat.check_fits(opened.vocabulary)?;
            let context = model::context(&self.files, &self.config, opened.context)?;
            self.loaded = Some(Loaded { chat, worker, context, vocabulary: opened.vocabulary });
        }
        self.loaded.as_mut().ok_or_else(|| Error::failed("the model is not loaded"))
    }

    /// The base's file, or its widened copy.
    fn model(&self) -> Result<PathBuf> {
        let Some(hash) = &self.converted.f32_of else { return Ok(self.gguf.clone()) };
        let path = self.converted.directory.join(format!("{}{WIDENED}", hash.get(..32).unwrap_or(hash)));
        if !path.is_file() {
            crate::backend::llama_cpp::widened::widen(&self.gguf, &path)?;
            forget_old(&self.converted.directory, true, 1);
        }
        Ok(path)
    }

    /// The adapter as llama.cpp reads it: a GGUF file as it is, else our own export, kept by the hash of what decides it.
    fn convert(&self, arm: &LlamaAdapter, outline: &Outline) -> Result<PathBuf> {
        if is_gguf(&arm.directory) && arm.scale == 1.0 {
            return Ok(arm.directory.clone());
        }
        let of = format!("{CONVERSION} {} {}", arm.hash, arm.scale);
        let path = self.converted.directory.join(format!("{}.gguf", &blake3::hash(of.as_bytes()).to_hex()[..32]));
        if !path.is_file() {
            let directory = &self.converted.directory;
            std::fs::create_dir_all(directory).map_err(Error::io(directory, "create"))?;
            let conversion = lora::Conversion {
                adapter: &arm.adapter,
                outline,
                files: &self.files,
                directory: &arm.directory,
                scale: arm.scale,
                header: &[],
            };
            conversion.write(&path)?;
            forget_old(directory, false, CONVERTED);
        }
        Ok(path)
    }

    /// What a job that cannot be divided is answered.
    fn ask_worker<T: Default>(&mut self, job: &Job, what: &str, take: impl Fn(Reply) -> Option<T>) -> Result<T> {
        let mut found = T::default();
        self.load(&mut |_| {})?.worker.run_undivided(job, what, &mut |reply| {
            if let Some(taken) = take(reply) {
                found = taken;
            }
        })?;
        Ok(found)
    }

    /// Logits of every position that predicts one of an answer's tokens, or why there are none; (arm, prompt, answer) each.
    ///
    /// # Errors
    /// A prompt that cannot be rendered, logits that are not finite, a file that cannot be read.
    fn logits(&mut self, answers: &[(usize, &Prompt, &[u32])]) -> Result<Vec<Measured<Vec<Vec<f32>>>>> {
        let Loaded { chat, worker, vocabulary, .. } = self.load(&mut |_| {})?;
        let directory = tempfile::tempdir().map_err(Error::io(Path::new("a temporary directory"), "create"))?;
        let items = encode::answers(chat, answers)?;
        let job =
            |some: &[usize]| Job::Logits { items: picked(&items, some), directory: directory.path().to_path_buf() };
        // A later job begins to number its items again, so a file is read when it is reported of.
        let take = |reply| match reply {
            Reply::Written(i) => {
                let path = directory.path().join(i.to_string());
                Some((i, std::fs::read(&path).map_err(Error::io(&path, "read"))))
            }
            _ => None,
        };
        let written = worker.all(items.len(), &job, &take, &mut |_| {})?;
        let vocabulary = *vocabulary;
        let rows = |bytes: Vec<u8>, tokens: usize| {
            let (got, expected) = (bytes.len(), tokens * vocabulary * 4);
            if got != expected {
                return Err(Error::failed(format!("llama.cpp wrote {got} bytes of logits, expected {expected}")));
            }
            Ok(bytes.chunks(vocabulary * 4).map(floats).collect())
        };
        let found = written.into_iter().zip(answers).map(|(bytes, (_, _, tokens))| match bytes {
            Ok(bytes) => Ok(Ok(rows(bytes?, tokens.len())?)),
            Err(why) => Ok(Err(why)),
        });
        found.collect()
    }
}

impl Second for LlamaCppBackend {
    fn chat(&mut self) -> Result<&ChatTokenizer> {
        Ok(&self.load(&mut |_| {})?.chat)
    }

    fn tokenize(&mut self, texts: &[String]) -> Result<Option<Vec<Vec<u32>>>> {
        let tokens = self.ask_worker(&Job::Tokenize { texts: texts.to_vec() }, "tokenising", |reply| match reply {
            Reply::Tokenized(tokens) => Some(tokens),
            _ => None,
        })?;
        Ok(Some(tokens))
    }

    /// By llama.cpp's own forms of templates.
    fn render(&mut self, conversations: &[Vec<Message>]) -> Result<Option<Vec<Option<String>>>> {
        let job = Job::Render { conversations: conversations.to_vec() };
        let texts = self.ask_worker(&job, "rendering", |reply| match reply {
            Reply::Rendered(texts) => Some(texts),
            _ => None,
        })?;
        Ok(Some(texts))
    }

    fn beside(
        &mut self,
        answers: &[(usize, &Prompt, &[u32])],
        reference: &[Vec<Vec<f32>>],
    ) -> Result<Vec<Measured<DriftSample>>> {
        let mut found = Vec::new();
        for ((theirs, ours), (_, _, tokens)) in self.logits(answers)?.into_iter().zip(reference).zip(answers) {
            found.push(theirs.map(|theirs| {
                let mut compared = Compared::default();
                for (token, (ours, theirs)) in tokens.iter().zip(ours.iter().zip(&theirs)) {
                    // A padded vocabulary may be longer on one side.
                    let both = ours.len().min(theirs.len());
                    compared.push(&ours[..both], &theirs[..both], *token as usize);
                }
                second::sample(compared)
            }));
        }
        Ok(found)
    }
}

impl Backend for LlamaCppBackend {
    fn name(&self) -> String {
        Self::version(self.converted.f32_of.is_some(), self.gpu.as_ref())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            logits: Logits::Full,
            scores: true,
            drafts: false,
            seeds: true,
            adapters: true,
            proves_anew: false,
        }
    }

    fn answer(
        &mut self,
        questions: &[Question<'_>],
        on_answers: OnAnswers<'_>,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        let Loaded { chat, worker, context, .. } = self.load(on_progress)?;
        let encode = |q: &Question<'_>| encode::encode(*context, chat, q.request);
        let prompts = questions.iter().map(encode).collect::<Result<Vec<_>>>()?;
        let (choices, continuations) = encode::choices(*context, chat, questions, &prompts)?;
        let mut answers = Answers::begin(questions, &prompts);
        on_progress(Progress::Started { what: "answering", units: questions.len() });
        on_answers(answers.take_complete())?;
        let generated: Vec<usize> = (0..questions.len()).filter(|i| questions[*i].request.max_tokens > 0).collect();
        let generation = |i: &usize| Generation::of(questions[*i].arm, prompts[*i].clone(), questions[*i].request);
        let generations: Vec<Generation> = generated.iter().map(generation).collect();
        let mut ended = |row: usize, output: Measured<Generated>| {
            let i = generated[row];
            let request = questions[i].request;
            let complete = answers.put(i, output, |answer, output| encode::answered(chat, request, output, answer))?;
            on_answers(complete.into_iter().collect())
        };
        generate(worker, &generations, chat.tokenizer.stop_ids(), &mut ended, on_progress)?;
        let mut scored = |row: usize, score: Measured<f64>| {
            let complete = answers.put_score(&choices[row], score)?;
            on_answers(complete.into_iter().collect())
        };
        score(worker, &continuations, &mut scored, &mut |event| {
            // Choices are no answers of their own.
            if matches!(event, Progress::Tokens(_)) {
                on_progress(event);
            }
        })
    }

    fn drift(
        &mut self,
        texts: &[DriftText<'_>],
        (base, others): (usize, &[usize]),
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Vec<Measured<DriftSample>>>> {
        let Loaded { chat, worker, context, .. } = self.load(on_progress)?;
        let all = encode::texts(*context, chat, texts)?;
        on_progress(Progress::Started { what: "measuring drift", units: all.len() * others.len() });
        let take = |reply| match reply {
            Reply::Compared(i, compared) => Some((i, compared)),
            _ => None,
        };
        let sample =
            |(of, found): (&Continuation, Measured<Compared>)| found.map(|found| encode::drift_sample(chat, of, found));
        // Two arms at a time: each has a context, with a cache and the logits of a batch.
        let of_arm = |other: &usize| {
            let job = |some: &[usize]| Job::Compare { items: picked(&all, some), arms: (base, *other) };
            let compared: Vec<Measured<Compared>> = worker.all(all.len(), &job, &take, on_progress)?;
            Ok(all.iter().zip(compared).map(sample).collect())
        };
        others.iter().map(of_arm).collect()
    }

    fn probe_adapter(&mut self, probes: &[&Prompt], arms: (usize, usize)) -> Result<Measured<Proof>> {
        let Some(LlamaAdapter { adapter, .. }) = self.arms.get(arms.1).and_then(Option::as_ref) else {
            return Err(Error::failed("the tuned arm has no adapter"));
        };
        let adapted_modules = adapter.modules.len();
        if adapter.is_zero() {
            return Err(encode::untrained());
        }
        let Loaded { chat, worker, .. } = self.load(&mut |_| {})?;
        let encoded = probes.iter().map(|prompt| chat.encode(prompt)).collect::<Result<Vec<_>>>()?;
        let job = |_: &[usize]| Job::Prove { prompts: encoded.clone(), arms };
        let take = |reply| match reply {
            Reply::Proved { effect, base } => Some((0, (effect, base))),
            _ => None,
        };
        // One item: all prompts are one proof.
        let found = worker.all(1, &job, &take, &mut |_| {})?.pop();
        let (effect, base) = match found.ok_or_else(|| Error::failed("llama.cpp's worker gave no proof"))? {
            Ok(found) => found,
            Err(why) => return Ok(Err(why)),
        };
        encode::proof(effect, base, adapted_modules).map(Ok)
    }
}

/// Removes all but the newest converted adapters, or bases in f32: every training makes another one, and an old one is made again when
/// it is wanted. What cannot be removed stays.
fn forget_old(directory: &Path, widened: bool, keep: usize) {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries
        .filter(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.ends_with(".gguf") && name.ends_with(WIDENED) == widened
        })
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    files.sort();
    let old = files.len().saturating_sub(keep);
    files.iter().take(old).for_each(|(_, path)| drop(std::fs::remove_file(path)));
}

fn picked<T: Clone>(all: &[T], some: &[usize]) -> Vec<T> {
    some.iter().map(|i| all[*i].clone()).collect()
}

fn generate(
    worker: &mut Isolated,
    all: &[Generation],
    stop: &[u32],
    on_outcome: OnOutcome<'_, Generated>,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<()> {
    let job = |some: &[usize]| Job::Generate { items: picked(all, some), stop: stop.to_vec() };
    let take = |reply| match reply {
        Reply::Generated(i, generated) => Some((i, generated)),
        _ => None,
    };
    worker.each(all.len(), &job, &take, on_outcome, on_progress)
}

fn score(
    worker: &mut Isolated,
    all: &[Continuation],
    on_outcome: OnOutcome<'_, f64>,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<()> {
    let job = |some: &[usize]| Job::Score { items: picked(all, some) };
    let take = |reply| match reply {
        Reply::Scored(i, score) => Some((i, score)),
        _ => None,
    };
    worker.each(all.len(), &job, &take, on_outcome, on_progress)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn old_conversions_go_and_the_newest_stay() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        let adapters = (0..11u64).map(|i| (i, format!("{i}.gguf")));
        for (age, name) in adapters.chain((0..3).map(|i| (i, format!("base{i}{WIDENED}")))) {
            let file = std::fs::File::create(at(&name)).expect("a file");
            file.set_modified(SystemTime::now() - Duration::from_secs(60 * age)).expect("a time");
        }
        let there = || {
            let adapters = (0..11u64).filter(|i| at(&format!("{i}.gguf")).exists()).count();
            (adapters, (0..3).filter(|i| at(&format!("base{i}{WIDENED}")).exists()).collect::<Vec<_>>())
        };
        forget_old(directory.path(), false, CONVERTED);
        assert_eq!(there(), (8, vec![0, 1, 2]));
        assert!(at("7.gguf").exists() && !at("8.gguf").exists());
        forget_old(directory.path(), true, 1);
        assert_eq!(there(), (8, vec![0]));
    }
}
