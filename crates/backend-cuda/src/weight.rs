//! Weights on the device.

use backend::{Error, Result};
use model::HostTensor;
use quant::TensorType;

use crate::gpu::{Buffer, DevicePtr, Gpu, NAME};
use crate::matmul::Matrix;

/// How plain values are stored; the tags of `load_float` in `cuda/common.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum FloatType {
    /// 32 bits.
    F32 = 0,
    /// IEEE half precision.
    F16 = 1,
    /// The upper half of an f32.
    BF16 = 2,
}

/// A weight.
pub enum Weight {
    /// For products, in the layout of its kernels.
    Matrix(Matrix),
    /// Used value by value, as f32.
    Vector(Vector),
    /// Expert ids by token.
    Table(Vector),
}

/// Values that are used one by one.
pub struct Vector {
    name: String,
    buffer: Buffer,
}

impl Vector {
    pub(crate) fn ptr(&self) -> DevicePtr {
        self.buffer.ptr()
    }
}

impl Weight {
    /// For products; or the table of hash routing.
    pub(crate) fn load(gpu: &Gpu, tensor: &HostTensor) -> Result<Self> {
        if tensor.ty == TensorType::I32 {
            return Ok(Self::Table(raw(gpu, tensor, tensor.data.bytes())?));
        }
        Matrix::upload(gpu, tensor).map(Self::Matrix)
    }

    /// For use value by value.
    pub(crate) fn vector(gpu: &Gpu, tensor: &HostTensor) -> Result<Self> {
        let mut values = vec![0.0f32; tensor.rows * tensor.cols * tensor.experts.max(1)];
        quant::decode(tensor.ty, tensor.data.bytes(), &mut values)
            .map_err(|source| Error::Decode { name: tensor.name.clone(), source })?;
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        raw(gpu, tensor, &bytes).map(Self::Vector)
    }

    /// The matrix, for products.
    pub(crate) fn matrix(&self) -> Result<&Matrix> {
        match self {
            Self::Matrix(matrix) => Ok(matrix),
            Self::Vector(v) | Self::Table(v) => Err(wrong(&v.name, "a matrix")),
        }
    }

    /// Where the values lie as f32.
    pub(crate) fn values(&self) -> Result<DevicePtr> {
        match self {
            Self::Vector(vector) => Ok(vector.ptr()),
            Self::Table(table) => Err(wrong(&table.name, "values")),
            Self::Matrix(matrix) => match matrix.floats() {
                Some((ptr, FloatType::F32)) => Ok(ptr),
                _ => Err(wrong(matrix.name(), "values, loaded one by one")),
            },
        }
    }

    /// Where the table's ids lie.
    pub(crate) fn table(&self) -> Result<DevicePtr> {
        match self {
            Self::Table(table) => Ok(table.ptr()),
            Self::Vector(v) => Err(wrong(&v.name, "a table of ids")),
            Self::Matrix(m) => Err(wrong(m.name(), "a table of ids")),
        }
    }
}

fn raw(gpu: &Gpu, tensor: &HostTensor, bytes: &[u8]) -> Result<Vector> {
    let buffer = gpu.alloc("weights", bytes.len())?;
    gpu.upload(&buffer, 0, bytes)?;
    Ok(Vector { name: tensor.name.clone(), buffer })
}

fn wrong(name: &str, expected: &str) -> Error {
    Error::Unsupported {
        device: NAME,
        what: name.to_owned(),
        expected: expected.to_owned(),
        found: "a weight loaded for something else".to_owned(),
    }
}
