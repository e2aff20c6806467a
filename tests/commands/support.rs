//! A small project in a temporary folder: the tiny model of the fixtures, data, scenarios and a manifest.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// The manifest that most tests start from; `[gate]` and more can be put behind it.
pub(crate) const MANIFEST: &str = r#"
[project]
name = "tiny"

[model]
source = "model"

[data]
train = "data/train.jsonl"

[train]
lora_r = 2
micro_batch_size = 2
max_steps = 4
val_set_size = 0.25
learning_rate = 1e-2
"#;

/// A scenario of each role that the tiny model, which answers rubbish, can be asked.
pub(crate) const TARGET: &str = r#"
role = "target"
description = "says anything"
max_tokens = 4

[[cases]]
prompt = "hello there"
checks = [{ max-length = 1000 }]
"#;

pub(crate) const CONTROL: &str = r#"
role = "control"
description = "prefers one of two"
max_tokens = 4

[[cases]]
name = "any"
prompt = "good day"
checks = [{ max-length = 1000 }]

[[cases]]
name = "never"
prompt = "good night"
checks = [{ contains = "an answer that a random model does not give" }]
"#;

pub(crate) struct Project {
    directory: TempDir,
}

pub(crate) fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

/// The tiny llama with its tokenizer, as one Hugging Face directory.
pub(crate) fn copy_model(to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for file in
        ["llama/config.json", "llama/model.safetensors", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"]
    {
        let from = fixture(file);
        std::fs::copy(&from, to.join(from.file_name().expect("a name"))).expect("a copy");
    }
}

impl Project {
    /// A folder with the tiny model in `model/`, and nothing else.
    pub(crate) fn bare() -> Self {
        let project = Self { directory: tempfile::tempdir().expect("a temporary directory") };
        copy_model(&project.path("model"));
        project
    }

    pub(crate) fn new() -> Self {
        let project = Self::bare();
        project.write("finetest.toml", MANIFEST);
        project.write("scenarios/says.toml", TARGET);
        project.write("scenarios/prefers.toml", CONTROL);
        let line = |i: usize| format!("{{\"prompt\": \"number {i} is\", \"completion\": \" {}\"}}\n", i * i);
        project.write("data/train.jsonl", &(0..12).map(line).collect::<String>());
        project
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(path, text).expect("a file");
    }

    /// A named pipe that nobody writes to.
    pub(crate) fn pipe(&self, path: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo").success());
    }

    pub(crate) fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(path)).expect("a readable file")
    }

    pub(crate) fn append(&self, path: &str, text: &str) {
        let all = self.read(path) + text;
        self.write(path, &all);
    }

    /// The built binary in this project, away from the machine's own settings.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_finetest"));
        command.args(arguments).current_dir(self.directory.path());
        for name in [
            "CI",
            "GITHUB_ACTIONS",
            "GITHUB_STEP_SUMMARY",
            "FINETEST_TRAIN",
            "CLICOLOR_FORCE",
            "INSTA_UPDATE",
            "INSTA_PENDING_DIR",
            "INSTA_WORKSPACE_ROOT",
        ] {
            command.env_remove(name);
        }
        command.env("FINETEST_CACHE", self.path("cache"));
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments).output().expect("the binary runs"))
    }
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        Self { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// It ended with `code` and told all of `words` on stderr.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, words: &[&str]) -> Self {
        let ran = self.expect(code);
        for word in words {
            assert!(ran.stderr.contains(word), "{word:?} is not in:\n{}", ran.stderr);
        }
        ran
    }
}

/// finetest as llama.cpp's worker: a line of JSON for each job in, lines out.
pub(crate) fn worker(jobs: &[serde_json::Value]) -> Vec<serde_json::Value> {
    use std::io::{BufRead, BufReader, Write};
    use std::process::Stdio;
    let mut command = Command::new(env!("CARGO_BIN_EXE_finetest"));
    command.env("FINETEST_WORKER", "llama-cpp").env("GGML_NO_BACKTRACE", "1");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut input = child.stdin.take().expect("a pipe");
    jobs.iter().for_each(|job| writeln!(input, "{job}").expect("a listener"));
    drop(input);
    let output = BufReader::new(child.stdout.take().expect("a pipe"));
    let replies = output.lines().map(|line| serde_json::from_str(&line.expect("a line")).expect("JSON")).collect();
    let ended = child.wait_with_output().expect("it ends");
    let stderr = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.success() && stderr.is_empty(), "{}: {stderr}", ended.status);
    replies
}
