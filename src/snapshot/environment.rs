//! What the environment says about approving answers: insta's own variables, and whether this is CI.

use crate::error::{Error, Result};

/// What insta takes as `INSTA_UPDATE`.
const UPDATES: [&str; 7] = ["auto", "always", "new", "unseen", "no", "force", "1"];

/// Refuses settings of insta that would make CI green, or approve answers there, without anybody having looked.
///
/// # Errors
/// In CI (`CI` set and not empty, `false` or `0`; or `TF_BUILD` set): `INSTA_FORCE_PASS`, and an `INSTA_UPDATE` that writes in
/// place (`always`, `force`, `unseen`, and the older spellings).
pub fn check_environment() -> Result<()> {
    check_variables(&variable)
}

fn variable(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

/// Whether this runs in CI: `CI` is set and not empty, `false` or `0`; or `TF_BUILD` is set.
pub(crate) fn is_ci() -> bool {
    says_ci(variable("CI").as_deref(), variable("TF_BUILD").is_some())
}

fn says_ci(ci: Option<&str>, azure: bool) -> bool {
    match ci {
        None => azure,
        Some(value) => !matches!(value, "" | "false" | "0"),
    }
}

pub(super) fn check_variables(variable: &dyn Fn(&str) -> Option<String>) -> Result<()> {
    if !says_ci(variable("CI").as_deref(), variable("TF_BUILD").is_some()) {
        return Ok(());
    }
    let refused: [(&str, &[&str]); 4] = [
        ("INSTA_FORCE_PASS", &["1"]),
        ("INSTA_UPDATE", &["always", "force", "unseen", "1"]),
        ("INSTA_FORCE_UPDATE", &["1"]),
        ("INSTA_FORCE_UPDATE_SNAPSHOTS", &["1"]),
    ];
    for (name, values) in refused {
        if let Some(value) = variable(name).filter(|v| values.contains(&v.as_str())) {
            return Err(Error::Usage(format!(
                "{name}={value} in CI would pass or approve answers that nobody has looked at; unset it here, and approve answers \
                 with `cargo insta review` where the run can be seen"
            )));
        }
    }
    Ok(())
}

/// Refuses to approve or reject answers where nobody looks at them, or where insta's settings say that nothing is written.
///
/// # Errors
/// In CI; with `INSTA_UPDATE=no`; and an `INSTA_UPDATE` that insta does not know.
pub(crate) fn check_writing() -> Result<()> {
    check_writing_with(&variable)
}

pub(super) fn check_writing_with(variable: &dyn Fn(&str) -> Option<String>) -> Result<()> {
    check_variables(variable)?;
    if let Some(ci) = ["CI", "TF_BUILD"].into_iter().find(|name| variable(name).is_some())
        && says_ci(variable("CI").as_deref(), variable("TF_BUILD").is_some())
    {
        return Err(Error::Usage(format!(
            "{ci} is set, and finetest approves no answers in CI, where nobody has seen them; run this on your machine, and commit \
             the snapshots"
        )));
    }
    match variable("INSTA_UPDATE").as_deref() {
        Some("no") => Err(Error::Usage(
            "INSTA_UPDATE=no says that no snapshot is written; unset it to accept or reject answers".into(),
        )),
        Some(other) if !other.is_empty() && !UPDATES.contains(&other) => Err(Error::Usage(format!(
            "INSTA_UPDATE={other} is not known, expected auto, always, new, unseen, no or force; correct it or unset it"
        ))),
        _ => Ok(()),
    }
}
