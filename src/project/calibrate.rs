//! `finetest calibrate`: which controls a base can do, how much it jitters, and thresholds that follow from both.
//!
//! Nothing here knows a fine-tune: what is chosen is chosen on the base alone. Jitter is measured in two ways: by paraphrases, which the base
//! answers itself, and by null adapters, random ones of a size that is known to be harmless or that of a given adapter.

mod nulls;
mod write;

use serde::Serialize;

use super::Events;
use super::asked::{Checked, check_prompts, open_tokenizer};
use super::prepared::Prepared;
use crate::compare::{Controls, Question};
use crate::config::{BackendName, Config};
use crate::error::{Error, Result};
use crate::record::{BASE, RunRecord, Verdict};
use crate::run::RunEvent;
use crate::scenario::Scenario;
use crate::scenario::packs::{PACKS, Pack};

pub use write::Written;

/// Null adapters below which no rank says anything at 5 %.
pub const LEAST_NULLS: usize = 19;

/// What is calibrated.
#[derive(Clone, Debug)]
pub struct CalibrateOptions {
    /// Names of packs; empty: all that the base can be asked.
    pub packs: Vec<String>,
    /// Null adapters, at least 19.
    pub nulls: usize,
    /// Whether files are written.
    pub write: bool,
}

impl Default for CalibrateOptions {
    fn default() -> Self {
        Self { packs: Vec::new(), nulls: LEAST_NULLS, write: true }
    }
}

/// What a base can do of a pack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PackResult {
    /// The pack.
    pub name: String,
    /// Questions.
    pub questions: usize,
    /// Questions that base passes in every wording.
    pub passed: usize,
    /// Questions that it passes in some wordings.
    pub partly: usize,
    /// Questions that it can neither lose nor win, which are left out.
    pub dead: Vec<String>,
}

/// How much null adapters move a base.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Jitter {
    /// How many there were.
    pub nulls: usize,
    /// What they are like: `an adapter at PATH`, or `drift of 0.05 nats/token`.
    pub like: String,
    /// Their drift in nats/token over questions: least, mean, most.
    pub drift: [f64; 3],
    /// Their choice loss in nats: least, mean, most.
    pub choice_loss: [f64; 3],
    /// Their net loss of right choices: least, mean, most.
    pub net_loss: [f64; 3],
}

/// A base, calibrated.
#[derive(Clone, Debug, Serialize)]
pub struct Calibration {
    /// The base.
    pub base: String,
    /// By pack.
    pub packs: Vec<PackResult>,
    /// Of the other wordings of what base passes, the share that it fails; `None` without paraphrases.
    pub rephrasing: Option<f64>,
    /// What null adapters do.
    pub jitter: Jitter,
    /// Lines of `[gate]`, with where each threshold comes from.
    pub gate: Vec<String>,
    /// What was written, and what has to be done by hand.
    pub written: Written,
}

/// Calibrates the base of a project.
///
/// Answers are stored as those of a run are: what was interrupted goes on where it was. Files are written at the end, all or none, and over
/// none that is there.
///
/// # Errors
/// A pack that there is not, or that the base cannot be asked; fewer than 19 null adapters; a base that passes nothing; a file that is there.
pub fn calibrate(config: &Config, options: &CalibrateOptions, on_event: Events<'_>) -> Result<Calibration> {
    if options.nulls < LEAST_NULLS {
        return Err(Error::Usage(format!(
            "--nulls is {}, expected at least {LEAST_NULLS}: of fewer, not even the largest is rarer than 1 in 20",
            options.nulls
        )));
    }
    if config.backend != BackendName::Candle {
        let name = config.backend.as_str();
        return Err(Error::Usage(format!(
            "calibrate makes null adapters in memory, which {name} cannot take; use --backend candle"
        )));
    }
    let named = named_packs(&options.packs)?;
    if options.write {
        write::check_free(config, &named)?;
    }
    let mut prepared = Prepared::open(config, Checked::default(), on_event)?;
    let (chat, limits) = open_tokenizer(config, &prepared.base.files, &Checked::default())?;
    let packs = fitting_packs(named, !options.packs.is_empty(), chat.template.is_some())?;
    let scenarios: Vec<Scenario> = packs.iter().map(Pack::scenario).collect::<Result<_>>()?;
    let cases: usize = scenarios.iter().map(|scenario| scenario.cases.len()).sum();
    on_event(RunEvent::note(format!(
        "{} packs, {cases} cases, and {} null adapters on a part of them",
        packs.len(),
        options.nulls
    )));
    prepared.checked = Checked { scenarios, ..Checked::default() };
    check_prompts(&chat, limits.context, &prepared.checked)?;
    let run = prepared.ask(config.backend, &[], on_event)?;
    check_ability(config, &run)?;
    let outline = crate::model::outline(&prepared.base.files, &config.model)?;
    let (jitter, spread) = nulls::jitter(&prepared, &outline, &run, options.nulls, on_event)?;
    let results = results(&run, spread);
    let rephrasing = Controls::of(&run, BASE).rephrasing;
    let gate = gate(config, &run, &results, &jitter, rephrasing);
    let written = if options.write { write::write(config, &packs, &results, &gate)? } else { Written::default() };
    Ok(Calibration { base: config.model.source.clone(), packs: results, rephrasing, jitter, gate, written })
}

/// Refuses a base that passes nothing, before null adapters are asked anything.
fn check_ability(config: &Config, run: &RunRecord) -> Result<()> {
    if run.cases().any(|(_, case)| case.verdict(BASE) == Verdict::Passed) {
        return Ok(());
    }
    let packs: Vec<&str> = run.scenarios.iter().map(|scenario| scenario.name.as_str()).collect();
    Err(Error::failed(format!(
        "{} passes no question of {}, so there is nothing that a fine-tune could lose; is it the right model, and its chat template the \
         right one?",
        config.model.source,
        packs.join(", ")
    )))
}

/// The packs of these names, each once; all without any.
fn named_packs(names: &[String]) -> Result<Vec<Pack>> {
    if names.is_empty() {
        return Ok(PACKS.to_vec());
    }
    let all = || PACKS.iter().map(|pack| pack.name);
    let pack = |name: &String| {
        PACKS.iter().find(|pack| pack.name == name).copied().ok_or_else(|| {
            let meant =
                crate::config::nearest(name, all()).map_or_else(String::new, |near| format!("; did you mean {near}?"));
            Error::Usage(format!(
                "there is no pack {name:?}{meant} There are: {}",
                all().collect::<Vec<_>>().join(", ")
            ))
        })
    };
    let unique: std::collections::BTreeSet<&String> = names.iter().collect();
    unique.into_iter().map(pack).collect()
}

/// Of these, the packs that a base can be asked: chats need a template, and texts to continue are for bases without one.
fn fitting_packs(packs: Vec<Pack>, named: bool, has_template: bool) -> Result<Vec<Pack>> {
    let is_text = |pack: &Pack| pack.name.starts_with("completion-");
    if !named {
        return Ok(packs.into_iter().filter(|pack| is_text(pack) != has_template).collect());
    }
    match packs.iter().find(|pack| !has_template && !is_text(pack)) {
        Some(pack) => Err(Error::Usage(format!(
            "the pack {} asks in a chat, and the base has no chat template; packs without one are completion-knowledge and completion-text",
            pack.name
        ))),
        None => Ok(packs),
    }
}

/// What base can do, pack by pack. A question is dead when base fails it however it is asked, and is further from passing than null adapters
/// move it.
fn results(run: &RunRecord, spread: f64) -> Vec<PackResult> {
    let controls = Controls::of(run, BASE);
    let verdicts = |question: &Question<'_>| {
        let passed = question.cases.iter().filter(|case| case.verdict(BASE) == Verdict::Passed).count();
        (passed, question.cases.len())
    };
    run.scenarios
        .iter()
        .map(|scenario| {
            let own: Vec<&Question<'_>> =
                controls.questions.iter().filter(|question| std::ptr::eq(question.scenario, scenario)).collect();
            let count = |holds: &dyn Fn((usize, usize)) -> bool| own.iter().filter(|q| holds(verdicts(q))).count();
            let dead = own.iter().filter(|question| question.is_out_of_reach(BASE, spread));
            PackResult {
                name: scenario.name.clone(),
                questions: own.len(),
                passed: count(&|(passed, all)| passed == all),
                partly: count(&|(passed, all)| passed > 0 && passed < all),
                dead: dead.map(|question| question.cases[0].name.clone()).collect(),
            }
        })
        .collect()
}

/// A `[gate]` for controls, each threshold with what it comes from.
fn gate(
    config: &Config,
    run: &RunRecord,
    packs: &[PackResult],
    jitter: &Jitter,
    rephrasing: Option<f64>,
) -> Vec<String> {
    // Rounded up: a null adapter must pass.
    let up = |value: f64, digits: i32| {
        let unit = 10f64.powi(digits);
        (value * unit - 1e-9).ceil() / unit
    };
    let questions: usize = packs.iter().map(|pack| pack.questions - pack.dead.len()).sum();
    let [_, _, choice] = jitter.choice_loss;
    let [_, _, net] = jitter.net_loss;
    let mut lines = vec![
        "[gate]".to_owned(),
        format!("# Calibrated on {} by finetest {}, {}.", config.model.source, run.finetest, run.made.time),
        format!(
            "# Base {}; {questions} control questions of {}.",
            &run.model.fingerprint[..run.model.fingerprint.len().min(10)],
            packs.iter().map(|pack| pack.name.as_str()).collect::<Vec<_>>().join(", ")
        ),
        format!(
            "# {} null adapters with {}: drift {:.3} to {:.3} nats/token.",
            jitter.nulls, jitter.like, jitter.drift[0], jitter.drift[2]
        ),
    ];
    lines.push(format!(
        "max_drift = {}         # few harmless adapters of finetest's own study had more; not measured on this base",
        crate::gate::DEFAULT_MAX_DRIFT
    ));
    lines.push(format!(
        "max_choice_loss = {:.2}   # the largest of {} null adapters is {choice:.3}",
        up(choice.max(0.01), 2),
        jitter.nulls
    ));
    lines.push(format!(
        "max_net_loss = {:.2}      # 5 points, or the largest of {} null adapters: {net:.3} of right choices",
        up(net.max(crate::gate::DEFAULT_MAX_NET_LOSS), 2),
        jitter.nulls
    ));
    if let Some(share) = rephrasing {
        lines.push(format!(
            "# Rephrasing alone loses {:.1} % of what base passes: a min_retention above {:.2} asks for more than base keeps to itself.",
            100.0 * share,
            1.0 - share
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_are_known_by_name_and_fit_a_base_or_not() {
        assert_eq!(named_packs(&[]).expect("all").len(), PACKS.len());
        let error = named_packs(&["fact".to_owned()]).expect_err("no such pack").to_string();
        assert!(error.contains("did you mean facts?") && error.contains("completion-text"), "{error}");
        let names = |packs: Vec<Pack>| packs.iter().map(|pack| pack.name).collect::<Vec<_>>();
        let plain = fitting_packs(PACKS.to_vec(), false, false).expect("packs");
        assert_eq!(names(plain), ["completion-knowledge", "completion-text"]);
        assert_eq!(fitting_packs(PACKS.to_vec(), false, true).expect("packs").len(), PACKS.len() - 2);
        let twice = ["tone", "facts", "tone"].map(str::to_owned);
        assert_eq!(names(named_packs(&twice).expect("packs")), ["facts", "tone"]);
        let chat = named_packs(&["facts".to_owned()]).expect("a pack");
        let error = fitting_packs(chat, true, false).expect_err("no template").to_string();
        assert!(error.contains("the base has no chat template"), "{error}");
    }
}
