//! Block formats of GGUF tensors: encode, decode, dot products.
