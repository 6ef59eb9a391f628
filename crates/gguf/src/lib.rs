//! The GGUF container: header, metadata, tensor directory, mapping, writing.
