//! What every backend that speaks in tokens does with prompts and texts.

use super::engine::{Compared, Continuation, Draft, Generated, Generation};
use super::{Answered, DriftText, Measured, Question};
use crate::compare::DriftSample;
use crate::data::limits::most_bytes;
use crate::error::{Error, Result};
use crate::model::tokenizer::ChatTokenizer;
use crate::record::{ChoiceScore, Completion, Finish, MovedToken, Prompt, Proof, Request};

/// Tokens of one text when drift is measured on a file.
const WINDOW: usize = 256;
/// Positions of a text that are kept for having moved most.
const MOVED: usize = 3;
/// Tokens of the text that are shown before a position.
const CONTEXT_SHOWN: usize = 12;
/// How far base's logits may be from those of a model without adapters: rounding in another order of sums.
const ROUNDING: f64 = 1e-2;

/// A request's prompt in tokens, checked to leave room for the answer in a context of so many.
pub(super) fn encode(context: usize, chat: &ChatTokenizer, request: &Request) -> Result<Vec<u32>> {
    let (bytes, most) = (bytes(&request.prompt), most_bytes(context));
    if bytes > most {
        return Err(Error::failed(format!(
            "the prompt {:?} has {bytes} bytes, and the model's context of {context} tokens holds at most {most}; shorten it",
            shown(request)
        )));
    }
    let prompt = chat.encode(&request.prompt)?;
    if prompt.is_empty() {
        return Err(Error::failed("a prompt is empty"));
    }
    let (length, most) = (prompt.len(), request.max_tokens);
    if length + most > context {
        let asked = shown(request);
        return Err(Error::failed(format!(
            "the prompt {asked:?} has {length} tokens and its answer up to {most}, but the model's context is {context}; shorten it, or lower max_tokens"
        )));
    }
    Ok(prompt)
}

/// The beginning of a prompt, to tell it from others.
fn shown(request: &Request) -> String {
    request.prompt.headline().lines().next().unwrap_or_default().chars().take(60).collect()
}

fn bytes(prompt: &Prompt) -> usize {
    match prompt {
        Prompt::Messages(messages) => messages.iter().map(|message| message.content.len()).sum(),
        Prompt::Text(text) => text.len(),
    }
}

/// Answers that are being put together out of their parts: what is generated, and the score of each choice.
pub(super) struct Answers {
    unfinished: Vec<Option<Answered>>,
    /// Parts of each that are missing.
    missing: Vec<usize>,
}

impl Answers {
    /// Answers of which only the prompts are known yet.
    pub(super) fn begin(questions: &[Question<'_>], prompts: &[Vec<u32>]) -> Self {
        let unscored = |text: &String| ChoiceScore { text: text.clone(), log_likelihood: f64::NAN, tokens: 0 };
        let begin = |(question, prompt): (&Question<'_>, &Vec<u32>)| {
            Some(Ok(Completion {
                text: String::new(),
                tokens: Vec::new(),
                finish: Finish::Scored,
                prompt_tokens: prompt.len(),
                choices: question.request.choices.iter().map(unscored).collect(),
                near_ties: 0,
            }))
        };
        let missing =
            |question: &Question<'_>| usize::from(question.request.max_tokens > 0) + question.request.choices.len();
        Self {
            unfinished: questions.iter().zip(prompts).map(begin).collect(),
            missing: questions.iter().map(missing).collect(),
        }
    }

    /// Answers that have no part to wait for.
    pub(super) fn take_complete(&mut self) -> Vec<(usize, Answered)> {
        let complete: Vec<usize> = (0..self.unfinished.len()).filter(|i| self.missing[*i] == 0).collect();
        complete.into_iter().filter_map(|i| Some((i, self.unfinished[i].take()?))).collect()
    }

    /// Puts a part into answer `i`, or why there is none; the answer, when this was its last part.
    pub(super) fn put<T>(
        &mut self,
        i: usize,
        part: Measured<T>,
        put: impl FnOnce(&mut Completion, T) -> Result<()>,
    ) -> Result<Option<(usize, Answered)>> {
        match (part, &mut self.unfinished[i]) {
            (Ok(part), Some(Ok(answer))) => put(answer, part)?,
            (Err(why), answer) => *answer = Some(Err(why)),
            (Ok(_), _) => {}
        }
        self.missing[i] -= 1;
        let answer = if self.missing[i] == 0 { self.unfinished[i].take() } else { None };
        Ok(answer.map(|answer| (i, answer)))
    }

    /// Puts the score of one choice into its answer.
    pub(super) fn put_score(&mut self, choice: &Choice, score: Measured<f64>) -> Result<Option<(usize, Answered)>> {
        self.put(choice.question, score, |answer, log_likelihood| {
            if let Some(scored) = answer.choices.get_mut(choice.number) {
                (scored.log_likelihood, scored.tokens) = (log_likelihood, choice.tokens);
            }
            Ok(())
        })
    }
}

/// What is to be generated for a question.
pub(super) fn generation(chat: &ChatTokenizer, question: &Question<'_>, prompt: Vec<u32>) -> Result<Generation> {
    let mut generation = Generation::of(question.arm, prompt, question.request);
    generation.draft = match question.draft {
        None => Draft::default(),
        Some(super::Draft::Other(tokens)) => Draft { tokens: tokens.to_vec(), approved: false },
        Some(super::Draft::Approved(text)) => {
            // More than the answer may have is of no use, and costs what tokenising it takes.
            let most = most_bytes(question.request.max_tokens).min(text.len());
            let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            let text = &text[..end];
            Draft { tokens: chat.tokenizer.encode(text, false)?, approved: true }
        }
    };
    generation.draft.tokens.truncate(question.request.max_tokens);
    Ok(generation)
}

/// Puts what was generated into an answer: of a text with a string that stops it, what is before the first of them.
pub(super) fn answered(
    chat: &ChatTokenizer,
    request: &Request,
    output: Generated,
    answer: &mut Completion,
) -> Result<()> {
    let Generated { mut tokens, mut finish, near_ties } = output;
    let mut text = chat.tokenizer.decode(&tokens, false)?;
    if let Some(end) = request.stop.iter().filter_map(|stop| text.find(stop.as_str())).min() {
        text.truncate(end);
        finish = Finish::Stop;
        tokens.truncate(within(chat, &tokens, &text)?);
    }
    (answer.text, answer.tokens, answer.finish, answer.near_ties) = (text, tokens, finish, near_ties);
    Ok(())
}

/// The most of `tokens`, from the first on, whose text `text` begins with.
fn within(chat: &ChatTokenizer, tokens: &[u32], text: &str) -> Result<usize> {
    let decode = |n: usize| chat.tokenizer.decode(&tokens[..n], false);
    // Texts grow with their tokens, but for a character that is not whole yet: it is some replacement characters, and those are
    // longer than the character by less than this.
    let slack = 16;
    let (mut fits, mut longer) = (0, tokens.len() + 1);
    while longer - fits > 1 {
        let middle = usize::midpoint(fits, longer);
        if decode(middle)?.len() <= text.len() + slack {
            fits = middle;
        } else {
            longer = middle;
        }
    }
    let mut n = fits;
    while n > 0 && !text.starts_with(&decode(n)?) {
        n -= 1;
    }
    Ok(n)
}

/// Whose a choice is.
pub(super) struct Choice {
    /// The question's number.
    question: usize,
    /// Its number among the question's choices.
    number: usize,
    /// Its length in tokens.
    tokens: usize,
}

/// The choices of all questions as continuations of their prompts, in order; and whose each is.
pub(super) fn choices(
    context: usize,
    chat: &ChatTokenizer,
    questions: &[Question<'_>],
    prompts: &[Vec<u32>],
) -> Result<(Vec<Choice>, Vec<Continuation>)> {
    let (mut owners, mut continuations) = (Vec::new(), Vec::new());
    for (i, (question, prompt)) in questions.iter().zip(prompts).enumerate() {
        for (number, choice) in question.request.choices.iter().enumerate() {
            let tokens = fitting_choice(context, chat, choice, prompt.len())?;
            owners.push(Choice { question: i, number, tokens: tokens.len() });
            continuations.push(Continuation { arm: question.arm, prompt: prompt.clone(), tokens });
        }
    }
    Ok((owners, continuations))
}

/// A choice in tokens, checked to fit behind its prompt.
fn fitting_choice(context: usize, chat: &ChatTokenizer, choice: &str, prompt: usize) -> Result<Vec<u32>> {
    let (bytes, most) = (choice.len(), most_bytes(context));
    if bytes > most {
        let start: String = choice.chars().take(60).collect();
        return Err(Error::failed(format!(
            "the choice {start:?} … has {bytes} bytes, and the model's context of {context} tokens holds at most {most}; shorten it"
        )));
    }
    let tokens = chat.tokenizer.encode(choice, false)?;
    if tokens.is_empty() {
        return Err(Error::failed(format!("the choice {choice:?} is no token")));
    }
    let own = tokens.len();
    if prompt + own > context {
        return Err(Error::failed(format!(
            "the choice {choice:?} has {own} tokens and its prompt {prompt}, but the model's context is {context}; shorten them"
        )));
    }
    Ok(tokens)
}

/// Whether a request can be asked of a model with this context, without asking it: its prompt renders and fits, and so do its choices.
///
/// # Errors
/// It does not.
pub(crate) fn check(context: usize, chat: &ChatTokenizer, request: &Request) -> Result<()> {
    let prompt = encode(context, chat, request)?;
    request.choices.iter().try_for_each(|choice| fitting_choice(context, chat, choice, prompt.len()).map(|_| ()))
}

/// Answers as continuations of their prompts; (arm, prompt, answer) each.
pub(super) fn answers(
    chat: &ChatTokenizer,
    answers: &[(usize, &crate::record::Prompt, &[u32])],
) -> Result<Vec<Continuation>> {
    let continuation = |(arm, prompt, tokens): &(usize, &crate::record::Prompt, &[u32])| {
        Ok(Continuation { arm: *arm, prompt: chat.encode(prompt)?, tokens: tokens.to_vec() })
    };
    answers.iter().map(continuation).collect()
}

/// What drift is measured on.
pub(super) fn texts(context: usize, chat: &ChatTokenizer, texts: &[DriftText<'_>]) -> Result<Vec<Continuation>> {
    let mut continuations = Vec::new();
    for text in texts {
        match text {
            DriftText::Answer(prompt, tokens) => {
                let prompt = chat.encode(prompt)?;
                continuations.push(Continuation { arm: 0, prompt, tokens: tokens.to_vec() });
            }
            DriftText::Plain(text) => {
                for window in
                    chat.tokenizer.encode_raw(text)?.chunks(WINDOW.min(context).max(2)).filter(|w| w.len() > 1)
                {
                    let (prompt, tokens) = (window[..1].to_vec(), window[1..].to_vec());
                    continuations.push(Continuation { arm: 0, prompt, tokens });
                }
            }
        }
    }
    Ok(continuations)
}
/// What two arms' distributions on a text come to, with the positions that moved most as text.
pub(super) fn drift_sample(chat: &ChatTokenizer, text: &Continuation, found: Compared) -> DriftSample {
    let moved = |position: usize| moved_token(chat, text, &found, position);
    // A greedy answer is base's first choice at every position; elsewhere base would itself go on otherwise.
    let differs = |position: &usize| {
        found.top_base[*position].0 == text.tokens[*position] && found.top_tuned[*position].0 != text.tokens[*position]
    };
    // Another process may have measured it: what is short is not looked at.
    let lengths =
        [found.kl.len(), found.nll_base.len(), found.nll_tuned.len(), found.top_base.len(), found.top_tuned.len()];
    let positions = lengths.into_iter().fold(text.tokens.len(), usize::min);
    let mut by_kl: Vec<usize> = (0..positions).filter(|position| found.kl[*position] > 0.0).collect();
    by_kl.sort_by(|a, b| found.kl[*b].total_cmp(&found.kl[*a]));
    let divergence = (0..positions).find(differs).map(moved);
    let moved = by_kl.into_iter().take(MOVED).map(moved).collect();
    let same_top1 = found.top_base.iter().zip(&found.top_tuned).map(|(base, tuned)| base.0 == tuned.0).collect();
    let Compared { kl, reverse_kl, total_variation, jensen_shannon, nll_base, nll_tuned, .. } = found;
    DriftSample {
        kl,
        reverse_kl,
        total_variation,
        jensen_shannon,
        nll_base,
        nll_tuned,
        same_top1,
        covered: Vec::new(),
        divergence,
        moved,
    }
}

fn moved_token(chat: &ChatTokenizer, text: &Continuation, found: &Compared, position: usize) -> MovedToken {
    let spelled = |tokens: &[u32]| chat.tokenizer.decode(tokens, false).unwrap_or_default();
    let (instead, nll) = found.top_tuned[position];
    let from = position.saturating_sub(CONTEXT_SHOWN);
    MovedToken {
        position,
        before: spelled(&text.tokens[from..position]),
        token: spelled(&text.tokens[position..=position]),
        probability: [(-found.nll_base[position]).exp(), (-found.nll_tuned[position]).exp()],
        instead: spelled(&[instead]),
        instead_probability: (-nll).exp(),
        kl: found.kl[position],
    }
}

/// What was measured as a proof; one that shows the opposite is refused: an adapter without effect, or a base that it touches.
pub(super) fn proof(effect: f64, base: f64, adapted_modules: usize) -> Result<Proof> {
    if effect.is_nan() || base.is_nan() {
        return Err(Error::failed("the logits of base or tuned are not finite"));
    }
    if effect == 0.0 {
        return Err(Error::failed("the adapter is not applied: base and tuned have the same logits on every probe"));
    }
    if base > ROUNDING {
        return Err(Error::failed(format!(
            "base is not untouched: its logits differ by {base} from those of the model without an adapter"
        )));
    }
    Ok(Proof { adapter_effect: effect, base_difference: base, adapted_modules, by_answers: false, weights: None })
}

/// The error of a tuned arm whose adapter is zero.
pub(super) fn untrained() -> Error {
    Error::failed("the adapter changes nothing: every product B·A in it is zero; it was saved untrained")
}
