//! Many worlds, on all processors, each by itself.

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, Once};
use std::thread;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Report};
use crate::plan::Plan;
use crate::worlds::World;

/// A seed whose world broke a promise.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// The kind of world.
    pub world: World,
    /// What was broken, and how.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {} of world {}: {}\n  replay: cargo run --release -p simulation -- --world {} --seed {} --trace",
            self.seed, self.world, self.what, self.world, self.seed
        )
    }
}

/// What many worlds were like.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Worlds that ran.
    pub seeds: u64,
    /// How many of each kind, in the order of [`World::ALL`].
    pub worlds: [u64; World::ALL.len()],
    /// Sums over all of them.
    pub total: Report,
    /// Those that failed; at most the first few.
    pub failures: Vec<Failure>,
}

/// More failures than this say nothing new.
const FAILURES_MAX: usize = 20;

impl Summary {
    fn add(&mut self, world: World, result: Result<Report, Failure>) {
        self.seeds += 1;
        self.worlds[world as usize] += 1;
        match result {
            Ok(report) => {
                let total = &mut self.total;
                for (sum, number) in [
                    (&mut total.events, report.events),
                    (&mut total.crashes, report.crashes),
                    (&mut total.partitions, report.partitions),
                    (&mut total.configurations, report.configurations),
                    (&mut total.copies, report.copies),
                    (&mut total.chosen, report.chosen),
                    (&mut total.failed, report.failed),
                    (&mut total.unknown, report.unknown),
                    (&mut total.barriers, report.barriers),
                    (&mut total.refused, report.refused),
                    (&mut total.slots, report.slots),
                    (&mut total.stops, report.stops),
                    (&mut total.segments_used_again, report.segments_used_again),
                    (&mut total.laggards_files, report.laggards_files),
                ] {
                    *sum += number;
                }
                total.faults.add(&report.faults);
            }
            Err(failure) => self.failures.push(failure),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { events, crashes, partitions, configurations, copies, stops, .. } = self.total;
        let Report { chosen, failed, unknown, barriers, refused, segments_used_again, laggards_files, .. } = self.total;
        write!(
            f,
            "{} seeds, {} failed: {events} events, {crashes} crashes, {partitions} partitions, \
             {configurations} configurations, {copies} state copies, {stops} groups stopped for want of a good copy; \
             operations: {chosen} chosen, {failed} failed, {unknown} unknown; reads: {barriers} answered, {refused} refused; \
             real logs: {segments_used_again} segments used again, {laggards_files} files for laggards",
            self.seeds,
            self.failures.len()
        )
    }
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A panic inside a core (a broken assertion) is a finding like any other, told with its place.
fn catch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let in_world = PANIC.with_borrow_mut(|place| match place {
                Some(place) => {
                    *place = info.location().map(ToString::to_string).unwrap_or_default();
                    true
                }
                None => false,
            });
            if !in_world {
                previous(info);
            }
        }));
    });
}

fn message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

/// Runs the world of one seed; of the kind that the seed makes, unless said.
pub fn run_seed(seed: u64, world: Option<World>, trace: bool) -> Result<Report, Failure> {
    catch_panics();
    PANIC.set(Some(String::new()));
    let world = world.unwrap_or_else(|| World::of_seed(seed));
    let result = panic::catch_unwind(AssertUnwindSafe(|| Cluster::new(Plan::of_seed(seed, world), trace).run()));
    let place = PANIC.take().unwrap_or_default();
    let what = match result {
        Ok(Ok(report)) => return Ok(report),
        Ok(Err(violation)) => violation.to_string(),
        Err(payload) => format!("panic at {place}: {}", message(&*payload)),
    };
    Err(Failure { seed, world, what })
}

/// Which worlds to run.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// Their seeds.
    pub seeds: Range<u64>,
    /// Their kind, if not the seeds' own.
    pub world: Option<World>,
    /// At the same time.
    pub threads: usize,
    /// No more begin after this.
    pub time: Option<Duration>,
}

/// Every so often somebody is told how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Runs these worlds, until all are done, the time is up or too many failed. Tells of each failure as it is found, and
/// from time to time how far it is.
pub fn run_seeds(fleet: &Fleet, found: impl Fn(&Failure) + Sync, progress: impl Fn(&Summary) + Sync) -> Summary {
    let begun = Instant::now();
    let next = AtomicU64::new(fleet.seeds.start);
    let enough = AtomicBool::new(false);
    let summary = Mutex::new((Summary::default(), Instant::now()));
    thread::scope(|scope| {
        for _ in 0..fleet.threads {
            scope.spawn(|| loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                let late = fleet.time.is_some_and(|time| begun.elapsed() >= time);
                if seed >= fleet.seeds.end || late || enough.load(Ordering::Relaxed) {
                    break;
                }
                let world = fleet.world.unwrap_or_else(|| World::of_seed(seed));
                let result = run_seed(seed, Some(world), false);
                if let Err(failure) = &result {
                    found(failure);
                }
                let mut guard = summary.lock().expect("no panic while holding the summary");
                let (summary, told_at) = &mut *guard;
                summary.add(world, result);
                if summary.failures.len() >= FAILURES_MAX {
                    enough.store(true, Ordering::Relaxed);
                }
                if told_at.elapsed() >= PROGRESS_EVERY {
                    *told_at = Instant::now();
                    progress(summary);
                }
            });
        }
    });
    summary.into_inner().expect("no panic while holding the summary").0
}
