//! Which base to choose, and where to train it: what fits into memory, how long it takes, and what the method advises.

mod catalogue;
pub(crate) mod hardware;
mod memory;
pub(crate) mod time;

use std::path::{Path, PathBuf};

use serde::Serialize;

pub use catalogue::Fact;
pub use hardware::Gpu;
pub(crate) use memory::COPIES;
pub use memory::{Memory, Step, here, largest_batch, on_gpu};

use self::catalogue::{Candidate, candidates};
use crate::config::DataFormat;
use crate::data::limits::quarter_tokens;
use crate::data::stats::stats;
use crate::data::{Turns, each_batch};
use crate::error::Result;
use crate::model::Sizes;

/// Bytes of a weight in 16 bits, and in llama.cpp's usual mixture of 4 and 6 bits (Q4_K_M: 4.85 bits).
const HALF: f64 = 2.0;
const FOUR_BITS: f64 = 0.606;
/// Examples of a micro-batch, where more would fit and none are asked for.
const USUAL_BATCH: u64 = 4;
/// Share of a file's examples from which on a language of it counts.
const COMMON: f64 = 0.05;
/// Number of languages from which on the data count as multilingual.
const MANY: usize = 3;
/// Data that is assumed where none is given.
const ASSUMED: (usize, u64) = (1000, 300);

/// What a licence has to allow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LicenseNeed {
    /// Anything.
    #[default]
    Any,
    /// Products.
    Commercial,
    /// Everything, without conditions on names or use.
    Open,
}

impl LicenseNeed {
    fn is_met(self, licence: &str) -> bool {
        let open = ["apache-2.0", "mit", "bsd-3-clause"].contains(&licence);
        let research = licence.contains("research") || licence.contains("-nc");
        match self {
            Self::Any => true,
            Self::Commercial => !research,
            Self::Open => open,
        }
    }
}

/// What is to be trained, and on what.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Needs {
    /// Bytes of memory for a training on the CPU.
    pub memory: u64,
    /// Multiplications and additions a second of the CPU.
    pub speed: f64,
    /// A GPU, where there is one.
    pub gpu: Option<Gpu>,
    /// The data.
    pub data: DataNeeds,
    /// Passes over it.
    pub epochs: u64,
    /// What the licence has to allow.
    pub license: LicenseNeed,
    /// Seconds that a training may take.
    pub deadline: Option<f64>,
    /// Research, where size counts for more than cost.
    pub research: bool,
    /// Rank of the adapter, on every linear layer.
    pub rank: u64,
    /// Examples of a micro-batch; `None`: what fits, and 4 at most.
    pub micro_batch: Option<u64>,
    /// A user's own catalogue.
    #[serde(skip)]
    pub catalogue: Option<PathBuf>,
}

/// The data on paper.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DataNeeds {
    /// The file; `None`: what is said here is assumed.
    pub path: Option<PathBuf>,
    /// Examples.
    pub examples: usize,
    /// Tokens of all, about: 4 characters of ASCII each, or another one.
    pub tokens: u64,
    /// Tokens that nine examples in ten have at most.
    pub length: u64,
    /// Languages of at least a twentieth of it, or those that were named.
    pub languages: Vec<String>,
}

impl DataNeeds {
    /// Data that nobody has seen: 1000 examples of 300 tokens, in English.
    #[must_use]
    pub fn assumed() -> Self {
        let (examples, length) = ASSUMED;
        Self { path: None, examples, tokens: examples as u64 * length, length, languages: vec!["English".into()] }
    }

    /// Of a file; examples longer than `sequence_len` tokens are as long as that.
    ///
    /// # Errors
    /// It cannot be read, or has no example.
    pub fn read(path: &Path, format: DataFormat, sequence_len: u64) -> Result<Self> {
        let mut lengths: Vec<u64> = Vec::new();
        each_batch(path, format, &mut |_| {}, &mut |batch| {
            let read = batch.iter().filter_map(|(_, turns)| turns.as_ref().ok());
            lengths.extend(read.map(|turns| tokens(turns).clamp(1, sequence_len)));
            Ok(())
        })?;
        let found = stats(path, format, &mut |_| {})?;
        let common = found.languages.0.iter().filter(|(name, share)| *share >= COMMON && name != "unknown");
        lengths.sort_unstable();
        Ok(Self {
            path: Some(path.to_owned()),
            examples: lengths.len(),
            tokens: lengths.iter().sum(),
            length: lengths[(lengths.len() * 9 / 10).min(lengths.len() - 1)],
            languages: common.map(|(name, _)| name.clone()).collect(),
        })
    }
}

/// About how many, with those of a template.
fn tokens(turns: &Turns) -> u64 {
    let of = |text: &str| quarter_tokens(text).div_ceil(4) as u64;
    match turns {
        // A turn's tags are about five tokens.
        Turns::Chat { messages, tools } => {
            let said: u64 = messages.iter().map(|message| message.texts().map(of).sum::<u64>() + 5).sum();
            said + tools.iter().map(|tool| of(&tool.to_string())).sum::<u64>()
        }
        Turns::Completion { prompt, completion } => of(prompt) + of(completion),
        Turns::Text(text) => of(text),
    }
}

/// A way to train a base.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Way {
    /// `LoRA` or `QLoRA`.
    pub method: &'static str,
    /// `CPU`, or the GPU's name.
    pub on: String,
    /// What trains there.
    pub with: &'static str,
    /// Examples of a micro-batch that `memory` is of; 0 where not even one fits.
    pub micro_batch: u64,
    /// The most examples that fit.
    pub largest_micro_batch: u64,
    /// Memory by part.
    pub memory: Memory,
    /// About how long.
    pub seconds: f64,
}

/// A base, and what can be done with it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Choice {
    /// Its name.
    pub name: String,
    /// As `[model] source` names it.
    pub source: String,
    /// Weights.
    pub parameters: u64,
    /// Weights that a token uses.
    pub active_parameters: u64,
    /// Its licence.
    pub licence: String,
    /// Whether it can be chosen: it fits somewhere, in time, with this licence and these languages.
    pub possible: bool,
    /// Why it stands where it stands.
    pub why: String,
    /// The way to train it that is advised; `None` where none fits.
    pub advised: Option<Way>,
    /// Every way.
    pub ways: Vec<Way>,
    /// Where and when its facts were read.
    pub fact: Fact,
}

/// Ranks the bases of the catalogue, the best first.
///
/// # Errors
/// A catalogue that cannot be read.
pub fn plan(needs: &Needs) -> Result<Vec<Choice>> {
    let candidates = candidates(needs.catalogue.as_deref())?;
    let mut choices: Vec<(u8, Choice)> = candidates
        .iter()
        .map(|candidate| {
            let choice = choice(candidate, needs);
            (advice(candidate, needs), choice)
        })
        .collect();
    choices.sort_by(|(a_advice, a), (b_advice, b)| {
        let key = |advice: u8, choice: &Choice| (choice.possible, advice, choice.parameters);
        key(*b_advice, b).cmp(&key(*a_advice, a))
    });
    Ok(choices.into_iter().map(|(_, choice)| choice).collect())
}

/// What the method says first: DeepSeek-V3 for research, Qwen 7B for many languages, else Llama 3.1 8B.
fn advice(candidate: &Candidate, needs: &Needs) -> u8 {
    let many = needs.data.languages.len() >= MANY;
    let first = if needs.research {
        "DeepSeek-V3"
    } else if many {
        "Qwen2.5 7B Instruct"
    } else {
        "Llama 3.1 8B Instruct"
    };
    if candidate.name == first { 2 } else { u8::from(many && candidate.languages.are_many()) }
}

fn choice(candidate: &Candidate, needs: &Needs) -> Choice {
    let sizes = Sizes::of(&candidate.spec);
    let ways = ways(candidate, needs);
    let in_time = |way: &&Way| needs.deadline.is_none_or(|deadline| way.seconds <= deadline);
    let fits = |way: &&Way| way.micro_batch > 0;
    // A GPU before the CPU, and 16 bits before 4 where both fit.
    let advised = ways.iter().filter(fits).find(in_time);
    let missing: Vec<&str> =
        needs.data.languages.iter().map(String::as_str).filter(|language| !candidate.languages.has(language)).collect();
    let licensed = needs.license.is_met(&candidate.licence);
    let possible = licensed && missing.is_empty() && advised.is_some();
    let why = if !licensed {
        format!("its licence is {}", candidate.licence)
    } else if !missing.is_empty() {
        format!("it is not published for {}", missing.join(", "))
    } else if let Some(way) = advised {
        why_advised(candidate, needs, way)
    } else if ways.iter().any(|way| way.micro_batch > 0) {
        "it fits, but no way is in time".to_owned()
    } else {
        "it fits nowhere".to_owned()
    };
    Choice {
        name: candidate.name.clone(),
        source: candidate.source.clone(),
        parameters: sizes.parameters,
        active_parameters: sizes.active_parameters,
        licence: candidate.licence.clone(),
        possible,
        why,
        advised: advised.filter(|_| possible).cloned(),
        ways,
        fact: candidate.fact.clone(),
    }
}

fn why_advised(candidate: &Candidate, needs: &Needs, way: &Way) -> String {
    let first = match advice(candidate, needs) {
        2 if needs.research => "for research, quantised",
        2 if needs.data.languages.len() >= MANY => "for many languages",
        2 => "a good first base",
        1 => "published for many languages",
        _ => "it fits",
    };
    let place = if way.on == "CPU" {
        "train it here"
    } else {
        "train it on the GPU with another trainer, and bring the adapter"
    };
    format!("{first}; {place}")
}

/// Where and how a base is trained.
struct Place<'a> {
    method: &'static str,
    on: &'a str,
    with: &'static str,
    /// Bytes that there are.
    available: u64,
}

impl Place<'_> {
    /// The way to train there; `memory` gives the memory for a number of tokens in a micro-batch, `seconds` the time with a number of examples
    /// in one.
    fn way(self, needs: &Needs, memory: impl Fn(u64) -> Memory, seconds: impl Fn(u64) -> f64) -> Way {
        let length = needs.data.length;
        let largest = largest_batch(self.available, length, &memory);
        let wanted = needs.micro_batch.unwrap_or_else(|| largest.clamp(1, USUAL_BATCH));
        Way {
            method: self.method,
            on: self.on.to_owned(),
            with: self.with,
            micro_batch: if wanted <= largest { wanted } else { 0 },
            largest_micro_batch: largest,
            memory: memory(wanted.saturating_mul(length)),
            seconds: seconds(wanted),
        }
    }
}

fn ways(candidate: &Candidate, needs: &Needs) -> Vec<Way> {
    let spec = &candidate.spec;
    let sizes = Sizes::of(spec);
    let tokens = needs.data.tokens as f64 * needs.epochs as f64;
    let step = |tokens, checkpointing| Step { tokens, rank: needs.rank, checkpointing };
    let mut ways = Vec::new();
    if let Some(gpu) = &needs.gpu {
        for (method, quantised) in [("LoRA", false), ("QLoRA", true)] {
            let place =
                Place { method, on: &gpu.name, with: "TRL, axolotl, Unsloth or LLaMA-Factory", available: gpu.memory };
            let seconds = time::on_gpu(sizes.active_parameters, tokens, quantised, gpu);
            ways.push(place.way(needs, |tokens| on_gpu(spec, quantised, step(tokens, true)), |_| seconds));
        }
    }
    for (method, bytes) in [("LoRA", HALF), ("QLoRA", FOUR_BITS)] {
        let weights = (sizes.parameters as f64 * bytes) as u64;
        let memory = |checkpointing| move |tokens| here(spec, weights, step(tokens, checkpointing));
        // Blocks are computed again only where that makes it fit.
        let again = largest_batch(needs.memory, needs.data.length, memory(false)) < needs.micro_batch.unwrap_or(1);
        let place = Place {
            method,
            on: "CPU",
            with: if again { "finetest, gradient_checkpointing" } else { "finetest" },
            available: needs.memory,
        };
        let seconds = |examples: u64| {
            let batches = needs.data.examples as f64 * needs.epochs as f64 / examples.max(1) as f64;
            time::here(spec, time::Amount { tokens, batches }, again, needs.speed)
        };
        ways.push(place.way(needs, memory(again), seconds));
    }
    ways
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs() -> Needs {
        Needs {
            memory: 16_000_000_000,
            speed: 2e11,
            gpu: Some(Gpu::named("RTX 4060 16GB").expect("a GPU")),
            data: DataNeeds::assumed(),
            epochs: 1,
            license: LicenseNeed::Any,
            deadline: None,
            research: false,
            rank: 16,
            micro_batch: None,
            catalogue: None,
        }
    }

    fn first(needs: &Needs) -> Choice {
        plan(needs).expect("a catalogue").into_iter().next().expect("a choice")
    }

    #[test]
    fn the_method_s_advice_comes_out_where_its_conditions_hold() {
        let llama = first(&needs());
        assert_eq!(llama.name, "Llama 3.1 8B Instruct");
        let way = llama.advised.expect("a way");
        assert_eq!((way.method, way.on.as_str()), ("QLoRA", "RTX 4060"));
        assert!(llama.why.contains("a good first base") && llama.why.contains("another trainer"), "{}", llama.why);

        let mut many = needs();
        many.data.languages = ["English", "Russian", "Japanese"].map(str::to_owned).to_vec();
        assert_eq!(first(&many).name, "Qwen2.5 7B Instruct");

        let research = Needs { research: true, memory: 600_000_000_000, ..needs() };
        let found = first(&research);
        assert_eq!(found.name, "DeepSeek-V3");
        assert_eq!(found.advised.map(|way| way.method), Some("QLoRA"));
    }

    #[test]
    fn what_does_not_fit_is_late_or_may_not_be_used_is_last_and_says_why() {
        let open = Needs { license: LicenseNeed::Open, ..needs() };
        assert!(first(&open).licence == "apache-2.0");
        let of = |needs: &Needs, name: &str| {
            plan(needs).expect("a catalogue").into_iter().find(|choice| choice.name == name).expect("a model")
        };
        assert_eq!(of(&open, "Llama 3.1 8B Instruct").why, "its licence is llama3.1");
        assert!(!of(&Needs { license: LicenseNeed::Commercial, ..needs() }, "Qwen2.5 3B Instruct").possible);
        let small = Needs { gpu: None, memory: 2_000_000_000, ..needs() };
        assert_eq!(of(&small, "Llama 3.1 8B Instruct").why, "it fits nowhere");
        let chosen = first(&small);
        assert!(chosen.parameters < 2_000_000_000 && chosen.advised.expect("a way").memory.total() <= 2_000_000_000);
        let late = Needs { gpu: None, deadline: Some(60.0), ..needs() };
        assert_eq!(of(&late, "Llama 3.1 8B Instruct").why, "it fits, but no way is in time");
        let mut russian = needs();
        russian.data.languages = vec!["Russian".into()];
        assert_eq!(of(&russian, "Llama 3.1 8B Instruct").why, "it is not published for Russian");
        assert!(first(&russian).name.starts_with("Qwen") || first(&russian).name.starts_with("Gemma"));
    }

    #[test]
    fn data_are_read_for_their_size_and_languages() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("d.jsonl");
        let line = "{\"prompt\": \"When does the library open in the morning, and what do I bring?\", \"completion\": \"It opens at nine; bring your card.\"}\n";
        std::fs::write(&path, line.repeat(10)).expect("a file");
        let found = DataNeeds::read(&path, DataFormat::Auto, 512).expect("data");
        assert_eq!((found.examples, found.languages), (10, vec!["English".to_owned()]));
        assert!((20..35).contains(&found.length) && found.tokens == 10 * found.length, "{}", found.length);
        assert_eq!(DataNeeds::read(&path, DataFormat::Auto, 8).expect("data").length, 8);
    }
}
