//! The committed JSON Schemas and the readers agree: what one takes the other takes, and what is broken both refuse, unless it is listed
//! as a thing that a schema cannot say.

use std::path::{Path, PathBuf};

use finetest::config::Config;
use finetest::scenario::Scenario;
use jsonschema::Validator;
use serde_json::Value;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn validator(name: &str) -> Validator {
    let text = std::fs::read_to_string(root().join("schemas").join(name)).expect("a schema");
    jsonschema::validator_for(&serde_json::from_str(&text).expect("JSON")).expect("a schema")
}

/// A TOML text as JSON; nothing where it is no TOML.
fn json(text: &str) -> Option<Value> {
    let table: toml::Table = toml::from_str(text).ok()?;
    serde_json::to_value(table).ok()
}

fn files(folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(folder)).expect("a folder");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "toml"));
    files.sort();
    files
}

fn fits(validator: &Validator, path: &Path) {
    let text = std::fs::read_to_string(path).expect("a file");
    let value = json(&text).unwrap_or_else(|| panic!("{} is no TOML", path.display()));
    let problems: Vec<String> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
    assert!(problems.is_empty(), "{}: {problems:?}", path.display());
}

#[test]
fn every_manifest_and_scenario_of_the_repository_fits_its_schema() {
    let manifest = validator("manifest.schema.json");
    fits(&manifest, &root().join("finetest.toml"));
    files("recipes").iter().for_each(|path| fits(&manifest, path));
    let scenario = validator("scenario.schema.json");
    files("scenarios").iter().for_each(|path| fits(&scenario, path));
}

/// Refused by both, or by the reader alone, since the schema does not say it.
#[derive(Clone, Copy, PartialEq)]
enum By {
    Both,
    Reader,
}

#[test]
fn broken_manifests_are_refused_by_the_reader_and_by_the_schema() {
    let schema = validator("manifest.schema.json");
    let model = "[model]\nsource = \"m\"\n";
    let train = "[data]\ntrain = \"t\"\n[train]\n";
    for (text, by) in [
        ("[modell]\nsource = \"m\"\n", By::Both),
        ("[model]\nsource = 3\n", By::Both),
        ("[model]\nsource = \"m\"\nsha = \"x\"\n", By::Both),
        ("[model]\nsource = \"m\"\ncontext = \"long\"\n", By::Both),
        ("[model]\nsource = \"m\"\ndtype = \"int8\"\n", By::Both),
        ("[model]\nsource = \"m\"\nsha256 = \"x\"\n", By::Reader),
        ("model = \"m\"\n", By::Both),
        ("extends = 3\n", By::Both),
        ("", By::Reader),
        (&format!("{model}[project]\nname = 3\n"), By::Both),
        (&format!("{model}[project]\nname = \"a/b\"\n"), By::Reader),
        (&format!("{model}[adapter]\npath = []\n"), By::Both),
        (&format!("{model}[adapter]\nscale = \"x\"\n"), By::Both),
        (&format!("{model}[adapter]\npath = \"a\"\nscale = 0\n"), By::Reader),
        (&format!("{model}[adapter]\npath = \"a\"\n[arms.x]\nscal = 1\n"), By::Both),
        (&format!("{model}[adapter]\npath = \"a\"\n[arms.base]\nscale = 2\n"), By::Reader),
        (&format!("{model}[data]\ntrain = \"t\"\nformat = \"xml\"\n"), By::Both),
        (&format!("{model}[data]\ntrain = \"t\"\non_error = \"ignore\"\n"), By::Both),
        (&format!("{model}[train]\nlora_r = 8\n"), By::Reader),
        (&format!("{model}{train}lora_r = -1\n"), By::Both),
        (&format!("{model}{train}lora_r = 0\n"), By::Reader),
        (&format!("{model}{train}lora_rank = \"x\"\n"), By::Both),
        (&format!("{model}{train}lr_scheduler = \"step\"\n"), By::Both),
        (&format!("{model}{train}bf16 = \"yes\"\n"), By::Both),
        (&format!("{model}{train}adapter = \"dora\"\n"), By::Both),
        (&format!("{model}{train}learning_rat = 1\n"), By::Both),
        (&format!("{model}{train}sample_packing = 1\n"), By::Both),
        (&format!("{model}[run]\nbatch = 1.5\n"), By::Both),
        (&format!("{model}[run]\nbatch = 0\n"), By::Reader),
        (&format!("{model}[run]\nsnapshot_arms = \"base\"\n"), By::Both),
        (&format!("{model}[gate]\nmin_retention = \"0.9\"\n"), By::Both),
        (&format!("{model}[gate]\nmin_retention = 1.5\n"), By::Reader),
        (&format!("{model}[gate]\nmax_broken = 1\n"), By::Both),
        (&format!("{model}[gate]\nmax_broken_controls = -1\n"), By::Both),
        (&format!("{model}[backend]\nname = 1\n"), By::Both),
        (&format!("{model}[backend]\nname = \"vllm\"\n"), By::Reader),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("finetest.toml");
        std::fs::write(&path, text).expect("a file");
        assert!(Config::load(&path).is_err(), "the reader takes {text}");
        assert_eq!(!schema.is_valid(&json(text).expect("TOML")), by == By::Both, "the schema on {text}");
    }
}

#[test]
fn broken_scenarios_are_refused_by_the_reader_and_by_the_schema() {
    let schema = validator("scenario.schema.json");
    let head = "role = \"control\"\ndescription = \"d\"\n";
    let case = |checks: &str| format!("{head}[[cases]]\nprompt = \"x\"\nchecks = [{checks}]\n");
    for (text, by) in [
        ("description = \"d\"\n[[cases]]\nprompt = \"x\"\nchecks = [\"json\"]\n".to_owned(), By::Both),
        ("role = \"both\"\ndescription = \"d\"\n[[cases]]\nprompt = \"x\"\nchecks = [\"json\"]\n".to_owned(), By::Both),
        (format!("{head}[[case]]\nprompt = \"x\"\n"), By::Both),
        (head.to_owned(), By::Reader),
        (format!("{head}temperature = \"hot\"\n{}", "[[cases]]\nprompt = \"x\"\nchecks = [\"json\"]\n"), By::Both),
        (format!("{head}temperature = -1\n{}", "[[cases]]\nprompt = \"x\"\nchecks = [\"json\"]\n"), By::Reader),
        (format!("{head}repeat = 3\n{}", "[[cases]]\nprompt = \"x\"\nchecks = [\"json\"]\n"), By::Reader),
        (format!("{head}tags = \"one\"\n{}", "[[cases]]\nprompt = \"x\"\nchecks = [\"json\"]\n"), By::Both),
        (case(""), By::Reader),
        (case("\"jsonn\""), By::Both),
        (case("{ contain = \"x\" }"), By::Both),
        (case("{ contains = 3 }"), By::Both),
        (case("{ contains = \"\" }"), By::Reader),
        (case("{ max-words = -1 }"), By::Both),
        (case("{ max-words = 0 }"), By::Reader),
        (case("{ regex = '(' }"), By::Reader),
        (case("{ choice = { answer = \"a\" } }"), By::Both),
        (case("{ choice = { answer = \"a\", others = [\"b\"], normalise = \"bytes\" } }"), By::Both),
        (case("{ json-null = \"code\" }"), By::Both),
        (format!("{head}[[cases]]\nprompt = \"x\"\ntext = \"y\"\nchecks = [\"json\"]\n"), By::Reader),
        (format!("{head}[[cases]]\nmessages = [{{ role = \"user\" }}]\nchecks = [\"json\"]\n"), By::Both),
        (format!("{head}[[cases]]\nprompt = \"x\"\nchecks = [\"json\"]\nthen = [{{ promt = \"y\" }}]\n"), By::Both),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.toml");
        std::fs::write(&path, &text).expect("a file");
        assert!(Scenario::load(&path, folder.path()).is_err(), "the reader takes {text}");
        assert_eq!(!schema.is_valid(&json(&text).expect("TOML")), by == By::Both, "the schema on {text}");
    }
}
