//! Scenario files, patterns and schemas.
