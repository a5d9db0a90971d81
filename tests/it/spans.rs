//! Where the time of a batch goes, for whoever collects the spans of `tracing`.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use crate::support::harness::{Job, Place, id_lines, session_in};

/// Keeps the names of all spans, each behind those that it is in.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<BTreeSet<String>>>);

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(
        &self,
        _: &tracing::span::Attributes<'_>,
        id: &tracing::span::Id,
        context: Context<'_, S>,
    ) {
        let scope = context.span_scope(id).unwrap().from_root();
        let of_here = scope.filter(|span| span.metadata().target().starts_with("tidemill"));
        let names: Vec<&str> = of_here.map(|span| span.name()).collect();
        if !names.is_empty() {
            self.0.lock().unwrap().insert(names.join("/"));
        }
    }
}

#[tokio::test]
async fn a_query_has_spans_of_batches_and_their_phases() {
    let spans = Spans::default();
    // Of one collector `tracing` asks in the thread that meets a place in the code first, which may be another test's.
    let _another = tracing::Dispatch::new(tracing_subscriber::registry());
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(spans.clone()));
    let place = Place::new();
    place.put("in/0.json", id_lines([1]));
    Job::new(&place).run(&session_in(1, Default::default())).await.unwrap();
    let expected = [
        "query",
        "query/batch",
        "query/batch/addBatch",
        "query/batch/addBatch/queryPlanning",
        "query/batch/commitOffsets",
        "query/batch/publish",
        "query/latestOffset",
        "query/walCommit",
    ];
    assert_eq!(*spans.0.lock().unwrap(), expected.map(String::from).into());
    assert_eq!(place.ids(), [1]);
}
