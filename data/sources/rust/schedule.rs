pub fn overlap(first: (u32, u32), second: (u32, u32)) -> bool {
    let start = first.0.max(second.0);
    let end = first.1.min(second.1);
    start < end
}

pub fn longest(names: &[String]) -> Option<&String> {
    let mut best: Option<&String> = None;
    for name in names {
        match best {
            Some(current) if current.len() >= name.len() => {}
            _ => best = Some(name),
        }
    }
    best
}

pub fn shout(name: &str) -> String {
    let mut text = String::from(name);
    text.push('!');
    let copy = text.clone();
    copy.to_uppercase()
}
