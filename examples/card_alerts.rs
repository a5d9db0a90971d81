//! Alerts about cards: `cargo run --release --example card_alerts`.
//!
//! Payments come as files of JSON. A card is suspicious when more than 1500 is paid with it within ten minutes,
//! or when it is used in two cities within ten minutes. The alert is there with the payment that shows it, once
//! per card and ten minutes. What is remembered of a card is forgotten when it is too old to matter.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidemill::Result;
use tidemill::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use tidemill::prelude::*;
use tidemill::processor::{Call, ListState, Rows, StateVariables, Timestamp, ValueState};

const RECENTLY: Duration = Duration::from_secs(600);
const LIMIT: f64 = 1500.0;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Payment {
    pub time: Timestamp,
    pub amount: f64,
    pub city: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    pub card: String,
    pub time: Timestamp,
    pub reason: String,
}

pub struct CardAlerts;

/// What is remembered of a card.
pub struct Card {
    recent: ListState<Payment>,
    quiet_until: ValueState<Timestamp>,
}

impl StatefulProcessor for CardAlerts {
    type Key = String;
    type Input = Payment;
    type Output = Alert;
    type State = Card;

    fn init(&self, variables: &mut StateVariables) -> Result<Card> {
        Ok(Card { recent: variables.list("recent")?, quiet_until: variables.value("quiet_until")? })
    }

    fn handle_input_rows(
        &self,
        card: &Card,
        rows: Rows<'_, Payment>,
        call: &mut Call<'_, Self>,
    ) -> Result<()> {
        let mut recent = card.recent.get(call)?;
        for payment in rows {
            let payment = payment?;
            card.recent.append(call, &payment)?;
            call.register_timer(payment.time + RECENTLY)?;
            recent.push(payment.clone());
            // Payments come a little out of order.
            let near = |other: &&Payment| {
                let (one, other) = (payment.time, other.time);
                one.since(other).max(other.since(one)) <= RECENTLY
            };
            let near: Vec<&Payment> = recent.iter().filter(near).collect();
            let paid: f64 = near.iter().map(|payment| payment.amount).sum();
            let elsewhere = near.iter().find(|other| other.city != payment.city);
            let reason = match elsewhere {
                Some(other) => format!("in {} and in {}", other.city, payment.city),
                None if paid > LIMIT => format!("{} payments of {paid:.2}", near.len()),
                None => continue,
            };
            if card.quiet_until.get(call)?.is_some_and(|until| payment.time < until) {
                continue;
            }
            card.quiet_until.update(call, &(payment.time + RECENTLY))?;
            let alert = Alert { card: call.key().clone(), time: payment.time, reason };
            call.emit(&alert)?;
        }
        Ok(())
    }

    /// No payment comes any more to which one of this time matters.
    fn handle_expired_timer(&self, card: &Card, time: Timestamp, call: &mut Call<'_, Self>) -> Result<()> {
        card.recent.retain(call, |payment| payment.time + RECENTLY > time)?;
        if card.quiet_until.get(call)?.is_some_and(|until| until <= time) {
            card.quiet_until.clear(call);
        }
        Ok(())
    }
}

fn schema(columns: &[(&str, DataType)]) -> SchemaRef {
    let field = |(name, kind): &(&str, DataType)| Field::new(*name, kind.clone(), true);
    Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
}

/// The query over the payments in a directory: `card`, `time` and `reason`.
pub async fn alerts(session: &Session, payments: &str) -> Result<DataFrame> {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    let columns = [
        ("card", DataType::Utf8),
        ("time", time.clone()),
        ("amount", DataType::Float64),
        ("city", DataType::Utf8),
    ];
    let payments = session
        .read_stream()
        .format("json")
        .schema(schema(&columns))
        .option("maxFilesPerTrigger", 1)
        .load(payments)
        .await?
        .with_watermark("time", "2 minutes")?;
    let alerts = schema(&[("card", DataType::Utf8), ("time", time), ("reason", DataType::Utf8)]);
    payments.transform_with_state(&["card"], alerts, CardAlerts, TimeMode::EventTime, OutputMode::Append)
}

#[tokio::main]
async fn main() -> Result<()> {
    let session = Session::new();
    let alerts = alerts(&session, "examples/data/cards").await?;
    let query = alerts.write_stream().format("console").trigger(Trigger::AvailableNow).start(None).await?;
    query.await_termination().await
}
