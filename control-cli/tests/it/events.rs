//! `get-event`.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use wire::cluster::{Event, GetEvents, GetEventsReply, Severity};

use crate::fake_mds::{FakeMds, run};
use crate::host::VSTORAGE;

fn events(ids: std::ops::RangeInclusive<u64>, last_id: u64) -> GetEventsReply {
    let event = |id| Event {
        id,
        time_ms: 1_393_001_720_000 + id * 1000,
        sys: if id % 2 == 0 { "CS" } else { "MDS" }.into(),
        severity: Severity::Warning.into(),
        code: "mds.cs_inactive".into(),
        message: format!("event {id}"),
    };
    GetEventsReply { events: ids.map(event).collect(), last_id }
}

#[test]
fn the_latest_are_shown_page_by_page() {
    run(async {
        let mds = FakeMds::start().await;
        for reply in [events(10..=10, 10), events(7..=8, 10), events(9..=10, 10)] {
            mds.say::<GetEvents>(&reply);
        }
        let text = "\
TIME (UTC)         SYS  SEV  MESSAGE
21-02-14 16:55:27  MDS  WRN  event 7
21-02-14 16:55:28  CS   WRN  event 8
21-02-14 16:55:29  MDS  WRN  event 9
21-02-14 16:55:30  CS   WRN  event 10
";
        assert_eq!(mds.vstorage(&["get-event", "-n", "4"]).await.done(), text);
        let asked: Vec<(u64, u32, bool)> =
            mds.seen::<GetEvents>().iter().map(|one| (one.after, one.limit, one.newest)).collect();
        assert_eq!(asked, [(0, 1, true), (6, 4, false), (8, 2, false)]);
    });
}

#[test]
fn those_after_a_number_are_shown() {
    run(async {
        let mds = FakeMds::start().await;
        mds.say::<GetEvents>(&events(6..=7, 10));
        let json = mds.vstorage(&["get-event", "--after", "5", "-n", "2", "--json"]).await.json();
        assert_eq!((&json[0]["id"], &json[1]["code"]), (&6.into(), &"mds.cs_inactive".into()));
        let asked = mds.seen::<GetEvents>();
        assert_eq!((asked.len(), asked[0].after, asked[0].limit, asked[0].newest), (1, 5, 2, false));
    });
}

#[test]
fn an_empty_log_is_a_title_or_an_empty_list() {
    run(async {
        let mds = FakeMds::start().await;
        mds.say::<GetEvents>(&GetEventsReply::default());
        assert_eq!(mds.vstorage(&["get-event"]).await.done(), "TIME (UTC)         SYS  SEV  MESSAGE\n");
        assert_eq!(mds.vstorage(&["get-event", "--json"]).await.done(), "[]\n");
    });
}

#[test]
fn who_follows_sees_what_comes_one_by_one() {
    run(async {
        let mds = FakeMds::start().await;
        for reply in [events(1..=1, 1), events(1..=1, 1), events(2..=3, 3)] {
            mds.say::<GetEvents>(&reply);
        }
        mds.hold::<GetEvents>();
        let mut command = mds.host.command(VSTORAGE, &["-c", "stor1", "get-event", "--follow", "--json"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let lines =
            rt::blocking::run(move || lines.take(3).collect::<Result<Vec<_>, _>>()).await.unwrap().unwrap();
        let ids: Vec<u64> = lines
            .iter()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_u64().unwrap())
            .collect();
        assert_eq!(ids, [1, 2, 3]);
        child.kill().unwrap();
        child.wait().unwrap();
        let asked = mds.seen::<GetEvents>();
        assert!(asked[2].follow && asked[2].after == 1);
    });
}

#[test]
fn a_reader_who_has_seen_enough_is_no_error() {
    run(async {
        let mds = FakeMds::start().await;
        mds.say::<GetEvents>(&events(1..=1, 1));
        let mut command = mds.host.command(VSTORAGE, &["-c", "stor1", "get-event"]);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        command.stdout(writer);
        let ended = crate::fake_mds::ended(command).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    });
}
