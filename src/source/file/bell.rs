//! Rings when the kernel has something to tell of the files of a source.

use std::os::fd::OwnedFd;
use std::sync::{Arc, LazyLock};
use std::thread;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Builder, Handle};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

/// The bell of one descriptor. It rings once for any number of events that nobody has waited for.
#[derive(Debug)]
pub(super) struct Bell {
    rung: Arc<Notify>,
    _listener: AbortOnDropHandle<()>,
}

impl Bell {
    /// Rings whenever there is something new to read from `kernel`. `None` if nobody can listen.
    pub(super) fn of(kernel: Arc<OwnedFd>) -> Option<Self> {
        let rung = Arc::new(Notify::new());
        let ring = Arc::clone(&rung);
        let listener = listeners()?.spawn(async move {
            #[expect(deprecated, reason = "what takes its place is unsafe, and an OwnedFd stays what it is")]
            let Ok(kernel) = AsyncFd::with_interest(kernel, Interest::READABLE) else { return };
            // Whoever waits for the bell reads; here only what comes after this is waited for.
            while let Ok(mut ready) = kernel.readable().await {
                ready.clear_ready();
                ring.notify_one();
            }
        });
        Some(Self { rung, _listener: AbortOnDropHandle::new(listener) })
    }

    /// Returns when it has rung since the last time.
    pub(super) async fn rung(&self) {
        self.rung.notified().await;
    }
}

/// A thread that waits for all descriptors of the process: a program's own runtime may be one that cannot.
fn listeners() -> Option<&'static Handle> {
    static LISTENERS: LazyLock<Option<Handle>> = LazyLock::new(|| {
        let runtime = Builder::new_current_thread().enable_io().build().ok()?;
        let handle = runtime.handle().clone();
        let wait = move || runtime.block_on(std::future::pending::<()>());
        thread::Builder::new().name("tidemill-watch".into()).spawn(wait).ok()?;
        Some(handle)
    });
    LISTENERS.as_ref()
}
