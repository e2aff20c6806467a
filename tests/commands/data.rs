//! `finetest data`: a file checked, cleaned and divided from the command line.

use serde_json::Value;

use crate::support::Project;

const GOOD: [&str; 3] = [
    r#"{"prompt": "Why is the sky blue?", "completion": "Air scatters blue light more than red light."}"#,
    r#"{"prompt": "Name a sea near Italy.", "completion": "The Adriatic Sea."}"#,
    r#"{"prompt": "What do bees make?", "completion": "Honey and wax."}"#,
];
const BAD: [&str; 4] = [
    r#"{"prompt": "WHAT do bees make?", "completion": "Honey and wax."}"#,
    r#"{"prompt": "Who wrote it?", "completion": "TODO"}"#,
    r#"{"prompt": "Say hello.", "completion": 5}"#,
    r#"{"prompt": "Greet her.", "completion": "Certainly! Here is a greeting: hello."}"#,
];

fn data(lines: &[&str]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[test]
fn findings_have_their_line_and_the_exit_code_is_that_of_the_worst() {
    let project = Project::new();
    project.write("d.jsonl", &data(&[&GOOD[..], &BAD[..]].concat()));
    let ran = project.run(&["data", "check", "d.jsonl"]).expect(100);
    for part in [
        "✗ unreadable: 1 example\n    d.jsonl:6: completion is a number, expected a string\n",
        "✗ duplicate: 1 example\n    d.jsonl:4: is line 3 again\n",
        "✗ empty: 1 example\n    d.jsonl:5: the answer is \"TODO\"\n",
        "· assistant-leftover: 1 example\n    d.jsonl:7: ",
        "d.jsonl: 7 examples; `finetest data clean` would leave out 3 and keep 4\n",
    ] {
        assert!(ran.stdout.contains(part), "{part}\n{}", ran.stdout);
    }
    project.run(&["data", "check", "d.jsonl", "--fail-on", "never"]).expect(0);
    project.write("good.jsonl", &data(&[&GOOD[..], &BAD[3..]].concat()));
    let good = project.run(&["data", "check", "good.jsonl", "--fail-on", "warning"]).expect(0);
    assert!(good.stdout.ends_with("none of which `finetest data clean` would leave out\n"), "{}", good.stdout);
    let json: Value =
        serde_json::from_str(&project.run(&["data", "check", "d.jsonl", "--json"]).expect(100).stdout).expect("JSON");
    assert_eq!(
        (&json["items"], &json["left_out"], &json["counts"][1]["kind"]),
        (&7.into(), &3.into(), &"duplicate".into())
    );
    assert_eq!(json["counts"][0]["shown"][0]["line"], 6);
}

/// The data of a project is checked against its scenarios and its validation data.
#[test]
fn what_a_scenario_asks_is_not_to_be_learnt() {
    let project = Project::new();
    let asked = "Which river flows through the old town of Prague?";
    let scenario = format!(
        "role = \"target\"\ndescription = \"rivers\"\n[[cases]]\nprompt = \"{asked}\"\nchecks = [{{ contains = \"Vltava\" }}]\n"
    );
    project.write("scenarios/rivers.toml", &scenario);
    let line = format!("{{\"prompt\": \"{asked}\", \"completion\": \"The Vltava.\"}}");
    project.append("data/train.jsonl", &format!("{line}\n"));
    let ran = project.run(&["data", "check"]).expect(100);
    assert!(ran.stdout.contains("its prompt is in the case rivers::case_1, or nearly"), "{}", ran.stdout);
    project.write("held.jsonl", &data(&GOOD[..1]));
    project.write("d.jsonl", &data(&GOOD));
    let against = project.run(&["data", "check", "d.jsonl", "--against", "held.jsonl"]).expect(100);
    assert!(against.stdout.contains("d.jsonl:1: its prompt is in held.jsonl:1, or nearly"), "{}", against.stdout);
}

#[test]
fn a_cleaned_file_and_its_ledger_are_all_of_it_and_nothing_is_overwritten() {
    let project = Project::new();
    let lines = [&GOOD[..], &BAD[..]].concat();
    project.write("d.jsonl", &data(&lines));
    let ran = project.run(&["data", "clean", "d.jsonl", "-o", "c.jsonl", "--keep", "duplicate"]).expect(0);
    assert!(
        ran.stdout.contains("kept             5  c.jsonl\nleft out         2  c.jsonl.left-out.jsonl\n"),
        "{}",
        ran.stdout
    );
    let kept = project.read("c.jsonl");
    assert_eq!(kept, data(&[&GOOD[..], &BAD[..1], &BAD[3..]].concat()));
    let ledger = project.read("c.jsonl.left-out.jsonl");
    let entries: Vec<Value> = ledger.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(entries[0]["kind"], "empty");
    assert_eq!(
        (&entries[1]["line"], &entries[1]["kind"], &entries[1]["item"]),
        (&6.into(), &"unreadable".into(), &BAD[2].into())
    );
    assert!(entries.iter().all(|entry| entry["why"].as_str().is_some_and(|why| why.len() > 10)), "{ledger}");
    project
        .run(&["data", "clean", "d.jsonl", "-o", "c.jsonl"])
        .fails(1, &["c.jsonl", "already exists", "overwrites no file"]);
    assert_eq!(project.read("c.jsonl"), kept);
    project
        .run(&["data", "clean", "d.jsonl", "-o", "e.jsonl", "--keep", "dupes"])
        .fails(2, &["--keep dupes", "near-duplicate"]);
    assert!(!project.path("e.jsonl").exists());
}

/// What is half written is taken away, and the same command can be run again.
#[cfg(unix)]
#[test]
fn an_interrupted_cleaning_leaves_nothing_behind() {
    let project = Project::new();
    let line = |i: usize| {
        format!("{{\"prompt\": \"What is {i} and {}?\", \"completion\": \"It is {}.\"}}\n", i + 1, 2 * i + 1)
    };
    project.write("d.jsonl", &(0..100_000).map(line).collect::<String>());
    let arguments = ["data", "clean", "d.jsonl", "-o", "c.jsonl"];
    let child = project.command(&arguments).stderr(std::process::Stdio::piped()).spawn().expect("it starts");
    let names = || {
        let found = std::fs::read_dir(project.path(".")).expect("a directory").flatten();
        found.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>()
    };
    let writing = || names().iter().any(|name| name.starts_with(".writing-"));
    let started = std::time::Instant::now();
    while !writing() {
        assert!(
            started.elapsed() < std::time::Duration::from_secs(120) && !project.path("c.jsonl").exists(),
            "{:?}",
            names()
        );
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let sent = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    let ran = crate::support::Ran::of(child.wait_with_output().expect("it ends"));
    assert!(sent.success() && ran.code == 130, "{ran:?}");
    assert!(!writing() && !names().iter().any(|name| name.starts_with("c.jsonl")), "{:?}", names());
    project.run(&arguments).expect(0);
}

#[test]
fn a_file_is_divided_by_its_prompts_or_by_a_key() {
    let project = Project::new();
    let lines: Vec<String> = (0..200)
        .map(|i| format!("{{\"prompt\": \"number {i}?\", \"completion\": \"{i}\", \"from\": \"{}\"}}", i % 9))
        .collect();
    project.write("all.jsonl", &lines.join("\n"));
    let sides = ["--train", "t.jsonl", "--validation", "v.jsonl"];
    project.run(&[&["data", "split", "all.jsonl"], &sides[..]].concat()).expect(0);
    let (train, validation) = (project.read("t.jsonl"), project.read("v.jsonl"));
    assert_eq!(train.lines().count() + validation.lines().count(), 200);
    assert!((8..=35).contains(&validation.lines().count()), "{}", validation.lines().count());
    project.run(&[&["data", "split", "all.jsonl"], &sides[..]].concat()).fails(1, &["t.jsonl", "already exists"]);
    project
        .run(&["data", "split", "all.jsonl", "--share", "1.5", "--train", "a", "--validation", "b"])
        .fails(2, &["above 0 and below 1"]);
    project.run(&["data", "split", "all.jsonl", "--train", "a", "--validation", "a"]).fails(2, &["the same file"]);
    let by = ["data", "split", "all.jsonl", "--by", "author", "--train", "a", "--validation", "b"];
    project.run(&by).fails(1, &["all.jsonl:1", "has no \"author\""]);
    assert!(!project.path("a").exists() && !project.path("b").exists());
}

#[test]
fn what_a_file_consists_of_is_told_and_compared() {
    let project = Project::new();
    project.write("en.jsonl", &data(&GOOD));
    project.write("de.jsonl", "{\"prompt\": \"Warum ist der Himmel blau?\", \"completion\": \"Luft streut blaues Licht stärker als rotes, deshalb ist er blau.\"}\n");
    let ran = project.run(&["data", "stats", "en.jsonl", "--against", "de.jsonl"]).expect(0);
    assert!(ran.stdout.starts_with("en.jsonl: 3 examples\n  languages    "), "{}", ran.stdout);
    assert!(ran.stdout.contains("de.jsonl: 1 example\n  languages    German 100.0 %  (divergence "), "{}", ran.stdout);
    let json: Value =
        serde_json::from_str(&project.run(&["data", "stats", "en.jsonl", "--json"]).expect(0).stdout).expect("JSON");
    assert_eq!((&json["files"][0]["examples"], &json["divergences"]), (&3.into(), &Value::Array(Vec::new())));
    project.write("none.jsonl", "{\"prompt\": \"a\", \"completion\": \"\"}\n");
    project
        .run(&["data", "stats", "none.jsonl"])
        .fails(1, &["none.jsonl", "no example that can be read", "data check"]);
}

/// Every shape that data comes in is read, and what is broken in it has its line.
#[test]
fn arrays_tables_and_broken_files_are_read_or_say_where_they_break() {
    let project = Project::new();
    let bad = |name: &str, text: &str, parts: &[&str]| {
        project.write(name, text);
        let ran = project.run(&["data", "check", name]);
        assert!(ran.code == 100 || ran.code == 1, "{name}: {}", ran.code);
        let told = format!("{}{}", ran.stdout, ran.stderr);
        parts.iter().for_each(|part| assert!(told.contains(part), "{name}: {part}\n{told}"));
    };
    project.write("d.json", &format!("[\n{}\n]\n", GOOD.join(",\n")));
    project.run(&["data", "check", "d.json"]).expect(0);
    project.write("d.csv", "prompt,completion\n\"Why, then?\",\"Because\nof it all.\"\n");
    project.run(&["data", "check", "d.csv"]).expect(0);
    bad(
        "open.json",
        &format!("[{},\n{{\"prompt\": ", GOOD[0]),
        &["open.json:2: the file ends within an element that begins here"],
    );
    bad(
        "open.csv",
        "prompt,completion\na,\"b\nc,d\n",
        &["open.csv:2: the format cannot be told: the line has a quote that never closes"],
    );
    bad("wide.csv", "prompt,completion\na,b,c\nd,e\n", &["wide.csv:2: has 3 fields, and the first row names 2"]);
    bad("empty.jsonl", "", &["empty.jsonl: is empty"]);
    bad("bomb.jsonl.gz", "\u{1f}", &["bomb.jsonl.gz"]);
    project.run(&["data", "check", "nowhere.jsonl"]).fails(1, &["nowhere.jsonl"]);
    project.run(&["data", "check", "d.json", "--data-format", "chat"]).fails(2, &["chat", "messages, sharegpt"]);
}

/// The example's own data have nothing that must not be learnt; some of its diagnostics are near each other.
#[test]
fn the_example_s_data_have_no_error() {
    let project = Project::new();
    let root = env!("CARGO_MANIFEST_DIR");
    for (file, other) in [("train", "heldout"), ("train", "validation"), ("validation", "heldout")] {
        let [file, other] = [file, other].map(|name| format!("{root}/data/{name}.jsonl"));
        let ran = project.run(&["data", "check", &file, "--against", &other, "--json"]).expect(0);
        let report: Value = serde_json::from_str(&ran.stdout).expect("JSON");
        let kinds: Vec<&str> =
            report["counts"].as_array().expect("a list").iter().filter_map(|count| count["kind"].as_str()).collect();
        assert!(kinds.iter().all(|kind| *kind == "near-duplicate"), "{file}: {kinds:?}");
    }
}

#[test]
fn no_output_takes_the_place_of_another_or_of_what_was_compared() {
    let project = Project::new();
    project.write("d.jsonl", &data(&[&GOOD[..], &BAD[..]].concat()));
    project.write("held.jsonl", &data(&GOOD[..1]));
    let same = ["data", "clean", "d.jsonl", "-o", "e.jsonl", "--ledger", "./e.jsonl"];
    project.run(&same).fails(2, &["the same file"]);
    assert!(!project.path("e.jsonl").exists());
    project.run(&["data", "check", "d.jsonl", "--against", "held.jsonl", "-o", "held.jsonl"]).fails(2, &["held.jsonl"]);
    assert_eq!(project.read("held.jsonl"), data(&GOOD[..1]));
    project.write("t.jsonl", "{\"text\": \"A text that is there, word for word.\"}\n");
    let leak = project.run(&["data", "check", "t.jsonl", "--against", "t.jsonl"]).expect(100);
    assert!(leak.stdout.contains("t.jsonl:1: its prompt is in t.jsonl:1"), "{}", leak.stdout);
}

#[test]
fn a_share_of_other_data_is_mixed_in_with_a_ledger_and_nothing_is_overwritten() {
    let project = Project::bare();
    let lines = |name: &str, n: usize| -> String {
        (0..n).map(|i| format!("{{\"prompt\": \"{name} {i}\", \"completion\": \"{i}\"}}\n")).collect()
    };
    project.write("own.jsonl", &lines("own", 80));
    project.write("general.jsonl", &lines("general", 300));
    let ran =
        project.run(&["data", "mix", "own.jsonl", "--add", "general=general.jsonl:0.2", "-o", "mixed.jsonl"]).expect(0);
    assert!(ran.stdout.contains("general            20 of 300       20.0 %  general.jsonl"), "{}", ran.stdout);
    assert_eq!(project.read("mixed.jsonl").lines().count(), 100);
    let ledger: serde_json::Value = serde_json::from_str(&project.read("mixed.jsonl.mix.json")).expect("JSON");
    assert_eq!((&ledger["seed"], &ledger["parts"][1]["taken"]), (&42.into(), &20.into()));

    let mix = |add: &[&str], output: &str| {
        let mut arguments = vec!["data", "mix", "own.jsonl", "-o", output];
        add.iter().for_each(|part| arguments.extend(["--add", part]));
        project.run(&arguments)
    };
    mix(&["g=general.jsonl:0.2"], "mixed.jsonl").fails(1, &["mixed.jsonl", "already exists"]);
    mix(&["g=general.jsonl:0.9"], "out.jsonl").fails(1, &["general.jsonl", "needs 720", "at most"]);
    mix(&["g=general.jsonl:1.2"], "out.jsonl").fails(2, &["1.2", "below 1"]);
    mix(&["general.jsonl"], "out.jsonl").fails(2, &["NAME=FILE:SHARE"]);
    mix(&["g=general.jsonl:0.1", "g=general.jsonl:0.1"], "out.jsonl").fails(2, &["name is taken"]);
    mix(&["g=own.jsonl:0.1"], "out.jsonl").fails(2, &["it is the data itself"]);
    mix(&["g=nowhere.jsonl:0.1"], "out.jsonl").fails(1, &["nowhere.jsonl"]);
    assert!(!project.path("out.jsonl").exists() && !project.path("out.jsonl.mix.json").exists());
}

#[test]
fn how_well_a_tokenizer_covers_a_file_is_told_by_script() {
    let project = Project::bare();
    project.write(
        "d.jsonl",
        "{\"text\": \"the quick brown fox jumps over the lazy dog\"}\n{\"text\": \"быстрая лиса прыгает\"}\nno json\n",
    );
    let ran = project.run(&["data", "coverage", "d.jsonl", "--model", "model"]).expect(0);
    for part in ["d.jsonl: 2 examples, 1 unreadable", "Cyrillic", "fall back to bytes: а U+0430 (3)", "d.jsonl:2: "] {
        assert!(ran.stdout.contains(part), "{part}: {}", ran.stdout);
    }
    let json = project.run(&["data", "coverage", "d.jsonl", "--model", "model", "--json"]).expect(0).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert!(json["scripts"][0]["norm"].as_f64().expect("a norm") > 0.1, "{json}");
    project.run(&["data", "coverage", "d.jsonl"]).fails(2, &["--model"]);
    project.run(&["data", "coverage", "d.jsonl", "--model", "nowhere"]).fails(1, &["nowhere"]);
    project.run(&["data", "coverage", "d.jsonl", "--model", "model/config.json"]).fails(1, &["no tokenizer.json"]);
}

#[test]
fn what_cannot_be_read_or_would_be_lost_is_said() {
    let project = Project::bare();
    project.write(
        "t.jsonl",
        "{\"prompt\": \"Why is the sky blue?\", \"completion\": \"Air scatters blue light most.\"}\n",
    );
    project.write("held.jsonl", "{\"prompt\": \"What is rain?\", \"completion\": \"Water that falls.\"}\nno json\n");
    let ran = project.run(&["data", "check", "t.jsonl", "--against", "held.jsonl"]).expect(0);
    assert!(
        ran.stdout.contains("? held.jsonl: 1 line could not be read, and nothing was compared with them"),
        "{}",
        ran.stdout
    );
    project.run(&["data", "check", "t.jsonl", "--sequence-len", "0"]).fails(2, &["0", "above 0"]);

    project.write("empty.jsonl", "{\"prompt\": \"What is it?\", \"completion\": \"TODO\"}\n");
    project
        .run(&["data", "clean", "empty.jsonl", "-o", "out.jsonl"])
        .fails(1, &["empty.jsonl", "nothing would be left", "--keep"]);
    assert!(!project.path("out.jsonl").exists() && !project.path("out.jsonl.left-out.jsonl").exists());

    for (bytes, words) in [
        (&b"PAR1abcd"[..], "Parquet"),
        (b"ARROW1\0\0", "Arrow"),
        (b"PK\x03\x04abcd", "Excel"),
        (b"\xff\xfe{\0\"\0", "iconv -f UTF-16"),
    ] {
        std::fs::write(project.path("other.jsonl"), bytes).expect("a file");
        project.run(&["data", "check", "other.jsonl"]).fails(1, &["other.jsonl", words]);
    }
    project.write("list.jsonl", "just words\n");
    project.run(&["data", "check", "list.jsonl"]).fails(1, &["list.jsonl", "the format cannot be told: "]);
}

/// A project's own model counts, where it is at hand.
#[test]
fn examples_that_are_too_long_are_counted_by_the_project_s_tokenizer() {
    let project = Project::new();
    let manifest = project.read("finetest.toml").replace("lora_r = 2", "lora_r = 2\nsequence_len = 16");
    project.write("finetest.toml", &manifest);
    let long = r#"{"prompt": "one two three", "completion": " four five six seven eight nine"}"#;
    project.append("data/train.jsonl", &format!("{long}\n"));
    let exact = project.run(&["data", "check"]).expect(0);
    assert!(exact.stdout.contains("! too-long: 1 example\n    data/train.jsonl:13: has "), "{}", exact.stdout);
    assert!(!exact.stdout.contains("about"), "{}", exact.stdout);
    let bare = Project::bare();
    bare.write("d.jsonl", &format!("{long}\n"));
    let estimated = bare.run(&["data", "check", "d.jsonl", "--sequence-len", "8"]).expect(0);
    assert!(estimated.stdout.contains("d.jsonl:1: has about 11 tokens, and 8 are learnt"), "{}", estimated.stdout);
}

#[test]
fn check_and_init_say_what_the_data_and_the_base_have() {
    let project = Project::new();
    project.append("data/train.jsonl", "{\"prompt\": \"number 1 is\", \"completion\": \" 1\"}\n");
    let found = "data/train.jsonl: duplicate 1; `finetest data check` shows them";
    let ran = project.run(&["check"]).expect(0);
    assert!(ran.stdout.contains(found), "{}", ran.stdout);
    assert!(
        ran.stdout.contains("known traps: ") && ran.stdout.contains("`finetest inspect model` says"),
        "{}",
        ran.stdout
    );
    let other = Project::bare();
    other.write("data/train.jsonl", &project.read("data/train.jsonl"));
    let ran = other.run(&["init", "--yes", "--model", "model"]).expect(0);
    assert!(
        ran.stderr.contains("data/train.jsonl: duplicate 1") && ran.stderr.contains("known traps: "),
        "{}",
        ran.stderr
    );
}

#[test]
fn examples_with_tools_are_learnt_where_the_template_writes_them() {
    let project = Project::new();
    let chat = r#"{"messages": [{"role": "user", "content": "one"}, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{\"x\": 2}"}}]}, {"role": "tool", "content": "two"}, {"role": "assistant", "content": "two"}]}"#;
    project.write("data/train.jsonl", &format!("{chat}\n").repeat(4));
    project
        .run(&["train"])
        .fails(1, &["does not write the calls of tools, such as that of message 2", "data/train.jsonl"]);
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }} {{ c.function.arguments | tojson }}{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    project.write("chat.jinja", template);
    project.write(
        "finetest.toml",
        &project.read("finetest.toml").replace("[data]", "chat_template = \"chat.jinja\"\n[data]"),
    );
    project.run(&["train", "-q"]).expect(0);
}
