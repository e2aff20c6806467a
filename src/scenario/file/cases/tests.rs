use super::*;
use crate::record::Prompt;
use crate::scenario::{Scenario, file};

const TEMPLATE: &str = "[case]\nprompt = \"What is {{question}}?\"\nchecks = [{ contains = \"{{answer}}\" }]\n";
const CSV: &str = "question,answer\n2 + 2,4\n3 + 3,6\n";

fn load(rows: &str, content: &str, rest: &str) -> Result<Scenario, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let text = format!("role = \"target\"\ndescription = \"d\"\ncases = \"{rows}\"\n{rest}");
    let path = folder.path().join("s.toml");
    std::fs::write(&path, &text).expect("a file");
    std::fs::write(folder.path().join(rows), content).expect("a file");
    let loaded = Scenario::load(&path, folder.path());
    if let Ok(scenario) = &loaded {
        let names: Vec<String> = scenario.cases.iter().map(|case| case.name.clone()).collect();
        assert_eq!(file::names(&path, &text).expect("names").cases, names);
    }
    loaded.map_err(|error| error.to_string().replace(&format!("{}/", folder.path().display()), ""))
}

fn prompt(case: &Case) -> &str {
    match &case.request.prompt {
        Prompt::Messages(messages) => messages.last().map_or("", |last| last.content.as_str()),
        Prompt::Text(text) => text.as_str(),
    }
}

fn prompts(scenario: &Scenario) -> Vec<&str> {
    scenario.cases.iter().map(prompt).collect()
}

#[track_caller]
fn refused(rows: &str, content: &str, rest: &str, with: &[&str]) {
    let message = load(rows, content, rest).expect_err("must be refused");
    for word in with {
        assert!(message.contains(word), "{word:?} is not in {message}");
    }
}

#[test]
fn every_row_becomes_a_case_whose_place_is_the_line_that_names_the_file() {
    let scenario = load("c.csv", CSV, TEMPLATE).expect("a scenario");
    assert_eq!(prompts(&scenario), ["What is 2 + 2?", "What is 3 + 3?"]);
    let shown: Vec<(&str, usize, String)> =
        scenario.cases.iter().map(|case| (case.name.as_str(), case.line, case.checks[0].to_string())).collect();
    assert_eq!(shown, [("line_2", 3, "contains \"4\"".into()), ("line_3", 3, "contains \"6\"".into())]);
    let jsonl = "{\"question\": \"2 + 2\", \"answer\": 4}\n\n{\"answer\": true, \"question\": \"it\"}\n";
    let named = TEMPLATE.replace("[case]\n", "[case]\nname = \"q-{{ answer }}\"\n");
    let scenario = load("c.jsonl", jsonl, &named).expect("a scenario");
    assert_eq!(scenario.cases.iter().map(|case| case.name.as_str()).collect::<Vec<_>>(), ["q-4", "q-true"]);
}

#[test]
fn columns_are_replaced_in_messages_turns_and_fields_which_keep_their_type() {
    let template = "[case]\nmessages = [{ role = \"user\", content = \"{{q}}\" }]\n\
                    checks = [{ json-fields = { line = \"{{line}}\", note = \"line {{line}}\" } }]\n\
                    then = [{ prompt = \"and {{q}}?\", checks = [{ exact = \"{{line}}\" }] }]\n";
    let scenario = load("c.jsonl", "{\"q\": \"{a}\", \"line\": 3}", template).expect("a scenario");
    let case = &scenario.cases[0];
    assert_eq!(case.checks_shown(), ["json-fields line = 3, note = \"line 3\"", "turn 2: exact \"3\""]);
    assert_eq!((prompts(&scenario)[0], case.follow_ups[0].message.as_str()), ("{a}", "and {a}?"));
}

#[test]
fn what_a_row_or_the_template_lacks_is_told_where_it_is() {
    refused(
        "c.csv",
        CSV,
        &TEMPLATE.replace("answer", "anwser"),
        &["s.toml:6: c.csv has no column `anwser`", "did you mean `answer`?"],
    );
    let rows =
        "{\"question\": \"a\", \"answer\": \"b\"}\n{\"question\": \"a\"}\n{\"question\": \"a\", \"answer\": null}\n";
    refused(
        "c.jsonl",
        rows,
        TEMPLATE,
        &[
            "c.jsonl:2: has no column `answer`; there are `question` (by [case] of s.toml:6)",
            "c.jsonl:3: column `answer` is null",
        ],
    );
    let constant = "[case]\nprompt = \"x\"\nchecks = [\"json\"]\n";
    refused("c.csv", CSV, constant, &["s.toml:4: [case] uses no column", "{{question}}, {{answer}}"]);
    refused("c.csv", CSV, &TEMPLATE.replace("{{answer}}", "{{answer}"), &["s.toml:6: ", "is not closed"]);
    refused("c.csv", CSV, "", &["s.toml:3: cases = \"c.csv\" needs the table [case]"]);
    refused("c.csv", CSV, &format!("{TEMPLATE}prmpt = 1\n"), &["s.toml:7: ", "did you mean `prompt`?"]);
    refused("c.csv", "question,answer\n2,\n", TEMPLATE, &["c.csv:2: contains is empty", "(by [case] of s.toml:6)"]);
    let named = TEMPLATE.replace("[case]\n", "[case]\nname = \"q\"\n");
    refused("c.csv", CSV, &named, &["c.csv:3: two cases are named \"q\""]);
    let system = TEMPLATE.replace("prompt", "text");
    refused(
        "c.csv",
        CSV,
        &format!("system = \"s\"\n{system}"),
        &["s.toml:5: system is said only to cases with `prompt`"],
    );
    refused("c.txt", CSV, TEMPLATE, &["c.txt: cannot be read as rows"]);
}

#[test]
fn a_file_is_named_where_it_is_missing_and_a_template_has_rows() {
    let read = |text: &str| {
        let text = format!("role = \"target\"\ndescription = \"d\"\n{text}");
        file::parse(Path::new("p/s.toml"), Path::new("p"), &text).expect_err("refused").to_string()
    };
    assert!(
        read(&format!("cases = \"gone.csv\"\n{TEMPLATE}"))
            .starts_with("p/s.toml:3: cases = \"gone.csv\": p/gone.csv: cannot read")
    );
    assert!(read(TEMPLATE).contains("p/s.toml:3: [case] is a template for rows, and no file is named"));
    let both = format!("[[cases]]\nprompt = \"x\"\nchecks = [\"json\"]\n{TEMPLATE}");
    assert!(read(&both).contains("p/s.toml:6: [case] is a template for a file of rows"), "{}", read(&both));
    assert!(
        read("cases = 3\n").contains("cases is 3, expected a list of cases, or the path"),
        "{}",
        read("cases = 3\n")
    );
}
