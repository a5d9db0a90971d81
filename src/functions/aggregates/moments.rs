//! Variances, covariances and what is made of them, put together without losing digits.
//!
//! DataFusion merges means as weighted sums, and correlates by sums of products: the variance of a
//! large constant is not 0 any more once its rows came in several batches.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Float64Type, UInt64Type};
use datafusion::common::{ScalarValue, internal_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::functions_aggregate::correlation::Correlation;
use datafusion::functions_aggregate::covariance::{CovariancePopulation, CovarianceSample};
use datafusion::functions_aggregate::regr::Regr;
use datafusion::functions_aggregate::stddev::{Stddev, StddevPop};
use datafusion::functions_aggregate::variance::{VariancePopulation, VarianceSample};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{Accumulator, AggregateUDFImpl, EmitTo, GroupsAccumulator};

use super::replacement::{Accumulation, Accumulators, Build};

/// What is computed of the moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Statistic {
    VariancePopulation,
    VarianceSample,
    DeviationPopulation,
    DeviationSample,
    CovariancePopulation,
    CovarianceSample,
    Correlation,
    Slope,
    Intercept,
    Count,
    R2,
    AverageX,
    AverageY,
    SumXx,
    SumYy,
    SumXy,
}

/// How `function` accumulates here, if it is one of DataFusion's that is made of moments.
pub(super) fn build(function: &dyn AggregateUDFImpl) -> Option<Build> {
    macro_rules! of {
        ($statistic:ident) => {
            Some(&Moment(Statistic::$statistic))
        };
    }
    if function.is::<VariancePopulation>() {
        return of!(VariancePopulation);
    } else if function.is::<VarianceSample>() {
        return of!(VarianceSample);
    } else if function.is::<StddevPop>() {
        return of!(DeviationPopulation);
    } else if function.is::<Stddev>() {
        return of!(DeviationSample);
    } else if function.is::<CovariancePopulation>() {
        return of!(CovariancePopulation);
    } else if function.is::<CovarianceSample>() {
        return of!(CovarianceSample);
    } else if function.is::<Correlation>() {
        return of!(Correlation);
    } else if !function.is::<Regr>() {
        return None;
    }
    match function.name() {
        "regr_slope" => of!(Slope),
        "regr_intercept" => of!(Intercept),
        "regr_count" => of!(Count),
        "regr_r2" => of!(R2),
        "regr_avgx" => of!(AverageX),
        "regr_avgy" => of!(AverageY),
        "regr_sxx" => of!(SumXx),
        "regr_syy" => of!(SumYy),
        "regr_sxy" => of!(SumXy),
        _ => None,
    }
}

#[derive(Debug)]
pub(super) struct Moment(Statistic);

impl Statistic {
    /// Whether it is one of a single column.
    fn is_of_one(self) -> bool {
        matches!(
            self,
            Statistic::VariancePopulation
                | Statistic::VarianceSample
                | Statistic::DeviationPopulation
                | Statistic::DeviationSample
        )
    }

    /// The name of each column of the state behind the count.
    fn columns(self) -> &'static [&'static str] {
        if self.is_of_one() { &["mean", "m2"] } else { &["mean_x", "mean_y", "m2_x", "m2_y", "c_xy"] }
    }

    fn of(self, moments: &Moments) -> Option<f64> {
        let Moments { count, x, y, xy } = *moments;
        let n = count as f64;
        let above = |least: u64, value: f64| (count > least).then_some(value);
        match self {
            Statistic::VariancePopulation => above(0, x.m2 / n),
            Statistic::VarianceSample => above(1, x.m2 / (n - 1.0)),
            Statistic::DeviationPopulation => above(0, (x.m2 / n).sqrt()),
            Statistic::DeviationSample => above(1, (x.m2 / (n - 1.0)).sqrt()),
            Statistic::CovariancePopulation => above(0, xy / n),
            Statistic::CovarianceSample => above(1, xy / (n - 1.0)),
            Statistic::Correlation => {
                above(1, xy / x.m2.sqrt() / y.m2.sqrt()).filter(|_| x.m2 != 0.0 && y.m2 != 0.0)
            }
            Statistic::Slope => above(1, xy / x.m2).filter(|_| x.m2 != 0.0),
            Statistic::Intercept => above(1, y.mean - xy / x.m2 * x.mean).filter(|_| x.m2 != 0.0),
            Statistic::Count => Some(n),
            Statistic::R2 => above(1, xy * xy / (x.m2 * y.m2)).filter(|_| x.m2 != 0.0 && y.m2 != 0.0),
            Statistic::AverageX => above(0, x.mean),
            Statistic::AverageY => above(0, y.mean),
            Statistic::SumXx => above(0, x.m2),
            Statistic::SumYy => above(0, y.m2),
            Statistic::SumXy => above(0, xy),
        }
    }

    fn values(self, moments: &[Moments]) -> ArrayRef {
        match self {
            Statistic::Count => Arc::new(UInt64Array::from_iter_values(moments.iter().map(|m| m.count))),
            _ => Arc::new(Float64Array::from_iter(moments.iter().map(|moments| self.of(moments)))),
        }
    }
}

impl Accumulation for Moment {
    fn state_fields(&self, args: &StateFieldsArgs) -> Option<Vec<FieldRef>> {
        let floats = args.input_fields.iter().all(|field| field.data_type() == &DataType::Float64);
        let arguments = if self.0.is_of_one() { 1 } else { 2 };
        if args.is_distinct || !floats || args.input_fields.len() != arguments {
            return None;
        }
        let field =
            |name: &str, data_type| Arc::new(Field::new(format_state_name(args.name, name), data_type, true));
        let mut fields = vec![field("count", DataType::UInt64)];
        fields.extend(self.0.columns().iter().map(|name| field(name, DataType::Float64)));
        Some(fields)
    }

    fn accumulators(&self, _: &AccumulatorArgs) -> DataFusionResult<Accumulators> {
        Ok(Accumulators {
            groups: Box::new(GroupMoments { statistic: self.0, groups: Vec::new() }),
            one: Box::new(OneMoments { statistic: self.0, moments: Moments::default() }),
        })
    }
}

/// The mean of a column, and the sum of the squares of what its values differ from it.
#[derive(Debug, Clone, Copy, Default)]
struct Spread {
    mean: f64,
    m2: f64,
}

/// The moments of the rows of a group that have all values.
#[derive(Debug, Clone, Copy, Default)]
struct Moments {
    count: u64,
    x: Spread,
    y: Spread,
    /// The sum of the products of what x and y differ from their means.
    xy: f64,
}

/// The mean of `n` values, of which the last are `weight` of all and have the mean `new`.
fn moved(mean: f64, new: f64, weight: f64) -> f64 {
    let delta = new - mean;
    if delta.is_finite() {
        mean + delta * weight
    } else if new.is_finite() && mean.is_finite() {
        mean * (1.0 - weight) + new * weight
    } else {
        mean + new
    }
}

impl Moments {
    fn add(&mut self, x: f64, y: f64) {
        self.count += 1;
        let n = self.count as f64;
        let (before_x, before_y) = (self.x.mean, self.y.mean);
        // Divided rather than multiplied by 1/n: the mean of one value is that value.
        let mean = |mean: f64, value: f64| match (value - mean) / n {
            step if step.is_finite() => mean + step,
            _ => moved(mean, value, 1.0 / n),
        };
        (self.x.mean, self.y.mean) = (mean(before_x, x), mean(before_y, y));
        self.x.m2 += (x - before_x) * (x - self.x.mean);
        self.y.m2 += (y - before_y) * (y - self.y.mean);
        self.xy += (x - before_x) * (y - self.y.mean);
    }

    fn merge(&mut self, other: &Moments) {
        if other.count == 0 {
            return;
        }
        if self.count == 0 {
            *self = *other;
            return;
        }
        let (mine, theirs) = (self.count as f64, other.count as f64);
        let weight = theirs / (mine + theirs);
        let (dx, dy) = (other.x.mean - self.x.mean, other.y.mean - self.y.mean);
        self.x.m2 += other.x.m2 + dx * dx * mine * weight;
        self.y.m2 += other.y.m2 + dy * dy * mine * weight;
        self.xy += other.xy + dx * dy * mine * weight;
        self.x.mean = moved(self.x.mean, other.x.mean, weight);
        self.y.mean = moved(self.y.mean, other.y.mean, weight);
        self.count += other.count;
    }
}

/// Calls `add` with every row that has all values, and passes `filter`.
fn each_row(
    statistic: Statistic,
    values: &[ArrayRef],
    filter: Option<&BooleanArray>,
    mut add: impl FnMut(usize, f64, f64),
) {
    // The dependent variable of a regression comes first.
    let x = values[values.len() - 1].as_primitive::<Float64Type>();
    let y = values[0].as_primitive::<Float64Type>();
    for row in 0..x.len() {
        let passes = filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
        if passes && x.is_valid(row) && y.is_valid(row) {
            add(row, x.value(row), if statistic.is_of_one() { 0.0 } else { y.value(row) });
        }
    }
}

/// Calls `merge` with the moments in each row of the columns of a state.
fn each_state(
    statistic: Statistic,
    states: &[ArrayRef],
    mut merge: impl FnMut(usize, &Moments),
) -> DataFusionResult<()> {
    let [counts, rest @ ..] = states else { return internal_err!("moments without a count") };
    if rest.len() != statistic.columns().len() {
        return internal_err!("moments of {} columns", states.len());
    }
    let counts = counts.as_primitive::<UInt64Type>();
    let columns: Vec<_> = rest.iter().map(|column| column.as_primitive::<Float64Type>()).collect();
    for (row, count) in counts.iter().enumerate() {
        let Some(count) = count.filter(|count| *count > 0) else { continue };
        let value = |column: usize| columns[column].value(row);
        let moments = match statistic.is_of_one() {
            true => Moments { count, x: Spread { mean: value(0), m2: value(1) }, ..Moments::default() },
            false => Moments {
                count,
                x: Spread { mean: value(0), m2: value(2) },
                y: Spread { mean: value(1), m2: value(3) },
                xy: value(4),
            },
        };
        merge(row, &moments);
    }
    Ok(())
}

/// The columns of the state of `groups`.
fn state_of(statistic: Statistic, groups: &[Moments]) -> Vec<ArrayRef> {
    let column = |value: fn(&Moments) -> f64| {
        Arc::new(Float64Array::from_iter_values(groups.iter().map(value))) as ArrayRef
    };
    let counts = Arc::new(UInt64Array::from_iter_values(groups.iter().map(|moments| moments.count)));
    let mut columns: Vec<ArrayRef> = vec![counts, column(|moments| moments.x.mean)];
    if statistic.is_of_one() {
        columns.push(column(|moments| moments.x.m2));
    } else {
        columns.push(column(|moments| moments.y.mean));
        columns.push(column(|moments| moments.x.m2));
        columns.push(column(|moments| moments.y.m2));
        columns.push(column(|moments| moments.xy));
    }
    columns
}

#[derive(Debug)]
struct GroupMoments {
    statistic: Statistic,
    groups: Vec<Moments>,
}

impl GroupsAccumulator for GroupMoments {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> DataFusionResult<()> {
        self.groups.resize(total, Moments::default());
        each_row(self.statistic, values, filter, |row, x, y| self.groups[groups[row]].add(x, y));
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> DataFusionResult<()> {
        self.groups.resize(total, Moments::default());
        each_state(self.statistic, states, |row, moments| self.groups[groups[row]].merge(moments))
    }

    fn state(&mut self, emit: EmitTo) -> DataFusionResult<Vec<ArrayRef>> {
        Ok(state_of(self.statistic, &emit.take_needed(&mut self.groups)))
    }

    fn evaluate(&mut self, emit: EmitTo) -> DataFusionResult<ArrayRef> {
        Ok(self.statistic.values(&emit.take_needed(&mut self.groups)))
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> DataFusionResult<Vec<ArrayRef>> {
        let mut rows = vec![Moments::default(); values[0].len()];
        each_row(self.statistic, values, filter, |row, x, y| rows[row].add(x, y));
        Ok(state_of(self.statistic, &rows))
    }

    fn size(&self) -> usize {
        self.groups.capacity() * size_of::<Moments>()
    }
}

#[derive(Debug)]
struct OneMoments {
    statistic: Statistic,
    moments: Moments,
}

impl Accumulator for OneMoments {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DataFusionResult<()> {
        each_row(self.statistic, values, None, |_, x, y| self.moments.add(x, y));
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DataFusionResult<()> {
        each_state(self.statistic, states, |_, moments| self.moments.merge(moments))
    }

    fn state(&mut self) -> DataFusionResult<Vec<ScalarValue>> {
        let columns = state_of(self.statistic, &[self.moments]);
        columns.iter().map(|column| ScalarValue::try_from_array(column, 0)).collect()
    }

    fn evaluate(&mut self) -> DataFusionResult<ScalarValue> {
        ScalarValue::try_from_array(&self.statistic.values(&[self.moments]), 0)
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}
