//! The JSON Schemas of a project's files, for editors.

use std::path::Path;

use crate::files::{read_own, write_atomically};

/// Of `finetest.toml`.
pub(crate) const MANIFEST_SCHEMA: &str = include_str!("../../schemas/manifest.schema.json");
/// Of a scenario file.
pub(crate) const SCENARIO_SCHEMA: &str = include_str!("../../schemas/scenario.schema.json");
/// Of `run.json`.
pub(crate) const RUN_SCHEMA: &str = include_str!("../../schemas/run.schema.json");

/// First line of a manifest at a project's root, by which an editor finds its schema.
pub(crate) const MANIFEST_LINE: &str = "#:schema .finetest/schemas/manifest.schema.json\n";
/// First line of a scenario file in a folder at the root.
pub(crate) const SCENARIO_LINE: &str = "#:schema ../.finetest/schemas/scenario.schema.json\n";

/// Writes the schemas of this version into a project's store, where they are not. Without them a run is worth the same.
pub(crate) fn write_schemas(store: &Path) {
    for (name, schema) in [("manifest", MANIFEST_SCHEMA), ("scenario", SCENARIO_SCHEMA)] {
        let path = store.join("schemas").join(format!("{name}.schema.json"));
        if read_own(&path).is_ok_and(|there| there == schema.as_bytes()) || path.is_symlink() {
            continue;
        }
        let written = path.parent().is_some_and(|folder| std::fs::create_dir_all(folder).is_ok());
        if written {
            let _ = write_atomically(&path, schema.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_are_written_where_they_are_not_and_no_link_is_followed() {
        let store = tempfile::tempdir().expect("a folder");
        let path = |name: &str| store.path().join("schemas").join(format!("{name}.schema.json"));
        write_schemas(store.path());
        assert_eq!(std::fs::read_to_string(path("manifest")).expect("a schema"), MANIFEST_SCHEMA);
        std::fs::write(path("scenario"), "old").expect("written");
        write_schemas(store.path());
        assert_eq!(std::fs::read_to_string(path("scenario")).expect("a schema"), SCENARIO_SCHEMA);
        #[cfg(unix)]
        {
            let elsewhere = store.path().join("elsewhere");
            std::fs::remove_file(path("manifest")).expect("removed");
            std::os::unix::fs::symlink(&elsewhere, path("manifest")).expect("a link");
            write_schemas(store.path());
            assert!(!elsewhere.exists());
        }
    }
}
