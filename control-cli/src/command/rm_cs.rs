//! `vstorage rm-cs`: takes chunk servers out of the cluster, once their data is elsewhere.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use rt::time::Instant;
use serde::Serialize;
use wire::cluster::{ListServices, RemoveAction, RemoveCs, RemoveCsReply, ServiceStatus};

use crate::cli::Context;
use crate::error::{Error, Misuse};
use crate::units::{bytes, elapsed};

const EXAMPLES: &str = "\
Examples:
  vstorage -c stor1 rm-cs --wait 1028
  vstorage -c stor1 rm-cs --cancel 1028
  vstorage -c stor1 rm-cs -f 1028

The replicas on it go to other chunk servers first; without --wait this goes on in the background,
and vstorage stat shows `releasing` as the state of the chunk server. Then it is `dropped`: stop its
service and use its disk for something else. With -f its data counts as lost.";

/// How often it is asked how far it is.
const PAUSE: Duration = Duration::from_secs(1);
/// Cells of the bar.
const BAR: u64 = 30;

/// Remove chunk servers from the cluster
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RmCs {
    /// Wait until their data is on other chunk servers
    #[arg(long, conflicts_with = "cancel")]
    wait: bool,
    /// Let those stay that are being removed
    #[arg(long, conflicts_with = "force")]
    cancel: bool,
    /// Remove those that are lost for ever, with their data
    #[arg(short, long)]
    force: bool,
    /// The chunk servers by their numbers, see list-services -C
    #[arg(value_name = "CSID", required = true)]
    servers: Vec<u64>,
}

/// How far a removal is.
#[derive(Debug, Serialize)]
struct Removal {
    cs_id: u64,
    status: &'static str,
    replicas: u64,
    bytes: u64,
}

impl RmCs {
    /// Removes them, or lets them stay.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Error> {
        let there = context.mds().await?.ask(&ListServices {}, "services").await?.cs;
        // All or none: a number that is wrong changes nothing.
        if let Some(wrong) = self.servers.iter().find(|id| there.iter().all(|cs| cs.cs_id != **id)) {
            return Err(Misuse::NoCs(*wrong).into());
        }
        let action = match (self.cancel, self.force) {
            (true, _) => RemoveAction::Cancel,
            (_, true) => RemoveAction::Force,
            _ => RemoveAction::Release,
        };
        let mut removals = BTreeMap::new();
        for id in self.servers {
            let request = RemoveCs { cs_id: id, action: action.into() };
            let reply = context.mds().await?.change(&request, &format!("CS#{id}")).await?;
            removals.insert(id, reply);
        }
        if self.wait {
            wait(context, &mut removals).await?;
        }
        let shown: Vec<Removal> = removals.iter().map(|(id, reply)| shown(*id, reply)).collect();
        let text = || removals.iter().map(|(id, reply)| sentence(*id, reply, action)).collect();
        context.output.value(&shown, text)
    }
}

fn shown(cs_id: u64, reply: &RemoveCsReply) -> Removal {
    let status = crate::view::server::status_name(reply.status());
    Removal { cs_id, status, replicas: reply.replicas, bytes: reply.bytes }
}

fn sentence(id: u64, reply: &RemoveCsReply, action: RemoveAction) -> String {
    match (reply.status(), action) {
        (ServiceStatus::Dropped, _) => {
            format!(
                "CS#{id} is removed from the cluster; its service can be stopped and its disk be used again\n"
            )
        }
        (_, RemoveAction::Cancel) => format!("CS#{id} stays in the cluster\n"),
        _ => format!(
            "CS#{id} is being removed: {} replicas (about {}) go to other chunk servers\n",
            reply.replicas,
            bytes(reply.bytes)
        ),
    }
}

/// Waits until all are removed.
async fn wait(context: &mut Context, removals: &mut BTreeMap<u64, RemoveCsReply>) -> Result<(), Error> {
    let mut progress = Progress::begin(total(removals));
    loop {
        progress.show(total(removals), removals);
        let left: Vec<u64> = removals
            .iter()
            .filter(|(_, reply)| reply.status() != ServiceStatus::Dropped)
            .map(|(id, _)| *id)
            .collect();
        if left.is_empty() {
            progress.end();
            return Ok(());
        }
        rt::time::sleep(PAUSE).await;
        for id in left {
            let request = RemoveCs { cs_id: id, action: RemoveAction::Unspecified.into() };
            let reply = context.mds().await?.ask(&request, &format!("CS#{id}")).await?;
            if reply.status() == ServiceStatus::Active {
                progress.end();
                return Err(Error::RemovalCancelled(id));
            }
            removals.insert(id, reply);
        }
    }
}

fn total(removals: &BTreeMap<u64, RemoveCsReply>) -> u64 {
    removals.values().filter(|reply| reply.status() != ServiceStatus::Dropped).map(|reply| reply.bytes).sum()
}

/// A bar on standard error: for whoever looks on at a terminal, a line that changes; for a log, a line now and then.
struct Progress {
    since: Instant,
    /// Bytes at the beginning.
    whole: u64,
    terminal: bool,
    told: Option<Instant>,
}

/// How often a log gets a line.
const LOG_PAUSE: Duration = Duration::from_secs(30);

impl Progress {
    fn begin(whole: u64) -> Self {
        Self { since: rt::time::now(), whole, terminal: std::io::stderr().is_terminal(), told: None }
    }

    fn show(&mut self, left: u64, removals: &BTreeMap<u64, RemoveCsReply>) {
        let now = rt::time::now();
        if !self.terminal && self.told.is_some_and(|told| now.since(told) < LOG_PAUSE) {
            return;
        }
        self.told = Some(now);
        self.whole = self.whole.max(left);
        let replicas: u64 = removals.values().map(|reply| reply.replicas).sum();
        let line = line(self.whole, left, replicas, now.since(self.since));
        let (begin, end) = if self.terminal { ("\r\x1b[K", "") } else { ("", "\n") };
        // Nobody is left to tell if that fails.
        let _lost = write!(std::io::stderr(), "{begin}{line}{end}").and_then(|()| std::io::stderr().flush());
    }

    fn end(&self) {
        if self.terminal {
            let _lost = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// `[=====>    ]  40%  1.2GB of 3.0GB moved, 12 replicas left, about 2 min`.
fn line(whole: u64, left: u64, replicas: u64, took: Duration) -> String {
    let done = whole - left.min(whole);
    let part =
        |of: u64| u64::try_from(u128::from(done) * u128::from(of) / u128::from(whole.max(1))).unwrap_or(of);
    let filled = if whole == 0 { BAR } else { part(BAR) };
    let bar: String = (0..BAR).map(|cell| if cell < filled { '=' } else { ' ' }).collect();
    let percent = if whole == 0 { 100 } else { part(100) };
    let time = if done == 0 {
        String::new()
    } else {
        let ms = took.as_millis() * u128::from(left) / u128::from(done);
        format!(", about {}", elapsed(u64::try_from(ms).unwrap_or(u64::MAX)))
    };
    format!("[{bar}] {percent:3}%  {} of {} moved, {replicas} replicas left{time}", bytes(done), bytes(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_shows_bytes_and_the_time_left() {
        let second = Duration::from_secs(1);
        let rows = [
            (
                4 << 30,
                4 << 30,
                40,
                "[                              ]   0%  0B of 4GB moved, 40 replicas left",
            ),
            (
                4 << 30,
                1 << 30,
                10,
                "[======================        ]  75%  3GB of 4GB moved, 10 replicas left, about 20 sec",
            ),
            (
                4 << 30,
                0,
                0,
                "[==============================] 100%  4GB of 4GB moved, 0 replicas left, about 0 sec",
            ),
            (0, 0, 0, "[==============================] 100%  0B of 0B moved, 0 replicas left"),
        ];
        for (whole, left, replicas, want) in rows {
            assert_eq!(line(whole, left, replicas, second * 60), want);
        }
    }
}
