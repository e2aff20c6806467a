//! What a template computes with: values of bounded depth and size, and the functions that cost more than minijinja charges for.

use std::cell::Cell;

use minijinja::value::{Kwargs, ObjectRepr, Rest, StringInput, Tuple, Value, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, Output, State};

use super::source::{HELD, KEPT};

/// Values within values.
const MOST_DEPTH: usize = 64;
/// Values within a value that has a name, besides what the messages need.
const MOST_PARTS: usize = 4096;
/// Bytes of a text that has a name, besides what the messages need.
const MOST_BYTES: usize = 1 << 18;
/// Bytes of text that count as one value, and that one unit of the budget pays for.
const BYTES_OF_A_PART: usize = 64;
/// Parts of a value that are looked at for one unit of the budget.
const PARTS_OF_A_UNIT: usize = 8;
/// Width of a formatted value.
const MOST_WIDTH: usize = 10_000;
/// Spaces of a level of JSON.
const MOST_INDENT: usize = 16;
/// Characters that a text is stripped of.
const MOST_STRIPPED: usize = 256;

thread_local! {
    /// What the messages of this rendering take.
    static MESSAGES: Cell<Size> = const { Cell::new(Size { parts: 0, bytes: 0 }) };
}

/// How large values are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Size {
    pub(super) parts: usize,
    pub(super) bytes: usize,
}

impl Size {
    /// With what a value of JSON takes beside it.
    pub(super) fn with(self, value: &serde_json::Value) -> Self {
        use serde_json::Value;
        let here = Self { parts: self.parts + 1, bytes: self.bytes };
        match value {
            Value::String(text) => Self { bytes: here.bytes + text.len(), ..here },
            Value::Array(list) => list.iter().fold(here, Self::with),
            Value::Object(object) => object.iter().fold(here, |size, (key, value)| {
                Self { parts: size.parts + 1, bytes: size.bytes + key.len() }.with(value)
            }),
            Value::Null | Value::Bool(_) | Value::Number(_) => here,
        }
    }
}

/// Calls `render` with bounds that leave room for messages of this size.
pub(super) fn with_room<T>(messages: Size, render: impl FnOnce() -> T) -> T {
    let before = MESSAGES.replace(messages);
    let result = render();
    MESSAGES.set(before);
    result
}

/// Parts that a value with a name may have, and bytes that a text with one may have.
fn most() -> Size {
    let room = MESSAGES.get();
    let parts = room.parts.saturating_add(room.bytes / BYTES_OF_A_PART);
    Size { parts: MOST_PARTS + parts.saturating_mul(2), bytes: MOST_BYTES + room.bytes.saturating_mul(2) }
}

/// Makes the bounds part of an environment.
pub(super) fn bound(environment: &mut Environment<'static>) {
    environment.add_filter(KEPT, kept);
    environment.add_filter(HELD, held);
    environment.add_filter("tojson", tojson);
    environment.add_filter("trim", trim);
    environment.add_filter("sum", sum);
    environment.add_filter("format", format);
    environment.set_formatter(print);
    environment.set_unknown_method_callback(method);
}

fn refuse<T>(why: impl Into<String>) -> Result<T, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, why.into()))
}

/// A walk through a value and all within it.
struct Walk {
    /// Parts that it may still have.
    left: usize,
    /// Some list is made again whenever it is looked at.
    lazy: bool,
    /// A namespace lies within it.
    namespace: bool,
    /// It has more parts.
    over: bool,
}

impl Walk {
    fn new(left: usize) -> Self {
        Self { left, lazy: false, namespace: false, over: false }
    }

    fn part(&mut self, parts: usize) -> Result<(), Error> {
        match self.left.checked_sub(parts) {
            Some(left) => self.left = left,
            None => {
                self.over = true;
                return refuse("makes too large a value");
            }
        }
        Ok(())
    }

    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MOST_DEPTH {
            return refuse(format!("nests values more than {MOST_DEPTH} deep"));
        }
        self.part(1 + value.as_str().map_or(0, |text| text.len() / BYTES_OF_A_PART))?;
        let Some(object) = value.as_object() else { return Ok(()) };
        match object.repr() {
            ObjectRepr::Map => {
                self.namespace |= depth > 0 && is_namespace(value);
                for (key, value) in object.try_iter_pairs().into_iter().flatten() {
                    self.value(&key, depth + 1)?;
                    self.value(&value, depth + 1)?;
                }
            }
            ObjectRepr::Seq | ObjectRepr::Iterable => {
                self.lazy |= object.downcast_ref::<Vec<Value>>().is_none() && !value.is_tuple();
                for value in object.try_iter().into_iter().flatten() {
                    self.value(&value, depth + 1)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// minijinja's own type is not public.
fn is_namespace(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with("::Namespace"))
}

/// Looks through a value that gets a name.
fn look(value: &Value, left: usize) -> Result<Walk, Error> {
    let mut walk = Walk::new(left);
    if let Some(text) = value.as_str() {
        let most = most().bytes;
        if text.len() > most {
            return refuse(format!("makes a text of {} bytes, expected at most {most}", text.len()));
        }
    } else if value.as_object().is_some() {
        walk.value(value, 0)?;
    }
    if walk.namespace {
        return refuse("puts a namespace into another value, which is not supported");
    }
    Ok(walk)
}

/// The filter of values that get a name: as they are, with lists that are made again whenever they are looked at made once.
fn kept(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    let most = most().parts;
    let walk = look(&value, most)?;
    state.consume_fuel(((most - walk.left) / PARTS_OF_A_UNIT) as u64)?;
    Ok(if walk.lazy { made(&value) } else { value })
}

/// The filter of values that a namespace gets: all of them together are bounded.
fn held(state: &State<'_, '_>, value: Value, namespace: Value) -> Result<Value, Error> {
    if is_namespace(&value) {
        return refuse("puts a namespace into another value, which is not supported");
    }
    let most = most().parts;
    let others = look(&namespace, most)?;
    let walk = look(&value, others.left)?;
    state.consume_fuel(((most - walk.left) / PARTS_OF_A_UNIT) as u64)?;
    Ok(if walk.lazy { made(&value) } else { value })
}

/// The same value in lists; it was walked through.
fn made(value: &Value) -> Value {
    let Some(object) = value.as_object() else { return value.clone() };
    match object.repr() {
        ObjectRepr::Seq | ObjectRepr::Iterable => {
            let values: Vec<Value> = object.try_iter().into_iter().flatten().map(|value| made(&value)).collect();
            if value.is_tuple() { Value::from(Tuple::from(values)) } else { Value::from(values) }
        }
        ObjectRepr::Map if plain_map(value) => {
            Value::from_pairs(object.try_iter_pairs().into_iter().flatten().map(|(key, value)| (key, made(&value))))
        }
        _ => value.clone(),
    }
}

/// A dictionary, and no macro or loop that looks like one.
fn plain_map(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().contains("Map<"))
}

/// Pays for what a container takes as text; nothing else is needed for texts and numbers.
fn pay(state: &State<'_, '_>, value: &Value, times: usize) -> Result<(), Error> {
    if value.as_object().is_none() {
        let bytes = value.as_str().map_or(0, str::len);
        return state.consume_fuel((bytes / BYTES_OF_A_PART).saturating_mul(times) as u64);
    }
    // A walk of its own bound, since what is left of the budget is in units.
    let left = state.fuel_levels().map_or(usize::MAX, |(_, left)| usize::try_from(left).unwrap_or(usize::MAX));
    let mut walk = Walk::new(left / times.max(1));
    match walk.value(value, 0) {
        Err(_) if walk.over => Err(Error::from(ErrorKind::OutOfFuel)),
        Err(error) => Err(error),
        Ok(()) => state.consume_fuel((left / times.max(1) - walk.left).saturating_mul(times) as u64),
    }
}

/// Prints a value, which is paid for before it is written.
fn print(output: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    if value.as_object().is_some() {
        pay(state, value, 1)?;
    }
    minijinja::escape_formatter(output, state, value)
}

/// Python's methods of texts, lists and dictionaries.
fn method(state: &mut State<'_, '_>, value: &Value, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        match method {
            "format" => pay_for_format(state, text, arguments, '{')?,
            "strip" | "lstrip" | "rstrip" => check_stripped(arguments.first().and_then(Value::as_str))?,
            "join" => arguments.iter().try_for_each(|values| pay(state, values, 1))?,
            _ => {}
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, arguments)
}

/// Widths are bounded; each place that a value can stand at is paid for as if the largest stood there.
fn pay_for_format(state: &State<'_, '_>, text: &str, arguments: &[Value], begins: char) -> Result<(), Error> {
    let mut widths = 0usize;
    for place in text.split(begins).skip(1) {
        let place = place.split('}').next().unwrap_or_default();
        let numbers = place.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
        // Behind a percent sign, text follows what formats.
        let numbers = numbers.take(if begins == '%' { 2 } else { usize::MAX });
        for digits in numbers {
            let width = digits.parse().unwrap_or(usize::MAX);
            if width > MOST_WIDTH && begins == '{' {
                return refuse(format!("formats to a width of {digits}, expected at most {MOST_WIDTH}"));
            }
            widths = widths.saturating_add(width.min(MOST_WIDTH));
        }
    }
    let places = text.matches(begins).count();
    state.consume_fuel((widths / BYTES_OF_A_PART + places) as u64)?;
    arguments.iter().try_for_each(|argument| pay(state, argument, places))
}

/// `text|format(…)`.
fn format(state: &mut State<'_, '_>, text: &Value, arguments: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    if let Some(text) = text.as_str() {
        let values: Vec<Value> = arguments.iter().map(|argument| (**argument).clone()).collect();
        pay_for_format(state, text, &values, '%')?;
    }
    minijinja::filters::format(state, text, arguments)
}

/// Each character of a text is looked for among these.
fn check_stripped(characters: Option<&str>) -> Result<(), Error> {
    match characters {
        Some(characters) if characters.chars().nth(MOST_STRIPPED).is_some() => {
            refuse(format!("strips a text of more than {MOST_STRIPPED} characters"))
        }
        _ => Ok(()),
    }
}

/// `text|trim`.
fn trim(text: StringInput<'_>, characters: Option<String>) -> Result<Value, Error> {
    check_stripped(characters.as_deref())?;
    Ok(minijinja::filters::trim(text, characters.map(Into::into)))
}

/// `numbers|sum`: of numbers alone, since sums of texts and lists are copied with every step.
fn sum(
    state: &State<'_, '_>,
    values: Value,
    attribute: Option<&str>,
    start: Option<Value>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let named: Option<Value> = kwargs.get("start")?;
    if start.iter().chain(&named).any(|start| start.kind() != ValueKind::Number) {
        return refuse("sums values that are no numbers, which is not supported");
    }
    minijinja::filters::sum(state, values, attribute, start, kwargs)
}

/// `json.dumps(value, ensure_ascii=False, indent=…)`: as Jinja's own filter, but with nothing escaped for HTML.
fn tojson(state: &State<'_, '_>, value: &Value, indent: Option<Value>, options: Kwargs) -> Result<String, Error> {
    let named: Option<Value> = options.get("indent")?;
    let spaces = indent.iter().chain(&named).filter_map(Value::as_usize).max().unwrap_or(0);
    if spaces > MOST_INDENT {
        return refuse(format!("writes JSON with an indent of {spaces}, expected at most {MOST_INDENT}"));
    }
    pay(state, value, 1 + spaces)?;
    let escaped = minijinja::filters::tojson(value, indent, options)?;
    let escaped = escaped.as_str().unwrap_or_default();
    state.consume_fuel((escaped.len() / BYTES_OF_A_PART) as u64)?;
    let mut json = String::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some(at) = rest.find('\\') {
        json.push_str(&rest[..at]);
        rest = &rest[at..];
        let html = [("\\u003c", '<'), ("\\u003e", '>'), ("\\u0026", '&'), ("\\u0027", '\'')];
        if let Some((code, c)) = html.iter().find(|(code, _)| rest.starts_with(code)) {
            json.push(*c);
            rest = &rest[code.len()..];
        } else {
            // A backslash and what it escapes, be it another backslash.
            let end = rest.char_indices().nth(2).map_or(rest.len(), |(end, _)| end);
            json.push_str(&rest[..end]);
            rest = &rest[end..];
        }
    }
    json.push_str(rest);
    Ok(json)
}
