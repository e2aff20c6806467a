use std::collections::BTreeMap;

const MAX_DEPTH: usize = 8;

pub fn parse_line(line: &str) -> Option<(String, String)> {
    let position = line.find('=')?;
    let key = line[..position].trim();
    let value = line[position + 1..].trim();
    Some((key.to_string(), value.to_string()))
}

pub fn parse(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut entries = BTreeMap::new();
    for line in text.lines() {
        match parse_line(line) {
            Some((key, value)) => entries.insert(key, value),
            None => return Err(format!("bad line: {}", line)),
        };
    }
    if entries.len() > MAX_DEPTH {
        return Err("too many".to_string());
    }
    Ok(entries)
}
