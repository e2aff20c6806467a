//! Scenario files, patterns and schemas.

use crate::hostile::{Case, check_all};
use crate::support::{Project, TARGET};

/// The target scenario with another check instead of its own.
fn check(project: &Project, check: &str) {
    project.write("scenarios/says.toml", &TARGET.replace("{ max-length = 1000 }", check));
}

/// A schema whose definitions refer twice to the next one.
fn doubling() -> String {
    let one = |i: usize| {
        let next = format!("{{\"$ref\": \"#/$defs/d{}\"}}", i + 1);
        format!("\"d{i}\": {{\"anyOf\": [{next}, {next}]}}")
    };
    let all: Vec<String> = (0..30).map(one).collect();
    format!("{{\"$ref\": \"#/$defs/d0\", \"$defs\": {{{}, \"d30\": {{\"type\": \"null\"}}}}}}", all.join(", "))
}

const CASES: &[Case] = &[
    Case {
        name: "another spelling of .toml",
        prepare: |project| project.write("scenarios/more.TOML", TARGET),
        command: &["run"],
        code: 1,
        words: &[
            "scenarios/more.TOML: is not read, since a scenario's name ends with .toml in small letters; rename it",
        ],
    },
    Case {
        name: "a scenario in a directory below",
        prepare: |project| project.write("scenarios/sub/more.toml", TARGET),
        command: &["run"],
        code: 1,
        words: &["scenarios/sub: holds .toml files, and scenarios are not read from sub-directories"],
    },
    Case {
        name: "a directory with a scenario's name",
        prepare: |project| project.write("scenarios/more.toml/x.txt", ""),
        command: &["run"],
        code: 1,
        words: &["scenarios/more.toml: is a directory, expected a regular file: a scenario"],
    },
    Case {
        name: "files that are no scenarios",
        prepare: |project| {
            project.write("scenarios/README.md", "");
            project.write("scenarios/old.txt", "");
        },
        command: &["run"],
        code: 100,
        words: &["scenarios: not read, since a scenario's name ends with .toml: old.txt\n"],
    },
    Case {
        name: "a schema that doubles 30 times",
        prepare: |project| {
            project.write("scenarios/s.json", &doubling());
            check(project, "{ json-schema = \"s.json\" }");
        },
        command: &["run"],
        code: 1,
        words: &["says.toml:8: json-schema: ", "s.json", "is too large: with each $ref written out"],
    },
    Case {
        name: "a schema that refers to itself",
        prepare: |project| check(project, "{ json-schema = { \"$ref\" = \"#\" } }"),
        command: &["run"],
        code: 1,
        words: &["says.toml:8: json-schema: ", "leads back to itself"],
    },
    Case {
        name: "a keyword that is none",
        prepare: |project| check(project, "{ json-schema = { type = \"object\", requierd = [\"a\"] } }"),
        command: &["run"],
        code: 1,
        words: &["says.toml:8: ", "has the unknown keyword \"requierd\"", "did you mean \"required\"?"],
    },
    Case {
        name: "a schema that is an answer",
        prepare: |project| check(project, "{ json-schema = { answer = \"a\" } }"),
        command: &["run"],
        code: 1,
        words: &[
            "says.toml:8: ",
            "has the unknown keyword \"answer\"",
            "fields of an answer stand under \"properties\"",
        ],
    },
    Case {
        name: "a schema that nothing fails",
        prepare: |project| check(project, "{ json-schema = {} }"),
        command: &["run"],
        code: 1,
        words: &["says.toml:8: ", "no keyword of it could fail"],
    },
    Case {
        name: "a format that is not checked",
        prepare: |project| check(project, "{ json-schema = { type = \"string\", format = \"iban\" } }"),
        command: &["run"],
        code: 1,
        words: &["says.toml:8: ", "the format \"iban\", which is not known and would not be checked"],
    },
    Case {
        name: "look-ahead in a schema's pattern",
        prepare: |project| check(project, "{ json-schema = { pattern = '^(?!no)' } }"),
        command: &["run"],
        code: 1,
        words: &["says.toml:8: ", "has look-around, which is not supported"],
    },
    Case {
        name: "a pattern that is too large, and one with look-ahead",
        prepare: |project| check(project, r"{ regex = '\w{1000}{1000}' }, { regex = '(?=a)b' }"),
        command: &["run"],
        code: 1,
        words: &[
            "2 problems",
            r"says.toml:8: regex '\w{1000}{1000}' compiles to more than 10 MiB; lower its repetitions",
            "says.toml:8: regex '(?=a)b' is not a regular expression: look-around",
        ],
    },
    Case {
        name: "a prompt of 10 MB",
        prepare: |project| {
            project.write("scenarios/says.toml", &TARGET.replace("hello there", &"x".repeat(10_000_000)));
        },
        command: &["run"],
        code: 1,
        words: &["says.toml:6: case case_1 asks 10000000 bytes, expected at most 8388608"],
    },
    Case {
        name: "a prompt of 100 kB, far past the context",
        prepare: |project| project.write("scenarios/says.toml", &TARGET.replace("hello there", &"x".repeat(100_000))),
        command: &["run"],
        code: 1,
        words: &["has 100000 bytes, and the model's context of 256 tokens holds at most 65536"],
    },
    Case {
        name: "10 000 cases of one name",
        prepare: |project| {
            let case = "[[cases]]\nname = \"same\"\nprompt = \"x\"\nchecks = [\"json\"]\n";
            project.append("scenarios/says.toml", &case.repeat(10_000));
        },
        command: &["run"],
        code: 1,
        words: &["51 problems", "two cases are named \"same\"", "says.toml: has 9949 more problems"],
    },
    Case {
        name: "a type that is another",
        prepare: |project| {
            project.write("scenarios/says.toml", &TARGET.replace("max_tokens = 4", "max_tokens = \"4\""));
        },
        command: &["run"],
        code: 1,
        words: &["says.toml:4: max_tokens is the text \"4\", expected a whole number of at least 0"],
    },
    Case {
        name: "an unknown key of 1 MB",
        prepare: |project| project.append("scenarios/says.toml", &format!("{} = 1\n", "k".repeat(1_000_000))),
        command: &["run"],
        code: 1,
        words: &["says.toml:9: unknown field `kkk", "kkk…\n"],
    },
    Case {
        name: "a scenario that is no text",
        prepare: |project| std::fs::write(project.path("scenarios/says.toml"), b"role = \"\xff\"").expect("a file"),
        command: &["run"],
        code: 1,
        words: &["says.toml:1: is not UTF-8 text"],
    },
];

#[test]
fn scenarios() {
    check_all(CASES);
}

#[cfg(unix)]
#[test]
fn links_and_pipes() {
    use std::os::unix::fs::symlink;
    check_all(&[
        Case {
            name: "a link that leads nowhere",
            prepare: |project| symlink("gone.toml", project.path("scenarios/more.toml")).expect("a link"),
            command: &["run"],
            code: 1,
            words: &["scenarios/more.toml: "],
        },
        Case {
            name: "a link that leads to itself",
            prepare: |project| symlink("more.toml", project.path("scenarios/more.toml")).expect("a link"),
            command: &["run"],
            code: 1,
            words: &["scenarios/more.toml: "],
        },
        Case {
            name: "a scenario that is a pipe",
            prepare: |project| project.pipe("scenarios/more.toml"),
            command: &["run"],
            code: 1,
            words: &["scenarios/more.toml: is a named pipe, expected a regular file: a scenario"],
        },
        Case {
            name: "a snapshot that is a pipe",
            prepare: |project| {
                project.write("snapshots/prefers.snap", "---\n---\n");
                project.pipe("snapshots/says.snap");
            },
            command: &["run"],
            // An approved answer is a guess at first; `cargo test` is what asserts it.
            code: 100,
            words: &["snapshots/says.snap: is a named pipe"],
        },
    ]);
}
