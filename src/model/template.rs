//! Messages to text: the model's own chat template, rendered as transformers' `apply_chat_template` renders it.
//!
//! A template is a program from somebody's file. It sees only the messages and a few tokens, reaches no file and no network, and
//! runs on a budget of [`FUEL`], which bounds its time, its memory and its output (about 64 bytes for each unit).

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use minijinja::value::Kwargs;
use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value, context};
use regex::Regex;

use super::source::{ModelFiles, ModelKind};
use super::tokenizer::{Tokenizer, gguf_metadata, read_json};
use crate::error::{Error, Result};
use crate::record::Message;

/// Budget of one rendering: about five million steps, or 320 MB.
pub const FUEL: u64 = 5_000_000;
/// Longest template that is read.
const MAX_SOURCE: usize = 1 << 20;
const NAME: &str = "chat_template";
const MARKER: &str = "FINETESTANSWER";

/// A model's chat template with the tokens it may write.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    path: PathBuf,
    bos: Option<String>,
    eos: Option<String>,
    fingerprint: String,
}

impl ChatTemplate {
    /// The template of a model: the user's `override_file`, else `chat_template.jinja`, `tokenizer_config.json`'s, or the GGUF
    /// file's `tokenizer.chat_template`. `None` when there is none; [`ChatTemplate::missing`] says what to do.
    ///
    /// What ends an assistant's turn by this template becomes one of the tokenizer's stop ids.
    ///
    /// # Errors
    /// A file that cannot be read, or a template that is not valid Jinja or cannot render a chat of two messages.
    pub fn load(files: &ModelFiles, override_file: Option<&Path>, tokenizer: &mut Tokenizer) -> Result<Option<Self>> {
        let Some((path, source)) = Self::source(files, override_file)? else { return Ok(None) };
        let token = |id: Option<u32>| id.and_then(|id| tokenizer.token(id));
        let template = Self::new(&path, &source, token(tokenizer.bos()), token(tokenizer.eos()))?;
        tokenizer.add_turn_end(&template.turn_end()?)?;
        Ok(Some(template))
    }

    pub(crate) fn source(files: &ModelFiles, override_file: Option<&Path>) -> Result<Option<(PathBuf, String)>> {
        let read = |path: &Path| {
            std::fs::read_to_string(path).map(|text| Some((path.to_path_buf(), text))).map_err(Error::io(path, "read"))
        };
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
        if source.len() > MAX_SOURCE {
            let message = format!("the chat template has {} bytes, expected at most {MAX_SOURCE}", source.len());
            return Err(Error::model(path, message));
        }
        let mut environment = environment()?;
        let added = environment.add_template_owned(NAME, without_generation_tags(source));
        added.map_err(|e| template_error(&path, &e))?;
        let mut hash = blake3::Hasher::new();
        for text in [Some(source), bos.as_deref(), eos.as_deref()] {
            let text = text.unwrap_or("\0");
            hash.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        let fingerprint = hash.finalize().to_hex().to_string();
        Ok(Self { environment, path, bos, eos, fingerprint })
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
        let template = self.environment.get_template(NAME).map_err(|e| template_error(&self.path, &e))?;
        let token = |token: &Option<String>| token.as_deref().map_or(Value::UNDEFINED, Value::from);
        let context = context! {
            messages => messages.iter().map(message_value).collect::<Vec<_>>(),
            add_generation_prompt,
            bos_token => token(&self.bos),
            eos_token => token(&self.eos),
            tools => (),
            documents => (),
        };
        template.render(context).map_err(|e| template_error(&self.path, &e))
    }

    /// What the template writes after an assistant's message: `<|im_end|>\n`.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`], or a template that does not write the assistant's message.
    pub fn turn_end(&self) -> Result<String> {
        let text = self.render(&[Message::new("user", "?"), Message::new("assistant", MARKER)], false)?;
        let end = text.rfind(MARKER).map(|at| text[at + MARKER.len()..].to_owned());
        end.ok_or_else(|| Error::model(&self.path, "the chat template does not write the assistant's message"))
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

fn environment() -> Result<Environment<'static>> {
    let mut environment = Environment::new();
    let syntax = environment.syntax().to_builder().trim_blocks(true).lstrip_blocks(true).build();
    syntax
        .map(|syntax| environment.set_syntax(syntax))
        .map_err(|e| Error::failed(format!("chat template syntax: {e}")))?;
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_fuel(Some(FUEL));
    environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", strftime);
    environment.add_filter("tojson", tojson);
    Ok(environment)
}

fn message_value(message: &Message) -> Value {
    Value::from_pairs([("role", message.role.as_str()), ("content", message.content.as_str())])
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

/// Python's `strftime` for the one moment that templates are told.
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

/// `json.dumps(value, ensure_ascii=False, indent=…)`: as Jinja's own filter, but with nothing escaped for HTML.
fn tojson(value: &Value, indent: Option<Value>, options: Kwargs) -> Result<String, minijinja::Error> {
    let escaped = minijinja::filters::tojson(value, indent, options)?;
    let escaped = escaped.as_str().unwrap_or_default();
    let mut json = String::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some(at) = rest.find('\\') {
        json.push_str(&rest[..at]);
        rest = &rest[at..];
        let html = [("\\u003c", '<'), ("\\u003e", '>'), ("\\u0026", '&'), ("\\u0027", '\'')];
        if let Some((code, c)) = html.iter().find(|(code, _)| rest.starts_with(code)) {
            json.push(*c);
            rest = &rest[code.len()..];
        } else {
            // A backslash and what it escapes, be it another backslash.
            let end = rest.char_indices().nth(2).map_or(rest.len(), |(end, _)| end);
            json.push_str(&rest[..end]);
            rest = &rest[end..];
        }
    }
    json.push_str(rest);
    Ok(json)
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
        assert!(failure(huge).contains("takes too long"), "{}", failure(huge));
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
        let error = template("{{ messages[0].content }}").turn_end().unwrap_err().to_string();
        assert!(error.contains("does not write the assistant's message"), "{error}");
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
