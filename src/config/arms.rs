//! `[arms.NAME]`, and the keys that name arms.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use super::message::nearest;
use super::paths::under;
use super::places::Places;
use super::raw::RawArm;
use super::{ArmConfig, ArmSource};
use crate::error::Error;
use crate::record::{BASE, TUNED};

/// Arms besides base and tuned: each is asked every case.
const MOST_ARMS: usize = 16;
/// Largest factor on an adapter: above it, numbers in f32 run over.
const MOST_SCALE: f64 = 1e9;

/// The arms that a manifest names, checked.
pub(super) fn resolve(
    raw: BTreeMap<String, RawArm>,
    root: &Path,
    has_adapter: bool,
    places: &Places,
    errors: &mut Vec<Error>,
) -> Vec<ArmConfig> {
    if raw.len() > MOST_ARMS {
        errors.push(places.error("arms", format!("names {} arms, expected at most {MOST_ARMS}", raw.len())));
    }
    let arm = |(name, arm): (String, RawArm)| {
        let section = format!("arms.{name}");
        let mut fail = |message: &str| errors.push(places.error(&section, message));
        if name == BASE {
            fail("is the name of the untouched model, which is always asked; give the arm another name");
        } else if name == TUNED {
            fail("is the name of the project's own adapter, which [adapter] describes; give the arm another name");
        } else if !is_name(&name) {
            fail("is no name of an arm, expected 1 to 32 letters a to z, digits, - and _");
        }
        let scale = arm.scale;
        let source = source(arm, root).unwrap_or_else(|why| {
            fail(why);
            ArmSource::Own
        });
        if !has_adapter && source == ArmSource::Own {
            fail("is the project's own adapter, and there is neither [adapter] nor [train]");
        }
        check_scale(scale.unwrap_or(1.0), &format!("{section}.scale"), places, errors);
        ArmConfig { source, scale: scale.unwrap_or(1.0), line: places.line(&section), name }
    };
    raw.into_iter().map(arm).collect()
}

/// What an arm's adapter is, or why it is none.
fn source(arm: RawArm, root: &Path) -> Result<ArmSource, &'static str> {
    match (arm.adapter, arm.checkpoint) {
        (Some(_), Some(_)) => Err("has adapter and checkpoint, expected one of them"),
        (Some(path), None) if path.as_os_str().to_string_lossy().trim().is_empty() => {
            Err("adapter is empty; give a directory or a GGUF file")
        }
        (Some(path), None) => Ok(ArmSource::Adapter(under(root, path))),
        (None, Some(0)) => Err("checkpoint is 0, expected a step of the training, from 1 on"),
        (None, Some(step)) => Ok(ArmSource::Checkpoint(step)),
        (None, None) if arm.scale.is_some() => Ok(ArmSource::Own),
        (None, None) => Err(
            "is empty; say which adapter it is: adapter = \"DIR\", checkpoint = STEP, or scale = 0.5 for the project's own at \
             another scale",
        ),
    }
}

/// Refuses a factor on an adapter that changes nothing, or is no number to compute with.
pub(super) fn check_scale(scale: f64, key: &str, places: &Places, errors: &mut Vec<Error>) {
    if !scale.is_finite() || scale == 0.0 || scale.abs() > MOST_SCALE {
        let message = format!("is {scale}, expected a number from -{MOST_SCALE} to {MOST_SCALE} other than 0");
        errors.push(places.error(key, message));
    }
}

/// Checks a list of arms' names: each is there once, and `base` only in the list that `key` may name it in.
pub(super) fn check_names(names: &[String], key: &str, arms: &[ArmConfig], places: &Places, errors: &mut Vec<Error>) {
    let with_base = key == "run.snapshot_arms";
    let base = Some(BASE).filter(|_| with_base);
    let known: Vec<&str> = base.into_iter().chain([TUNED]).chain(arms.iter().map(|a| a.name.as_str())).collect();
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            errors.push(places.error(key, format!("names {name:?} twice")));
        } else if name == BASE && !with_base {
            errors.push(places.error(key, "names base, which the others are compared with and which is never gated"));
        } else if !known.contains(&name.as_str()) {
            let meant = nearest(name, known.iter().copied()).map(|near| format!("did you mean {near:?}?"));
            let meant = meant.unwrap_or_else(|| format!("there are {}", known.join(", ")));
            errors.push(places.error(key, format!("names {name:?}, and there is no such arm; {meant}")));
        }
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 32 && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn load(text: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("finetest.toml");
        std::fs::write(&path, format!("[model]\nsource = \"m\"\n[adapter]\npath = \"a\"\n{text}")).expect("a file");
        let shown = format!("{}:", path.display());
        Config::load(&path).map_err(|error| error.to_string().replace(&shown, ""))
    }

    #[test]
    fn an_arm_is_an_adapter_a_checkpoint_or_a_scale() {
        let config = load(
            "[arms.half]\nscale = 0.5\n[arms.early]\ncheckpoint = 50\n[arms.other]\nadapter = \"theirs\"\nscale = 2\n\
             [gate]\narms = [\"tuned\", \"half\"]\n[run]\nsnapshot_arms = [\"base\", \"early\"]\n",
        )
        .expect("a manifest");
        let arms: Vec<(&str, &ArmSource, f64)> =
            config.arms.iter().map(|arm| (arm.name.as_str(), &arm.source, arm.scale)).collect();
        let theirs = ArmSource::Adapter(config.root.join("theirs"));
        let expected =
            [("early", &ArmSource::Checkpoint(50), 1.0), ("half", &ArmSource::Own, 0.5), ("other", &theirs, 2.0)];
        assert_eq!(arms, expected);
        assert_eq!(config.gate.arms(), ["tuned", "half"]);
        assert_eq!(config.arms[1].line, Some(5));
    }

    #[test]
    fn arms_that_cannot_be_are_refused_with_their_line() {
        for (text, expected) in [
            ("[arms.base]\nscale = 2\n", "5: [arms.base] is the name of the untouched model"),
            ("[arms.tuned]\nscale = 2\n", "5: [arms.tuned] is the name of the project's own adapter"),
            ("[arms.x]\n", "5: [arms.x] is empty; say which adapter it is"),
            ("[arms.x]\nadapter = \"a\"\ncheckpoint = 3\n", "5: [arms.x] has adapter and checkpoint"),
            ("[arms.x]\nadapter = \" \"\n", "adapter is empty"),
            ("[arms.x]\ncheckpoint = 0\n", "checkpoint is 0"),
            ("[arms.x]\nscale = 0\n", "6: [arms.x] scale is 0"),
            ("[arms.\"X y\"]\nscale = 2\n", "is no name of an arm"),
            ("[arms.x]\nscale = 2\n[arms.x]\nscale = 3\n", "duplicate key"),
            ("[arms.x]\nsclae = 2\n", "6: [arms.x] has the unknown key `sclae`; known are adapter, checkpoint, scale"),
            ("[arms]\nx = 2\n", "6: [arms.x] is 2, expected a table"),
            ("[gate]\narms = [\"halff\"]\n[arms.half]\nscale = 0.5\n", "6: [gate] arms names \"halff\""),
            ("[gate]\narms = [\"base\"]\n", "never gated"),
            ("[gate]\narms = [\"tuned\", \"tuned\"]\n", "names \"tuned\" twice"),
            ("[run]\nsnapshot_arms = [\"tune\"]\n", "did you mean \"tuned\"?"),
            ("[run]\nsnapshot_arms = []\n", "names no arm"),
        ] {
            let message = load(text).expect_err(text);
            assert!(message.contains(expected), "{text}: {message}");
        }
    }
}
