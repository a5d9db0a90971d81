//! What console sinks print while a line is being typed.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustyline::ExternalPrinter;
use tidemill::sink::ConsoleSink;
use tidemill::sink::console::Console;
use tidemill::{Result, SinkFactory, SinkRequest, sink::Sink};

/// The terminal, with or without a line that is being typed.
#[derive(Clone, Default)]
pub(super) struct Terminal {
    is_typing: Arc<AtomicBool>,
    /// Whether there was ever a sink that prints to it.
    is_printed_to: Arc<AtomicBool>,
    above: Arc<Mutex<Option<Box<dyn ExternalPrinter + Send>>>>,
}

impl Terminal {
    /// From now on, what is printed while a line is typed goes above it through `printer`.
    pub(super) fn print_above_with(&self, printer: impl ExternalPrinter + Send + 'static) {
        *self.above.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(printer));
    }

    /// Whether there was ever a sink that prints to it.
    pub(super) fn is_printed_to(&self) -> bool {
        self.is_printed_to.load(Ordering::SeqCst)
    }

    /// Whether a line is being typed.
    pub(super) fn set_typing(&self, is_typing: bool) {
        self.is_typing.store(is_typing, Ordering::SeqCst);
    }
}

impl Write for Terminal {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        if self.is_typing.load(Ordering::SeqCst)
            && let Some(above) = self.above.lock().unwrap_or_else(PoisonError::into_inner).as_mut()
        {
            above.print(String::from_utf8_lossy(text).into_owned()).map_err(io::Error::other)?;
            return Ok(text.len());
        }
        io::stdout().write_all(text)?;
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

/// Makes console sinks that print to the terminal of the shell.
pub(super) struct ShellConsole {
    console: Console,
    terminal: Terminal,
}

impl ShellConsole {
    pub(super) fn new(terminal: Terminal) -> Self {
        Self { console: Arc::new(Mutex::new(terminal.clone())), terminal }
    }
}

impl SinkFactory for ShellConsole {
    fn create(&self, request: SinkRequest) -> Result<Arc<dyn Sink>> {
        let sink = ConsoleSink::try_new(request.schema, &request.options)?;
        self.terminal.is_printed_to.store(true, Ordering::SeqCst);
        Ok(Arc::new(sink.with_query_name(request.query_name).with_output(Arc::clone(&self.console))))
    }
}
