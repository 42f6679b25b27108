//! `vstorage top`: the state of the cluster, as it changes.

use std::pin::pin;
use std::time::Duration;

use clap::Args;
use rt::First;
use rt::signal::StopSignals;
use wire::cluster::{ClusterStat, GetEvents};

use crate::cli::Context;
use crate::error::Error;
use crate::mds::{Mds, MdsError};
use crate::terminal::Terminal;
use crate::view::cluster::ClusterView;
use crate::view::monitor::Monitor;

const EXAMPLES: &str = "\
Examples:
  vstorage -c stor1 top
  vstorage -c stor1 top -v --delay 5
  vstorage -c stor1 top --json

Keys: v shows more of the cluster or less, i turns to other columns of the chunk servers, w
to where they are, d to disks; arrows and page keys scroll, q ends. Without a terminal, and
with --json, the state is shown once.";

/// How many of the latest events are shown.
const EVENTS: u32 = 20;

/// Watch the state of the cluster
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Top {
    /// Begin with all there is to say of the cluster, as with the key v
    #[arg(short, long)]
    verbose: bool,
    /// How often to look, in seconds
    #[arg(short, long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    delay: u64,
}

impl Top {
    /// Whether the terminal will be taken. Then signals that ask to stop must be held back from the start, so that it is
    /// given back before the end.
    pub(crate) fn is_interactive(json: bool) -> bool {
        !json && Terminal::is_there()
    }

    /// Shows it.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Error> {
        let monitor = Monitor::new(self.verbose);
        if Self::is_interactive(context.output.is_json()) {
            let mds = context.mds().await?;
            return watch(&mds, monitor, Duration::from_secs(self.delay)).await;
        }
        let view = look(&context.announced_mds().await?).await?;
        context.output.value(&view, || monitor.text(&view))
    }
}

/// The cluster now.
async fn look(mds: &Mds) -> Result<ClusterView, MdsError> {
    let cluster = mds.ask(&ClusterStat {}, "cluster").await?;
    let latest = GetEvents { limit: EVENTS, newest: true, ..Default::default() };
    let events = mds.ask(&latest, "events").await?.events;
    Ok(ClusterView::new(&cluster, &events))
}

/// Shows it on the terminal until that is to end.
async fn watch(mds: &Mds, mut monitor: Monitor, delay: Duration) -> Result<(), Error> {
    let mut signals = StopSignals::listen().map_err(Error::Terminal)?;
    let mut stop = pin!(signals.next());
    // What is wrong from the start is told where it stays to be read.
    let first = match rt::first(look(mds), stop.as_mut()).await {
        First::Left(view) => view?,
        First::Right(_) => return Ok(()),
    };
    let terminal = Terminal::take().map_err(Error::Terminal)?;
    let (mut view, mut trouble) = (first, None);
    loop {
        let mut next = pin!(async {
            rt::time::sleep(delay).await;
            look(mds).await
        });
        loop {
            let lines = monitor.screen(&view, trouble.as_deref(), terminal.size());
            terminal.show(&lines).map_err(Error::Terminal)?;
            match rt::first(stop.as_mut(), rt::first(terminal.keys(), next.as_mut())).await {
                First::Left(_) => return Ok(()),
                First::Right(First::Left(keys)) => {
                    for key in keys.map_err(Error::Terminal)? {
                        if !monitor.press(key, terminal.size()) {
                            return Ok(());
                        }
                    }
                }
                First::Right(First::Right(Ok(news))) => {
                    (view, trouble) = (news, None);
                    break;
                }
                // The last state stays to be looked at, and the servers are asked again.
                First::Right(First::Right(Err(error))) if error.is_passing() => {
                    let text = error.to_string();
                    trouble = Some(format!("not up to date: {}", text.lines().next().unwrap_or_default()));
                    break;
                }
                First::Right(First::Right(Err(error))) => return Err(error.into()),
            }
        }
    }
}
