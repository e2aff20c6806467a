//! Manifests, arguments and paths.
