//! Main memory and who else limits it.

use serde::Serialize;

use super::Files;

/// Sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Installed, as the kernel counts it.
    pub total: u64,
    /// What a new process could have without swapping.
    pub available: u64,
    /// Swap space.
    pub swap: u64,
    /// Limit of this process's control groups, the tightest one.
    pub cgroup_limit: Option<u64>,
    /// Used of that limit.
    pub cgroup_used: Option<u64>,
    /// What the GPU may have wired of unified memory (macOS).
    pub gpu_wired_limit: Option<u64>,
    /// Pages of 2 MiB or 1 GiB set aside for programs that ask for them.
    pub huge_pages: u64,
    /// `always`, `madvise` or `never`: when ordinary memory is given huge pages.
    pub transparent_huge_pages: String,
}

impl Memory {
    /// What processes on this machine can hold altogether: memory, or the control group's limit
    /// where that is less.
    pub fn usable(&self) -> u64 {
        self.cgroup_limit.map_or(self.total, |limit| limit.min(self.total))
    }

    /// What this process could take now.
    pub fn free(&self) -> u64 {
        let in_cgroup = self
            .cgroup_limit
            .map(|limit| limit.saturating_sub(self.cgroup_used.unwrap_or_default()));
        in_cgroup.map_or(self.available, |left| left.min(self.available))
    }

    pub(super) fn read(files: &Files) -> Self {
        let info = files.text("proc/meminfo").unwrap_or_default();
        let (cgroup_limit, cgroup_used) = cgroup(files);
        let huge = files.text("sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
        let total = meminfo(&info, "MemTotal");
        Self {
            total,
            available: meminfo(&info, "MemAvailable"),
            swap: meminfo(&info, "SwapTotal"),
            // A limit above the machine's memory limits nothing.
            cgroup_limit: cgroup_limit.filter(|limit| *limit < total),
            cgroup_used,
            gpu_wired_limit: None,
            huge_pages: count(&info, "HugePages_Total") * meminfo(&info, "Hugepagesize"),
            transparent_huge_pages: bracketed(&huge),
        }
    }
}

/// The value of a line `Name: 123 kB`, in bytes.
fn meminfo(text: &str, name: &str) -> u64 {
    count(text, name).saturating_mul(1024)
}

fn count(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// The choice that sysfs marks: `always [madvise] never` is `madvise`.
pub(super) fn bracketed(text: &str) -> String {
    let chosen = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    chosen.map_or(text, |(chosen, _)| chosen).to_owned()
}

/// The tightest limit above this process and its use, in both versions of control groups.
fn cgroup(files: &Files) -> (Option<u64>, Option<u64>) {
    let groups = files.text("proc/self/cgroup").unwrap_or_default();
    let mut tightest: (Option<u64>, Option<u64>) = (None, None);
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let (base, limit, used) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max", "memory.current"),
            _ if controllers.split(',').any(|c| c == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
            }
            _ => continue,
        };
        // A container sees its own group at the root; elsewhere every ancestor's limit counts.
        let mut path = path.trim_matches('/');
        loop {
            let number = |file: &str| files.text(&format!("{base}/{path}/{file}"))?.parse().ok();
            if let Some(found) = number(limit)
                && tightest.0.is_none_or(|least| found < least)
            {
                tightest = (Some(found), number(used));
            }
            if path.is_empty() {
                break;
            }
            path = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        }
    }
    tightest
}

#[cfg(test)]
mod tests {
    use super::super::tests::laid_out;
    use super::*;

    const MEMINFO: &str = "MemTotal: 1000 kB\nMemFree: 10 kB\nMemAvailable: 600 kB\n\
                           HugePages_Total: 3\nHugepagesize: 2048 kB\nSwapTotal: 5 kB\n";

    #[test]
    fn the_tightest_control_group_counts() {
        let (_dir, files) = laid_out(&[
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "0::/user/job\n"),
            ("sys/fs/cgroup/user/memory.max", "512000\n"),
            ("sys/fs/cgroup/user/memory.current", "112000\n"),
            ("sys/fs/cgroup/user/job/memory.max", "max\n"),
            ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
        ]);
        let memory = Memory::read(&files);
        assert_eq!((memory.total, memory.swap), (1_024_000, 5120));
        assert_eq!((memory.usable(), memory.free()), (512_000, 400_000));
        assert_eq!(memory.huge_pages, 3 * 2048 * 1024);
        assert_eq!(memory.transparent_huge_pages, "madvise");
    }

    #[test]
    fn version_1_groups_and_limits_beyond_the_memory() {
        let (_dir, files) = laid_out(&[
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "7:cpu,cpuacct:/x\n4:memory:/docker/ab\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ]);
        let memory = Memory::read(&files);
        assert_eq!(memory.cgroup_limit, None);
        assert_eq!((memory.usable(), memory.free()), (1_024_000, 614_400));
    }
}
