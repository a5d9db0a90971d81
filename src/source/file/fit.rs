//! Columns of Parquet, Arrow and Avro files as columns of the table.
//!
//! Columns are found by name, those that no other name stands for without regard to case. Types are
//! converted where every value stays what it is or is rounded as documented; a value for which that is
//! not so is an error, and so is a type for which it can never be. DataFusion's own adapter casts, which
//! cuts fractions off, and leaves what lies below a null struct to show through.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeListArray, GenericListArray, MapArray, OffsetSizeTrait,
    PrimitiveArray, StructArray, new_null_array,
};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::compute::{CastOptions, cast, cast_with_options, nullif};
use datafusion::arrow::datatypes::{
    ArrowPrimitiveType, DataType, Decimal128Type, FieldRef, Fields, Float64Type, Int64Type, Schema,
    SchemaRef, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::physical_expr_adapter::{PhysicalExprAdapter, PhysicalExprAdapterFactory};
use datafusion::physical_plan::PhysicalExpr;

use super::found_columns::FoundColumns;
use super::layout::RESCUED_COLUMN;
use super::rescued::Rescued;
use super::values::{Scalar, ValueRules, cannot_be_read, in_unit, leaf, type_name};

/// How the columns of a table are made of those of a file.
#[derive(Debug)]
pub(super) struct FileColumns {
    pub(super) rules: ValueRules,
    /// Names of the columns that are NOT NULL.
    pub(super) required: Vec<String>,
    pub(super) found: Arc<FoundColumns>,
    /// Names of all columns of the table, in lower case; empty if others do not matter.
    pub(super) known: BTreeSet<String>,
    /// Whether the column that takes what no other takes is one of the table.
    pub(super) rescues: bool,
}

impl FileColumns {
    /// The positions in `file` of columns that the table does not have.
    pub(super) fn strangers(&self, file: &Schema) -> Vec<usize> {
        let is_strange = |name: &str| !self.known.is_empty() && !self.known.contains(&name.to_lowercase());
        (0..file.fields().len()).filter(|column| is_strange(file.field(*column).name())).collect()
    }

    /// Tells of the columns of `file` that the table does not have.
    pub(super) fn note_strangers(&self, file: &Schema) {
        self.strangers(file).into_iter().for_each(|column| self.found.note_new(file.field(column).name()));
    }

    /// The positions in `file` of the columns that are needed for those `wanted`, ascending.
    pub(super) fn needed(&self, file: &Schema, wanted: &Schema) -> DataFusionResult<Vec<usize>> {
        let mut columns: Vec<usize> = positions(wanted, file)?.into_iter().flatten().collect();
        if self.rescues && wanted.index_of(RESCUED_COLUMN).is_ok() {
            columns.extend(self.strangers(file));
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
        let strangers = self.rescues.then(|| self.strangers(&file));
        Ok(Arc::new(ColumnsOfFile { table, file, places, required, rules, found, strangers }))
    }
}

/// For each field of `table` its position in `file`.
pub(super) fn positions(table: &Schema, file: &Schema) -> DataFusionResult<Vec<Option<usize>>> {
    table.fields().iter().map(|field| position(field.name(), table.fields(), file.fields())).collect()
}

/// Where in `file` the field `name` of `table` is.
fn position(name: &str, table: &Fields, file: &Fields) -> DataFusionResult<Option<usize>> {
    if let Some(place) = file.iter().position(|field| field.name() == name) {
        return Ok(Some(place));
    }
    let lower = name.to_lowercase();
    let means = |field: &&FieldRef| field.name().to_lowercase() == lower;
    if table.iter().filter(means).count() > 1 {
        return Ok(None);
    }
    let mut places = file.iter().enumerate().filter(|(_, field)| means(field));
    match (places.next(), places.next()) {
        (Some((place, _)), None) => Ok(Some(place)),
        (Some((_, one)), Some((_, other))) => Err(DataFusionError::Execution(format!(
            "both its columns '{}' and '{}' can be meant by '{name}'",
            one.name(),
            other.name()
        ))),
        (None, _) => Ok(None),
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
    /// Positions in `file` of columns that no column takes, where one takes them all.
    strangers: Option<Vec<usize>>,
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
            let columns = strangers.iter().map(|place| Column::new(self.file.field(*place).name(), *place));
            return Ok(Arc::new(Rescued::new(columns)));
        }
        let required = is_given && self.required[index];
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
        let plain: Arc<dyn PhysicalExpr> = Arc::new(Column::new(found.name(), place));
        if !required && is_itself(found.data_type(), field.data_type()) {
            return Ok(plain);
        }
        let fit = Fit {
            input: plain,
            field: Arc::new(field.clone().with_nullable(true)),
            required,
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

/// Whether values need no conversion. What is below a null struct may be anything.
fn is_itself(found: &DataType, wanted: &DataType) -> bool {
    found == wanted && !found.is_nested()
}

/// A column of a file as one of the table.
#[derive(Debug, Clone)]
struct Fit {
    input: Arc<dyn PhysicalExpr>,
    /// The column of the table.
    field: FieldRef,
    required: bool,
    rules: ValueRules,
}

impl PartialEq for Fit {
    fn eq(&self, other: &Self) -> bool {
        self.input.eq(&other.input) && self.field == other.field && self.required == other.required
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

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn is_binary(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}

fn is_time_of_day(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Time32(_) | DataType::Time64(_))
}

fn is_date(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Date32 | DataType::Date64)
}

/// Whether values of type `found` can be read as `wanted`.
fn fits(found: &DataType, wanted: &DataType) -> bool {
    match (found, wanted) {
        (found, wanted) if found == wanted => true,
        (DataType::Null, _) => true,
        (DataType::Dictionary(_, values), wanted) => fits(values, wanted),
        (DataType::RunEndEncoded(_, values), wanted) => fits(values.data_type(), wanted),
        (found, DataType::Dictionary(_, values)) => fits(found, values),
        (DataType::Struct(found), DataType::Struct(wanted)) => {
            wanted.iter().all(|field| match position(field.name(), wanted, found) {
                Ok(Some(place)) => fits(found[place].data_type(), field.data_type()),
                Ok(None) => true,
                Err(_) => false,
            })
        }
        (DataType::Map(found, _), DataType::Map(wanted, _)) => {
            let (DataType::Struct(found), DataType::Struct(wanted)) = (found.data_type(), wanted.data_type())
            else {
                return false;
            };
            found.len() == 2
                && wanted.len() == 2
                && found.iter().zip(wanted).all(|(found, wanted)| fits(found.data_type(), wanted.data_type()))
        }
        (found, wanted) => match (item_of(found), item_of(wanted)) {
            (Some(found), Some(wanted)) => fits(found.data_type(), wanted.data_type()),
            (None, None) => leaf_fits(found, wanted),
            _ => false,
        },
    }
}

fn item_of(data_type: &DataType) -> Option<&FieldRef> {
    match data_type {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => Some(item),
        _ => None,
    }
}

fn leaf_fits(found: &DataType, wanted: &DataType) -> bool {
    use DataType::{Boolean, Date32, Duration, FixedSizeBinary, Timestamp};
    let is_number = |data_type: &DataType| data_type.is_numeric();
    let is_plain = |data_type: &DataType| {
        is_number(data_type) || is_date(data_type) || is_time_of_day(data_type) || *data_type == Boolean
    };
    match (found, wanted) {
        (found, wanted) if is_number(found) && is_number(wanted) => true,
        // Without epochUnit each value is an error, which says so.
        (found, Timestamp(..) | Date32) if found.is_integer() => true,
        (found, wanted) if is_text(found) => {
            is_text(wanted) || is_binary(wanted) || leaf(wanted, &ValueRules::default()).is_some()
        }
        (found, wanted) if is_text(wanted) => {
            is_plain(found) || is_binary(found) || matches!(found, Timestamp(..))
        }
        (found, wanted) if is_binary(found) || matches!(found, FixedSizeBinary(_)) => is_binary(wanted),
        (Timestamp(..), wanted) => matches!(wanted, Timestamp(..)) || is_date(wanted),
        (found, wanted) if is_date(found) => is_date(wanted) || matches!(wanted, Timestamp(..)),
        (found, wanted) if is_time_of_day(found) => is_time_of_day(wanted),
        (Duration(_), Duration(_)) => true,
        _ => false,
    }
}

/// `values` as `wanted`, null where `mask` says that what holds them is. The error says what is wrong with
/// the first value that does not fit.
fn fit(
    values: &ArrayRef,
    wanted: &DataType,
    mask: Option<&NullBuffer>,
    rules: &ValueRules,
) -> Result<ArrayRef, String> {
    let values = masked(values, mask)?;
    match (values.data_type(), wanted) {
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let found = values.as_struct();
            let columns = fields.iter().map(|field| {
                let place =
                    position(field.name(), fields, found.fields()).map_err(|error| error.to_string())?;
                let Some(place) = place else { return Ok(new_null_array(field.data_type(), found.len())) };
                fit(found.column(place), field.data_type(), found.nulls(), rules)
                    .map_err(|reason| format!("in '{}': {reason}", field.name()))
            });
            let columns = columns.collect::<Result<Vec<_>, _>>()?;
            let rows = StructArray::try_new_with_length(
                fields.clone(),
                columns,
                found.nulls().cloned(),
                found.len(),
            );
            Ok(Arc::new(rows.map_err(|error| error.to_string())?))
        }
        (DataType::Map(..), DataType::Map(entries, sorted)) => {
            fit_map(values.as_map(), entries, *sorted, rules)
        }
        (found, wanted) if item_of(found).is_some() && item_of(wanted).is_some() => {
            fit_list(&values, wanted, rules)
        }
        (found, wanted) if found == wanted => Ok(values),
        (DataType::Dictionary(_, inner), wanted) if inner.as_ref() != wanted => {
            let plain = cast(&values, inner).map_err(|error| error.to_string())?;
            fit(&plain, wanted, None, rules)
        }
        (DataType::RunEndEncoded(_, inner), wanted) if inner.data_type() != wanted => {
            let plain = cast(&values, inner.data_type()).map_err(|error| error.to_string())?;
            fit(&plain, wanted, None, rules)
        }
        (_, DataType::Dictionary(_, inner)) => {
            let plain = fit(&values, inner, None, rules)?;
            cast(&plain, wanted).map_err(|error| error.to_string())
        }
        _ => fit_leaf(&values, wanted, rules),
    }
}

fn masked(values: &ArrayRef, mask: Option<&NullBuffer>) -> Result<ArrayRef, String> {
    let Some(mask) = mask.filter(|mask| mask.null_count() > 0) else { return Ok(Arc::clone(values)) };
    if matches!(values.data_type(), DataType::Null | DataType::Union(..) | DataType::RunEndEncoded(..)) {
        return Ok(Arc::clone(values));
    }
    let is_null = BooleanArray::new(!mask.inner(), None);
    nullif(values, &is_null).map_err(|error| error.to_string())
}

fn fit_list(values: &ArrayRef, wanted: &DataType, rules: &ValueRules) -> Result<ArrayRef, String> {
    let text = |error: datafusion::arrow::error::ArrowError| error.to_string();
    match (values.data_type(), wanted) {
        (DataType::List(_), DataType::List(item)) => items::<i32>(values, item, rules),
        (DataType::LargeList(_), DataType::LargeList(item)) => items::<i64>(values, item, rules),
        (DataType::FixedSizeList(_, size), DataType::FixedSizeList(item, wanted)) if size == wanted => {
            let lists = values.as_fixed_size_list();
            let items = fit(lists.values(), item.data_type(), None, rules)?;
            let lists = FixedSizeListArray::try_new_with_length(
                Arc::clone(item),
                *size,
                items,
                lists.nulls().cloned(),
                lists.len(),
            );
            Ok(Arc::new(lists.map_err(text)?))
        }
        // Another kind of list of the same items, which then are fitted.
        (found, wanted) => {
            let item = item_of(found).map(Arc::clone).ok_or_else(|| "it is no list".to_string())?;
            let same_kind = match wanted {
                DataType::LargeList(_) => DataType::LargeList(item),
                DataType::FixedSizeList(_, size) => DataType::FixedSizeList(item, *size),
                _ => DataType::List(item),
            };
            let lists = cast_with_options(values, &same_kind, &strict()).map_err(text)?;
            if lists.data_type() == found {
                Err("it is another kind of list".into())
            } else {
                fit_list(&lists, wanted, rules)
            }
        }
    }
}

fn items<O: OffsetSizeTrait>(
    values: &ArrayRef,
    item: &FieldRef,
    rules: &ValueRules,
) -> Result<ArrayRef, String> {
    let lists = values.as_list::<O>();
    let items = fit(lists.values(), item.data_type(), None, rules)?;
    let lists = GenericListArray::<O>::try_new(
        Arc::clone(item),
        lists.offsets().clone(),
        items,
        lists.nulls().cloned(),
    );
    Ok(Arc::new(lists.map_err(|error| error.to_string())?))
}

fn fit_map(map: &MapArray, entries: &FieldRef, sorted: bool, rules: &ValueRules) -> Result<ArrayRef, String> {
    let DataType::Struct(fields) = entries.data_type() else { return Err("it is no map".into()) };
    let [key, value] = fields.as_ref() else { return Err("it is no map".into()) };
    let keys = fit(map.keys(), key.data_type(), None, rules)?;
    let values = fit(map.values(), value.data_type(), None, rules)?;
    let text = |error: datafusion::arrow::error::ArrowError| error.to_string();
    let rows = StructArray::try_new(fields.clone(), vec![keys, values], None).map_err(text)?;
    let map =
        MapArray::try_new(Arc::clone(entries), map.offsets().clone(), rows, map.nulls().cloned(), sorted);
    Ok(Arc::new(map.map_err(text)?))
}

fn strict() -> CastOptions<'static> {
    CastOptions { safe: false, ..CastOptions::default() }
}

/// The values of a type without parts.
fn fit_leaf(values: &ArrayRef, wanted: &DataType, rules: &ValueRules) -> Result<ArrayRef, String> {
    let found = values.data_type();
    match (found, wanted) {
        (found, wanted) if is_text(found) && !is_text(wanted) && !is_binary(wanted) => {
            return from_text(values, wanted, rules);
        }
        (found, wanted) if found.is_floating() && wanted.is_integer() => {
            check::<Float64Type>(&cast(values, &DataType::Float64), wanted, |value| {
                (value.fract() == 0.0).then_some(()).ok_or("it has a fraction")
            })?;
        }
        (found, wanted) if found.is_decimal() && wanted.is_integer() => {
            let (precision, scale) = decimal(found);
            if precision <= 38 {
                let unit = 10_i128.pow(u32::try_from(scale).unwrap_or(0).min(38));
                let wide = cast(values, &DataType::Decimal128(38, scale));
                check::<Decimal128Type>(&wide, wanted, |value| {
                    (value % unit == 0).then_some(()).ok_or("it has a fraction")
                })?;
            } else {
                return from_text(&as_text(values)?, wanted, rules);
            }
        }
        // Through the shortest text that tells the number, so that no digit comes from its binary form.
        (found, wanted) if found.is_floating() && wanted.is_decimal() => {
            return from_text(&as_text(values)?, wanted, rules);
        }
        (DataType::Float64, DataType::Float32 | DataType::Float16)
        | (DataType::Float32, DataType::Float16) => {
            check_range(values, wanted)?;
        }
        // Days, as in text.
        (found, DataType::Date32) if found.is_integer() => {
            return push_all(&as_text(values)?, wanted, rules, Scalar::Number);
        }
        (found, DataType::Timestamp(unit, _)) if found.is_integer() => {
            let Some(epoch) = rules.epoch_unit else {
                return Err(format!(
                    "a number can be seconds or parts of them. Set epochUnit to say what it counts, to read it as {}",
                    type_name(wanted)
                ));
            };
            let counts =
                cast_with_options(values, &DataType::Int64, &strict()).map_err(|error| error.to_string())?;
            return times(counts.as_primitive::<Int64Type>(), epoch, *unit, wanted);
        }
        (DataType::Timestamp(from, zone), DataType::Timestamp(to, _)) if from != to => {
            let counts = cast(values, &DataType::Int64).map_err(|error| error.to_string())?;
            let same_zone = DataType::Timestamp(*to, zone.clone());
            let times = times(counts.as_primitive::<Int64Type>(), *from, *to, &same_zone)?;
            return cast_with_options(&times, wanted, &strict()).map_err(|error| error.to_string());
        }
        _ => {}
    }
    cast_with_options(values, wanted, &strict()).map_err(|error| {
        let text = error.to_string();
        let reason = text.split_once("error: ").map_or(text.as_str(), |(_, reason)| reason);
        format!("a value cannot be read as {}: {reason}", type_name(wanted))
    })
}

fn decimal(data_type: &DataType) -> (u8, i8) {
    match data_type {
        DataType::Decimal32(p, s)
        | DataType::Decimal64(p, s)
        | DataType::Decimal128(p, s)
        | DataType::Decimal256(p, s) => (*p, *s),
        _ => (0, 0),
    }
}

fn as_text(values: &ArrayRef) -> Result<ArrayRef, String> {
    cast(values, &DataType::Utf8).map_err(|error| error.to_string())
}

/// Texts, as they are read in formats that have nothing else.
fn from_text(values: &ArrayRef, wanted: &DataType, rules: &ValueRules) -> Result<ArrayRef, String> {
    push_all(&as_text(values)?, wanted, rules, Scalar::Text)
}

fn push_all<'a>(
    texts: &'a ArrayRef,
    wanted: &DataType,
    rules: &ValueRules,
    scalar: impl Fn(&'a str) -> Scalar<'a>,
) -> Result<ArrayRef, String> {
    let mut column =
        leaf(wanted, rules).ok_or_else(|| format!("text cannot be read as {}", type_name(wanted)))?;
    for text in texts.as_string::<i32>() {
        match text.map(&scalar) {
            Some(value) => column.push(value).map_err(|why| cannot_be_read(value, wanted, why))?,
            None => column.push_null(),
        }
    }
    Ok(column.finish())
}

/// Fails on the first value that `judge` has something against.
fn check<T: ArrowPrimitiveType>(
    values: &Result<ArrayRef, datafusion::arrow::error::ArrowError>,
    wanted: &DataType,
    judge: impl Fn(T::Native) -> Result<(), &'static str>,
) -> Result<(), String> {
    let values = values.as_ref().map_err(ToString::to_string)?;
    let values = values.as_primitive::<T>();
    for (index, value) in values.iter().enumerate() {
        if let Some(why) = value.and_then(|value| judge(value).err()) {
            let text = datafusion::arrow::util::display::array_value_to_string(values, index);
            let text = text.map_err(|error| error.to_string())?;
            return Err(cannot_be_read(Scalar::Number(&text), wanted, why));
        }
    }
    Ok(())
}

/// A number that is finite stays so.
fn check_range(values: &ArrayRef, wanted: &DataType) -> Result<(), String> {
    let narrow = cast(values, wanted).and_then(|narrow| cast(&narrow, &DataType::Float64));
    let narrow = narrow.map_err(|error| error.to_string())?;
    let narrow = narrow.as_primitive::<Float64Type>();
    let wide = cast(values, &DataType::Float64).map_err(|error| error.to_string())?;
    let wide = wide.as_primitive::<Float64Type>();
    let grew = |(narrow, wide): (Option<f64>, Option<f64>)| {
        wide.filter(|wide| wide.is_finite() && narrow.is_some_and(f64::is_infinite))
    };
    match narrow.iter().zip(wide).find_map(grew) {
        None => Ok(()),
        Some(value) => Err(cannot_be_read(Scalar::Number(&value.to_string()), wanted, "it is out of range")),
    }
}

/// Counts of `from` since 1970 as times in `to`.
fn times(
    counts: &PrimitiveArray<Int64Type>,
    from: TimeUnit,
    to: TimeUnit,
    wanted: &DataType,
) -> Result<ArrayRef, String> {
    let count = |value: i64| {
        let out_of_range =
            || cannot_be_read(Scalar::Number(&value.to_string()), wanted, "it is out of range");
        in_unit(value, from, to).ok_or_else(out_of_range)
    };
    Ok(match to {
        TimeUnit::Second => Arc::new(typed::<TimestampSecondType>(counts.try_unary(count)?, wanted)),
        TimeUnit::Millisecond => {
            Arc::new(typed::<TimestampMillisecondType>(counts.try_unary(count)?, wanted))
        }
        TimeUnit::Microsecond => {
            Arc::new(typed::<TimestampMicrosecondType>(counts.try_unary(count)?, wanted))
        }
        TimeUnit::Nanosecond => Arc::new(typed::<TimestampNanosecondType>(counts.try_unary(count)?, wanted)),
    })
}

fn typed<T: ArrowPrimitiveType<Native = i64>>(
    counts: PrimitiveArray<T>,
    wanted: &DataType,
) -> PrimitiveArray<T> {
    counts.with_data_type(wanted.clone())
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{
        Decimal128Array, Float64Array, Int32Array, Int64Array, ListArray, StringArray,
        TimestampMicrosecondArray, UInt64Array,
    };
    use datafusion::arrow::buffer::OffsetBuffer;
    use datafusion::arrow::datatypes::Field;
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
            known: BTreeSet::new(),
            rescues: false,
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
            known: BTreeSet::new(),
            rescues: false,
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
