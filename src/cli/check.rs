//! `finetest check`.

use super::json;
use super::options::{Global, ListFormat, Output, Subject};
use crate::error::{Result, exit};
use crate::project::{self, Checkup, Estimate, State};
use crate::shown::visible;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    subject: Subject,
    #[command(flatten)]
    output: Output<ListFormat>,
}

pub(super) fn check(global: &Global, args: &Args) -> Result<u8> {
    let config = args.subject.project(global)?;
    args.output.check(Some(&config))?;
    let checkup = project::check(&config);
    args.output.print(&match args.output.format() {
        ListFormat::Json => json(&checkup)?,
        ListFormat::Terminal => visible(&text(&checkup)).into_owned(),
    })?;
    Ok(if checkup.is_good() { exit::PASS } else { exit::ERROR })
}

fn text(checkup: &Checkup) -> String {
    let mut text = String::new();
    for finding in &checkup.findings {
        let sign = match finding.state {
            State::Good => '✓',
            State::Note => '!',
            State::Error => '✗',
        };
        let mut lines = finding.text.lines();
        text.push_str(&format!("{sign} {:<10} {}\n", finding.part, lines.next().unwrap_or_default()));
        lines.for_each(|line| text.push_str(&format!("             {line}\n")));
    }
    if let Some(estimate) = &checkup.estimate {
        text.push_str(&format!("~ {:<10} {}\n", "estimate", shown(estimate)));
    }
    text
}

/// `about 0.4 GB of memory; training 6 min, then at most 50 s to answer`.
fn shown(estimate: &Estimate) -> String {
    let memory = format!("about {:.1} GB of memory", estimate.memory as f64 / 1e9);
    let run = format!("at most about {} to run, less if answers are cached", time(estimate.run_seconds));
    if estimate.train_seconds > 0.0 {
        format!("{memory}; about {} to train, if it has to be; {run}", time(estimate.train_seconds))
    } else {
        format!("{memory}; {run}")
    }
}

/// In one unit, rounded as roughly as it is known.
pub(super) fn time(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => "10 s".to_owned(),
        s if s < 90.0 => format!("{:.0} s", (s / 10.0).ceil() * 10.0),
        s if s < 5400.0 => format!("{:.0} min", (s / 60.0).ceil()),
        s if s < 172_800.0 => format!("{:.0} h", (s / 3600.0).ceil()),
        s => format!("{:.0} days", (s / 86_400.0).ceil()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_up_to_one_unit() {
        let shown: Vec<String> = [0.2, 41.0, 100.0, 6000.0, 1e6].into_iter().map(time).collect();
        assert_eq!(shown, ["10 s", "50 s", "2 min", "2 h", "12 days"]);
    }
}
