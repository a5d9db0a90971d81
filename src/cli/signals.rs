//! Ctrl-C and SIGTERM.

use std::io;

/// The signals that ask the process to leave.
pub(super) struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: Option<tokio::signal::unix::Signal>,
}

impl Signals {
    /// Listens to Ctrl-C and SIGTERM; from now on neither ends the process by itself.
    #[cfg(unix)]
    pub(super) fn all() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: Some(signal(SignalKind::terminate())?), ..Self::interrupts()? })
    }

    /// Listens to Ctrl-C from now on.
    #[cfg(unix)]
    pub(super) fn interrupts() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: None })
    }

    /// Returns when the process is asked to leave.
    #[cfg(unix)]
    pub(super) async fn next(&mut self) {
        let terminated = async {
            match &mut self.terminate {
                Some(terminate) => terminate.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = terminated => {}
        }
    }

    /// Listens to Ctrl-C; from now on it does not end the process by itself.
    #[cfg(not(unix))]
    pub(super) fn all() -> io::Result<Self> {
        Self::interrupts()
    }

    /// Listens to Ctrl-C from now on.
    #[cfg(not(unix))]
    pub(super) fn interrupts() -> io::Result<Self> {
        Ok(Self {})
    }

    /// Returns when the process is asked to leave.
    #[cfg(not(unix))]
    pub(super) async fn next(&mut self) {
        // Without a handler for Ctrl-C, it ends the process.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
