//! Functions that are accumulators to us: those of users, and those that keep every value.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray};
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::{Accumulator, Volatility, create_udaf};
use tidemill::prelude::*;

use crate::support::harness::{Job, Place, id_lines, session};

/// The sum of the squares, by rows alone: users rarely write more than DataFusion asks for.
#[derive(Debug, Default)]
struct SumOfSquares(i64);

impl Accumulator for SumOfSquares {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.0 +=
            values[0].as_primitive::<Int64Type>().iter().flatten().map(|value| value * value).sum::<i64>();
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.0 += states[0].as_primitive::<Int64Type>().iter().flatten().sum::<i64>();
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Int64(Some(self.0))])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Int64(Some(self.0)))
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}

/// A session that knows the function.
fn with_function() -> Session {
    let session = session();
    let number = DataType::Int64;
    session.context().register_udaf(create_udaf(
        "sum_of_squares",
        vec![number.clone()],
        Arc::new(number.clone()),
        Volatility::Immutable,
        Arc::new(|_| Ok(Box::new(SumOfSquares::default()))),
        Arc::new(vec![number]),
    ));
    session
}

#[tokio::test]
async fn functions_of_users_go_on_after_restarts() {
    let place = Place::new();
    let job = Job::new(&place).format("memory").name("out").out(None).mode(OutputMode::Complete).sql(
        "SELECT id % 3 AS k, sum_of_squares(id) AS n, sum_of_squares(DISTINCT id % 10) AS d, \
         sum_of_squares(id) FILTER (WHERE id > 50) AS f FROM input GROUP BY id % 3",
    );
    for run in 0..4_i64 {
        place.put(&format!("in/{run}.json"), id_lines(run * 30..(run + 1) * 30));
        let session = with_function();
        job.run(&session).await.unwrap();
        let found = session.context().sql("SELECT * FROM out ORDER BY k").await.unwrap();
        let found = found.collect().await.unwrap();
        for (row, k) in (0..3_i64).enumerate() {
            let ids = || (0..(run + 1) * 30).filter(move |id| id % 3 == k);
            let digits: BTreeSet<i64> = ids().map(|id| id % 10).collect();
            let expected = [k, squares(ids()), squares(digits), squares(ids().filter(|id| *id > 50))];
            let columns = found[0].columns().iter();
            let columns: Vec<i64> =
                columns.map(|column| column.as_primitive::<Int64Type>().value(row)).collect();
            assert_eq!(columns, expected, "group {k}, run {run}");
        }
    }
}

fn squares(numbers: impl IntoIterator<Item = i64>) -> i64 {
    numbers.into_iter().map(|number| number * number).sum()
}

/// What is written per batch is what is new, however much the group has by then.
#[tokio::test]
async fn functions_that_keep_every_value_write_only_the_new_ones() {
    // Fewer files than are merged.
    const BATCHES: i64 = 10;
    for function in [
        "array_agg(id)",
        "median(id)",
        "array_agg(id ORDER BY id DESC)",
        "string_agg(CAST(id AS VARCHAR), ',')",
    ] {
        let place = Place::new();
        for batch in 0..BATCHES {
            let scattered = (0..500).map(|row| (batch * 500 + row) * 7919 % 10_007);
            place.put(&format!("in/{batch}.json"), id_lines(scattered));
        }
        let sql = format!("SELECT {function} AS a FROM input");
        let job = Job::new(&place).format("noop").out(None).mode(OutputMode::Update).sql(&sql);
        job.files_per_trigger(1).run(&session()).await.unwrap();
        let mut files: Vec<_> =
            std::fs::read_dir(place.path("checkpoint/state")).unwrap().map(Result::unwrap).collect();
        files.sort_by_key(std::fs::DirEntry::file_name);
        let bytes: Vec<u64> = files.iter().map(|file| file.metadata().unwrap().len()).collect();
        assert_eq!(bytes.len() as i64, BATCHES, "{function}: {files:?}");
        let (first, last) = (bytes[0], bytes[bytes.len() - 1]);
        assert!(first > 1_000 && last < 2 * first, "{function}: {bytes:?}");
    }
}
