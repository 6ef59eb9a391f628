//! What threads and processes take, from `/proc`.

use std::time::Duration;

use anyhow::{Context as _, bail};

/// Time on a processor of all threads of this process with this name.
pub(super) fn of_threads(name: &str) -> anyhow::Result<Duration> {
    let mut nanoseconds = 0;
    let mut n_found = 0;
    for task in std::fs::read_dir("/proc/self/task").context("this needs Linux")? {
        let task = task?.path();
        let read = |file: &str| std::fs::read_to_string(task.join(file)).unwrap_or_default();
        if read("comm").trim() == name {
            let spent = read("schedstat");
            let spent = spent.split_whitespace().next().and_then(|n| n.parse::<u64>().ok());
            nanoseconds += spent.unwrap_or(0);
            n_found += 1;
        }
    }
    if n_found == 0 {
        bail!("there is no thread called {name}");
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Time on a processor of the thread that asks.
pub(super) fn of_this_thread() -> std::io::Result<Duration> {
    let spent = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let spent = spent.split_whitespace().next().and_then(|n| n.parse().ok());
    Ok(Duration::from_nanos(spent.unwrap_or(0)))
}

/// Resident memory of a process.
pub(super) fn resident_bytes(id: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1024)
}
