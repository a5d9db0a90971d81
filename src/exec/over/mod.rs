//! Window functions: values of a row that follow from the rows around it, in an order of time.
//!
//! A row waits until no row can come any more that its values depend on. Then it is given, once and for good, and
//! kept only as long as rows that come later look back to it.
//!
//! **State**, first table: key: the columns of `PARTITION BY`; subkey: a byte that says what the row waits for
//! ([`Place`]), the columns of `ORDER BY`, in their order as bytes, then the batch and the row's number in it; value:
//! the row; expiry: of a row that waits for the time, when it comes; of one that was given, when the last row is
//! given that looks back to it.
//!
//! The second table, if functions count from a key's first row on: key: the same; value: how many rows were given,
//! how many different ones by `ORDER BY`, and the state columns of the aggregates; no expiry.

mod functions;
mod work;

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion::error::Result as DataFusionResult;
use datafusion::physical_plan::PhysicalExpr;
use serde_json::{Value, json};

pub(crate) use functions::{Function, Manner};

use super::batch::Batch;
use super::codec::RowCodec;
use super::keyed_rows::Gathered;
use super::operator::{columns, computed_by, event_time, window_times};
use super::row_buffer::RowBuffer;
use super::sort_column::SortColumn;
use super::stateful::{Counters, StatefulWork, Tables};
use crate::checkpoint::records::OperatorDefinition;

/// How far from a row the rows are that its values depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Reach {
    /// All rows of its key, which are all final at once.
    pub(crate) whole: bool,
    pub(crate) rows_before: usize,
    pub(crate) micros_before: i64,
    pub(crate) rows_after: usize,
    pub(crate) micros_after: i64,
}

impl Reach {
    /// As far as either.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            whole: self.whole || other.whole,
            rows_before: self.rows_before.max(other.rows_before),
            micros_before: self.micros_before.max(other.micros_before),
            rows_after: self.rows_after.max(other.rows_after),
            micros_after: self.micros_after.max(other.micros_after),
        }
    }

    /// Whether rows are looked at beside those that become final together.
    fn needs_others(self) -> bool {
        let Self { whole, rows_before, micros_before, rows_after, micros_after } = self;
        !whole && (rows_before > 0 || micros_before > 0 || rows_after > 0 || micros_after > 0)
    }
}

/// Gives the rows whose values are final, with these values.
#[derive(Debug)]
pub(crate) struct StatefulOver {
    pub(crate) order: Vec<SortColumn>,
    pub(crate) functions: Vec<Function>,
    pub(crate) reach: Reach,
    pub(crate) keys: Vec<Arc<Field>>,
    pub(crate) values: RowCodec,
    pub(crate) input: SchemaRef,
    /// That of the input, and the values of the functions.
    pub(crate) schema: SchemaRef,
    /// When a row's place among those of its key is final: Int64 over the input, in microseconds since the epoch.
    pub(crate) expiry: Arc<dyn PhysicalExpr>,
    totals: Option<Totals>,
}

/// What the second table holds.
#[derive(Debug)]
struct Totals {
    fields: Vec<Arc<Field>>,
    codec: RowCodec,
}

/// What [`StatefulOver`] is made of.
pub(crate) struct OverParts {
    pub(crate) order: Vec<SortColumn>,
    pub(crate) functions: Vec<Function>,
    pub(crate) reach: Reach,
    pub(crate) keys: Vec<Arc<Field>>,
    pub(crate) input: SchemaRef,
    pub(crate) schema: SchemaRef,
    pub(crate) expiry: Arc<dyn PhysicalExpr>,
}

impl StatefulOver {
    pub(crate) fn new(parts: OverParts) -> DataFusionResult<Self> {
        let OverParts { order, functions, reach, keys, input, schema, expiry } = parts;
        let values = RowCodec::values(input.fields().iter().map(AsRef::as_ref))?;
        let totals = match functions.iter().any(|function| function.manner.counts_from_the_first()) {
            true => Some(Totals::new(&functions)?),
            false => None,
        };
        Ok(Self { order, functions, reach, keys, values, input, schema, expiry, totals })
    }
}

impl Totals {
    fn new(functions: &[Function]) -> DataFusionResult<Self> {
        let mut fields = vec![
            Arc::new(Field::new("rows", DataType::UInt64, false)),
            Arc::new(Field::new("different_rows", DataType::UInt64, false)),
        ];
        for function in functions {
            fields.extend(function.state_fields()?);
        }
        let codec = RowCodec::values(fields.iter().map(AsRef::as_ref))?;
        Ok(Self { fields, codec })
    }
}

impl StatefulWork for StatefulOver {
    fn name(&self) -> &'static str {
        "StatefulOverExec"
    }

    fn describe(&self) -> String {
        let order: Vec<String> = self.order.iter().map(ToString::to_string).collect();
        let functions: Vec<&str> = self.functions.iter().map(Function::name).collect();
        let grows =
            if self.totals.is_some() || self.reach.rows_before > 0 { " (its state grows)" } else { "" };
        format!(
            ", order=[{}], functions=[{}], final={}{grows}",
            order.join(", "),
            functions.join(", "),
            self.expiry
        )
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        let of_functions = self.functions.iter().filter_map(|function| function.filter.as_ref());
        self.order.iter().map(|order| &order.expr).chain([&self.expiry]).chain(of_functions).collect()
    }

    fn definitions(&self) -> Vec<OperatorDefinition> {
        // How far the functions reach follows from their frames, which are in their names, and the codec from the input.
        let Self { order, functions, reach: _, keys, values: _, input, schema: _, expiry, totals } = self;
        let keys = columns(keys.iter().map(AsRef::as_ref));
        let stored = || input.fields().iter().map(AsRef::as_ref);
        let functions: Value = functions.iter().map(|function| json!({"name": function.name()})).collect();
        let common = [
            ("definitions".to_string(), computed_by(stored())),
            ("windowTimes".to_string(), window_times(stored())),
            ("eventTime".to_string(), event_time(Some(expiry))),
        ];
        let details = [
            ("keys".to_string(), keys.clone()),
            ("columns".to_string(), columns(stored())),
            ("order".to_string(), order.iter().map(SortColumn::definition).collect()),
            ("functions".to_string(), functions.clone()),
        ];
        let details = details.into_iter().chain(common.clone()).collect();
        let mut definitions = vec![OperatorDefinition { name: "over".into(), details }];
        if let Some(totals) = totals {
            let details = [
                ("keys".to_string(), keys),
                ("columns".to_string(), columns(totals.fields.iter().map(AsRef::as_ref))),
                ("functions".to_string(), functions),
            ];
            let details = details.into_iter().chain(common).collect();
            definitions.push(OperatorDefinition { name: "overTotals".into(), details });
        }
        definitions
    }

    fn run(
        &self,
        rows: Gathered,
        tables: Tables<'_>,
        batch: &Batch,
        results: &mut RowBuffer,
    ) -> DataFusionResult<Counters> {
        work::run(self, rows, tables, batch, results)
    }
}
