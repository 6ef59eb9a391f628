//! The kernels' code: compiled into this binary, or compiled on this machine.

use std::borrow::Cow;
use std::ffi::{CStr, CString};

use cudarc::nvrtc::{result as nvrtc, sys};

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// The architectures whose embedded code a device of `arch` runs, best first. Code for `90a` runs on
/// 9.0 alone; code for `80` on every 8.x.
fn suitable(arch: u32) -> Vec<String> {
    let mut names = vec![format!("sm_{arch}a"), format!("sm_{arch}")];
    names.extend((arch / 10 * 10..arch).rev().map(|older| format!("sm_{older}")));
    names
}

/// Where this device's code comes from.
#[derive(Clone, Debug)]
pub(crate) enum Kernels {
    /// Embedded for this architecture.
    Embedded(String),
    /// Compiled on this machine.
    Compiled(u32),
}

impl Kernels {
    /// The best source for a device, or what is missing.
    pub(crate) fn find(arch: u32) -> Result<Self, String> {
        let embedded = |name: &String| COMPILED.iter().any(|(arch, _, _)| arch == name);
        if let Some(name) = suitable(arch).into_iter().find(embedded) {
            return Ok(Self::Embedded(name));
        }
        // SAFETY: loads a library whose initialisers are NVIDIA's own.
        if unsafe { sys::is_culib_present() } {
            return Ok(Self::Compiled(arch));
        }
        Err(format!(
            "this binary holds kernels for {}, and libnvrtc, which could compile them, is not \
             installed",
            embedded_architectures().join(", ")
        ))
    }

    /// Modules whose code is in this binary for the device.
    pub(crate) fn embedded(&self) -> Vec<&'static str> {
        match self {
            Self::Embedded(arch) => {
                COMPILED.iter().filter(|(a, _, _)| a == arch).map(|(_, stem, _)| *stem).collect()
            }
            Self::Compiled(_) => Vec::new(),
        }
    }

    /// The module's code.
    pub(crate) fn image(&self, module: &str) -> Result<Cow<'static, [u8]>, String> {
        match self {
            Self::Embedded(arch) => COMPILED
                .iter()
                .find(|(a, stem, _)| a == arch && *stem == module)
                .map(|(_, _, image)| Cow::Borrowed(*image))
                .ok_or_else(|| format!("none for {arch}")),
            Self::Compiled(arch) => compile(module, *arch).map(Cow::Owned),
        }
    }
}

/// Architectures that this binary holds code for.
pub fn embedded_architectures() -> Vec<&'static str> {
    let mut names: Vec<&str> = COMPILED.iter().map(|(arch, _, _)| *arch).collect();
    names.dedup();
    if names.is_empty() { vec!["no architecture"] } else { names }
}

/// The text of `cuda/<module>.cu` with its includes in place.
pub fn source(module: &str) -> Result<String, String> {
    let mut text = String::new();
    let mut seen = Vec::new();
    expand(&format!("{module}.cu"), &mut seen, &mut text)?;
    Ok(text)
}

/// Every `.cu` file's stem.
pub fn modules() -> impl Iterator<Item = &'static str> {
    SOURCES.iter().filter_map(|(name, _)| name.strip_suffix(".cu"))
}

/// Headers are found beside the file and at the top, and each is taken once.
fn expand(name: &str, seen: &mut Vec<String>, out: &mut String) -> Result<(), String> {
    if seen.iter().any(|s| s == name) {
        return Ok(());
    }
    seen.push(name.to_owned());
    let (_, text) =
        SOURCES.iter().find(|(n, _)| *n == name).ok_or_else(|| format!("no file {name}"))?;
    for line in text.lines() {
        let quoted = line.strip_prefix("#include \"").and_then(|rest| rest.split('"').next());
        match quoted {
            Some(header) => {
                let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
                let beside = format!("{folder}/{header}");
                let found = SOURCES.iter().any(|(n, _)| *n == beside);
                expand(if found { &beside } else { header }, seen, out)?;
            }
            None => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    Ok(())
}

fn compile(module: &str, arch: u32) -> Result<Vec<u8>, String> {
    let text = source(module)?;
    let text = CString::new(text).map_err(|e| e.to_string())?;
    let name = CString::new(format!("{module}.cu")).map_err(|e| e.to_string())?;
    let said = |e: nvrtc::NvrtcError| format!("NVRTC: {e:?}");
    let program = nvrtc::create_program(&text, Some(&name)).map_err(said)?;
    // Instructions of one architecture alone have an `a` in its name from 9.0 on.
    let suffix = if arch >= 90 { "a" } else { "" };
    let target = format!("--gpu-architecture=sm_{arch}{suffix}");
    // SAFETY: the program was just made and is destroyed once, below.
    let built = unsafe { nvrtc::compile_program(program, &[target.as_str(), "--std=c++17"]) };
    let image = match built {
        Ok(()) => cubin(program).map_err(said),
        Err(error) => Err(format!("NVRTC: {error:?}\n{}", log(program))),
    };
    // SAFETY: as above.
    unsafe { nvrtc::destroy_program(program) }.map_err(said)?;
    image
}

fn cubin(program: sys::nvrtcProgram) -> Result<Vec<u8>, nvrtc::NvrtcError> {
    let mut size = 0;
    // SAFETY: the program is compiled; `size` and `image` are as large as the calls write.
    unsafe {
        sys::nvrtcGetCUBINSize(program, &raw mut size).result()?;
        let mut image = vec![0u8; size];
        sys::nvrtcGetCUBIN(program, image.as_mut_ptr().cast()).result()?;
        Ok(image)
    }
}

fn log(program: sys::nvrtcProgram) -> String {
    // SAFETY: the program exists; its log ends with a zero.
    unsafe { nvrtc::get_program_log(program) }.map_or_else(
        |error| format!("no log: {error:?}"),
        |mut log| {
            log.push(0);
            // SAFETY: a zero was just put at the end.
            unsafe { CStr::from_ptr(log.as_ptr()) }.to_string_lossy().into_owned()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_has_its_includes_in_place() {
        assert!(modules().count() > 0);
        for module in modules() {
            let text = source(module).expect("expands");
            assert!(!text.lines().any(|line| line.starts_with("#include \"")), "{module}");
        }
    }

    #[test]
    fn devices_run_code_of_their_own_generation() {
        assert_eq!(suitable(90)[..2], ["sm_90a", "sm_90"]);
        assert!(suitable(89).contains(&"sm_80".to_owned()));
        assert!(!suitable(120).contains(&"sm_90".to_owned()));
    }
}
