//! The `tidemill` command.

mod cli;

/// State comes and goes in large and small pieces; glibc's allocator would keep several times as much
/// memory as is in use.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}
