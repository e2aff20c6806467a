//! What a training may run on: this machine's memory and speed, and a GPU by its name.

use serde::{Deserialize, Serialize};

use crate::config::nearest;

const GPUS: &str = include_str!("gpus.toml");

/// A GPU on paper.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gpu {
    /// As people call it.
    pub name: String,
    /// Bytes of its memory.
    pub memory: u64,
    /// Operations a second in 16 bits, by its maker.
    pub flops: f64,
}

#[derive(Deserialize)]
struct File {
    gpus: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    memory_gb: f64,
    tflops: f64,
}

impl Gpu {
    /// From `RTX 4060 16GB` or `A100`: a name of the table, and the memory where it is another than the usual one.
    ///
    /// # Errors
    /// A name that is not in the table, with the nearest that is.
    pub fn named(text: &str) -> Result<Self, String> {
        let table: File = toml::from_str(GPUS).map_err(|error| error.to_string())?;
        let (mut words, mut memory) = (Vec::new(), None);
        let mut rest = text.split_whitespace().peekable();
        while let Some(word) = rest.next() {
            let joined = rest.peek().filter(|next| next.eq_ignore_ascii_case("gb")).map(|_| format!("{word}GB"));
            match gigabytes(joined.as_deref().unwrap_or(word)) {
                Some(bytes) => {
                    memory = Some(bytes);
                    if joined.is_some() {
                        rest.next();
                    }
                }
                None => words.push(word),
            }
        }
        let plain =
            |name: &str| name.to_lowercase().replace(['-', '_', ' '], "").replace("nvidia", "").replace("geforce", "");
        let wanted = plain(&words.join(" "));
        // The form of a data-centre card (PCIe, SXM) is not asked for.
        let wanted = wanted.trim_end_matches("pcie").trim_end_matches("sxm");
        let found = table.gpus.iter().find(|gpu| plain(&gpu.name) == wanted);
        let Some(gpu) = found else {
            let names: Vec<&str> = table.gpus.iter().map(|gpu| gpu.name.as_str()).collect();
            let meant = nearest(&words.join(" "), names.iter().copied());
            let meant = meant.map_or_else(String::new, |name| format!("; did you mean {name}?"));
            return Err(format!(
                "no GPU called {:?} is known{meant}; known are: {}",
                words.join(" "),
                names.join(", ")
            ));
        };
        Ok(Self {
            name: gpu.name.clone(),
            memory: memory.unwrap_or((gpu.memory_gb * 1e9) as u64),
            flops: gpu.tflops * 1e12,
        })
    }
}

/// Bytes of `16GB`, `16 GiB` without the space, `512MB`.
pub(crate) fn gigabytes(text: &str) -> Option<u64> {
    let text = text.trim().to_lowercase();
    let units =
        [("gib", f64::from(1u32 << 30)), ("gb", 1e9), ("mib", f64::from(1u32 << 20)), ("mb", 1e6), ("tb", 1e12)];
    let (number, unit) = units.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)))?;
    let number: f64 = number.trim().parse().ok()?;
    (number > 0.0 && number.is_finite()).then_some((number * unit) as u64)
}

/// Bytes that this process may use: the machine's memory, or less where a limit is set. `None` where neither is reported.
pub(crate) fn available() -> Option<u64> {
    let memory = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    let limit = std::fs::read_to_string("/proc/self/limits").ok().and_then(|text| address_space(&text));
    memory.into_iter().chain(limit).min()
}

/// `MemTotal:       24601204 kB`
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// `Max address space         4096000000           4096000000           bytes`
fn address_space(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_people_write_them() {
        let gpu = |text| Gpu::named(text).expect("a GPU");
        assert_eq!((gpu("RTX 4060 16GB").name.as_str(), gpu("RTX 4060 16GB").memory), ("RTX 4060", 16_000_000_000));
        assert_eq!(gpu("nvidia geforce rtx-4090").memory, 24_000_000_000);
        assert_eq!(gpu("a100 40 GB").memory, 40_000_000_000);
        assert_eq!(gpu("H100 SXM").name, "H100");
        let error = Gpu::named("RTX 4096").expect_err("unknown");
        assert!(error.contains("did you mean RTX 4090?") && error.contains("A100"), "{error}");
    }

    #[test]
    fn sizes_of_memory_have_units() {
        assert_eq!(gigabytes("16GB"), Some(16_000_000_000));
        assert_eq!(gigabytes("1.5GiB"), Some(1_610_612_736));
        assert_eq!(gigabytes("512mb"), Some(512_000_000));
        assert_eq!([gigabytes("16"), gigabytes("-1GB"), gigabytes("GB"), gigabytes("nanGB")], [None; 4]);
    }

    #[test]
    fn the_systems_tables_are_read() {
        assert_eq!(total("MemFree: 3 kB\nMemTotal:       24601204 kB\n"), Some(24_601_204 * 1024));
        assert_eq!(
            address_space("Max address space         4096000000           unlimited            bytes"),
            Some(4_096_000_000)
        );
        assert_eq!(address_space("Max address space         unlimited            unlimited            bytes"), None);
        assert_eq!(total(""), None);
    }
}
