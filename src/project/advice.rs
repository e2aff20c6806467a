//! What published experience says of a recipe, once base and data are known.

use crate::config::Recipe;
use crate::model::{ModelFiles, spec_of};

/// Examples below which an adapter mostly learns their wording.
const FEW_EXAMPLES: usize = 200;
/// A rate above this multiple of the usual one is said to be high.
const HIGH: f64 = 2.0;

/// What a person should know of training by this recipe on this base with so many examples.
pub(super) fn notes(recipe: &Recipe, files: &ModelFiles, examples: usize) -> Vec<String> {
    let mut notes = Vec::new();
    if examples < FEW_EXAMPLES {
        notes.push(format!(
            "{examples} training examples are few: below {FEW_EXAMPLES} an adapter mostly learns their wording; 500 to 1000 clean ones are a good set"
        ));
    }
    // A family that only llama.cpp computes has no experience here.
    if let Ok(spec) = spec_of(files)
        && let Some(usual) = usual_rate(spec.family.name(), spec.hidden_size)
        && recipe.learning_rate > HIGH * usual
    {
        notes.push(format!(
            "learning_rate is {:e}: on {} of width {} about {:.1e} did best in published comparisons; higher rates forget more",
            recipe.learning_rate,
            spec.family.name(),
            spec.hidden_size,
            usual
        ));
    }
    notes
}

/// The rate that did best for LoRA on models of a family and width: 5e-4 · (2000/width)^p, p fitted by Thinking Machines on Llama and Qwen
/// ("LoRA Without Regret", 2025, and the `hyperparam_utils` of its cookbook). `None` of families without a fit.
fn usual_rate(family: &str, width: usize) -> Option<f64> {
    let power = match family {
        "llama" => 0.781,
        family if family.starts_with("qwen") => 0.0775,
        _ => return None,
    };
    Some(5e-4 * (2000.0 / width.max(1) as f64).powf(power))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_rate_falls_with_the_width_as_published() {
        // Llama 3.1 8B has a width of 4096; Qwen3 8B the same.
        let of = |family, width| usual_rate(family, width).expect("a fit");
        assert!((of("llama", 4096) - 2.857e-4).abs() < 1e-6, "{}", of("llama", 4096));
        assert!((of("qwen3", 4096) - 4.730e-4).abs() < 1e-6, "{}", of("qwen3", 4096));
        assert!((of("llama", 2000) - 5e-4).abs() < 1e-12);
        assert_eq!(usual_rate("bloom", 1024), None);
    }
}
