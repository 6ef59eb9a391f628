//! Output that is valid by construction.
//!
//! Thoughts and prose are free. Where a tool block opens, a grammar made from the declared
//! schemas takes over until the end of the answer; where the request sets the form of the answer,
//! another takes over where the answer begins. Tools and a form together are one grammar: the
//! answer is in the form, or a tool block.
//!
//! [`llguidance`] computes which tokens may come next, on a thread beside the engine's: it starts
//! as soon as a token is chosen and has the forward pass to finish. Where one token alone may come, it goes on to the next
//! choice, so that all tokens up to there are fed as rows of one step.

mod budget;
mod dsml;
mod environment;
mod stream;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use chat::protocol::{OutputConstraint, Request};
use chat::{DSML, THINK_END, Thinking};
use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use runtime::Constraint;
use serde_json::{Value, json};
use tokenizer::Tokenizer;

use crate::error::ApiError;
use crate::fields::Own;
use budget::Budget;
use stream::{Bounds, Grammars, Watch};

/// Compiled grammars kept for the next request.
const CACHED: usize = 64;

/// What may stand between the parts of JSON: nothing, a space, or a line break with indentation.
/// Where all space is allowed, a model that sees nothing better to say never ends.
const SPACE: &str = r"( |\n[ \t]{0,40})?";

/// The form of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Form {
    /// A JSON value that matches a schema.
    Schema(Value),
    /// Text that matches a regular expression.
    Regex(String),
}

impl Form {
    /// Any JSON object.
    pub(crate) fn object() -> Self {
        Self::Schema(json!({"type": "object"}))
    }

    fn lark(&self) -> String {
        match self {
            Self::Schema(schema) => {
                let mut schema = schema.clone();
                if let Some(fields) = schema.as_object_mut() {
                    fields.insert("x-guidance".to_owned(), json!({"whitespace_pattern": SPACE}));
                }
                format!("form: %json {schema}\n")
            }
            Self::Regex(regex) => {
                // A slash would end the literal.
                let regex = regex.replace("\\/", "/").replace('/', "\\/");
                format!("form: FORM\nFORM: /{regex}/\n")
            }
        }
    }
}

/// Makes constraints. Grammars are compiled once for all requests that have them.
pub(crate) struct Grammarian {
    tokenizer: Arc<Tokenizer>,
    eos: u32,
    /// Made for the first request that needs it: a large vocabulary takes a moment.
    factory: OnceLock<Result<ParserFactory, String>>,
    compiled: Mutex<HashMap<blake3::Hash, Matcher>>,
}

impl Grammarian {
    pub(crate) fn new(tokenizer: Arc<Tokenizer>, eos: u32) -> Self {
        Self { tokenizer, eos, factory: OnceLock::new(), compiled: Mutex::default() }
    }

    fn factory(&self) -> Result<&ParserFactory, ApiError> {
        let make = || environment::factory(&self.tokenizer, self.eos).map_err(|e| e.to_string());
        let made = self.factory.get_or_init(make).as_ref();
        made.map_err(|error| {
            ApiError::internal(format!("this vocabulary cannot be used with grammars: {error}"))
        })
    }

    /// Ends reasoning at `n_tokens`, and leaves the rest to `inner`.
    pub(crate) fn limit_reasoning(
        &self,
        n_tokens: usize,
        inner: Option<Box<dyn Constraint>>,
    ) -> Result<Box<dyn Constraint>, ApiError> {
        let think_end = self.tokenizer.require_special(THINK_END);
        let think_end = think_end
            .map_err(|error| ApiError::field("thinking.budget_tokens", error.to_string()))?;
        let ends = (think_end, self.tokenizer.special_id(DSML));
        Ok(Box::new(Budget::new(n_tokens, ends, inner)))
    }

    /// The constraint of a request, if it has one. `own` has the form that it asks for beside tools,
    /// whether it may make several calls, and the tools' schemas as they came.
    pub(crate) fn constraint(
        &self,
        request: &Request,
        own: &Own,
    ) -> Result<Option<Box<dyn Constraint>>, ApiError> {
        let form = own.form.as_ref();
        let thinks = request.thinking() != Thinking::Off;
        let (tools, is_required) = match request.constraint() {
            None => (None, false),
            Some(OutputConstraint::ToolCalls { tools, required }) => (
                Some(self.calls(
                    tools.iter().map(|t| {
                        let schema = own.tool_schemas.get(&t.name).unwrap_or(&t.parameters);
                        (t.name.as_str(), schema)
                    }),
                    own.allows_parallel_calls,
                )?),
                *required,
            ),
            Some(OutputConstraint::Json { schema }) => {
                // The request's own schema: DeepSeek's crates leave lengths out of a strict one.
                let theirs = || schema.clone().map_or_else(Form::object, Form::Schema);
                let form = form.cloned().unwrap_or_else(theirs);
                return self.bound(thinks, Some(&form), None, false);
            }
            Some(OutputConstraint::Regex(regex)) => {
                return self.bound(thinks, Some(&Form::Regex(regex.clone())), None, false);
            }
        };
        self.bound(thinks, form, tools, is_required)
    }

    fn calls<'t>(
        &self,
        tools: impl Iterator<Item = (&'t str, &'t Value)>,
        is_parallel: bool,
    ) -> Result<String, ApiError> {
        let missing = |error: tokenizer::Error| ApiError::field("tools", error.to_string());
        let dsml = self.tokenizer.require_special(DSML).map_err(missing)?;
        Ok(dsml::calls(tools, dsml, is_parallel))
    }

    fn bound(
        &self,
        thinks: bool,
        form: Option<&Form>,
        calls: Option<String>,
        is_required: bool,
    ) -> Result<Option<Box<dyn Constraint>>, ApiError> {
        if form.is_none() && calls.is_none() {
            return Ok(None);
        }
        let calls = calls.unwrap_or_default();
        let block = match calls.is_empty() {
            true => None,
            false if is_required => Some(self.compile(&format!("start: calls\n{calls}"), "tools")?),
            false => {
                let lark = format!("start: \"tool_calls>\\n\" calls\n{calls}");
                Some(self.compile(&lark, "tools")?)
            }
        };
        let answer = form.map(|form| {
            let or_block = if calls.is_empty() { "" } else { " | block" };
            let lark = format!("start: form{or_block}\n{}{calls}", form.lark());
            self.compile(&lark, "response_format")
        });
        let bounds = if is_required {
            Bounds::Now
        } else if answer.is_some() && !thinks {
            Bounds::Answer
        } else {
            Bounds::Later
        };
        let grammars = Grammars {
            dsml: self.tokenizer.special_id(DSML).filter(|_| block.is_some()),
            think_end: self.tokenizer.special_id(THINK_END).filter(|_| thinks),
            block,
            answer: answer.transpose()?,
        };
        let watch = Watch::new(Arc::clone(&self.tokenizer), grammars, bounds);
        let watch = watch.map_err(|error| ApiError::internal(error.to_string()))?;
        Ok(Some(Box::new(watch)))
    }

    /// Compiles a grammar, or finds it compiled. `field` is what it was made from.
    fn compile(&self, lark: &str, field: &str) -> Result<Matcher, ApiError> {
        let key = blake3::hash(lark.as_bytes());
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(matcher) = compiled.get(&key) {
            return Ok(matcher.deep_clone());
        }
        let grammar = TopLevelGrammar::from_lark(lark.to_owned());
        let matcher = Matcher::new(self.factory()?.create_parser(grammar));
        if let Some(error) = matcher.get_error() {
            let message = format!("`{field}` cannot be made a grammar: {error}");
            return Err(ApiError::field(field, message));
        }
        if compiled.len() >= CACHED {
            compiled.clear();
        }
        compiled.insert(key, matcher.deep_clone());
        Ok(matcher)
    }
}
