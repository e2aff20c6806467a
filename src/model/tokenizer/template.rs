//! Messages to text: the model's own chat template, rendered as transformers' `apply_chat_template` renders it.
//!
//! A template is a program from somebody's file. It sees only the messages and a few tokens, reaches no file and no network, and
//! runs on a budget of [`FUEL`], which bounds its time, its memory and its output (about 64 bytes for each unit). What the budget
//! does not bound, how deep and how large expressions and values get, is bounded in `source.rs` and `values.rs`.

mod source;
mod values;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value, context};
use regex::Regex;

use self::source::guard;
use self::values::{Size, with_room};
use super::{Tokenizer, gguf_metadata};
use crate::error::{Error, Result, panic_message};
use crate::files::read_regular_text;
use crate::model::formats::MOST_TEMPLATE_BYTES;
use crate::model::formats::json::{read_json, refuse_mark};
use crate::model::sources::{ModelFiles, ModelKind};
use crate::record::Message;

/// Budget of one rendering: about 200 000 steps, or 13 MB. There is more for each message and its bytes.
pub const FUEL: u64 = 200_000;
/// More of it for each message, and for how many bytes of text one more.
const FUEL_OF_A_MESSAGE: u64 = 4000;
const BYTES_OF_A_UNIT: u64 = 4;
/// Messages need no more than this of [`FUEL`].
const FUEL_OF_FEW: u64 = FUEL / 2;
/// Stack of a template that is parsed, or that calls itself. Most is never touched. The bounds of `source.rs` need a few MB.
const STACK: usize = 64 << 20;
/// Macros, blocks and loops within each other.
const MOST_CALLS: usize = 200;
const NAME: &str = "chat_template";
const MARKER: &str = "FINETESTANSWER";
const USER_MARKER: &str = "FINETESTQUESTION";

/// A model's chat template with the tokens it may write.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    path: PathBuf,
    bos: Option<String>,
    eos: Option<String>,
    fingerprint: String,
    /// It is rendered on the caller's stack.
    flat: bool,
}

impl ChatTemplate {
    /// The template of a model: the user's `override_file`, else `chat_template.jinja`, `tokenizer_config.json`'s, or the GGUF
    /// file's `tokenizer.chat_template`. `None` when there is none; [`ChatTemplate::missing`] says what to do.
    ///
    /// What ends an assistant's turn by this template becomes one of the tokenizer's stop ids.
    ///
    /// # Errors
    /// A file that cannot be read, or a template that is not valid Jinja, cannot render a chat of two messages or leaves one out.
    pub fn load(files: &ModelFiles, override_file: Option<&Path>, tokenizer: &mut Tokenizer) -> Result<Option<Self>> {
        let Some((path, source)) = Self::source(files, override_file)? else { return Ok(None) };
        let token = |id: Option<u32>| id.and_then(|id| tokenizer.token(id));
        let template = Self::new(&path, &source, token(tokenizer.bos()), token(tokenizer.eos()))?;
        tokenizer.add_turn_end(&template.turn_end()?)?;
        Ok(Some(template))
    }

    /// Whether a user's template file can be read and parsed; it is rendered with the model's tokens later.
    ///
    /// # Errors
    /// A file that cannot be read, or as [`ChatTemplate::new`].
    pub(crate) fn check_file(path: &Path) -> Result<()> {
        Self::new(path, &read_file(path)?, None, None).map(|_| ())
    }

    pub(crate) fn source(files: &ModelFiles, override_file: Option<&Path>) -> Result<Option<(PathBuf, String)>> {
        let read = |path: &Path| Ok(Some((path.to_path_buf(), read_file(path)?)));
        if let Some(path) = override_file {
            return read(path);
        }
        match &files.kind {
            ModelKind::Gguf(path) => match gguf_metadata(path)?.remove("tokenizer.chat_template") {
                Some(candle_core::quantized::gguf_file::Value::String(text)) => Ok(Some((path.clone(), text))),
                Some(_) => Err(Error::model(path, "tokenizer.chat_template is not a string")),
                None => Ok(None),
            },
            ModelKind::HuggingFace(files) => match (&files.chat_template, &files.tokenizer_config) {
                (Some(path), _) => read(path),
                (None, Some(path)) => {
                    Ok(named(path, &read_json(path)?["chat_template"])?.map(|text| (path.clone(), text)))
                }
                (None, None) => Ok(None),
            },
        }
    }

    /// A template from its text; `path` is for messages.
    ///
    /// # Errors
    /// Text that is not valid Jinja, or longer than a mebibyte.
    pub fn new(path: impl Into<PathBuf>, source: &str, bos: Option<String>, eos: Option<String>) -> Result<Self> {
        let path = path.into();
        if source.len() as u64 > MOST_TEMPLATE_BYTES {
            let message =
                format!("the chat template has {} bytes, expected at most {MOST_TEMPLATE_BYTES}", source.len());
            return Err(Error::model(path, message));
        }
        let guarded = guard(&without_generation_tags(source))
            .map_err(|refused| Error::model(&path, format!("chat template, line {}: {}", refused.line, refused.why)))?;
        let environment = on_own_stack(&path, || {
            let mut environment = environment()?;
            let added = environment.add_template_owned(NAME, guarded.text);
            added.map_err(|e| template_error(&path, &e))?;
            Ok(environment)
        })?;
        let mut hash = blake3::Hasher::new();
        for text in [Some(source), bos.as_deref(), eos.as_deref()] {
            let text = text.unwrap_or("\0");
            hash.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        let fingerprint = hash.finalize().to_hex().to_string();
        Ok(Self { environment, path, bos, eos, fingerprint, flat: guarded.flat })
    }

    /// The error for a chat with a model that has no template.
    #[must_use]
    pub fn missing(files: &ModelFiles) -> Error {
        let message = "has no chat template, so messages cannot be rendered; give a Jinja file: [model] chat_template = \"FILE\", or \
                       ask with raw text";
        Error::model(&files.root, message)
    }

    /// The text of `messages`; with `add_generation_prompt` it ends with the header of the assistant's next turn.
    ///
    /// As in transformers: `trim_blocks`, `lstrip_blocks`, loop controls, `raise_exception`, `tojson` as Python's `json.dumps`, the
    /// methods of Python's strings, lists and dicts, `bos_token`, `eos_token`, and `tools` and `documents` as none. `strftime_now`
    /// tells the 26th of July 2024, always: an answer must not depend on the day it is asked for.
    ///
    /// # Errors
    /// What the template raises, with its line; a budget that is used up.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        self.render_with_tools(messages, &[], add_generation_prompt)
    }

    /// As [`ChatTemplate::render`], with the tools that the assistant may call; without any, `tools` is none.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn render_with_tools(
        &self,
        messages: &[Message],
        tools: &[serde_json::Value],
        add_generation_prompt: bool,
    ) -> Result<String> {
        // A message is a dictionary of two: itself, its keys and its values.
        let plain = Size { parts: 1 + 5 * messages.len(), bytes: messages.iter().map(Message::bytes).sum() };
        let uses = messages.iter().filter_map(|message| message.tools.as_deref());
        let fields = uses.flat_map(|tools| tools.fields().values());
        let room = fields.chain(tools).fold(plain, Size::with);
        let render = || with_room(room, || self.render_here(messages, tools, add_generation_prompt, room));
        if self.flat { render() } else { on_own_stack(&self.path, render) }
    }

    fn render_here(
        &self,
        messages: &[Message],
        tools: &[serde_json::Value],
        add_generation_prompt: bool,
        room: Size,
    ) -> Result<String> {
        // Loops over what is within a tool cost as loops over messages do.
        let more = FUEL_OF_A_MESSAGE * (messages.len() + tools.len()) as u64 + room.bytes as u64 / BYTES_OF_A_UNIT;
        let large = (more > FUEL_OF_FEW).then(|| {
            let mut environment = self.environment.clone();
            environment.set_fuel(Some(FUEL + more));
            environment
        });
        let environment = large.as_ref().unwrap_or(&self.environment);
        let template = environment.get_template(NAME).map_err(|e| template_error(&self.path, &e))?;
        let token = |token: &Option<String>| token.as_deref().map_or(Value::UNDEFINED, Value::from);
        let context = context! {
            messages => messages.iter().map(message_value).collect::<Vec<_>>(),
            add_generation_prompt,
            bos_token => token(&self.bos),
            eos_token => token(&self.eos),
            tools => if tools.is_empty() { Value::from(()) } else { Value::from(Serde(tools)) },
            documents => (),
        };
        template.render(context).map_err(|e| template_error(&self.path, &e))
    }

    /// What the template writes after an assistant's message: `<|im_end|>\n`.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`], or a template that leaves a message out.
    pub fn turn_end(&self) -> Result<String> {
        let text = self.render(&[Message::new("user", USER_MARKER), Message::new("assistant", MARKER)], false)?;
        let left_out = |whose: &str| {
            let message = format!(
                "the chat template does not write the {whose}'s message, so the model would not see it; \
                 give a template that does: [model] chat_template = \"FILE\""
            );
            Error::model(&self.path, message)
        };
        let end =
            text.rfind(MARKER).map(|at| text[at + MARKER.len()..].to_owned()).ok_or_else(|| left_out("assistant"))?;
        if text.contains(USER_MARKER) { Ok(end) } else { Err(left_out("user")) }
    }

    /// Hash of what decides the rendered text.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The file it came from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn read_file(path: &Path) -> Result<String> {
    let text = read_regular_text(path, MOST_TEMPLATE_BYTES)?;
    refuse_mark(path, &text)?;
    Ok(text)
}

/// `chat_template` of a `tokenizer_config.json`: a text, or several by name of which `default` is meant.
fn named(path: &Path, value: &serde_json::Value) -> Result<Option<String>> {
    match value {
        serde_json::Value::Null => Ok(None),
        serde_json::Value::String(text) => Ok(Some(text.clone())),
        serde_json::Value::Array(list) => {
            let default = list.iter().find(|t| t["name"] == "default");
            match default.and_then(|t| t["template"].as_str()) {
                Some(text) => Ok(Some(text.to_owned())),
                None => Err(Error::model(path, "chat_template is a list without a template named \"default\"")),
            }
        }
        _ => Err(Error::model(path, "chat_template is neither a string nor a list of named templates")),
    }
}

/// Runs `work` where recursion that is bounded has the stack that it needs.
fn on_own_stack<T: Send>(path: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("chat template".into()).stack_size(STACK);
        let thread = thread.spawn_scoped(scope, work);
        let thread =
            thread.map_err(|e| Error::model(path, format!("chat template: cannot start a thread for it: {e}")))?;
        thread.join().unwrap_or_else(|panic| {
            let why = panic_message(panic.as_ref()).unwrap_or("the template engine failed");
            Err(Error::model(path, format!("chat template: {why}")))
        })
    })
}

fn environment() -> Result<Environment<'static>> {
    let mut environment = Environment::new();
    let syntax = environment.syntax().to_builder().trim_blocks(true).lstrip_blocks(true).build();
    syntax
        .map(|syntax| environment.set_syntax(syntax))
        .map_err(|e| Error::failed(format!("chat template syntax: {e}")))?;
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_recursion_limit(MOST_CALLS);
    environment.set_fuel(Some(FUEL + FUEL_OF_FEW));
    values::bound(&mut environment);
    environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", strftime);
    // To Jinja none is not iterable, and templates ask that of `tools`.
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    Ok(environment)
}

fn message_value(message: &Message) -> Value {
    let said = [("role", Value::from(message.role.as_str())), ("content", Value::from(message.content.as_str()))];
    let fields = message.tools.as_deref().into_iter().flat_map(|tools| tools.fields());
    Value::from_pairs(said.into_iter().chain(fields.map(|(key, value)| (key.as_str(), Value::from(Serde(value))))))
}

/// transformers marks the assistant's text by `{% generation %}`; here the tags mean nothing.
fn without_generation_tags(source: &str) -> String {
    static TAG: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").ok());
    let Some(tag) = TAG.as_ref() else { return source.to_owned() };
    let replace = |found: &regex::Captures<'_>| {
        let word = if found.get(2).is_some() { "endif" } else { "if true" };
        format!("{{%{} {word} {}%}}", &found[1], &found[3])
    };
    tag.replace_all(source, replace).into_owned()
}

fn template_error(path: &Path, error: &minijinja::Error) -> Error {
    let line = error.line().map_or(String::new(), |line| format!(", line {line}"));
    let what = match error.kind() {
        ErrorKind::OutOfFuel => "takes too long or writes too much".to_owned(),
        kind => error.detail().map_or_else(|| kind.to_string(), str::to_owned),
    };
    let shown: String = what.chars().filter(|c| !c.is_control()).take(400).collect();
    Error::model(path, format!("chat template{line}: {shown}"))
}

/// Python's `strftime` for the one moment that templates are reported.
fn strftime(format: String) -> Result<String, minijinja::Error> {
    let mut text = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let directive = chars.next();
        text.push_str(match directive {
            Some('d') => "26",
            Some('m') => "07",
            Some('Y') => "2024",
            Some('y') => "24",
            Some('b') => "Jul",
            Some('B') => "July",
            Some('a') => "Fri",
            Some('A') => "Friday",
            Some('j') => "208",
            Some('H' | 'M' | 'S') => "00",
            Some('F') => "2024-07-26",
            Some('T') => "00:00:00",
            Some('Z' | 'z') => "",
            Some('%') => "%",
            other => {
                let shown = other.map(String::from).unwrap_or_default();
                let message = format!("strftime_now does not know %{shown}");
                return Err(minijinja::Error::new(ErrorKind::InvalidOperation, message));
            }
        });
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
