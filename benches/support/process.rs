//! Running the `tidemill` binary and watching it from outside.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Result;

/// The binary, built with the profile of the benchmark.
pub const TIDEMILL: &str = env!("CARGO_BIN_EXE_tidemill");

/// How often the memory of a process is looked at. The kernel keeps the peak, so that only growth
/// in its very last moments is missed.
const LOOK: Duration = Duration::from_millis(5);

/// What one run of a process took.
#[derive(Debug, Clone, Copy)]
pub struct ProcessRun {
    /// From the start to the end.
    pub whole: Duration,
    /// From the start to the first line on stderr that holds the text waited for.
    pub until_line: Option<Duration>,
    /// The most memory that was resident, in bytes.
    pub peak_rss: u64,
}

/// Runs `tidemill` with `arguments` in `directory` and fails if it does.
pub fn run(arguments: &[&str], directory: &Path, wait_for: &str) -> Result<ProcessRun> {
    let started = Instant::now();
    let mut child = Command::new(TIDEMILL)
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let stderr = child.stderr.take().ok_or("stderr is not piped")?;
    let wait_for = wait_for.to_string();
    let reader = std::thread::spawn(move || {
        let mut until_line = None;
        let mut last = String::new();
        for line in BufReader::new(stderr).lines().map_while(std::result::Result::ok) {
            if until_line.is_none() && line.contains(&wait_for) {
                until_line = Some(started.elapsed());
            }
            last = line;
        }
        (until_line, last)
    });
    let memory = watch_memory(child.id());
    let status = child.wait()?;
    let whole = started.elapsed();
    let peak_rss = memory.join().map_err(|_| "the watcher of memory panicked")?;
    let (until_line, last) = reader.join().map_err(|_| "the reader of stderr panicked")?;
    if !status.success() {
        return Err(format!("tidemill {} ended with {status}: {last}", arguments.join(" ")).into());
    }
    Ok(ProcessRun { whole, until_line, peak_rss })
}

/// Watches until the process has ended: then its status has no line about memory any more.
fn watch_memory(process: u32) -> JoinHandle<u64> {
    std::thread::spawn(move || {
        let mut peak = 0;
        while let Some(now) = peak_rss(process) {
            peak = peak.max(now);
            std::thread::sleep(LOOK);
        }
        peak
    })
}

/// The high-water mark of this process's resident memory, in bytes.
pub fn own_peak_rss() -> Option<u64> {
    peak_rss(std::process::id())
}

/// The high-water mark of a process's resident memory, in bytes.
fn peak_rss(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
