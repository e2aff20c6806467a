//! What is made from the code and committed: JSON Schemas, and pages of the book's reference. A test fails when one is stale, or when an
//! option or a key is not documented. `FINETEST_WRITE_REFERENCE=1 cargo test --lib reference` writes them.

use std::fmt::Write;
use std::path::Path;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::command;
use crate::config;
use crate::data::check;
use crate::record::RunRecord;
use crate::scenario;

/// Columns of the command line's help on its page.
const COLUMNS: usize = 100;

/// Compares what was made with the committed file, or writes it.
fn committed(path: &str, made: &str) {
    let full = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("FINETEST_WRITE_REFERENCE").is_some() {
        std::fs::create_dir_all(full.parent().expect("a folder")).expect("a folder");
        std::fs::write(&full, made).expect("a file");
    }
    let found = std::fs::read_to_string(&full).unwrap_or_default();
    let differ = found.lines().zip(made.lines()).position(|(a, b)| a != b);
    let line = differ.unwrap_or_else(|| found.lines().count().min(made.lines().count())) + 1;
    let hint = "FINETEST_WRITE_REFERENCE=1 cargo test --lib reference";
    assert!(found == made, "{path} is stale from line {line} on; write it again with `{hint}`");
}

/// The schema of a type, with descriptions for people.
fn schema<T: JsonSchema>(title: &str) -> Value {
    let mut schema = SchemaSettings::draft07().into_generator().into_root_schema_for::<T>().to_value();
    schema["title"] = json!(title);
    plain(&mut schema);
    schema
}

/// Takes links to other items out of descriptions, and joins their lines.
fn plain(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(text)) = map.get_mut("description") {
                *text = without_links(&text.replace('\n', " "));
            }
            map.values_mut().for_each(plain);
        }
        Value::Array(items) => items.iter_mut().for_each(plain),
        _ => {}
    }
}

fn without_links(text: &str) -> String {
    let link = regex::Regex::new(r"\[(`[^`\]]+`|[^`\]]+)\](?:\([^)]*\))").expect("a pattern");
    let text = link.replace_all(text, "$1");
    let code = regex::Regex::new(r"\[(`[^`\]]+`)\]").expect("a pattern");
    code.replace_all(&text, "$1").into_owned()
}

/// The manifest's schema: the keys of `[train]` may have other tools' names too.
fn manifest() -> Value {
    let mut schema = schema::<config::ManifestSchema>("finetest.toml");
    let keys = schema["definitions"]["Recipe"]["properties"].as_object_mut().expect("keys");
    for (alias, name) in config::ALIASES {
        let mut key = keys[name].clone();
        key["description"] = json!(format!("Another name of `{name}`."));
        keys.insert(alias.to_owned(), key);
    }
    for (alias, name) in config::INVERSES {
        keys.insert(
            alias.to_owned(),
            json!({ "description": format!("The opposite of `{name}`."), "type": "boolean" }),
        );
    }
    schema
}

fn pretty(schema: &Value) -> String {
    serde_json::to_string_pretty(schema).expect("JSON") + "\n"
}

/// A schema's own keys, or those of the definition that it names.
fn resolved<'s>(root: &'s Value, schema: &'s Value) -> &'s Value {
    let named = |schema: &'s Value| {
        let name = schema["$ref"].as_str()?.strip_prefix("#/definitions/")?;
        Some(&root["definitions"][name])
    };
    let of = |key: &str| schema[key].as_array().into_iter().flatten().find(|one| one["type"] != "null");
    named(schema)
        .or_else(|| of("anyOf").filter(|_| schema["oneOf"].is_null()).map(|one| resolved(root, one)))
        .or_else(|| of("allOf").map(|one| resolved(root, one)))
        .unwrap_or(schema)
}

/// What a value may be, in words.
fn kind(root: &Value, schema: &Value) -> String {
    let schema = resolved(root, schema);
    let value = |value: &Value| format!("`{value}`");
    if let Some(values) = schema["enum"].as_array() {
        return values.iter().filter(|value| !value.is_null()).map(value).collect::<Vec<_>>().join(", ");
    }
    if let Some(one) = schema["oneOf"].as_array() {
        let each = one.iter().map(|one| match &one["const"] {
            Value::Null => kind(root, one),
            constant => value(constant),
        });
        return each.collect::<Vec<_>>().join(", ");
    }
    let types = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        Value::String(one) => vec![one.as_str()],
        _ => Vec::new(),
    };
    let word = |one: &str| match one {
        "integer" => "whole number".to_owned(),
        "array" if schema["items"]["$ref"] == "#/definitions/RawCheck" => "list of [checks](checks.md)".to_owned(),
        "array" => format!("list of {}", plural(&kind(root, &schema["items"]))),
        "object" => "table".to_owned(),
        "boolean" => "`true`, `false`".to_owned(),
        "string" => "text".to_owned(),
        other => other.to_owned(),
    };
    if types.is_empty() {
        return "text or table".to_owned();
    }
    types.into_iter().filter(|one| *one != "null").map(word).collect::<Vec<_>>().join(" or ")
}

fn plural(word: &str) -> String {
    match word {
        "text" | "" => "texts".to_owned(),
        word if word.starts_with('`') => word.to_owned(),
        word => format!("{word}s"),
    }
}

/// A table of a section's keys. Every key has a description.
fn keys(root: &Value, section: &Value, aliases: &[(&str, &str)]) -> String {
    let section = resolved(root, section);
    let empty = Map::new();
    let all = section["properties"].as_object().unwrap_or(&empty);
    let required: Vec<&str> = section["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut table = "| key | value | default | |\n|---|---|---|---|\n".to_owned();
    for (key, schema) in all {
        let described = schema["description"].as_str().or_else(|| resolved(root, schema)["description"].as_str());
        let description = described.unwrap_or_else(|| panic!("{key} has no description"));
        if description.starts_with("Another name of") || description.starts_with("The opposite of") {
            continue;
        }
        let others: Vec<String> =
            aliases.iter().filter(|(_, name)| name == key).map(|(alias, _)| format!("`{alias}`")).collect();
        let others = if others.is_empty() { String::new() } else { format!(" Also: {}.", others.join(", ")) };
        let default = match &schema["default"] {
            Value::Null if required.contains(&key.as_str()) => "required".to_owned(),
            Value::Null => String::new(),
            Value::Array(items) if items.is_empty() => String::new(),
            Value::Object(_) => String::new(),
            value => format!("`{value}`"),
        };
        let cell = |text: &str| text.replace('|', "\\|");
        let _ = writeln!(
            table,
            "| `{key}` | {} | {} | {}{others} |",
            cell(&kind(root, schema)),
            cell(&default),
            cell(description)
        );
    }
    table
}

const MADE: &str =
    "<!-- Made from the code by `FINETEST_WRITE_REFERENCE=1 cargo test --lib reference`. Do not edit. -->\n";

#[test]
fn the_schemas_are_as_committed() {
    committed("schemas/manifest.schema.json", &pretty(&manifest()));
    committed("schemas/scenario.schema.json", &pretty(&schema::<scenario::ScenarioSchema>("scenarios/NAME.toml")));
    committed("schemas/run.schema.json", &pretty(&schema::<RunRecord>("run.json")));
}

#[test]
fn the_manifest_s_page_is_as_committed() {
    let root = manifest();
    let mut page = format!(
        "{MADE}# The manifest: finetest.toml\n\n{} All sections but `[model]` may be left out. Unknown keys are errors.\n\n\
         `extends = \"FILE\"`, above all sections: {}\n",
        root["description"].as_str().expect("a description"),
        root["properties"]["extends"]["description"].as_str().expect("a description"),
    );
    let aliases: Vec<(&str, &str)> = config::ALIASES.into_iter().chain(config::INVERSES).collect();
    for (name, section) in root["properties"].as_object().expect("sections") {
        let own = section["description"].as_str();
        if name == "extends" {
            continue;
        }
        let (title, keys_of) = match name.as_str() {
            "arms" => ("arms.NAME", &section["additionalProperties"]),
            name => (name, section),
        };
        let description = own.unwrap_or_else(|| panic!("[{name}] has no description"));
        let aliases = if name == "train" { aliases.as_slice() } else { &[] };
        let _ = write!(page, "\n## `[{title}]`\n\n{description}\n\n{}", keys(&root, keys_of, aliases));
    }
    page.push_str(
        "\nUnder \"Also\" are names of the key in PEFT, TRL, LLaMA-Factory and torchtune. `completion_only_loss` and \
         `disable_gradient_checkpointing` say the opposite of the key.\n",
    );
    committed("docs/reference/manifest.md", &page);
}

#[test]
fn the_scenario_s_page_is_as_committed() {
    let root = schema::<scenario::ScenarioSchema>("scenarios/NAME.toml");
    let mut page = format!(
        "{MADE}# Scenario files: scenarios/NAME.toml\n\n{}\n\n## The file\n\n{}",
        root["description"].as_str().expect("a description"),
        keys(&root, &root, &[])
    );
    for (name, title) in [("RawCase", "`[[cases]]`"), ("RawTurn", "A turn in `then`")] {
        let _ = write!(page, "\n## {title}\n\n{}", keys(&root, &root["definitions"][name], &[]));
    }
    committed("docs/reference/scenario.md", &page);
}

#[test]
fn the_checks_page_is_as_committed() {
    let root = schema::<scenario::ScenarioSchema>("scenarios/NAME.toml");
    let mut page = format!(
        "{MADE}# Checks\n\nA case passes when all of its checks hold. A check without a value is written as text, `\"json\"`; one with a \
         value as a table, `{{ contains = \"Paris\" }}`.\n\n| check | holds when |\n|---|---|\n"
    );
    for check in root["definitions"]["RawCheck"]["oneOf"].as_array().expect("checks") {
        let written = match (&check["const"], check["properties"].as_object().and_then(|keys| keys.iter().next())) {
            (Value::String(name), _) => format!("`\"{name}\"`"),
            (_, Some((name, value))) => format!("`{{ {name} = … }}`: {}", kind(&root, value)),
            _ => panic!("{check} is no check"),
        };
        let description = check["description"].as_str().unwrap_or_else(|| panic!("{written} has no description"));
        let _ = writeln!(page, "| {} | {} |", written.replace('|', "\\|"), description.replace('|', "\\|"));
    }
    for (name, definition) in [("choice", "Choice"), ("count", "Count")] {
        let _ = write!(page, "\n## `{name}`\n\n{}", keys(&root, &root["definitions"][definition], &[]));
    }
    committed("docs/reference/checks.md", &page);
}

#[test]
fn the_command_line_s_page_is_as_committed() {
    let mut all = command().term_width(COLUMNS);
    all.build();
    let help = all.render_long_help().to_string();
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    let mut page = format!("{MADE}# Command line\n\n```text\n{}\n```\n", help.join("\n"));
    let commands = all.get_subcommands_mut().filter(|command| !command.is_hide_set() && command.get_name() != "help");
    for command in commands {
        let name = command.get_name().to_owned();
        help_of(command, &name, &mut page);
        for inner in command.get_subcommands_mut().filter(|inner| inner.get_name() != "help") {
            help_of(inner, &format!("{name} {}", inner.get_name()), &mut page);
        }
    }
    committed("docs/reference/cli.md", &page);
}

/// A command's help, as a section.
fn help_of(command: &clap::Command, name: &str, page: &mut String) {
    for argument in command.get_arguments() {
        assert!(argument.get_help().is_some(), "{name} --{} has no help", argument.get_id());
    }
    // Those of all commands are shown once, above.
    let own = command.clone().mut_args(|arg| if arg.is_global_set() { arg.hide(true) } else { arg });
    let help = own.term_width(COLUMNS).render_long_help().to_string();
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    let _ = write!(page, "\n## finetest {name}\n\n```text\n{}\n```\n", help.join("\n"));
}

#[test]
fn the_findings_page_is_as_committed() {
    let mut page = format!(
        "{MADE}# What `finetest data check` finds\n\n`finetest data clean` leaves out examples with an error or a warning. A note leaves them in.\n\n\
         | Finding | Severity | It sees | It does not see |\n|---|---|---|---|\n"
    );
    for kind in check::kinds() {
        let severity = format!("{:?}", kind.severity).to_lowercase();
        let cell = |text: &str| text.replace('|', "\\|");
        let _ = writeln!(page, "| `{}` | {severity} | {} | {} |", kind.name, cell(kind.sees), cell(kind.misses));
    }
    let _ = write!(
        page,
        "\n## How often it is right\n\nThese are counts on {} labelled examples that nobody looked at while the detectors were written \
         (`tests/fixtures/findings/held.jsonl`).\nThey were written to be hard, not drawn from real data, so they do not tell how many findings \
         you will have.\n\n{}",
        check::measured::examples("held").len(),
        check::measured::table()
    );
    committed("docs/reference/data-findings.md", &page);
}

#[test]
fn the_traps_of_models_have_a_page() {
    let mut page = format!(
        "{MADE}# Traps of models\n\n`finetest inspect MODEL` names those that a model has, and what of the model shows them. It reads the model's \
         configuration, the headers of its weights, its tokens and its template. What a model would do is not tried.\n"
    );
    for trap in crate::inspect::traps() {
        let _ = write!(page, "\n## {}\n\n{}\n\n**What to do.** {}\n", trap.name, trap.why, trap.remedy);
    }
    committed("docs/reference/model-traps.md", &page);
}
