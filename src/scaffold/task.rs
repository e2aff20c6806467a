//! A target scenario out of examples: what they ask is asked, and what they answer is checked.

use std::path::Path;

use serde_json::{Map, Value};

use super::quoted;
use crate::data::{Example, Turns};
use crate::record::{Message, Role};

/// Bytes of an answer of one line that is checked word for word.
const SHORT: usize = 80;
/// Bytes of an answer that is shown beside its case.
const SHOWN: usize = 300;
/// Words of a raw text that are asked, at most, and that have to be the likeliest continuation.
const MOST_ASKED_WORDS: usize = 60;
const CONTINUED_WORDS: usize = 8;

/// A scenario, and what kind of checks it has.
pub(super) struct Task {
    pub(super) text: String,
    /// Whether every case says exactly what is right, so that base can fail and tuned can win.
    pub(super) is_exact: bool,
    /// How many cases it has.
    pub(super) cases: usize,
}

/// What is written above the cases.
pub(super) struct Head<'h> {
    pub(super) comment: &'h str,
    pub(super) role: Role,
    pub(super) description: &'h str,
}

/// A case: what is asked, as lines of TOML, and how the answer is checked.
struct Case {
    asked: String,
    system: Option<String>,
    checks: String,
    comment: Option<String>,
    is_exact: bool,
    answer_bytes: usize,
}

/// The scenario of these examples, each named after its line.
pub(super) fn scenario(head: &Head<'_>, examples: &[Example]) -> Task {
    let continued: Vec<String> =
        examples.iter().filter_map(|example| split(&example.turns)).map(|(_, next)| next).collect();
    let cases: Vec<(usize, Case)> =
        examples.iter().filter_map(|example| Some((example.line, case(&example.turns, &continued)?))).collect();
    let systems: Vec<&Option<String>> = cases.iter().map(|(_, case)| &case.system).collect();
    let shared = systems.first().copied().cloned().flatten().filter(|first| {
        systems.iter().all(|system| system.as_ref() == Some(first))
            && cases.iter().all(|(_, case)| case.asked.starts_with("prompt"))
    });
    let longest = cases.iter().map(|(_, case)| case.answer_bytes).max().unwrap_or_default();
    let mut text = format!("{}role = \"{}\"\ndescription = {}\n", head.comment, head.role, quoted(head.description));
    if let Some(system) = &shared {
        text.push_str(&format!("system = {}\n", quoted(system)));
    }
    // A token is seldom less than two bytes long; the answer must have room to end.
    text.push_str(&format!("max_tokens = {}\n", (longest / 2 + 16).clamp(24, 256)));
    for (line, case) in &cases {
        text.push_str(&format!("\n[[cases]]\nname = \"line_{line}\"\n"));
        text.push_str(&match (&case.system, &shared) {
            (Some(system), None) => with_system(system, &case.asked),
            _ => format!("{}\n", case.asked),
        });
        for line in case.comment.iter().flat_map(|comment| comment.lines()) {
            text.push_str(&format!("# {line}\n"));
        }
        text.push_str(&format!("checks = [{}]\n", case.checks));
    }
    let is_exact = !cases.is_empty() && cases.iter().all(|(_, case)| case.is_exact);
    Task { text, is_exact, cases: cases.len() }
}

/// `prompt = "…"` as messages with a system message before it.
fn with_system(system: &str, asked: &str) -> String {
    let prompt = asked.strip_prefix("prompt = ").unwrap_or(asked);
    format!(
        "messages = [\n    {{ role = \"system\", content = {} }},\n    {{ role = \"user\", content = {prompt} }},\n]\n",
        quoted(system)
    )
}

fn case(turns: &Turns, continued: &[String]) -> Option<Case> {
    match turns {
        Turns::Chat { messages, tools } => chat(messages, tools),
        Turns::Completion { prompt, completion } if !prompt.trim().is_empty() => {
            Some(answered(format!("text = {}", quoted(prompt)), None, completion))
        }
        Turns::Completion { completion, .. } => raw(completion, continued),
        Turns::Text(text) => raw(text, continued),
    }
}

/// The last answer of a chat, and what it answers.
fn chat(messages: &[Message], tools: &[serde_json::Value]) -> Option<Case> {
    // A case asks without tools.
    if !tools.is_empty() || messages.iter().any(|message| message.tools.is_some() || message.role == "tool") {
        return None;
    }
    let last = messages.iter().rposition(|message| message.role == "assistant")?;
    let (before, answer) = (&messages[..last], &messages[last].content);
    if before.last().is_none_or(|message| message.role != "user" || message.content.trim().is_empty()) {
        return None;
    }
    match before {
        [user] => Some(answered(format!("prompt = {}", quoted(&user.content)), None, answer)),
        [system, user] if system.role == "system" => {
            Some(answered(format!("prompt = {}", quoted(&user.content)), Some(system.content.clone()), answer))
        }
        several => {
            let line = |message: &Message| {
                format!("    {{ role = \"{}\", content = {} }},\n", message.role, quoted(&message.content))
            };
            let lines: String = several.iter().map(line).collect();
            Some(answered(format!("messages = [\n{lines}]"), None, answer))
        }
    }
}

/// A case whose answer is known.
fn answered(asked: String, system: Option<String>, answer: &str) -> Case {
    let answer = answer.trim();
    let answer_bytes = answer.len();
    let exact = json_checks(answer).or_else(|| {
        let is_short = answer.len() <= SHORT && !answer.contains('\n');
        is_short.then(|| format!("{{ exact = {} }}", quoted(answer)))
    });
    let is_exact = exact.is_some();
    let comment = (!is_exact).then(|| {
        let shown: String = answer.chars().take(SHOWN).collect();
        // A comment holds no control characters.
        let shown = crate::shown::visible(&shown).into_owned();
        let more = if answer.chars().count() > SHOWN { "…" } else { "" };
        format!("The answer in the data is below. Write checks that a right answer passes: {{ contains = \"…\" }}, {{ regex = '…' }}.\n{shown}{more}")
    });
    let checks = exact.unwrap_or_else(|| "\"no-repetition\", \"no-template-tags\"".to_owned());
    Case { asked, system, checks, comment, is_exact, answer_bytes }
}

/// Checks of a JSON object: its plain fields have to be there, with their values.
fn json_checks(answer: &str) -> Option<String> {
    let Value::Object(object) = serde_json::from_str(answer).ok()? else { return None };
    let fields = fields(&object);
    let nulls: Vec<String> = object.iter().filter(|(_, value)| value.is_null()).map(|(key, _)| quoted(key)).collect();
    let mut checks = vec!["\"json\"".to_owned()];
    if !fields.is_empty() {
        checks.push(format!("{{ json-fields = {{ {} }} }}", fields.join(", ")));
    }
    if !nulls.is_empty() {
        checks.push(format!("{{ json-null = [{}] }}", nulls.join(", ")));
    }
    Some(checks.join(", "))
}

fn fields(object: &Map<String, Value>) -> Vec<String> {
    let plain = |value: &Value| match value {
        Value::String(text) => Some(quoted(text)),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Number(number) => {
            number.as_i64().map(|n| n.to_string()).or_else(|| Some(toml::Value::Float(number.as_f64()?).to_string()))
        }
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    object.iter().filter_map(|(key, value)| Some(format!("{} = {}", quoted(key), plain(value)?))).collect()
}

/// The beginning of a text, and the words that follow it.
fn split(turns: &Turns) -> Option<(String, String)> {
    let text = match turns {
        Turns::Text(text) => text,
        Turns::Completion { prompt, completion } if prompt.trim().is_empty() => completion,
        Turns::Completion { .. } | Turns::Chat { .. } => return None,
    };
    let words: Vec<&str> = text.split_whitespace().collect();
    let asked = (words.len() / 2).min(MOST_ASKED_WORDS);
    let next = words.get(asked..).filter(|_| asked > 0)?;
    let next = &next[..next.len().min(CONTINUED_WORDS)];
    Some((words[..asked].join(" "), format!(" {}", next.join(" "))))
}

/// A text whose own continuation has to be likelier than those of the others.
fn raw(text: &str, continued: &[String]) -> Option<Case> {
    let (asked, next) = split(&Turns::Text(text.to_owned()))?;
    let mut others: Vec<&String> = continued.iter().filter(|other| **other != next).collect();
    others.dedup();
    others.truncate(3);
    if others.is_empty() {
        return None;
    }
    let others: Vec<String> = others.into_iter().map(|other| quoted(other)).collect();
    let choice = format!("answer = {}, others = [{}], normalize = \"bytes\"", quoted(&next), others.join(", "));
    Some(Case {
        asked: format!("text = {}", quoted(&asked)),
        system: None,
        checks: format!("{{ choice = {{ {choice} }} }}"),
        comment: None,
        is_exact: false,
        answer_bytes: 0,
    })
}

/// Those of the examples that suit a scenario: short ones, in their order, at most so many.
pub(super) fn suitable(examples: &[Example], most: usize) -> Vec<Example> {
    const MOST_BYTES: usize = 4000;
    let mut short: Vec<&Example> = examples.iter().filter(|example| example.turns.bytes() <= MOST_BYTES).collect();
    short.sort_by_key(|example| (example.turns.bytes(), example.line));
    short.dedup_by_key(|example| example.turns.hash());
    short.truncate(most);
    short.sort_by_key(|example| example.line);
    short.into_iter().cloned().collect()
}

/// Whether the file of these examples asks in chats.
pub(super) fn is_chat(examples: &[Example]) -> bool {
    examples.iter().any(|example| matches!(example.turns, Turns::Chat { .. }))
}

/// A file as it is shown in a comment, on one line.
pub(super) fn shown(path: &Path) -> String {
    crate::shown::plain(&path.to_string_lossy().replace('\\', "/"), 200)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::check_text;

    fn example(line: usize, turns: Turns) -> Example {
        Example { line, turns }
    }

    fn chat(messages: &[(&str, &str)]) -> Turns {
        let messages = messages.iter().map(|(role, content)| Message::new(*role, *content)).collect();
        Turns::Chat { messages, tools: Vec::new() }
    }

    fn scenario(examples: &[Example]) -> (crate::scenario::Scenario, bool, String) {
        let head = Head { comment: "# c\n", role: Role::Target, description: "d" };
        let task = super::scenario(&head, examples);
        let scenario = check_text(Path::new("scenarios/task.toml"), Path::new("."), &task.text);
        (scenario.unwrap_or_else(|error| panic!("{error}\n{}", task.text)), task.is_exact, task.text)
    }

    #[test]
    fn answers_are_checked_by_what_they_are() {
        let ask = |answer: &str| chat(&[("user", "a \"quoted\"\nquestion"), ("assistant", answer)]);
        let long = "word ".repeat(40);
        let examples = [
            example(3, ask(" yes ")),
            example(5, ask("{\"a b\": \"x\", \"n\": 2, \"z\": null, \"l\": [1], \"f\": 0.5, \"t\": true}")),
            example(9, ask(&long)),
        ];
        let (found, is_exact, text) = scenario(&examples);
        let shown: Vec<(&str, Vec<String>)> =
            found.cases.iter().map(|case| (case.name.as_str(), case.checks_shown())).collect();
        assert_eq!(shown[0], ("line_3", vec!["exact \"yes\"".to_owned()]));
        assert_eq!(shown[1].1, ["json", "json-fields a b = \"x\", f = 0.5, n = 2, t = true", "json-null z"]);
        assert_eq!(shown[2].1, ["no-repetition", "no-template-tags"]);
        assert!(!is_exact && text.contains("# word word"), "{text}");
        assert!(scenario(&examples[..2]).1);
    }

    #[test]
    fn a_system_message_that_all_share_is_said_once() {
        let with = |system: &str| chat(&[("system", system), ("user", "u"), ("assistant", "a")]);
        let (_, _, text) = scenario(&[example(1, with("s")), example(2, with("s"))]);
        assert!(text.contains("system = \"s\"\n") && !text.contains("messages"), "{text}");
        let (_, _, text) = scenario(&[example(1, with("s")), example(2, with("t"))]);
        assert!(!text.contains("\nsystem = ") && text.contains("{ role = \"system\", content = \"t\" }"), "{text}");
        let turns = chat(&[("user", "u"), ("assistant", "a"), ("user", "v"), ("assistant", "b")]);
        let (found, _, _) = scenario(&[example(1, turns)]);
        assert_eq!(found.cases[0].checks_shown(), ["exact \"b\""]);
    }

    #[test]
    fn raw_text_is_asked_as_it_is() {
        let completion = Turns::Completion { prompt: "2 + 2 =".into(), completion: " 4".into() };
        let (found, _, _) = scenario(&[example(1, completion)]);
        assert_eq!(found.cases[0].request.prompt, crate::record::Prompt::Text("2 + 2 =".into()));
        let text = |text: &str| Turns::Text(text.to_owned());
        let (found, _, _) =
            scenario(&[example(1, text("one two three four")), example(2, text("red green blue black"))]);
        assert_eq!(found.cases[0].request.choices, [" three four", " blue black"]);
    }

    #[test]
    fn short_examples_that_differ_are_taken_in_their_order() {
        let text = |n: usize| Turns::Text("x".repeat(n));
        let examples = [
            example(1, text(9)),
            example(2, text(3)),
            example(3, text(5000)),
            example(4, text(3)),
            example(5, text(6)),
        ];
        let lines: Vec<usize> = suitable(&examples, 2).iter().map(|example| example.line).collect();
        assert_eq!(lines, [2, 5]);
    }
}
