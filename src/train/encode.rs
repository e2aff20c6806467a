//! Training examples to token ids with a mask of what is learnt.
//!
//! Of a chat, the answers are learnt: every assistant message and the token that ends its turn, so that the model learns to stop.
//! An answer's prompt must be what the model will be asked with. So each turn's prompt is the template's rendering of the messages
//! before it with the header of the answer, tokenised whole as a run tokenises it; the answer's own ids follow. Where the tokenizer
//! would merge the last character of the prompt with the first of the answer, the two stay apart, as they do when the model writes.

use serde_json::Value;

use crate::data::limits::Limits;
use crate::data::{Example, Turns};
use crate::error::{Error, Result};
use crate::model::tokenizer::{ChatTemplate, ChatTokenizer, Tokenizer};
use crate::record::Message;

/// A tokenised example.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Encoded {
    /// The tokens.
    pub(crate) ids: Vec<u32>,
    /// For each token, whether predicting it counts in the loss. The first token is predicted from nothing and never counts.
    pub(crate) labels: Vec<bool>,
    /// Its line in the data file; 0 where there is none.
    pub(crate) line: usize,
}

impl Encoded {
    /// How many tokens count in the loss.
    #[must_use]
    pub(crate) fn learnt(&self) -> usize {
        self.labels.iter().filter(|l| **l).count()
    }

    /// Appends the ids of `added`, the end of `whole`, and says where they begin.
    ///
    /// `whole` is tokenised in one piece when that leaves the ids before as they are, else `added` on its own.
    fn extend(&mut self, tokenizer: &Tokenizer, whole: &str, added: &str) -> Result<usize> {
        let start = self.ids.len();
        let ids = tokenizer.encode(whole, true)?;
        match ids.strip_prefix(self.ids.as_slice()) {
            Some(new) => self.ids.extend_from_slice(new),
            None => self.ids.extend(tokenizer.encode(added, true)?),
        }
        Ok(start)
    }

    /// Labels what has been appended since the last call.
    fn label(&mut self, learnt: bool) {
        self.labels.resize(self.ids.len(), learnt);
    }

    fn finished(mut self) -> Self {
        if let Some(first) = self.labels.first_mut() {
            *first = false;
        }
        self
    }
}

/// Encodes an example, which has to fit `limits` and to have something to learn.
///
/// # Errors
/// One that is too long, by its bytes before it is tokenised and then by its tokens; no token to learn; and those of the functions
/// below.
pub(crate) fn encode_example(
    example: &Example,
    chat: &ChatTokenizer,
    train_on_inputs: bool,
    limits: Limits,
) -> Result<Encoded> {
    limits.check_bytes(example.turns.bytes())?;
    let tokenizer = &chat.tokenizer;
    let encoded = match &example.turns {
        Turns::Chat { messages, tools } => {
            let template = chat.template()?;
            check_tools(template, messages, tools)?;
            encode_chat(tokenizer, template, (messages, tools), train_on_inputs)?
        }
        Turns::Completion { prompt, completion } => encode_completion(tokenizer, prompt, completion, train_on_inputs)?,
        Turns::Text(text) => encode_text(tokenizer, text)?,
    };
    limits.check_tokens(encoded.ids.len())?;
    if encoded.learnt() == 0 {
        return Err(Error::failed("has no token to learn"));
    }
    Ok(Encoded { line: example.line, ..encoded })
}

/// Encodes a chat. With `train_on_inputs` all of it is learnt, else the assistant's turns.
///
/// The prompt of the first answer has exactly the ids that a run asks with. A later prompt has them too, unless an earlier answer
/// begins in the middle of what the tokenizer would merge (with a space or a line break, say): then the ids that the model
/// itself would have written stand there. What follows the last answer is left out unless inputs are learnt.
///
/// # Errors
/// No assistant message; a template that cannot render these messages, or renders them so that a prompt is not the beginning of
/// the same chat with its answer.
pub(crate) fn encode_chat(
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    (messages, tools): (&[Message], &[Value]),
    train_on_inputs: bool,
) -> Result<Encoded> {
    let render = |messages: &[Message], prompt: bool| template.render_with_tools(messages, tools, prompt);
    let mut encoded = Encoded::default();
    let mut text = String::new();
    for (i, message) in messages.iter().enumerate().filter(|(_, m)| m.role == "assistant") {
        let prompt = render(&messages[..i], true)?;
        let whole = render(&messages[..=i], false)?;
        let asked = prompt.strip_prefix(&text).ok_or_else(|| disagreement(template, i, EARLIER_TURNS))?;
        let answer = whole.strip_prefix(&prompt).ok_or_else(|| disagreement(template, i, HEADER))?;
        if answer.trim().is_empty() && !message.content.trim().is_empty() {
            return Err(disagreement(template, i, "does not write its content"));
        }
        encoded.extend(tokenizer, &prompt, asked)?;
        encoded.label(train_on_inputs);
        let start = encoded.extend(tokenizer, &whole, answer)?;
        // After the token that ends the turn only layout follows (a line break), which is never generated.
        let ends = |id: &u32| tokenizer.is_special(*id) || tokenizer.stop_ids().contains(id);
        let end = encoded.ids[start..].iter().rposition(ends).map_or(encoded.ids.len(), |at| start + at + 1);
        encoded.labels.resize(end, true);
        encoded.label(train_on_inputs);
        text = whole;
    }
    if encoded.ids.is_empty() {
        return Err(Error::failed("the chat has no assistant message, so there is nothing to learn from it"));
    }
    if train_on_inputs {
        let whole = render(messages, false)?;
        let rest = whole.strip_prefix(&text).ok_or_else(|| disagreement(template, messages.len(), EARLIER_TURNS))?;
        encoded.extend(tokenizer, &whole, rest)?;
        encoded.label(true);
    }
    Ok(encoded.finished())
}

/// Whether the template writes the tools and their calls: one that passes over them would teach empty answers.
fn check_tools(template: &ChatTemplate, messages: &[Message], tools: &[Value]) -> Result<()> {
    let left_out = |what: String| {
        let message = format!(
            "the chat template does not write {what}; give a template that does: [model] chat_template = \"FILE\", or leave such examples out"
        );
        Error::model(template.path(), message)
    };
    if !tools.is_empty() && template.render_with_tools(messages, tools, false)? == template.render(messages, false)? {
        return Err(left_out("the tools that the assistant may call".into()));
    }
    let calls = |message: &&Message| message.tools.as_deref().is_some_and(|tools| !tools.text().is_empty());
    let Some(n) = messages.iter().position(|message| calls(&message)) else { return Ok(()) };
    let mut without = messages[..=n].to_vec();
    without[n].tools = None;
    let written = template.render_with_tools(&messages[..=n], tools, false)?;
    if written == template.render_with_tools(&without, tools, false)? {
        return Err(left_out(format!("the calls of tools, such as that of message {}", n + 1)));
    }
    Ok(())
}

/// Encodes a raw prompt and what is to follow it, then `eos`. With `train_on_inputs` the prompt is learnt too.
///
/// The prompt has exactly the ids that a run asks with for a raw text: [`Tokenizer::encode_raw`].
///
/// # Errors
/// The tokenizer's own.
pub(crate) fn encode_completion(
    tokenizer: &Tokenizer,
    prompt: &str,
    completion: &str,
    train_on_inputs: bool,
) -> Result<Encoded> {
    let asked = tokenizer.encode_raw(prompt)?;
    let whole = tokenizer.encode_raw(&format!("{prompt}{completion}"))?;
    let mut encoded = Encoded { ids: asked, ..Encoded::default() };
    encoded.label(train_on_inputs);
    match whole.strip_prefix(encoded.ids.as_slice()) {
        Some(new) => encoded.ids.extend_from_slice(new),
        None => encoded.ids.extend(tokenizer.encode(completion, true)?),
    }
    encoded.ids.extend(tokenizer.eos());
    encoded.label(true);
    Ok(encoded.finished())
}

/// Encodes a raw text, then `eos`; all of it is learnt.
///
/// # Errors
/// The tokenizer's own.
pub(crate) fn encode_text(tokenizer: &Tokenizer, text: &str) -> Result<Encoded> {
    encode_completion(tokenizer, "", text, true)
}

const EARLIER_TURNS: &str = "renders earlier turns otherwise once the chat goes on (it may drop their reasoning)";
const HEADER: &str =
    "renders a finished answer differently from the prompt for one, so training and prompting would not match";

fn disagreement(template: &ChatTemplate, message: usize, what: &str) -> Error {
    let message = format!(
        "the chat template {what}: message {} cannot be marked for learning; make each answer an example of its own, or give a \
         template that renders every turn alike: [model] chat_template = \"FILE\"",
        message + 1
    );
    Error::model(template.path(), message)
}

#[cfg(test)]
mod tests;
