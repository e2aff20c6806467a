//! What goes wrong with some models and not with others. Each trap is one entry, from which its documentation is made.

mod files;
mod shape;

use super::subject::Subject;

/// Something that goes wrong with some models.
pub struct Trap {
    /// As output and documentation name it.
    pub name: &'static str,
    /// What goes wrong, and why.
    pub why: &'static str,
    /// What to do about it.
    pub remedy: &'static str,
    /// What of a model shows that it has it; `None` of one that has it not.
    find: fn(&Subject) -> Option<String>,
}

/// A trap that a model has.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct FoundTrap {
    /// The trap's name.
    pub name: &'static str,
    /// What of the model shows it.
    pub seen: String,
    /// What goes wrong, and why.
    pub why: &'static str,
    /// What to do about it.
    pub remedy: &'static str,
    /// Where the documentation says more.
    pub docs: String,
}

/// Every trap, in the order of the documentation: first what a model is, then what its files say.
pub fn traps() -> impl Iterator<Item = &'static Trap> {
    shape::TRAPS.iter().chain(&files::TRAPS)
}

/// Those that a model has.
pub(super) fn found(subject: &Subject) -> Vec<FoundTrap> {
    let found = |trap: &'static Trap| {
        let seen = (trap.find)(subject)?;
        let docs = format!("docs/reference/model-traps.md#{}", trap.name);
        Some(FoundTrap { name: trap.name, seen, why: trap.why, remedy: trap.remedy, docs })
    };
    traps().filter_map(found).collect()
}
