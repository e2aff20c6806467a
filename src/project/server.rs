//! The server that a project names.

use std::sync::Arc;

use crate::backend::Remote;
use crate::config::{BackendName, Config};
use crate::error::{Error, Result};
use crate::record::TUNED;

/// The backend `remote` is named where no address is.
pub(super) const NO_SERVER: &str = "the backend is remote, and the manifest names no server; give its address: [backend] url = \"http://localhost:8000\"";

/// Reaches the server of a project whose backend it is, which has to have every arm's adapter.
///
/// # Errors
/// No address is given; as [`Remote::connect`].
pub(super) fn reach(config: &Config) -> Result<Option<Arc<Remote>>> {
    if config.backend != BackendName::Remote {
        return Ok(None);
    }
    let remote = config.remote.as_ref().ok_or_else(|| Error::Usage(NO_SERVER.into()))?;
    let own = config.adapter.as_ref().map_or(1.0, |adapter| adapter.scale);
    let further = config.arms.iter().map(|arm| (arm.name.clone(), arm.scale));
    let arms: Vec<(String, f64)> = std::iter::once((TUNED.to_owned(), own)).chain(further).collect();
    Remote::connect(remote, &arms).map(|remote| Some(Arc::new(remote)))
}
