//! Proof that a server keeps base and adapter apart, made on the wire: alone, after each other, and at the same time.
//!
//! Each trap was met: an adapter that answers for base in one batch (vllm-project/vllm #48421), keys and values of another arm out of a cache
//! (ggml-org/llama.cpp #26207), adapters that stay applied, probabilities of given text that leave an adapter's part out (vllm #51594).

use super::http::Failure;
use super::pool;
use super::server::{Asked, Server, Spelled, Words, Written, of_this_prompt};
use crate::error::{Error, Result};
use crate::record::Request;

/// How far log-probabilities of the same question may be apart.
const SAME: f64 = 0.05;
/// How much farther than in a batch of one arm: with quantised weights a batch of another size is another rounding.
const NOISE: f64 = 2.0;
/// What a batch of one arm differs by at most, or it is no rounding: a server with 4-bit weights differed by 0.11.
const ROUNDING: f64 = 0.5;
/// And how much of the adapter's effect: an arm that is mixed with another moves by much of it.
const PART: f64 = 0.02;
/// Base and tuned differ by more than this somewhere, or the adapter is not applied.
const EFFECT: f64 = 1e-3;
/// Likely tokens that are compared.
const LIKELY: usize = 5;
/// Requests at the same time, half of each arm.
const TOGETHER: usize = 8;

/// Tokens of an answer that is compared where a server tells no probabilities.
const WRITTEN: usize = 24;

/// A prompt that arms are proven on.
pub(super) struct Probe {
    /// As the model reads it.
    pub(super) text: String,
    /// The text's tokens, without what a tokenizer puts before raw text.
    pub(super) read: Vec<u32>,
    /// What is asked.
    pub(super) prompt: Vec<u32>,
    /// Its text, for a server that takes text.
    pub(super) spelled: Option<Spelled>,
    /// A request of nothing but the next token.
    pub(super) request: Request,
}

/// What an arm says to a prompt.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Said {
    /// The most likely next tokens, with their log-probabilities.
    Next(Vec<(u32, f64)>),
    /// An answer, of a server that tells no probabilities.
    Answer(Words),
}

/// What was shown.
pub(super) struct Shown {
    /// Largest change of a log-probability by the adapter. Of a server that tells none: 1 if an answer changes, else 0.
    pub(super) effect: f64,
    /// Largest difference of base from itself.
    pub(super) base_difference: f64,
    /// Where its template may be another, and is: tokens of the first prompt that it read, and tokens here.
    pub(super) read: Option<(usize, usize)>,
    /// Base and tuned, each alone, on every prompt.
    alone: Vec<[Said; 2]>,
}

impl Shown {
    /// Base and tuned on the first prompt.
    pub(super) fn first(&self) -> Option<[Said; 2]> {
        self.alone.first().cloned()
    }

    /// The worst of both, and otherwise the first.
    pub(super) fn worse(self, other: Self) -> Self {
        Self {
            effect: self.effect.max(other.effect),
            base_difference: self.base_difference.max(other.base_difference),
            read: self.read.or(other.read),
            ..self
        }
    }
}

/// A server under proof.
pub(super) struct Proving<'a> {
    pub(super) server: &'a dyn Server,
    pub(super) prompts: &'a [Probe],
    pub(super) arms: (usize, usize),
    /// Its template may be another.
    pub(super) lenient: bool,
}

/// Shows that the servers at these addresses say the same.
///
/// # Errors
/// Two do not.
pub(super) fn same_everywhere(shown: &[(&str, Shown)]) -> Result<()> {
    let Some(((first_url, first), others)) = shown.split_first() else { return Ok(()) };
    for (url, other) in others {
        let most = SAME.max(NOISE * first.base_difference.max(other.base_difference)).max(PART * first.effect);
        let pairs = first.alone.iter().flatten().zip(other.alone.iter().flatten());
        let difference = pairs.map(|(a, b)| apart(a, b)).fold(0.0, f64::max);
        if difference > most {
            return Err(Error::failed(format!(
                "{first_url} and {url} answer the same prompts otherwise (log-probabilities are {difference:.3} apart); are weights, their types and adapters the same?"
            )));
        }
    }
    Ok(())
}

impl Proving<'_> {
    /// Shows that the server keeps two arms apart.
    ///
    /// # Errors
    /// The server mixes arms up, applies no adapter, or reads prompts otherwise; the trap is named, with what helps.
    pub(super) fn on_the_wire(&self) -> Result<Shown> {
        for probe in self.prompts {
            self.same_tokens(&probe.text, &probe.read)?;
        }
        let arms = self.arms;
        let (mut effect, mut base_difference) = (0.0_f64, 0.0_f64);
        let mut alone = Vec::new();
        for probe in self.prompts {
            let base = self.said(arms.0, probe)?;
            let tuned = self.said(arms.1, probe)?;
            let again = self.said(arms.0, probe)?;
            let tuned_again = self.said(arms.1, probe)?;
            effect = effect.max(apart(&base, &tuned));
            base_difference = base_difference.max(apart(&base, &again));
            refuse(apart(&base, &again), "base, asked again after tuned, is another", CACHE)?;
            refuse(apart(&tuned, &tuned_again), "tuned, asked again after base, is another", CACHE)?;
            alone.push([base, tuned]);
        }
        if effect <= EFFECT {
            return Err(Error::failed(self.without_effect(effect)));
        }
        base_difference = base_difference.max(self.mixed(&alone, effect)?);
        if self.server.scoring() > 0 {
            self.prompts.iter().try_for_each(|probe| self.generation_as_scored(probe))?;
        }
        Ok(Shown { effect, base_difference, read: self.read_otherwise()?, alone })
    }

    /// Both arms say to a prompt what they said before.
    ///
    /// # Errors
    /// One does not: the server is not the one that it was.
    pub(super) fn still(&self, probe: &Probe, before: &[Said; 2]) -> Result<()> {
        let arms = [
            (self.arms.0, "base answers otherwise than when the run began"),
            (self.arms.1, "tuned answers otherwise than when the run began"),
        ];
        for ((arm, what), before) in arms.into_iter().zip(before) {
            refuse(apart(before, &self.said(arm, probe)?), what, RELOADED)?;
        }
        Ok(())
    }

    fn read_otherwise(&self) -> Result<Option<(usize, usize)>> {
        let Some(probe) = self.prompts.first().filter(|_| self.lenient) else { return Ok(None) };
        let here = probe.prompt.len();
        let there = self.written(self.arms.0, probe, &probe.request)?.read;
        Ok(there.filter(|there| *there != here).map(|there| (there, here)))
    }

    fn without_effect(&self, effect: f64) -> String {
        let same = if self.server.tells() {
            format!("have the same log-probabilities on every probe (at most {effect:.1e} apart)")
        } else {
            "give the same answers to every probe".to_owned()
        };
        format!(
            "the adapter is not applied: base and tuned {same}; is the name of the adapter right, and its scale not 0?"
        )
    }

    /// The largest differences of both arms' answers from those alone, with as many requests at the same time: of both arms, or of one.
    fn together(&self, alone: &[[Said; 2]], arms: &[(usize, usize)]) -> Result<[f64; 2]> {
        let ask = |n: usize| {
            let (side, arm) = arms[n % arms.len()];
            let prompt = n / arms.len() % self.prompts.len();
            (prompt, side, self.said(arm, &self.prompts[prompt]))
        };
        let mut worst = [0.0_f64; 2];
        pool::each(2 * TOGETHER, TOGETHER, ask, |_, (prompt, side, found)| {
            worst[side] = worst[side].max(apart(&alone[prompt][side], &found?));
            Ok(())
        })?;
        Ok(worst)
    }

    /// Both arms at the same time. What a batch of one arm alone differs by is the server's rounding, and is let be; it is looked at only
    /// where there is a difference to explain.
    fn mixed(&self, alone: &[[Said; 2]], effect: f64) -> Result<f64> {
        let arms = [self.arms.0, self.arms.1];
        let of_both = self.together(alone, &[(0, arms[0]), (1, arms[1])])?;
        for (side, what) in
            ["base, asked at the same time as tuned, is another", "tuned, asked at the same time as base, is another"]
                .into_iter()
                .enumerate()
        {
            let most = SAME.max(PART * effect);
            if of_both[side] > most {
                let of_one = self.together(alone, &[(side, arms[side])])?[side];
                // Answers differ or not, which tells nothing of how far.
                let rounding = if self.server.tells() { ROUNDING } else { 1.0 };
                refuse_beyond(
                    of_one,
                    rounding,
                    "an arm, asked several times at once, answers in several ways",
                    ROUTER,
                )?;
                refuse_beyond(of_both[side], most.max(NOISE * of_one), what, BATCH)?;
            }
        }
        Ok(of_both[0])
    }

    /// The adapter counts for given text as it does for text that is written.
    fn generation_as_scored(&self, probe: &Probe) -> Result<()> {
        let arm = self.arms.1;
        let written = self.written(arm, probe, &probe.request)?;
        let Words::Tokens(tokens) = &written.words else { return Ok(()) };
        let (Some(token), Some(top)) = (tokens.first(), written.top.first()) else { return Ok(()) };
        let Some((_, told)) = top.iter().find(|(id, _)| id == token) else { return Ok(()) };
        let scored =
            self.server.score(arm, &probe.prompt, &[*token], 1).map_err(|failure| Error::failed(failure.why()))?;
        let found = scored.first().map_or(f64::NAN, |position| position.log_probability);
        refuse(
            (told - found).abs(),
            "tuned gives a token that it writes another log-probability when it is given it",
            "the server leaves a part of the adapter out of given text, or changes the probabilities that it tells; neither choices nor drift can be measured there",
        )
    }

    /// The server's tokenizer reads a prompt as the base's files here do.
    fn same_tokens(&self, text: &str, ids: &[u32]) -> Result<()> {
        let found = self.server.tokenize(text).map_err(|failure| Error::failed(failure.why()))?;
        let Some(found) = found.filter(|found| found != ids) else { return Ok(()) };
        let at = found.iter().zip(ids).take_while(|(a, b)| a == b).count();
        Err(Error::failed(format!(
            "the server's tokenizer reads a prompt otherwise from token {} on ({} tokens, here {}); it serves another model than [model] source, or another version of it",
            at + 1,
            found.len(),
            ids.len()
        )))
    }

    /// What an arm says to a prompt: the most likely next tokens, or an answer of some length.
    fn said(&self, arm: usize, probe: &Probe) -> Result<Said> {
        if !self.server.tells() {
            let longer = Request { max_tokens: WRITTEN, ..probe.request.clone() };
            return Ok(Said::Answer(self.written(arm, probe, &longer)?.words));
        }
        let found = self.checked(probe, &probe.request, |asked| self.server.next(arm, asked, LIKELY))?;
        let top = found.top.into_iter().next().unwrap_or_default();
        if top.is_empty() {
            return Err(Error::failed("the server tells no probabilities of what it writes"));
        }
        Ok(Said::Next(top))
    }

    fn written(&self, arm: usize, probe: &Probe, request: &Request) -> Result<Written> {
        self.checked(probe, request, |asked| self.server.generate(arm, asked, LIKELY))
    }

    /// What is told of a probe, as its prompt is here.
    fn checked(
        &self,
        probe: &Probe,
        request: &Request,
        ask: impl Fn(&Asked<'_>) -> std::result::Result<Written, Failure>,
    ) -> Result<Written> {
        let asked = Asked { tokens: &probe.prompt, text: probe.spelled.as_ref(), request };
        let written = ask(&asked).and_then(|written| of_this_prompt(self.server, &asked, self.lenient, written));
        written.map_err(|failure| Error::failed(failure.why()))
    }
}

const CACHE: &str = "the server hands keys and values of one arm to another; switch its prompt cache off (llama-server: --cache-ram 0), or restart it";
const ROUTER: &str = "are there several servers behind this address, and do they hold the same? Give [backend] url each server's own address";
const RELOADED: &str = "the server was restarted, or loads another model or adapter; see to it that it stays as it is, empty .finetest/store, and run again";
const BATCH: &str = "the server mixes arms within a batch; give it room for one adapter more (vLLM: --max-loras of the number of adapters that it holds, loaded ones too, and 1), or serve each arm alone";

/// The largest difference of a log-probability. Of a token that the other list lacks it is known that it is no likelier there than the
/// last. Of answers: 1 where they differ.
fn apart(a: &Said, b: &Said) -> f64 {
    let (a, b) = match (a, b) {
        (Said::Next(a), Said::Next(b)) => (a, b),
        (a, b) => return if a == b { 0.0 } else { 1.0 },
    };
    let one_way = |a: &[(u32, f64)], b: &[(u32, f64)]| {
        let last = b.iter().map(|(_, p)| *p).fold(f64::INFINITY, f64::min);
        let difference = |(id, p): &(u32, f64)| match b.iter().find(|(other, _)| other == id) {
            Some((_, other)) => (p - other).abs(),
            None => (p - last).max(0.0),
        };
        a.iter().map(difference).fold(0.0, f64::max)
    };
    one_way(a, b).max(one_way(b, a))
}

fn refuse(difference: f64, what: &str, help: &str) -> Result<()> {
    refuse_beyond(difference, SAME, what, help)
}

fn refuse_beyond(difference: f64, most: f64, what: &str, help: &str) -> Result<()> {
    if difference <= most {
        return Ok(());
    }
    Err(Error::failed(format!(
        "the control group is not proven: {what} (log-probabilities are {difference:.3} apart); {help}"
    )))
}
