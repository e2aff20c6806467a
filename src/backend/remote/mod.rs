//! Servers that answer with base and adapters side by side: llama-server, vLLM, SGLang, Ollama, or any with OpenAI's interface.
//!
//! Prompts are rendered and tokenised here, and sent as token ids where a server takes them. Arms are asked one after another, never at the same time: servers mix them
//! up (vllm-project/vllm #48421). What a server shows is what is claimed: drift from lists of the most likely tokens is a lower bound.

mod connect;
mod http;
mod llama_server;
mod models;
mod ollama;
mod openai;
mod pool;
mod proof;
mod replicas;
mod server;
mod sglang;
mod top_k;
mod vllm;

use std::sync::Arc;

use self::http::Failure;
use self::proof::{Probe, Proving, Said, Shown};
use self::replicas::{Replicas, Work};
use self::server::{Asked, Scored, Spelled, Takes, ToLoad, Written};
use super::encode::{self, Answers};
use super::engine::Continuation;
use super::second::{self, Second};
use super::{Backend, Capabilities, DriftText, Logits, Measured, OnAnswers, Progress, Question};
use crate::compare::DriftSample;
use crate::config::{ModelConfig, RemoteConfig};
use crate::error::{Error, Result};
use crate::model::lora::Adapter;
use crate::model::tokenizer::ChatTokenizer;
use crate::model::{self, Limits, ModelFiles};
use crate::record::{Prompt, Proof, Request};

/// A probability is at most 1; what is above it by more than rounding is no log-probability.
const ROUNDING: f64 = 1e-3;
/// Likely tokens that tell whether a choice was close.
const RIVALS: usize = 2;
/// Prompts that arms are proven on.
const PROBES: usize = 3;
/// Lengths of lists that are tried to find which is long enough, and on how many positions: a list of 10 000 is a megabyte.
const LISTS: [usize; 4] = [100, 500, 2_000, 10_000];
const LONG_LISTS: usize = 8;

/// A project's server or servers, which were reached and have its adapters.
pub(crate) struct Remote {
    replicas: Replicas,
    config: RemoteConfig,
}

impl Remote {
    /// Reaches every server and finds the adapters of these arms, without base: their names and scales.
    ///
    /// # Errors
    /// One cannot be reached, speaks no dialect that is known, or has no such adapter.
    pub(crate) fn connect(config: &RemoteConfig, arms: &[(String, f64)]) -> Result<Self> {
        Ok(Self { replicas: Replicas::connect(config, arms)?, config: config.clone() })
    }

    /// Engine, version and model, as they decide an answer.
    pub(crate) fn identity(&self) -> &str {
        self.replicas.identity()
    }
}

/// Asks a server.
pub(crate) struct RemoteBackend {
    remote: Arc<Remote>,
    files: ModelFiles,
    model: ModelConfig,
    /// The adapter of each arm as it lies here, base first.
    adapters: Vec<Option<Here>>,
    text: Option<Text>,
    /// Base and adapters were shown to be kept apart before the first answer.
    proven: bool,
    began: Vec<Began>,
}

/// What arms said in their first proof, to see in the last one that they still are what they were.
struct Began {
    arms: (usize, usize),
    probe: Probe,
    /// By each server's address.
    said: Vec<(String, [Said; 2])>,
}

/// An adapter as it lies here.
pub(crate) struct Here {
    pub(crate) arm: String,
    pub(crate) adapter: Arc<Adapter>,
    /// Hash of its files.
    pub(crate) hash: String,
    /// Its directory: its whole path, and the one below the project's.
    pub(crate) path: String,
    pub(crate) below: String,
}

impl Here {
    /// How a server loads it that sees the project at `at`.
    fn to_load(&self, at: &str) -> ToLoad {
        let hash = self.hash.get(..12).unwrap_or(&self.hash);
        // One that lies elsewhere than in the project is at its whole path there too.
        let here = at == "." || self.below.starts_with('/');
        let path = if here { self.path.clone() } else { format!("{}/{}", at.trim_end_matches('/'), self.below) };
        let ranks = self.adapter.modules.values().map(|module| module.rank);
        ToLoad { name: format!("{}-{hash}", self.arm), path, rank: ranks.max().unwrap_or(0) }
    }
}

struct Text {
    chat: ChatTokenizer,
    limits: Limits,
}

impl RemoteBackend {
    /// Nothing is read yet.
    pub(crate) fn new(remote: Arc<Remote>, files: ModelFiles, model: ModelConfig, adapters: Vec<Option<Here>>) -> Self {
        Self { remote, files, model, adapters, text: None, proven: false, began: Vec::new() }
    }

    /// The base's tokenizer, and the context that both the base and the server have.
    fn text(&mut self) -> Result<(&Text, &Remote)> {
        let text = match self.text.take() {
            Some(text) => text,
            None => {
                let chat = ChatTokenizer::load(&self.files, &self.model)?;
                let mut limits = model::limits(&self.files, &self.model)?;
                chat.check_fits(limits.vocabulary)?;
                limits.context = limits.context.min(self.remote.replicas.context());
                if let Some(at) = &self.remote.config.adapters_at {
                    let adapters: Vec<ToLoad> = self.adapters.iter().flatten().map(|here| here.to_load(at)).collect();
                    let mut living = self.remote.replicas.living().into_iter();
                    living.try_for_each(|(_, server)| server.load(&adapters))?;
                }
                Text { chat, limits }
            }
        };
        Ok((self.text.insert(text), &self.remote))
    }

    /// A server that mixes arms up is refused before anything is asked of it; and it is proven once more when all is answered.
    fn prove_first(&mut self, questions: &[Question<'_>], on_progress: &mut dyn FnMut(Progress)) -> Result<()> {
        if self.proven || questions.is_empty() {
            return Ok(());
        }
        // Adapters that the server loads are loaded now.
        self.text()?;
        let mut prompts: Vec<&Prompt> = Vec::new();
        for question in questions {
            let prompt = &question.request.prompt;
            if prompts.len() < PROBES && !prompts.contains(&prompt) {
                prompts.push(prompt);
            }
        }
        for (_, server) in self.remote.replicas.living() {
            server.check_names().map_err(|failure| Error::failed(failure.why()))?;
        }
        for arm in arms_of(questions.iter().map(|question| question.arm).filter(|arm| *arm > 0)) {
            if let Some((there, here)) = self.prove(&prompts, (0, arm))?.read {
                on_progress(Progress::Note(format!(
                    "the server's template is another than the base's here: a prompt has {there} tokens there, and {here} here"
                )));
            }
        }
        self.proven = true;
        Ok(())
    }

    /// Shows that each server keeps two arms apart, and that all say the same; the worst of what they showed.
    fn prove(&mut self, prompts: &[&Prompt], arms: (usize, usize)) -> Result<Shown> {
        let mut began = std::mem::take(&mut self.began);
        let (text, remote) = self.text()?;
        let takes = remote.replicas.takes();
        let mut prompts = prompts.iter().map(|prompt| text.probe(prompt, takes)).collect::<Result<Vec<_>>>()?;
        let before = began.iter().find(|began| began.arms == arms);
        let lenient = remote.config.other_template;
        let mut shown = Vec::new();
        for (url, server) in remote.replicas.living() {
            let proving = Proving { server, prompts: &prompts, arms, lenient };
            let said = before.and_then(|began| began.said.iter().find(|(of, _)| of == url).map(|(_, said)| said));
            let still = || match before.zip(said) {
                Some((began, said)) => proving.still(&began.probe, said),
                None => Ok(()),
            };
            match proving.on_the_wire().and_then(|shown| still().map(|()| shown)) {
                Ok(found) => shown.push((url, found)),
                Err(error) if remote.config.urls.len() == 1 => return Err(error),
                Err(error) => {
                    let why = format!("{url}: {error}");
                    // One that died proves nothing of the others, which may have to answer for it.
                    if !(is_gone(server) && remote.replicas.lose(url, &why)) {
                        return Err(Error::failed(why));
                    }
                }
            }
        }
        proof::same_everywhere(&shown)?;
        if before.is_none() && !prompts.is_empty() {
            let said = shown.iter().filter_map(|(url, shown)| Some(((*url).to_owned(), shown.first()?))).collect();
            began.push(Began { arms, probe: prompts.swap_remove(0), said });
        }
        let worst = shown.into_iter().map(|(_, shown)| shown).reduce(Shown::worse);
        self.began = began;
        worst.ok_or_else(|| Error::failed("no server is left"))
    }
}

/// A server does not answer at all.
fn is_gone(server: &dyn server::Server) -> bool {
    let asked = match server.takes() {
        Takes::Tokens => server.tokenize("a").map(|_| ()),
        Takes::Text | Takes::Messages => server.check_names(),
    };
    matches!(asked, Err(Failure::Gone(_)))
}

impl Text {
    fn probe(&self, prompt: &Prompt, takes: Takes) -> Result<Probe> {
        let text = self.chat.render(prompt)?;
        let read = self.chat.tokenizer.encode(&text, true)?;
        let tokens = self.chat.encode(prompt)?;
        let spelled = self.spelled(prompt, &tokens, takes)?;
        Ok(Probe { text, read, prompt: tokens, spelled, request: Request::greedy(prompt.clone(), 1) })
    }

    /// A prompt's text, where the server takes text.
    fn spelled(&self, prompt: &Prompt, tokens: &[u32], takes: Takes) -> Result<Option<Spelled>> {
        if takes != Takes::Text {
            return Ok(None);
        }
        let text = self.chat.render(prompt)?;
        let begins = self.chat.tokenizer.bos().filter(|bos| tokens.first() == Some(bos));
        let opening = begins.and_then(|bos| self.chat.tokenizer.token(bos)).unwrap_or_default();
        let text = text.strip_prefix(&opening).map(str::to_owned).unwrap_or(text);
        Ok(Some(Spelled { opening, text }))
    }
}

/// A refusal is of one question; a server that is gone ends the run.
fn of_question<T>(found: std::result::Result<T, Failure>) -> Result<Measured<T>> {
    match found {
        Ok(found) => Ok(Ok(found)),
        Err(failure @ Failure::Refused(..)) => Ok(Err(failure.why())),
        Err(failure) => Err(Error::failed(failure.why())),
    }
}

/// Refuses what is no log-probability.
fn checked(scored: Vec<Scored>) -> std::result::Result<Vec<Scored>, Failure> {
    let values =
        scored.iter().flat_map(|position| position.top.iter().map(|(_, p)| *p).chain([position.log_probability]));
    match values.into_iter().find(|p| !p.is_finite() || *p > ROUNDING) {
        Some(p) => Err(Failure::Refused(200, format!("a log-probability is {p}, expected at most 0"))),
        None => Ok(scored),
    }
}

impl Remote {
    /// An answer, or why this one question has none.
    fn write(&self, text: &Text, arm: usize, prompt: &[u32], request: &Request) -> Result<Measured<Written>> {
        let spelled = text.spelled(&request.prompt, prompt, self.replicas.takes())?;
        let asked = Asked { tokens: prompt, text: spelled.as_ref(), request };
        let lenient = self.config.other_template;
        let write = |server: &dyn server::Server| {
            server::of_this_prompt(server, &asked, lenient, server.generate(arm, &asked, RIVALS)?)
        };
        of_question(self.replicas.ask(Work::Write, write))
    }

    fn score(&self, of: &Continuation, k: usize) -> Result<Measured<Vec<Scored>>> {
        of_question(self.replicas.ask(Work::Score, |server| scored(server, of, k)))
    }

    /// Says which servers were lost.
    fn say_lost(&self, on_progress: &mut dyn FnMut(Progress)) {
        self.replicas.newly_lost().into_iter().for_each(|why| on_progress(Progress::Note(why)));
    }
}

fn scored(server: &dyn server::Server, of: &Continuation, k: usize) -> std::result::Result<Vec<Scored>, Failure> {
    let scored = server.score(of.arm, &of.prompt, &of.tokens, k)?;
    if scored.len() != of.tokens.len() {
        let (got, expected) = (scored.len(), of.tokens.len());
        return Err(Failure::Wrong(format!("the server gave probabilities of {got} tokens, expected {expected}")));
    }
    checked(scored)
}

impl Second for RemoteBackend {
    fn chat(&mut self) -> Result<&ChatTokenizer> {
        Ok(&self.text()?.0.chat)
    }

    fn tokenize(&mut self, texts: &[String]) -> Result<Option<Vec<Vec<u32>>>> {
        let tokenize = |text: &String| self.remote.replicas.ask(Work::Write, |server| server.tokenize(text));
        let found = texts.iter().map(tokenize).collect::<std::result::Result<Option<Vec<_>>, _>>();
        found.map_err(|failure| Error::failed(failure.why()))
    }

    fn shows(&self) -> bool {
        self.remote.replicas.scores()
    }

    fn beside(
        &mut self,
        answers: &[(usize, &Prompt, &[u32])],
        reference: &[Vec<Vec<f32>>],
    ) -> Result<Vec<Measured<DriftSample>>> {
        let (Text { chat, .. }, remote) = self.text()?;
        let items = encode::answers(chat, answers)?;
        let k = remote.config.top_logprobs.max(1);
        let mut found = vec![Ok(DriftSample::default()); items.len()];
        // One arm after another, as everywhere: its texts may be scored together.
        for arm in arms_of(items.iter().map(|item| item.arm)) {
            let asked: Vec<usize> = (0..items.len()).filter(|i| items[*i].arm == arm).collect();
            let score = |n: usize| remote.score(&items[asked[n]], k);
            pool::each(asked.len(), remote.replicas.at_once(Work::Score), score, |n, scored| {
                let i = asked[n];
                found[i] = scored?.map(|theirs| {
                    let rows = reference[i].iter().zip(&items[i].tokens);
                    let ours: Vec<Scored> = rows.map(|(row, token)| top_k::of_logits(row, *token, k)).collect();
                    let (compared, covered) = top_k::compared(&ours, &theirs);
                    DriftSample { covered, ..second::sample(compared) }
                });
                Ok(())
            })?;
        }
        Ok(found)
    }
}

impl Backend for RemoteBackend {
    fn name(&self) -> String {
        self.remote.identity().to_owned()
    }

    fn capabilities(&self) -> Capabilities {
        let (k, scores) = (self.remote.config.top_logprobs, self.remote.replicas.scores());
        let logits = if k == 0 || !scores { Logits::None } else { Logits::TopK(k) };
        Capabilities { logits, scores, drafts: false, seeds: true, adapters: true, proves_anew: true }
    }

    fn answer(
        &mut self,
        questions: &[Question<'_>],
        on_answers: OnAnswers<'_>,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        self.prove_first(questions, on_progress)?;
        let (text, remote) = self.text()?;
        let Text { chat, limits } = text;
        let prompts =
            questions.iter().map(|q| encode::encode(limits.context, chat, q.request)).collect::<Result<Vec<_>>>()?;
        let (choices, continuations) = encode::choices(limits.context, chat, questions, &prompts)?;
        let mut answers = Answers::begin(questions, &prompts);
        on_progress(Progress::Started { what: "answering", units: questions.len() });
        on_answers(answers.take_complete())?;
        for arm in arms_of(questions.iter().map(|question| question.arm)) {
            let asked: Vec<usize> = (0..questions.len())
                .filter(|i| questions[*i].arm == arm && questions[*i].request.max_tokens > 0)
                .collect();
            let ask = |n: usize| remote.write(text, arm, &prompts[asked[n]], questions[asked[n]].request);
            pool::each(asked.len(), remote.replicas.at_once(Work::Write), ask, |n, written| {
                remote.say_lost(on_progress);
                let i = asked[n];
                let generated = match written? {
                    Ok(written) => Ok(written.generated(&chat.tokenizer)?),
                    Err(why) => Err(why),
                };
                on_progress(Progress::Tokens(generated.as_ref().map_or(0, |generated| generated.tokens.len())));
                let request = questions[i].request;
                let done =
                    answers.put(i, generated, |answer, output| encode::answered(chat, request, output, answer))?;
                on_progress(Progress::Done(1));
                on_answers(done.into_iter().collect())
            })?;
        }
        for arm in arms_of(continuations.iter().map(|continuation| continuation.arm)) {
            let scored: Vec<usize> = (0..continuations.len()).filter(|i| continuations[*i].arm == arm).collect();
            let score = |n: usize| remote.score(&continuations[scored[n]], 1);
            pool::each(scored.len(), remote.replicas.at_once(Work::Score), score, |n, found| {
                remote.say_lost(on_progress);
                let total = found?.map(|found| found.iter().map(|position| position.log_probability).sum());
                on_answers(answers.put_score(&choices[scored[n]], total)?.into_iter().collect())
            })?;
        }
        Ok(())
    }

    fn notes(&mut self) -> Vec<String> {
        self.remote.replicas.newly_lost()
    }

    fn drift(
        &mut self,
        texts: &[DriftText<'_>],
        (base, others): (usize, &[usize]),
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Vec<Measured<DriftSample>>>> {
        let (Text { chat, limits }, remote) = self.text()?;
        let all = encode::texts(limits.context, chat, texts)?;
        // Base is asked once for all of them.
        on_progress(Progress::Started { what: "measuring drift", units: all.len() * (1 + others.len()) });
        let likelihoods = remote.config.top_logprobs == 0;
        let k = remote.config.top_logprobs.max(1);
        let mut scored_by = |arm: usize| -> Result<Vec<OfText>> {
            let mut scored: Vec<OfText> = vec![Ok(Vec::new()); all.len()];
            let score = |n: usize| remote.score(&Continuation { arm, ..all[n].clone() }, k);
            pool::each(all.len(), remote.replicas.at_once(Work::Score), score, |n, found| {
                remote.say_lost(on_progress);
                scored[n] = found?;
                on_progress(Progress::Tokens(all[n].tokens.len()));
                on_progress(Progress::Done(1));
                Ok(())
            })?;
            Ok(scored)
        };
        let base = scored_by(base)?;
        let sample = |((base, other), text): ((&OfText, OfText), &Continuation)| {
            let (found, covered) = top_k::compared(base.as_ref().map_err(Clone::clone)?, &other?);
            let sample = DriftSample { covered, ..encode::drift_sample(chat, text, found) };
            Ok(if likelihoods { sample.likelihoods() } else { sample })
        };
        let of_arm = |other: &usize| Ok(base.iter().zip(scored_by(*other)?).zip(&all).map(sample).collect());
        others.iter().map(of_arm).collect()
    }

    fn likely_tokens_for(&mut self, text: &DriftText<'_>, share: f64) -> Result<Option<usize>> {
        let (Text { chat, limits }, remote) = self.text()?;
        let all = encode::texts(limits.context, chat, std::slice::from_ref(text))?;
        let Some(whole) = all.first() else { return Ok(None) };
        let tokens = whole.tokens.iter().take(LONG_LISTS).copied().collect();
        let begun = Continuation { arm: 0, prompt: whole.prompt.clone(), tokens };
        for k in LISTS.into_iter().filter(|k| *k > remote.config.top_logprobs && *k < limits.vocabulary) {
            // A server may refuse lists as long, and drift was measured without them.
            let Ok(Ok(scored)) = remote.score(&begun, k) else { return Ok(None) };
            if let Some(enough) = top_k::enough(&scored, share) {
                return Ok(Some(enough));
            }
        }
        Ok(None)
    }

    fn probe_adapter(&mut self, prompts: &[&Prompt], arms: (usize, usize)) -> Result<Measured<Proof>> {
        let Some(Here { adapter, .. }) = self.adapters.get(arms.1).and_then(Option::as_ref) else {
            return Err(Error::failed("the tuned arm has no adapter"));
        };
        if adapter.is_zero() {
            return Err(encode::untrained());
        }
        let adapted_modules = adapter.modules.len();
        let Shown { effect, base_difference, .. } = self.prove(prompts, arms)?;
        let by_answers = self.remote.replicas.living().iter().any(|(_, server)| !server.tells());
        Ok(Ok(Proof { adapter_effect: effect, base_difference, adapted_modules, by_answers, weights: None }))
    }
}

/// What a server told of a text's positions.
type OfText = Measured<Vec<Scored>>;

/// The arms that occur, in their order.
fn arms_of(arms: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut found: Vec<usize> = arms.collect();
    found.sort_unstable();
    found.dedup();
    found
}
