//! What `tidemill --version` says.

use std::sync::LazyLock;

/// The features that are on, of those that change what the command can do.
const FEATURES: [(&str, bool); 6] = [
    ("avro", cfg!(feature = "avro")),
    ("aws", cfg!(feature = "aws")),
    ("azure", cfg!(feature = "azure")),
    ("gcp", cfg!(feature = "gcp")),
    ("http", cfg!(feature = "http")),
    ("kafka", cfg!(feature = "kafka")),
];

/// The version, the commit if it is known, and the features: `0.1.0 (1a2b3c4d5e6f; avro, aws)`.
pub(super) fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let features = FEATURES.iter().filter(|(_, is_on)| *is_on).map(|(name, _)| *name);
        let features = features.collect::<Vec<_>>().join(", ");
        let details = [option_env!("TIDEMILL_COMMIT").unwrap_or("commit not known"), &features];
        let details: Vec<&str> = details.into_iter().filter(|detail| !detail.is_empty()).collect();
        format!("{} ({})", env!("CARGO_PKG_VERSION"), details.join("; "))
    });
    &VERSION
}
