//! Which cores there are, and staying on one.

/// The logical processors that this process may use and that keep pace with each other: one of every
/// physical core, then their siblings, so that any number of threads spreads over as many cores as it
/// can. At least one.
pub(crate) fn processors() -> Vec<usize> {
    let (mut cores, mut rest): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
    for cpu in keeping_pace(allowed(), capacity) {
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

/// macOS ties no thread to a core, so that only the number counts: that of the fast ones.
#[cfg(target_os = "macos")]
fn allowed() -> Vec<usize> {
    (0..performance_cores().unwrap_or_else(|| all().len())).collect()
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn allowed() -> Vec<usize> {
    all()
}

fn all() -> Vec<usize> {
    (0..std::thread::available_parallelism().map_or(1, usize::from)).collect()
}

/// Cores of the fastest kind on Apple silicon; `None` where all are of one kind.
#[cfg(target_os = "macos")]
fn performance_cores() -> Option<usize> {
    let (mut count, mut bytes) = (0i32, size_of::<i32>());
    // SAFETY: the name ends with a zero; `count` has room for the `bytes` that are announced; a null
    // pointer means that nothing is to be set.
    let status = unsafe {
        libc::sysctlbyname(
            c"hw.perflevel0.logicalcpu".as_ptr(),
            (&raw mut count).cast(),
            &raw mut bytes,
            std::ptr::null_mut(),
            0,
        )
    };
    usize::try_from(count).ok().filter(|n| status == 0 && *n > 0)
}

/// Those of `cpus` that are best given equal shares of the work. The slowest decides when all are done, so
/// this takes the fastest `n` for which `n` times the least capacity is largest.
fn keeping_pace(cpus: Vec<usize>, capacity: impl Fn(usize) -> u64) -> Vec<usize> {
    let mut capacities: Vec<u64> = cpus.iter().map(|&cpu| capacity(cpu)).collect();
    capacities.sort_unstable_by(|a, b| b.cmp(a));
    let together = |(i, least): &(usize, &u64)| (*i as u64 + 1) * **least;
    let least = capacities.iter().enumerate().max_by_key(together).map_or(0, |(_, least)| *least);
    cpus.into_iter().filter(|&cpu| capacity(cpu) >= least).collect()
}

/// How fast a processor is beside the fastest one, which has 1024. Linux tells where cores differ, as
/// they do on many Arm processors.
fn capacity(cpu: usize) -> u64 {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/cpu_capacity");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.trim().parse().unwrap_or(1024)
}

/// The logical processors that share a core with `cpu`, itself included where the system tells.
fn siblings(cpu: usize) -> Vec<usize> {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    std::fs::read_to_string(path).map(|list| parse_list(&list)).unwrap_or_default()
}

/// `0-2,8` as 0, 1, 2, 8; parts that are no numbers are left out.
pub(crate) fn parse_list(list: &str) -> Vec<usize> {
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
    fn slow_cores_are_left_out_where_they_would_hold_up_the_others() {
        let kept = |capacities: &[u64]| {
            keeping_pace((0..capacities.len()).collect(), |cpu| capacities[cpu])
        };
        assert_eq!(kept(&[400, 400, 400, 400, 1024, 1024, 1024, 1024]), [4, 5, 6, 7]);
        assert_eq!(kept(&[300, 300, 300, 900, 900, 900, 1024]), [3, 4, 5, 6]);
        assert_eq!(kept(&[1024, 718]), [0, 1]);
        assert_eq!(kept(&[1024; 3]), [0, 1, 2]);
        assert_eq!(kept(&[]), Vec::<usize>::new());
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
