//! Files that records are fed back in, in the form that their source reads.

use std::io::Write as _;

use bytes::Bytes;
use encoding_rs::{Encoding, UTF_16BE, UTF_16LE};
use serde::Deserialize;

/// How the source reads its files, as it noted with a record; what is not there is as names of files tell.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ReadAs {
    encoding: Option<String>,
    compression: Option<String>,
    /// A JSON document per file.
    multi_line: bool,
    header: bool,
    line_sep: Option<String>,
    /// The only names that are read, of which the new file's is none.
    only: Option<String>,
}

impl ReadAs {
    /// The file called `name` with these records, or why there can be none.
    pub(super) fn file(&self, name: &str, header: Option<&str>, records: &[&str]) -> Result<Bytes, String> {
        if let Some(only) = &self.only {
            return Err(format!(
                "its source reads only {only}, which '{name}' does not meet, so the records would never be read. Write \
                 them to a file there yourself, under a name that is read, and remove this file"
            ));
        }
        if self.header && header.is_none() {
            return Err("its files have a header: give its line with --header".into());
        }
        let text = if self.multi_line {
            format!("[\n{}\n]\n", records.join(",\n"))
        } else {
            let end = self.line_sep.as_deref().unwrap_or("\n");
            header.into_iter().chain(records.iter().copied()).flat_map(|line| [line, end]).collect()
        };
        let bytes = match &self.encoding {
            None => text.into_bytes(),
            Some(encoding) => encode(&text, encoding)?,
        };
        compress(self.compression_of(name), bytes)
            .map(Bytes::from)
            .map_err(|error| format!("cannot compress '{name}': {error}"))
    }

    fn compression_of(&self, name: &str) -> Compression {
        let by_name = name.rsplit_once('.').map_or("", |(_, extension)| extension);
        match self.compression.as_deref().unwrap_or(by_name).to_ascii_lowercase().as_str() {
            "gz" | "gzip" => Compression::Gzip,
            "zst" | "zstd" => Compression::Zstd,
            "bz2" | "bzip2" => Compression::Bzip2,
            "xz" => Compression::Xz,
            _ => Compression::None,
        }
    }
}

enum Compression {
    None,
    Gzip,
    Zstd,
    Bzip2,
    Xz,
}

fn compress(compression: Compression, text: Vec<u8>) -> std::io::Result<Vec<u8>> {
    match compression {
        Compression::None => Ok(text),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(&text).and_then(|()| encoder.finish())
        }
        Compression::Zstd => zstd::encode_all(text.as_slice(), 0),
        Compression::Bzip2 => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
            encoder.write_all(&text).and_then(|()| encoder.finish())
        }
        Compression::Xz => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 6);
            encoder.write_all(&text).and_then(|()| encoder.finish())
        }
    }
}

/// `text` in an encoding; UTF-16 with the mark that tells the order of its bytes.
fn encode(text: &str, name: &str) -> Result<Vec<u8>, String> {
    let encoding = Encoding::for_label(name.as_bytes())
        .ok_or_else(|| format!("'{name}' is no encoding that is known here"))?;
    if encoding == UTF_16LE || encoding == UTF_16BE {
        let bytes = |unit: u16| if encoding == UTF_16LE { unit.to_le_bytes() } else { unit.to_be_bytes() };
        return Ok(std::iter::once(0xfeff).chain(text.encode_utf16()).flat_map(bytes).collect());
    }
    let (bytes, _, is_lossy) = encoding.encode(text);
    if !is_lossy {
        return Ok(bytes.into_owned());
    }
    let missing = text.chars().find(|char| encoding.encode(char.encode_utf8(&mut [0; 4])).2);
    Err(format!(
        "its source reads files in {}, which has no '{}'. Mend the record without it",
        encoding.name(),
        missing.unwrap_or_default()
    ))
}
