//! `vstorage get-event`: what happened in the cluster.

use std::time::Duration;

use clap::Args;
use wire::cluster::{Event, GetEvents};

use crate::cli::Context;
use crate::error::Error;
use crate::mds::{Mds, MdsError};
use crate::table::draw;
use crate::view::event::EventView;

const EXAMPLES: &str = "\
Examples:
  vstorage -c stor1 get-event
  vstorage -c stor1 get-event -n 1000 --json
  vstorage -c stor1 get-event --after 5120
  vstorage -c stor1 get-event --follow

Times are in UTC. With --follow, --json writes one object per line.";

/// How long the metadata server may hold an answer back until something happens.
const FOLLOW_TIME: Duration = Duration::from_secs(60);

/// Show what happened in the cluster
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct GetEvent {
    /// Only events with a higher number than this, the oldest first
    #[arg(long, value_name = "ID")]
    after: Option<u64>,
    /// At most this many: with --after the first ones, else the last ones
    #[arg(short, long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    number: u64,
    /// Go on with what happens from now on
    #[arg(short, long)]
    follow: bool,
}

impl GetEvent {
    /// Shows them.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Error> {
        let mds = context.mds().await?;
        let mut last = match self.after {
            Some(after) => after,
            None => {
                let newest =
                    mds.ask(&GetEvents { limit: 1, newest: true, ..Default::default() }, "events").await?;
                newest.last_id.saturating_sub(self.number)
            }
        };
        let events = page_by_page(&mds, last, self.number).await?;
        let rows: Vec<EventView> = events.iter().map(EventView::from).collect();
        if !self.follow {
            return context.output.rows(&rows);
        }
        if !context.output.is_json() {
            context.output.rows::<EventView>(&[])?;
        }
        show_each(context, &rows)?;
        last = rows.last().map_or(last, |row| row.id);
        loop {
            let request = GetEvents { after: last, follow: true, ..Default::default() };
            let news = match mds.ask_within(FOLLOW_TIME, &request, "events").await {
                Ok(reply) => reply.events,
                // Whoever follows wants to know of this, and goes on when a master is back.
                Err(error) if error.is_passing() => {
                    context.output.note(&format!("warning: {error}"));
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let rows: Vec<EventView> = news.iter().map(EventView::from).collect();
            show_each(context, &rows)?;
            last = rows.last().map_or(last, |row| row.id);
        }
    }
}

/// Writes events one by one.
fn show_each(context: &mut Context, rows: &[EventView]) -> Result<(), Error> {
    for row in rows {
        // The line below the titles; its columns have always the same width.
        context
            .output
            .item(row, || draw(std::slice::from_ref(row)).split_inclusive('\n').skip(1).collect())?;
    }
    Ok(())
}

/// Up to `number` events after `after`.
async fn page_by_page(mds: &Mds, mut after: u64, number: u64) -> Result<Vec<Event>, MdsError> {
    let mut events: Vec<Event> = Vec::new();
    while (events.len() as u64) < number {
        let left = number - events.len() as u64;
        let limit = u32::try_from(left).unwrap_or(u32::MAX);
        let page = mds.ask(&GetEvents { after, limit, ..Default::default() }, "events").await?;
        let Some(last) = page.events.last() else { break };
        after = last.id;
        let complete = after >= page.last_id;
        events.extend(page.events);
        if complete {
            break;
        }
    }
    Ok(events)
}
