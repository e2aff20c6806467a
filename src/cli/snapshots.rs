//! `finetest snapshots [status|review|accept|reject] [SCENARIO…]`: the approved answers, without cargo.

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::options::{Global, ListFormat, Output, record_path};
use super::{json, print};
use crate::config::{Config, MANIFEST};
use crate::error::{Error, Result, exit};
use crate::files::Lock;
use crate::project;
use crate::record::RunRecord;
use crate::report::{Style, snapshot_counts, snapshot_difference, snapshot_status};
use crate::shown::visible;
use crate::snapshot::{
    Accepted, Place, Rejected, ScenarioSnapshot, Snapshots, Standing, check_environment, check_writing, is_ci, named,
};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    status: StatusOptions,
    #[command(subcommand)]
    action: Option<Action>,
}

const EXAMPLES: &str = "\
Examples:
  finetest snapshots                   which answers are approved, changed or new
  finetest snapshots review            show each change, and ask
  finetest snapshots accept            approve all answers of the last run
  finetest snapshots accept facts      approve those of one scenario
  finetest snapshots reject            remove what cargo test left for a review
  finetest snapshots status --check    exit code 100 unless all is approved";

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show which answers are approved, changed, new or pending (the default)
    Status(Status),
    /// Show what changed in each snapshot, and ask whether to accept it
    Review(OfRun),
    /// Approve the answers of the last run, and say what they replace
    Accept(OfRun),
    /// Remove pending answers (.snap.new files); approved answers stay
    Reject(Reject),
}

#[derive(Debug, clap::Args)]
struct Status {
    /// Scenarios [default: all]
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<String>,
    #[command(flatten)]
    options: StatusOptions,
}

#[derive(Debug, clap::Args)]
struct StatusOptions {
    /// Path to a run.json [default: the last run of the manifest]
    #[arg(long, value_name = "RUN")]
    run: Option<PathBuf>,
    /// Exit with 100 unless every snapshot is approved
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    output: Output<ListFormat>,
}

#[derive(Debug, clap::Args)]
struct OfRun {
    /// Scenarios [default: all]
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<String>,
    /// Path to a run.json [default: the last run of the manifest]
    #[arg(long, value_name = "RUN")]
    run: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Reject {
    /// Scenarios [default: all]
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<String>,
}

pub(super) fn snapshots(global: &Global, args: &Args) -> Result<u8> {
    match &args.action {
        None => status(global, &args.status, &[]),
        Some(Action::Status(args)) => status(global, &args.options, &args.scenarios),
        Some(Action::Review(args)) => review(global, args),
        Some(Action::Accept(args)) => accept(global, args),
        Some(Action::Reject(args)) => reject(global, args),
    }
}

/// The project, its folder of snapshots and a run of it.
struct Opened {
    config: Config,
    place: Place,
    record: PathBuf,
    run: RunRecord,
}

impl Opened {
    fn read(global: &Global, run: Option<&Path>) -> Result<Self> {
        check_environment()?;
        let (config, place) = opened(global)?;
        let record = record_path(global, run)?;
        let run = RunRecord::load(&record)?;
        let (own, made) = (config.relative(&config.manifest), &run.made.manifest);
        if !made.is_empty() && *made != own {
            let message = format!("is a run of {made}, and snapshots hold the answers of {own}; run `finetest run`");
            return Err(Error::input(record, None, message));
        }
        Ok(Self { config, place, record, run })
    }

    /// The arms whose answers are approved.
    fn arms(&self) -> Vec<&str> {
        self.config.run.snapshot_arms.iter().map(String::as_str).collect()
    }
}

/// The project and its folder of snapshots, which are of its own adapter and not of every recipe's.
fn opened(global: &Global) -> Result<(Config, Place)> {
    let config = global.project()?;
    if config.manifest.file_name().is_none_or(|name| name != MANIFEST) {
        let own = config.relative(&config.manifest);
        return Err(Error::Usage(format!("{own} has no snapshots: they belong to {MANIFEST}; leave --config out")));
    }
    let place = Place::of(&config.root, &config.run.snapshots)?;
    Ok((config, place))
}

/// Held while snapshots are written: no run and no other approval of the project is at work then.
fn lock(global: &Global, config: &Config) -> Result<Lock> {
    let mut display = global.display();
    project::lock(config, &mut |event| display.show(&event))
}

fn status(global: &Global, options: &StatusOptions, names: &[String]) -> Result<u8> {
    let opened = Opened::read(global, options.run.as_deref())?;
    options.output.check(Some(&opened.config))?;
    let arms = opened.arms();
    let all = Snapshots::of(&opened.place, &opened.record, &opened.run, &arms)?.all()?;
    let shown: Vec<ScenarioSnapshot> = named(&all, names, |one| &one.scenario)?.into_iter().cloned().collect();
    let is_approved = shown.iter().all(|one| one.state == Standing::Approved);
    let text = match options.output.format() {
        ListFormat::Json => json(&Listed::of(&opened, &shown))?,
        ListFormat::Terminal => {
            let next = if shown.iter().any(|one| one.state.is_acceptable()) {
                "`finetest snapshots review` shows what changed and approves it\n"
            } else {
                ""
            };
            snapshot_status(&shown, options.output.style(global)) + next
        }
    };
    options.output.print(&text)?;
    Ok(if options.check && !is_approved { exit::GATE_FAILED } else { exit::PASS })
}

/// The list as JSON.
#[derive(Serialize)]
struct Listed<'a> {
    /// The record that the answers are of.
    run: String,
    /// How many are in each state.
    counts: std::collections::BTreeMap<&'static str, usize>,
    snapshots: &'a [ScenarioSnapshot],
}

impl<'a> Listed<'a> {
    fn of(opened: &Opened, snapshots: &'a [ScenarioSnapshot]) -> Self {
        let count = |state: Standing| snapshots.iter().filter(|one| one.state == state).count();
        let counts = Standing::ALL.into_iter().map(|state| (state.name(), count(state))).collect();
        Self { run: opened.record.display().to_string(), counts, snapshots }
    }
}

fn accept(global: &Global, args: &OfRun) -> Result<u8> {
    check_writing()?;
    let opened = Opened::read(global, args.run.as_deref())?;
    let _lock = lock(global, &opened.config)?;
    let arms = opened.arms();
    let snapshots = Snapshots::of(&opened.place, &opened.record, &opened.run, &arms)?;
    let all = snapshots.all()?;
    let chosen = named(&all, &args.scenarios, |one| &one.scenario)?;
    // Without names an orphan is passed over: it may be of a scenario that another branch has.
    let is_meant = |one: &&ScenarioSnapshot| match one.state {
        Standing::Approved => one.pending.is_some(),
        Standing::Orphaned => !args.scenarios.is_empty(),
        _ => true,
    };
    let meant: Vec<&ScenarioSnapshot> = chosen.iter().copied().filter(is_meant).collect();
    // Report everything that cannot be accepted before writing anything.
    Error::collect(meant.iter().filter_map(|one| snapshots.check_acceptable(one).err()).collect())?;
    if meant.is_empty() {
        print(&format!("nothing to accept: {}\n", snapshot_counts(&chosen.into_iter().cloned().collect::<Vec<_>>())))?;
    }
    for one in meant {
        let accepted = snapshots.accept(one)?;
        print(&told(one, &accepted))?;
    }
    Ok(exit::PASS)
}

/// What was approved, and what that replaced: `accepted facts: replaced snapshots/facts.snap (verdicts changed)`.
fn told(one: &ScenarioSnapshot, accepted: &Accepted) -> String {
    let file = accepted.file.display();
    let mut parts = Vec::new();
    match one.state {
        Standing::Approved => parts.push(format!("{file} is approved already")),
        state if accepted.is_replaced => {
            let cases = if one.cases == 1 { "case" } else { "cases" };
            parts.push(format!(
                "replaced {file} ({}; {} of {} {cases} changed)",
                state.word(),
                one.changed_cases,
                one.cases
            ));
        }
        _ => parts.push(format!("wrote {file}")),
    }
    parts.extend(accepted.removed.as_ref().map(|path| format!("removed {}", path.display())));
    visible(&format!("accepted {}: {}\n", one.scenario, parts.join(", "))).into_owned()
}

fn reject(global: &Global, args: &Reject) -> Result<u8> {
    check_writing()?;
    let (config, place) = opened(global)?;
    let pending = place.pending_names()?;
    let mut known = [place.approved_names()?, pending.clone()].concat();
    known.sort();
    known.dedup();
    let chosen = if args.scenarios.is_empty() {
        pending.iter().collect()
    } else {
        named(&known, &args.scenarios, |name| name.as_str())?
    };
    if chosen.is_empty() {
        print("nothing to reject: no answers are pending\n")?;
        return Ok(exit::PASS);
    }
    let _lock = lock(global, &config)?;
    for name in chosen {
        print(&rejected(name, &place.reject(name)?))?;
    }
    Ok(exit::PASS)
}

fn rejected(name: &str, rejected: &Rejected) -> String {
    let told = match rejected {
        Rejected::Removed(path) => format!("rejected {name}: removed {}\n", path.display()),
        Rejected::NothingPending => format!("{name}: no answers are pending; the approved ones stay\n"),
    };
    visible(&told).into_owned()
}

fn review(global: &Global, args: &OfRun) -> Result<u8> {
    let opened = Opened::read(global, args.run.as_deref())?;
    let arms = opened.arms();
    let snapshots = Snapshots::of(&opened.place, &opened.record, &opened.run, &arms)?;
    let all = snapshots.all()?;
    let chosen = named(&all, &args.scenarios, |one| &one.scenario)?;
    let changed: Vec<&ScenarioSnapshot> = chosen.into_iter().filter(|one| one.state != Standing::Approved).collect();
    if changed.is_empty() {
        print("nothing to review: all snapshots are approved\n")?;
        return Ok(exit::PASS);
    }
    let style = global.style();
    let can_ask = std::io::stdin().is_terminal() && std::io::stdout().is_terminal() && !is_ci();
    if can_ask {
        check_writing()?;
        let lock = || lock(global, &opened.config);
        let review = Review { snapshots: &snapshots, place: &opened.place, style, lock: &lock };
        review.ask(&changed, &mut std::io::stdin().lock(), &mut std::io::stdout().lock())?;
        return Ok(exit::PASS);
    }
    for one in &changed {
        print(&(snapshot_difference(one, style) + "\n"))?;
    }
    if changed.iter().any(|one| one.state.is_acceptable()) {
        print("`finetest snapshots accept` approves all of these, `finetest snapshots accept SCENARIO` one of them\n")?;
    }
    Ok(exit::PASS)
}

/// A review that asks a person.
struct Review<'a> {
    snapshots: &'a Snapshots<'a>,
    place: &'a Place,
    style: Style,
    /// Taken for each write, and not while a person reads.
    lock: &'a dyn Fn() -> Result<Lock>,
}

/// What a person decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Accept,
    Reject,
    Skip,
    Quit,
}

impl Choice {
    fn parse(typed: &str) -> Option<Self> {
        match typed.trim().to_lowercase().as_str() {
            "a" | "accept" => Some(Self::Accept),
            "r" | "reject" => Some(Self::Reject),
            "s" | "skip" => Some(Self::Skip),
            "q" | "quit" => Some(Self::Quit),
            _ => None,
        }
    }
}

impl Review<'_> {
    /// Shows each of these and does what is typed, at once: what was accepted stays so after `quit`.
    fn ask(&self, changed: &[&ScenarioSnapshot], typed: &mut dyn BufRead, out: &mut dyn Write) -> Result<()> {
        let mut say = |text: &str| {
            out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::io("stdout".as_ref(), "write"))
        };
        for (i, one) in changed.iter().enumerate() {
            say(&format!("{}\n", snapshot_difference(one, self.style)))?;
            let unacceptable = self.snapshots.check_acceptable(one).err();
            if let Some(why) = &unacceptable {
                say(&format!("{}\n", visible(&why.to_string())))?;
            }
            let accept = if unacceptable.is_none() { "[a]ccept, " } else { "" };
            let choice = loop {
                say(&format!("{} of {}: {accept}[r]eject, [s]kip or [q]uit? ", i + 1, changed.len()))?;
                let mut line = String::new();
                let read = typed.read_line(&mut line).map_err(Error::io("stdin".as_ref(), "read"))?;
                match Choice::parse(&line) {
                    // Nobody is there any more.
                    _ if read == 0 => break Choice::Quit,
                    Some(Choice::Accept) if unacceptable.is_some() => {}
                    Some(choice) => break choice,
                    None => {}
                }
            };
            match choice {
                Choice::Accept => {
                    let _lock = (self.lock)()?;
                    say(&told(one, &self.snapshots.accept(one)?))?;
                }
                Choice::Reject => {
                    let _lock = (self.lock)()?;
                    say(&rejected(&one.scenario, &self.place.reject(&one.scenario)?))?;
                }
                Choice::Skip => {}
                Choice::Quit => return say("\n"),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::fixture::{self, F, P};
    use crate::record::{BASE, Role, TUNED};

    /// A project of three scenarios without an approved snapshot, the second of which has a damaged pending file.
    fn project() -> (tempfile::TempDir, RunRecord) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let snapshots = directory.path().join("snapshots");
        std::fs::create_dir(&snapshots).expect("created");
        std::fs::write(snapshots.join("two.snap.new"), "damaged").expect("written");
        let scenario = |name: &str| fixture::scenario(name, Role::Target, &[(F, P)]);
        (directory, fixture::run(["one", "two", "three"].map(scenario).into()))
    }

    /// What a review says when this is typed, and the files that are there afterwards.
    fn typed(text: &str) -> (String, Vec<String>) {
        let (directory, run) = project();
        let folder = directory.path().join("snapshots");
        let place = Place::of(directory.path(), &folder).expect("a place");
        let snapshots = Snapshots::of(&place, Path::new("run.json"), &run, &[BASE, TUNED]).expect("a whole run");
        let all = snapshots.all().expect("read");
        let style = Style { color: false, width: 200 };
        let lock = || Lock::acquire(&directory.path().join("lock"), || panic!("nobody else is here"));
        let review = Review { snapshots: &snapshots, place: &place, style, lock: &lock };
        let mut out = Vec::new();
        review.ask(&all.iter().collect::<Vec<_>>(), &mut text.as_bytes(), &mut out).expect("asked");
        let entries = std::fs::read_dir(&folder).expect("read").flatten();
        let mut files: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        files.sort();
        (String::from_utf8(out).expect("UTF-8"), files)
    }

    #[test]
    fn a_review_does_what_is_typed_and_asks_again_when_it_is_nothing() {
        let (said, files) = typed("what\n\nA\nreject\ns\n");
        assert_eq!(said.matches("1 of 3: [a]ccept, [r]eject, [s]kip or [q]uit?").count(), 3, "{said}");
        assert!(said.contains("accepted one: wrote ") && said.contains("rejected two: removed "), "{said}");
        assert_eq!(files, ["one.snap"]);
    }

    #[test]
    fn what_cannot_be_accepted_is_not_offered_and_not_done() {
        let (said, files) = typed("s\na\naccept\nq\n");
        assert!(said.contains("`finetest snapshots reject two` removes it"), "{said}");
        assert_eq!(said.matches("2 of 3: [r]eject, [s]kip or [q]uit?").count(), 3, "{said}");
        assert_eq!(files, ["two.snap.new"]);
    }

    #[test]
    fn a_review_ends_with_its_input_and_keeps_what_was_accepted() {
        let (said, files) = typed("a\n");
        assert!(said.contains("2 of 3: ") && !said.contains("3 of 3: "), "{said}");
        assert_eq!(files, ["one.snap", "two.snap.new"]);
    }
}
