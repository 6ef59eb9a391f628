//! Messages to prompt segments, token streams to reasoning, content and tool calls.
