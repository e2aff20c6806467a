//! What is said about the controls: kept, lost or not shown, by which measure, and how what broke looks.

pub(super) mod markdown;
pub(super) mod terminal;

use crate::compare::{Comparison, FlipKind, Shared, number, percent, shared_words};
use crate::record::{
    ControlMeasure, ControlVerdict, Decision, Drift, Evidence, MovedToken, Role, RunRecord, SpillOver, TextDrift,
};
use crate::report::{amount, interval};
use crate::shown::plain;

/// The measures' names of columns.
pub(super) const HEAD: [&str; 5] = ["measure", "measured", "limits", "threshold", "shows"];
/// What an asterisk says.
pub(super) const OWN: &str =
    "* finetest's own threshold, used because [gate] has none. The limits are one-sided 95 % on each side";
/// Tokens that moved most, as many as are shown.
const MOVED: usize = 10;
/// Characters of the text before a token, and of a token, that are shown.
const SHOWN_BEFORE: usize = 40;
const SHOWN_TOKEN: usize = 30;
/// Dead questions that are named.
const NAMED: usize = 5;
/// Answers in which a habit has to be commoner than in base's to be worth a line: a twentieth.
const WORTH: usize = 20;

/// One arm's controls, ready to be drawn.
pub(super) struct ControlsView<'a> {
    pub(super) verdict: &'a ControlVerdict,
    /// A measure a row: its name, what was measured, limits, threshold, and what it shows.
    pub(super) rows: Vec<[String; 5]>,
    /// What else is known of them, a sentence each.
    pub(super) notes: Vec<String>,
    /// What to try, with its reason, where they are shown lost.
    pub(super) remedy: Option<String>,
}

impl<'a> ControlsView<'a> {
    pub(super) fn all(run: &'a RunRecord, comparisons: &[Comparison<'_>], decision: &'a Decision) -> Vec<Self> {
        decision.controls.iter().map(|verdict| Self::new(run, comparisons, verdict)).collect()
    }

    fn new(run: &'a RunRecord, comparisons: &[Comparison<'_>], verdict: &'a ControlVerdict) -> Self {
        let comparison = comparisons.iter().find(|comparison| comparison.tuned == verdict.arm);
        let mut notes = Vec::new();
        notes.extend(lost(verdict));
        notes.extend(comparison.and_then(shared).map(|shared| shared_note(&shared)));
        notes.extend(run.spill_over.get(&verdict.arm).map(spilled).unwrap_or_default());
        if verdict.measures.iter().any(|measure| measure.name == "net_loss" && measure.threshold.is_none()) {
            notes.push(
"base passes every control. If they were chosen for that, even a harmless change loses some. So only a max_net_loss of yours \
                 judges the net loss"
                    .to_owned(),
            );
        }
        notes.extend(verdict.rephrasing.map(|share| {
            format!(
                "paraphrases: base itself fails {} of the other wordings of questions that it passes",
                percent(share)
            )
        }));
        notes.extend(verdict.guessing.filter(|share| *share >= 0.005).map(|share| {
            format!("guessing alone: about {} of the cases that only choose flip from right to wrong", percent(share))
        }));
        notes.extend(dead(verdict));
        notes.extend(detection(verdict));
        Self {
            verdict,
            rows: verdict.measures.iter().map(row).collect(),
            notes,
            remedy: (verdict.evidence == Evidence::Lost).then(|| remedy(run, verdict)),
        }
    }
}

fn row(measure: &ControlMeasure) -> [String; 5] {
    let sign = if measure.bound == crate::record::Bound::AtMost { "≤" } else { "≥" };
    let threshold = measure.threshold.map_or_else(
        || "–".to_owned(),
        |threshold| {
            let own = if measure.given { "" } else { "*" };
            match measure.kept_within {
                Some(kept) => {
                    format!("kept ≤ {}, lost > {}{own}", amount(measure.unit, kept), amount(measure.unit, threshold))
                }
                None => format!("{sign} {}{own}", amount(measure.unit, threshold)),
            }
        },
    );
    let shows = match (measure.threshold, measure.evidence) {
        (None, _) => "–".to_owned(),
        (Some(_), Evidence::NotShown) => {
            let needed = measure.needed.map_or_else(String::new, |n| format!(", needs ~{n}"));
            let least = measure
                .detectable
                .map_or_else(String::new, |least| format!("; detects {}", amount(measure.unit, least)));
            format!("not shown{needed}{least}")
        }
        (Some(_), evidence) => evidence.words().to_owned(),
    };
    [
        measure.name.replace('_', " "),
        amount(measure.unit, measure.measured),
        measure.limits.map_or_else(|| "–".to_owned(), |limits| interval(measure.unit, limits)),
        threshold,
        shows,
    ]
}

/// Scenarios that are lost by themselves, the worst first.
fn lost(verdict: &ControlVerdict) -> Option<String> {
    let mut lost: Vec<_> = verdict.lost.iter().collect();
    lost.sort_by(|a, b| a.p.total_cmp(&b.p));
    let named: Vec<String> =
        lost.iter().map(|s| format!("{} ({} broken, {} fixed)", s.scenario, s.broken, s.fixed)).collect();
    (!named.is_empty()).then(|| format!("scenarios shown lost: {}", named.join(", ")))
}

/// What broken control answers share.
fn shared(comparison: &Comparison<'_>) -> Option<Shared> {
    let broken = || comparison.flips.iter().filter(|f| f.kind == FlipKind::Broken && f.scenario.role == Role::Control);
    let texts = |arm: &str| broken().map(|flip| flip.case.text(arm).unwrap_or("")).collect::<Vec<&str>>();
    shared_words(&texts(&comparison.tuned), &texts(&comparison.base))
}

fn shared_note(shared: &Shared) -> String {
    let Shared { words, broken, base, of } = shared;
    format!("{broken} of {of} broken answers have {}, of base's {base}", crate::shown::quote(words))
}

/// What of the target's form, and of a broken model's habits, the control answers have.
fn spilled(spill: &SpillOver) -> Vec<String> {
    let SpillOver { answers, forms, empty, loops, tags, refusals, words } = spill;
    let more = |base: usize, arm: usize| arm > base && WORTH * (arm - base) >= *answers;
    let forms = forms.iter().filter(|form| more(form.base, form.arm)).map(|form| {
        format!(
            "spill-over: {} of {answers} control answers have the target's form {}, of base's {}",
            form.arm,
            plain(&form.form, 60),
            form.base
        )
    });
    let habits = [
        (empty, "are empty"),
        (loops, "repeat themselves"),
        (tags, "have template tags"),
        (refusals, "decline to help"),
    ];
    let habits = habits
        .into_iter()
        .filter(|([base, arm], _)| more(*base, *arm))
        .map(|([base, arm], what)| format!("{arm} of {answers} control answers {what}, of base's {base}"));
    let [before, after] = *words;
    let changed = before > 0.0 && !(0.5..=2.0).contains(&(after / before));
    let length = changed.then(|| format!("control answers have {after:.0} words on average, base's {before:.0}"));
    forms.chain(habits).chain(length).collect()
}

fn dead(verdict: &ControlVerdict) -> Option<String> {
    let (all, count) = (verdict.questions, verdict.dead.len());
    if count == 0 {
        return None;
    }
    let mut named: Vec<&str> = verdict.dead.iter().take(NAMED).map(String::as_str).collect();
    if count > NAMED {
        named.push("…");
    }
    Some(format!(
        "not counted: {count} of {all} control questions, which both models fail by far ({})",
        named.join(", ")
    ))
}

/// How often the verdict was right on adapters whose harm was known.
fn detection(verdict: &ControlVerdict) -> Option<String> {
    let found = verdict.detection.as_ref()?;
    let decides = |measure: &&ControlMeasure| matches!(measure.name.as_str(), "drift" | "net_loss");
    let given = verdict.measures.iter().filter(decides).any(|measure| measure.given);
    Some(format!(
        "how often such a verdict is right: in finetest's own study {} questions showed {} of {} harmful adapters lost, and {} of {} harmless ones{}",
        found.questions,
        found.caught,
        found.harmful,
        found.blamed,
        found.harmless,
        if given { ". It used finetest's own thresholds, not yours" } else { "" },
    ))
}

/// One thing to try, and why.
fn remedy(run: &RunRecord, verdict: &ControlVerdict) -> String {
    let drift = verdict.measures.iter().find(|measure| measure.name == "drift" && measure.measured > 0.0);
    let scale = run.arms.iter().find(|arm| arm.name == verdict.arm).map_or(1.0, |arm| arm.scale);
    match drift.and_then(|drift| Some((drift.measured, drift.threshold?))) {
        Some((measured, threshold)) if measured > threshold => {
            let lower = scale * (threshold / measured).sqrt();
            format!(
                "try a smaller scale: drift falls roughly with its square, so {} would lower it from {} to {}. Add [arms.smaller] with scale = {lower:.2}, \
                 and see what of the target is left",
                number((lower * 100.0).floor() / 100.0),
                number(measured),
                number(threshold)
            )
        }
        _ => {
            "try a lower learning rate or fewer epochs, and a tenth of general examples in the training data".to_owned()
        }
    }
}

/// The tokens that moved most of an arm: in which text, and where.
pub(super) fn moved(drift: &Drift) -> Vec<(&TextDrift, &MovedToken)> {
    let mut all: Vec<(&TextDrift, &MovedToken)> =
        drift.texts.iter().flat_map(|text| text.moved.iter().map(move |token| (text, token))).collect();
    all.sort_by(|a, b| b.1.kl.total_cmp(&a.1.kl));
    all.truncate(MOVED);
    all
}

/// `after "The capital is" base goes on " Paris" (0.93, now 0.02); tuned prefers " {" (0.81)`.
pub(super) fn moved_in_words(token: &MovedToken, arm: &str) -> String {
    let place = match token.before.as_str() {
        "" => "at the beginning".to_owned(),
        before => {
            let skip = before.chars().count().saturating_sub(SHOWN_BEFORE);
            format!("after {:?}", before.chars().skip(skip).collect::<String>())
        }
    };
    // Debug's form, so that white space can be seen and nothing acts on a terminal.
    let spelled = |text: &str| format!("{:?}", text.chars().take(SHOWN_TOKEN).collect::<String>());
    let [before, after] = token.probability;
    let now = format!("{} {}, now {}", spelled(&token.token), probability(before), probability(after));
    if token.margin() == 0.0 {
        return format!("{place}: {now}; {arm} still prefers it");
    }
    let tie = if token.is_near_tie() { ", a near tie" } else { "" };
    format!("{place}: {now}; {arm} prefers {} {}{tie}", spelled(&token.instead), probability(token.instead_probability))
}

fn probability(p: f64) -> String {
    if p < 0.005 { format!("{p:.0e}") } else { format!("{p:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Policy;
    use crate::gate::decide;
    use crate::record::fixture::{self, F, P};
    use crate::record::{FormCount, TUNED};

    fn token() -> MovedToken {
        MovedToken {
            position: 3,
            before: "The capital is".into(),
            token: " Paris".into(),
            probability: [0.93, 0.0001],
            instead: " {".into(),
            instead_probability: 0.81,
            kl: 4.0,
        }
    }

    #[test]
    fn a_moved_token_is_said_in_a_line() {
        assert_eq!(
            moved_in_words(&token(), "tuned"),
            "after \"The capital is\": \" Paris\" 0.93, now 1e-4; tuned prefers \" {\" 0.81"
        );
        let kept =
            MovedToken { instead: " Paris".into(), instead_probability: 0.5, probability: [0.9, 0.5], ..token() };
        assert!(moved_in_words(&kept, "half").ends_with("half still prefers it"));
        let tie = MovedToken { probability: [0.9, 0.4999], instead_probability: 0.5, ..token() };
        assert!(moved_in_words(&tie, "tuned").ends_with("a near tie"));
    }

    #[test]
    fn white_space_is_seen_and_nothing_acts_on_a_terminal() {
        let odd =
            MovedToken { before: "a\n".into(), token: "\u{1b}[2J\u{202e}".into(), instead: "\n".into(), ..token() };
        assert_eq!(
            moved_in_words(&odd, "tuned"),
            r#"after "a\n": "\u{1b}[2J\u{202e}" 0.93, now 1e-4; tuned prefers "\n" 0.81"#
        );
    }

    #[test]
    fn the_rates_of_the_study_are_told_with_whose_thresholds_they_are() {
        let run = fixture::run(vec![fixture::scenario("facts", Role::Control, &[(P, P); 40])]);
        let said = |policy: &Policy| {
            let decision = decide(&run, policy);
            ControlsView::all(&run, &Comparison::all(&run), &decision)[0].notes.last().cloned().expect("notes")
        };
        let own = said(&Policy::default());
        assert!(
            own.starts_with("how often such a verdict is right: in finetest's own study 32 questions showed "),
            "{own}"
        );
        assert!(own.contains(" harmful adapters lost, and ") && own.ends_with(" harmless ones"), "{own}");
        let given = said(&Policy { max_net_loss: Some(0.2), ..Policy::default() });
        assert!(given.ends_with(" harmless ones. It used finetest's own thresholds, not yours"), "{given}");
    }

    #[test]
    fn lost_controls_say_what_they_look_like_and_one_thing_to_try() {
        let mut run = fixture::run(vec![fixture::scenario("facts", Role::Control, &[(P, F); 12])]);
        for case in &mut run.scenarios[0].cases {
            let sample = &mut case.answers.get_mut(TUNED).expect("an answer").samples[0];
            sample.turns[0].text = "{\"tool\": null}".into();
        }
        let form = FormCount { form: "json".into(), base: 0, arm: 12 };
        let spill =
            SpillOver { answers: 12, forms: vec![form], loops: [0, 3], words: [9.0, 2.0], ..SpillOver::default() };
        run.spill_over.insert(TUNED.into(), spill);
        let drift = run.drift.get_mut(TUNED).expect("drift");
        drift.texts = (1..=12)
            .map(|i| fixture::text_drift(&format!("control::facts::case_{i}"), &[0.6 + 0.01 * i as f32]))
            .collect();
        let decision = decide(&run, &Policy::default());
        let comparisons = Comparison::all(&run);
        let views = ControlsView::all(&run, &comparisons, &decision);
        let notes = views[0].notes.join("\n");
        for part in [
            "scenarios shown lost: facts (12 broken, 0 fixed)",
            "12 of 12 broken answers have \"{\\\"tool\\\": null}\", of base's 0",
            "spill-over: 12 of 12 control answers have the target's form json, of base's 0",
            "3 of 12 control answers repeat themselves, of base's 0",
            "control answers have 2 words on average, base's 9",
        ] {
            assert!(notes.contains(part), "{part}\n{notes}");
        }
        let remedy = views[0].remedy.as_deref().expect("a remedy");
        assert!(remedy.contains("[arms.smaller] with scale = 0.47"), "{remedy}");
        let rates = views[0].notes.last().expect("notes");
        assert_eq!(views[0].verdict.detection, None, "12 questions are fewer than any that were studied");
        assert!(!rates.starts_with("how often"), "{rates}");
        assert_eq!(views[0].rows[0][4], "shown lost");
        assert!(views[0].rows[0][3].ends_with('*'), "{:?}", views[0].rows[0]);
    }
}
