//! README.md and the book are true: what they show loads, is parsed and runs, and their links lead somewhere.

use std::path::Path;

use finetest::Scenario;
use finetest::config::Config;

use crate::pages::{Block, Page, root};

/// A manifest that those with `extends` are put beside.
const EXTENDED: &str = "[model]\nsource = \"model\"\n[data]\ntrain = \"data/train.jsonl\"\n[train]\n";

/// Rows that a scenario with `cases = "tickets.jsonl"` is put beside.
const ROWS: &str = "{\"ticket\": \"You took 20 dollars too much.\", \"queue\": \"billing\"}\n";

/// Blocks that say `toml,ignore`, which no test reads: one names a backend that not every build has.
const IGNORED: usize = 1;

/// Loads a block as the file that its first line names, and says whether it named one.
fn load(page: &Page, block: &Block) -> bool {
    let place = format!("{}:{}", page.name, block.line);
    let table: toml::Table = toml::from_str(&block.body).unwrap_or_else(|error| panic!("{place}: {error}"));
    let Some(file) = block.file() else {
        return false;
    };
    assert!(!table.is_empty(), "{place}: nothing is in it");
    if file == "Cargo.toml" {
        return true;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join(file);
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
    std::fs::write(directory.path().join("finetest.toml"), EXTENDED).expect("a manifest");
    std::fs::write(path.with_file_name("tickets.jsonl"), ROWS).expect("rows");
    std::fs::write(&path, &block.body).expect("a file");
    let loaded = if file.starts_with("scenarios/") {
        Scenario::load(&path, directory.path()).map(drop)
    } else {
        Config::load(&path).map(drop)
    };
    loaded.unwrap_or_else(|error| panic!("{place}: {error}"));
    true
}

#[test]
fn every_manifest_and_scenario_that_is_shown_loads() {
    let (mut loaded, mut ignored) = (0, Vec::new());
    for page in Page::all() {
        for block in page.blocks() {
            let mut words = block.language.split(',');
            match (words.next(), words.next()) {
                (Some("toml"), None) => loaded += usize::from(load(&page, &block)),
                (Some("toml"), Some(_)) => ignored.push(format!("{}:{}", page.name, block.line)),
                _ => {}
            }
        }
    }
    assert!(loaded > 30, "only {loaded} blocks name a file; is the form of the pages another?");
    assert_eq!(ignored.len(), IGNORED, "{ignored:?}");
}

#[test]
fn every_link_leads_to_a_page_and_a_heading() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for page in Page::all() {
        for (line, link) in page.links() {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            count += 1;
            let (path, anchor) = link.split_once('#').map_or((link.as_str(), None), |(path, id)| (path, Some(id)));
            let target = if path.is_empty() { Some(Path::new(&page.name).to_owned()) } else { page.beside(path) };
            let Some(target) = target.filter(|target| root().join(target).exists()) else {
                wrong.push(format!("{}:{line}: there is no {path}", page.name));
                continue;
            };
            // mdBook copies what lies in docs/, and nothing else.
            if page.name.starts_with("docs/") && !target.starts_with("docs") {
                wrong.push(format!("{}:{line}: {path} is no page of the book", page.name));
            }
            if let Some(anchor) = anchor
                && !Page::read(&target.to_string_lossy()).anchors().iter().any(|known| known == anchor)
            {
                wrong.push(format!("{}:{line}: {} has no heading #{anchor}", page.name, target.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 100, "only {count} links were found");
}

#[test]
fn every_page_is_in_the_summary_once() {
    let summary = Page::read("docs/SUMMARY.md");
    let mut listed: Vec<String> = summary
        .links()
        .into_iter()
        .map(|(_, link)| summary.beside(&link).expect("below docs/").to_string_lossy().replace('\\', "/"))
        .collect();
    listed.sort();
    let pages: Vec<String> = Page::book().into_iter().filter(|name| *name != summary.name).collect();
    assert_eq!(listed, pages);
}

#[test]
fn the_readme_is_short() {
    assert!(Page::read("README.md").text.lines().count() <= 200, "what is longer belongs into docs/");
}

#[cfg(feature = "candle")]
mod runs {
    use std::path::Path;
    use std::process::Command;

    use serde_json::Value;

    use crate::pages::Page;
    use crate::support::{Project, Ran, fixture};

    /// The arguments of a shell's line, up to a comment, a pipe or another command.
    fn arguments(line: &str) -> Vec<String> {
        let (mut found, mut word, mut quote) = (Vec::new(), None::<String>, None);
        for c in line.chars() {
            match (quote, c) {
                (Some(open), _) if c == open => quote = None,
                (None, '"' | '\'') => {
                    quote = Some(c);
                    word.get_or_insert_default();
                }
                (None, '#' | '|' | '<' | '>' | '&' | ';') if word.is_none() => break,
                (None, ' ') => found.extend(word.take()),
                _ => word.get_or_insert_default().push(c),
            }
        }
        found.extend(word);
        found
    }

    #[test]
    fn a_line_of_a_shell_is_cut_as_a_shell_does() {
        let cut = |line: &str| arguments(line).join("|");
        assert_eq!(cut("finetest run -E 'tag(a) & b' # all"), "finetest|run|-E|tag(a) & b");
        assert_eq!(cut("finetest ask \"It's #1?\" -o '' > out"), "finetest|ask|It's #1?|-o|");
        assert_eq!(cut("finetest report && finetest gate"), "finetest|report");
    }

    /// `--help` behind a command's own arguments: what comes before it is parsed, and an unknown option is an error still.
    #[test]
    fn every_command_that_is_shown_is_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let run = |words: &[String]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_finetest"));
            Ran::of(command.args(words).current_dir(directory.path()).output().expect("the binary runs"))
        };
        let mut wrong = Vec::new();
        let mut count = 0;
        for page in Page::all() {
            for block in page.blocks().into_iter().filter(|block| block.language == "console") {
                for line in block.body.lines() {
                    let mut words = line.strip_prefix("$ ").map(arguments).unwrap_or_default();
                    if words.first().is_none_or(|program| program != "finetest") {
                        continue;
                    }
                    count += 1;
                    words.remove(0);
                    words.push("--help".to_owned());
                    let ran = run(&words);
                    // `--backend llama-cpp` is known in every build, and a value in those that have it.
                    let other_build = !cfg!(feature = "llama-cpp") && ran.stderr.contains("built without");
                    if ran.code != 0 && !other_build {
                        wrong.push(format!("{}: {line}\n{}", page.name, ran.stderr));
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(count > 50, "only {count} commands were found");
        assert_eq!(
            std::fs::read_dir(directory.path()).expect("a directory").count(),
            0,
            "asking for help writes nothing"
        );
    }

    /// A page's project: every file that its blocks show, as it is written there. One line is replaced, `source`, by the tiny model of
    /// the fixtures, since a test downloads nothing. An adapter `out` is one of the fixtures too.
    fn project(page: &Page) -> Project {
        let project = Project::new();
        std::fs::remove_dir_all(project.path("scenarios")).expect("the scenarios of other tests go");
        std::fs::remove_dir_all(project.path("data")).expect("and their data");
        for block in page.blocks() {
            match block.file() {
                Some("finetest.toml") => project.write("finetest.toml", &of_the_tiny_model(&block.body)),
                Some(file) => project.write(file, &block.body),
                None => {}
            }
        }
        copy(&fixture("llama/adapter"), &project.path("out"));
        project
    }

    fn of_the_tiny_model(manifest: &str) -> String {
        let source = manifest.lines().find(|line| line.starts_with("source = ")).expect("a source");
        manifest.replace(source, "source = \"model\"")
    }

    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).expect("a directory");
        for name in ["adapter_config.json", "adapter_model.safetensors"] {
            std::fs::copy(from.join(name), to.join(name)).expect("a copy");
        }
    }

    /// Runs a project, and returns its record. Each of these rules has cases to judge: one without them could never pass.
    #[track_caller]
    fn judged(project: &Project, rules: &[&str]) -> Value {
        project.run(&["check"]).expect(0);
        let ran = project.run(&["--json"]);
        // A random model need not pass.
        assert!([0, 100].contains(&ran.code), "stdout:\n{}\nstderr:\n{}", ran.stdout, ran.stderr);
        let all: Value = serde_json::from_str(&ran.stdout).expect("JSON");
        let found = all["decision"]["rules"].as_array().expect("rules");
        let names: Vec<&str> = found.iter().filter_map(|rule| rule["name"].as_str()).collect();
        assert_eq!(names, rules);
        for rule in found {
            assert!(["passed", "failed"].contains(&rule["verdict"].as_str().expect("a verdict")), "{rule}");
            assert!(rule["n"].as_u64().expect("a count") > 0, "{rule}");
        }
        let report = project.run(&["report"]).expect(0);
        assert!(report.stdout.contains("min_retention"), "{}", report.stdout);
        all["run"].clone()
    }

    /// Tests of a run are called as the page says.
    #[track_caller]
    fn names_tests_of(page: &Page, project: &Project, names: &[&str]) {
        let listed = project.run(&["list"]).expect(0).stdout;
        for name in names {
            assert!(page.text.contains(name), "{} does not say {name}", page.name);
            // The tests of snapshots and of rules are those of `cargo test` alone.
            let is_case = name.starts_with("target::") || name.starts_with("control::");
            assert!(!is_case || listed.contains(name), "{name} is not in:\n{listed}");
        }
    }

    #[test]
    fn the_readme_s_quick_start_runs() {
        let readme = Page::read("README.md");
        let project = project(&readme);
        let run = judged(&project, &["min_target_gain", "min_retention"]);
        assert_eq!(run["arms"][1]["adapter"], "out");
        names_tests_of(&readme, &project, &["target::tickets::refund", "snapshot::tickets", "gate::min_retention"]);
    }

    #[test]
    fn the_readme_s_project_trains_when_data_and_a_recipe_replace_its_adapter() {
        let (readme, tutorial) = (Page::read("README.md"), Page::read("docs/tutorials/train-and-test.md"));
        let project = project(&readme);
        let mut recipe = String::new();
        for (section, key) in [("[data]", "train = \"data/train.jsonl\""), ("[train]", "learning_rate = 2e-4")] {
            let prose = readme.text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(prose.contains(&format!("`{key}` under `{section}`")), "{key}");
            recipe += &format!("{section}\n{key}\n\n");
        }
        let manifest = readme.block_of("finetest.toml").body;
        let adapter = manifest.split_inclusive("\n\n").find(|section| section.starts_with("[adapter]"));
        let manifest = manifest.replace(adapter.expect("a section"), &recipe);
        project.write("finetest.toml", &of_the_tiny_model(&manifest));
        project.write("data/train.jsonl", &tutorial.block_with("json", &["{\"messages\": "]).body);
        std::fs::remove_dir_all(project.path("out")).expect("no adapter is given");
        judged(&project, &["min_target_gain", "min_retention"]);
        assert!(project.path("adapters").is_dir(), "its recipe trains");
    }

    #[test]
    fn the_tutorials_projects_run() {
        let adapter = Page::read("docs/tutorials/test-an-adapter.md");
        judged(&project(&adapter), &["min_target_gain", "min_retention"]);

        let training = Page::read("docs/tutorials/train-and-test.md");
        let project = project(&training);
        project.write("data/train.jsonl", &training.block_with("json", &["{\"messages\": "]).body);
        judged(&project, &["min_target_gain", "min_retention"]);
        names_tests_of(&training, &project, &["target::queues::refund", "snapshot::queues", "gate::min_retention"]);
    }
}
