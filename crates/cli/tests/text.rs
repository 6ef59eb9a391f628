//! `keid tokenize` and `keid render` as a user calls them, on a vocabulary of bytes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

/// The special tokens of the vocabulary; their ids follow those of the 256 bytes.
const SPECIALS: [&str; 6] = [
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<think>",
    "</think>",
];

/// A folder with a vocabulary as a `tokenizer.json` and as a GGUF file without weights.
struct Files {
    folder: tempfile::TempDir,
}

/// The bytes as vocabularies spell them.
fn bytes() -> Vec<String> {
    let is_itself = |byte: u8| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut others = 0x100..;
    let mut spell = |byte| match is_itself(byte) {
        true => char::from(byte).to_string(),
        false => char::from_u32(others.next().unwrap()).unwrap().to_string(),
    };
    (0..=255).map(&mut spell).collect()
}

impl Files {
    fn new() -> Self {
        let files = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::write(files.json(), tokenizer_json().to_string()).unwrap();
        files.write_gguf(SPECIALS.map(String::from).into());
        files
    }

    fn json(&self) -> PathBuf {
        self.folder.path().join("tokenizer.json")
    }

    fn gguf(&self) -> PathBuf {
        self.folder.path().join("model.gguf")
    }

    fn write_gguf(&self, specials: Vec<String>) {
        use gguf::{Array, Value};
        let mut layout = gguf::Layout::new(32).unwrap();
        let mut set = |key: &str, value: Value| layout.metadata(key, value).unwrap();
        let types = [vec![1; 256], vec![3; specials.len()]].concat();
        set("general.architecture", Value::Str("deepseek4".to_owned()));
        set("general.name", Value::Str("DeepSeek-V4-Flash-0731".to_owned()));
        set("tokenizer.ggml.model", Value::Str("gpt2".to_owned()));
        set("tokenizer.ggml.pre", Value::Str("joyai-llm".to_owned()));
        set("tokenizer.ggml.tokens", Value::Array(Array::Str([bytes(), specials].concat())));
        set("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
        set("tokenizer.ggml.merges", Value::Array(Array::Str(Vec::new())));
        gguf::Writer::create(&self.gguf(), layout).unwrap().finish().unwrap();
    }
}

fn tokenizer_json() -> Value {
    let vocab: serde_json::Map<String, Value> =
        bytes().into_iter().zip((0..).map(Value::from)).collect();
    let added: Vec<Value> = SPECIALS
        .iter()
        .zip(256..)
        .map(|(content, id)| json!({"id": id, "content": content, "special": true}))
        .collect();
    let split = |pattern: &str| {
        json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
               "invert": false})
    };
    let words = concat!(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
        "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*",
        "|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
    );
    json!({
        "added_tokens": added,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            split(r"\p{N}{1,3}"), split("[一-龥\u{3040}-ゟ゠-ヿ]+"), split(words),
            {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocab, "merges": []}
    })
}

fn keid(arguments: &[&str], file: (&str, &Path), input: &[u8]) -> Output {
    let mut keid = Command::new(env!("CARGO_BIN_EXE_keid"))
        .args(arguments)
        .arg(file.0)
        .arg(file.1)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that refuses its flags does not read its input.
    let _ = keid.stdin.take().unwrap().write_all(input);
    keid.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The one line that a failed command prints, without `error: `.
fn failure(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, b"");
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    stderr.strip_prefix("error: ").unwrap().trim_end().to_owned()
}

#[test]
fn text_becomes_ids_and_ids_become_text() {
    let files = Files::new();
    for file in [("--tokenizer", files.json()), ("-m", files.gguf())] {
        let file = (file.0, file.1.as_path());
        let text = "hé<think>\n";
        let parsed = stdout(&keid(&["tokenize"], file, text.as_bytes()));
        assert_eq!(parsed, "[104,195,169,260,10]\n");
        let plain = stdout(&keid(&["tokenize", "--specials", "text"], file, text.as_bytes()));
        let plain: Vec<u8> = serde_json::from_str(&plain).unwrap();
        assert_eq!(plain, text.as_bytes());
        for ids in [parsed.as_str(), "104 195 169\n260\t10"] {
            assert_eq!(stdout(&keid(&["tokenize", "--decode"], file, ids.as_bytes())), text);
        }
        // Bytes that are no text, and escape sequences, pass unchanged.
        let bytes = keid(&["tokenize", "--decode"], file, b"[255, 27, 91, 49, 109]").stdout;
        assert_eq!(bytes, b"\xff\x1b[1m");
    }
}

#[test]
fn what_is_no_text_or_no_id_is_refused() {
    let files = Files::new();
    let json = files.json();
    let file = ("--tokenizer", json.as_path());
    assert_eq!(
        failure(&keid(&["tokenize"], file, b"ab\xff")),
        "standard input should be UTF-8 text, found the byte 0xff at offset 2"
    );
    assert_eq!(
        failure(&keid(&["tokenize", "--decode"], file, b"1 262")),
        "token id 262 is not in the vocabulary of 262 tokens"
    );
    let missing = files.folder.path().join("missing.json");
    let error = failure(&keid(&["tokenize"], ("--tokenizer", &missing), b""));
    assert!(error.contains("cannot read the tokenizer") && error.contains("missing.json"));
    let error = failure(&keid(&["tokenize"], ("--tokenizer", &files.gguf()), b""));
    assert!(error.contains("is not a tokenizer.json"), "{error}");
}

#[test]
fn a_request_becomes_a_prompt() {
    let files = Files::new();
    let (json, gguf) = (files.json(), files.gguf());
    let request = br#"{"messages": [{"role": "user", "content": "<think>"}],
                       "reasoning_effort": "max"}"#;
    let render = |format: &[&str], file: (&str, &Path)| -> Value {
        let arguments = [&["render", "--protocol", "chat"], format].concat();
        serde_json::from_str(&stdout(&keid(&arguments, file, request))).unwrap()
    };
    // The file's name tells 0731.
    let found = render(&[], ("-m", &gguf));
    assert_eq!(found, render(&["--prompt-format", "v4-0731"], ("--tokenizer", &json)));
    assert!(found["text"].as_str().unwrap().contains("Beyond maximum"));
    for april in ["v4", "v4-2604"] {
        let prompt = render(&["--prompt-format", april], ("-m", &gguf));
        assert!(prompt["text"].as_str().unwrap().contains("Absolute maximum"));
    }
    let ids: Vec<u64> = serde_json::from_value(found["ids"].clone()).unwrap();
    assert_eq!(ids[0], 256);
    let tail: Vec<u64> = [&[258][..], &b"<think>".map(u64::from)[..], &[259, 260][..]].concat();
    assert!(ids.ends_with(&tail), "what a message spells stays text");
}

#[test]
fn a_request_that_cannot_be_served_says_why() {
    let files = Files::new();
    let json = files.json();
    let render = |protocol: &str, body: &str| {
        let arguments = ["render", "--protocol", protocol];
        failure(&keid(&arguments, ("--tokenizer", &json), body.as_bytes()))
    };
    assert_eq!(render("chat", r#"{"messages": []}"#), "Empty input messages");
    let error = render("chat", "{");
    assert!(error.starts_with("request body is not JSON: "), "{error}");
    let error = render("messages", "[]");
    assert_eq!(error, "invalid request body: expected a JSON object, found an array");
    let error = render("chat", r#"{"messages": [{"role": "robot", "content": ""}]}"#);
    assert!(error.starts_with("invalid request body: unknown variant `robot`"), "{error}");
    // This vocabulary has no token for tool calls.
    let tools = r#"{"input": "q", "tools": [{"type": "function", "name": "f", "parameters":
                   {"type": "object", "properties": {}}}]}"#;
    let error = render("responses", tools);
    assert!(error.contains("has no special token \"｜DSML｜\""), "{error}");
}

#[test]
fn v4_1_is_refused() {
    let files = Files::new();
    let specials = SPECIALS.into_iter().chain(["<｜System｜>"]);
    files.write_gguf(specials.map(str::to_owned).collect());
    let body = br#"{"messages": [{"role": "user", "content": "q"}]}"#;
    let output = keid(&["render", "--protocol", "chat"], ("-m", &files.gguf()), body);
    assert!(failure(&output).starts_with("this is a DeepSeek V4.1 model"));
}
