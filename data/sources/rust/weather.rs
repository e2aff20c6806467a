use std::fmt;

#[derive(Clone, Copy)]
pub struct Reading {
    pub sensor: u8,
    pub degrees: i32,
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {}", self.sensor, self.degrees)
    }
}

pub fn average(readings: &[Reading]) -> Option<i32> {
    if readings.is_empty() {
        return None;
    }
    let sum: i32 = readings.iter().map(|r| r.degrees).sum();
    Some(sum / readings.len() as i32)
}

pub fn warmest(mut readings: Vec<Reading>) -> Option<Reading> {
    readings.sort_by_key(|r| r.degrees);
    readings.pop()
}
