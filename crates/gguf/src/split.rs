//! Split files: `name-00001-of-00003.gguf` and its siblings, as `gguf-split` writes them.
//!
//! Every part carries `split.no`, `split.count` and `split.tensors.count`; the first carries the
//! model's metadata, each its own tensors.

use std::path::{Path, PathBuf};

use crate::{Error, Metadata, header::Header, source::Source};

/// gguf-split stores the count as a u16 and prints five digits.
const MAX_PARTS: u64 = 65_535;

/// `split.count`, 1 when absent.
pub(crate) fn count(metadata: &Metadata) -> Result<u64, Error> {
    let count = metadata.optional::<u64>("split.count")?.unwrap_or(1);
    // Some writers say 0 for a file that is not split.
    if count > MAX_PARTS {
        return Err(wrong(metadata, "split.count at most", MAX_PARTS, count));
    }
    Ok(count.max(1))
}

/// Opens all parts of the split file that `path` is a part of, in order.
pub(crate) fn open_all(path: &Path, count: u64) -> Result<Vec<(String, Source, Header)>, Error> {
    let stem = stem(path, count)?;
    (0..count).map(|i| open_part(path, &part_path(path, &stem, i, count), i, count)).collect()
}

/// Checks `split.tensors.count`, where there is one, against what all parts hold.
pub(crate) fn check_tensor_count(metadata: &Metadata, found: usize) -> Result<(), Error> {
    match metadata.optional::<u64>("split.tensors.count")? {
        Some(expected) if expected != found as u64 => {
            Err(wrong(metadata, "split.tensors.count", expected, found as u64))
        }
        _ => Ok(()),
    }
}

fn open_part(
    opened: &Path,
    part: &Path,
    i: u64,
    count: u64,
) -> Result<(String, Source, Header), Error> {
    if !part.is_file() {
        let (file, missing) = (opened.display().to_string(), part.to_owned());
        return Err(Error::MissingShard { file, count, missing });
    }
    let label = part.display().to_string();
    let source = Source::map(part)?;
    let header = Header::parse(&label, source.bytes(), source.len(), i as usize)?;
    let found = header.metadata.required::<u64>("split.no")?;
    if found != i {
        return Err(wrong(&header.metadata, "split.no", i, found));
    }
    let found = header.metadata.required::<u64>("split.count")?;
    if found != count {
        return Err(wrong(&header.metadata, "split.count", count, found));
    }
    Ok((label, source, header))
}

/// The file name up to `-00001-of-00003.gguf`.
fn stem(path: &Path, count: u64) -> Result<String, Error> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let stem = name
        .strip_suffix(&format!("-of-{count:05}.gguf"))
        .and_then(|rest| rest.rsplit_once('-'))
        .filter(|(_, no)| no.len() == 5 && no.bytes().all(|b| b.is_ascii_digit()))
        .map(|(stem, _)| stem.to_owned());
    stem.ok_or_else(|| Error::Split {
        file: path.display().to_string(),
        what: "a name of the form",
        expected: format!("NAME-00001-of-{count:05}.gguf"),
        found: name.to_owned(),
    })
}

fn part_path(path: &Path, stem: &str, i: u64, count: u64) -> PathBuf {
    path.with_file_name(format!("{stem}-{:05}-of-{count:05}.gguf", i + 1))
}

fn wrong(metadata: &Metadata, what: &'static str, expected: u64, found: u64) -> Error {
    Error::Split {
        file: metadata.file().to_owned(),
        what,
        expected: expected.to_string(),
        found: found.to_string(),
    }
}
