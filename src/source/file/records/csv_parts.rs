//! Where a CSV file may be cut whose values may hold line breaks.
//!
//! Whether a line break is in a value can only be told from the beginning of the file on. But only quotes have to be
//! looked at for that, which takes a small part of the time that reading the records takes.

use std::ops::Range;
use std::sync::Arc;

use datafusion::error::Result;
use datafusion_datasource::PartitionedFile;
use memchr::{memchr, memchr2};
use object_store::{ObjectStore, ObjectStoreExt};

use super::csv_dialect::CsvDialect;

/// How much of a file is looked at at a time.
const PIECE_BYTES: u64 = 1 << 20;
const BYTE_ORDER_MARK: [u8; 3] = *b"\xef\xbb\xbf";

/// The bytes of `file` that hold the records which begin in its range.
pub(super) async fn whole_records(
    dialect: &CsvDialect,
    store: &Arc<dyn ObjectStore>,
    file: &PartitionedFile,
) -> Result<Range<u64>> {
    let (start, end) = file.range();
    let size = file.object_meta.size;
    let end = end.min(size);
    let mut cuts = Cuts::new(dialect, if end < size { vec![end, start] } else { vec![start] });
    if !cuts.are_found() {
        // In large pieces: a store of files gives small ones otherwise, each from another thread.
        let mut at = 0;
        while !cuts.are_found() && at < size {
            let piece = at..size.min(at + PIECE_BYTES);
            at = piece.end;
            cuts.pass(&store.get_range(file.path(), piece).await?);
        }
    }
    let mut found = cuts.found.into_iter().chain(std::iter::repeat(size));
    Ok(found.next().unwrap_or(size)..found.next().unwrap_or(size))
}

/// What the bytes before the next one say of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It is in no quotes.
    Outside,
    /// It is quoted.
    Quoted,
    /// It comes behind a quote in a quoted value, which is its end or the first of two that stand for one.
    BehindQuote,
    /// It is quoted and comes behind the escape character.
    Escaped,
}

/// Looks for the first records that begin at places or behind them.
#[derive(Debug)]
struct Cuts {
    delimiter: u8,
    quote: u8,
    escape: Option<u8>,
    terminator: Option<u8>,
    /// The places that are looked for, the last first.
    wanted: Vec<u64>,
    /// Where the records begin that were found.
    found: Vec<u64>,
    place: Place,
    /// How many bytes were passed.
    passed: u64,
    /// The last of them.
    before: Option<u8>,
    /// The first of them.
    head: Vec<u8>,
}

impl Cuts {
    fn new(dialect: &CsvDialect, wanted: Vec<u64>) -> Self {
        let mut cuts = Self {
            delimiter: dialect.delimiter,
            quote: dialect.quote,
            escape: dialect.escape,
            terminator: dialect.terminator,
            wanted,
            found: Vec::new(),
            place: Place::Outside,
            passed: 0,
            before: None,
            head: Vec::new(),
        };
        // The first record begins with the file.
        while cuts.wanted.pop_if(|wanted| *wanted == 0).is_some() {
            cuts.found.push(0);
        }
        cuts
    }

    fn are_found(&self) -> bool {
        self.wanted.is_empty()
    }

    /// Takes the next bytes of the file.
    fn pass(&mut self, bytes: &[u8]) {
        if self.head.len() < BYTE_ORDER_MARK.len() {
            self.head.extend(bytes.iter().take(BYTE_ORDER_MARK.len() - self.head.len()));
        }
        let mut next = 0;
        while next < bytes.len() && !self.are_found() {
            next = match self.place {
                Place::Outside => self.pass_outside(bytes, next),
                Place::Quoted => self.pass_quoted(bytes, next),
                Place::Escaped => {
                    self.place = Place::Quoted;
                    next + 1
                }
                Place::BehindQuote if bytes[next] == self.quote => {
                    self.place = Place::Quoted;
                    next + 1
                }
                Place::BehindQuote => {
                    self.place = Place::Outside;
                    self.before = Some(self.quote);
                    self.pass_outside(bytes, next)
                }
            };
        }
        self.passed += bytes.len() as u64;
        self.before = bytes.last().copied().or(self.before);
    }

    /// Passes over quoted bytes from the one at `next` on; gives the next that has to be looked at.
    fn pass_quoted(&mut self, bytes: &[u8], next: usize) -> usize {
        let rest = &bytes[next..];
        let found = match self.escape {
            Some(escape) => memchr2(self.quote, escape, rest),
            None => memchr(self.quote, rest),
        };
        let Some(found) = found else { return bytes.len() };
        self.place = if rest[found] == self.quote { Place::BehindQuote } else { Place::Escaped };
        next + found + 1
    }

    /// Passes over bytes in no quotes from the one at `next` on.
    fn pass_outside(&mut self, bytes: &[u8], mut next: usize) -> usize {
        while let Some(wanted) = self.wanted.last() {
            // A line that ends just before the place is the last before it.
            let from = usize::try_from((wanted - 1).saturating_sub(self.passed)).unwrap_or(usize::MAX);
            if from > next {
                let end = from.min(bytes.len());
                match memchr(self.quote, &bytes[next..end]).map(|found| next + found) {
                    Some(quote) if self.begins_field(bytes, quote) => return self.enter(quote),
                    Some(quote) => next = quote + 1,
                    None => next = end,
                }
                if next == bytes.len() {
                    return next;
                }
                continue;
            }
            let line_end = self.terminator.unwrap_or(b'\n');
            let Some(found) = memchr2(self.quote, line_end, &bytes[next..]).map(|found| next + found) else {
                return bytes.len();
            };
            if bytes[found] == self.quote && self.begins_field(bytes, found) {
                return self.enter(found);
            }
            next = found + 1;
            if bytes[found] == line_end {
                let start = self.passed + next as u64;
                while self.wanted.pop_if(|wanted| *wanted <= start).is_some() {
                    self.found.push(start);
                }
            }
        }
        next
    }

    fn enter(&mut self, quote: usize) -> usize {
        self.place = Place::Quoted;
        quote + 1
    }

    /// Whether the byte at `at` is the first of a field: elsewhere a quote is a letter like any other.
    fn begins_field(&self, bytes: &[u8], at: usize) -> bool {
        let before = if at > 0 { Some(bytes[at - 1]) } else { self.before };
        let place = self.passed + at as u64;
        match before {
            None => true,
            Some(before) if before == self.delimiter => true,
            Some(before) => match self.terminator {
                Some(terminator) if before == terminator => true,
                None if matches!(before, b'\r' | b'\n') => true,
                _ => place == BYTE_ORDER_MARK.len() as u64 && self.head == BYTE_ORDER_MARK,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::common::config::{ConfigOptions, CsvOptions};
    use object_store::memory::InMemory;
    use object_store::{ObjectStoreExt, PutPayload};

    use super::*;

    fn dialect(options: CsvOptions) -> CsvDialect {
        let options = CsvOptions { has_header: Some(false), ..options };
        CsvDialect::new(&options, &ConfigOptions::default(), false).unwrap()
    }

    /// Where records begin behind a line's end, as Arrow's tokenizer finds them.
    fn starts(dialect: &CsvDialect, text: &[u8]) -> Vec<u64> {
        let mut starts = vec![0];
        let records = dialect.split(text, true, usize::MAX);
        for from in std::iter::once(0).chain(records.iter().map(|record| record.end)) {
            let blank = text[from..].iter().take_while(|byte| dialect.is_no_record(&[**byte])).count();
            let ends = (from.max(1)..=from + blank).filter(|at| text[at - 1] == dialect.terminator());
            starts.extend(ends.map(|at| at as u64));
        }
        starts
    }

    /// The first of the records that begin at `wanted` or behind it, found in pieces of `step` bytes.
    fn found(dialect: &CsvDialect, text: &[u8], wanted: u64, step: usize) -> Option<u64> {
        let mut cuts = Cuts::new(dialect, vec![wanted]);
        text.chunks(step).for_each(|bytes| cuts.pass(bytes));
        cuts.found.first().copied()
    }

    #[test]
    fn records_begin_where_the_tokenizer_finds_them() {
        let odd = CsvOptions {
            delimiter: b';',
            quote: b'\'',
            escape: Some(b'\\'),
            terminator: Some(b'$'),
            ..CsvOptions::default()
        };
        let plain: &[u8] = b"\",\n\n\r\"a";
        for (dialect, letters) in [(dialect(CsvOptions::default()), plain), (dialect(odd), b"';$$\\'a\n")] {
            let mut state: u64 = 11;
            let mut random = |below: usize| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as usize % below
            };
            for _ in 0..4000 {
                let length = random(30);
                let text: Vec<u8> = (0..length).map(|_| letters[random(letters.len())]).collect();
                let starts = starts(&dialect, &text);
                for wanted in 0..text.len() as u64 {
                    let end = text.len() as u64;
                    let expected = starts.iter().copied().find(|start| *start >= wanted).unwrap_or(end);
                    let found = found(&dialect, &text, wanted, 1 + random(7)).unwrap_or(end);
                    let text = String::from_utf8_lossy(&text);
                    assert_eq!(found, expected, "{text:?} from {wanted} on, records at {starts:?}");
                }
            }
        }
        let marked = b"\xef\xbb\xbf\"a\nb\"\nc\n";
        assert_eq!(found(&dialect(CsvOptions::default()), marked, 4, 1), Some(9));
        assert_eq!(found(&dialect(CsvOptions::default()), b"x\xbb\xbf\"a\nb\"\nc\n", 4, 1), Some(6));
    }

    #[tokio::test]
    async fn every_cut_gives_every_record_once() {
        const TEXT: &str = "1,\"a\nb\"\n2,c\n\n3,\"d\n\"\"\n\"\n4,\"e";
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let file = PartitionedFile::new("a", TEXT.len() as u64);
        store.put(file.path(), PutPayload::from_static(TEXT.as_bytes())).await.unwrap();
        let (dialect, size) = (dialect(CsvOptions::default()), TEXT.len() as i64);
        for first in 1..size {
            for second in first + 1..=size {
                let mut next = 0;
                for (start, end) in [(0, first), (first, second), (second, size)] {
                    let part = file.clone().with_range(start, end);
                    let records = whole_records(&dialect, &store, &part).await.unwrap();
                    assert_eq!(records.start, next, "{first}, {second}");
                    next = records.end;
                }
                assert_eq!(next, size as u64);
            }
        }
    }
}
