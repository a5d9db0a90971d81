//! Rows to `key=value/` directories.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::mem;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use datafusion::arrow::compute::{CastOptions, cast_with_options, interleave_record_batch};
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::arrow::util::display::FormatOptions;
use datafusion::logical_expr::EmitTo;
use datafusion::physical_plan::aggregates::group_values::new_group_values;
use datafusion::physical_plan::aggregates::order::GroupOrdering;

use crate::error::{Error, Result};

/// The directory of null, as in Hive and Spark.
pub(crate) const NULL_DIRECTORY: &str = "__HIVE_DEFAULT_PARTITION__";

/// How values look in directory names: as in Spark, where times are SQL literals.
const TEXT: FormatOptions<'static> = FormatOptions::new()
    .with_timestamp_format(Some("%Y-%m-%d %H:%M:%S%.f"))
    .with_timestamp_tz_format(Some("%Y-%m-%d %H:%M:%S%.f%:z"));

/// With few directories rows are passed on early, because all their files stay open.
const GATHER_FEW_BYTES: usize = 4 << 20;

/// With many directories files have to be closed to open others, so that it pays to gather more
/// rows for each; this many bytes bound the memory.
const GATHER_MANY_BYTES: usize = 32 << 20;

/// The most rows that are passed on at once.
const BATCH_ROWS: usize = 8192;

/// Rows that are waiting to be written, by directory.
///
/// A directory's share of one input batch is small when there are many directories, and encoders
/// want long batches. So input batches are kept whole and only row numbers are sorted into
/// directories; [`Splitter::drain`] copies each row once, in long runs.
pub(super) struct Splitter {
    keys: SchemaRef,
    /// `name=` per key column, escaped.
    prefixes: Vec<String>,
    /// Directory name to its index in `picks`.
    directories: HashMap<String, usize>,
    /// The waiting rows of each directory: (index in `batches`, row).
    picks: Vec<Vec<(usize, usize)>>,
    batches: Vec<RecordBatch>,
    bytes: usize,
}

impl Splitter {
    /// Splits by the columns of `keys`.
    pub fn new(keys: SchemaRef) -> Self {
        let prefixes = keys
            .fields()
            .iter()
            .map(|field| {
                let mut prefix = String::new();
                escape(field.name(), &mut prefix);
                prefix.push('=');
                prefix
            })
            .collect();
        Self { keys, prefixes, directories: HashMap::new(), picks: Vec::new(), batches: Vec::new(), bytes: 0 }
    }

    /// The memory of the waiting rows, in bytes.
    pub fn memory(&self) -> usize {
        self.bytes
    }

    /// Whether it is time to [`Splitter::drain`]; `open_files` is how many may stay open.
    pub fn is_full(&self, open_files: usize) -> bool {
        let limit = if self.picks.len() <= open_files { GATHER_FEW_BYTES } else { GATHER_MANY_BYTES };
        self.bytes >= limit
    }

    /// Takes `rows` with their key values. If all of them belong to one directory and nothing
    /// waits for it they come back at once, uncopied, with that directory.
    pub fn push(&mut self, keys: &[ArrayRef], rows: RecordBatch) -> Result<Option<(String, RecordBatch)>> {
        let mut groups = Vec::with_capacity(rows.num_rows());
        let mut values = new_group_values(self.keys.clone(), &GroupOrdering::None)?;
        values.intern(keys, &mut groups)?;
        let mut names = self.render(&values.emit(EmitTo::All)?)?;
        if let [name] = names.as_mut_slice() {
            let waiting = self.directories.get(name).is_some_and(|&index| !self.picks[index].is_empty());
            if !waiting {
                return Ok(Some((mem::take(name), rows)));
            }
        }
        let directories: Vec<usize> = names.into_iter().map(|name| self.directory(name)).collect();
        let batch = self.batches.len();
        for (row, &group) in groups.iter().enumerate() {
            self.picks[directories[group]].push((batch, row));
        }
        self.bytes += rows.columns().iter().map(memory_size).sum::<usize>();
        self.bytes += rows.num_rows() * size_of::<(usize, usize)>();
        self.batches.push(rows);
        Ok(None)
    }

    /// The waiting rows, directory by directory, in batches of moderate length.
    pub fn drain(&mut self) -> Drain {
        let picks: Vec<_> = self.picks.iter_mut().map(mem::take).collect();
        let mut names = vec![""; picks.len()];
        for (name, &index) in &self.directories {
            names[index] = name;
        }
        let mut queue: Vec<(String, Vec<(usize, usize)>)> = names
            .into_iter()
            .zip(picks)
            .filter(|(_, picks)| !picks.is_empty())
            .map(|(name, picks)| (name.to_string(), picks))
            .collect();
        queue.reverse();
        self.bytes = 0;
        Drain { batches: mem::take(&mut self.batches), queue, next: 0 }
    }

    fn directory(&mut self, name: String) -> usize {
        *self.directories.entry(name).or_insert_with(|| {
            self.picks.push(Vec::new());
            self.picks.len() - 1
        })
    }

    /// One directory name per row of `values`.
    fn render(&self, values: &[ArrayRef]) -> Result<Vec<String>> {
        let options = CastOptions { safe: false, format_options: TEXT };
        let columns = values
            .iter()
            .map(|column| cast_with_options(column, &DataType::Utf8, &options))
            .collect::<Result<Vec<_>, _>>()?;
        let mut names = vec![String::new(); columns.first().map_or(0, |column| column.len())];
        let keys = self.keys.fields().iter();
        for ((key, prefix), column) in keys.zip(&self.prefixes).zip(&columns) {
            for (name, value) in names.iter_mut().zip(column.as_string::<i32>().iter()) {
                if !name.is_empty() {
                    name.push('/');
                }
                name.push_str(prefix);
                match value {
                    None => name.push_str(NULL_DIRECTORY),
                    Some(value @ ("" | NULL_DIRECTORY)) => return Err(no_directory(key.name(), value)),
                    Some(value) => escape(value, name),
                }
            }
        }
        Ok(names)
    }
}

/// `value` cannot be in the name of a directory.
fn no_directory(column: &str, value: &str) -> Error {
    Error::Invalid(format!(
        "column '{column}' has the value '{value}', and the directory of rows that have it would be that of rows without a \
         value. Write nullif({column}, '{value}') to have them there, or do not partition by '{column}'"
    ))
}

/// The rows that waited in a [`Splitter`].
pub(super) struct Drain {
    batches: Vec<RecordBatch>,
    /// What is left, the next directory last.
    queue: Vec<(String, Vec<(usize, usize)>)>,
    /// How many rows of the last directory in `queue` are done.
    next: usize,
}

impl Drain {
    /// The next rows and their directory; `None` at the end.
    pub fn next(&mut self) -> Result<Option<(String, RecordBatch)>> {
        let Some((name, picks)) = self.queue.last() else { return Ok(None) };
        let end = picks.len().min(self.next + BATCH_ROWS);
        // Only the batches that these rows come from: interleaving costs per batch and column.
        let mut batches: Vec<&RecordBatch> = Vec::new();
        let mut last = None;
        let picked: Vec<(usize, usize)> = picks[self.next..end]
            .iter()
            .map(|&(batch, row)| {
                if last != Some(batch) {
                    batches.push(&self.batches[batch]);
                    last = Some(batch);
                }
                (batches.len() - 1, row)
            })
            .collect();
        let rows = interleave_record_batch(&batches, &picked)?;
        let name = name.clone();
        self.next = end;
        if end == picks.len() {
            self.queue.pop();
            self.next = 0;
        }
        Ok(Some((name, rows)))
    }
}

/// The memory of `column` less what it merely shares with longer arrays.
fn memory_size(column: &ArrayRef) -> usize {
    let views = size_of::<u128>() * column.len();
    match column.data_type() {
        DataType::Utf8View => views + column.as_string_view().total_buffer_bytes_used(),
        DataType::BinaryView => views + column.as_binary_view().total_buffer_bytes_used(),
        nested if nested.is_nested() => column.get_array_memory_size(),
        _ => column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size()),
    }
}

/// `name` as it stands in the names of directories.
pub(crate) fn escape_directory(name: &str) -> String {
    let mut escaped = String::new();
    escape(name, &mut escaped);
    escaped
}

/// Appends `text`, escaped as Spark's `ExternalCatalogUtils.escapePathName` does, so that Hive,
/// Spark, DuckDB and DataFusion read the value back. No value can leave its directory, because
/// separators are escaped and each name starts with `key=`.
fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        if c.is_ascii_control() || "\"#%'*/:=?\\{[]^".contains(c) {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{:02X}", u32::from(c));
        } else {
            out.push(c);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use datafusion::arrow::array::{
        BooleanArray, Date32Array, Decimal128Array, Int64Array, StringArray, TimestampMicrosecondArray,
    };
    use datafusion::arrow::datatypes::{Field, Int64Type, Schema};

    use super::*;

    fn splitter(keys: &[ArrayRef]) -> Splitter {
        let fields: Vec<Field> = keys
            .iter()
            .enumerate()
            .map(|(i, key)| Field::new(format!("k{i}"), key.data_type().clone(), true))
            .collect();
        Splitter::new(Arc::new(Schema::new(fields)))
    }

    fn numbered(rows: std::ops::Range<i64>) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(rows));
        RecordBatch::try_from_iter([("n", column)]).unwrap()
    }

    /// Directory to the values of column 0, in order.
    fn drained(splitter: &mut Splitter) -> BTreeMap<String, Vec<i64>> {
        let mut all: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        let mut drain = splitter.drain();
        while let Some((directory, rows)) = drain.next().unwrap() {
            assert!(rows.num_rows() <= BATCH_ROWS);
            all.entry(directory).or_default().extend(rows.column(0).as_primitive::<Int64Type>().values());
        }
        all
    }

    fn directory_of(key: ArrayRef) -> String {
        let mut splitter = splitter(std::slice::from_ref(&key));
        splitter.push(&[key], numbered(0..1)).unwrap().unwrap().0
    }

    #[test]
    fn values_are_written_as_spark_does() {
        let text = |value: &str| directory_of(Arc::new(StringArray::from(vec![value])));
        assert_eq!(text("plain value"), "k0=plain value");
        assert_eq!(text("../../etc/passwd"), "k0=..%2F..%2Fetc%2Fpasswd");
        assert_eq!(text(".."), "k0=..");
        assert_eq!(text("a=b:c%d"), "k0=a%3Db%3Ac%25d");
        assert_eq!(text("zürich 東京"), "k0=zürich 東京");
        assert_eq!(text("tab\tnul\0del\u{7f}"), "k0=tab%09nul%00del%7F");
        assert_eq!(text("\"#'*?\\{[]^"), "k0=%22%23%27%2A%3F%5C%7B%5B%5D%5E");
        for value in ["", NULL_DIRECTORY] {
            let key: ArrayRef = Arc::new(StringArray::from(vec![value]));
            let error = splitter(std::slice::from_ref(&key)).push(&[key], numbered(0..1)).unwrap_err();
            assert!(error.to_string().contains(&format!("column 'k0' has the value '{value}'")), "{error}");
        }
        assert_eq!(directory_of(Arc::new(Int64Array::from(vec![None]))), "k0=__HIVE_DEFAULT_PARTITION__");
        assert_eq!(directory_of(Arc::new(Int64Array::from(vec![-5]))), "k0=-5");
        assert_eq!(directory_of(Arc::new(BooleanArray::from(vec![true]))), "k0=true");
        assert_eq!(directory_of(Arc::new(Date32Array::from(vec![19_782]))), "k0=2024-02-29");
        let decimal = Decimal128Array::from(vec![1250]).with_precision_and_scale(9, 2).unwrap();
        assert_eq!(directory_of(Arc::new(decimal)), "k0=12.50");
        let time = |micros| TimestampMicrosecondArray::from(vec![micros]);
        assert_eq!(directory_of(Arc::new(time(0))), "k0=1970-01-01 00%3A00%3A00");
        assert_eq!(directory_of(Arc::new(time(1_500_000))), "k0=1970-01-01 00%3A00%3A01.500");
        let zoned = time(0).with_timezone("+02:00");
        assert_eq!(directory_of(Arc::new(zoned)), "k0=1970-01-01 02%3A00%3A00+02%3A00");
    }

    #[test]
    fn names_of_columns_are_escaped() {
        let schema = Schema::new(vec![Field::new("a/b=c", DataType::Int64, true)]);
        let mut splitter = Splitter::new(Arc::new(schema));
        let key: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let (directory, _) = splitter.push(&[key], numbered(0..1)).unwrap().unwrap();
        assert_eq!(directory, "a%2Fb%3Dc=1");
    }

    #[test]
    fn every_row_comes_out_once_and_in_order() {
        let rows = 3 * BATCH_ROWS as i64 + 5;
        let key = |range: std::ops::Range<i64>| -> Vec<ArrayRef> {
            let first = Int64Array::from_iter_values(range.clone().map(|i| i % 2));
            let second = StringArray::from_iter(range.map(|i| (i % 3 != 0).then(|| (i % 3).to_string())));
            vec![Arc::new(first), Arc::new(second)]
        };
        let mut splitter = splitter(&key(0..1));
        for start in (0..rows).step_by(1000) {
            let range = start..rows.min(start + 1000);
            assert!(splitter.push(&key(range.clone()), numbered(range)).unwrap().is_none());
        }
        assert!(splitter.memory() >= 24 * rows as usize);
        let all = drained(&mut splitter);
        assert_eq!(all.len(), 6);
        assert_eq!(splitter.memory(), 0);
        for (directory, values) in &all {
            assert!(values.is_sorted());
            for value in values {
                let text = if value % 3 == 0 { NULL_DIRECTORY.to_string() } else { (value % 3).to_string() };
                assert_eq!(*directory, format!("k0={}/k1={text}", value % 2));
            }
        }
        assert_eq!(all.values().map(Vec::len).sum::<usize>(), rows as usize);
        assert!(drained(&mut splitter).is_empty());
    }

    #[test]
    fn a_batch_of_one_directory_passes_unless_rows_wait_for_it() {
        let key = |value: i64| -> Vec<ArrayRef> { vec![Arc::new(Int64Array::from(vec![value; 2]))] };
        let mixed: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![1, 2]))];
        let mut splitter = splitter(&mixed);
        assert!(splitter.push(&key(1), numbered(0..2)).unwrap().is_some());
        assert!(splitter.push(&mixed, numbered(2..4)).unwrap().is_none());
        assert!(splitter.push(&key(1), numbered(4..6)).unwrap().is_none());
        assert!(splitter.push(&key(3), numbered(6..8)).unwrap().is_some());
        let all = drained(&mut splitter);
        assert_eq!(all["k0=1"], [2, 4, 5]);
        assert_eq!(all["k0=2"], [3]);
        assert!(splitter.push(&key(1), numbered(8..10)).unwrap().is_some());
    }
}
