//! What DeepSeek V4 is: configuration, layer kinds, tensor names, binding.
