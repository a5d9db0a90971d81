//! Ctrl-C and SIGTERM.

use std::io;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Which signals are listened to. The others do what they do to any process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listen {
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-C and, where there is such a thing, SIGTERM.
    InterruptAndTerminate,
}

/// The signals that ask the process to leave, or to leave off.
#[derive(Debug)]
pub(super) struct Signals {
    received: UnboundedReceiver<()>,
}

impl Signals {
    /// From now on the signals do not end the process by themselves.
    ///
    /// They are received by a thread of their own: the runtime's threads may be busy with a query for
    /// long stretches, and would notice a signal only after that.
    pub(super) fn install(listen: Listen) -> io::Result<Self> {
        let (sender, received) = unbounded_channel();
        let (ready, installed) = std::sync::mpsc::channel();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(forward(listen, sender, &ready)),
                Err(error) => tell(&ready, Err(error)),
            }
        })?;
        installed.recv().map_err(io::Error::other)??;
        Ok(Self { received })
    }

    /// Returns when the process is asked to leave.
    pub(super) async fn next(&mut self) {
        if self.received.recv().await.is_none() {
            // The thread has ended, which it does not do; no signal will come.
            std::future::pending::<()>().await;
        }
    }

    /// Forgets the signals that have come so far; they were not meant for what comes.
    pub(super) fn forget(&mut self) {
        while self.received.try_recv().is_ok() {}
    }
}

type Ready = std::sync::mpsc::Sender<io::Result<()>>;

fn tell(ready: &Ready, result: io::Result<()>) {
    // Fails only if nobody waits for it, and then there is nobody to tell that.
    let _ = ready.send(result);
}

#[cfg(unix)]
async fn forward(listen: Listen, sender: UnboundedSender<()>, ready: &Ready) {
    use tokio::signal::unix::{Signal, SignalKind, signal};

    let install = || -> io::Result<(Signal, Option<Signal>)> {
        let interrupt = signal(SignalKind::interrupt())?;
        match listen {
            Listen::Interrupt => Ok((interrupt, None)),
            Listen::InterruptAndTerminate => Ok((interrupt, Some(signal(SignalKind::terminate())?))),
        }
    };
    let (mut interrupt, mut terminate) = match install() {
        Ok(signals) => signals,
        Err(error) => return tell(ready, Err(error)),
    };
    tell(ready, Ok(()));
    loop {
        let terminated = async {
            match &mut terminate {
                Some(terminate) => terminate.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminated => {}
        }
        if sender.send(()).is_err() {
            return;
        }
    }
}

#[cfg(not(unix))]
async fn forward(_: Listen, sender: UnboundedSender<()>, ready: &Ready) {
    tell(ready, Ok(()));
    while tokio::signal::ctrl_c().await.is_ok() && sender.send(()).is_ok() {}
}
