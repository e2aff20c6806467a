//! The first control scenarios of a new project: general abilities that a small base has.

use super::NewFile;

/// Two control scenarios, for a model with a chat template or for raw text.
pub(super) fn scenarios(is_chat: bool) -> [NewFile; 2] {
    let (facts, instructions) = if is_chat {
        (include_str!("texts/facts.toml"), include_str!("texts/instructions.toml"))
    } else {
        (include_str!("texts/facts-raw.toml"), include_str!("texts/instructions-raw.toml"))
    };
    [NewFile::new("scenarios/facts.toml", facts), NewFile::new("scenarios/instructions.toml", instructions)]
}
