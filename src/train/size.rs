//! The memory that a training's state takes, known before any of it is allocated.

use crate::config::{Recipe, TargetModules};
use crate::error::{Error, Result};
use crate::model::architecture::outline::Outline;
use crate::plan::COPIES;
use crate::plan::hardware::available;

/// Refuses a recipe whose adapter, gradients and moments need more memory than this machine has.
///
/// # Errors
/// Says how much they need. On a system that does not tell its memory, nothing is refused.
pub(super) fn check(recipe: &Recipe, outline: &Outline) -> Result<()> {
    let needed = bytes(recipe, outline);
    match available() {
        Some(available) if needed > u128::from(available) => Err(too_large(recipe.lora_r, needed, available)),
        _ => Ok(()),
    }
}

fn bytes(recipe: &Recipe, outline: &Outline) -> u128 {
    let targets = recipe.targets();
    let chosen = |path: &str| match &targets {
        TargetModules::AllLinear => true,
        TargetModules::Named(names) => names.iter().any(|name| path.rsplit('.').next() == Some(name.as_str())),
    };
    let sides = outline.layers.iter().filter(|(path, _)| chosen(path));
    let features: u128 =
        sides.map(|(_, [out_features, in_features])| *out_features as u128 + *in_features as u128).sum();
    // A feature count is that of a file, so it is bounded; the product of three such numbers fits 128 bits.
    features * recipe.lora_r as u128 * size_of::<f32>() as u128 * u128::from(COPIES)
}

fn too_large(rank: usize, needed: u128, available: u64) -> Error {
    let gigabytes = |bytes: f64| format!("{:.1} GB", bytes / 1e9);
    Error::failed(format!(
        "[train] lora_r is {rank}: adapter, gradients and AdamW's moments need {}, and this process may use {}; lower lora_r, or \
         name fewer layers in lora_target_modules",
        gigabytes(needed as f64),
        gigabytes(available as f64)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_is_said() {
        let message = too_large(100_000, 14_200_000_000, 4_096_000_000).to_string();
        assert!(message.contains("lora_r is 100000") && message.contains("need 14.2 GB"), "{message}");
        assert!(message.contains("may use 4.1 GB"), "{message}");
    }
}
