//! Writing: what is written reads back the same, whole files only.

use std::{fs, ops::ControlFlow, path::Path};

use gguf::{Error, Gguf, Layout, ParallelWriter, Writer};
use quant::TensorType;

const TENSORS: [(&str, TensorType, &[u64]); 4] = [
    ("embed", TensorType::F16, &[32, 3]),
    ("experts", TensorType::Iq2Xxs, &[256, 2, 3]),
    ("scale", TensorType::F32, &[1]),
    ("ids", TensorType::I32, &[3, 5]),
];

fn layout(alignment: u64) -> Layout {
    let mut layout = Layout::new(alignment).unwrap();
    layout.metadata("general.architecture", "deepseek4").unwrap();
    layout.metadata("numbers", vec![1u32, 2]).unwrap();
    for (name, ty, dims) in TENSORS {
        layout.tensor(name, ty, dims).unwrap();
    }
    layout
}

/// Bytes that depend on the tensor and the place in it.
fn content(tensor: usize) -> Vec<u8> {
    let (_, ty, dims) = TENSORS[tensor];
    let rows: u64 = dims[1..].iter().product();
    let n = ty.row_bytes(dims[0] as usize).unwrap() * rows as usize;
    (0..n).map(|i| (i * 7 + tensor * 31 + i / 251) as u8).collect()
}

fn in_memory(alignment: u64) -> Vec<u8> {
    let layout = layout(alignment);
    let file_bytes = layout.file_bytes();
    let mut writer = Writer::new(Vec::new(), layout).unwrap();
    for (i, (name, ..)) in TENSORS.iter().enumerate() {
        writer.write_tensor(name, &content(i)).unwrap();
    }
    let bytes = writer.into_inner().unwrap();
    assert_eq!(bytes.len() as u64, file_bytes);
    bytes
}

fn assert_holds_everything(gguf: &Gguf, alignment: u64) {
    assert_eq!(gguf.metadata().str("general.architecture").unwrap(), "deepseek4");
    assert_eq!(gguf.metadata().arr_u32("numbers").unwrap(), [1, 2]);
    for (i, (name, ty, dims)) in TENSORS.iter().enumerate() {
        let info = gguf.tensor(name).unwrap();
        assert_eq!((info.ty, info.dims.as_slice()), (*ty, *dims));
        assert_eq!(info.offset % alignment, 0);
        assert_eq!(gguf.data(info).bytes(), content(i));
    }
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn streamed_files_read_back() {
    for alignment in [1, 32, 64, 4096] {
        assert_holds_everything(
            &Gguf::from_vec(in_memory(alignment), "memory").unwrap(),
            alignment,
        );
    }
}

#[test]
fn parts_and_wholes_make_the_same_file() {
    let mut writer = Writer::new(Vec::new(), layout(32)).unwrap();
    for i in 0..TENSORS.len() {
        for part in content(i).chunks(13) {
            writer.write_part(part).unwrap();
        }
    }
    assert_eq!(writer.into_inner().unwrap(), in_memory(32));
}

#[test]
fn files_appear_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    fs::write(&path, "old").unwrap();

    let mut writer = Writer::create(&path, layout(32)).unwrap();
    writer.write_tensor("embed", &content(0)).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"old", "the old file stays until the new one is whole");
    assert_eq!(names_in(dir.path()).len(), 2);
    let error = writer.finish().unwrap_err();
    assert!(error.to_string().contains("tensor \"experts\""), "{error}");
    assert_eq!(names_in(dir.path()), ["model.gguf"], "nothing is left behind");
    assert_eq!(fs::read(&path).unwrap(), b"old");

    let mut writer = Writer::create(&path, layout(32)).unwrap();
    for (i, (name, ..)) in TENSORS.iter().enumerate() {
        writer.write_tensor(name, &content(i)).unwrap();
    }
    writer.finish().unwrap();
    assert_eq!(names_in(dir.path()), ["model.gguf"]);
    assert_eq!(fs::read(&path).unwrap(), in_memory(32));
}

#[test]
fn threads_write_the_same_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let writer = ParallelWriter::create(&path, layout(64)).unwrap();
    assert_eq!(writer.tensors().len(), TENSORS.len());
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let writer = &writer;
            scope.spawn(move || {
                for i in (0..TENSORS.len()).rev() {
                    for (n, part) in content(i).chunks(17).enumerate() {
                        if n % 3 == thread {
                            writer.write_at(i, n as u64 * 17, part).unwrap();
                        }
                    }
                }
            });
        }
    });
    writer.finish().unwrap();
    assert_eq!(fs::read(&path).unwrap(), in_memory(64));

    let writer = ParallelWriter::create(&path, layout(64)).unwrap();
    for (tensor, offset) in [(0, 190), (0, u64::MAX), (9, 0)] {
        let error = writer.write_at(tensor, offset, &[0; 3]).unwrap_err();
        assert!(matches!(error, Error::Write { .. }), "{error}");
    }
    writer.write_at(0, 189, &[0; 3]).unwrap();
    let error = writer.finish().unwrap_err();
    assert!(error.to_string().contains("tensor \"embed\": expected 192, found 3"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), in_memory(64), "the finished file is untouched");
}

#[test]
fn opened_files_are_mapped_read_only_and_shared() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mapped.gguf");
    fs::write(&path, in_memory(32)).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    assert_holds_everything(&gguf, 32);
    assert_eq!((gguf.path(), gguf.n_shards()), (path.as_path(), 1));
    gguf.will_need();
    let mut reports = Vec::new();
    let touched = gguf.touch(|done, total| {
        reports.push((done, total));
        ControlFlow::Continue(())
    });
    assert_eq!(touched, ControlFlow::Continue(()));
    assert_eq!(reports, [(gguf.file_bytes(), gguf.file_bytes())]);
    assert_eq!(gguf.touch(|_, _| ControlFlow::Break(())), ControlFlow::Break(()));
    if let Ok(maps) = fs::read_to_string("/proc/self/maps") {
        let line = maps.lines().find(|l| l.contains("mapped.gguf")).expect("the file is mapped");
        assert!(line.contains(" r--s "), "{line}");
    }
}

#[test]
fn layouts_refuse_what_cannot_be_read_back() {
    let mut layout = layout(32);
    let kinds = [
        layout.metadata("numbers", 1u32).unwrap_err(),
        layout.metadata("general.alignment", 64u32).unwrap_err(),
        layout.tensor("embed", TensorType::F32, &[1]).unwrap_err(),
        layout.tensor("t", TensorType::F32, &[]).unwrap_err(),
        layout.tensor("t", TensorType::F32, &[0]).unwrap_err(),
        layout.tensor("t", TensorType::Q8_0, &[33]).unwrap_err(),
        layout.tensor("t", TensorType::F32, &[1 << 62, 2]).unwrap_err(),
    ];
    assert!(matches!(
        kinds,
        [
            Error::DuplicateKey { .. },
            Error::Write { .. },
            Error::DuplicateTensor { .. },
            Error::DimensionCount { found: 0, .. },
            Error::Dimensions { .. },
            Error::RowLength { cols: 33, .. },
            Error::Dimensions { .. },
        ]
    ));
    layout.metadata("general.alignment", 32u32).unwrap();
    assert!(Layout::new(48).is_err());
}

#[test]
fn tensors_come_in_order_and_in_full() {
    let mut writer = Writer::new(Vec::new(), layout(32)).unwrap();
    let message = writer.write_tensor("scale", &[0; 4]).unwrap_err().to_string();
    assert!(message.ends_with("the next tensor: expected embed, found scale"), "{message}");
    let message = writer.write_tensor("embed", &[0; 191]).unwrap_err().to_string();
    assert!(message.ends_with("tensor \"embed\": expected 192, found 191"), "{message}");
    let message = writer.write_part(&[0; 193]).unwrap_err().to_string();
    assert!(
        message.ends_with("the rest of tensor \"embed\": expected 192, found 193"),
        "{message}"
    );
}
