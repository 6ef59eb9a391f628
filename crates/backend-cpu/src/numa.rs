//! Machines whose memory hangs on several nodes: weights are spread over all of them.
//!
//! Every thread reads its own rows of every matrix, but a file's pages belong to all processes and lie
//! where they were first touched: by a reader on one node, as a rule, whose memory then serves every
//! core. Spread page by page, the nodes serve together, whoever reads.

/// Makes pages that this thread, and threads that it starts, touch first come from all memory nodes in
/// turn. Does nothing on a machine of one node, and nothing where a policy is set already (`numactl`).
/// Returns the number of nodes.
#[cfg(target_os = "linux")]
pub fn spread_memory() -> usize {
    /// `MPOL_DEFAULT` and `MPOL_INTERLEAVE` of linux/mempolicy.h.
    const DEFAULT: libc::c_int = 0;
    const INTERLEAVE: libc::c_int = 3;
    /// Nodes that a mask of this file can name; the kernel's largest configuration has 1024.
    const MAX_NODES: usize = 1024;

    let nodes = nodes();
    if nodes.len() < 2 {
        return nodes.len().max(1);
    }
    let mut mask = [0 as libc::c_ulong; MAX_NODES / libc::c_ulong::BITS as usize];
    for node in nodes.iter().filter(|node| **node < MAX_NODES) {
        mask[node / libc::c_ulong::BITS as usize] |= 1 << (node % libc::c_ulong::BITS as usize);
    }
    let mut policy: libc::c_int = DEFAULT;
    // SAFETY: the kernel writes one int to `policy`; null and zero ask for no mask and no address.
    let known = unsafe {
        let (none, zero) = (std::ptr::null_mut::<libc::c_ulong>(), 0usize);
        libc::syscall(libc::SYS_get_mempolicy, &raw mut policy, none, zero, zero, zero)
    };
    if known == 0 && policy == DEFAULT {
        // SAFETY: the kernel reads `MAX_NODES` bits of `mask`. A refusal costs speed only.
        let _refused = unsafe {
            libc::syscall(libc::SYS_set_mempolicy, INTERLEAVE, mask.as_ptr(), MAX_NODES + 1)
        };
    }
    nodes.len()
}

/// Where the system places memory by itself.
#[cfg(not(target_os = "linux"))]
pub fn spread_memory() -> usize {
    1
}

/// Nodes that have memory.
#[cfg(target_os = "linux")]
fn nodes() -> Vec<usize> {
    let list = std::fs::read_to_string("/sys/devices/system/node/has_memory").unwrap_or_default();
    crate::topology::parse_list(&list)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn spreading_says_how_many_nodes_there_are() {
        assert_eq!(super::spread_memory(), super::nodes().len().max(1));
        // Set or not, a second call changes nothing.
        assert_eq!(super::spread_memory(), super::nodes().len().max(1));
    }
}
