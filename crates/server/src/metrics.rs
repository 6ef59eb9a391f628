//! `/metrics`: what the server does, in Prometheus' text format and under the names of vLLM, which
//! dashboards and gateways know.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use runtime::{FinishReason, Runtime, Usage};

use crate::error::ApiError;

/// The type of the text.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is observed as requests end.
pub(crate) struct Metrics {
    registry: Registry,
    first_token: Histogram,
    per_token: Histogram,
    whole: Histogram,
    queued: Histogram,
    prefill: Histogram,
    finished: Family<[(&'static str, &'static str); 1], Counter>,
    refused: Family<[(&'static str, u16); 1], Counter>,
}

/// Seconds.
const LATENCIES: [f64; 15] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 600.0];
const PER_TOKEN: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0];

impl Metrics {
    pub(crate) fn new(model: &str, runtime: Runtime) -> Self {
        let labels = [("model_name".into(), model.to_owned().into())].into_iter();
        let mut registry = Registry::with_labels(labels);
        registry.register_collector(Box::new(Engine(runtime)));
        let mut seconds = |name: &str, help: &str, buckets: &[f64]| {
            let made = Histogram::new(buckets.iter().copied());
            registry.register(format!("vllm:{name}_seconds"), help, made.clone());
            made
        };
        let first_token =
            seconds("time_to_first_token", "From a request to its first token", &LATENCIES);
        let per_token =
            seconds("inter_token_latency", "Between tokens, mean of a request", &PER_TOKEN);
        let whole =
            seconds("e2e_request_latency", "From a request to its answer's end", &LATENCIES);
        let queued = seconds("request_queue_time", "Until a request had a place", &LATENCIES);
        let prefill = seconds("request_prefill_time", "From there to the first token", &LATENCIES);
        let finished = Family::default();
        registry.register("vllm:request_success", "Answers, by why they ended", finished.clone());
        let refused = Family::default();
        registry.register("keid:requests_refused", "Requests refused, by status", refused.clone());
        Self { registry, first_token, per_token, whole, queued, prefill, finished, refused }
    }

    /// Counts an answer.
    pub(crate) fn finished(&self, reason: FinishReason, usage: &Usage) {
        let reason = match reason {
            FinishReason::Stop(_) => "stop",
            FinishReason::Length => "length",
        };
        self.finished.get_or_create(&[("finished_reason", reason)]).inc();
        let seconds = |time: Duration| time.as_secs_f64();
        let first = usage.queued + usage.prefill;
        self.first_token.observe(seconds(first));
        self.whole.observe(seconds(first + usage.decode));
        self.queued.observe(seconds(usage.queued));
        self.prefill.observe(seconds(usage.prefill));
        if let Some(n_later) = usage.completion_tokens.checked_sub(1).filter(|n| *n > 0) {
            self.per_token.observe(seconds(usage.decode) / n_later as f64);
        }
    }

    /// Counts a request that got an error instead of an answer.
    pub(crate) fn refused(&self, error: &ApiError) {
        self.refused.get_or_create(&[("status", error.status.as_u16())]).inc();
    }

    /// Everything, as text.
    pub(crate) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// What the runtime counts, read at every scrape.
#[derive(Debug)]
struct Engine(Runtime);

impl Collector for Engine {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let stats = self.0.stats();
        let mut gauge = |name: &str, help: &str, value: f64| {
            let gauge = ConstGauge::new(value);
            let metric = to.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)
        };
        let n_pages = self.0.n_pages().max(1) as f64;
        let used = 1.0 - stats.available_pages.load(Relaxed) as f64 / n_pages;
        let (running, waiting) = (stats.running.load(Relaxed), stats.waiting.load(Relaxed));
        gauge("vllm:num_requests_running", "Requests with a place", running as f64)?;
        gauge("vllm:num_requests_waiting", "Requests without one", waiting as f64)?;
        gauge("vllm:kv_cache_usage_perc", "Share of KV in use, 0 to 1", used)?;
        gauge("keid:slots", "Requests that can run at once", self.0.n_slots() as f64)?;
        let counters = [
            ("vllm:prompt_tokens", "Tokens of prompts", &stats.prompt_tokens),
            ("vllm:generation_tokens", "Tokens chosen", &stats.completion_tokens),
            ("vllm:prefix_cache_queries", "Tokens looked up", &stats.prompt_tokens),
            ("vllm:prefix_cache_hits", "Tokens reused", &stats.cached_tokens),
            ("vllm:num_preemptions", "Requests that gave their pages up", &stats.preempted),
            ("keid:steps", "Steps computed", &stats.steps),
            ("keid:requests_finished", "Answers that are complete", &stats.finished),
            ("keid:requests_cancelled", "Requests whose client left", &stats.cancelled),
            ("keid:requests_failed", "Requests that failed", &stats.failed),
        ];
        for (name, help, count) in counters {
            let counter = ConstCounter::new(count.load(Relaxed));
            let metric = to.encode_descriptor(name, help, None, counter.metric_type())?;
            counter.encode(metric)?;
        }
        Ok(())
    }
}
