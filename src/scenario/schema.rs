//! What a JSON schema of a check may say: keywords and formats that are checked, and no more than can be compiled.
//!
//! JSON Schema passes over keywords and formats that it does not know, and so a slip would be a check that cannot fail. Here they
//! are refused.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::pattern;
use crate::config::nearest;
use crate::shown::plain;

/// Schemas that one schema may come to when each `$ref` is written out: what compiling and checking it take grows with them.
const MOST_SCHEMAS: usize = 10_000;

/// What stands under a keyword.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// No schema: a number, a list of names, values.
    Data,
    /// A schema of the same value.
    Same,
    /// Several schemas of the same value.
    SameList,
    /// Schemas of the same value by the name of a field, or lists of names.
    SameMap,
    /// A schema of a part of the value, or a list of them.
    Part,
    /// Schemas of parts of the value, or definitions, by name.
    PartMap,
    /// Nothing that is checked: notes, names.
    Note,
}

const KEYWORDS: [(&str, Holds); 57] = [
    ("$schema", Holds::Note),
    ("$id", Holds::Note),
    ("id", Holds::Note),
    ("$anchor", Holds::Note),
    ("$dynamicAnchor", Holds::Note),
    ("$recursiveAnchor", Holds::Note),
    ("$vocabulary", Holds::Note),
    ("$comment", Holds::Note),
    ("title", Holds::Note),
    ("description", Holds::Note),
    ("default", Holds::Note),
    ("examples", Holds::Note),
    ("deprecated", Holds::Note),
    ("readOnly", Holds::Note),
    ("writeOnly", Holds::Note),
    ("$defs", Holds::PartMap),
    ("definitions", Holds::PartMap),
    ("$ref", Holds::Data),
    ("$dynamicRef", Holds::Data),
    ("$recursiveRef", Holds::Data),
    ("type", Holds::Data),
    ("enum", Holds::Data),
    ("const", Holds::Data),
    ("multipleOf", Holds::Data),
    ("maximum", Holds::Data),
    ("exclusiveMaximum", Holds::Data),
    ("minimum", Holds::Data),
    ("exclusiveMinimum", Holds::Data),
    ("maxLength", Holds::Data),
    ("minLength", Holds::Data),
    ("pattern", Holds::Data),
    ("format", Holds::Data),
    ("maxItems", Holds::Data),
    ("minItems", Holds::Data),
    ("uniqueItems", Holds::Data),
    ("maxContains", Holds::Data),
    ("minContains", Holds::Data),
    ("maxProperties", Holds::Data),
    ("minProperties", Holds::Data),
    ("required", Holds::Data),
    ("dependentRequired", Holds::Data),
    ("properties", Holds::PartMap),
    ("patternProperties", Holds::PartMap),
    ("additionalProperties", Holds::Part),
    ("propertyNames", Holds::Part),
    ("unevaluatedProperties", Holds::Part),
    ("items", Holds::Part),
    ("prefixItems", Holds::Part),
    ("contains", Holds::Part),
    ("unevaluatedItems", Holds::Part),
    ("dependentSchemas", Holds::SameMap),
    ("allOf", Holds::SameList),
    ("anyOf", Holds::SameList),
    ("oneOf", Holds::SameList),
    ("not", Holds::Same),
    ("if", Holds::Same),
    ("then", Holds::Same),
];

/// `else`, and what drafts up to 2019-09 have besides.
const MORE: [(&str, Holds, bool); 5] = [
    ("else", Holds::Same, false),
    ("dependencies", Holds::SameMap, false),
    ("additionalItems", Holds::Part, true),
    ("contentEncoding", Holds::Data, true),
    ("contentMediaType", Holds::Data, true),
];

/// Formats that are checked.
const FORMATS: [&str; 17] = [
    "date",
    "date-time",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "iri",
    "iri-reference",
    "json-pointer",
    "regex",
    "relative-json-pointer",
    "time",
    "uri",
    "uri-reference",
    "uri-template",
    "uuid",
];

/// Refuses a schema with something that would not be checked, or that is too large once its references are followed.
///
/// # Errors
/// The first of them, with its place in the schema.
pub(super) fn check(schema: &Value) -> Result<(), String> {
    let root = schema.as_object();
    if let Some(root) = root
        && !root.keys().any(|key| holds(key, old(schema)).is_none_or(|holds| holds != Holds::Note && !is_store(key)))
    {
        return Err("no keyword of it could fail; for an answer that is any JSON, write the check \"json\"".into());
    }
    let mut walk = Walk::new(schema);
    walk.keywords(schema, &mut Vec::new())?;
    let size = walk.size(schema, &mut HashSet::new());
    if size > MOST_SCHEMAS {
        return Err(format!(
            "it is too large: with each $ref written out it has more than {MOST_SCHEMAS} schemas; refer to a schema from fewer places"
        ));
    }
    Ok(())
}

/// Which pattern of a schema that cannot be compiled is at fault, and why, if one is.
pub(super) fn pattern_fault(schema: &Value) -> Option<String> {
    let mut walk = Walk { patterns: true, ..Walk::new(schema) };
    walk.keywords(schema, &mut Vec::new()).err()
}

/// Whether a schema says that it is of a draft before 2020-12.
fn old(schema: &Value) -> bool {
    let draft = schema.get("$schema").and_then(Value::as_str).unwrap_or_default();
    ["draft-03", "draft-04", "draft-06", "draft-07", "2019-09"].iter().any(|name| draft.contains(name))
}

fn is_store(keyword: &str) -> bool {
    ["$defs", "definitions"].contains(&keyword)
}

fn holds(keyword: &str, old: bool) -> Option<Holds> {
    let known = KEYWORDS.iter().find(|(name, _)| *name == keyword).map(|(_, holds)| *holds);
    let more =
        || MORE.iter().find(|(name, _, of_old)| *name == keyword && (old || !of_old)).map(|(_, holds, _)| *holds);
    // OpenAPI's and others' own notes.
    known.or_else(more).or_else(|| keyword.starts_with("x-").then_some(Holds::Note))
}

/// A schema inside another.
struct Inner<'s> {
    at: [&'s str; 2],
    schema: &'s Value,
    /// It is of the same value, not of a part of it.
    same: bool,
}

struct Walk<'s> {
    root: &'s Value,
    /// Schemas by `$id` and `#anchor`.
    named: HashMap<String, &'s Value>,
    old: bool,
    /// Patterns are looked at too. Compiling one takes long, so it is done once more only when something is wrong.
    patterns: bool,
    sizes: HashMap<*const Value, usize>,
    /// Those that are known to end.
    done: HashSet<*const Value>,
}

impl<'s> Walk<'s> {
    fn new(root: &'s Value) -> Self {
        let (sizes, done) = (HashMap::new(), HashSet::new());
        Self { root, named: HashMap::new(), old: old(root), patterns: false, sizes, done }
    }

    fn inner(&self, schema: &'s Map<String, Value>) -> Vec<Inner<'s>> {
        let mut found = Vec::new();
        for (key, value) in schema {
            let same = |holds| matches!(holds, Holds::Same | Holds::SameList | Holds::SameMap);
            let Some(holds) = holds(key, self.old) else { continue };
            match (holds, value) {
                (Holds::Data | Holds::Note, _) => {}
                (Holds::SameMap | Holds::PartMap, Value::Object(map)) => {
                    found.extend(map.iter().map(|(name, schema)| Inner { at: [key, name], schema, same: same(holds) }));
                }
                (_, Value::Array(list)) => {
                    found.extend(list.iter().map(|schema| Inner { at: [key, ""], schema, same: same(holds) }));
                }
                (_, schema) => found.push(Inner { at: [key, ""], schema, same: same(holds) }),
            }
        }
        found
    }

    /// Checks keywords, formats and patterns, notes the names that a `$ref` may use, and follows what is of the same value.
    fn keywords(&mut self, schema: &'s Value, path: &mut Vec<&'s str>) -> Result<(), String> {
        let Value::Object(map) = schema else { return Ok(()) };
        let here = |path: &[&str], what: String| {
            if path.is_empty() { what } else { format!("at /{}: {what}", plain(&path.join("/"), 120)) }
        };
        for (key, value) in map {
            if holds(key, self.old).is_none() {
                return Err(here(path, unknown(key, self.old)));
            }
            let told = match (key.as_str(), value) {
                ("format", Value::String(name)) => format(name),
                ("pattern", Value::String(text)) if self.patterns => pattern::check_in_schema(text),
                ("patternProperties", Value::Object(map)) if self.patterns => {
                    map.keys().try_for_each(|text| pattern::check_in_schema(text))
                }
                _ => Ok(()),
            };
            told.map_err(|message| here(path, message))?;
        }
        for (key, prefix) in [("$id", ""), ("id", ""), ("$anchor", "#"), ("$dynamicAnchor", "#")] {
            if let Some(Value::String(name)) = map.get(key) {
                self.named.insert(format!("{prefix}{name}"), schema);
            }
        }
        for Inner { at, schema, .. } in self.inner(map) {
            let depth = path.len();
            path.extend(at.iter().filter(|part| !part.is_empty()));
            self.keywords(schema, path)?;
            path.truncate(depth);
        }
        if path.is_empty() {
            self.endings(schema)?;
        }
        Ok(())
    }

    /// Checks that each schema of the whole comes to an end on one value.
    fn endings(&mut self, schema: &'s Value) -> Result<(), String> {
        self.ends(schema, &mut HashSet::new())?;
        let Value::Object(map) = schema else { return Ok(()) };
        for inner in self.inner(map) {
            self.endings(inner.schema)?;
        }
        Ok(())
    }

    fn ends(&mut self, schema: &'s Value, open: &mut HashSet<*const Value>) -> Result<(), String> {
        let Value::Object(map) = schema else { return Ok(()) };
        let key = std::ptr::from_ref(schema);
        if self.done.contains(&key) {
            return Ok(());
        }
        if !open.insert(key) {
            return Err("a $ref of it leads back to itself without going into a part of the answer".into());
        }
        let same = self.inner(map).into_iter().filter(|inner| inner.same).map(|inner| inner.schema);
        for next in same.chain(self.referred(map)).collect::<Vec<_>>() {
            self.ends(next, open)?;
        }
        open.remove(&key);
        self.done.insert(key);
        Ok(())
    }

    /// How many schemas this one comes to with its references written out, one that is inside itself counted once.
    fn size(&mut self, schema: &'s Value, open: &mut HashSet<*const Value>) -> usize {
        let Value::Object(map) = schema else { return 1 };
        let key = std::ptr::from_ref(schema);
        if let Some(size) = self.sizes.get(&key) {
            return *size;
        }
        if !open.insert(key) {
            return 1;
        }
        let inner: Vec<&Value> = self.inner(map).into_iter().map(|inner| inner.schema).collect();
        let mut size = 1_usize;
        for next in inner.into_iter().chain(self.referred(map)) {
            size = size.saturating_add(self.size(next, open));
        }
        open.remove(&key);
        self.sizes.insert(key, size);
        size
    }

    /// What the references of a schema lead to, where it is inside the schema. Nothing else is read, and compiling says so.
    fn referred(&self, map: &'s Map<String, Value>) -> Vec<&'s Value> {
        let names = ["$ref", "$dynamicRef", "$recursiveRef"].into_iter();
        names.filter_map(|key| self.target(map.get(key)?.as_str()?)).collect()
    }

    fn target(&self, reference: &str) -> Option<&'s Value> {
        if let Some(named) = self.named.get(reference) {
            return Some(named);
        }
        let (base, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let start = if base.is_empty() { self.root } else { self.named.get(base)? };
        match fragment {
            "" => Some(start),
            pointer if pointer.starts_with('/') => start.pointer(&pointer.replace("%25", "%")),
            anchor => self.named.get(&format!("#{anchor}")).copied(),
        }
    }
}

fn unknown(key: &str, old: bool) -> String {
    let shown = plain(key, 60);
    let known = KEYWORDS.iter().map(|(name, _)| *name).chain(MORE.iter().filter(|m| old || !m.2).map(|m| m.0));
    match nearest(key, known) {
        Some(near) => {
            format!("has the unknown keyword \"{shown}\", which would not be checked; did you mean \"{near}\"?")
        }
        None => format!(
            "has the unknown keyword \"{shown}\", which would not be checked; fields of an answer stand under \"properties\""
        ),
    }
}

fn format(name: &str) -> Result<(), String> {
    if FORMATS.contains(&name) {
        return Ok(());
    }
    let shown = plain(name, 60);
    let advice = match nearest(name, FORMATS) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("known are {}; for another form use \"pattern\"", FORMATS.join(", ")),
    };
    Err(format!("has the format \"{shown}\", which is not known and would not be checked; {advice}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn refused(schema: &Value, with: &str) {
        let message = check(schema).expect_err("it is refused");
        assert!(message.contains(with), "{message}");
    }

    #[test]
    fn what_would_not_be_checked_is_refused_by_name() {
        refused(&json!({"type": "object", "requierd": ["a"]}), "unknown keyword \"requierd\"");
        refused(&json!({"type": "object", "requierd": ["a"]}), "did you mean \"required\"?");
        refused(&json!({"answer": "a"}), "stand under \"properties\"");
        refused(
            &json!({"properties": {"a": {"items": {"maxlen": 3}}}}),
            "at /properties/a/items: has the unknown keyword",
        );
        refused(&json!({"anyOf": [{"tpye": "string"}]}), "at /anyOf: ");
        refused(&json!({"type": "string", "format": "emaill"}), "did you mean \"email\"?");
        refused(&json!({"type": "string", "format": "iban"}), "known are date");
        refused(&json!({"contentMediaType": "application/json"}), "unknown keyword");
        for empty in [json!({}), json!({"title": "t"}), json!({"$defs": {"a": {"type": "null"}}})] {
            refused(&empty, "write the check \"json\"");
        }
    }

    #[test]
    fn what_is_checked_is_let_be() {
        for schema in [
            json!({"type": "object", "properties": {"answer": {"type": "string"}, "if": {"const": 1}}, "required": ["answer"]}),
            json!({"$schema": "http://json-schema.org/draft-07/schema#", "contentMediaType": "application/json"}),
            json!({"enum": [{"anything": "goes"}], "default": {"here": "too"}, "x-note": 3}),
            json!({"dependencies": {"a": ["b"], "c": {"required": ["d"]}}}),
            json!({"if": {"type": "null"}, "then": true, "else": {"minimum": 3}}),
            json!(true),
            json!({"type": "string", "format": "date-time", "pattern": "^\\w{1,30}$"}),
            json!({"$ref": "#/$defs/node", "$defs": {"node": {"properties": {"next": {"$ref": "#/$defs/node"}}}}}),
        ] {
            assert_eq!(check(&schema), Ok(()), "{schema}");
        }
    }

    /// Definitions `d0` to `dn`, each of which refers to the next one twice.
    fn doubling(n: usize, reference: &dyn Fn(usize) -> String, named: bool) -> Value {
        let mut definitions = Map::new();
        for i in 0..n {
            let next = json!({"$ref": reference(i + 1)});
            definitions.insert(format!("d{i}"), json!({"anyOf": [next.clone(), next]}));
        }
        definitions.insert(format!("d{n}"), json!({"type": "null"}));
        if named {
            for (name, definition) in &mut definitions {
                definition["$anchor"] = json!(name);
            }
        }
        json!({"$ref": reference(0), "$defs": definitions})
    }

    #[test]
    fn references_that_multiply_are_refused_before_they_are_compiled() {
        let pointer = |i| format!("#/$defs/d{i}");
        refused(&doubling(30, &pointer, false), "too large");
        refused(&doubling(30, &|i| format!("#d{i}"), true), "too large");
        assert_eq!(check(&doubling(8, &pointer, false)), Ok(()));
    }

    #[test]
    fn a_schema_that_never_ends_on_one_value_is_refused() {
        refused(&json!({"$ref": "#"}), "leads back to itself");
        refused(
            &json!({"anyOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"not": {"$ref": "#"}}}}),
            "leads back to itself",
        );
        let tree = json!({"type": "object", "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}});
        assert_eq!(check(&tree), Ok(()));
    }
}
