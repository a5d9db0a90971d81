//! Event time: windows, watermarks and deduplication as they are declared and planned.

mod daylight;
mod declarations;
mod statements;
mod streaming;
mod windows;
