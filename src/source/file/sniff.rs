//! How the fields of CSV files are separated, and whether the first line names the columns, when nobody says.

use csv_core::{ReadRecordResult, ReaderBuilder};
use datafusion::arrow::compute::kernels::cast_utils::string_to_datetime;

use super::records::separator_line;

/// More lines do not make it clearer.
const MOST_LINES: usize = 50;

/// What the first lines of a file look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sniffed {
    /// What separates fields.
    pub(super) delimiter: u8,
    /// Whether the first line names the columns.
    pub(super) has_header: bool,
    /// Whether the file says itself what separates its fields.
    pub(super) is_said: bool,
}

/// Looks at the beginning of a file. It is separated by commas and has a header unless it is plain that it is
/// not and has not.
pub(super) fn sniff(head: &[u8], given: Option<u8>) -> Sniffed {
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    let said = separator_line(head);
    let head = said.map_or(head, |(_, length)| &head[length..]);
    // The last line may be cut.
    let whole = memchr::memrchr(b'\n', head).map_or(head, |end| &head[..=end]);
    let said = said.map(|(delimiter, _)| delimiter);
    let delimiter = given.or(said).unwrap_or_else(|| delimiter_of(whole));
    Sniffed {
        delimiter,
        has_header: has_header(&records(whole, delimiter)),
        is_said: said == Some(delimiter),
    }
}

/// A comma, if it divides all lines into as many fields; or else what divides them into the most.
fn delimiter_of(text: &[u8]) -> u8 {
    let fields = |delimiter: u8| {
        let records = records(text, delimiter);
        let first = records.first().map_or(0, Vec::len);
        records.iter().all(|record| record.len() == first).then_some(first).filter(|fields| *fields > 1)
    };
    if fields(b',').is_some() {
        return b',';
    }
    let mut best = (1, b',');
    for delimiter in [b';', b'\t', b'|'] {
        if let Some(fields) = fields(delimiter)
            && fields > best.0
        {
            best = (fields, delimiter);
        }
    }
    best.1
}

/// The first line names the columns, unless it has a number or a time where the lines below it have such, too.
fn has_header(records: &[Vec<String>]) -> bool {
    let Some((first, rest)) = records.split_first() else { return true };
    let is_data = |(column, value): (usize, &String)| {
        let mut below = rest.iter().filter_map(|record| record.get(column)).filter(|text| !text.is_empty());
        is_value(value) && below.clone().count() > 0 && below.all(|text| is_value(text))
    };
    !first.iter().enumerate().any(is_data)
}

fn is_value(text: &str) -> bool {
    let text = text.trim();
    text.starts_with(|char: char| char.is_ascii_digit() || matches!(char, '-' | '+' | '.'))
        && (text.parse::<f64>().is_ok() || string_to_datetime(&chrono::Utc, text).is_ok())
}

fn records(text: &[u8], delimiter: u8) -> Vec<Vec<String>> {
    let mut reader = ReaderBuilder::new().delimiter(delimiter).build();
    let (mut output, mut ends) = (vec![0; text.len() + 1], vec![0; text.len() + 2]);
    let (mut records, mut next) = (Vec::new(), 0);
    while records.len() < MOST_LINES {
        let (result, taken, _, fields) = reader.read_record(&text[next..], &mut output, &mut ends);
        next += taken;
        let ended = match result {
            ReadRecordResult::Record => false,
            // A quote that is not closed, or the end.
            _ => true,
        };
        if ended {
            break;
        }
        let mut from = 0;
        let record = ends[..fields].iter().map(|to| {
            let field = &output[std::mem::replace(&mut from, *to)..*to];
            String::from_utf8_lossy(field).into_owned()
        });
        records.push(record.collect());
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_and_headers() {
        for (text, delimiter, has_header) in [
            ("a,b\n1,2\n", b',', true),
            ("a;b\n1,5;2,5\n2,5;3\n", b';', true),
            ("a\tb c\n1\tx, y\n", b'\t', true),
            ("a|b|c\n1|2|3\n", b'|', true),
            ("a\n1\n2\n", b',', true),
            ("1,x\n2,y\n", b',', false),
            ("2026-01-01;x\n2026-01-02;y\n", b';', false),
            ("2026-01-01T00:00:00,x\n2026-01-02 01:00:00Z,y\n", b',', false),
            ("x,y\nz,w\n", b',', true),
            ("country,2019,2020\nDE,x,y\n", b',', true),
            ("1,2\n", b',', true),
            ("\"a;b\",\"c\"\n\"d;\ne\",f\n", b',', true),
            ("", b',', true),
            ("a;b\n1;2\n3;4;cut", b';', true),
        ] {
            assert_eq!(
                sniff(text.as_bytes(), None),
                Sniffed { delimiter, has_header, is_said: false },
                "{text}"
            );
        }
        let of_semicolons = Sniffed { delimiter: b';', has_header: false, is_said: false };
        assert_eq!(sniff(b"1;2,3\n4;5,6\n", Some(b';')), of_semicolons);
        // As Excel writes it.
        let said = Sniffed { delimiter: b';', has_header: true, is_said: true };
        assert_eq!(sniff(b"\xef\xbb\xbfsep=;\r\na;b,c\r\n1;2,3\r\n", None), said);
        assert_eq!(sniff(b"sep=;\n1;2\n3;4\n", None), Sniffed { has_header: false, ..said });
    }
}
