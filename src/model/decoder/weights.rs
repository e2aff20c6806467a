//! Tensors by their Hugging Face name, from safetensors or GGUF, mapped into memory and never copied whole.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use candle_core::{Device, Tensor};
use safetensors::{Dtype, SafeTensors};

use crate::error::{Error, Result};
use crate::model::formats::gguf::{Header, not_read};
use crate::model::formats::mapped::{Mapped, map_file};
use crate::model::ops::matrix::{Format, Matrix, Scales};

/// Longest name, and most names, that are looked at for the one that is nearest to a missing one.
const LONGEST_NAME: usize = 256;
const MOST_NAMES: usize = 4096;

struct Entry {
    map: Arc<Mapped>,
    path: PathBuf,
    range: Range<usize>,
    format: Format,
    shape: Vec<usize>,
}

impl Entry {
    fn matrix(&self, name: &str, shape: [usize; 2], range: Range<usize>) -> Matrix {
        Matrix::mapped(name, self.format, shape, &self.map, range)
    }
}

/// All tensors of a model's files.
pub(crate) struct Weights {
    /// The directory or file, for messages.
    root: PathBuf,
    safetensors: bool,
    entries: BTreeMap<String, Entry>,
}

/// What a matrix's name is followed by in the name of its scales.
const SCALES: &str = "_scale_inv";

impl Weights {
    /// Maps one or several safetensors files.
    ///
    /// # Errors
    /// A file that cannot be read, is truncated or corrupt, holds a type of number that is not f32, f16 or bf16, or a tensor that
    /// is in two files.
    pub(crate) fn safetensors(root: &Path, files: &[PathBuf]) -> Result<Self> {
        let mut entries = BTreeMap::new();
        for path in files {
            let map = map_file(path)?;
            let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| {
                Error::model(path, format!("not a safetensors file, truncated or corrupt: {e}; download it again"))
            })?;
            let start = header + 8;
            for (name, info) in metadata.tensors() {
                let format = match info.dtype {
                    Dtype::F32 => Format::F32,
                    Dtype::F16 => Format::F16,
                    Dtype::BF16 => Format::Bf16,
                    Dtype::F8_E4M3 => Format::Fp8,
                    other => {
                        let hint = match other {
                            Dtype::U8 | Dtype::I8 | Dtype::I32 => {
                                "; weights of 4 or 8 bits (bitsandbytes, GPTQ, AWQ) are not read: name the 16-bit base that they were made \
                                 from, or a GGUF file"
                            }
                            _ => "",
                        };
                        let message =
                            format!("tensor `{name}` holds {other:?}, expected F32, F16, BF16 or F8_E4M3{hint}");
                        return Err(Error::model(path, message));
                    }
                };
                let range = start + info.data_offsets.0..start + info.data_offsets.1;
                let entry =
                    Entry { map: Arc::clone(&map), path: path.clone(), range, format, shape: info.shape.clone() };
                if entries.insert(name.clone(), entry).is_some() {
                    return Err(Error::model(path, format!("tensor `{name}` is in two of the model's files")));
                }
            }
        }
        let weights = Self { root: root.to_path_buf(), safetensors: true, entries };
        weights.check_sizes()?;
        Ok(weights)
    }

    /// Takes the tensors of a GGUF file whose `header` was read from `map`; `rename` gives the Hugging Face name of each.
    ///
    /// # Errors
    /// A tensor that reaches past the end of the file: it is truncated.
    pub(crate) fn gguf(
        path: &Path,
        map: &Arc<Mapped>,
        header: &Header,
        rename: impl Fn(&str) -> String,
    ) -> Result<Self> {
        let mut entries = BTreeMap::new();
        for (name, info) in &header.tensors {
            let format = match info.kind.candle().ok_or_else(|| not_read(path, name, info.kind))? {
                GgmlDType::F32 => Format::F32,
                GgmlDType::F16 => Format::F16,
                GgmlDType::BF16 => Format::Bf16,
                other => Format::Quantised(other),
            };
            let shape = info.shape.clone();
            let size = element_count(&shape).and_then(|n| format.bytes(n));
            let start = header.start(info);
            let end = start.zip(size).and_then(|(start, size)| start.checked_add(size));
            let (Some(start), Some(end)) = (start, end) else {
                return Err(Error::model(
                    path,
                    format!("tensor `{name}` has the impossible shape {shape:?} as {format}"),
                ));
            };
            if end > map.len() {
                let (got, message) = (map.len(), "the file is truncated; download it again");
                return Err(Error::model(
                    path,
                    format!("tensor `{name}` ends at byte {end}, but the file has {got}: {message}"),
                ));
            }
            if start % 8 != 0 {
                return Err(Error::model(
                    path,
                    format!("tensor `{name}` begins at byte {start}, which is not aligned: the file is corrupt"),
                ));
            }
            let entry = Entry { map: Arc::clone(map), path: path.to_path_buf(), range: start..end, format, shape };
            entries.insert(rename(name), entry);
        }
        Ok(Self { root: path.to_path_buf(), safetensors: false, entries })
    }

    fn check_sizes(&self) -> Result<()> {
        for (name, entry) in &self.entries {
            let expected = element_count(&entry.shape).and_then(|n| entry.format.bytes(n));
            if expected != Some(entry.range.len()) || entry.range.end > entry.map.len() {
                let got = entry.range.len();
                return Err(Error::model(
                    &entry.path,
                    format!("tensor `{name}` of shape {:?} has {got} bytes: corrupt", entry.shape),
                ));
            }
        }
        Ok(())
    }

    /// All names, sorted, but those of scales.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str).filter(|name| !name.ends_with(SCALES))
    }

    /// The matrix `name`, which must be (rows, cols).
    ///
    /// # Errors
    /// It is missing (the nearest name is reported) or has another shape.
    pub(crate) fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Matrix> {
        let entry = self.entry(name, &[rows, cols])?;
        if entry.format.bytes(cols).is_none() {
            return Err(Error::model(
                &entry.path,
                format!("tensor `{name}`: {cols} columns do not fill blocks of {}", entry.format),
            ));
        }
        let matrix = entry.matrix(name, [rows, cols], entry.range.clone());
        Ok(if entry.format == Format::Fp8 { matrix.scaled(self.scales(name, rows, cols)?) } else { matrix })
    }

    fn scales(&self, name: &str, rows: usize, cols: usize) -> Result<Scales> {
        let (down, across) = (rows.div_ceil(Scales::BLOCK), cols.div_ceil(Scales::BLOCK));
        let scales = self.entry(&format!("{name}{SCALES}"), &[down, across])?;
        let mut values = vec![0f32; down * across];
        scales.format.widen(&scales.map[scales.range.clone()], &mut values);
        Ok(Scales { values, across })
    }

    /// Rows of one of several matrices that lie in one tensor of the shape `[count, rows, cols]`.
    ///
    /// # Errors
    /// As [`Self::matrix`]; FP8 is not stored so.
    pub(crate) fn slab(&self, name: &str, shape: [usize; 3], index: usize, rows: Range<usize>) -> Result<Matrix> {
        let [count, all, cols] = shape;
        // A vector is one matrix of one row.
        let flat = self.entries.get(name).is_some_and(|e| count == 1 && all == 1 && e.shape == [cols]);
        let entry = if flat { self.entry(name, &[cols])? } else { self.entry(name, &shape)? };
        let Some(row) = entry.format.bytes(cols).filter(|_| entry.format != Format::Fp8) else {
            let message = format!("tensor `{name}`: {cols} columns do not fill blocks of {}", entry.format);
            return Err(Error::model(&entry.path, message));
        };
        let start = entry.range.start + (index * all + rows.start) * row;
        let range = start..start + rows.len() * row;
        Ok(entry.matrix(&format!("{name}[{index}]"), [rows.len(), cols], range))
    }

    /// Is there a tensor of this name?
    pub(crate) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// A tensor's shape.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|entry| entry.shape.as_slice())
    }

    /// Do they come from Hugging Face's form?
    pub(crate) fn is_safetensors(&self) -> bool {
        self.safetensors
    }

    /// The directory or file, for messages.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The vector `name` of `len` values, widened to f32.
    ///
    /// # Errors
    /// As [`Self::matrix`].
    pub(crate) fn vector(&self, name: &str, len: usize) -> Result<Tensor> {
        let entry = self.entry(name, &[len])?;
        if entry.format == Format::Fp8 {
            return Err(Error::model(
                &entry.path,
                format!("tensor `{name}` is a vector in fp8, expected F32, F16 or BF16"),
            ));
        }
        let mut values = vec![0f32; len];
        entry.format.widen(&entry.map[entry.range.clone()], &mut values);
        Ok(Tensor::from_vec(values, len, &Device::Cpu)?)
    }

    fn entry(&self, name: &str, shape: &[usize]) -> Result<&Entry> {
        let Some(entry) = self.entries.get(name) else {
            let nearest = self.nearest(name).map_or_else(String::new, |n| format!("; the nearest name there is `{n}`"));
            return Err(Error::model(&self.root, format!("tensor `{name}` is missing{nearest}")));
        };
        if entry.shape != shape {
            let got = &entry.shape;
            let message =
                format!("tensor `{name}` has shape {got:?}, expected {shape:?} from the model's configuration");
            return Err(Error::model(&entry.path, message));
        }
        Ok(entry)
    }

    fn nearest(&self, name: &str) -> Option<&str> {
        self.nearest_of(name, self.names()).or_else(|| self.names().next())
    }

    /// The name among `names` that is most like `name`, of those with as many parts.
    pub(crate) fn nearest_of<'n>(&self, name: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
        let ratio = |other: &&str| similar::TextDiff::from_chars(name, *other).ratio();
        // A text diff for each: a file of very many or very long names is not searched.
        let candidates = names.filter(|n| n.len() <= LONGEST_NAME && n.split('.').count() == name.split('.').count());
        let candidates = candidates.take(MOST_NAMES);
        candidates.max_by(|a, b| ratio(a).total_cmp(&ratio(b)))
    }
}

fn element_count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use candle_core::quantized::{QTensor, gguf_file};

    use super::*;

    /// A GGUF file of one matrix, in each form that candle can write; the error is bounded by the form's step.
    #[test]
    fn every_quantisation_of_gguf_is_read() {
        use GgmlDType::{BF16, F16, F32, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
        let (rows, cols) = (3, 512);
        let values: Vec<f32> = (0..rows * cols).map(|i| (i as f32 * 0.7).sin()).collect();
        let tensor = Tensor::from_slice(&values, (rows, cols), &Device::Cpu).expect("a tensor");
        let folder = tempfile::tempdir().expect("a folder");
        let forms = [
            (F32, 0.0),
            (F16, 0.001),
            (BF16, 0.005),
            (Q8_0, 0.01),
            (Q6K, 0.04),
            (Q5_0, 0.08),
            (Q5_1, 0.08),
            (Q5K, 0.08),
            (Q4_0, 0.15),
            (Q4_1, 0.15),
            (Q4K, 0.15),
            (Q3K, 0.3),
            (Q2K, 0.6),
        ];
        for (dtype, most) in forms {
            let quantised = QTensor::quantize(&tensor, dtype).expect("a quantised tensor");
            let path = folder.path().join(format!("{dtype:?}.gguf"));
            let mut file = File::create(&path).expect("a file");
            gguf_file::write(&mut file, &[], &[("token_embd.weight", &quantised)]).expect("a GGUF file");
            let map = map_file(&path).expect("a mapping");
            let header = Header::read(&path, &map).expect("its header");
            let weights = Weights::gguf(&path, &map, &header, str::to_owned).expect("weights");
            let matrix = weights.matrix("token_embd.weight", rows, cols).expect("a matrix");
            let mut got = vec![0f32; rows * cols];
            got.chunks_mut(cols).enumerate().for_each(|(row, out)| matrix.row(row, out));
            let error = got.iter().zip(&values).map(|(g, v)| (g - v).abs()).fold(0.0, f32::max);
            assert!(error <= most && got.iter().all(|v| v.is_finite()), "{dtype:?}: {error}");
            assert!(matrix.widened().wide_rows(0..rows).is_some(), "{dtype:?} is held in f32");
        }
    }

    /// A matrix of several blocks, whose last ones are not whole: each value has the scale of its own block.
    #[test]
    fn every_block_of_fp8_has_its_own_scale() {
        let (rows, cols) = (300, 200);
        let scales: Vec<f32> = (1..=6).map(|i| i as f32).collect();
        // 0x38 is 1.
        let ones = vec![0x38u8; rows * cols];
        let bytes: Vec<u8> = scales.iter().flat_map(|s| s.to_le_bytes()).collect();
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.safetensors");
        let views = [
            ("w.weight", safetensors::tensor::TensorView::new(Dtype::F8_E4M3, vec![rows, cols], &ones)),
            ("w.weight_scale_inv", safetensors::tensor::TensorView::new(Dtype::F32, vec![3, 2], &bytes)),
        ];
        let views = views.map(|(name, view)| (name, view.expect("a tensor")));
        safetensors::serialize_to_file(views, None, &path).expect("a file");
        let weights = Weights::safetensors(folder.path(), &[path]).expect("weights");
        let wide = weights.matrix("w.weight", rows, cols).expect("a matrix").widened();
        let mut row = vec![0f32; cols];
        for i in [0, 127, 128, 255, 256, 299] {
            wide.row(i, &mut row);
            for (j, value) in row.iter().enumerate() {
                assert_eq!(*value, scales[i / 128 * 2 + j / 128], "{i}, {j}");
            }
        }
    }
}
