//! The `tidemill` command.

mod cli;
/// A package of its own that builds on this library, so that it cannot be a dependency of the command, which is in
/// the library's package.
#[cfg(feature = "kafka")]
#[allow(unused_imports, reason = "the package exports more than the command uses")]
#[path = "../crates/kafka/src/lib.rs"]
mod kafka;

/// State comes and goes in large and small pieces; glibc's allocator would keep several times as much
/// memory as is in use.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}
