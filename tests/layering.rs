//! Which room may use which: the table of the README's tree, read against every `use crate::` and `crate::` path.

use std::path::{Path, PathBuf};

/// From the bottom up: a row may use only rows below it, and itself where rooms of a row may know each other.
const ROWS: [(&[&str], bool); 9] = [
    (&["error", "record", "files"], true),
    (&["model"], true),
    (&["config", "adapter", "data"], true),
    (&["scenario", "engine", "train"], false),
    (&["export", "llama_cpp"], false),
    (&["compare", "backend"], true),
    (&["run", "snapshot", "gate", "report"], false),
    (&["project"], true),
    (&["cli", "harness", "bench"], true),
];

/// What a room uses although its row says otherwise, and why.
const EXCEPTIONS: [(&str, &str, &str); 2] = [
    ("model", "config", "a model is opened as `[model]` says; config itself uses no model"),
    ("report", "gate", "its tests gate their example; no `use` line names it"),
];

/// Rooms that a person may read without knowing what a tensor is.
const PURE: [&str; 6] = ["compare", "gate", "report", "snapshot", "record", "scenario"];

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Modules that are compiled for tests alone may hold a room against any other.
fn is_test(path: &Path) -> bool {
    path.file_name().is_some_and(|name| ["parity.rs", "tests.rs", "fixture.rs"].iter().any(|test| name == *test))
}

/// The room a file belongs to: the first part of its path below `src`.
fn room(path: &Path) -> String {
    let relative = path.strip_prefix(src()).expect("below src");
    let first = relative.components().next().expect("a part").as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

fn row(room: &str) -> Option<usize> {
    ROWS.iter().position(|(rooms, _)| rooms.contains(&room))
}

/// Rooms named by `crate::room` outside comments.
fn used(text: &str) -> Vec<String> {
    let code = text.lines().filter(|l| !l.trim_start().starts_with("//"));
    let mut rooms = Vec::new();
    for line in code {
        for part in line.split("crate::").skip(1) {
            let name: String = part.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            if !name.is_empty() && !line.contains(&format!("$crate::{name}")) {
                rooms.push(name);
            }
        }
    }
    rooms
}

#[test]
fn every_room_uses_only_rooms_below_it() {
    let mut wrong = Vec::new();
    for path in sources(&src()).into_iter().filter(|p| !is_test(p)) {
        let from = room(&path);
        let Some(from_row) = row(&from) else {
            assert!(["lib", "main", "bin"].contains(&from.as_str()), "{from} is in no row of the table");
            continue;
        };
        let text = std::fs::read_to_string(&path).expect("a readable file");
        for to in used(&text) {
            let Some(to_row) = row(&to) else { continue };
            let excepted = EXCEPTIONS.iter().any(|(a, b, _)| *a == from && *b == to);
            let together = to_row == from_row && (from == to || ROWS[from_row].1);
            if !excepted && (to_row > from_row || (to_row == from_row && !together)) {
                wrong.push(format!("{} uses {to}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pure_rooms_know_no_tensors() {
    for path in sources(&src()) {
        if PURE.contains(&room(&path).as_str()) {
            let text = std::fs::read_to_string(&path).expect("a readable file");
            assert!(!text.contains("candle_core"), "{}", path.display());
        }
    }
}

#[test]
fn the_engine_knows_nothing_of_scenarios() {
    for path in sources(&src()) {
        if ["engine", "llama_cpp", "model", "train"].contains(&room(&path).as_str()) {
            let text = std::fs::read_to_string(&path).expect("a readable file");
            assert!(!used(&text).contains(&"scenario".to_owned()), "{}", path.display());
        }
    }
}

#[test]
fn only_insta_s_room_uses_insta() {
    for path in sources(&src()) {
        let text = std::fs::read_to_string(&path).expect("a readable file");
        let uses = text.contains("insta::") && !text.contains("//! finetest");
        assert!(!uses || room(&path) == "snapshot" || room(&path) == "lib", "{}", path.display());
    }
}

/// Is there unsafe code, or what may be called by unsafe code alone, outside comments?
fn has_unsafe(text: &str) -> bool {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let forms = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe trait", "unsafe("];
    code.into_iter().any(|line| forms.iter().any(|form| line.contains(form)))
}

#[test]
fn every_form_of_unsafe_is_found() {
    for code in
        ["unsafe { f() }", "pub(super) unsafe fn f()", "unsafe impl Send for X {}", "unsafe extern \"C\" fn f()"]
    {
        assert!(has_unsafe(code), "{code}");
    }
    assert!(!has_unsafe("// SAFETY: an unsafe fn\n#![deny(unsafe_code)]"));
}

#[test]
fn unsafe_is_where_it_is_known_to_be() {
    let mut found: Vec<String> = sources(&src())
        .into_iter()
        .filter(|p| has_unsafe(&std::fs::read_to_string(p).expect("a readable file")))
        .map(|p| p.strip_prefix(src()).expect("below src").to_string_lossy().into_owned())
        .collect();
    found.sort();
    assert_eq!(
        found,
        [
            "backend/llama_cpp/worker/raw/hook.rs",
            "backend/llama_cpp/worker/raw/mod.rs",
            "backend/llama_cpp/worker/raw/tensor.rs",
            "model/formats/mapped.rs",
            "model/ops/bf16/units.rs",
            "model/ops/gemm.rs",
            "model/ops/matrix/vectors.rs"
        ]
    );
}
