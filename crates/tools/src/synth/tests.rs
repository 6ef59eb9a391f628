use std::collections::BTreeSet;

use gguf::Gguf;
use model::Role;

use super::*;

fn request(preset: Preset, recipe: Recipe) -> Request {
    Request { preset, recipe, n_layers: None, seed: 7 }
}

fn threads(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap()
}

/// The mean and the deviation of a tensor's first weights.
fn moments(synth: &Synth, index: usize) -> (f64, f64) {
    let spec = &synth.tensors()[index];
    let n = 65_536usize.next_multiple_of(spec.ty.block_len());
    let mut bytes = vec![0; n / spec.ty.block_len() * spec.ty.block_bytes()];
    synth.fill(index, 3, &mut bytes).unwrap();
    let mut weights = vec![0f32; n];
    quant::decode(spec.ty, &bytes, &mut weights).unwrap();
    let mean = weights.iter().map(|w| f64::from(*w)).sum::<f64>() / n as f64;
    let square = weights.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>() / n as f64;
    (mean, square.sqrt())
}

#[test]
fn decoded_weights_have_the_deviation_asked_for_in_every_type() {
    let mut seen = BTreeSet::new();
    for recipe in Recipe::ALL {
        let synth = Synth::new(request(Preset::Mid, recipe)).unwrap();
        for (i, spec) in synth.tensors().iter().enumerate() {
            let Content::Random { sigma } = spec.content else { continue };
            if !seen.insert(spec.ty.name()) {
                continue;
            }
            let (mean, rms) = moments(&synth, i);
            let sigma = f64::from(sigma);
            assert!((rms / sigma - 1.0).abs() < 0.02, "{}: {rms}, not {sigma}", spec.ty);
            // Five standard errors of 65,536 independent weights.
            assert!(mean.abs() < 0.02 * sigma, "{}: mean {mean} of {sigma}", spec.ty);
        }
    }
    let types: Vec<&str> = seen.into_iter().collect();
    assert_eq!(types, ["F16", "IQ2_XXS", "MXFP4", "Q2_K", "Q4_K", "Q8_0"]);
}

#[test]
fn any_part_can_be_made_alone() {
    let synth = Synth::new(request(Preset::Tiny, Recipe::Q2)).unwrap();
    for (i, spec) in synth.tensors().iter().enumerate() {
        let block = spec.ty.block_bytes();
        let n_blocks = (spec.bytes() as usize / block).min(40);
        let mut whole = vec![0; n_blocks * block];
        synth.fill(i, 0, &mut whole).unwrap();
        let cut = n_blocks / 3;
        let mut tail = vec![0; (n_blocks - cut) * block];
        synth.fill(i, cut as u64, &mut tail).unwrap();
        assert!(whole[cut * block..] == tail, "{}", spec.name);
    }
}

#[test]
fn a_written_file_is_the_same_whatever_the_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let synth = Synth::new(request(Preset::Tiny, Recipe::Q4)).unwrap();
    let write = |n: usize| {
        let path = dir.path().join(format!("{n}.gguf"));
        let progress = Progress::default();
        synth.write(&path, threads(n), &progress).unwrap();
        let total: u64 = synth.tensors().iter().map(TensorSpec::bytes).sum();
        assert_eq!(progress.written.into_inner(), total);
        std::fs::read(path).unwrap()
    };
    let one = write(1);
    assert_eq!(one.len() as u64, synth.file_bytes().unwrap());
    assert!(one == write(3));
    let other = Synth::new(Request { seed: 8, ..request(Preset::Tiny, Recipe::Q4) }).unwrap();
    other.write(&dir.path().join("8"), threads(2), &Progress::default()).unwrap();
    assert!(one != std::fs::read(dir.path().join("8")).unwrap());
}

#[test]
fn a_written_file_binds_to_the_configuration_it_was_made_from() {
    let dir = tempfile::tempdir().unwrap();
    for recipe in Recipe::ALL {
        let synth = Synth::new(Request { n_layers: Some(4), ..request(Preset::Tiny, recipe) });
        let synth = synth.unwrap();
        let path = dir.path().join(recipe.name());
        synth.write(&path, threads(2), &Progress::default()).unwrap();
        let gguf = Gguf::open(&path).unwrap();
        let config = Config::from_gguf(&gguf).unwrap();
        assert_eq!(&config, synth.config());
        let bound = model::bind(&gguf, &config).unwrap();
        assert_eq!(bound.layers.len(), 4);
    }
}

#[test]
fn fewer_layers_are_the_first_layers() {
    let make = |n_layers| {
        let synth = Synth::new(Request { n_layers, ..request(Preset::Tiny, Recipe::Q8) }).unwrap();
        let index = synth.tensors().iter().position(|t| t.name == "blk.1.attn_kv.weight").unwrap();
        let mut bytes = vec![0; synth.tensors()[index].bytes() as usize];
        synth.fill(index, 0, &mut bytes).unwrap();
        bytes
    };
    assert!(make(None) == make(Some(2)));
}

#[test]
fn nonsense_is_refused() {
    for n_layers in [0, 44, usize::MAX] {
        let request = Request { n_layers: Some(n_layers), ..request(Preset::Flash, Recipe::Q2) };
        let error = Synth::new(request).unwrap_err();
        assert_eq!(error.to_string(), format!("preset `flash` has 1 to 43 layers, not {n_layers}"));
    }
    let missing = Path::new("/nonexistent/directory/x.gguf");
    let synth = Synth::new(request(Preset::Tiny, Recipe::Q2)).unwrap();
    let error = synth.write(missing, threads(1), &Progress::default()).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/directory"), "{error}");
}

#[test]
fn a_full_disk_is_found_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    let error = check_space(&path, u64::MAX).unwrap_err();
    assert!(matches!(error, Error::DiskSpace { needed: u64::MAX, .. }), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_stop_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let synth = Synth::new(request(Preset::Tiny, Recipe::Q2)).unwrap();
    let progress = Progress { stop: AtomicBool::new(true), ..Progress::default() };
    let error = synth.write(&dir.path().join("x.gguf"), threads(2), &progress).unwrap_err();
    assert!(matches!(error, Error::Stopped));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn hash_tables_are_balanced_and_have_no_duplicates() {
    for (used, n_experts, n_tokens) in [(6, 256, 129_280), (6, 384, 129_280), (3, 8, 512)] {
        let mut bytes = vec![0; n_tokens * used * 4];
        hash_table(Words::new(1, "t"), 0, used as u64, n_experts, &mut bytes);
        let ids: Vec<u32> =
            bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let mut uses = vec![0usize; n_experts as usize];
        for chosen in ids.chunks(used) {
            let mut sorted = chosen.to_vec();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(sorted.len(), used, "{chosen:?}");
            chosen.iter().for_each(|expert| uses[*expert as usize] += 1);
        }
        // Complete rounds are exactly even; the last, incomplete one adds at most `used` each.
        let (least, most) = (uses.iter().min().unwrap(), uses.iter().max().unwrap());
        assert!(most - least <= used, "{least} to {most}");
    }
}

#[test]
fn routers_and_biases_do_not_prefer_experts() {
    let synth = Synth::new(request(Preset::Mid, Recipe::Q2)).unwrap();
    for spec in synth.tensors().iter().filter(|t| t.role == Role::Router) {
        if let Content::Uniform { centre, half_width } = spec.content {
            assert!(centre == 0.0 && half_width <= 0.01, "{}", spec.name);
        }
    }
}
