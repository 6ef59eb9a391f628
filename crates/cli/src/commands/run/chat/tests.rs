use std::num::NonZeroUsize;

use model::Preset;
use tools::Recipe;
use tools::synth::{Progress, Request, Synth};

use super::*;
use crate::open::{BackendArg, ModelArgs};

/// Gathers events and stops after so many of them, or of chunks of the prompt.
#[derive(Default)]
struct Recorder {
    events: Vec<Event>,
    n_chunks: usize,
    stop_after_events: Option<usize>,
    stop_after_chunks: Option<usize>,
}

impl Listener for Recorder {
    fn reading(&mut self, _: usize, _: usize) {
        self.n_chunks += 1;
    }

    fn begins(&mut self) {}

    fn event(&mut self, event: &Event) -> anyhow::Result<()> {
        self.events.push(event.clone());
        Ok(())
    }

    fn stopped(&self) -> bool {
        self.stop_after_events.is_some_and(|n| self.events.len() >= n)
            || self.stop_after_chunks.is_some_and(|n| self.n_chunks > n)
    }

    fn stop(&self) -> Arc<AtomicBool> {
        Arc::default()
    }
}

/// A conversation with a synthetic model, and the directory of its file.
fn chat(ctx: u32) -> (Chat, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    let request = Request { preset: Preset::Tiny, recipe: Recipe::Q8, n_layers: Some(4), seed: 3 };
    let progress = Progress::default();
    Synth::new(request).unwrap().write(&path, NonZeroUsize::MIN, &progress).unwrap();
    let args = ModelArgs {
        model: Some(path),
        backend: BackendArg::Cpu,
        threads: NonZeroUsize::new(1),
        ctx: Some(ctx),
        chunk: NonZeroUsize::new(16),
        prompt_format: None,
    };
    let mut chat = Chat::new(args.open(true).unwrap(), Thinking::Off, None);
    chat.answer_max = 8;
    (chat, dir)
}

#[test]
fn an_answer_is_told_as_it_is_remembered() {
    let (mut chat, _dir) = chat(512);
    let mut recorder = Recorder::default();
    let answer = chat.answer("hello there", &mut recorder).unwrap();
    let told: String = recorder
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Content(text) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(told, answer.reply.content);
    assert!(answer.figures.generated_tokens <= 8 && answer.figures.prompt_tokens > 2);
    assert_eq!(answer.figures.reused_tokens, 0);
    assert_eq!(chat.conversation.turns().len(), 2);
    // The next prompt begins with what is held: only the new message is read.
    let next = chat.answer("and now?", &mut Recorder::default()).unwrap();
    assert!(next.figures.reused_tokens >= answer.figures.prompt_tokens, "{:?}", next.figures);
}

#[test]
fn the_same_message_after_undo_gets_the_same_answer_and_reads_nothing() {
    let (mut chat, _dir) = chat(512);
    let first = chat.answer("tell me a story", &mut Recorder::default()).unwrap();
    assert_eq!(chat.take_back().as_deref(), Some("tell me a story"));
    assert!(chat.conversation.turns().is_empty());
    let again = chat.answer("tell me a story", &mut Recorder::default()).unwrap();
    assert_eq!(again.reply, first.reply);
    assert_eq!(again.figures.reused_tokens, again.figures.prompt_tokens);
    assert_eq!(chat.take_back().as_deref(), Some("tell me a story"));
    assert_eq!(chat.take_back(), None);
}

#[test]
fn a_stop_keeps_what_was_computed() {
    let (mut chat, _dir) = chat(2048);
    chat.answer_max = 1000;
    let mut recorder = Recorder { stop_after_events: Some(2), ..Recorder::default() };
    let answer = chat.answer("go on and on", &mut recorder).unwrap();
    assert_eq!(answer.ended, Ended::Cancelled);
    assert!(answer.figures.generated_tokens < 1000);
    assert_eq!(chat.conversation.turns().len(), 2, "the cut answer is part of the conversation");

    let long = "word ".repeat(100);
    let mut recorder = Recorder { stop_after_chunks: Some(2), ..Recorder::default() };
    let answer = chat.answer(&long, &mut recorder).unwrap();
    assert_eq!(answer.ended, Ended::Cancelled);
    assert_eq!(chat.conversation.turns().len(), 2, "the message was never answered");
    let answer = chat
        .answer(&long, &mut Recorder { stop_after_events: Some(1), ..Recorder::default() })
        .unwrap();
    let figures = answer.figures;
    assert!(figures.reused_tokens > 0 && figures.reused_tokens < figures.prompt_tokens);
}

#[test]
fn a_full_context_ends_the_answer_and_refuses_the_next_message() {
    let (mut chat, _dir) = chat(32);
    chat.answer_max = 1000;
    let answer = chat.answer("a", &mut Recorder::default()).unwrap();
    assert_eq!(answer.ended, Ended::Length);
    let error = chat.answer(&"b ".repeat(40), &mut Recorder::default()).unwrap_err();
    assert!(error.to_string().contains("32"), "{error}");
    assert_eq!(chat.conversation.turns().len(), 2, "a refused message is forgotten");
}
