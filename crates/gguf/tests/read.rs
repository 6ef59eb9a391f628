//! Reading: what valid files give, and what each kind of damage is answered with.

use gguf::{Array, Gguf, Value};

/// A file put together byte by byte, so that it can be wrong in any way.
struct Raw {
    version: u32,
    n_tensors: Option<u64>,
    n_entries: Option<u64>,
    entries: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data: Vec<u8>,
    alignment: usize,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            version: 3,
            n_tensors: None,
            n_entries: None,
            entries: Vec::new(),
            tensors: Vec::new(),
            data: vec![0; 256],
            alignment: 32,
        }
    }
}

impl Raw {
    fn entry(mut self, key: &str, type_id: u32, value: &[u8]) -> Self {
        self.entries.push(
            [string(key.as_bytes()), type_id.to_le_bytes().to_vec(), value.to_vec()].concat(),
        );
        self
    }

    fn tensor(mut self, name: &str, dims: &[u64], type_id: u32, offset: u64) -> Self {
        let mut t = string(name.as_bytes());
        t.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|d| t.extend(d.to_le_bytes()));
        t.extend(type_id.to_le_bytes());
        t.extend(offset.to_le_bytes());
        self.tensors.push(t);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.n_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.n_entries.unwrap_or(self.entries.len() as u64).to_le_bytes());
        out.extend(self.entries.concat());
        out.extend(self.tensors.concat());
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out.extend(&self.data);
        out
    }

    #[track_caller]
    fn opens(&self) -> Gguf {
        Gguf::from_vec(self.bytes(), "f").unwrap()
    }

    #[track_caller]
    fn refused(&self, message: &str) {
        refused(self.bytes(), message);
    }
}

#[track_caller]
fn refused(bytes: Vec<u8>, message: &str) {
    assert_eq!(Gguf::from_vec(bytes, "f").unwrap_err().to_string(), format!("f: {message}"));
}

fn string(s: &[u8]) -> Vec<u8> {
    [&(s.len() as u64).to_le_bytes(), s].concat()
}

fn raw() -> Raw {
    Raw::default()
}

#[test]
fn every_value_type_is_read() {
    let array = |type_id: u32, n: u64, elements: &[u8]| {
        [&type_id.to_le_bytes()[..], &n.to_le_bytes(), elements].concat()
    };
    let file = raw()
        .entry("u8", 0, &[200])
        .entry("i8", 1, &[0xFF])
        .entry("u16", 2, &[1, 2])
        .entry("i16", 3, &[0xFE, 0xFF])
        .entry("u32", 4, &7u32.to_le_bytes())
        .entry("i32", 5, &(-7i32).to_le_bytes())
        .entry("f32", 6, &0.5f32.to_le_bytes())
        .entry("bool", 7, &[1])
        .entry("str", 8, &string("ß".as_bytes()))
        .entry("u64", 10, &u64::MAX.to_le_bytes())
        .entry("i64", 11, &i64::MIN.to_le_bytes())
        .entry("f64", 12, &0.1f64.to_le_bytes())
        .entry("strings", 9, &array(8, 2, &[string(b"a"), string(b"")].concat()))
        .entry("bools", 9, &array(7, 2, &[0, 1]))
        .entry("shorts", 9, &array(3, 2, &[1, 0, 0xFF, 0xFF]))
        .entry("none", 9, &array(6, 0, &[]))
        .opens();
    let m = file.metadata();
    let expected = [
        ("u8", Value::U8(200)),
        ("i8", Value::I8(-1)),
        ("u16", Value::U16(0x201)),
        ("i16", Value::I16(-2)),
        ("u32", Value::U32(7)),
        ("i32", Value::I32(-7)),
        ("f32", Value::F32(0.5)),
        ("bool", Value::Bool(true)),
        ("str", Value::from("ß")),
        ("u64", Value::U64(u64::MAX)),
        ("i64", Value::I64(i64::MIN)),
        ("f64", Value::F64(0.1)),
        ("strings", Value::Array(Array::Str(vec!["a".into(), String::new()]))),
        ("bools", Value::Array(Array::Bool(vec![false, true]))),
        ("shorts", Value::Array(Array::I16(vec![1, -1]))),
        ("none", Value::Array(Array::F32(vec![]))),
    ];
    assert!(m.iter().eq(expected.iter().map(|(k, v)| (*k, v))));
}

#[test]
fn tensors_may_lie_in_any_order_with_gaps() {
    let mut file = raw().tensor("b", &[8], 0, 64).tensor("a", &[4, 2], 1, 0);
    file.version = 2;
    file.data[0] = 9;
    file.data[64] = 7;
    let file = file.opens();
    assert_eq!(file.version(), 2);
    let names: Vec<&str> = file.tensors().iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["b", "a"]);
    let a = file.tensor("a").unwrap();
    assert_eq!((a.cols(), a.rows(), a.n_elements(), a.n_bytes), (4, 2, 8, 16));
    assert_eq!(file.data(a).bytes()[0], 9);
    assert_eq!(file.data(&file.tensors()[0]).bytes()[0], 7);
    assert!(file.tensor("c").is_none());
}

#[test]
fn heads_that_are_wrong() {
    refused(vec![], "not a GGUF file: expected it to start with \"GGUF\", found []");
    refused(
        b"GGML....".to_vec(),
        "not a GGUF file: expected it to start with \"GGUF\", found [47, 47, 4d, 4c]",
    );
    refused(
        b"GGUF\x03".to_vec(),
        "truncated: the version needs 4 bytes at offset 4, the file has 1",
    );
    refused(b"GGUF\0\0\0\x03".to_vec(), "big-endian GGUF files are not supported");
    Raw { version: 1, ..raw() }.refused("expected GGUF version 2 or 3, found 1");
    Raw { version: 4, ..raw() }.refused("expected GGUF version 2 or 3, found 4");
}

#[test]
fn counts_are_checked_before_anything_is_allocated() {
    let huge = u64::MAX;
    Raw { n_entries: Some(huge), ..raw() }.refused(&format!(
        "{huge} metadata entries cannot fit in the rest of the file, which has room for 20"
    ));
    Raw { n_tensors: Some(huge), ..raw() }.refused(&format!(
        "{huge} tensors cannot fit in the rest of the file, which has room for 8"
    ));
    let elements = [8u32.to_le_bytes().as_slice(), &huge.to_le_bytes()].concat();
    let mut file = raw().entry("k", 9, &elements);
    file.data.clear();
    file.alignment = 1;
    file.refused(&format!(
        "{huge} elements of key \"k\" cannot fit in the rest of the file, which has room for 0"
    ));
    let mut file = raw().entry("k", 8, &huge.to_le_bytes());
    file.data.clear();
    file.alignment = 1;
    file.refused(&format!(
        "truncated: the value of key \"k\" needs {huge} bytes at offset 45, the file has 0"
    ));
}

#[test]
fn entries_that_are_wrong() {
    raw().entry("k", 13, &[]).refused("key \"k\": expected a value type 0..=12, found 13");
    raw().entry("k", 7, &[2]).refused("key \"k\": expected 0 or 1 as a boolean, found 2");
    raw().entry("k", 0, &[1]).entry("k", 0, &[1]).refused("key \"k\" occurs twice");
    raw().entry("k", 8, &string(b"\xFF")).refused("the value of key \"k\" is not valid UTF-8");
    let nested = [9u32.to_le_bytes().as_slice(), &0u64.to_le_bytes()].concat();
    raw().entry("k", 9, &nested).refused("key \"k\": arrays of arrays are not supported");
}

#[test]
fn alignments_that_are_wrong() {
    let aligned = |n: u32| raw().entry("general.alignment", 4, &n.to_le_bytes());
    for n in [0, 3, 48, 1 << 31] {
        aligned(n).refused(&format!(
            "expected an alignment that is a power of two from 1 to 2^30, found {n}"
        ));
    }
    raw().entry("general.alignment", 8, &string(b"32")).refused(
        "key \"general.alignment\": expected an unsigned 64-bit integer, found string \"32\"",
    );
    let mut one = aligned(1).tensor("t", &[3], 24, 5);
    one.alignment = 1;
    one.data = (0..8).collect();
    let file = one.opens();
    assert_eq!(file.data(&file.tensors()[0]).bytes(), [5, 6, 7]);
}

#[test]
fn tensors_that_are_wrong() {
    let t = |dims: &[u64], type_id, offset| raw().tensor("t", dims, type_id, offset);
    t(&[], 0, 0).refused("tensor \"t\": expected 1 to 4 dimensions, found 0");
    t(&[1; 5], 0, 0).refused("tensor \"t\": expected 1 to 4 dimensions, found 5");
    t(&[4], 4, 0).refused("tensor \"t\": unknown element type 4");
    t(&[33], 8, 0).refused("tensor \"t\": Q8_0 needs rows of a multiple of 32 weights, found 33");
    t(&[4], 0, 16).refused("tensor \"t\": offset 16 is no multiple of the alignment 32");
    t(&[0, 4], 0, 0).refused("tensor \"t\": dimensions [0, 4] hold a zero or too many elements");
    for dims in [[1 << 32, 1 << 32], [u64::MAX, 1], [1 << 63, 2]] {
        let message = format!("tensor \"t\": dimensions {dims:?} hold a zero or too many elements");
        t(&dims, 0, 0).refused(&message);
    }
    t(&[1 << 62], 28, 0)
        .refused("tensor \"t\": dimensions [4611686018427387904] hold a zero or too many elements");
    t(&[65], 0, 0).refused("tensor \"t\": expected 260 bytes at offset 64, the file has 320");
    t(&[8], 0, u64::MAX - 31).refused(&format!(
        "tensor \"t\": expected 32 bytes at offset {}, the file has 320",
        u64::MAX
    ));
    t(&[4], 0, 0).tensor("t", &[4], 0, 32).refused("tensor \"t\" occurs twice");
    t(&[9], 0, 0).tensor("u", &[4], 0, 32).refused("tensors \"t\" and \"u\" overlap");
    t(&[64], 0, 0).opens();
}

/// Cut anywhere, a file is refused, and never for a reason that blames something else.
#[test]
fn every_truncation_is_refused() {
    let bytes = raw().entry("k", 8, &string(b"value")).tensor("t", &[64], 0, 0).bytes();
    for len in 0..bytes.len() {
        let message = Gguf::from_vec(bytes[..len].to_vec(), "f").unwrap_err().to_string();
        let expected = ["truncated", "cannot fit", "not a GGUF file", "bytes at offset"];
        assert!(expected.iter().any(|e| message.contains(e)), "{len} bytes: {message}");
    }
}

#[test]
fn fingerprints_tell_files_apart() {
    let base = raw().entry("k", 0, &[1]).tensor("t", &[64], 0, 0);
    let print = |raw: &Raw| raw.opens().fingerprint();
    let original = print(&base);
    assert_eq!(print(&base), original);
    let mut other = raw().entry("k", 0, &[2]).tensor("t", &[64], 0, 0);
    assert_ne!(print(&other), original, "metadata counts");
    other = raw().entry("k", 0, &[1]).tensor("u", &[64], 0, 0);
    assert_ne!(print(&other), original, "names count");
    other = raw().entry("k", 0, &[1]).tensor("t", &[64], 0, 0);
    other.data[100] = 1;
    assert_ne!(print(&other), original, "weights count");
}

/// Embedded bytes need not be aligned; the reader's are.
#[test]
fn embedded_files_are_aligned() {
    static PADDED: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    let file = raw().tensor("t", &[8], 0, 32);
    let bytes = PADDED.get_or_init(|| [vec![0], file.bytes()].concat());
    let embedded = Gguf::from_static(&bytes[1..], "embedded").unwrap();
    let data = embedded.data(&embedded.tensors()[0]);
    assert_eq!(data.bytes().as_ptr().align_offset(32), 0);
    assert_eq!(embedded.path().to_str(), Some("embedded"));
}
