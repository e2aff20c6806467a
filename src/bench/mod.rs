//! What `benches/` measures and no public function reaches. No part of the crate's interface.

pub mod ops;
pub mod speed;
