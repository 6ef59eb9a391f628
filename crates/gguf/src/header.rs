//! One file's header: version, metadata and tensor directory, all checked.

use std::collections::HashSet;

use quant::TensorType;

use crate::{
    Array, DEFAULT_ALIGNMENT, Error, Metadata, TensorInfo, Value, ValueType, cursor::Cursor,
};

/// ggml's limit on tensor dimensions.
const MAX_DIMS: u32 = 4;

/// Alignments above this are surely an error, and small enough that rounding up cannot overflow.
const MAX_ALIGNMENT: u64 = 1 << 30;

/// Fewest bytes of a metadata entry: an empty key, a type and one byte.
const MIN_ENTRY_BYTES: u64 = 8 + 4 + 1;

/// Fewest bytes of a directory entry: an empty name, one dimension, a type and an offset.
const MIN_TENSOR_BYTES: u64 = 8 + 4 + 8 + 4 + 8;

/// What a file says before its tensor data.
pub(crate) struct Header {
    pub(crate) version: u32,
    pub(crate) metadata: Metadata,
    /// In the order of the directory; offsets count from the start of the file.
    pub(crate) tensors: Vec<TensorInfo>,
    /// Offset of the first byte after the directory and its padding.
    pub(crate) data_start: u64,
}

impl Header {
    /// Parses and checks the header at the start of `bytes`, of a file of `file_bytes`. `shard` is
    /// stored in the tensors.
    pub(crate) fn parse(
        file: &str,
        bytes: &[u8],
        file_bytes: u64,
        shard: usize,
    ) -> Result<Self, Error> {
        let mut c = Cursor::new(file, bytes);
        let version = magic_and_version(&mut c)?;
        let n_tensors = c.u64(|| "the tensor count".to_owned())?;
        let n_entries = c.count(MIN_ENTRY_BYTES, || "metadata entries".to_owned())?;
        let max = c.remaining() / MIN_TENSOR_BYTES;
        if n_tensors > max {
            let (file, what) = (file.to_owned(), "tensors".to_owned());
            return Err(Error::Count { file, what, found: n_tensors, max });
        }
        let mut metadata = Metadata::new(file);
        for i in 0..n_entries {
            read_entry(&mut c, &mut metadata, i)?;
        }
        let alignment = alignment(&metadata)?;
        let mut entries = Vec::with_capacity(n_tensors as usize);
        for i in 0..n_tensors {
            entries.push(read_tensor(&mut c, i)?);
        }
        let data_start = c.position().next_multiple_of(alignment);
        let place = Placement { file, data_start, alignment, file_bytes, shard };
        let tensors = entries.into_iter().map(|e| place.check(e)).collect::<Result<Vec<_>, _>>()?;
        check_disjoint(file, &tensors)?;
        Ok(Self { version, metadata, tensors, data_start: data_start.min(bytes.len() as u64) })
    }
}

/// A directory entry as stored.
struct Entry {
    name: String,
    dims: Vec<u64>,
    type_id: u32,
    /// From the start of the data section.
    offset: u64,
}

fn magic_and_version(c: &mut Cursor<'_>) -> Result<u32, Error> {
    let magic = c.take(c.remaining().min(4), || "the magic number".to_owned())?;
    if magic != b"GGUF" {
        return Err(Error::NotGguf { file: c.file.to_owned(), found: magic.to_vec() });
    }
    let version = c.u32(|| "the version".to_owned())?;
    match version {
        2 | 3 => Ok(version),
        _ if matches!(version.swap_bytes(), 1..=3) => {
            Err(Error::BigEndian { file: c.file.to_owned() })
        }
        found => Err(Error::Version { file: c.file.to_owned(), found }),
    }
}

fn read_entry(c: &mut Cursor<'_>, metadata: &mut Metadata, i: usize) -> Result<(), Error> {
    let key = c.string(|| format!("the key of metadata entry {i}"))?;
    let value_type = read_type(c, &key)?;
    let value = if value_type == ValueType::Array {
        let element_type = read_type(c, &key)?;
        Value::Array(read_array(c, &key, element_type)?)
    } else {
        read_scalar(c, &key, value_type)?
    };
    if metadata.push(key.clone(), value) {
        Ok(())
    } else {
        Err(Error::DuplicateKey { file: c.file.to_owned(), key })
    }
}

fn read_type(c: &mut Cursor<'_>, key: &str) -> Result<ValueType, Error> {
    let found = c.u32(|| format!("the type of key {key:?}"))?;
    ValueType::from_id(found).ok_or_else(|| Error::ValueType {
        file: c.file.to_owned(),
        key: key.to_owned(),
        found,
    })
}

fn read_scalar(c: &mut Cursor<'_>, key: &str, ty: ValueType) -> Result<Value, Error> {
    let what = || format!("the value of key {key:?}");
    Ok(match ty {
        ValueType::U8 => Value::U8(u8::from_le_bytes(c.array(what)?)),
        ValueType::I8 => Value::I8(i8::from_le_bytes(c.array(what)?)),
        ValueType::U16 => Value::U16(u16::from_le_bytes(c.array(what)?)),
        ValueType::I16 => Value::I16(i16::from_le_bytes(c.array(what)?)),
        ValueType::U32 => Value::U32(u32::from_le_bytes(c.array(what)?)),
        ValueType::I32 => Value::I32(i32::from_le_bytes(c.array(what)?)),
        ValueType::F32 => Value::F32(f32::from_le_bytes(c.array(what)?)),
        ValueType::Bool => Value::Bool(read_bool(c, key)?),
        ValueType::Str => Value::Str(c.string(what)?),
        ValueType::U64 => Value::U64(u64::from_le_bytes(c.array(what)?)),
        ValueType::I64 => Value::I64(i64::from_le_bytes(c.array(what)?)),
        ValueType::F64 => Value::F64(f64::from_le_bytes(c.array(what)?)),
        ValueType::Array => {
            return Err(Error::NestedArray { file: c.file.to_owned(), key: key.to_owned() });
        }
    })
}

fn read_bool(c: &mut Cursor<'_>, key: &str) -> Result<bool, Error> {
    match c.array::<1>(|| format!("the value of key {key:?}"))? {
        [0] => Ok(false),
        [1] => Ok(true),
        [found] => Err(Error::Bool { file: c.file.to_owned(), key: key.to_owned(), found }),
    }
}

fn read_array(c: &mut Cursor<'_>, key: &str, ty: ValueType) -> Result<Array, Error> {
    let what = || format!("elements of key {key:?}");
    let n = c.count(ty.min_bytes(), what)?;
    macro_rules! numbers {
        ($variant:ident, $rust:ty) => {{
            const SIZE: usize = size_of::<$rust>();
            // The count has been checked against the remaining bytes: no overflow.
            let bytes = c.take((n * SIZE) as u64, what)?;
            Array::$variant(
                bytes.as_chunks::<SIZE>().0.iter().map(|b| <$rust>::from_le_bytes(*b)).collect(),
            )
        }};
    }
    Ok(match ty {
        ValueType::U8 => numbers!(U8, u8),
        ValueType::I8 => numbers!(I8, i8),
        ValueType::U16 => numbers!(U16, u16),
        ValueType::I16 => numbers!(I16, i16),
        ValueType::U32 => numbers!(U32, u32),
        ValueType::I32 => numbers!(I32, i32),
        ValueType::F32 => numbers!(F32, f32),
        ValueType::U64 => numbers!(U64, u64),
        ValueType::I64 => numbers!(I64, i64),
        ValueType::F64 => numbers!(F64, f64),
        ValueType::Bool => {
            Array::Bool((0..n).map(|_| read_bool(c, key)).collect::<Result<_, _>>()?)
        }
        ValueType::Str => Array::Str((0..n).map(|_| c.string(what)).collect::<Result<_, _>>()?),
        ValueType::Array => {
            return Err(Error::NestedArray { file: c.file.to_owned(), key: key.to_owned() });
        }
    })
}

fn alignment(metadata: &Metadata) -> Result<u64, Error> {
    let alignment = metadata.optional::<u64>("general.alignment")?.unwrap_or(DEFAULT_ALIGNMENT);
    check_alignment(metadata.file(), alignment)?;
    Ok(alignment)
}

/// A power of two of sensible size.
pub(crate) fn check_alignment(file: &str, alignment: u64) -> Result<(), Error> {
    if alignment.is_power_of_two() && alignment <= MAX_ALIGNMENT {
        Ok(())
    } else {
        Err(Error::Alignment { file: file.to_owned(), found: alignment })
    }
}

fn read_tensor(c: &mut Cursor<'_>, i: u64) -> Result<Entry, Error> {
    let name = c.string(|| format!("the name of tensor {i}"))?;
    let what = || format!("the directory entry of tensor {name:?}");
    let n_dims = c.u32(what)?;
    if !(1..=MAX_DIMS).contains(&n_dims) {
        let file = c.file.to_owned();
        return Err(Error::DimensionCount { file, tensor: name, found: n_dims });
    }
    let dims = (0..n_dims).map(|_| c.u64(what)).collect::<Result<Vec<_>, _>>()?;
    let (type_id, offset) = (c.u32(what)?, c.u64(what)?);
    Ok(Entry { name, dims, type_id, offset })
}

/// Where directory entries must lie.
struct Placement<'a> {
    file: &'a str,
    data_start: u64,
    alignment: u64,
    file_bytes: u64,
    shard: usize,
}

impl Placement<'_> {
    fn check(&self, entry: Entry) -> Result<TensorInfo, Error> {
        let Entry { name, dims, type_id, offset } = entry;
        let file = || self.file.to_owned();
        let Some(ty) = TensorType::from_ggml_id(type_id) else {
            return Err(Error::TensorType { file: file(), tensor: name, found: type_id });
        };
        let n_bytes = tensor_bytes(self.file, &name, ty, &dims)?;
        if !offset.is_multiple_of(self.alignment) {
            let alignment = self.alignment;
            return Err(Error::Misaligned { file: file(), tensor: name, offset, alignment });
        }
        let start = self.data_start.checked_add(offset);
        let end = start.and_then(|start| start.checked_add(n_bytes));
        match (start, end) {
            (Some(start), Some(end)) if end <= self.file_bytes => {
                Ok(TensorInfo { name, ty, dims, n_bytes, offset: start, shard: self.shard })
            }
            _ => Err(Error::OutOfBounds {
                file: file(),
                tensor: name,
                offset: start.unwrap_or(u64::MAX),
                n_bytes,
                file_bytes: self.file_bytes,
            }),
        }
    }
}

/// Bytes of a tensor; its rows lie along the first dimension.
pub(crate) fn tensor_bytes(
    file: &str,
    name: &str,
    ty: TensorType,
    dims: &[u64],
) -> Result<u64, Error> {
    let bad = || Error::Dimensions {
        file: file.to_owned(),
        tensor: name.to_owned(),
        dims: dims.to_vec(),
    };
    let cols = *dims.first().ok_or_else(bad)?;
    if !cols.is_multiple_of(ty.block_len() as u64) {
        return Err(Error::RowLength { file: file.to_owned(), tensor: name.to_owned(), ty, cols });
    }
    // Element counts stay below 2^63 as in ggml, and byte counts below 2^64.
    let elements = dims.iter().try_fold(1i64, |n, &d| n.checked_mul(i64::try_from(d).ok()?));
    match elements {
        Some(n) if n > 0 => {
            (n as u64 / ty.block_len() as u64).checked_mul(ty.block_bytes() as u64).ok_or_else(bad)
        }
        _ => Err(bad()),
    }
}

fn check_disjoint(file: &str, tensors: &[TensorInfo]) -> Result<(), Error> {
    let mut names = HashSet::with_capacity(tensors.len());
    for t in tensors {
        if !names.insert(t.name.as_str()) {
            let (file, tensor) = (file.to_owned(), t.name.clone());
            return Err(Error::DuplicateTensor { file, tensor });
        }
    }
    let mut by_offset: Vec<&TensorInfo> = tensors.iter().collect();
    by_offset.sort_by_key(|t| t.offset);
    for pair in by_offset.windows(2) {
        if pair[0].offset + pair[0].n_bytes > pair[1].offset {
            return Err(Error::Overlap {
                file: file.to_owned(),
                tensor: pair[0].name.clone(),
                other: pair[1].name.clone(),
            });
        }
    }
    Ok(())
}
