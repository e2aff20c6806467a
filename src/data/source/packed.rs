//! Files in gzip or zstd form, as the bytes that were packed.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::{BUFFER, Unpacked};
use crate::error::{Error, Result};

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// What a skippable frame of zstd begins with, after one byte of `0x50` to `0x5f` (RFC 8878, section 3.1.2). It holds no text.
const SKIPPABLE: &[u8] = &[0x2a, 0x4d, 0x18];
/// How many times larger a file may become, once it has become [`LARGE`]: text shrinks to a tenth, rarely to a hundredth.
const MOST_GROWTH: u64 = 1000;
const LARGE: u64 = 1 << 30;

/// The bytes that were packed, of a file that has `bytes` bytes; a file that is not packed as it is.
///
/// # Errors
/// It cannot be read.
pub(super) fn unpacked(path: &Path, mut file: impl BufRead + 'static, bytes: u64) -> Result<Unpacked> {
    let start = file.fill_buf().map_err(Error::io(path, "read"))?;
    let inner: Box<dyn Read> = if start.starts_with(GZIP) {
        Box::new(flate2::bufread::MultiGzDecoder::new(file))
    } else if start.starts_with(ZSTD) || is_skippable(start) {
        Box::new(Frames { state: State::Between(Some(Box::new(file))) })
    } else {
        return Ok(Box::new(file));
    };
    let most = bytes.saturating_mul(MOST_GROWTH).max(LARGE);
    Ok(Box::new(BufReader::with_capacity(BUFFER, Bounded { inner, left: most, path: path.to_owned() })))
}

/// Is it the beginning of a skippable frame?
fn is_skippable(start: &[u8]) -> bool {
    start.first().is_some_and(|first| first & 0xf0 == 0x50) && start[1..].starts_with(SKIPPABLE)
}

/// Refuses a file that becomes far larger than text does: it was made to fill a disk, or to never end.
struct Bounded {
    inner: Box<dyn Read>,
    left: u64,
    path: PathBuf,
}

impl Read for Bounded {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(into)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| {
            let path = self.path.display();
            std::io::Error::other(format!(
                "{path} becomes more than {MOST_GROWTH} times as large as it is; expected text that was compressed"
            ))
        })?;
        Ok(read)
    }
}

/// The frames of a zstd file, one after the other.
struct Frames {
    state: State,
}

enum State {
    /// Before a frame, or at the end.
    Between(Option<Box<dyn BufRead>>),
    Within(Box<ruzstd::decoding::StreamingDecoder<Box<dyn BufRead>, ruzstd::decoding::FrameDecoder>>),
}

impl Read for Frames {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match &mut self.state {
                State::Between(file) => {
                    let Some(mut file) = file.take() else { return Ok(0) };
                    let start = file.fill_buf()?;
                    if start.is_empty() {
                        return Ok(0);
                    }
                    if is_skippable(start) {
                        skip(&mut file)?;
                        self.state = State::Between(Some(file));
                        continue;
                    }
                    let decoder = ruzstd::decoding::StreamingDecoder::new(file)
                        .map_err(|error| std::io::Error::other(error.to_string()))?;
                    self.state = State::Within(Box::new(decoder));
                }
                State::Within(decoder) => {
                    let read = decoder.read(into)?;
                    if read > 0 || into.is_empty() {
                        return Ok(read);
                    }
                    let State::Within(decoder) = std::mem::replace(&mut self.state, State::Between(None)) else {
                        return Ok(0);
                    };
                    let (file, frame) = decoder.into_parts();
                    if let (Some(said), Some(found)) = (frame.get_checksum_from_data(), frame.get_calculated_checksum())
                        && said != found
                    {
                        let message =
                            format!("its checksum is {found:08x}, expected {said:08x}; it is damaged: make it again");
                        return Err(std::io::Error::other(message));
                    }
                    self.state = State::Between(Some(file));
                }
            }
        }
    }
}

/// Skips a frame: four bytes that name its kind, four of its length, and its content.
fn skip(file: &mut dyn BufRead) -> std::io::Result<()> {
    let mut start = [0; 8];
    file.read_exact(&mut start)?;
    let length = u64::from(u32::from_le_bytes([start[4], start[5], start[6], start[7]]));
    let passed = std::io::copy(&mut file.take(length), &mut std::io::sink())?;
    if passed == length { Ok(()) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_that_grows_without_end_is_refused_before_memory_is_full() {
        let inner = Box::new(std::io::repeat(b'x'));
        let mut bomb = Bounded { inner, left: 1 << 20, path: "bomb.gz".into() };
        let mut buffer = vec![0; 1 << 16];
        let error = loop {
            if let Err(error) = bomb.read(&mut buffer) {
                break error.to_string();
            }
        };
        assert!(error.starts_with("bomb.gz becomes more than 1000 times"), "{error}");
    }

    #[test]
    fn a_file_that_ends_within_a_frame_is_an_error() {
        let plain = b"{\"text\": \"a\"}\n".repeat(1000);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).expect("bytes");
        let zstd = ruzstd::encoding::compress_to_vec(plain.as_slice(), ruzstd::encoding::CompressionLevel::Fastest);
        for packed in [gzip.finish().expect("bytes"), zstd] {
            let half = std::io::Cursor::new(packed[..packed.len() / 2].to_vec());
            let mut text = Vec::new();
            let read = unpacked(Path::new("d"), half, 100)
                .and_then(|mut file| file.read_to_end(&mut text).map_err(Error::io(Path::new("d"), "read")));
            assert!(read.is_err(), "{}", text.len());
        }
    }

    #[test]
    fn a_frame_whose_checksum_is_wrong_is_an_error_and_skippable_frames_are_skipped() {
        let plain = b"{\"text\": \"a\"}\n".repeat(1000);
        let packed = ruzstd::encoding::compress_to_vec(plain.as_slice(), ruzstd::encoding::CompressionLevel::Fastest);
        let read = |bytes: Vec<u8>| {
            let mut text = Vec::new();
            let file = unpacked(Path::new("d"), std::io::Cursor::new(bytes), 100);
            file.and_then(|mut file| file.read_to_end(&mut text).map_err(Error::io(Path::new("d"), "read")))
                .map(|_| text)
        };
        let other = [&[0x53], SKIPPABLE, &3u32.to_le_bytes(), b"abc"].concat();
        let twice = [other.as_slice(), &packed, &other, &packed, &other].concat();
        assert_eq!(read(twice).expect("text"), [plain.as_slice(), &plain].concat());
        let mut damaged = packed.clone();
        *damaged.last_mut().expect("a byte") ^= 1;
        let told = read(damaged).expect_err("damaged").to_string();
        assert!(told.contains("its checksum is") && told.contains("it is damaged"), "{told}");
        assert!(read([packed.as_slice(), &other[..9]].concat()).is_err());
    }
}
