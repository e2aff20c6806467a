//! Two backends compared, for a terminal.

use crate::compare::crosscheck::{ArmCheck, CrossCheck, TemplateCheck, Token, TokenCheck};
use crate::report::paint::{Ink, Page, Piece, Style, clip, left, piece};

/// Width of the column of labels.
const LABEL: usize = 11;

/// Renders a cross-check; ends with its verdict.
#[must_use]
pub fn crosscheck(check: &CrossCheck, style: Style) -> String {
    let mut page = Page::new(style);
    page.line(&[piece(Ink::Bold, "crosscheck"), piece(Ink::Plain, format!("  {}", check.backends.join(" and ")))]);
    page.blank();
    tokens(&mut page, "tokenizer", "texts that are hard to cut", check.texts.as_ref());
    tokens(&mut page, "prompts", "prompts, rendered by the chat template, cut", check.prompts.as_ref());
    if let Some(check) = &check.template {
        template(&mut page, check);
    }
    for arm in &check.arms {
        one(&mut page, check, arm);
    }
    for flip in &check.flips {
        let [one, other] = flip.verdicts.map(|v| format!("{v:?}").to_lowercase());
        let near = if flip.near_tie { ", the answers part at a near-tie" } else { "" };
        let text = format!("{} of {}: {one} and {other}{near}", flip.arm, flip.case);
        row(&mut page, "verdict", Ink::Bad, &text);
    }
    for (what, why) in &check.errors {
        row(&mut page, "error", Ink::Bad, &format!("{what}: {}", clip(why, 600)));
    }
    page.blank();
    let problems = check.problems();
    for problem in &problems {
        page.wrapped(4, &[piece(Ink::Bad, "  ✗ "), piece(Ink::Plain, problem.as_str())]);
    }
    let (ink, word) = match (check.passed, problems.is_empty()) {
        (true, _) => (Ink::Good, "EQUAL"),
        (false, true) => (Ink::Bad, "INCOMPLETE"),
        (false, false) => (Ink::Bad, "DIFFERENT"),
    };
    let rest = if check.passed {
        "  the backends agree: what a run shows is the fine-tune".to_owned()
    } else if problems.is_empty() {
        "  the backends agree, but for what one of them could not compute".to_owned()
    } else {
        format!("  {} found: what a run shows may be the serving, not the fine-tune", count(problems.len()))
    };
    let of_llama_cpp = !check.how.at_least && check.how.distributions;
    if of_llama_cpp && !check.how.exact && !check.problems_of_arms().is_empty() {
        let hint = "crosscheck --exact runs llama.cpp on the same weights in f32: what is left there is not its rounding of activations";
        page.wrapped(4, &[piece(Ink::Dim, format!("  · {hint}"))]);
    }
    page.line(&[piece(ink, word), piece(Ink::Plain, rest)]);
    page.finish()
}

fn count(problems: usize) -> String {
    if problems == 1 { "1 difference".to_owned() } else { format!("{problems} differences") }
}

fn row(page: &mut Page, name: &str, ink: Ink, text: &str) {
    let pieces: [Piece; 2] = [piece(ink, format!("  {}", left(name, LABEL))), piece(Ink::Plain, text)];
    page.wrapped(LABEL + 2, &pieces);
}

fn tokens(page: &mut Page, name: &str, what: &str, check: Option<&TokenCheck>) {
    let Some(check) = check else {
        return row(page, name, Ink::Dim, "not compared: the server does not tell its tokens");
    };
    let ink = if check.different == 0 { Ink::Dim } else { Ink::Bad };
    row(page, name, ink, &format!("{} of {} {what} alike", check.texts - check.different, check.texts));
    for example in &check.examples {
        let [one, other] = example.tokens.each_ref().map(shown);
        let text = format!("{:?} parts at token {}: {one} and {other}", clip(&example.text, 60), example.at);
        row(page, "", Ink::Plain, &text);
    }
}

/// What is reported of it is no fault: prompts are rendered by finetest on both backends.
fn template(page: &mut Page, check: &TemplateCheck) {
    let (all, known) = (check.conversations, check.conversations - check.unknown);
    let text = match (known, check.different) {
        (0, _) => "not among the forms that llama.cpp has built in; its server renders with Jinja".to_owned(),
        (known, 0) => format!("{known} of {all} conversations rendered alike by llama.cpp's built-in form"),
        (known, different) => {
            let alike = known - different;
            format!(
                "{alike} of {all} conversations rendered alike by llama.cpp's built-in form; its server renders with Jinja"
            )
        }
    };
    row(page, "template", Ink::Dim, &text);
    if let Some([ours, theirs]) = &check.first {
        let text = format!("parts at {:?} and {:?}", clip(ours, 60), clip(theirs, 60));
        row(page, "", Ink::Plain, &text);
    }
}

fn one(page: &mut Page, check: &CrossCheck, arm: &ArmCheck) {
    let mut parts = Vec::new();
    if let (Some(same), Some(kl)) = (arm.same_top1, arm.kl_mean) {
        let least = if check.how.at_least { "at least " } else { "" };
        parts.push(format!(
            "same first choice {:.2} % of {} positions, KL {least}{kl:.2e} nats/token (largest {:.2e})",
            100.0 * same,
            arm.positions,
            arm.kl_max
        ));
    } else if let Some(same) = arm.same_top1 {
        parts.push(format!(
            "same first choice {:.2} % of {} tokens up to where answers part",
            100.0 * same,
            arm.positions
        ));
    }
    if arm.answers > 0 {
        let near = arm.answers - arm.same_answers - arm.clear_divergences;
        parts.push(format!("{} of {} answers the same, {near} part at a near-tie", arm.same_answers, arm.answers));
    }
    if arm.choices > 0 {
        parts.push(format!("{} choices at most {:.2e} nats/token apart", arm.choices, arm.choice_max));
    }
    if parts.is_empty() {
        parts.push("nothing to compare".to_owned());
    }
    let own = format!("{}: ", arm.arm);
    let ink =
        if check.problems_of_arms().iter().any(|problem| problem.starts_with(&own)) { Ink::Bad } else { Ink::Dim };
    row(page, &arm.arm, ink, &parts.join("; "));
    for parted in arm.divergences.iter().filter(|parted| !parted.is_near_tie()) {
        let [one, other] = parted.tokens.each_ref().map(shown);
        let how = parted.margin.map_or_else(|| "one of them ended".to_owned(), |nats| format!("{nats:.3} nats apart"));
        row(page, "", Ink::Plain, &format!("{} parts at token {}: {one} and {other}, {how}", parted.case, parted.at));
    }
}

fn shown(token: &Option<Token>) -> String {
    let text = |token: &Token| format!("{:?} ({})", clip(&token.text, 30), token.id);
    token.as_ref().map_or_else(|| "the end".to_owned(), text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::compare::crosscheck::{Divergence, How, Limits, TokenDifference, VerdictFlip};
    use crate::record::Verdict;

    fn token(id: u32, text: &str) -> Token {
        Token { id, text: text.to_owned() }
    }

    fn arm(same_top1: f64) -> ArmCheck {
        ArmCheck {
            arm: "tuned".into(),
            answers: 3,
            same_answers: 2,
            positions: 400,
            kl_mean: Some(1.5e-4),
            kl_max: 0.02,
            same_top1: Some(same_top1),
            choices: 8,
            choice_max: 3e-4,
            divergences: vec![Divergence {
                case: "control::facts::france".into(),
                at: 7,
                tokens: [Some(token(11, " yes")), None],
                margin: None,
            }],
            clear_divergences: 1,
        }
    }

    fn check(same_top1: f64) -> CrossCheck {
        let tokens = [Some(token(3, "\u{1b}[")), Some(token(4, "["))];
        let texts = TokenCheck {
            texts: 40,
            different: 1,
            examples: vec![TokenDifference { text: "a\u{1b}[2J".into(), at: 1, tokens }],
        };
        let verdicts = [Verdict::Passed, Verdict::Failed];
        CrossCheck {
            backends: ["candle 0.11".into(), "llama-cpp 0.1.160".into()],
            how: How { exact: false, distributions: true, at_least: false },
            limits: Limits::default(),
            texts: Some(texts),
            prompts: Some(TokenCheck { texts: 85, ..TokenCheck::default() }),
            template: Some(TemplateCheck {
                conversations: 41,
                unknown: 0,
                different: 1,
                first: Some(["\u{1b}[2J".into(), "<end>".into()]),
            }),
            arms: vec![arm(same_top1)],
            flips: vec![VerdictFlip {
                case: "control::facts::france".into(),
                arm: "tuned".into(),
                verdicts,
                near_tie: true,
            }],
            errors: BTreeMap::new(),
            passed: false,
        }
    }

    #[test]
    fn differences_are_told_and_nothing_reaches_the_terminal_raw() {
        let text = crosscheck(&check(0.98), Style { color: false, width: 100 });
        for part in [
            "candle 0.11 and llama-cpp 0.1.160",
            "39 of 40 texts",
            "85 of 85 prompts",
            "40 of 41 conversations",
            "98.00 % of 400",
            "8 choices at most 3.00e-4",
            "at token 7: \" yes\" (11) and the end",
            "passed and failed, the answers part at a near-tie",
            "DIFFERENT  3 differences",
            "crosscheck --exact",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        let errors =
            BTreeMap::from([("tuned at facts::france on llama-cpp".to_owned(), "GGML_ASSERT\u{1b}".to_owned())]);
        let texts = Some(TokenCheck::default());
        let incomplete = CrossCheck { errors, texts, flips: Vec::new(), ..check(1.0) };
        let told = crosscheck(&incomplete, Style { color: false, width: 100 });
        assert!(told.contains("error") && told.contains("france on llama-cpp: GGML_ASSERT"), "{told}");
        assert!(told.contains("INCOMPLETE") && !told.contains('\u{1b}'), "{told}");
        // Nothing is left to be exact about, or it is not the rounding.
        let exact = CrossCheck { how: How { exact: true, ..check(0.98).how }, ..check(0.98) };
        let texts = CrossCheck { flips: Vec::new(), ..check(1.0) };
        for check in [exact, texts] {
            let text = crosscheck(&check, Style { color: false, width: 100 });
            assert!(text.contains("DIFFERENT") && !text.contains("--exact"), "{text}");
        }
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn what_a_server_does_not_tell_is_said() {
        let how = How { exact: false, distributions: true, at_least: true };
        let told = crosscheck(&CrossCheck { how, texts: None, ..check(0.98) }, Style { color: false, width: 100 });
        assert!(told.contains("not compared: the server") && told.contains("KL at least 1.50e-4"), "{told}");
        assert!(!told.contains("--exact"), "{told}");
        let mut answers = CrossCheck { how: How { distributions: false, ..how }, ..check(0.98) };
        answers.arms[0].kl_mean = None;
        let told = crosscheck(&answers, Style { color: false, width: 100 });
        let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(told.contains("of 400 tokens up to where answers part") && !told.contains("KL"), "{told}");
    }
}
