//! Tells release builds which commit they are of. Builds for development do not ask: they would be made anew for every
//! commit.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=TIDEMILL_COMMIT");
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let given = std::env::var("TIDEMILL_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = given.or_else(|| if is_release { of_the_repository() } else { None });
    if let Some(commit) = commit {
        println!("cargo::rustc-env=TIDEMILL_COMMIT={commit}");
    }
}

/// The commit that is checked out, where the source is a repository and there is git.
fn of_the_repository() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output =
            Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_string())
    };
    let is_own = git(&["rev-parse", "--show-toplevel"])? == std::env::var("CARGO_MANIFEST_DIR").ok()?;
    if !is_own {
        return None;
    }
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
    git(&["rev-parse", "--short=12", "HEAD"]).filter(|commit| !commit.is_empty())
}
