//! HTTP: OpenAI and Anthropic protocols.
