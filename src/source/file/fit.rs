//! Columns of Parquet, Arrow and Avro files as columns of the table.
//!
//! Columns are found by name, those that no other name stands for without regard to case. Types are
//! converted where every value stays what it is or is rounded as documented; a value for which that is
//! not so is an error, and so is a type for which it can never be. DataFusion's own adapter casts, which
//! cuts fractions off, and leaves what lies below a null struct to show through.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use datafusion::arrow::array::Array;
use datafusion::arrow::datatypes::{DataType, FieldRef, Fields, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::physical_expr_adapter::{PhysicalExprAdapter, PhysicalExprAdapterFactory};
use datafusion::physical_plan::PhysicalExpr;

use super::fitting::{fit, fit_each, fits, is_itself, position, positions};
use super::found_columns::FoundColumns;
use super::layout::{RESCUED_COLUMN, VERDICT_COLUMN};
use super::nested;
use super::rescued::Rescued;
use super::uuids::{self, UuidTexts};
use super::values::{ValueRules, type_name};
use super::verdict::{Judged, Verdict};

/// How the columns of a table are made of those of a file.
#[derive(Debug)]
pub(super) struct FileColumns {
    pub(super) rules: ValueRules,
    /// Names of the columns that are NOT NULL.
    pub(super) required: Vec<String>,
    pub(super) found: Arc<FoundColumns>,
    /// Names of all columns of the table.
    pub(super) known: KnownNames,
    /// Those of its columns that have fields within.
    pub(super) nested: Fields,
    /// Whether the column that takes what no other takes is one of the table.
    pub(super) rescues: bool,
    /// Whether rows are judged one by one. Without it a value that does not fit is an error.
    pub(super) judged: Option<Judged>,
}

/// Names of the columns of a table, by themselves in lower case; none if it does not matter which there are.
#[derive(Debug, Default)]
pub(super) struct KnownNames(BTreeMap<String, Vec<String>>);

impl KnownNames {
    pub(super) fn of(columns: &Fields) -> Self {
        let mut known: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for column in columns {
            known.entry(column.name().to_lowercase()).or_default().push(column.name().clone());
        }
        Self(known)
    }

    /// Whether one of them takes the column `name` of `file`, as [`nested::taker`] says.
    fn take(&self, name: &str, file: &Schema) -> bool {
        match self.0.get(&name.to_lowercase()) {
            None => self.0.is_empty(),
            Some(names) if names.iter().any(|known| known == name) => true,
            Some(names) => matches!(names.as_slice(), [one] if file.column_with_name(one).is_none()),
        }
    }
}

impl FileColumns {
    /// The positions in `file` of columns that the table does not have.
    pub(super) fn strangers(&self, file: &Schema) -> Vec<usize> {
        (0..file.fields().len()).filter(|column| !self.known.take(file.field(*column).name(), file)).collect()
    }

    /// Tells of the columns of `file`, and of the fields within them, that the table does not have.
    pub(super) fn note_strangers(&self, file: &Schema) {
        self.strangers(file).into_iter().for_each(|column| self.found.note_new(file.field(column).name()));
        for (_, strangers) in self.strangers_within(file) {
            strangers.iter().for_each(|path| self.found.note_new(path));
        }
    }

    /// The positions in `file` of columns with fields that the table does not have, and the paths of these.
    fn strangers_within(&self, file: &Schema) -> Vec<(usize, Vec<String>)> {
        let found = self.nested.iter().filter_map(|field| {
            let place = position(field.name(), &self.nested, file.fields()).ok()??;
            let mut paths = Vec::new();
            let found = file.field(place).data_type();
            nested::strangers(field.name(), found, field.data_type(), &mut |path| paths.push(path));
            (!paths.is_empty()).then_some((place, paths))
        });
        found.collect()
    }

    /// The columns of `file` that are rescued: those that the table does not have, and those of which it does not have
    /// all fields, with the type that it has for them.
    fn rescued(&self, file: &Schema) -> Vec<(usize, Option<DataType>)> {
        let type_of = |place: &usize| {
            let known = |field: &&FieldRef| {
                position(field.name(), &self.nested, file.fields()).is_ok_and(|at| at == Some(*place))
            };
            self.nested.iter().find(known).map(|field| field.data_type().clone())
        };
        let whole = self.strangers(file).into_iter().map(|place| (place, None));
        let parts = self.strangers_within(file).into_iter().map(|(place, _)| (place, type_of(&place)));
        whole.chain(parts).collect()
    }

    /// The positions in `file` of the columns that are needed for those `wanted`, ascending.
    pub(super) fn needed(&self, file: &Schema, wanted: &Schema) -> DataFusionResult<Vec<usize>> {
        let mut columns: Vec<usize> = positions(wanted, file)?.into_iter().flatten().collect();
        if self.rescues && wanted.index_of(RESCUED_COLUMN).is_ok() {
            columns.extend(self.rescued(file).iter().map(|(place, _)| place));
        }
        match &self.judged {
            Some(judged) if judged.tells_records => columns.extend(0..file.fields().len()),
            Some(judged) => columns.extend(positions(&judged.columns, file)?.into_iter().flatten()),
            None => {}
        }
        columns.sort_unstable();
        columns.dedup();
        Ok(columns)
    }
}

impl PhysicalExprAdapterFactory for FileColumns {
    fn create(&self, table: SchemaRef, file: SchemaRef) -> DataFusionResult<Arc<dyn PhysicalExprAdapter>> {
        self.note_strangers(&file);
        let places = positions(&table, &file)?;
        for (field, place) in table.fields().iter().zip(&places) {
            if let Some(place) = place
                && self.judged.is_none()
                && !fits(file.field(*place).data_type(), field.data_type())
            {
                return Err(DataFusionError::Execution(format!(
                    "column '{}' is of type {} in it, which cannot be read as {}",
                    field.name(),
                    type_name(file.field(*place).data_type()),
                    type_name(field.data_type())
                )));
            }
        }
        let required = table.fields().iter().map(|field| self.required.contains(field.name())).collect();
        let (rules, found) = (self.rules.clone(), Arc::clone(&self.found));
        let strangers = self.rescues.then(|| self.rescued(&file));
        let judge = |judged: &Judged| -> DataFusionResult<Judge> {
            let places = positions(&judged.columns, &file)?;
            Ok(Judge { judged: judged.clone(), places, required: self.required.clone() })
        };
        let judge = self.judged.as_ref().map(judge).transpose()?;
        Ok(Arc::new(ColumnsOfFile { table, file, places, required, rules, found, strangers, judge }))
    }
}

/// The columns of one file.
#[derive(Debug)]
struct ColumnsOfFile {
    table: SchemaRef,
    file: SchemaRef,
    places: Vec<Option<usize>>,
    required: Vec<bool>,
    rules: ValueRules,
    found: Arc<FoundColumns>,
    /// What of `file` no column takes, where one takes it all: columns, and of those that are taken in parts, the
    /// type of what is taken.
    strangers: Option<Vec<(usize, Option<DataType>)>>,
    judge: Option<Judge>,
}

/// What rows are judged by.
#[derive(Debug)]
struct Judge {
    judged: Judged,
    /// Where in the file the columns are.
    places: Vec<Option<usize>>,
    /// Names of columns that are NOT NULL.
    required: Vec<String>,
}

impl Judge {
    /// Whether the column is made of verdicts.
    fn makes(&self, column: &str) -> bool {
        column == VERDICT_COLUMN || self.judged.corrupt_record.as_deref() == Some(column)
    }
}

impl PhysicalExprAdapter for ColumnsOfFile {
    fn rewrite(&self, expr: Arc<dyn PhysicalExpr>) -> DataFusionResult<Arc<dyn PhysicalExpr>> {
        // Rows are given by plain columns; everything else only tells which rows need not be read.
        let is_given = expr.is::<Column>();
        let rewrite = |expr: Arc<dyn PhysicalExpr>| match expr.downcast_ref::<Column>() {
            Some(column) => self.column(column, is_given).map(Transformed::yes),
            None => Ok(Transformed::no(expr)),
        };
        expr.transform(rewrite).data()
    }
}

impl ColumnsOfFile {
    fn column(&self, column: &Column, is_given: bool) -> DataFusionResult<Arc<dyn PhysicalExpr>> {
        let index = self.table.index_of(column.name())?;
        let field = self.table.field(index);
        if let Some(strangers) = self.strangers.as_ref().filter(|_| field.name() == RESCUED_COLUMN) {
            let columns = strangers
                .iter()
                .map(|(place, taken)| (Column::new(self.file.field(*place).name(), *place), taken.clone()));
            return Ok(Arc::new(Rescued::new(columns)));
        }
        if let Some(Judge { judged, places, required }) =
            self.judge.as_ref().filter(|judge| judge.makes(field.name()))
        {
            return Ok(Arc::new(Verdict::new(field, judged, places, &self.file, required, &self.rules)));
        }
        let required = is_given && self.required[index] && self.judge.is_none();
        let Some(place) = self.places[index] else {
            if required {
                return Err(no_nulls(field.name()));
            }
            if is_given {
                self.found.note_lack(field.name());
            }
            return Ok(Arc::new(Literal::new(ScalarValue::try_from(field.data_type())?)));
        };
        let found = self.file.field(place);
        let mut plain: Arc<dyn PhysicalExpr> = Arc::new(Column::new(found.name(), place));
        let mut data_type = found.data_type();
        if uuids::are_texts(found, field.data_type()) {
            (plain, data_type) = (Arc::new(UuidTexts::new(plain)), &DataType::Utf8);
        }
        if !required && is_itself(data_type, field.data_type()) {
            return Ok(plain);
        }
        if self.judge.is_some() && !fits(data_type, field.data_type()) {
            return Ok(Arc::new(Literal::new(ScalarValue::try_from(field.data_type())?)));
        }
        let fit = Fit {
            input: plain,
            field: Arc::new(field.clone().with_nullable(true)),
            required,
            is_judged: self.judge.is_some(),
            rules: self.rules.clone(),
        };
        Ok(Arc::new(fit))
    }
}

fn no_nulls(column: &str) -> DataFusionError {
    DataFusionError::Execution(format!(
        "the column '{column}' is NOT NULL, and it has rows without a value for it. Put the file right, or leave \
         NOT NULL out"
    ))
}

/// A column of a file as one of the table.
#[derive(Debug, Clone)]
struct Fit {
    input: Arc<dyn PhysicalExpr>,
    /// The column of the table.
    field: FieldRef,
    required: bool,
    /// Whether values that do not fit are null, because a verdict tells of them.
    is_judged: bool,
    rules: ValueRules,
}

impl PartialEq for Fit {
    fn eq(&self, other: &Self) -> bool {
        self.input.eq(&other.input)
            && self.field == other.field
            && self.required == other.required
            && self.is_judged == other.is_judged
    }
}

impl Eq for Fit {}

impl Hash for Fit {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.input.hash(state);
        self.field.hash(state);
    }
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} as {}", self.input, self.field.data_type())
    }
}

impl PhysicalExpr for Fit {
    fn data_type(&self, _: &Schema) -> DataFusionResult<DataType> {
        Ok(self.field.data_type().clone())
    }

    fn nullable(&self, _: &Schema) -> DataFusionResult<bool> {
        Ok(true)
    }

    fn return_field(&self, _: &Schema) -> DataFusionResult<FieldRef> {
        Ok(Arc::clone(&self.field))
    }

    fn evaluate(&self, rows: &RecordBatch) -> DataFusionResult<ColumnarValue> {
        let values = self.input.evaluate(rows)?.into_array(rows.num_rows())?;
        let name = self.field.name();
        if self.required && values.logical_null_count() > 0 {
            return Err(no_nulls(name));
        }
        if self.is_judged {
            return Ok(ColumnarValue::Array(fit_each(&values, self.field.data_type(), &self.rules)?.0));
        }
        let values = fit(&values, self.field.data_type(), None, &self.rules);
        values
            .map(ColumnarValue::Array)
            .map_err(|reason| DataFusionError::Execution(format!("column '{name}': {reason}")))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.input]
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> DataFusionResult<Arc<dyn PhysicalExpr>> {
        let mut fit = self.as_ref().clone();
        if let Some(input) = children.into_iter().next() {
            fit.input = input;
        }
        Ok(Arc::new(fit))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{
        ArrayRef, AsArray, BooleanArray, Date64Array, Decimal128Array, Float64Array, Int32Array, Int64Array,
        ListArray, StringArray, StructArray, TimestampMicrosecondArray, UInt64Array,
    };
    use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer};
    use datafusion::arrow::datatypes::{Field, Int64Type, TimeUnit};
    use datafusion::arrow::util::display::array_value_to_string;
    use datafusion::physical_expr_adapter::BatchAdapterFactory;

    use super::*;

    fn schema(fields: Vec<(&str, DataType)>) -> SchemaRef {
        Arc::new(Schema::new(
            fields.into_iter().map(|(name, t)| Field::new(name, t, true)).collect::<Vec<_>>(),
        ))
    }

    fn read(values: impl Array + 'static, wanted: DataType) -> Result<Vec<String>, String> {
        let values: ArrayRef = Arc::new(values);
        let found = schema(vec![("A", values.data_type().clone())]);
        let columns = FileColumns {
            rules: ValueRules::default(),
            required: vec![],
            found: Arc::default(),
            known: KnownNames::default(),
            nested: Fields::empty(),
            rescues: false,
            judged: None,
        };
        let factory =
            BatchAdapterFactory::new(schema(vec![("a", wanted)])).with_adapter_factory(Arc::new(columns));
        let adapter = factory.make_adapter(&found).map_err(|error| error.strip_backtrace())?;
        let rows = RecordBatch::try_new(found, vec![values]).unwrap();
        let rows = adapter.adapt_batch(&rows).map_err(|error| error.strip_backtrace())?;
        let column = rows.column(0);
        Ok((0..column.len()).map(|row| array_value_to_string(column, row).unwrap()).collect())
    }

    #[test]
    fn numbers_stay_what_they_are_or_are_refused() {
        assert_eq!(read(Int32Array::from(vec![Some(1), None]), DataType::Int64).unwrap(), ["1", ""]);
        assert_eq!(read(Float64Array::from(vec![4.0, -5.0]), DataType::Int64).unwrap(), ["4", "-5"]);
        let decimals =
            |values: Vec<i128>| Decimal128Array::from(values).with_precision_and_scale(10, 3).unwrap();
        assert_eq!(read(decimals(vec![1995, -5]), DataType::Decimal128(10, 2)).unwrap(), ["2.00", "-0.01"]);
        assert_eq!(read(decimals(vec![4000]), DataType::Int64).unwrap(), ["4"]);
        assert_eq!(read(Float64Array::from(vec![1.005]), DataType::Decimal128(10, 2)).unwrap(), ["1.01"]);
        for (values, wanted) in [
            (Arc::new(Float64Array::from(vec![4.9])) as ArrayRef, DataType::Int64),
            (Arc::new(Float64Array::from(vec![f64::NAN])), DataType::Int64),
            (Arc::new(Float64Array::from(vec![1e300])), DataType::Int64),
            (Arc::new(Float64Array::from(vec![1e300])), DataType::Float32),
            (Arc::new(Float64Array::from(vec![f64::INFINITY])), DataType::Decimal128(10, 2)),
            (Arc::new(Int64Array::from(vec![1 << 40])), DataType::Int32),
            (Arc::new(Int64Array::from(vec![-1])), DataType::UInt64),
            (Arc::new(UInt64Array::from(vec![u64::MAX])), DataType::Int64),
            (Arc::new(decimals(vec![4900])), DataType::Int64),
            (Arc::new(decimals(vec![9_999_995])), DataType::Decimal128(6, 2)),
            (Arc::new(Int64Array::from(vec![1])), DataType::Timestamp(TimeUnit::Millisecond, None)),
            (Arc::new(Int64Array::from(vec![1])), DataType::Boolean),
            (Arc::new(Int64Array::from(vec![1 << 30])), DataType::Date32),
            (Arc::new(BooleanArray::from(vec![true])), DataType::Int64),
            (Arc::new(StringArray::from(vec!["4.9"])), DataType::Int64),
            (Arc::new(StringArray::from(vec!["x"])), DataType::Timestamp(TimeUnit::Second, None)),
        ] {
            let refused = read(datafusion::arrow::array::make_array(values.to_data()), wanted.clone());
            assert!(refused.is_err(), "{values:?} as {wanted}: {refused:?}");
        }
    }

    #[test]
    fn times_are_cut_to_their_unit() {
        let values = TimestampMicrosecondArray::from(vec![Some(1999), Some(-1), None]);
        let wanted = DataType::Timestamp(TimeUnit::Millisecond, None);
        let expected = ["1970-01-01T00:00:00.001", "1969-12-31T23:59:59.999", ""];
        assert_eq!(read(values, wanted).unwrap(), expected);
        let far = TimestampMicrosecondArray::from(vec![i64::MAX / 2]);
        assert!(read(far, DataType::Timestamp(TimeUnit::Nanosecond, None)).is_err());
        let dates = || Date64Array::from(vec![Some(-86_400_000), None, Some(253_402_214_400_000)]);
        let expected = ["1969-12-31T00:00:00", "", "9999-12-31T00:00:00"];
        assert_eq!(read(dates(), DataType::Timestamp(TimeUnit::Microsecond, None)).unwrap(), expected);
        assert!(read(dates(), DataType::Timestamp(TimeUnit::Nanosecond, None)).is_err());
        assert_eq!(read(dates(), DataType::Date32).unwrap(), ["1969-12-31", "", "9999-12-31"]);
        assert!(read(Date64Array::from(vec![i64::MAX]), DataType::Date32).is_err());
    }

    #[test]
    fn fields_below_a_null_are_null() {
        let inner = |nullable| Fields::from(vec![Field::new("X", DataType::Int32, nullable)]);
        let values = StructArray::new(
            inner(false),
            vec![Arc::new(Int32Array::from(vec![1, 0, 3]))],
            Some(NullBuffer::from(vec![true, false, true])),
        );
        let wanted =
            Fields::from(vec![Field::new("x", DataType::Int64, true), Field::new("y", DataType::Utf8, true)]);
        let fitted = fit(
            &(Arc::new(values.clone()) as _),
            &DataType::Struct(wanted.clone()),
            None,
            &ValueRules::default(),
        )
        .unwrap();
        let x = fitted.as_struct().column(0).as_primitive::<Int64Type>();
        assert_eq!(x.iter().collect::<Vec<_>>(), [Some(1), None, Some(3)]);
        assert_eq!(fitted.as_struct().column(1).null_count(), 3);
        assert!(fitted.is_null(1));

        // In lists, and deeper.
        let outer = |fields: Fields| Fields::from(vec![Field::new("s", DataType::Struct(fields), true)]);
        let deep = StructArray::new(
            outer(inner(false)),
            vec![Arc::new(values)],
            Some(NullBuffer::from(vec![false, true, true])),
        );
        let item = Arc::new(Field::new("item", deep.data_type().clone(), true));
        let list: ArrayRef =
            Arc::new(ListArray::new(item, OffsetBuffer::from_lengths([3]), Arc::new(deep), None));
        let wanted = DataType::new_list(DataType::Struct(outer(inner(true))), true);
        let fitted = fit(&list, &wanted, None, &ValueRules::default()).unwrap();
        let s = fitted.as_list::<i32>().values().as_struct().column(0).as_struct().clone();
        assert_eq!(
            (s.is_null(0), s.column(0).is_null(0), s.column(0).is_null(1), s.column(0).is_null(2)),
            (true, true, true, false)
        );
    }

    #[test]
    fn names_are_found_without_case_if_only_one_is_meant() {
        let table = schema(vec![("userid", DataType::Int64), ("B", DataType::Int64), ("b", DataType::Int64)]);
        let places = |names: &[&str]| {
            let file = schema(names.iter().map(|name| (*name, DataType::Int64)).collect());
            positions(&table, &file).map_err(|error| error.strip_backtrace())
        };
        assert_eq!(places(&["b", "userId"]).unwrap(), [Some(1), None, Some(0)]);
        assert_eq!(places(&["USERID", "userid"]).unwrap(), [Some(1), None, None]);
        assert!(places(&["userId", "USERID"]).unwrap_err().contains("both its columns"));
        assert_eq!(places(&[]).unwrap(), [None, None, None]);
    }

    #[test]
    fn columns_without_nulls_are_checked() {
        let columns = FileColumns {
            rules: ValueRules::default(),
            required: vec!["a".into()],
            found: Arc::default(),
            known: KnownNames::default(),
            nested: Fields::empty(),
            rescues: false,
            judged: None,
        };
        let found = Arc::clone(&columns.found);
        let table = schema(vec![("a", DataType::Int64), ("b", DataType::Int64)]);
        let factory = BatchAdapterFactory::new(table).with_adapter_factory(Arc::new(columns));
        let file = schema(vec![("A", DataType::Int64)]);
        let adapter = factory.make_adapter(&file).unwrap();
        let rows = |values: Vec<Option<i64>>| {
            RecordBatch::try_new(Arc::clone(&file), vec![Arc::new(Int64Array::from(values))]).unwrap()
        };
        assert_eq!(adapter.adapt_batch(&rows(vec![Some(1)])).unwrap().num_columns(), 2);
        assert!(
            adapter.adapt_batch(&rows(vec![Some(1), None])).unwrap_err().to_string().contains("NOT NULL")
        );
        found.note_file();
        assert_eq!(found.missing(), ["b"]);
        assert!(factory.make_adapter(&schema(vec![("b", DataType::Int64)])).is_err());
    }
}
