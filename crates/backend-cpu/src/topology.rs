//! Which cores there are, and staying on one.

/// The logical processors that this process may use: one of every physical core, then their
/// siblings, so that any number of threads spreads over as many cores as it can. At least one.
pub(crate) fn processors() -> Vec<usize> {
    let (mut cores, mut rest): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
    for cpu in allowed() {
        let shared = siblings(cpu).iter().any(|s| cores.contains(s));
        if shared { &mut rest } else { &mut cores }.push(cpu);
    }
    cores.append(&mut rest);
    if cores.is_empty() { vec![0] } else { cores }
}

#[cfg(target_os = "linux")]
fn allowed() -> Vec<usize> {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect(),
        Err(_) => all(),
    }
}

#[cfg(not(target_os = "linux"))]
fn allowed() -> Vec<usize> {
    all()
}

fn all() -> Vec<usize> {
    (0..std::thread::available_parallelism().map_or(1, usize::from)).collect()
}

/// The logical processors that share a core with `cpu`, itself included where the system tells.
fn siblings(cpu: usize) -> Vec<usize> {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    std::fs::read_to_string(path).map(|list| parse_list(&list)).unwrap_or_default()
}

/// `0-2,8` as 0, 1, 2, 8; parts that are no numbers are left out.
fn parse_list(list: &str) -> Vec<usize> {
    let range = |part: &str| -> Option<std::ops::RangeInclusive<usize>> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    list.trim().split(',').filter_map(range).flatten().collect()
}

/// Ties the calling thread to a logical processor. A refusal costs speed only and is not reported.
#[cfg(target_os = "linux")]
pub(crate) fn pin(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    let _refused = rustix::thread::sched_setaffinity(None, &set);
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn pin(_cpu: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_are_read() {
        assert_eq!(parse_list("0-2,8\n"), [0, 1, 2, 8]);
        assert_eq!(parse_list("5"), [5]);
        assert_eq!(parse_list(""), Vec::<usize>::new());
    }

    #[test]
    fn every_processor_is_named_once() {
        let processors = processors();
        let mut sorted = processors.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert!(!processors.is_empty() && sorted.len() == processors.len(), "{processors:?}");
    }
}
