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
mod tests {
    use super::*;

    fn template(source: &str) -> ChatTemplate {
        ChatTemplate::new("t.jinja", source, Some("<s>".into()), Some("</s>".into())).unwrap()
    }

    fn chat(turns: &[(&str, &str)]) -> Vec<Message> {
        turns.iter().map(|(role, content)| Message::new(*role, *content)).collect()
    }

    fn render(source: &str, turns: &[(&str, &str)], prompt: bool) -> String {
        template(source).render(&chat(turns), prompt).unwrap()
    }

    fn failure(source: &str) -> String {
        template(source).render(&chat(&[("user", "hi")]), false).unwrap_err().to_string()
    }

    #[test]
    fn bos_roles_and_the_header_of_the_answer_are_written() {
        let source = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m.content | trim }}{{ eos_token }}{% endfor %}\
                      {% if add_generation_prompt %}[assistant]{% endif %}";
        let turns = [("system", " be brief "), ("user", "hi")];
        assert_eq!(render(source, &turns, true), "<s>[system]be brief</s>[user]hi</s>[assistant]");
        assert_eq!(render(source, &turns, false), "<s>[system]be brief</s>[user]hi</s>");
    }

    #[test]
    fn a_system_message_can_be_inserted_split_off_and_checked() {
        let source = "{%- if messages[0]['role'] == 'system' %}\n    {%- set system = messages[0]['content'] | trim %}\n\
                      {%- set messages = messages[1:] %}\n{%- else %}\n{%- set system = 'default' %}\n{%- endif %}\n\
                      {{- 'S:' + system + '\\n' }}\n{%- for message in messages %}\n\
                      {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}\
                      {%- endif %}\n{{- message.role ~ ':' ~ message.content.strip().upper() + '\\n' }}\n{%- endfor %}\n";
        assert_eq!(render(source, &[("user", " a ")], false), "S:default\nuser:A\n");
        assert_eq!(
            render(source, &[("system", "s"), ("user", "a"), ("assistant", "b")], false),
            "S:s\nuser:A\nassistant:B\n"
        );
        let error = template(source).render(&chat(&[("user", "a"), ("user", "b")]), false).unwrap_err().to_string();
        assert!(
            error.starts_with("t.jinja: chat template, line ") && error.ends_with("roles must alternate"),
            "{error}"
        );
    }

    #[test]
    fn blocks_leave_no_blank_lines() {
        let source = "a\n  {% for m in messages %}\n{{ m.content }}\n  {% endfor %}\nb\n";
        assert_eq!(render(source, &[("user", "1"), ("user", "2")], false), "a\n1\n2\nb");
    }

    #[test]
    fn loops_can_be_left_and_namespaces_changed() {
        let source = "{% set ns = namespace(n=0) %}{% for m in messages %}{% if m.role == 'assistant' %}{% break %}{% endif %}\
                      {% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}";
        assert_eq!(render(source, &[("user", "1"), ("user", "2"), ("assistant", "x"), ("user", "3")], false), "2");
    }

    #[test]
    fn python_methods_and_tests_work() {
        let source = "{% for m in messages %}{% if m.content is string and 'role' in m and m.get('x') is none and m.x is not defined %}\
                      {{ m.content.split('</think>')[-1].lstrip('\\n') }}{% endif %}{% endfor %}{{ messages[-1].role.startswith('us') }}";
        assert_eq!(
            render(source, &[("user", "a</think>\n\nb")], false),
            "bTrue".replace("True", &render("{{ true }}", &[], false))
        );
    }

    #[test]
    fn missing_values_print_nothing_but_have_no_attributes() {
        assert_eq!(
            render(
                "[{{ nothing }}{% for x in nothing %}{% endfor %}{% if nothing %}{% endif %}{{ messages[0].no }}]",
                &[("user", "")],
                false
            ),
            "[]"
        );
        assert!(failure("{{ nothing.at.all }}").contains("undefined"));
        assert_eq!(render("{% if tools is none and not documents %}ok{% endif %}", &[], false), "ok");
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        let json = render("{{ messages | tojson }}", &[("user", "<é> \"'& \\u003c\n")], false);
        assert_eq!(json, r#"[{"role": "user", "content": "<é> \"'& \\u003c\n"}]"#);
        assert_eq!(
            render("{{ [1, {'a': []}] | tojson(indent=2) }}", &[], false),
            "[\n  1,\n  {\n    \"a\": []\n  }\n]"
        );
    }

    #[test]
    fn the_date_is_always_the_same() {
        assert_eq!(render("{{ strftime_now('%d %b %Y, 100%%') }}", &[], false), "26 Jul 2024, 100%");
        assert!(failure("{{ strftime_now('%Q') }}").contains("%Q"));
    }

    #[test]
    fn generation_tags_are_ignored() {
        let source = "{% for m in messages %}a {%- generation %} {{ m.content }}{% endgeneration -%} b{% endfor %}";
        assert_eq!(render(source, &[("assistant", "x")], false), "a xb");
    }

    #[test]
    fn a_template_cannot_run_for_ever_or_fill_the_memory() {
        let endless = "{% for a in range(10000) %}{% for b in range(10000) %}{% for c in range(10000) %}{% endfor %}{% endfor %}{% endfor %}";
        assert!(failure(endless).contains("takes too long"), "{}", failure(endless));
        let huge = "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}";
        assert!(failure(huge).contains("makes a text of 524288 bytes"), "{}", failure(huge));
    }

    #[test]
    fn values_nest_and_grow_within_bounds() {
        let deep = "nests values more than 64 deep";
        let (large, spent, recursion) = ("makes too large a value", "takes too long", "recursion limit exceeded");
        let namespace = "puts a namespace into another value";
        let unrolled = |step: &str, times: usize| format!("{{% set a = [1] %}}{}{{{{ a }}}}", step.repeat(times));
        let with = format!(
            "{}{{{{ a|length }}}}{}",
            "{% with a = (a or [1]) + (a or [1]) %}".repeat(60),
            "{% endwith %}".repeat(60)
        );
        for (source, words) in [
            ("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}".to_owned(), namespace),
            ("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns | tojson }}".to_owned(), namespace),
            ("{% set ns = namespace() %}{% set ns.a = [ns] %}{{ ns == 1 }}".to_owned(), namespace),
            ("{% set ns = namespace(s=1) %}{% for i in range(100000) %}{% set ns.s = [ns.s] %}{% endfor %}".to_owned(), deep),
            ("{% set ns = namespace(s=1) %}{% for i in range(100000) %}{% set ns.s = {1: ns.s} %}{% endfor %}".to_owned(), deep),
            ("{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s | length }}".to_owned(), large),
            ("{% set ns = namespace(s=[1]) %}{% for i in range(99999) %}{% set ns.s = ns.s[0:] %}{% endfor %}".to_owned(), spent),
            ("{% macro f(a) %}{{ f(a + a) }}{% endmacro %}{{ f([1]) }}".to_owned(), large),
            ("{% macro f(a) %}{{ f([a]) }}{% endmacro %}{{ f([1]) }}".to_owned(), recursion),
            ("{% block a %}{{ self.a() }}{% endblock %}".to_owned(), recursion),
            ("{% for a in [[1]] recursive %}{{ loop([[a]]) }}{% endfor %}".to_owned(), deep),
            (unrolled("{% set a = [a] %}", 5000), deep),
            (unrolled("{% set a = [a, a] %}", 60), large),
            (with, large),
            (format!("{{% set s = 'x' * 200000 %}}{{{{ [{}] ~ '' }}}}", "s,".repeat(300)), spent),
        ] {
            let told = failure(&source);
            assert!(told.contains(words), "{words:?} is not in {told:?} of {:.200}", source);
        }
    }

    #[test]
    fn widths_and_indents_are_bounded() {
        for (source, words) in [
            ("{{ '{:>2000000000}'.format(1) }}", "formats to a width of 2000000000"),
            ("{{ '{0:.99999f}'.format(1.5) }}", "formats to a width of 99999"),
            ("{{ ('{0}' * 60000).format(range(4000) | list) }}", "takes too long"),
            ("{{ '%2000000000d' | format(1) }}", "takes too long"),
            ("{{ ('%(a)s' * 50000) | format(a=range(4000) | list) }}", "takes too long"),
            ("{{ [1] | tojson(indent=2000000000) }}", "writes JSON with an indent of 2000000000"),
            ("{{ [1] | tojson(2000000000) }}", "writes JSON with an indent of 2000000000"),
            ("{{ 'a\\nb' | indent(2000000000) }}", "takes too long"),
            ("{{ [1] | batch(2000000000, 1) | length }}", "takes too long"),
            ("{{ [1] | slice(2000000000) | length }}", "takes too long"),
            ("{{ ('x' * 100000).join(range(100000)) }}", "takes too long"),
            ("{{ ('a' * 100000).replace('a', 'b' * 100000) }}", "takes too long"),
            ("{{ ('a' * 200000).strip('b' * 200000) }}", "strips a text of more than 256 characters"),
            ("{{ ('a' * 200000) | trim('b' * 200000) }}", "strips a text of more than 256 characters"),
            ("{{ [[1]] | sum(start=[]) }}", "sums values that are no numbers"),
            ("{{ [1] * 100000000 }}", "multiplies values"),
        ] {
            let told = match ChatTemplate::new("t.jinja", source, None, None) {
                Ok(template) => template.render(&chat(&[("user", "hi")]), false).map(|_| ()),
                Err(error) => Err(error),
            };
            let told = told.unwrap_err().to_string();
            assert!(told.starts_with("t.jinja: chat template, line 1: ") && told.contains(words), "{source}: {told}");
        }
        assert_eq!(
            render("{{ '{:>5}|{}'.format(1, 'b') }}{{ '%s-%03d' | format('a', 3) }}", &[], false),
            "    1|ba-003"
        );
        assert_eq!(
            render("{{ 'xax'.strip('x') }}{{ ' a ' | trim }}{{ [1, 2] | sum }}{{ '-' * 3 }}", &[], false),
            "aa3---"
        );
    }

    #[test]
    fn long_chats_have_room() {
        let source = "{% set rest = messages[1:] %}{% set ns = namespace(out='', all=[]) %}{% for m in rest %}\
                      {% set ns.out = ns.out ~ m.content %}{% set ns.all = ns.all + [m] %}{% endfor %}{{ ns.out | length }} {{ ns.all | length }}";
        let many: Vec<Message> = (0..500).map(|_| Message::new("user", "x".repeat(100))).collect();
        assert_eq!(template(source).render(&many, false).unwrap(), "49900 499");
        let long = [Message::new("system", "s"), Message::new("user", "é".repeat(2_000_000))];
        let text =
            template("{% for m in messages %}{{ m.content.strip() | trim }}{% endfor %}").render(&long, false).unwrap();
        assert_eq!(text.len(), 4_000_001);
    }

    #[test]
    fn lists_that_are_kept_are_lists() {
        let source = "{% set a = messages[1:] %}{{ a }}{% for k, v in {'x': 1}.items() %}{{ k }}{{ v }}{% endfor %}\
                      {% macro f(a, b=2) %}{{ a }}{{ b }}{{ c is defined }}{% endmacro %}{{ f(1) }}{{ f(1, none) }}\
                      {% with a = 1, b = [2, 3] %}{{ a }}{{ b }}{% endwith %}{% set t, u = 1, 'x' %}{{ t }}{{ u }}";
        let text = render(source, &[("user", "1"), ("user", "2")], false);
        assert_eq!(text, "[{'role': 'user', 'content': '2'}]x112False1NoneFalse1[2, 3]1x");
    }

    #[test]
    fn a_template_reaches_no_file() {
        assert!(failure("{% include '/etc/passwd' %}").contains("chat template"));
    }

    #[test]
    fn what_is_no_jinja_is_an_error_with_its_line() {
        let error = ChatTemplate::new("t.jinja", "a\n{% for %}", None, None).unwrap_err().to_string();
        assert!(error.starts_with("t.jinja: chat template, line 2: "), "{error}");
    }

    #[test]
    fn the_end_of_a_turn_is_what_follows_the_answer() {
        let source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>\n\n{% endfor %}";
        assert_eq!(template(source).turn_end().unwrap(), "<end>\n\n");
        for (source, whose) in [("{{ messages[0].content }}", "assistant"), ("{{ messages[-1].content }}", "user")] {
            let error = template(source).turn_end().unwrap_err().to_string();
            assert!(error.contains(&format!("does not write the {whose}'s message")), "{error}");
        }
    }

    #[test]
    fn of_several_templates_the_default_is_meant() {
        let json = serde_json::json!([{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]);
        assert_eq!(named(Path::new("x"), &json).unwrap().unwrap(), "d");
        assert!(
            named(Path::new("x"), &serde_json::json!([])).is_err()
                && named(Path::new("x"), &serde_json::json!(3)).is_err()
        );
        assert_eq!(named(Path::new("x"), &serde_json::Value::Null).unwrap(), None);
    }

    #[test]
    fn the_fingerprint_changes_with_template_and_tokens() {
        let of = |source: &str, bos: Option<&str>| {
            ChatTemplate::new("p", source, bos.map(str::to_owned), None).unwrap().fingerprint().to_owned()
        };
        assert_ne!(of("a", None), of("b", None));
        assert_ne!(of("a", None), of("a", Some("x")));
        assert_eq!(of("a", Some("x")), of("a", Some("x")));
    }
}
