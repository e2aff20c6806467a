//! Training by another program: its configuration out of the recipe, its data, its process, and what it leaves behind.
//!
//! Formats and options are those of TRL 1.16, LLaMA-Factory 0.9.5 and axolotl 0.21.

mod axolotl;
mod examples;
mod llamafactory;
mod outcome;
mod process;
mod trl;
mod yaml;

use std::path::{Path, PathBuf};

use crate::config::{Engine, Recipe, Scheduler, TargetModules};
use crate::error::{Error, Result};
use crate::files::write_atomically;

pub(crate) use examples::write as write_examples;
pub(crate) use outcome::{find, state};
pub(crate) use process::{Launched, end_all, run};
use yaml::Yaml;

/// A training that another program is to make.
pub(crate) struct Job<'a> {
    pub(crate) recipe: &'a Recipe,
    /// What the engine loads: a directory, or a name on the hub.
    pub(crate) model: String,
    /// Where all files of the training are.
    pub(crate) directory: PathBuf,
    /// Examples to learn from, and to validate with.
    pub(crate) examples: (usize, usize),
    /// The Python that it is started with; `None` where the user's command names its program.
    pub(crate) python: Option<PathBuf>,
}

impl Job<'_> {
    /// The folder of the data, and nothing else.
    fn data_folder(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// The training data.
    pub(crate) fn data(&self) -> PathBuf {
        self.data_folder().join("train.jsonl")
    }

    /// The validation data, where there is some.
    pub(crate) fn validation(&self) -> PathBuf {
        self.data_folder().join("validation.jsonl")
    }

    /// Where the engine writes the adapter.
    pub(crate) fn output(&self) -> PathBuf {
        self.directory.join("output")
    }

    fn config(&self) -> PathBuf {
        self.directory.join("config.yaml")
    }

    fn validates(&self) -> bool {
        self.examples.1 > 0
    }

    /// Optimizer steps of one pass over the data.
    fn steps_per_epoch(&self, processes: usize) -> usize {
        let batches = self.examples.0.div_ceil(self.recipe.micro_batch_size.examples() * processes);
        batches.div_ceil(self.recipe.gradient_accumulation_steps).max(1)
    }

    /// Optimizer steps of the training.
    pub(crate) fn steps(&self) -> usize {
        let all = self.recipe.num_epochs * self.steps_per_epoch(self.recipe.launch.processes);
        self.recipe.max_steps.map_or(all, |most| most.min(all))
    }

    /// Steps between two of ten.
    fn tenth(&self) -> usize {
        self.steps().div_ceil(10)
    }

    /// Text with the places that a user's configuration or command names.
    fn filled(&self, text: &str) -> String {
        let python = self.python.as_deref().unwrap_or(Path::new("python3"));
        let places = [
            ("{model}", self.model.clone()),
            ("{data}", shown(&self.data())),
            ("{validation}", shown(&self.validation())),
            ("{output}", shown(&self.output())),
            ("{directory}", shown(&self.directory)),
            ("{config}", shown(&self.config())),
            ("{python}", shown(python)),
        ];
        places.into_iter().fold(text.to_owned(), |text, (place, value)| text.replace(place, &value))
    }

    /// Writes the engine's configuration: the user's, or one out of the recipe.
    ///
    /// # Errors
    /// The user's does not say where the adapter goes; a file cannot be written.
    pub(crate) fn write_config(&self, own: Option<(&Path, &str)>) -> Result<()> {
        if let Some((path, text)) = own {
            if !text.contains("{output}") {
                let message = "does not say where the adapter goes: write {output} there; {model}, {data} and {validation} are replaced too";
                return Err(Error::input(path, None, message));
            }
            return write_atomically(&self.config(), self.filled(text).as_bytes());
        }
        let mut keys = match self.recipe.engine {
            Engine::Trl => trl::keys(self),
            Engine::Axolotl => axolotl::keys(self),
            Engine::Llamafactory => {
                llamafactory::describe(self)?;
                llamafactory::keys(self)
            }
            Engine::Command | Engine::Finetest => return Ok(()),
        };
        for (key, value) in &self.recipe.launch.keys {
            keys.retain(|(known, _)| known != key);
            keys.push((key.clone(), Yaml::Json(value.clone())));
        }
        write_atomically(&self.config(), yaml::text(&keys).as_bytes())
    }

    /// The program, its arguments, and what is added to its environment.
    pub(crate) fn launched(&self) -> Launched {
        let launch = &self.recipe.launch;
        let mut env = vec![
            ("WANDB_DISABLED", "true"),
            ("DO_NOT_TRACK", "1"),
            ("AXOLOTL_DO_NOT_TRACK", "1"),
            ("HF_HUB_DISABLE_TELEMETRY", "1"),
        ];
        if Path::new(&self.model).is_dir() {
            env.push(("HF_HUB_OFFLINE", "1"));
        }
        let n = launch.processes.to_string();
        let module = match self.recipe.engine {
            Engine::Axolotl => vec!["axolotl.cli.train", "{config}"],
            Engine::Llamafactory => vec!["llamafactory.cli", "train", "{config}"],
            _ => vec!["trl.scripts.sft", "--config", "{config}"],
        };
        let mut command = vec!["{python}", "-m"];
        if self.recipe.engine == Engine::Llamafactory && launch.processes > 1 {
            // It starts torchrun itself.
            env.extend([("FORCE_TORCHRUN", "1"), ("NPROC_PER_NODE", &n)]);
        } else if launch.processes > 1 {
            command.extend(["torch.distributed.run", "--nproc-per-node", &n, "-m"]);
        }
        command.extend(module);
        let own: Vec<&str> = launch.command.iter().map(String::as_str).collect();
        let command = if own.is_empty() { command } else { own };
        Launched {
            command: command.into_iter().map(|word| self.filled(word)).collect(),
            env: env.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            directory: self.directory.clone(),
            timeout: launch.timeout_hours.map(|hours| std::time::Duration::from_secs_f64(hours * 3600.0)),
        }
    }
}

/// Keys that all three engines name alike; what differs is theirs.
fn common(job: &Job<'_>) -> Vec<(String, Yaml)> {
    let recipe = job.recipe;
    let scheduler = match recipe.lr_scheduler {
        Scheduler::Cosine => "cosine",
        Scheduler::Linear => "linear",
        Scheduler::Constant if recipe.warmup(job.steps()) > 0 => "constant_with_warmup",
        Scheduler::Constant => "constant",
    };
    let mut keys = vec![
        ("output_dir", Yaml::text(shown(&job.output()))),
        ("learning_rate", Yaml::Number(recipe.learning_rate)),
        ("warmup_steps", Yaml::Count(recipe.warmup(job.steps()))),
        ("weight_decay", Yaml::Number(recipe.weight_decay)),
        ("adam_beta1", Yaml::Number(recipe.adam_beta1)),
        ("adam_beta2", Yaml::Number(recipe.adam_beta2)),
        ("adam_epsilon", Yaml::Number(recipe.adam_epsilon)),
        ("max_grad_norm", Yaml::Number(recipe.max_grad_norm)),
        ("gradient_accumulation_steps", Yaml::Count(recipe.gradient_accumulation_steps)),
        ("gradient_checkpointing", Yaml::Flag(recipe.gradient_checkpointing)),
        ("seed", Yaml::Count(usize::try_from(recipe.seed).unwrap_or(usize::MAX))),
        ("logging_steps", Yaml::Count(1)),
        ("save_steps", Yaml::Count(recipe.save_steps.unwrap_or_else(|| job.tenth()))),
        ("save_total_limit", Yaml::Count(recipe.save_total_limit)),
        (
            "lora_alpha",
            if recipe.lora_alpha.fract() == 0.0 {
                Yaml::Count(recipe.lora_alpha as usize)
            } else {
                Yaml::Number(recipe.lora_alpha)
            },
        ),
        ("lora_dropout", Yaml::Number(recipe.lora_dropout)),
        ("bf16", Yaml::Flag(recipe.bf16.dtype() == crate::config::Dtype::Bf16)),
    ];
    let rate = if recipe.engine == Engine::Axolotl { "lr_scheduler" } else { "lr_scheduler_type" };
    keys.push((rate, Yaml::text(scheduler)));
    if let Some(steps) = recipe.max_steps {
        keys.push(("max_steps", Yaml::Count(steps)));
    }
    if job.validates() {
        keys.push(("eval_steps", Yaml::Count(recipe.eval_steps.unwrap_or_else(|| job.tenth()))));
        if recipe.keeps_best() {
            keys.push(("load_best_model_at_end", Yaml::Flag(true)));
            keys.push(("metric_for_best_model", Yaml::text("eval_loss")));
            keys.push(("greater_is_better", Yaml::Flag(false)));
        }
    }
    keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Keys with their names.
fn named<const N: usize>(keys: [(&str, Yaml); N]) -> impl Iterator<Item = (String, Yaml)> {
    keys.into_iter().map(|(key, value)| (key.to_owned(), value))
}

/// Names of the layers, or `all` where every one is meant.
fn targets(recipe: &Recipe, all: &str) -> Yaml {
    match recipe.targets() {
        TargetModules::AllLinear => Yaml::text(all),
        TargetModules::Named(names) => Yaml::Json(names.into()),
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
