//! Recorded runs as a list: when, from what, and what came of each.

use serde::Serialize;

use crate::compare::{Comparison, number, percent};
use crate::record::{BASE, Commit, Drift, DriftMethod, RunRecord, Selected, TUNED};
use crate::report::paint::{Ink, Page, Style, columns, left, piece, right};

/// A recorded run in a list. One that cannot be read is listed with the reason.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ListedRun {
    /// The name of its folder, by which `finetest compare` finds it.
    pub name: String,
    /// Its record.
    pub path: String,
    /// Whether it is the manifest's last run.
    pub latest: bool,
    /// Why its record cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What came of it.
    #[serde(flatten)]
    pub summary: Option<RunSummary>,
}

/// What came of a run, of its arm `tuned`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunSummary {
    /// When it began, in UTC; empty where that is not known.
    pub time: String,
    /// The commit of the project.
    pub git: Option<Commit>,
    /// The gate's verdict when the run was made: `PASS`, …; `None` where it was not gated then.
    pub verdict: Option<&'static str>,
    /// Target cases that pass.
    pub targets_passed: usize,
    /// Target cases with a verdict.
    pub targets: usize,
    /// Share of the control cases that base passes which tuned keeps.
    pub retention: Option<f64>,
    /// Cases that base passes and tuned fails.
    pub broken: usize,
    /// Mean drift in nats/token: KL divergence, or the change of NLL where there is none.
    pub drift: Option<f64>,
    /// By what drift was measured; values of different methods are different quantities.
    pub drift_method: Option<DriftMethod>,
    /// The part of the tests that was run; `None`: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selected: Option<Selected>,
}

impl RunSummary {
    /// Of a record.
    #[must_use]
    pub fn of(run: &RunRecord) -> Self {
        let comparison = Comparison::of(run, BASE, TUNED);
        let target = comparison.target.tuned;
        let drift = run.drift.get(TUNED);
        Self {
            time: run.made.time.clone(),
            git: run.made.git.clone(),
            verdict: run.decision.as_ref().map(|decision| decision.ending().word()),
            targets_passed: target.passed,
            targets: target.evaluated,
            retention: comparison.control.retention().share(),
            broken: comparison.target.broken + comparison.control.broken,
            drift: drift.map(|drift| drift.kl.map_or_else(|| drift.nll_change(), |kl| kl.mean)),
            drift_method: drift.map(|drift: &Drift| drift.method),
            selected: run.made.selected.clone(),
        }
    }
}

/// A list's columns, the run's name last.
const HEAD: [&str; 8] = ["time (UTC)", "commit", "verdict", "targets", "retention", "drift", "broken", "run"];

/// Renders runs for a terminal, in the order given; `more` further runs are not among them. `folder` is where they are.
///
/// Where the whole names do not fit, they are cut to their hashes, by which runs are found too.
#[must_use]
pub fn listed_runs(runs: &[ListedRun], folder: &str, more: usize, style: Style) -> String {
    let mut page = Page::new(style);
    page.wrapped(2, &[piece(Ink::Dim, format!("runs in {folder}, the newest first"))]);
    let whole = Table::of(runs, |name| name);
    let table = if whole.width() <= page.width() { whole } else { Table::of(runs, hash) };
    let wide = table.width() <= page.width();
    if wide {
        page.line(&[piece(Ink::Dim, format!("  {}", table.cells(&HEAD.map(str::to_owned), 0..8)))]);
    }
    for (run, row) in runs.iter().zip(&table.rows) {
        let mark = if run.latest { "→ " } else { "  " };
        match row {
            Some(row) if wide => page.line(&[
                piece(Ink::Plain, format!("{mark}{}  ", table.cells(row, 0..2))),
                piece(ink(run), table.cells(row, 2..3)),
                piece(Ink::Plain, format!("  {}", table.cells(row, 3..8))),
            ]),
            Some(row) => narrow(&mut page, mark, run, row),
            None => {
                let why = run.error.as_deref().unwrap_or("it cannot be read");
                page.wrapped(4, &[piece(Ink::Plain, format!("{mark}{}  ", run.name)), piece(Ink::Bad, why)]);
            }
        }
        if let Some(part) = run.summary.as_ref().and_then(|summary| summary.selected.as_ref()) {
            let text = format!("      a part: {} of {} cases, {}", part.cases, part.of, part.filter);
            page.wrapped(6, &[piece(Ink::Dim, text)]);
        }
    }
    if more > 0 {
        let all = runs.len() + more;
        page.wrapped(2, &[piece(Ink::Dim, format!("  … and {more} more; `finetest runs --limit {all}` lists them"))]);
    }
    page.finish()
}

/// The cells of a list, and how wide its columns are.
struct Table {
    /// A row for each run; `None` for one that cannot be read.
    rows: Vec<Option<[String; 8]>>,
    widths: [usize; 8],
}

impl Table {
    fn of(runs: &[ListedRun], name: impl Fn(&str) -> &str) -> Self {
        let rows: Vec<Option<[String; 8]>> =
            runs.iter().map(|run| Some(row(name(&run.name), run.summary.as_ref()?))).collect();
        let widest = |column: usize| {
            let shown = rows.iter().flatten().map(|row| columns(&row[column]));
            shown.chain([columns(HEAD[column])]).max().unwrap_or(0)
        };
        let widths = std::array::from_fn(widest);
        Self { rows, widths }
    }

    fn width(&self) -> usize {
        self.widths.iter().map(|width| width + 2).sum()
    }

    /// Some cells of a row, side by side: numbers to the right, words to the left.
    fn cells(&self, row: &[String; 8], range: std::ops::Range<usize>) -> String {
        let cell = |column: usize| match column {
            3..=6 => right(&row[column], self.widths[column]),
            _ => left(&row[column], self.widths[column]),
        };
        range.map(cell).collect::<Vec<_>>().join("  ")
    }
}

/// The hash at the end of a run's name.
fn hash(name: &str) -> &str {
    name.rsplit('-').next().unwrap_or(name)
}

/// A run on a narrow terminal: its name and verdict, and below them the numbers.
fn narrow(page: &mut Page, mark: &str, run: &ListedRun, row: &[String; 8]) {
    page.wrapped(4, &[piece(Ink::Plain, format!("{mark}{}  ", run.name)), piece(ink(run), row[2].as_str())]);
    let told: Vec<String> = [1, 3, 4, 5, 6].map(|column| format!("{} {}", HEAD[column], row[column])).into();
    page.wrapped(6, &[piece(Ink::Plain, format!("      {}", told.join(", ")))]);
}

fn ink(run: &ListedRun) -> Ink {
    match run.summary.as_ref().and_then(|summary| summary.verdict) {
        Some("PASS") => Ink::Good,
        Some("FAIL" | "INCOMPLETE") => Ink::Bad,
        _ => Ink::Warn,
    }
}

fn row(name: &str, run: &RunSummary) -> [String; 8] {
    let none = || "–".to_owned();
    let commit = run.git.as_ref().map(|git| {
        let short: String = git.commit.chars().take(7).collect();
        format!("{short}{}", if git.dirty { "*" } else { "" })
    });
    let targets = (run.targets > 0).then(|| format!("{}/{}", run.targets_passed, run.targets));
    let drift = run.drift.zip(run.drift_method).map(|(drift, method)| match method {
        DriftMethod::FullKl => number(drift),
        DriftMethod::TopK(k) => format!("{} top {k}", number(drift)),
        DriftMethod::Nll => format!("{} NLL", number(drift)),
    });
    [
        if run.time.is_empty() { none() } else { minutes(&run.time) },
        commit.unwrap_or_else(none),
        run.verdict.map_or_else(none, str::to_owned),
        targets.unwrap_or_else(none),
        run.retention.map_or_else(none, percent),
        drift.unwrap_or_else(none),
        run.broken.to_string(),
        name.to_owned(),
    ]
}

/// `2026-11-29T12:00:00Z` as `2026-11-29 12:00`; another text as it is.
fn minutes(time: &str) -> String {
    match time.split_once('T') {
        Some((day, hour)) if time.is_ascii() && time.len() == 20 => format!("{day} {}", &hour[..hour.len().min(5)]),
        _ => time.chars().take(20).collect(),
    }
}

#[cfg(test)]
mod tests;
