//! Every field of every protocol that this server takes.

use super::rules::Rule::{Each, Fields, Inert, Kinds, Only, Read, Refused};
use super::rules::{Rule, Table};

const NO_NAMES: Rule = Refused("has no place in the prompt: say who speaks in the content");
/// A tool's calls match its schema by construction, whatever it says here.
const STRICT: Rule = Inert;
/// What the prompt has in common with what is held is reused without asking.
const CACHE: Rule = Inert;
const NONE: Rule = Only(&["[]"]);

// Chat Completions.

pub(super) const CHAT: Table = &[
    ("messages", Each(&Kinds("role", CHAT_ROLES))),
    ("model", Read),
    ("frequency_penalty", Read),
    ("presence_penalty", Read),
    ("logit_bias", Read),
    ("logprobs", Read),
    ("top_logprobs", Read),
    ("max_tokens", Read),
    ("max_completion_tokens", Read),
    ("n", Read),
    ("seed", Read),
    ("stop", Read),
    ("stream", Read),
    ("stream_options", Fields(STREAM_OPTIONS)),
    ("temperature", Read),
    ("top_p", Read),
    ("top_k", Read),
    ("min_p", Read),
    ("response_format", Kinds("type", CHAT_FORMATS)),
    ("tools", Each(&Kinds("type", CHAT_TOOLS))),
    ("tool_choice", Kinds("type", &[("function", CHAT_FUNCTION)])),
    ("parallel_tool_calls", Read),
    ("reasoning_effort", Read),
    ("thinking", Fields(THINKING)),
    ("return_progress", Read),
    ("metadata", Inert),
    ("user", Inert),
    ("safety_identifier", Inert),
    ("prompt_cache_key", CACHE),
    ("prompt_cache_retention", CACHE),
    ("cache_control", CACHE),
    ("store", Only(&["false"])),
    ("modalities", Only(&["[\"text\"]"])),
    ("service_tier", Only(&["\"auto\"", "\"default\""])),
    ("verbosity", Only(&["\"medium\""])),
];

const STREAM_OPTIONS: Table = &[("include_usage", Read), ("include_obfuscation", Only(&["false"]))];

const THINKING: Table =
    &[("type", Read), ("budget_tokens", Read), ("display", Only(&["\"summarized\"", "\"full\""]))];

const CHAT_ROLES: &[(&str, Table)] = &[
    ("system", CHAT_SYSTEM),
    ("developer", CHAT_SYSTEM),
    ("user", CHAT_USER),
    ("assistant", CHAT_ASSISTANT),
    ("tool", CHAT_TOOL_RESULT),
    ("latest_reminder", &[("role", Read), ("content", Read)]),
];
const CHAT_SYSTEM: Table =
    &[("role", Read), ("content", CHAT_CONTENT), ("name", NO_NAMES), ("cache_control", CACHE)];
const CHAT_USER: Table = CHAT_SYSTEM;
const CHAT_ASSISTANT: Table = &[
    ("role", Read),
    ("content", CHAT_CONTENT),
    ("reasoning_content", Read),
    ("tool_calls", Each(&Kinds("type", &[("function", CHAT_CALL)]))),
    ("prefix", Read),
    ("name", NO_NAMES),
    ("refusal", Refused("was not said by this model")),
    ("annotations", NONE),
    ("cache_control", CACHE),
];
// The id says whose result it is; some clients repeat the tool's name.
const CHAT_TOOL_RESULT: Table = &[
    ("role", Read),
    ("content", CHAT_CONTENT),
    ("tool_call_id", Read),
    ("name", Inert),
    ("cache_control", CACHE),
];
const CHAT_CALL: Table = &[
    ("id", Read),
    ("type", Read),
    ("function", Fields(&[("name", Read), ("arguments", Read)])),
    ("index", Inert),
];

/// Images and files: the model is told that there was one.
const CHAT_CONTENT: Rule = Each(&Kinds("type", CHAT_PARTS));
const CHAT_PARTS: &[(&str, Table)] = &[
    ("text", &[("type", Read), ("text", Read), ("cache_control", CACHE)]),
    (
        "image_url",
        &[
            ("type", Read),
            ("image_url", Fields(&[("url", Read), ("detail", Read)])),
            ("cache_control", CACHE),
        ],
    ),
    ("file", &[("type", Read), ("file", Read), ("cache_control", CACHE)]),
];

const CHAT_TOOLS: &[(&str, Table)] = &[(
    "function",
    &[
        ("type", Read),
        (
            "function",
            Fields(&[
                ("name", Read),
                ("description", Read),
                ("parameters", Read),
                ("strict", STRICT),
            ]),
        ),
        ("cache_control", CACHE),
    ],
)];
const CHAT_FUNCTION: Table = &[("type", Read), ("function", Fields(&[("name", Read)]))];

const CHAT_FORMATS: &[(&str, Table)] = &[
    ("text", &[("type", Read)]),
    ("json_object", &[("type", Read)]),
    ("json_schema", &[("type", Read), ("json_schema", Fields(JSON_SCHEMA))]),
    ("regex", &[("type", Read), ("regex", Read)]),
];
const JSON_SCHEMA: Table =
    &[("name", Inert), ("description", Inert), ("schema", Read), ("strict", Read)];

// Messages.

pub(super) const MESSAGES: Table = &[
    ("messages", Each(&Kinds("role", MESSAGES_ROLES))),
    ("model", Read),
    ("system", Each(&Kinds("type", &[("text", TEXT_BLOCK)]))),
    ("max_tokens", Read),
    ("temperature", Read),
    ("top_p", Read),
    ("top_k", Read),
    ("min_p", Read),
    ("seed", Read),
    ("stop_sequences", Read),
    ("stream", Read),
    ("tools", Each(&Kinds("type", &[("", MESSAGES_TOOL), ("custom", MESSAGES_TOOL)]))),
    ("tool_choice", Kinds("type", MESSAGES_CHOICES)),
    ("thinking", Fields(THINKING)),
    ("output_config", Fields(&[("effort", Read), ("format", Kinds("type", MESSAGES_FORMATS))])),
    ("output_format", Kinds("type", MESSAGES_FORMATS)),
    ("metadata", Fields(&[("user_id", Inert)])),
    ("return_progress", Read),
    ("cache_control", CACHE),
    ("context_management", Fields(&[("edits", Each(&Kinds("type", CONTEXT_EDITS)))])),
    ("service_tier", Only(&["\"auto\"", "\"standard_only\""])),
    ("speed", Only(&["\"standard\""])),
];

const MESSAGES_ROLES: &[(&str, Table)] =
    &[("user", MESSAGE), ("assistant", MESSAGE), ("system", MESSAGE)];
const MESSAGE: Table = &[("role", Read), ("content", Each(&Kinds("type", BLOCKS)))];

const BLOCKS: &[(&str, Table)] = &[
    ("text", TEXT_BLOCK),
    ("image", IMAGE_BLOCK),
    ("document", DOCUMENT_BLOCK),
    ("thinking", &[("type", Read), ("thinking", Read), ("signature", Inert)]),
    (
        "tool_use",
        &[
            ("type", Read),
            ("id", Read),
            ("name", Read),
            ("input", Read),
            ("cache_control", CACHE),
            ("caller", Only(&["{\"type\":\"direct\"}"])),
        ],
    ),
    (
        "tool_result",
        &[
            ("type", Read),
            ("tool_use_id", Read),
            ("content", Each(&Kinds("type", RESULT_BLOCKS))),
            // The format has one kind of result: the content says what went wrong.
            ("is_error", Inert),
            ("cache_control", CACHE),
        ],
    ),
];
const RESULT_BLOCKS: &[(&str, Table)] = &[
    ("text", TEXT_BLOCK),
    ("image", IMAGE_BLOCK),
    ("document", DOCUMENT_BLOCK),
    ("tool_reference", &[("type", Read), ("tool_name", Read)]),
];
const TEXT_BLOCK: Table =
    &[("type", Read), ("text", Read), ("cache_control", CACHE), ("citations", NONE)];
const IMAGE_BLOCK: Table = &[("type", Read), ("source", Read), ("cache_control", CACHE)];
const DOCUMENT_BLOCK: Table = &[
    ("type", Read),
    ("source", Read),
    ("title", Inert),
    ("context", Inert),
    ("citations", Only(&["{\"enabled\":false}"])),
    ("cache_control", CACHE),
];

const MESSAGES_TOOL: Table = &[
    ("type", Read),
    ("name", Read),
    ("description", Read),
    ("input_schema", Read),
    ("strict", STRICT),
    ("cache_control", CACHE),
    // Arguments are always sent as they are made.
    ("eager_input_streaming", Inert),
    ("defer_loading", Only(&["false"])),
    ("allowed_callers", Only(&["[\"direct\"]"])),
];
const MESSAGES_CHOICES: &[(&str, Table)] = &[
    ("auto", MESSAGES_CHOICE),
    ("any", MESSAGES_CHOICE),
    ("tool", MESSAGES_CHOICE),
    ("none", &[("type", Read)]),
];
const MESSAGES_CHOICE: Table =
    &[("type", Read), ("name", Read), ("disable_parallel_tool_use", Read)];
const MESSAGES_FORMATS: &[(&str, Table)] = &[
    ("text", &[("type", Read)]),
    ("json_object", &[("type", Read)]),
    ("json_schema", &[("type", Read), ("name", Inert), ("schema", Read)]),
    ("regex", &[("type", Read), ("regex", Read)]),
];
/// All thinking that the format has a place for is kept anyway.
const CONTEXT_EDITS: &[(&str, Table)] =
    &[("clear_thinking_20251015", &[("type", Read), ("keep", Only(&["\"all\""]))])];

// Responses.

pub(super) const RESPONSES: Table = &[
    ("input", Each(&Kinds("type", ITEMS))),
    ("model", Read),
    ("instructions", Read),
    ("max_output_tokens", Read),
    // Reasoning is sent whole, so there is no summary to ask for.
    ("reasoning", Fields(&[("effort", Read), ("summary", Read), ("generate_summary", Read)])),
    ("stream", Read),
    ("temperature", Read),
    ("top_p", Read),
    ("top_logprobs", Read),
    (
        "text",
        Fields(&[
            ("format", Kinds("type", RESPONSES_FORMATS)),
            ("verbosity", Only(&["\"medium\""])),
        ]),
    ),
    ("tools", Each(&Kinds("type", RESPONSES_TOOLS))),
    ("tool_choice", Kinds("type", RESPONSES_CHOICES)),
    ("user", Read),
    ("parallel_tool_calls", Read),
    ("top_k", Read),
    ("min_p", Read),
    ("seed", Read),
    ("store", Read),
    ("previous_response_id", Read),
    ("return_progress", Read),
    ("metadata", Inert),
    ("safety_identifier", Inert),
    ("prompt_cache_key", CACHE),
    ("prompt_cache_retention", CACHE),
    ("client_metadata", Inert),
    // Reasoning comes back in the clear, so nothing needs to be encrypted.
    (
        "include",
        Each(&Only(&["\"reasoning.encrypted_content\"", "\"message.output_text.logprobs\""])),
    ),
    ("background", Only(&["false"])),
    ("truncation", Only(&["\"disabled\""])),
    ("service_tier", Only(&["\"auto\"", "\"default\""])),
    ("stream_options", Fields(&[("include_obfuscation", Only(&["false"]))])),
];

const ITEMS: &[(&str, Table)] = &[
    ("", MESSAGE_ITEM),
    ("message", MESSAGE_ITEM),
    (
        "function_call",
        &[
            ("type", Read),
            ("arguments", Read),
            ("call_id", Read),
            ("name", Read),
            ("namespace", Read),
            ("id", Inert),
            ("status", Inert),
        ],
    ),
    ("function_call_output", CALL_OUTPUT),
    (
        "custom_tool_call",
        &[
            ("type", Read),
            ("call_id", Read),
            ("name", Read),
            ("input", Read),
            ("id", Inert),
            ("status", Inert),
        ],
    ),
    ("custom_tool_call_output", CALL_OUTPUT),
    (
        "reasoning",
        &[
            ("type", Read),
            ("id", Inert),
            ("status", Inert),
            ("content", Each(&Fields(&[("type", Inert), ("text", Read)]))),
            ("summary", Each(&Fields(&[("type", Inert), ("text", Read)]))),
            ("encrypted_content", Inert),
        ],
    ),
    ("item_reference", &[("type", Read), ("id", Read)]),
    // Searches of another server's; their results are in its messages.
    ("web_search_call", &[("*", Inert)]),
];
const MESSAGE_ITEM: Table = &[
    ("type", Read),
    ("role", Read),
    ("content", Each(&Kinds("type", ITEM_PARTS))),
    ("id", Inert),
    ("status", Inert),
    ("phase", Inert),
];
const CALL_OUTPUT: Table = &[
    ("type", Read),
    ("call_id", Read),
    ("output", Each(&Kinds("type", ITEM_PARTS))),
    ("name", Inert),
    ("id", Inert),
    ("status", Inert),
];
const ITEM_PARTS: &[(&str, Table)] = &[
    ("input_text", &[("type", Read), ("text", Read)]),
    ("output_text", &[("type", Read), ("text", Read), ("annotations", NONE), ("logprobs", Inert)]),
    ("input_image", &[("type", Read), ("image_url", Read), ("detail", Read), ("file_id", Read)]),
    (
        "input_file",
        &[
            ("type", Read),
            ("file_id", Read),
            ("file_data", Read),
            ("file_url", Read),
            ("filename", Read),
        ],
    ),
];

const RESPONSES_TOOLS: &[(&str, Table)] = &[
    ("function", FUNCTION_TOOL),
    (
        "namespace",
        &[
            ("type", Read),
            ("name", Read),
            ("description", Read),
            ("tools", Each(&Kinds("type", &[("function", FUNCTION_TOOL)]))),
        ],
    ),
    ("custom", &[("type", Read), ("name", Read), ("description", Inert), ("format", Inert)]),
    // Not offered to the model; see `Own::left_out`.
    ("web_search", &[("*", Inert)]),
    ("web_search_2025_08_26", &[("*", Inert)]),
    ("web_search_preview", &[("*", Inert)]),
];
const FUNCTION_TOOL: Table = &[
    ("type", Read),
    ("name", Read),
    ("description", Read),
    ("parameters", Read),
    ("strict", STRICT),
    ("defer_loading", Only(&["false"])),
];
const RESPONSES_CHOICES: &[(&str, Table)] = &[
    ("function", &[("type", Read), ("name", Read)]),
    ("custom", &[("type", Read), ("name", Read)]),
];
const RESPONSES_FORMATS: &[(&str, Table)] = &[
    ("text", &[("type", Read)]),
    ("json_object", &[("type", Read)]),
    (
        "json_schema",
        &[
            ("type", Read),
            ("name", Inert),
            ("description", Inert),
            ("schema", Read),
            ("strict", Read),
        ],
    ),
    ("regex", &[("type", Read), ("regex", Read)]),
];

// Completions.

pub(crate) const COMPLETIONS: Table = &[
    ("prompt", Read),
    ("suffix", Read),
    ("model", Read),
    ("n", Read),
    ("best_of", Read),
    ("echo", Read),
    ("logprobs", Read),
    ("seed", Read),
    ("max_tokens", Read),
    ("stream", Read),
    ("stream_options", Fields(STREAM_OPTIONS)),
    ("stop", Read),
    ("temperature", Read),
    ("top_p", Read),
    ("top_k", Read),
    ("min_p", Read),
    ("presence_penalty", Read),
    ("frequency_penalty", Read),
    ("logit_bias", Read),
    ("user", Inert),
];
