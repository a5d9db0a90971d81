//! What packages need of the command: manual pages and the shells' completions.

use std::io::{self, Write};
use std::path::Path;

use clap::Command;
use clap_complete::Shell;

use super::exit::Exit;

/// Prints the completions for a shell.
pub(super) fn completions(shell: Shell, mut command: Command) -> Result<(), Exit> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "tidemill", &mut script);
    print(&script)
}

/// Prints the manual page of the command, or writes those of all its subcommands to `directory`.
pub(super) fn man(directory: Option<&Path>, command: Command) -> Result<(), Exit> {
    let Some(directory) = directory else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page).map_err(|error| Exit::output(&error))?;
        return print(&page);
    };
    let written =
        std::fs::create_dir_all(directory).and_then(|()| clap_mangen::generate_to(command, directory));
    written.map_err(|error| Exit::failed(format!("cannot write to '{}': {error}", directory.display())))
}

fn print(text: &[u8]) -> Result<(), Exit> {
    let mut out = io::stdout().lock();
    out.write_all(text).and_then(|()| out.flush()).map_err(|error| Exit::output(&error))
}
