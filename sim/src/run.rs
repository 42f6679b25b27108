//! One run from one seed.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use rt::sim::control;
use rt::sim::{SimOptions, Simulation, TraceLines};

use crate::cluster::{CLIENTS, Cluster};
use crate::faults;
use crate::plans::Plan;

/// How a run is made.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Everything follows from it.
    pub seed: u64,
    /// Client operations.
    pub operations: u64,
    /// Faults.
    pub faults: usize,
    /// Deliberate bugs to carry.
    pub planted: Vec<String>,
    /// What the faults are mostly about.
    pub plan: Plan,
    /// Print the trace.
    pub trace: bool,
}

impl RunOptions {
    /// An ordinary run.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, operations: 2000, faults: 12, planted: Vec::new(), plan: Plan::Drawn, trace: false }
    }
}

/// What a run did.
#[derive(Clone, Debug)]
pub struct Report {
    /// Operations answered with success.
    pub operations: u64,
    /// Virtual time.
    pub elapsed: Duration,
    /// Polls and events.
    pub steps: u64,
    /// Hash of the trace.
    pub hash: u64,
    /// What was hit how often.
    pub coverage: BTreeMap<&'static str, u64>,
    /// How long the queues became (C13), see [`crate::queues`].
    pub gauges: BTreeMap<&'static str, u64>,
    /// What was violated; empty if all is well.
    pub violations: Vec<String>,
}

/// How long the clients may take to finish once the faults are over (convergence).
const CONVERGENCE: Duration = Duration::from_secs(600);

/// Runs one seed.
#[must_use]
pub fn run(options: &RunOptions) -> Report {
    let sim = SimOptions {
        planted: options.planted.clone(),
        trace: if options.trace { TraceLines::Print } else { TraceLines::Off },
        time_max: Duration::from_secs(3 * 3600),
        ..SimOptions::new(options.seed)
    };
    let mut simulation = Simulation::new(sim);
    let (operations, count, plan) = (options.operations, options.faults, options.plan);
    let compares = options.seed.is_multiple_of(3);
    let outcome = simulation.run(async move { whole(operations, count, plan, compares).await });
    let (done, mut violations) = match outcome {
        Ok(result) => result,
        Err(failure) => (0, vec![failure.to_string()]),
    };
    if violations.is_empty() {
        violations = crate::queues::judge(&simulation.gauges());
    }
    Report {
        operations: done,
        elapsed: simulation.elapsed(),
        steps: simulation.steps(),
        hash: simulation.trace_hash(),
        coverage: simulation.coverage(),
        gauges: simulation.gauges(),
        violations,
    }
}

/// With `compares` all chunks are verified, and compared, all the time.
async fn whole(operations: u64, count: usize, plan: Plan, compares: bool) -> (u64, Vec<String>) {
    let cluster = Rc::new(Cluster::make(operations, plan).await);
    cluster.start_all().await;
    if compares {
        crate::plans::verify_often(&cluster);
    }
    faults::strike(&cluster, count, plan).await;
    faults::calm(&cluster).await;
    let deadline = rt::time::now() + CONVERGENCE;
    while !(0..CLIENTS).all(|n| cluster.has_finished(n)) {
        if rt::time::now() > deadline {
            cluster.shared.violation(format!(
                "convergence: the clients have not finished {} s after the last fault",
                CONVERGENCE.as_secs()
            ));
            break;
        }
        if !cluster.shared.violations.borrow().is_empty() || cluster.shared.refused.get() {
            break;
        }
        rt::time::sleep(Duration::from_millis(500)).await;
    }
    rt::sim::gauge("sim.finished-after-s", (rt::time::now() + CONVERGENCE).since(deadline).as_secs());
    if cluster.shared.refused.get() {
        rt::sim::hit(crate::coverage::JOURNAL_REFUSED);
        return (cluster.shared.operations.get(), cluster.shared.violations.take());
    }
    if cluster.shared.violations.borrow().is_empty() {
        cluster.verify().await;
    }
    if cluster.shared.violations.borrow().is_empty() {
        cluster.doubts_end().await;
    }
    // A misdirected write may have taken the newer copy of a header.
    if !cluster.shared.misdirected.get() {
        control::fallen().into_iter().for_each(|text| cluster.shared.violation(text));
    }
    if cluster.shared.violations.borrow().is_empty() {
        for finding in cluster.stop_and_check().await {
            cluster.shared.violation(finding);
        }
    }
    (cluster.shared.operations.get(), cluster.shared.violations.take())
}
