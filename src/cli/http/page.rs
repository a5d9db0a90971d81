//! The files of the page. They are in the binary, and load nothing from anywhere else.

use axum::http::header;
use axum::response::{IntoResponse, Response};

/// A file of the page.
#[derive(Debug)]
pub(super) struct File {
    pub(super) path: &'static str,
    kind: &'static str,
    text: &'static str,
}

/// All of them.
pub(super) const FILES: [File; 6] = [
    File { path: "/", kind: "text/html; charset=utf-8", text: include_str!("page/index.html") },
    File { path: "/page.css", kind: "text/css; charset=utf-8", text: include_str!("page/page.css") },
    File { path: "/page.js", kind: "text/javascript; charset=utf-8", text: include_str!("page/page.js") },
    File { path: "/icon.svg", kind: "image/svg+xml", text: include_str!("page/icon.svg") },
    // https://github.com/leeoniya/uPlot 1.6.32, see LICENSE.uPlot beside it.
    File {
        path: "/uPlot.js",
        kind: "text/javascript; charset=utf-8",
        text: include_str!("page/uPlot.iife.min.js"),
    },
    File { path: "/uPlot.css", kind: "text/css; charset=utf-8", text: include_str!("page/uPlot.min.css") },
];

impl File {
    pub(super) async fn serve(&'static self) -> Response {
        ([(header::CONTENT_TYPE, self.kind)], self.text).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small() {
        let bytes: usize = FILES.iter().map(|file| file.text.len()).sum();
        assert!(bytes < 150_000, "{bytes} bytes");
    }
}
