//! `tidemill state`

use datafusion::common::Column;
use datafusion::prelude::{DataFrame, Expr, col, lit};
use tidemill::Session;

use super::ProgressMode;
use super::exit::Exit;
use super::monitor::Monitor;
use super::output::{Format, Printer};

/// Prints what changed in the state from after the batch `from` to after the batch `to`, of `operator` or of all: rows that
/// are gone with `-`, rows that are new with `+`, each as often as that. A row that has changed is both.
pub(super) async fn diff(
    checkpoint: &str,
    operator: Option<usize>,
    (from, to): (u64, u64),
    format: Format,
) -> Result<(), Exit> {
    let session = Session::new();
    let printer = Printer::new(Monitor::new(ProgressMode::None), format);
    let before = session.stored_state(checkpoint, Some(from)).await?;
    let after = session.stored_state(checkpoint, Some(to)).await?;
    let operators = match operator {
        Some(operator) => operator..operator + 1,
        None => 0..before.operators()?.num_rows(),
    };
    if operators.len() != 1 && format != Format::Table {
        let advice = "several operators have several kinds of rows: name one with --operator".to_string();
        return Err(Exit::usage(advice));
    }
    for operator in operators {
        let read = |table| session.context().read_table(table).map_err(tidemill::Error::from);
        let frames = (read(before.table(operator)?)?, read(after.table(operator)?)?);
        let changes = changes(frames.0, frames.1).map_err(tidemill::Error::from)?;
        if format == Format::Table {
            let title = format!("operator {operator}:\n");
            printer.text(&title).map_err(|error| Exit::output(&error))?;
        }
        printer.rows(changes).await?;
    }
    Ok(())
}

fn changes(before: DataFrame, after: DataFrame) -> datafusion::error::Result<DataFrame> {
    let columns: Vec<Expr> = before
        .schema()
        .fields()
        .iter()
        .map(|field| Expr::Column(Column::new_unqualified(field.name())))
        .collect();
    let marked = |frame: DataFrame, mark: &str| {
        let mark = std::iter::once(lit(mark).alias("change"));
        let columns = frame.schema().columns().into_iter().map(Expr::Column);
        let all: Vec<Expr> = mark.chain(columns).collect();
        frame.select(all)
    };
    let gone = marked(before.clone().except(after.clone())?, "-")?;
    let new = marked(after.except(before)?, "+")?;
    let mut order: Vec<_> = columns.into_iter().map(|column| column.sort(true, true)).collect();
    order.push(col("change").sort(false, true));
    gone.union(new)?.sort(order)
}

/// Prints what the query of a checkpoint remembered after `batch`, or after the last one: of
/// `operator` its rows, or of all how many there are.
pub(super) async fn run(
    checkpoint: &str,
    operator: Option<usize>,
    batch: Option<u64>,
    format: Format,
) -> Result<(), Exit> {
    let session = Session::new();
    let printer = Printer::new(Monitor::new(ProgressMode::None), format);
    let state = session.stored_state(checkpoint, batch).await?;
    if let Some(operator) = operator {
        let rows = session.context().read_table(state.table(operator)?).map_err(tidemill::Error::from)?;
        printer.rows(rows).await?;
        return Ok(());
    }
    printer.batches(&[state.operators()?])?;
    if format != Format::Table {
        return Ok(());
    }
    let (batch, files, bytes) = (state.batch_id(), state.files(), state.bytes());
    let total = format!("after batch {batch}: {files} files, {bytes} bytes\n");
    printer.text(&total).map_err(|error| Exit::output(&error))
}
