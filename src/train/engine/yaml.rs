//! YAML as the engines read it. PyYAML takes `1e-8` for a text, so numbers have no exponent.

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Yaml {
    Text(String),
    Count(usize),
    Number(f64),
    Flag(bool),
    /// Written on one line, as JSON is.
    Json(serde_json::Value),
}

impl Yaml {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }
}

impl std::fmt::Display for Yaml {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            // A JSON text is a YAML text in double quotes.
            Self::Text(text) => write!(f, "{}", serde_json::Value::from(text.as_str())),
            Self::Count(count) => write!(f, "{count}"),
            Self::Number(number) if number.fract() == 0.0 => write!(f, "{number:.1}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Json(value) => write!(f, "{value}"),
        }
    }
}

/// A file of these keys.
pub(super) fn text(keys: &[(String, Yaml)]) -> String {
    let line = |(key, value): &(String, Yaml)| format!("{key}: {value}\n");
    let head = "# Written by finetest out of [train]; it is overwritten by the next training.\n".to_owned();
    head + &keys.iter().map(line).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_no_exponent_and_texts_are_quoted() {
        for (value, expected) in [
            (Yaml::Number(1e-8), "0.00000001"),
            (Yaml::Number(2e-4), "0.0002"),
            (Yaml::Number(1.0), "1.0"),
            (Yaml::Number(0.0), "0.0"),
            (Yaml::Count(3), "3"),
            (Yaml::text("a: \"b\"\n#"), "\"a: \\\"b\\\"\\n#\""),
            (Yaml::Flag(true), "true"),
            (Yaml::Json(serde_json::json!([{"a": null}])), "[{\"a\":null}]"),
        ] {
            assert_eq!(value.to_string(), expected);
        }
    }
}
