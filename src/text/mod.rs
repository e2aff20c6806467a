//! What can be seen of a text alone, whatever it is for: its language and script, and what broken models write.

mod code;
mod language;
mod pattern;
mod refusal;
mod repetition;
mod script;
mod tags;

pub(crate) use code::without_code;
pub use language::Language;
pub(crate) use pattern::pattern;
pub(crate) use refusal::refused;
pub(crate) use repetition::repeated;
pub use script::Writing;
pub(crate) use tags::leaked;
