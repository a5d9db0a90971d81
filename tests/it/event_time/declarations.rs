//! Declaring watermarks and deduplication on data frames.

use std::time::Duration;

use tidemill::prelude::*;

async fn stream(session: &Session) -> DataFrame {
    session.read_stream().format("rate").load(None).await.unwrap()
}

fn plan_text(frame: &DataFrame) -> String {
    frame.logical_plan().display_indent().to_string()
}

#[tokio::test]
async fn watermarks_are_declared_on_timestamps_once() {
    let session = Session::new();
    let stream = stream(&session).await;
    let nested =
        stream.clone().select(vec![col("value"), named_struct(vec![lit("t"), col("timestamp")]).alias("s")]);
    let nested = nested.unwrap();
    for (result, expected) in [
        (
            stream.clone().with_watermark("timestmap", "1 minute"),
            "there is no column 'timestmap'; did you mean 'timestamp'?",
        ),
        (
            stream.clone().with_watermark("when", "1 minute"),
            "there is no column 'when'. The columns are timestamp, value",
        ),
        (
            stream.clone().with_watermark("value", "1 minute"),
            "column 'value' cannot be the event time: it is a Int64, not a TIMESTAMP. Make a column of timestamps \
             of it first, with CAST, to_timestamp or to_timestamp_millis",
        ),
        (
            nested.with_watermark("s.t", "1 minute"),
            "'s.t' is inside column 's': select it as a column of its own first",
        ),
        (
            stream.clone().with_watermark("timestamp", "-1 minute"),
            "option 'delay' = '-1 minute' is not valid: a watermark cannot be ahead of the newest row: the delay \
             must not be negative",
        ),
        (
            stream.clone().with_watermark("timestamp", "soon"),
            "option 'delay' = 'soon' is not valid: expected a length of time such as '10 minutes', '1 hour 30 \
             seconds' or '2 months'",
        ),
        (
            (stream.clone().with_watermark("timestamp", "1 minute"))
                .and_then(|frame| Ok(frame.filter(col("value").gt(lit(1)))?))
                .and_then(|frame| frame.with_watermark("timestamp", "2 minutes")),
            "a watermark on 'timestamp' is declared over rows that have one on 'timestamp' already: a stream's \
             watermark is declared once, at its source. Remove one of the two",
        ),
        (stream.clone().drop_duplicates(&["valeu"]), "there is no column 'valeu'; did you mean 'value'?"),
        (
            stream.clone().drop_duplicates_within_watermark(&["value"]),
            "drop_duplicates_within_watermark cannot run as a streaming query: its input has no watermark, so \
             that nothing says for how long a row is to be remembered. Declare one with with_watermark or \
             WATERMARK FOR, and keep the event-time column in the rows",
        ),
    ] {
        assert_eq!(result.unwrap_err().to_string(), expected);
    }
}

#[tokio::test]
async fn explain_shows_what_was_declared() {
    let session = Session::new();
    let frame = stream(&session).await.with_watermark("timestamp", Duration::from_secs(90)).unwrap();
    assert!(
        plan_text(&frame).starts_with("EventTimeWatermark: timestamp, 1 minute 30 seconds"),
        "{}",
        plan_text(&frame)
    );
    let once = frame.clone().drop_duplicates(&["value"]).unwrap();
    assert!(plan_text(&once).starts_with("Deduplicate: [value]\n"), "{}", plan_text(&once));
    let once = frame.drop_duplicates_within_watermark(&[]).unwrap();
    assert!(
        plan_text(&once).starts_with("Deduplicate: [timestamp, value], within watermark\n"),
        "{}",
        plan_text(&once)
    );
}
