use std::sync::Arc;

use deepseek_recipe::anthropic::MessagesRequest;
use deepseek_recipe::openai::{ChatCompletionRequest, ResponsesRequest};
use deepseek_recipe::request::{
    ConversationRequest, ConversionError, ConversionOptions, ModelVersion, OutputConstraint,
    ProtocolRequest,
};
use deepseek_recipe::stream::{ParsingOptions, PromptUsage};
use deepseek_recipe_core::tools::ToolChoice;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokenizer::Tokenizer;

use super::{Protocol, Responder};
use crate::{Prompt, PromptFormat, Thinking};

/// A validated request.
#[derive(Debug)]
pub struct Request {
    protocol: Protocol,
    model: String,
    converted: ConversationRequest,
}

/// What the service decides where a request is silent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestOptions {
    /// The model's name where the request has none. A request may name any model: which names
    /// are served is not decided here.
    pub model: String,
    /// Whether a request that says nothing about thinking thinks, with high effort.
    pub thinks: bool,
}

/// How a request wants tokens chosen. DeepSeek's rules are applied: while thinking, the
/// temperature is 1, and top-p is 0.95 with tools and 1 without.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// The largest number of tokens to give out, if the request sets one.
    /// [`Request::resolve_max_tokens`] sets one for all.
    pub max_tokens: Option<u32>,
    /// 0 chooses the likeliest token.
    pub temperature: f32,
    /// The probability mass to choose from.
    pub top_p: f32,
    /// The seed, if the request sets one.
    pub seed: Option<u64>,
    /// The number of alternatives to tell the probability of, 0 to 20, or `None` where the
    /// request wants no probabilities.
    pub top_logprobs: Option<u8>,
}

impl Request {
    /// Reads and validates a request body.
    ///
    /// # Errors
    ///
    /// What is wrong with the body, as DeepSeek's service says it.
    pub fn parse(
        protocol: Protocol,
        body: &[u8],
        options: &RequestOptions,
    ) -> Result<Self, RequestError> {
        let mut body: Value = serde_json::from_slice(body)
            .map_err(|error| RequestError::Json { detail: error.to_string() })?;
        let Some(fields) = body.as_object_mut() else {
            let detail = format!("expected a JSON object, found {}", kind(&body));
            return Err(RequestError::Schema { field: None, detail });
        };
        let model = fields.entry("model").or_insert_with(|| options.model.as_str().into());
        let model = model.as_str().unwrap_or_default().to_owned();
        let conversion = ConversionOptions::new()
            .with_default_thinking_mode(options.thinks)
            .with_model_versions_by_name([(model.as_str(), ModelVersion::DeepseekV4Pro)]);
        let converted = match protocol {
            Protocol::Chat => convert::<ChatCompletionRequest>(body, conversion),
            Protocol::Messages => convert::<MessagesRequest>(body, conversion),
            Protocol::Responses => convert::<ResponsesRequest>(body, conversion),
        }?;
        Ok(Self { protocol, model, converted })
    }

    /// Makes a call of any tool required. DeepSeek's conversion of Messages reads the choice `any`
    /// as `auto`; this is what its conversion of Chat makes of `required`.
    ///
    /// # Errors
    ///
    /// There are no tools, or the request thinks.
    pub fn require_call(mut self) -> Result<Self, RequestError> {
        let refuse = |text| Err(RequestError::Refused(ConversionError::bad_request(text)));
        let ConversationRequest { conversation, inference_options, parsing_options, .. } =
            &mut self.converted;
        if conversation.tools.is_empty() {
            return refuse("tool_choice: `any` needs tools");
        }
        if conversation.thinking_mode {
            return refuse("Thinking mode does not support this tool_choice");
        }
        conversation.tool_choice = ToolChoice::Required;
        parsing_options.starts_in_tool_calls = true;
        if let Some(OutputConstraint::ToolCalls { required, .. }) =
            &mut inference_options.output_constraint
        {
            *required = true;
        }
        Ok(self)
    }

    /// The protocol that the request came by.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The name of the model that the request asks for.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Whether the answer is to come as a stream of events.
    pub fn streams(&self) -> bool {
        self.converted.stream
    }

    /// Renders the prompt.
    pub fn prompt(&self, format: PromptFormat) -> Prompt {
        Prompt::render(&self.converted.conversation, format)
    }

    /// How the answer is reasoned.
    pub fn thinking(&self) -> Thinking {
        let conversation = &self.converted.conversation;
        Thinking::from_request(conversation.thinking_mode, conversation.reasoning_effort)
    }

    /// How tokens are chosen.
    pub fn sampling(&self) -> Sampling {
        let options = &self.converted.inference_options;
        Sampling {
            max_tokens: options.max_tokens,
            temperature: options.temperature.unwrap_or(1.0),
            top_p: options.top_p.unwrap_or(1.0),
            seed: options.seed,
            top_logprobs: options.logprobs.then(|| options.top_logprobs.unwrap_or(0)),
        }
    }

    /// The form that the answer must have, if the request sets one.
    pub fn constraint(&self) -> Option<&OutputConstraint> {
        self.converted.inference_options.output_constraint.as_ref()
    }

    /// How the answer will be parsed.
    pub fn parsing(&self) -> &ParsingOptions {
        &self.converted.parsing_options
    }

    /// The number of tokens that the answer may have: what the request sets, or DeepSeek's
    /// default for its thinking mode within what is left of the context.
    ///
    /// # Errors
    ///
    /// The prompt, alone or with the tokens asked for, is longer than `context_limit` tokens.
    pub fn resolve_max_tokens(
        &self,
        n_prompt_tokens: u32,
        context_limit: u32,
    ) -> Result<u32, RequestError> {
        let resolved = self.converted.resolve_max_tokens(n_prompt_tokens, context_limit);
        resolved.map_err(RequestError::Refused)
    }

    /// Makes the response with the identifier `id`; `prompt_usage` is what it reports of the
    /// prompt.
    pub fn into_responder(
        self,
        id: String,
        prompt_usage: PromptUsage,
        tokenizer: Arc<Tokenizer>,
    ) -> Responder {
        let new = match self.protocol {
            Protocol::Chat => Responder::new::<ChatCompletionRequest>,
            Protocol::Messages => Responder::new::<MessagesRequest>,
            Protocol::Responses => Responder::new::<ResponsesRequest>,
        };
        new(self.converted, id, self.model, prompt_usage, tokenizer)
    }
}

fn convert<R: ProtocolRequest + DeserializeOwned>(
    body: Value,
    options: ConversionOptions,
) -> Result<ConversationRequest, RequestError> {
    let request: R = serde_path_to_error::deserialize(body).map_err(|error| {
        // "." is the body itself, where a field is missing: the detail names it then.
        let field = Some(error.path().to_string()).filter(|path| path != ".");
        RequestError::Schema { field, detail: error.into_inner().to_string() }
    })?;
    request.convert(options).map_err(RequestError::Refused)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Why a request cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The body is not JSON.
    #[error("request body is not JSON: {detail}")]
    Json {
        /// What the JSON reader says, with line and column.
        detail: String,
    },
    /// A field is missing or of another type.
    #[error("invalid request body: {detail}")]
    Schema {
        /// The field, as a path from the body: `messages[0].role`.
        field: Option<String>,
        /// What was expected and found, as DeepSeek's service says it: without the field.
        detail: String,
    },
    /// The fields contradict each other, or ask for what there is not.
    #[error("{0}")]
    Refused(ConversionError),
}

impl RequestError {
    /// The HTTP status that DeepSeek's service gives.
    pub fn status(&self) -> u16 {
        match self {
            Self::Json { .. } | Self::Schema { .. } => 400,
            Self::Refused(error) => error.status_code(),
        }
    }
}
