//! The header of a GGUF file: what it says of itself, and where its tensors lie.
//!
//! Types of tensors are kept as ggml's numbers: llama.cpp knows more of them than candle, and what is asked of a header (names, shapes,
//! tokenizer, template) depends on none. Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufWriter, Write};
use std::path::Path;

use candle_core::Device;
use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor, ggml_file};

use super::mapped::map_file;
use crate::error::{Error, Result};

/// Dimensions that a tensor may have; ggml has no more.
const MOST_DIMENSIONS: usize = 4;
/// Tensors, values, elements of a list or bytes of a text: a list of single bytes takes many times as much in memory.
const MAX_ENTRIES: usize = 1 << 22;
/// Lists within lists.
const MOST_DEPTH: usize = 4;
/// Where tensors begin at multiples of, when the file does not say.
const ALIGNMENT: u64 = 32;

/// What a GGUF file begins with.
pub(crate) struct Header {
    pub(crate) metadata: HashMap<String, Value>,
    pub(crate) tensors: BTreeMap<String, TensorInfo>,
    /// Where the tensors' bytes begin.
    data: u64,
}

/// A tensor of the file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TensorInfo {
    pub(crate) kind: Kind,
    /// The outermost dimension first.
    pub(crate) shape: Vec<usize>,
    /// From the first tensor's first byte.
    pub(crate) offset: u64,
}

/// A type of tensor, by ggml's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind(u32);

/// ggml's numbers and names, and what candle calls those that it computes with.
const KINDS: [(u32, &str, Option<GgmlDType>); 35] = [
    (0, "F32", Some(GgmlDType::F32)),
    (1, "F16", Some(GgmlDType::F16)),
    (2, "Q4_0", Some(GgmlDType::Q4_0)),
    (3, "Q4_1", Some(GgmlDType::Q4_1)),
    (6, "Q5_0", Some(GgmlDType::Q5_0)),
    (7, "Q5_1", Some(GgmlDType::Q5_1)),
    (8, "Q8_0", Some(GgmlDType::Q8_0)),
    (9, "Q8_1", Some(GgmlDType::Q8_1)),
    (10, "Q2_K", Some(GgmlDType::Q2K)),
    (11, "Q3_K", Some(GgmlDType::Q3K)),
    (12, "Q4_K", Some(GgmlDType::Q4K)),
    (13, "Q5_K", Some(GgmlDType::Q5K)),
    (14, "Q6_K", Some(GgmlDType::Q6K)),
    (15, "Q8_K", Some(GgmlDType::Q8K)),
    (16, "IQ2_XXS", None),
    (17, "IQ2_XS", None),
    (18, "IQ3_XXS", None),
    (19, "IQ1_S", None),
    (20, "IQ4_NL", None),
    (21, "IQ3_S", None),
    (22, "IQ2_S", None),
    (23, "IQ4_XS", None),
    (24, "I8", None),
    (25, "I16", None),
    (26, "I32", None),
    (27, "I64", None),
    (28, "F64", None),
    (29, "IQ1_M", None),
    (30, "BF16", Some(GgmlDType::BF16)),
    (34, "TQ1_0", None),
    (35, "TQ2_0", None),
    (39, "MXFP4", None),
    (40, "NVFP4", None),
    (41, "Q1_0", None),
    (42, "Q2_0", None),
];

impl Kind {
    #[cfg(test)]
    pub(crate) const F32: Self = Self(0);

    /// Its name, and what candle calls it; `None` for a number that ggml does not have.
    fn known(self) -> Option<(&'static str, Option<GgmlDType>)> {
        KINDS.iter().find(|(number, ..)| *number == self.0).map(|(_, name, candle)| (*name, *candle))
    }

    /// What candle calls it; `None` for a type that it does not have.
    pub(crate) fn candle(self) -> Option<GgmlDType> {
        self.known()?.1
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.known() {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "type {}", self.0),
        }
    }
}

impl TensorInfo {
    /// Values in it; `None` when they cannot be counted.
    pub(crate) fn elements(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d))
    }
}

impl Header {
    /// Reads the header of a file that was mapped.
    ///
    /// # Errors
    /// It is truncated, corrupt, of a version that is not known, or something else.
    pub(crate) fn read(path: &Path, bytes: &[u8]) -> Result<Self> {
        // Version 1 counted in 32 bits, and big-endian files have another version's bytes.
        if let (true, Some(version)) = (bytes.starts_with(b"GGUF"), bytes.get(4..8)) {
            let version = u32::from_le_bytes([version[0], version[1], version[2], version[3]]);
            if !(2..=3).contains(&version) {
                let what =
                    if (1..=3).contains(&version.swap_bytes()) { "is big-endian" } else { "has another version" };
                let message = format!("{what}: the number is {version}, expected 2 or 3; convert the model again");
                return Err(Error::model(path, message));
            }
        }
        let read = Reader { bytes, at: 0 }.header();
        read.map_err(|why| {
            Error::model(path, format!("not a GGUF file, truncated or corrupt: {why}; download it again"))
        })
    }

    /// Where a tensor's first byte lies in the file; `None` when no file is as long.
    pub(crate) fn start(&self, info: &TensorInfo) -> Option<usize> {
        self.data.checked_add(info.offset).and_then(|start| usize::try_from(start).ok())
    }

    /// Does the file, of `len` bytes, have a tensor's bytes? Of a type that candle does not have at least a bit for each value.
    pub(crate) fn holds(&self, info: &TensorInfo, len: usize) -> bool {
        let size = info.elements().and_then(|n| match info.kind.candle() {
            Some(dtype) => n.div_ceil(dtype.block_size()).checked_mul(dtype.type_size()),
            None => Some(n.div_ceil(8)),
        });
        let end = self.start(info).zip(size).and_then(|(start, size)| start.checked_add(size));
        end.is_some_and(|end| end <= len)
    }

    /// Tensors in the order in which they lie in the file.
    pub(crate) fn in_order(&self) -> Vec<(&String, &TensorInfo)> {
        let mut order: Vec<_> = self.tensors.iter().collect();
        order.sort_by_key(|(_, info)| info.offset);
        order
    }

    /// A tensor as candle holds it; `path` and `bytes` are those that the header was read from.
    ///
    /// # Errors
    /// A type that candle does not have, or a tensor that reaches past the end of the file.
    pub(crate) fn tensor(&self, path: &Path, bytes: &[u8], name: &str, info: &TensorInfo) -> Result<QTensor> {
        let dtype = info.kind.candle().ok_or_else(|| not_read(path, name, info.kind))?;
        let size = info.elements().filter(|n| n.is_multiple_of(dtype.block_size()));
        let size = size.and_then(|n| (n / dtype.block_size()).checked_mul(dtype.type_size()));
        let range = self.start(info).zip(size).and_then(|(start, size)| Some(start..start.checked_add(size)?));
        let own = range.and_then(|range| bytes.get(range));
        if own.is_some_and(|own| own.as_ptr().align_offset(8) != 0) {
            return Err(Error::model(path, format!("tensor `{name}` is not aligned to 8 bytes: the file is corrupt")));
        }
        let truncated =
            || Error::model(path, format!("tensor `{name}` ends behind the file: it is truncated; download it again"));
        Ok(ggml_file::qtensor_from_ggml(dtype, own.ok_or_else(truncated)?, info.shape.clone(), &Device::Cpu)?)
    }
}

/// What candle has no code for, llama.cpp may have.
pub(crate) fn not_read(path: &Path, name: &str, kind: Kind) -> Error {
    let known: Vec<&str> = KINDS.iter().filter(|(_, _, candle)| candle.is_some()).map(|(_, name, _)| *name).collect();
    Error::model(
        path,
        format!(
            "tensor `{name}` is in {kind}, a type that candle does not read; run and train may use it with --backend llama-cpp, or \
             quantise the model to one of {}, as with llama-quantize",
            known.join(", ")
        ),
    )
}

/// Takes a header apart; every length is compared with the bytes that are left before anything is made of it.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

type Read<T> = std::result::Result<T, String>;

impl<'a> Reader<'a> {
    fn header(mut self) -> Read<Header> {
        if self.take(4)? != b"GGUF" {
            return Err("it does not begin with `GGUF`".into());
        }
        let _version: [u8; 4] = self.array()?;
        // A tensor has a name, a number of dimensions, a type and a place; a value has a key, a type and a byte.
        let tensor_count = self.count(24, "tensors")?;
        let value_count = self.count(13, "values")?;
        let mut metadata = HashMap::new();
        for _ in 0..value_count {
            let key = self.string()?;
            let kind = u32::from_le_bytes(self.array()?);
            let value = self.value(kind, 0).map_err(|why| format!("metadata `{key}`: {why}"))?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(format!("metadata `{key}` is there twice"));
            }
        }
        let mut tensors = BTreeMap::new();
        for _ in 0..tensor_count {
            let name = self.string()?;
            let info = self.info().map_err(|why| format!("tensor `{name}`: {why}"))?;
            if tensors.insert(name.clone(), info).is_some() {
                return Err(format!("tensor `{name}` is there twice"));
            }
        }
        let alignment = match metadata.get("general.alignment") {
            None => ALIGNMENT,
            Some(value) => match value.to_u64().or_else(|_| value.to_u32().map(u64::from)) {
                Ok(given) if given.is_power_of_two() => given,
                Ok(given) => return Err(format!("general.alignment is {given}, expected a power of 2")),
                Err(_) => {
                    return Err(format!("general.alignment is a {:?}, expected a power of 2", value.value_type()));
                }
            },
        };
        let data = (self.at as u64).checked_next_multiple_of(alignment).ok_or("general.alignment is too large")?;
        Ok(Header { metadata, tensors, data })
    }

    fn info(&mut self) -> Read<TensorInfo> {
        let dimensions = u32::from_le_bytes(self.array()?) as usize;
        if dimensions > MOST_DIMENSIONS {
            return Err(format!("it has {dimensions} dimensions, expected at most {MOST_DIMENSIONS}"));
        }
        // The innermost comes first in the file.
        let mut shape = Vec::with_capacity(dimensions);
        for _ in 0..dimensions {
            shape.push(usize::try_from(u64::from_le_bytes(self.array()?)).map_err(|e| e.to_string())?);
        }
        shape.reverse();
        if shape.contains(&0) {
            return Err("a dimension is 0".into());
        }
        let kind = Kind(u32::from_le_bytes(self.array()?));
        Ok(TensorInfo { kind, shape, offset: u64::from_le_bytes(self.array()?) })
    }

    fn value(&mut self, kind: u32, depth: usize) -> Read<Value> {
        Ok(match kind {
            0 => Value::U8(u8::from_le_bytes(self.array()?)),
            1 => Value::I8(i8::from_le_bytes(self.array()?)),
            2 => Value::U16(u16::from_le_bytes(self.array()?)),
            3 => Value::I16(i16::from_le_bytes(self.array()?)),
            4 => Value::U32(u32::from_le_bytes(self.array()?)),
            5 => Value::I32(i32::from_le_bytes(self.array()?)),
            6 => Value::F32(f32::from_le_bytes(self.array()?)),
            7 => match u8::from_le_bytes(self.array()?) {
                byte @ (0 | 1) => Value::Bool(byte == 1),
                byte => return Err(format!("a bool is {byte}, expected 0 or 1")),
            },
            8 => Value::String(self.string()?),
            9 if depth == MOST_DEPTH => return Err(format!("lists lie in each other more than {MOST_DEPTH} deep")),
            9 => {
                let kind = u32::from_le_bytes(self.array()?);
                let least = match kind {
                    0 | 1 | 7 => 1,
                    2 | 3 => 2,
                    4..=6 => 4,
                    8 | 10..=12 => 8,
                    _ => 12,
                };
                let len = self.count(least, "elements")?;
                Value::Array((0..len).map(|_| self.value(kind, depth + 1)).collect::<Read<_>>()?)
            }
            10 => Value::U64(u64::from_le_bytes(self.array()?)),
            11 => Value::I64(i64::from_le_bytes(self.array()?)),
            12 => Value::F64(f64::from_le_bytes(self.array()?)),
            other => return Err(format!("a value's type is {other}, expected 0 to 12")),
        })
    }

    fn string(&mut self) -> Read<String> {
        let len = self.count(1, "bytes of a text")?;
        Ok(String::from_utf8_lossy(self.take(len)?).into_owned())
    }

    /// A number of things that take `least` bytes each.
    fn count(&mut self, least: usize, what: &str) -> Read<usize> {
        let count = u64::from_le_bytes(self.array()?);
        let left = self.bytes.len() - self.at;
        match usize::try_from(count) {
            Ok(count) if count > MAX_ENTRIES => Err(format!("{count} {what}, expected at most {MAX_ENTRIES}")),
            Ok(count) if count <= left / least => Ok(count),
            _ => Err(format!("{count} {what} cannot lie in the {left} bytes that are left")),
        }
    }

    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn take(&mut self, len: usize) -> Read<&'a [u8]> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| format!("it ends at byte {} in the middle of its header", self.bytes.len()))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }
}

/// Does a GGUF file hold a tensor whose name ends so?
pub(crate) fn has_tensor(path: &Path, suffix: &str) -> Result<bool> {
    let header = Header::read(path, &map_file(path)?)?;
    Ok(header.tensors.keys().any(|name| name.ends_with(suffix)))
}

/// Writes a GGUF file at once or not at all.
pub(crate) fn write(path: &Path, metadata: &[(&str, &Value)], tensors: &[(&str, &QTensor)]) -> Result<()> {
    crate::files::write_atomically_with(path, |file| {
        let mut writer = BufWriter::new(file);
        gguf_file::write(&mut writer, metadata, tensors)
            .map_err(|e| Error::model(path, format!("cannot be written: {e}")))?;
        writer.flush().map_err(Error::io(path, "write"))
    })
}

#[cfg(test)]
mod tests;
