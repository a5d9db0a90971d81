//! Paths as callers have them.

use std::path::{Path, PathBuf};

/// What `load` and `start` take for a place: a path or URL as text, a [`Path`], or `None` for a format
/// that has no place.
pub trait IntoPath {
    /// The place as text, if there is one.
    fn into_path(self) -> Option<String>;
}

impl IntoPath for &str {
    fn into_path(self) -> Option<String> {
        Some(self.to_string())
    }
}

impl IntoPath for String {
    fn into_path(self) -> Option<String> {
        Some(self)
    }
}

impl IntoPath for &String {
    fn into_path(self) -> Option<String> {
        Some(self.clone())
    }
}

impl IntoPath for &Path {
    fn into_path(self) -> Option<String> {
        Some(self.to_string_lossy().into_owned())
    }
}

impl IntoPath for &PathBuf {
    fn into_path(self) -> Option<String> {
        self.as_path().into_path()
    }
}

impl IntoPath for PathBuf {
    fn into_path(self) -> Option<String> {
        self.as_path().into_path()
    }
}

impl IntoPath for Option<&str> {
    fn into_path(self) -> Option<String> {
        self.map(str::to_string)
    }
}
