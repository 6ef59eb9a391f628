//! Where Keid keeps its own files.

use std::path::PathBuf;

/// Files that can be made again, such as KV pages: `$XDG_CACHE_HOME/keid`, or the system's place
/// for such files; the current directory where there is none.
pub(crate) fn cache() -> PathBuf {
    dirs::cache_dir().unwrap_or_default().join("keid")
}

/// Files that cannot be made again, such as the history of what was typed.
pub(crate) fn data() -> PathBuf {
    dirs::data_dir().unwrap_or_default().join("keid")
}
