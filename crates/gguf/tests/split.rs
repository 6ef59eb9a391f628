//! Split files: any part opens the whole, and parts that do not belong together are refused.

use std::{
    fs,
    path::{Path, PathBuf},
};

use gguf::{Gguf, Layout, Value, Writer};
use quant::TensorType;

/// One part with a tensor of its own.
struct Part {
    no: u64,
    count: u64,
    tensor: &'static str,
    total: i32,
}

impl Part {
    fn bytes(&self) -> Vec<u8> {
        let mut layout = Layout::new(32).unwrap();
        if self.no == 0 {
            layout.metadata("general.architecture", "deepseek4").unwrap();
        }
        // The widths that gguf-split uses.
        layout.metadata("split.no", Value::U16(self.no as u16)).unwrap();
        layout.metadata("split.count", Value::U16(self.count as u16)).unwrap();
        layout.metadata("split.tensors.count", self.total).unwrap();
        layout.tensor(self.tensor, TensorType::I8, &[5]).unwrap();
        let mut writer = Writer::new(Vec::new(), layout).unwrap();
        writer.write_tensor(self.tensor, &[self.no as u8; 5]).unwrap();
        writer.into_inner().unwrap()
    }
}

fn parts() -> [Part; 3] {
    let part = |no, tensor| Part { no, count: 3, tensor, total: 3 };
    [part(0, "a"), part(1, "b"), part(2, "c")]
}

fn path_of(dir: &Path, no: u64) -> PathBuf {
    dir.join(format!("model-q2-{:05}-of-00003.gguf", no + 1))
}

fn write_all(dir: &Path, parts: &[Part]) {
    for (i, part) in parts.iter().enumerate() {
        fs::write(path_of(dir, i as u64), part.bytes()).unwrap();
    }
}

#[track_caller]
fn refused(parts: &[Part], message: &str) {
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path(), parts);
    let error = Gguf::open(&path_of(dir.path(), 0)).unwrap_err().to_string();
    assert!(error.ends_with(message), "{error}");
}

#[test]
fn any_part_opens_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path(), &parts());
    let mut fingerprints = Vec::new();
    for no in 0..3 {
        let gguf = Gguf::open(&path_of(dir.path(), no)).unwrap();
        assert_eq!(gguf.metadata().str("general.architecture").unwrap(), "deepseek4");
        assert_eq!(gguf.n_shards(), 3);
        for (i, info) in gguf.tensors().iter().enumerate() {
            assert_eq!((info.name.as_str(), info.shard), (["a", "b", "c"][i], i));
            assert_eq!(gguf.data(info).bytes(), [i as u8; 5]);
        }
        let sizes = (0..3).map(|no| fs::metadata(path_of(dir.path(), no)).unwrap().len());
        assert_eq!(gguf.file_bytes(), sizes.sum::<u64>());
        fingerprints.push(gguf.fingerprint());
    }
    assert!(fingerprints.iter().all(|f| *f == fingerprints[0]));
}

#[test]
fn a_missing_part_is_named() {
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path(), &parts());
    fs::remove_file(path_of(dir.path(), 1)).unwrap();
    let error = Gguf::open(&path_of(dir.path(), 2)).unwrap_err().to_string();
    assert!(error.contains("one of 3 parts") && error.contains("-00002-of-00003.gguf"), "{error}");
}

#[test]
fn parts_that_do_not_belong_together() {
    let mut wrong = parts();
    wrong[2].no = 1;
    refused(&wrong, "-00003-of-00003.gguf: split: expected split.no 2, found 1");
    let mut wrong = parts();
    wrong[1].count = 2;
    refused(&wrong, "-00002-of-00003.gguf: split: expected split.count 3, found 2");
    let mut wrong = parts();
    wrong[1].tensor = "a";
    refused(&wrong, "-00002-of-00003.gguf: tensor \"a\" occurs twice");
    let mut wrong = parts();
    wrong[0].total = 4;
    refused(&wrong, "-00001-of-00003.gguf: split: expected split.tensors.count 4, found 3");
}

#[test]
fn parts_need_their_names_and_their_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("renamed.gguf");
    fs::write(&path, parts()[0].bytes()).unwrap();
    let error = Gguf::open(&path).unwrap_err().to_string();
    let message = "a name of the form NAME-00001-of-00003.gguf, found renamed.gguf";
    assert!(error.ends_with(message), "{error}");
    let error = Gguf::from_vec(parts()[0].bytes(), "memory").unwrap_err().to_string();
    assert_eq!(error, "memory: split: expected parts of a file in memory 1, found 3");
}
