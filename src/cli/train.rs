//! `finetest train`.

use super::progress::Display;
use super::{Global, config, json, json_line, print};
use crate::error::{Error, Result, exit};
use crate::project::{self, TrainPolicy};

pub(super) fn train(global: &Global, force: bool, events: bool) -> Result<u8> {
    let config = config(global)?;
    if config.recipe.is_none() {
        return Err(Error::input(&config.manifest, None, "[train] is missing: there is no recipe to train by"));
    }
    let policy = if force { TrainPolicy::Always } else { TrainPolicy::Auto };
    let mut display = if events { Display::json_lines() } else { Display::new(global.quiet) };
    let summary = project::train(&config, policy, &mut |event| display.show(&event));
    display.end()?;
    let summary = summary?;
    if events {
        json_line(&serde_json::json!({ "event": "training-finished", "summary": summary }))?;
        return Ok(exit::PASS);
    }
    if global.json {
        print(&json(&summary)?)?;
        return Ok(exit::PASS);
    }
    let text = match &summary.state {
        None => format!("{}: fits recipe, data and base; nothing to train\n", summary.directory),
        Some(state) => {
            let loss = state.log_history.iter().rev().find_map(|e| e.loss).unwrap_or_default();
            let validation = state.validations().last();
            let validation = validation.map_or_else(String::new, |(_, loss)| format!(", validation loss {loss:.4}"));
            format!(
                "{}: trained {} steps, last loss {loss:.4}{validation}\n  log   {}/trainer_state.json\n  plot  {}/loss.svg\n",
                summary.directory, state.global_step, summary.directory, summary.directory
            )
        }
    };
    print(&text)?;
    Ok(exit::PASS)
}
