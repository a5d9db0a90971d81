//! How much memory there is: for state if nobody says how much it may take, and for batches if nothing else
//! limits them; and where that goes which has no room there.

pub(crate) mod local_disk;

use std::path::Path;

use datafusion::execution::memory_pool::{MemoryLimit, MemoryPool};

/// The share of state.
const STATE: u64 = 2;
/// The share of the files that a batch reads: rows take more room in memory than in files, and are in several
/// places at a time.
const INPUT: u64 = 32;

/// The share of rows on their way through a batch, where they wait for all of the others.
const ROWS: u64 = 8;

/// How much memory state may take if nobody says how much: what is beyond moves to the local disk.
pub(crate) fn for_state(pool: &dyn MemoryPool) -> Option<usize> {
    Some(usize::try_from(total(pool)? / STATE).unwrap_or(usize::MAX))
}

/// How many bytes of rows may wait in memory for the next stage of their batch: what is beyond moves to the local
/// disk.
pub(crate) fn for_rows(pool: &dyn MemoryPool) -> usize {
    total(pool).map_or(usize::MAX, |total| usize::try_from(total / ROWS).unwrap_or(usize::MAX))
}

/// How many bytes of input fit into a batch of a query with state, about.
pub(crate) fn for_input(pool: &dyn MemoryPool) -> Option<u64> {
    Some((total(pool)? / INPUT).max(1))
}

/// What the session may use, or else the process.
fn total(pool: &dyn MemoryPool) -> Option<u64> {
    match pool.memory_limit() {
        MemoryLimit::Finite(bytes) => Some(bytes as u64),
        MemoryLimit::Infinite | MemoryLimit::Unknown => of_process(),
    }
}

/// What the system has, less what limits leave: those of control groups (containers), and `ulimit`.
fn of_process() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let system = system_total(&read("/proc/meminfo"));
    let groups = groups(&read("/proc/self/cgroup"))
        .into_iter()
        .filter_map(|path| limit_of_group(&std::fs::read_to_string(path).ok()?));
    let limits = process_limits(&read("/proc/self/limits"));
    system.into_iter().chain(groups).chain(limits).min()
}

/// `MemTotal:  16326420 kB`
fn system_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// The files with the limits of the control groups that a process is in, and of those around them.
fn groups(cgroup: &str) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for line in cgroup.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            other if other.split(',').any(|controller| controller == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let inside = Path::new(path.trim_start_matches('/'));
        files.extend(inside.ancestors().map(|group| Path::new(root).join(group).join(file)));
    }
    files
}

/// A number, or `max`.
fn limit_of_group(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The soft limits of `ulimit -v` and `ulimit -d`.
fn process_limits(limits: &str) -> Vec<u64> {
    let of_memory = |line: &&str| line.starts_with("Max address space") || line.starts_with("Max data size");
    let soft = |line: &str| line.get(26..)?.split_whitespace().next()?.parse().ok();
    limits.lines().filter(of_memory).filter_map(soft).collect()
}

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::{GreedyMemoryPool, UnboundedMemoryPool};

    use super::*;

    #[test]
    fn what_the_session_may_use_comes_first() {
        let pool = GreedyMemoryPool::new(64 << 20);
        assert_eq!((for_state(&pool), for_input(&pool)), (Some(32 << 20), Some(2 << 20)));
        if cfg!(target_os = "linux") {
            let all = total(&UnboundedMemoryPool::default()).unwrap_or_default();
            assert!(all > 1 << 20, "{all}");
        }
    }

    #[test]
    fn the_limits_of_linux_are_read() {
        assert_eq!(system_total("MemTotal:       16326420 kB\nMemFree: 1 kB\n"), Some(16_326_420 * 1024));
        let of = |cgroup: &str| -> Vec<String> {
            groups(cgroup).iter().map(|path| path.display().to_string()).collect()
        };
        assert_eq!(
            of("0::/a/b\n"),
            ["/sys/fs/cgroup/a/b/memory.max", "/sys/fs/cgroup/a/memory.max", "/sys/fs/cgroup/memory.max"]
        );
        assert_eq!(
            of("9:cpu:/x\n4:memory:/\n1:name=systemd:/y\n"),
            ["/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        );
        assert_eq!((limit_of_group("max\n"), limit_of_group("1048576\n")), (None, Some(1 << 20)));
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max data size             unlimited            unlimited            bytes     \n\
                      Max address space         2147483648           unlimited            bytes     \n";
        assert_eq!(process_limits(limits), [2 << 30]);
    }
}
