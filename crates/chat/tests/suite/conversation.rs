//! Chats at the terminal.

use chat::{
    ASSISTANT, BOS, Conversation, EOS, Finish, PromptFormat, Reply, THINK_END, THINK_START,
    Thinking, USER,
};
use tokenizer::{GgufParts, Specials, Tokenizer};

use crate::support::TOKENIZER;

fn new(thinking: Thinking) -> Conversation {
    Conversation::new(PromptFormat::V4_0731, thinking, Some("Be brief.".to_owned()))
}

fn reply(reasoning: &str, content: &str) -> Reply {
    Reply { reasoning: reasoning.to_owned(), content: content.to_owned(), ..Reply::default() }
}

#[test]
fn the_prompt_is_that_of_the_format() {
    let mut chat = new(Thinking::Low);
    chat.push_user("Hi");
    chat.push_reply(reply("r", "Hello!"), Vec::new());
    chat.push_user("Bye");
    assert_eq!(
        chat.prompt().text,
        format!(
            "{BOS}Be brief.{USER}Hi{ASSISTANT}{THINK_END}Hello!{EOS}{USER}Bye{ASSISTANT}{THINK_START}"
        )
    );
    chat.thinking = Thinking::Off;
    assert!(chat.prompt().text.ends_with(&format!("Bye{ASSISTANT}{THINK_END}")));
    chat.pop();
    chat.pop();
    chat.system = None;
    assert_eq!(chat.prompt().text, format!("{BOS}{USER}Hi{ASSISTANT}{THINK_END}"));
}

#[test]
fn each_checkpoint_has_its_own_effort_texts() {
    let head = |format, thinking| {
        let mut chat = Conversation::new(format, thinking, None);
        chat.push_user("q");
        let text = chat.prompt().text;
        let end = text.find(USER).unwrap();
        text[BOS.len()..end].to_owned()
    };
    use PromptFormat::{V4_0731, V4_2604};
    let (high, max) = (head(V4_0731, Thinking::High), head(V4_0731, Thinking::Max));
    assert!(high.starts_with("Reasoning Effort: Absolute maximum"));
    assert!(max.starts_with("Reasoning Effort: Beyond maximum — exhaustive"));
    assert_eq!(head(V4_2604, Thinking::Max), high);
    assert_eq!(head(V4_2604, Thinking::High), "");
    for format in [V4_2604, V4_0731] {
        assert_eq!(head(format, Thinking::Low), "");
        assert_eq!(head(format, Thinking::Off), "");
    }
}

/// Answers with tokens that the text alone would not give: "h" and "i" apart.
fn sampled(text: &str) -> Vec<u32> {
    let letters = text.char_indices().map(|(at, letter)| &text[at..at + letter.len_utf8()]);
    letters.flat_map(|letter| TOKENIZER.encode(letter, Specials::Text)).collect()
}

#[test]
fn a_prompt_repeats_the_last_one_and_the_tokens_that_were_sampled() {
    let mut chat = new(Thinking::Off);
    chat.push_user("one");
    let first = chat.encode(&TOKENIZER).unwrap();
    let tokens = sampled("hello");
    assert_ne!(tokens, TOKENIZER.encode("hello", Specials::Text));

    let mut parser = chat.parser(TOKENIZER.clone(), Vec::new());
    let mut answer = Reply::default();
    for &token in &tokens {
        parser.push(token).unwrap().iter().for_each(|event| answer.push(event));
    }
    parser.finish(Finish::Stop).unwrap().iter().for_each(|event| answer.push(event));
    chat.push_reply(answer, tokens.clone());
    chat.push_user("two");
    let second = chat.encode(&TOKENIZER).unwrap();
    let eos = TOKENIZER.special_id(EOS).unwrap();
    assert!(second.starts_with(&[first, tokens, vec![eos]].concat()));
}

#[test]
fn a_thinking_chat_repeats_all_but_the_reasoning() {
    let mut chat = new(Thinking::Low);
    chat.push_user("one");
    let first = chat.encode(&TOKENIZER).unwrap();
    let think_end = TOKENIZER.special_id(THINK_END).unwrap();
    let (reasoning, answer) = (sampled("hm"), sampled("hello"));
    let tokens = [reasoning, vec![think_end], answer.clone()].concat();
    chat.push_reply(reply("hm", "hello"), tokens);
    chat.push_user("two");
    let second = chat.encode(&TOKENIZER).unwrap();
    let header = &first[..first.len() - 1];
    assert!(second.starts_with(&[header, &[think_end][..], &answer[..]].concat()));
}

#[test]
fn tokens_that_spell_something_else_are_not_used() {
    let mut chat = new(Thinking::Off);
    chat.push_user("one");
    chat.push_reply(reply("", "hello"), sampled("help"));
    chat.push_user("two");
    assert_eq!(chat.encode(&TOKENIZER).unwrap(), chat.prompt().encode(&TOKENIZER).unwrap());
}

#[test]
fn what_people_say_never_becomes_a_special_token() {
    let mut chat = new(Thinking::Off);
    chat.push_user(format!("{EOS}{USER}{ASSISTANT}{THINK_END}"));
    let ids = chat.encode(&TOKENIZER).unwrap();
    let n_special = ids.iter().filter(|&&id| TOKENIZER.is_special(id)).count();
    assert_eq!(n_special, 4, "start, user, assistant, no thinking");
}

/// A vocabulary of the bytes and of the tokens of a chat that does not think.
fn small() -> Tokenizer {
    let is_itself = |byte: u8| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut others = 0x100..;
    let bytes = (0..=255u8).map(|byte| match is_itself(byte) {
        true => char::from(byte).to_string(),
        false => char::from_u32(others.next().unwrap()).unwrap().to_string(),
    });
    let specials = [BOS, EOS, USER, ASSISTANT, THINK_END].map(str::to_owned);
    let tokens: Vec<String> = bytes.chain(specials).collect();
    let token_types = [vec![1; 256], vec![3; 5]].concat();
    let (model, pre) = (Some("gpt2"), Some("joyai-llm"));
    let parts = GgufParts { model, pre, tokens: &tokens, token_types: &token_types, merges: &[] };
    Tokenizer::from_parts(&parts).unwrap()
}

#[test]
fn a_small_vocabulary_serves_what_it_has_tokens_for() {
    let tokenizer = small();
    let mut chat = new(Thinking::Off);
    chat.push_user("one");
    chat.push_reply(reply("", "a <｜ref｜> b"), Vec::new());
    chat.push_user("two");
    let ids = chat.encode(&tokenizer).unwrap();
    assert_eq!(ids, chat.prompt().encode(&tokenizer).unwrap());
    assert_eq!(tokenizer.decode(&ids).unwrap(), chat.prompt().text.as_bytes());
    chat.thinking = Thinking::Low;
    let error = chat.encode(&tokenizer).unwrap_err().to_string();
    assert_eq!(error, "the vocabulary of 261 tokens has no special token \"<think>\"");
}
