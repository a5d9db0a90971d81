//! Damaged files: every reader comes to an end, names the file, and gives what an independent reader gives.
//!
//! 300 files a format; `TIDEMILL_MUTATIONS` asks for another number.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};

use serde_json::value::RawValue;
use tidemill::{Error, Result};

use super::formats::{batch, ipc_file, ipc_stream, parquet};
use super::property::{read_csv, read_json};
use super::{Input, ab, expected};

pub(super) fn rounds() -> u64 {
    std::env::var("TIDEMILL_MUTATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(300)
}

/// Damages `content` in a reproducible way.
pub(super) fn mutated(content: &[u8], round: u64) -> Vec<u8> {
    let mut state = (round + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let mut content = content.to_vec();
    let at = random(content.len());
    match round % 6 {
        0 => content.truncate(at),
        1 => content[at] ^= 1 << random(8),
        2 => (0..4).for_each(|_| {
            let at = random(content.len());
            content[at] = random(256) as u8;
        }),
        3 => {
            let until = (at + 1 + random(20)).min(content.len());
            content.drain(at..until);
        }
        4 => {
            let piece = content[at..(at + 1 + random(20)).min(content.len())].to_vec();
            content.splice(at..at, piece);
        }
        _ => {
            // A length of eight bytes, as large as can be.
            let until = (at + 8).min(content.len());
            content[at..until].fill(if random(2) == 0 { 0xff } else { 0x7f });
        }
    }
    content
}

/// Whether something of it is there, and its end is not.
fn is_cut(content: &[u8], round: u64) -> bool {
    // Without content it is not read before it has some.
    round.is_multiple_of(6) && !content.is_empty()
}

/// Reads every mutation, each within a minute, and gives the results to `judge`.
pub(super) fn read_mutated(
    format: &'static str,
    content: &[u8],
    options: &'static [(&'static str, &'static str)],
    judge: impl Fn(u64, &[u8], Result<Vec<String>>),
) {
    let whole = content.to_vec();
    let (sender, results) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let input = Input::new();
        for round in 0..rounds() {
            let content = mutated(&whole, round);
            input.write("f", round, &content);
            let read = runtime.block_on(async { input.source(format, &ab(), options).await.all().await });
            if let Err(error) = &read {
                assert!(
                    matches!(error, Error::InputFile { .. } | Error::BadRecord { .. }),
                    "{format} {round}: {error:?}"
                );
                assert!(error.to_string().contains(&input.text("f")), "{format} {round}: {error}");
            }
            if sender.send((round, content, read)).is_err() {
                return;
            }
        }
    });
    let mut count = 0;
    loop {
        match results.recv_timeout(Duration::from_secs(60)) {
            Ok((round, content, read)) => judge(round, &content, read),
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("{format}: the reader does not come to an end"),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
        count += 1;
    }
    assert_eq!(count, rounds(), "{format}: every file was read");
}

fn lines() -> String {
    (0..20).map(|a| format!("{{\"a\":{a},\"b\":\"row {a}\",\"c\":[{{\"d\":null}},1.5e3]}}\n")).collect()
}

#[test]
fn json_lines() {
    read_mutated("json", lines().as_bytes(), &[("mode", "DROPMALFORMED")], |round, content, read| {
        let mut rows: Vec<String> = content.split(|byte| *byte == b'\n').filter_map(read_json).collect();
        rows.sort();
        assert_eq!(read.unwrap(), rows, "{round}: {:?}", String::from_utf8_lossy(content));
    });
}

fn read_document(content: &[u8]) -> Option<Vec<String>> {
    let items = match serde_json::from_slice::<Vec<Box<RawValue>>>(content) {
        Ok(items) => items,
        Err(_) => {
            let item: Box<RawValue> = serde_json::from_slice(content).ok()?;
            item.get().starts_with('{').then_some(vec![item])?
        }
    };
    let mut rows = items.iter().map(|item| read_json(item.get().as_bytes())).collect::<Option<Vec<_>>>()?;
    rows.sort();
    Some(rows)
}

#[test]
fn json_documents() {
    let document = format!("[{}]\n", lines().trim_end().replace('\n', ",\n"));
    read_mutated("json", document.as_bytes(), &[("multiLine", "true")], |round, content, read| {
        if content.is_empty() {
            // It is not taken before it has content.
            return;
        }
        let text = String::from_utf8_lossy(content);
        assert_eq!(read.ok(), read_document(content), "{round}: {text:?}");
    });
}

#[test]
fn csv() {
    let text: String = (0..20).map(|a| format!("{a},\"row, {a}\"\r\n")).collect();
    let options = &[("mode", "DROPMALFORMED"), ("header", "false"), ("multiLine", "false")];
    read_mutated("csv", text.as_bytes(), options, |round, content, read| {
        let mut rows: Vec<String> = content.split(|byte| *byte == b'\n').filter_map(read_csv).collect();
        rows.sort();
        assert_eq!(read.unwrap(), rows, "{round}: {:?}", String::from_utf8_lossy(content));
    });
}

/// Whole batches of `per_batch` rows from the first on.
fn are_whole_batches(rows: &[String], per_batch: i64) -> bool {
    let count = rows.len() as i64;
    count % per_batch == 0 && rows == expected(0..count)
}

#[test]
fn parquet_files() {
    let content = parquet(&batch(0..50), 20);
    read_mutated("parquet", &content, &[], |round, content, read| {
        assert!(!is_cut(content, round) || read.is_err(), "{round}: a cut file is no file");
    });
    read_mutated("parquet", &content, &[("ignoreCorruptFiles", "true")], |round, _, read| {
        let rows = read.unwrap();
        assert!(round % 6 != 0 || rows.is_empty(), "{round}: {rows:?}");
    });
}

#[test]
fn arrow_files() {
    let batches: Vec<_> = (0..5).map(|index| batch(index * 10..index * 10 + 10)).collect();
    let compressed = |codec| {
        use datafusion::arrow::ipc::writer::{FileWriter, IpcWriteOptions};
        let options = IpcWriteOptions::default().try_with_compression(Some(codec)).unwrap();
        let mut writer = FileWriter::try_new_with_options(Vec::new(), &batches[0].schema(), options).unwrap();
        batches.iter().for_each(|batch| writer.write(batch).unwrap());
        writer.finish().unwrap();
        writer.into_inner().unwrap()
    };
    use datafusion::arrow::ipc::CompressionType;
    let zstd = compressed(CompressionType::ZSTD);
    let lz4 = compressed(CompressionType::LZ4_FRAME);
    for content in [ipc_file(&batches), ipc_stream(&batches), zstd, lz4] {
        let is_file = content.starts_with(b"ARROW1");
        read_mutated("arrow", &content, &[], |round, content, read| {
            // The mark of a stream's end is not needed, so that one that is cut behind a batch is whole.
            let may_end_there = !is_file && read.as_ref().is_ok_and(|rows| are_whole_batches(rows, 10));
            assert!(!is_cut(content, round) || read.is_err() || may_end_there, "{round}: {read:?}");
        });
        read_mutated("arrow", &content, &[("ignoreCorruptFiles", "true")], |round, _, read| {
            let rows = read.unwrap();
            assert!(round % 6 != 0 || are_whole_batches(&rows, 10), "{round}: {rows:?}");
        });
    }
}

/// `whole` with `change` made to one of its batches, for each of them: it is given the file, where the message
/// begins and where the field of this number of its table is.
fn with_changed_messages(
    whole: &[u8],
    change: impl Fn(&mut [u8], datafusion::arrow::ipc::Message<'_>, usize),
) -> Vec<Vec<u8>> {
    use datafusion::arrow::ipc::{MessageHeader, root_as_message};
    let marks = whole.windows(4).enumerate().filter(|(_, word)| *word == [0xff; 4]);
    let mut changed = Vec::new();
    for start in marks.map(|(at, _)| at + 8) {
        let Ok(message) = root_as_message(&whole[start..]) else { continue };
        if message.header_type() == MessageHeader::RecordBatch {
            let mut content = whole.to_vec();
            change(&mut content, message, start);
            changed.push(content);
        }
    }
    changed
}

/// A file or stream that has a message of another kind in the place of its first batch.
pub(super) fn with_another_message(whole: &[u8]) -> Vec<u8> {
    use datafusion::arrow::ipc::MessageHeader;
    let changed = with_changed_messages(whole, |content, message, start| {
        let kind = message._tab.loc() + usize::from(message._tab.vtable().get(6));
        assert_eq!(content[start + kind], MessageHeader::RecordBatch.0);
        content[start + kind] = MessageHeader::Tensor.0;
    });
    changed.into_iter().next().unwrap()
}

/// What a batch says of itself that Arrow's reader believes, and gives other values for.
#[tokio::test]
async fn arrow_batches_that_say_what_cannot_be() {
    let rows = |index: i64| {
        let texts = (0..10).map(|a| (a != 3).then(|| format!("row {}", index + a)));
        let columns: [(&str, ArrayRef); 2] = [
            ("a", Arc::new(Int64Array::from_iter_values(index..index + 10))),
            ("b", Arc::new(StringArray::from_iter(texts))),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
    };
    // The place of a structure among the bytes of its message.
    let within = |content: &[u8], start: usize, bytes: &[u8]| {
        start + content[start..].windows(bytes.len()).position(|found| found == bytes).unwrap()
    };
    for whole in [ipc_file(&[rows(0), rows(10)]), ipc_stream(&[rows(0), rows(10)])] {
        let nulls = with_changed_messages(&whole, |content, message, start| {
            let node = *message.header_as_record_batch().unwrap().nodes().unwrap().get(1);
            assert_eq!((node.length(), node.null_count()), (10, 1));
            let at = within(content, start, &[10_i64.to_le_bytes(), 1_i64.to_le_bytes()].concat());
            content[at + 8..at + 16].fill(0xff);
        });
        let places = with_changed_messages(&whole, |content, message, start| {
            let buffers = message.header_as_record_batch().unwrap().buffers().unwrap();
            let values = buffers.get(1);
            let bytes = [values.offset().to_le_bytes(), values.length().to_le_bytes()].concat();
            let at = within(content, start, &bytes);
            content[at] += 1;
        });
        let versions = with_changed_messages(&whole, |content, message, start| {
            let version = message._tab.loc() + usize::from(message._tab.vtable().get(4));
            content[start + version] = 24;
        });
        for (damaged, expected) in [
            (nulls, "-1 of 10 values are said to be null"),
            (places, "where none can be"),
            (versions, "its version 24 is not known"),
        ] {
            assert_eq!(damaged.len(), 2);
            for content in damaged {
                let input = Input::new();
                input.write("f", 1, content);
                let error = input.source("arrow", &ab(), &[]).await.all().await.unwrap_err();
                assert!(error.to_string().contains(expected), "{error}");
            }
        }
    }
}

/// Whoever asks for the columns of damaged files is told them, or that the file is damaged.
#[tokio::test]
async fn columns_are_told_or_the_file_is_named() {
    let batches: Vec<_> = (0..2).map(|index| batch(index * 10..index * 10 + 10)).collect();
    let mut files = vec![
        ("arrow", ipc_file(&batches)),
        ("arrow", ipc_stream(&batches)),
        ("parquet", parquet(&batches[0], 5)),
    ];
    #[cfg(feature = "avro")]
    files.push(("avro", super::formats::avro(&batches[0])));
    let input = Input::new();
    for (format, whole) in files {
        input.write("f", 1, &whole);
        let table = input.resolve(format, "", None, &[]).await.unwrap();
        assert_eq!(table.schema().fields().len(), 2, "{format}");
        for round in 0..rounds() {
            let content = mutated(&whole, round);
            if content.is_empty() {
                continue;
            }
            input.write("f", round, content);
            if let Err(error) = input.resolve(format, "", None, &[]).await {
                assert!(matches!(error, Error::InputFile { .. }), "{format} {round}: {error:?}");
                assert!(error.to_string().contains(&input.text("f")), "{format} {round}: {error}");
            }
        }
    }
}

/// Another kind of message in the place of a batch, which Arrow's reader passes over with all its rows, and a footer
/// that names fewer batches than there are.
#[tokio::test]
async fn arrow_batches_that_are_none() {
    use datafusion::arrow::ipc::reader::FileReader;
    use datafusion::arrow::ipc::{MessageHeader, root_as_footer, root_as_message};
    let batches: Vec<_> = (0..3).map(|index| batch(index * 10..index * 10 + 10)).collect();
    for whole in [ipc_file(&batches), ipc_stream(&batches)] {
        let is_file = whole.starts_with(b"ARROW1");
        let mut damaged = Vec::new();
        // Where the messages are.
        let starts =
            whole.windows(4).enumerate().filter(|(_, word)| *word == [0xff; 4]).map(|(at, _)| at + 8);
        for start in starts {
            let Ok(message) = root_as_message(&whole[start..]) else { continue };
            if message.header_type() != MessageHeader::RecordBatch {
                continue;
            }
            let kind = message._tab.loc() + usize::from(message._tab.vtable().get(6));
            assert_eq!(whole[start + kind], MessageHeader::RecordBatch.0);
            for other in [MessageHeader::NONE, MessageHeader::Tensor] {
                let mut content = whole.clone();
                content[start + kind] = other.0;
                damaged.push(content);
            }
            if is_file {
                // What src/source/file/arrow_ipc.rs looks for, Arrow's reader does not see.
                let content = std::io::Cursor::new(&damaged[damaged.len() - 2]);
                let read: std::result::Result<Vec<_>, _> =
                    FileReader::try_new(content, None).unwrap().collect();
                assert!(read.unwrap().len() < batches.len(), "mended");
            }
        }
        assert_eq!(damaged.len(), 6);
        if is_file {
            let end = whole.len() - 10;
            let length = i32::from_le_bytes(whole[end..end + 4].try_into().unwrap()) as usize;
            let blocks = root_as_footer(&whole[end - length..end]).unwrap().recordBatches().unwrap();
            let count = blocks.bytes().as_ptr() as usize - whole.as_ptr() as usize - 4;
            assert_eq!(whole[count], 3);
            let mut content = whole.clone();
            content[count] = 2;
            damaged.push(content);
        }
        for content in damaged {
            let input = Input::new();
            input.write("f", 1, content);
            let error = input.source("arrow", &ab(), &[]).await.all().await.unwrap_err();
            assert!(matches!(error, Error::InputFile { .. }), "{error:?}");
        }
    }
}

/// A reader of Avro files with a nullable long and a nullable string, whose header is `header`: all rows, or
/// those of the blocks before the first that is damaged.
#[cfg(feature = "avro")]
fn read_avro(content: &[u8], header: &[u8]) -> (Vec<String>, bool) {
    fn long(data: &mut &[u8]) -> Option<i64> {
        let mut zigzag = 0_u64;
        for index in 0..10 {
            let (byte, rest) = data.split_first()?;
            *data = rest;
            zigzag |= u64::from(byte & 0x7f).checked_shl(7 * index)?;
            if byte & 0x80 == 0 {
                return Some((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64));
            }
        }
        None
    }
    fn take<'a>(data: &mut &'a [u8], count: i64) -> Option<&'a [u8]> {
        let (taken, rest) = data.split_at_checked(usize::try_from(count).ok()?)?;
        *data = rest;
        Some(taken)
    }
    fn block(data: &mut &[u8], sync: &[u8]) -> Option<Vec<String>> {
        let (count, length) = (long(data)?, long(data)?);
        if count < 0 {
            return None;
        }
        let mut inside = take(data, length)?;
        let is_end = take(data, 16)? == sync;
        let mut rows = Vec::new();
        for _ in 0..count {
            let a = match long(&mut inside)? {
                0 => "-".to_string(),
                1 => long(&mut inside)?.to_string(),
                _ => return None,
            };
            let b = match long(&mut inside)? {
                0 => "-".to_string(),
                1 => {
                    let length = long(&mut inside)?;
                    String::from_utf8(take(&mut inside, length)?.to_vec()).ok()?
                }
                _ => return None,
            };
            rows.push(format!("{a}|{b}"));
        }
        (is_end && inside.is_empty()).then_some(rows)
    }
    let (mut data, sync) = (&content[header.len()..], &header[header.len() - 16..]);
    let mut rows = Vec::new();
    while !data.is_empty() {
        match block(&mut data, sync) {
            Some(more) => rows.extend(more),
            None => {
                rows.sort();
                return (rows, false);
            }
        }
    }
    rows.sort();
    (rows, true)
}

#[cfg(feature = "avro")]
#[test]
fn avro_files() {
    let content = super::formats::avro(&batch(0..50));
    // The header ends with the mark that ends the file.
    let sync = &content[content.len() - 16..];
    let end = content.windows(16).position(|window| window == sync).unwrap() + 16;
    let header = &content[..end];
    assert_eq!(read_avro(&content, header), (expected(0..50), true));
    read_mutated("avro", &content, &[], |round, content, read| {
        if !content.starts_with(header) {
            return;
        }
        let (rows, is_whole) = read_avro(content, header);
        match read {
            Ok(read) => assert_eq!((read, true), (rows, is_whole), "{round}"),
            Err(error) => assert!(!is_whole, "{round}: {error}"),
        }
    });
    read_mutated("avro", &content, &[("ignoreCorruptFiles", "true")], |round, content, read| {
        let read = read.unwrap();
        if content.starts_with(header) {
            let (rows, _) = read_avro(content, header);
            assert_eq!(read, rows, "{round}: the rows of whole blocks before the damage");
        }
    });
}

/// A block that counts fewer records than it holds, more, none, or a negative number of them.
#[cfg(feature = "avro")]
#[tokio::test]
async fn an_avro_block_that_counts_wrong() {
    let zigzag = |value: i64| -> Vec<u8> {
        let mut bits = ((value << 1) ^ (value >> 63)) as u64;
        let mut bytes = Vec::new();
        while bits > 0x7f {
            bytes.push(bits as u8 | 0x80);
            bits >>= 7;
        }
        bytes.push(bits as u8);
        bytes
    };
    let schema = br#"{"type":"record","name":"r","fields":[{"name":"a","type":"long"}]}"#;
    let text = |text: &[u8]| [zigzag(text.len() as i64), text.to_vec()].concat();
    let sync = [7_u8; 16];
    let header =
        [b"Obj\x01".to_vec(), zigzag(1), text(b"avro.schema"), text(schema), zigzag(0), sync.to_vec()]
            .concat();
    let block = |count: i64| [zigzag(count), zigzag(2), zigzag(1), zigzag(2), sync.to_vec()].concat();
    for count in [1, 3, 0, -2, i64::MAX] {
        let input = Input::new();
        input.write("f", 1, [header.clone(), block(2), block(count)].concat());
        let error = input.source("avro", &ab(), &[]).await.all().await.unwrap_err();
        assert!(matches!(error, Error::InputFile { .. }), "{count}: {error}");
        let tolerant = input.source("avro", &ab(), &[("ignoreCorruptFiles", "true")]).await;
        assert_eq!(tolerant.all().await.unwrap(), ["1|-", "2|-"], "{count}");
    }
}
