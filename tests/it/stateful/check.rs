//! Compares what a query gave with what the interpreter gives, batch by batch.

use serde_json::Value as Json;
use tidemill::OutputMode;

use super::interpreter::Interpreter;
use super::model::Rel;
use super::queries::Spec;
use super::rig::World;
use super::values::{Row, agree, same_rows};
use crate::support::committed::{commits, record};

/// Compares a query's batches with the interpreter's, in order, each once. Which rows are in a batch
/// comes from the checkpoint, for a crash may move that; all else is computed.
pub struct Checker {
    pub interpreter: Interpreter,
    /// How much of each stream was read.
    read: Vec<usize>,
    /// The next batch to check.
    next: u64,
}

impl Checker {
    pub fn new(spec: &Spec) -> Self {
        let interpreter = Interpreter::new(&spec.rel, spec.mode, spec.delays.as_deref(), spec.take_greatest);
        Self { interpreter, read: vec![0, 0], next: 0 }
    }

    /// How many batches were checked.
    pub fn batches(&self) -> u64 {
        self.next
    }

    /// Checks the batches that came since the last check.
    fn check(&mut self, world: &World) -> Result<(), String> {
        let checkpoint = world.folder.path().join("checkpoint");
        let committed = commits(&checkpoint).last().map_or(0, |last| last + 1);
        while self.next < committed {
            let offsets = record(&checkpoint.join(format!("offsets/{}", self.next)));
            self.check_next(world, &offsets)?;
        }
        Ok(())
    }

    /// Checks the next batch, whose record in the checkpoint is or was `offsets`.
    pub fn check_next(&mut self, world: &World, offsets: &Json) -> Result<(), String> {
        let published = world.sink.published();
        let number = self.next;
        let (_, found) = published.get(&number).ok_or_else(|| format!("batch {number} was not published"))?;
        self.batch(world, offsets, found)?;
        self.next += 1;
        Ok(())
    }

    /// Checks the batches that came since the last check, when the query has done all there is to do.
    pub fn check_all(&mut self, world: &World) -> Result<(), String> {
        self.check(world)?;
        self.check_done(world)
    }

    /// Fails if there should have been further batches: something was fed that none has read, or the
    /// watermark has made something final, whatever has been stopped or crashed since.
    pub fn check_done(&self, world: &World) -> Result<(), String> {
        if self.interpreter.goes_on() {
            return Err(format!("no batch without rows after batch {}", self.next - 1));
        }
        if world.spec.rel.streams().iter().any(|stream| self.read[*stream] < world.fed[*stream].len()) {
            return Err(format!("{:?} was read of {:?}", self.read, world.fed));
        }
        Ok(())
    }

    fn batch(&mut self, world: &World, offsets: &Json, found: &[Row]) -> Result<(), String> {
        let (rows, was_fed) = self.rows(world, offsets);
        let text = |problem: String| format!("batch {} of {rows:?}: {problem}", self.next);
        if !was_fed && !self.interpreter.goes_on() {
            return Err(text("there was nothing to do".into()));
        }
        let expected = self.interpreter.batch(&rows);
        let watermark = offsets["batchWatermarkMs"].as_i64().unwrap();
        if world.spec.delays.is_some() && watermark != self.interpreter.watermark_ms() {
            return Err(text(format!("watermark {watermark}, not {}", self.interpreter.watermark_ms())));
        }
        compare(&world.spec, found, &expected).map_err(text)
    }

    /// The rows of a batch, per stream, and whether the streams had moved at all.
    fn rows(&mut self, world: &World, offsets: &Json) -> (Vec<Vec<Row>>, bool) {
        let mut rows = vec![vec![], vec![]];
        let mut was_fed = false;
        for (index, stream) in world.spec.rel.streams().into_iter().enumerate() {
            let end = offsets["sources"][index]["end"].as_u64().unwrap_or(0) as usize;
            was_fed |= end > self.read[stream];
            rows[stream] = world.fed[stream][self.read[stream]..end].concat();
            self.read[stream] = end;
        }
        (rows, was_fed)
    }
}

/// Compares rows; their order, too, if the query asks for one.
pub fn compare(spec: &Spec, found: &[Row], expected: &[Row]) -> Result<(), String> {
    let same = match (&spec.rel, spec.mode) {
        (Rel::Sort(..), OutputMode::Complete) => {
            found.len() == expected.len()
                && found.iter().zip(expected).all(|(a, b)| a.iter().zip(b).all(|(a, b)| agree(a, b)))
        }
        _ => same_rows(found, expected),
    };
    match same {
        true => Ok(()),
        false => Err(format!("\n   found {found:?}\nexpected {expected:?}")),
    }
}
