//! Checks of an answer's JSON.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Number, Value};

use super::pattern::REGEX_SIZE;
use super::schema;
use crate::shown::{plain, quote};

/// A compiled JSON schema. `$ref` reaches only into the schema itself: nothing is fetched, no other file is read.
#[derive(Clone)]
pub struct Schema {
    name: String,
    validator: Arc<jsonschema::Validator>,
}

impl Schema {
    /// Compiles `schema`; `name` stands for it in messages. Patterns are matched in linear time.
    pub(super) fn new(name: impl Into<String>, schema: &Value) -> Result<Self, String> {
        schema::check(schema)?;
        let options = jsonschema::options()
            .with_pattern_options(jsonschema::PatternOptions::regex().size_limit(REGEX_SIZE))
            .should_validate_formats(true)
            .should_ignore_unknown_formats(false);
        let validator = options.build(schema).map_err(|error| {
            if let Some(why) = schema::pattern_fault(schema) {
                return why;
            }
            let at = error.instance_path().to_string();
            format!(
                "{}{}",
                if at.is_empty() { String::new() } else { format!("at {at}: ") },
                plain(&error.to_string(), 300)
            )
        })?;
        Ok(Self { name: name.into(), validator: Arc::new(validator) })
    }

    /// The schema's file, or the schema itself where it is short.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn misfit(&self, text: &str) -> Option<String> {
        let value = match parse(text) {
            Ok(value) => value,
            Err(found) => return Some(found),
        };
        let mut errors = self.validator.iter_errors(&value).map(|error| {
            let at = plain(&error.instance_path().to_string(), 80);
            let what = plain(&error.to_string(), 160);
            if at.is_empty() { what } else { format!("{at}: {what}") }
        });
        let shown: Vec<String> = errors.by_ref().take(3).collect();
        let more = errors.take(1000).count();
        match (shown.is_empty(), more) {
            (true, _) => None,
            (_, 0) => Some(shown.join("; ")),
            _ => Some(format!("{}; and {more} more", shown.join("; "))),
        }
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Schema").field(&self.name).finish()
    }
}

/// The JSON value that the whole answer is, or what is wrong with it.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    serde_json::from_str(text.trim()).map_err(|error| format!("not JSON ({error}): got {}", quote(text)))
}

/// The JSON object that the whole answer is, or what is wrong with it.
pub(super) fn object(text: &str) -> Result<Map<String, Value>, String> {
    match parse(text)? {
        Value::Object(object) => Ok(object),
        _ => Err(format!("not a JSON object: got {}", quote(text))),
    }
}

/// The fields that are not as expected, each with what was got.
pub(super) fn differing(object: &Map<String, Value>, expected: &Map<String, Value>) -> Option<String> {
    let wrong = |(name, expected): (&String, &Value)| match object.get(name) {
        Some(got) if same(got, expected) => None,
        Some(got) => Some(format!("{name}: got {}, expected {}", shown(got), shown(expected))),
        None => Some(format!("{name}: missing, expected {}", shown(expected))),
    };
    joined(expected.iter().filter_map(wrong).collect())
}

/// The fields that are not there, or not `null`.
pub(super) fn not_null(object: &Map<String, Value>, names: &[String]) -> Option<String> {
    let wrong = |name: &String| match object.get(name) {
        Some(Value::Null) => None,
        Some(got) => Some(format!("{name}: got {}, expected null", shown(got))),
        None => Some(format!("{name}: missing, expected null")),
    };
    joined(names.iter().filter_map(wrong).collect())
}

fn joined(wrong: Vec<String>) -> Option<String> {
    (!wrong.is_empty()).then(|| wrong.join("; "))
}

fn shown(value: &Value) -> String {
    plain(&value.to_string(), 80)
}

/// Equal, with numbers compared by value: `1` is `1.0`.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => same_number(a, b),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

fn same_number(a: &Number, b: &Number) -> bool {
    if a.is_f64() || b.is_f64() { a.as_f64() == b.as_f64() } else { a == b }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(map) => map,
            other => panic!("{other} is no object"),
        }
    }

    #[test]
    fn each_differing_field_is_listed_and_others_are_let_be() {
        let got = map(json!({"tool": "gcc", "line": "3", "extra": true}));
        let expected = map(json!({"tool": "gcc", "line": 3, "code": "E1"}));
        let failure = differing(&got, &expected).expect("two fields differ");
        assert_eq!(failure, r#"line: got "3", expected 3; code: missing, expected "E1""#);
        assert_eq!(differing(&got, &map(json!({"tool": "gcc"}))), None);
    }

    #[test]
    fn numbers_are_compared_by_value_at_any_depth() {
        let got = map(json!({"a": 1.0, "b": [1, {"c": 2.0}], "d": 9007199254740993_i64}));
        assert_eq!(differing(&got, &map(json!({"a": 1, "b": [1.0, {"c": 2}]}))), None);
        assert!(differing(&got, &map(json!({"b": [1, {"c": 3}]}))).is_some());
        assert!(differing(&got, &map(json!({"d": 9007199254740992_i64}))).is_some());
    }

    #[test]
    fn null_must_be_there_and_null() {
        let got = map(json!({"code": null, "line": 3}));
        assert_eq!(not_null(&got, &["code".into()]), None);
        let failure = not_null(&got, &["code".into(), "line".into(), "file".into()]);
        assert_eq!(failure.as_deref(), Some("line: got 3, expected null; file: missing, expected null"));
    }

    #[test]
    fn an_array_is_no_object() {
        assert_eq!(object("[1]").expect_err("an array"), "not a JSON object: got \"[1]\"");
    }

    #[test]
    fn a_schema_names_what_does_not_fit_and_where() {
        let schema = json!({"type": "object", "required": ["a", "b"], "properties": {"a": {"type": "integer"}}});
        let schema = Schema::new("s", &schema).expect("a schema");
        assert_eq!(schema.misfit(r#"{"a": 1, "b": 2}"#), None);
        let failure = schema.misfit(r#"{"a": "x"}"#).expect("a misfit");
        assert!(failure.contains("/a: ") && failure.contains("\"b\" is a required property"), "{failure}");
        assert!(schema.misfit("no").expect("a misfit").starts_with("not JSON"));
    }

    #[test]
    fn a_pattern_that_cannot_be_matched_in_linear_time_is_named() {
        let ahead = json!({"properties": {"a": {"pattern": "^(?!no)"}}});
        let why = Schema::new("s", &ahead).expect_err("look-ahead");
        assert!(why.starts_with("at /properties/a: the pattern '^(?!no)' has look-around"), "{why}");
        let big = json!({"patternProperties": {"^\\w{1000}{1000}$": true}});
        assert!(Schema::new("s", &big).expect_err("too big").contains("compiles to more than 10 MiB"));
        Schema::new("s", &json!({"pattern": "^\\w{1,30}$"})).expect("an ordinary pattern");
    }

    #[test]
    fn formats_are_checked() {
        let schema = Schema::new("s", &json!({"type": "string", "format": "email"})).expect("a schema");
        assert_eq!(schema.misfit("\"a@example.org\""), None);
        assert!(schema.misfit("\"hello\"").expect("a misfit").contains("email"));
        for format in ["date", "date-time", "uuid", "ipv4", "uri", "time", "hostname"] {
            let schema = Schema::new("s", &json!({"format": format})).expect(format);
            assert!(schema.misfit("\"-- no --\"").is_some(), "{format}");
        }
    }

    #[test]
    fn a_schema_that_is_none_or_reaches_outside_is_refused() {
        for bad in [
            json!({"type": "objekt"}),
            json!({"pattern": "("}),
            json!({"$ref": "https://example.com/schema.json"}),
            json!({"$ref": "file:///etc/hostname"}),
            json!({"$ref": "#/$defs/none"}),
        ] {
            assert!(Schema::new("s", &bad).is_err(), "{bad}");
        }
        assert!(Schema::new("s", &json!({"$ref": "#/$defs/a", "$defs": {"a": {"type": "null"}}})).is_ok());
    }
}
