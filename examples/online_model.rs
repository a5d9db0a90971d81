//! A model that learns while rows arrive: `cargo run --release --example online_model`.
//!
//! Linear regression by stochastic gradient descent in `foreach_batch`. Each batch is first predicted with what was
//! learnt before it, then learnt from, so that the errors that are printed are of rows which the model had not
//! seen. The model is kept together with the number of the batch, written by a rename: a batch that comes again
//! after a crash is passed over, and is learnt from once.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidemill::arrow::array::{AsArray, Float64Array, RecordBatch};
use tidemill::arrow::datatypes::Float64Type;
use tidemill::prelude::*;
use tidemill::serde_json::{self, Value, json};
use tidemill::source::memory::MemoryStream;
use tidemill::{Error, Result, StreamTable};

/// How far each row moves the weights.
const RATE: f64 = 0.05;

/// `y ≈ weights[0] + weights[1] · a + weights[2] · b`, and what it was learnt from.
#[derive(Debug, Clone, Default)]
pub struct Model {
    pub weights: [f64; 3],
    /// The last batch that it has learnt from, and the mean square of the errors in each so far.
    pub batch: Option<u64>,
    pub errors: Vec<f64>,
}

impl Model {
    /// The model at `path`; a new one if there is none.
    pub fn load(path: &Path) -> Result<Self> {
        let Ok(text) = std::fs::read_to_string(path) else { return Ok(Self::default()) };
        let value: Value = serde_json::from_str(&text).map_err(Error::other)?;
        let numbers = |name: &str| -> Vec<f64> {
            value[name].as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
        };
        let weights = numbers("weights").try_into().unwrap_or_default();
        Ok(Self { weights, batch: value["batch"].as_u64(), errors: numbers("errors") })
    }

    fn save(&self, path: &Path) -> Result<()> {
        let text = json!({ "weights": self.weights, "batch": self.batch, "errors": self.errors }).to_string();
        let staged = path.with_extension("staged");
        std::fs::write(&staged, text).map_err(Error::other)?;
        std::fs::rename(staged, path).map_err(Error::other)
    }

    /// Predicts a row, and learns from it; gives the error of the prediction.
    fn learn(&mut self, a: f64, b: f64, y: f64) -> f64 {
        let inputs = [1.0, a, b];
        let predicted: f64 = self.weights.iter().zip(inputs).map(|(weight, input)| weight * input).sum();
        let error = predicted - y;
        for (weight, input) in self.weights.iter_mut().zip(inputs) {
            *weight -= RATE * error * input;
        }
        error
    }
}

/// Learns from one batch of the columns `a`, `b` and `y`.
pub async fn learn(path: PathBuf, batch: u64, rows: DataFrame) -> Result<()> {
    let mut model = Model::load(&path)?;
    if model.batch.is_some_and(|last| last >= batch) {
        return Ok(());
    }
    let (mut squares, mut count) = (0.0, 0.0);
    for rows in rows.select_columns(&["a", "b", "y"])?.collect().await? {
        let column = |index: usize| rows.column(index).as_primitive::<Float64Type>().values();
        for ((a, b), y) in column(0).iter().zip(column(1)).zip(column(2)) {
            squares += model.learn(*a, *b, *y).powi(2);
            count += 1.0;
        }
    }
    if count > 0.0 {
        model.errors.push(squares / count);
    }
    model.batch = Some(batch);
    model.save(&path)
}

/// Measurements of something that follows `y = 1 + 2 a - 3 b`, with a little noise.
pub fn measurements(batch: u64, rows: u64) -> Result<RecordBatch> {
    let mut state = batch * 7_919 + 1;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / (1_u64 << 31) as f64
    };
    let (mut a, mut b, mut y) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rows {
        let (one, other, noise) = (random(), random(), random() - 0.5);
        y.push(1.0 + 2.0 * one - 3.0 * other + 0.02 * noise);
        a.push(one);
        b.push(other);
    }
    let column = |values| Arc::new(Float64Array::from(values)) as _;
    Ok(RecordBatch::try_from_iter([("a", column(a)), ("b", column(b)), ("y", column(y))])?)
}

#[tokio::main]
async fn main() -> Result<()> {
    let folder = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "out/online_model".into()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).map_err(Error::other)?;
    let path = folder.join("model.json");
    let stream = MemoryStream::new(measurements(0, 0)?.schema());
    let session = Session::new();
    let rows = session.context().read_table(Arc::new(StreamTable::new(Arc::new(stream.clone()))))?;
    let model = path.clone();
    let query = rows
        .write_stream()
        .foreach_batch(move |rows, batch| learn(model.clone(), batch, rows))
        .option("checkpointLocation", folder.join("checkpoint").display())
        .start(None)
        .await?;
    for batch in 0..10 {
        stream.add_data(measurements(batch, 200)?)?;
        query.process_all_available().await?;
    }
    query.stop(StopMode::Finish).await?;
    let model = Model::load(&path)?;
    for (batch, error) in model.errors.iter().enumerate() {
        println!("batch {batch}: mean square error {error:.6}");
    }
    println!("y = {:.2} + {:.2} a + {:.2} b", model.weights[0], model.weights[1], model.weights[2]);
    let falls = model.errors.last() < model.errors.first();
    if falls { Ok(()) } else { Err(Error::Invalid("the model has learnt nothing".into())) }
}
