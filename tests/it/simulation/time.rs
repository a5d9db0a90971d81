//! Simulated time. It stands while anything can still be done, and then jumps to whatever comes
//! next: one event at a time, in an order that depends on nothing but what was asked for.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tidemill::clock::Clock;
use tokio::sync::{Notify, oneshot};

/// What the clock says at the beginning, in milliseconds.
const START_MS: i64 = 1_700_000_000_000;

/// How often everybody has to have nothing to do before time goes on: a job of a blocking thread may
/// wake a task that starts the next one.
const ROUNDS: usize = 3;

/// The clock of a simulation. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Time(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    parks: AtomicU64,
    parked: Notify,
}

#[derive(Debug, Default)]
struct State {
    now_us: u64,
    /// How far the time of day has been set forth, or back.
    set_by_ms: i64,
    /// Who waits, by when it is their turn. Names make the order of those that wait for the same moment
    /// independent of who came first.
    waiting: BTreeMap<(u64, String, u64), oneshot::Sender<()>>,
    waits: u64,
}

impl Time {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Microseconds since the beginning.
    pub fn now_us(&self) -> u64 {
        self.state().now_us
    }

    /// Sets the time of day so far from what it would be if nobody had ever set it.
    pub fn set_clock(&self, by_ms: i64) {
        self.state().set_by_ms = by_ms;
    }

    /// Returns after that many microseconds.
    pub async fn wait(&self, micros: u64, who: &str) {
        let turn = {
            let mut state = self.state();
            state.waits += 1;
            let key = (state.now_us + micros, who.to_string(), state.waits);
            let (wake, turn) = oneshot::channel();
            state.waiting.insert(key, wake);
            turn
        };
        let _ = turn.await;
    }

    /// Returns when the thread has run out of work since the call.
    async fn idle(&self) {
        let before = self.0.parks.load(Ordering::SeqCst);
        while self.0.parks.load(Ordering::SeqCst) == before {
            self.0.parked.notified().await;
        }
    }

    /// Lets time go on for ever.
    async fn drive(&self) {
        let mut still = 0;
        loop {
            for _ in 0..ROUNDS {
                self.idle().await;
                // There is one blocking thread: what was asked of it before is done when this is.
                tokio::task::spawn_blocking(|| ()).await.unwrap();
            }
            self.idle().await;
            let next = {
                let mut state = self.state();
                let next = state.waiting.pop_first();
                if let Some(((due, ..), _)) = &next {
                    state.now_us = state.now_us.max(*due);
                }
                next
            };
            match next {
                // Whoever waited may have given up.
                Some((_, wake)) => {
                    still = 0;
                    let _ = wake.send(());
                }
                // Blocking threads may be at work for long.
                None => still += 1,
            }
            assert!(still < 500, "the simulation stands still at {} us", self.now_us());
        }
    }
}

#[async_trait]
impl Clock for Time {
    fn now_ms(&self) -> i64 {
        let state = self.state();
        START_MS + (state.now_us / 1000) as i64 + state.set_by_ms
    }

    fn elapsed(&self) -> Duration {
        Duration::from_micros(self.now_us())
    }

    async fn sleep(&self, duration: Duration) {
        self.wait(duration.as_micros() as u64, "clock").await;
    }
}

/// Runs `story` in a time of its own, on this thread.
pub fn simulate<F: Future>(story: impl FnOnce(Time) -> F) -> F::Output {
    let time = Time::default();
    let parking = time.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(1)
        .on_thread_park(move || {
            parking.0.parks.fetch_add(1, Ordering::SeqCst);
            parking.0.parked.notify_one();
        })
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::select! {
            biased;
            out = story(time.clone()) => out,
            () = time.drive() => unreachable!("time does not end"),
        }
    })
}

#[test]
fn time_jumps_in_order_and_waits_for_work_on_other_threads() {
    let order = simulate(|time| async move {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = tokio::task::JoinSet::new();
        for (delay, name) in [(30, "c"), (10, "a"), (10, "b"), (3_600_000_000, "d")] {
            let (time, order) = (time.clone(), Arc::clone(&order));
            tasks.spawn(async move {
                time.wait(delay, name).await;
                let work = || std::thread::sleep(Duration::from_millis(5));
                tokio::task::spawn_blocking(work).await.unwrap();
                order.lock().unwrap().push((time.now_us(), name));
            });
        }
        tasks.join_all().await;
        std::mem::take(&mut *order.lock().unwrap())
    });
    assert_eq!(order, [(10, "a"), (10, "b"), (30, "c"), (3_600_000_000, "d")]);
}
