//! Training data, recipes and their numbers.

use crate::hostile::{Case, check_all};
use crate::support::{MANIFEST, Project};

/// The manifest with other keys in `[train]`, instead of what it says of its length.
fn recipe(project: &Project, keys: &str) {
    project.write("finetest.toml", &MANIFEST.replace("lora_r = 2\n", "").replace("max_steps = 4\n", keys));
}

/// The manifest with more keys in `[data]`.
fn data(project: &Project, keys: &str) {
    let own = "train = \"data/train.jsonl\"\n";
    project.write("finetest.toml", &MANIFEST.replace(own, &format!("{own}{keys}\n")));
}

fn add_line(project: &Project, text: &str) {
    project.append(
        "data/train.jsonl",
        &format!("{{\"text\": \"{text}\", \"prompt\": \"a\", \"completion\": \"{text}\"}}\n"),
    );
}

const CASES: &[Case] = &[
    Case {
        name: "an example longer than the model's context",
        prepare: |project| add_line(project, &"x1".repeat(200)),
        command: &["train"],
        code: 1,
        words: &["data/train.jsonl:13: has ", " tokens, and the model's context is 256; shorten it or leave it out"],
    },
    Case {
        name: "such an example, packed",
        prepare: |project| {
            recipe(project, "max_steps = 4\nsample_packing = true\n");
            add_line(project, &"x1".repeat(200));
        },
        command: &["train"],
        code: 1,
        words: &["data/train.jsonl:13: has ", "the model's context is 256"],
    },
    Case {
        name: "such an example, skipped",
        prepare: |project| {
            data(project, "on_error = \"skip\"");
            add_line(project, &"x1".repeat(200));
        },
        command: &["train"],
        code: 0,
        words: &[
            "sequence_len is 512, and the model's context is 256 tokens",
            "1 line is skipped; the first: data/train.jsonl:13: has ",
        ],
    },
    Case {
        name: "an example longer than a short sequence_len",
        prepare: |project| {
            recipe(project, "max_steps = 4\nsequence_len = 100\n");
            add_line(project, &"x1".repeat(100));
        },
        command: &["train"],
        code: 1,
        words: &["data/train.jsonl:13: has ", "sequence_len is 100; shorten it or raise sequence_len"],
    },
    Case {
        name: "no line is left",
        prepare: |project| {
            data(project, "on_error = \"skip\"");
            project.write("data/train.jsonl", "");
            add_line(project, &"x1".repeat(200));
            add_line(project, &"x2".repeat(200));
        },
        command: &["train"],
        code: 1,
        words: &["data/train.jsonl: has no line left to train on"],
    },
    Case {
        name: "a line of 100 kB, which no tokenizer needs to see",
        prepare: |project| add_line(project, &"x".repeat(100_000)),
        command: &["train"],
        code: 1,
        words: &["data/train.jsonl:13: has 100001 bytes, and an example may have at most 65536"],
    },
    Case {
        name: "a line of 20 MB",
        prepare: |project| project.append("data/train.jsonl", &"x".repeat(20_000_000)),
        command: &["train"],
        code: 1,
        words: &["data/train.jsonl:13: has 20000000 bytes, and an example may have at most 16777216"],
    },
    Case {
        name: "data that is a device",
        prepare: |project| project.write("finetest.toml", &MANIFEST.replace("data/train.jsonl", "/dev/zero")),
        command: &["train"],
        code: 1,
        words: &["/dev/zero: is a device, expected a regular file"],
    },
    Case {
        name: "data that is a directory",
        prepare: |project| project.write("finetest.toml", &MANIFEST.replace("data/train.jsonl", "data")),
        command: &["train"],
        code: 1,
        words: &["data: is a directory, expected a regular file"],
    },
    Case {
        name: "a role of 1 MB",
        prepare: |project| {
            let role = "r".repeat(1_000_000);
            project.write(
                "data/train.jsonl",
                &format!("{{\"messages\": [{{\"role\": \"{role}\", \"content\": \"x\"}}]}}\n"),
            );
        },
        command: &["train"],
        code: 1,
        words: &["messages[0] has the role \"rrr", "rrr\", expected system, user, assistant or tool"],
    },
    Case {
        name: "a rank that overflows",
        prepare: |project| recipe(project, "lora_r = 2305843009213693952\n"),
        command: &["train"],
        code: 1,
        words: &["finetest.toml:", "[train] lora_r is 2305843009213693952, expected 1 to 65536"],
    },
    Case {
        name: "a rank that needs more memory than there is",
        prepare: |project| recipe(project, "lora_r = 65536\n"),
        command: &["train"],
        code: 1,
        words: &[
            "[train] lora_r is 65536: adapter, gradients and AdamW's moments need ",
            "this process may use 4.1 GB",
        ],
    },
    Case {
        name: "all other numbers, each too large",
        prepare: |project| {
            let most = i64::MAX;
            let keys = ["micro_batch_size", "gradient_accumulation_steps", "num_epochs", "max_steps", "sequence_len"];
            let more = ["eval_steps", "save_steps", "save_total_limit", "warmup_steps"];
            let keys: String = keys.iter().chain(&more).map(|key| format!("{key} = {most}\n")).collect();
            let keys = format!("{keys}lora_alpha = 1e300\n");
            project.write("finetest.toml", &MANIFEST.replace("micro_batch_size = 2\nmax_steps = 4\n", &keys));
        },
        command: &["train"],
        code: 1,
        words: &[
            "10 problems",
            "micro_batch_size is 9223372036854775807, expected 1 to 1048576",
            "gradient_accumulation_steps is",
            "num_epochs is",
            "max_steps is 9223372036854775807, expected 1 to 10000000",
            "sequence_len is",
            "eval_steps is",
            "save_steps is",
            "save_total_limit is",
            "warmup_steps is",
            "lora_alpha is 1",
        ],
    },
    Case {
        name: "ten million epochs that max_steps ends",
        prepare: |project| recipe(project, "lora_r = 2\nnum_epochs = 10000000\nmax_steps = 4\n"),
        command: &["train"],
        code: 0,
        words: &["num_epochs is 10000000"],
    },
    Case {
        name: "a billion epochs that nothing ends",
        prepare: |project| recipe(project, "lora_r = 2\nnum_epochs = 1000000000\n"),
        command: &["train"],
        code: 1,
        words: &["[train] num_epochs is 1000000000, which is more than 10000000 steps; lower it, or give max_steps"],
    },
];

#[test]
fn data_and_recipes() {
    check_all(CASES);
}

#[cfg(unix)]
#[test]
fn a_pipe_is_not_waited_for() {
    check_all(&[Case {
        name: "data that is a pipe",
        prepare: |project| {
            project.pipe("data/pipe.jsonl");
            project.write("finetest.toml", &MANIFEST.replace("data/train.jsonl", "data/pipe.jsonl"));
        },
        command: &["train"],
        code: 1,
        words: &["data/pipe.jsonl: is a named pipe, expected a regular file"],
    }]);
}
