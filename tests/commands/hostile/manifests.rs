//! Manifests, arguments and paths.

use crate::hostile::{Case, check_all};
use crate::support::{MANIFEST, Project};

/// The manifest with a section behind it.
fn with(project: &Project, section: &str) {
    project.append("finetest.toml", section);
}

const CASES: &[Case] = &[
    Case {
        name: "several unknown keys",
        prepare: |project| {
            with(project, "load_in_4bits = true\nlearning_rat = 1\n[gat]\nx = 1\n[gate]\nmin_retension = 1\n");
        },
        command: &["run"],
        code: 1,
        words: &[
            "4 problems",
            "finetest.toml:17: [train] has the unknown key `load_in_4bits`",
            "finetest.toml:18: [train] has the unknown key `learning_rat`; did you mean `learning_rate`?",
            "finetest.toml:19: has the unknown section [gat]; did you mean [gate]?",
            "finetest.toml:22: [gate] has the unknown key `min_retension`; did you mean `min_retention`?",
        ],
    },
    Case {
        name: "100 000 unknown keys",
        prepare: |project| {
            let keys: String = (0..100_000).map(|i| format!("unknown_{i} = 1\n")).collect();
            with(project, &format!("[gate]\n{keys}"));
        },
        command: &["run"],
        code: 1,
        words: &[
            "21 problems",
            "finetest.toml:18: [gate] has the unknown key `unknown_0`",
            "has 99980 more unknown keys",
        ],
    },
    Case {
        name: "a number that is a text",
        prepare: |project| project.write("finetest.toml", &MANIFEST.replace("lora_r = 2", "lora_r = \"two\"")),
        command: &["run"],
        code: 1,
        words: &["finetest.toml:12: [train] lora_r is the text \"two\", expected a whole number of at least 0"],
    },
    Case {
        name: "a section that is a number",
        prepare: |project| project.write("finetest.toml", &format!("gate = 3\n{MANIFEST}")),
        command: &["run"],
        code: 1,
        words: &["finetest.toml:1: [gate] is 3, expected a table"],
    },
    Case {
        name: "a threshold that is a list",
        prepare: |project| with(project, "[gate]\nmin_retention = []\n"),
        command: &["run"],
        code: 1,
        words: &["finetest.toml:18: [gate] min_retention is a list, expected a number"],
    },
    Case {
        name: "empty paths",
        prepare: |project| {
            let manifest = MANIFEST.replace("data/train.jsonl\"", "\"\nvalidation = \"\"");
            let manifest = manifest.replace("source = \"model\"", "source = \"model\"\nchat_template = \"\"");
            project.write("finetest.toml", &manifest);
            with(
                project,
                "[adapter]\npath = \"\"\n[run]\nstore = \"\"\nsnapshots = \" \"\nscenarios = \"\"\ndrift_text = \"\"\n",
            );
        },
        command: &["run"],
        code: 1,
        words: &[
            "8 problems",
            "finetest.toml:7: [model] chat_template is empty; give a path, or leave the key out",
            "finetest.toml:10: [data] train is empty; give a path",
            "[data] validation is empty",
            "[adapter] path is empty; give a path, or leave the key out for the default (adapters/<project>)",
            "[run] store is empty",
            "[run] snapshots is empty",
            "[run] scenarios is empty",
            "[run] drift_text is empty",
        ],
    },
    Case {
        name: "an empty drift_text",
        prepare: |project| {
            project.write("drift.txt", " \n");
            with(project, "[run]\ndrift_text = \"drift.txt\"\n");
        },
        command: &["run"],
        code: 1,
        words: &["drift.txt: is empty, so there is no text to measure drift on"],
    },
    Case {
        name: "a drift_text of a terabyte",
        prepare: |project| {
            let file = std::fs::File::create(project.path("drift.txt")).expect("a file");
            file.set_len(1 << 40).expect("a sparse file");
            with(project, "[run]\ndrift_text = \"drift.txt\"\n");
        },
        command: &["run"],
        code: 1,
        words: &["drift.txt: has 1099511627776 bytes, expected at most 4194304"],
    },
    Case {
        name: "numbers of the run that are too large",
        prepare: |project| {
            project.write(
                "finetest.toml",
                &MANIFEST.replace("source = \"model\"", "source = \"model\"\ncontext = 99999999999"),
            );
            with(project, "[run]\nbatch = 99999999999\n");
        },
        command: &["run"],
        code: 1,
        words: &["[model] context is 99999999999, expected 1 to", "[run] batch is 99999999999, expected 1 to 65536"],
    },
    Case {
        name: "a context larger than the model's",
        prepare: |project| {
            project
                .write("finetest.toml", &MANIFEST.replace("source = \"model\"", "source = \"model\"\ncontext = 257"));
        },
        command: &["run"],
        code: 1,
        words: &["[model] context is 257, but the model has 256 positions"],
    },
    Case {
        name: "a manifest that is a directory",
        prepare: |_| {},
        command: &["run", "--manifest", "data"],
        code: 1,
        words: &["data: is a directory, expected a regular file"],
    },
    Case {
        name: "a manifest that is a device",
        prepare: |_| {},
        command: &["run", "--manifest", "/dev/zero"],
        code: 1,
        words: &["/dev/zero: is a device"],
    },
    Case {
        name: "a manifest that is no text",
        prepare: |project| {
            std::fs::write(project.path("finetest.toml"), b"[model]\nsource = \"\xff\"").expect("a file");
        },
        command: &["run"],
        code: 1,
        words: &["finetest.toml:2: is not UTF-8 text"],
    },
];

#[test]
fn manifests() {
    check_all(CASES);
}

#[cfg(unix)]
#[test]
fn pipes_are_not_waited_for() {
    check_all(&[
        Case {
            name: "a manifest that is a pipe",
            prepare: |project| project.pipe("pipe.toml"),
            command: &["run", "--manifest", "pipe.toml"],
            code: 1,
            words: &["pipe.toml: is a named pipe, expected a regular file"],
        },
        Case {
            name: "a drift_text that is a pipe",
            prepare: |project| {
                project.pipe("drift.txt");
                with(project, "[run]\ndrift_text = \"drift.txt\"\n");
            },
            command: &["run"],
            code: 1,
            words: &["drift.txt: is a named pipe"],
        },
    ]);
}
