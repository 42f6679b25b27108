//! What `vstorage top` shows: the cluster, page by page, and the keys that turn them.

use std::fmt::Write;

use super::cluster::ClusterView;
use super::server::{CsPlace, CsWork, LocationView};
use crate::table::{draw, printable};

/// How many lines Page Up and Page Down go, at least.
const PAGE_LINES: usize = 5;

/// A key that was pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// A letter, in lower case.
    Letter(char),
    /// To the lines above.
    Up,
    /// To the lines below.
    Down,
    /// As many lines up as are shown.
    PageUp,
    /// As many lines down as are shown.
    PageDown,
    /// To the first line.
    Home,
    /// Ctrl-C and the like.
    Quit,
}

impl Key {
    /// The keys in what a terminal has sent; what has no meaning is left out.
    pub(crate) fn all_in(mut sent: &[u8]) -> Vec<Self> {
        /// Those of more than one byte, as terminals send them in their two modes.
        const SEQUENCES: [(&[u8], Key); 8] = [
            (b"\x1b[A", Key::Up),
            (b"\x1bOA", Key::Up),
            (b"\x1b[B", Key::Down),
            (b"\x1bOB", Key::Down),
            (b"\x1b[5~", Key::PageUp),
            (b"\x1b[6~", Key::PageDown),
            (b"\x1b[H", Key::Home),
            (b"\x1bOH", Key::Home),
        ];
        let mut keys = Vec::new();
        while let Some((&first, rest)) = sent.split_first() {
            if let Some((sequence, key)) = SEQUENCES.iter().find(|(sequence, _)| sent.starts_with(sequence)) {
                keys.push(*key);
                sent = &sent[sequence.len()..];
                continue;
            }
            sent = rest;
            match first {
                0x03 | 0x04 | 0x1c => keys.push(Self::Quit),
                letter if letter.is_ascii_alphabetic() => {
                    keys.push(Self::Letter(char::from(letter.to_ascii_lowercase())));
                }
                // The rest of a sequence we do not know is no letter that was typed.
                0x1b => sent = after_sequence(rest),
                _ => {}
            }
        }
        keys
    }
}

/// What follows an escape sequence: it goes on until a letter or `~` (ECMA-48, section 5.4).
fn after_sequence(rest: &[u8]) -> &[u8] {
    let Some(rest) = rest.strip_prefix(b"[").or_else(|| rest.strip_prefix(b"O")) else { return rest };
    match rest.iter().position(|byte| (0x40..=0x7e).contains(byte)) {
        Some(end) => &rest[end + 1..],
        None => &[],
    }
}

/// What stands below the first lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Page {
    #[default]
    Servers,
    Locations,
    Disks,
}

/// Which columns chunk servers have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Columns {
    #[default]
    State,
    Work,
    Place,
}

/// Which part of the cluster is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Monitor {
    /// All lines about the cluster, not only those that are looked at most.
    verbose: bool,
    page: Page,
    columns: Columns,
    /// Lines that are above the screen.
    above: usize,
}

/// Size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    /// Lines.
    pub(crate) rows: usize,
    /// Characters in a line.
    pub(crate) columns: usize,
}

impl Monitor {
    /// Of the whole cluster, in brief or in full.
    pub(crate) fn new(verbose: bool) -> Self {
        Self { verbose, ..Self::default() }
    }

    /// Does what a key asks for on a screen of this size; false when that is to end.
    pub(crate) fn press(&mut self, key: Key, size: Size) -> bool {
        let page = size.rows.saturating_sub(2).max(PAGE_LINES);
        match key {
            Key::Quit | Key::Letter('q') => return false,
            Key::Letter('v') => self.verbose = !self.verbose,
            Key::Letter('w') => self.turn_to(Page::Locations),
            Key::Letter('d') => self.turn_to(Page::Disks),
            Key::Letter('i') => {
                self.turn_to_servers();
                self.columns = match self.columns {
                    Columns::State => Columns::Work,
                    Columns::Work => Columns::Place,
                    Columns::Place => Columns::State,
                };
            }
            Key::Up | Key::Letter('k') => self.above = self.above.saturating_sub(1),
            Key::Down | Key::Letter('j') => self.above = self.above.saturating_add(1),
            Key::PageUp => self.above = self.above.saturating_sub(page),
            Key::PageDown => self.above = self.above.saturating_add(page),
            Key::Home => self.above = 0,
            Key::Letter(_) => {}
        }
        true
    }

    /// To a page, or back from it.
    fn turn_to(&mut self, page: Page) {
        self.page = if self.page == page { Page::Servers } else { page };
        self.above = 0;
    }

    fn turn_to_servers(&mut self) {
        if self.page != Page::Servers {
            self.turn_to(self.page);
        }
    }

    /// All that there is to show.
    pub(crate) fn text(&self, cluster: &ClusterView) -> String {
        let mut text = String::new();
        // A string takes everything.
        let _never = cluster.write_head(&mut text, self.verbose);
        let tables = match self.page {
            Page::Servers => {
                let servers = match self.columns {
                    Columns::State => draw(&cluster.cs),
                    Columns::Work => draw(&cluster.cs.iter().cloned().map(CsWork).collect::<Vec<_>>()),
                    Columns::Place => draw(&cluster.cs.iter().cloned().map(CsPlace).collect::<Vec<_>>()),
                };
                vec![draw(&cluster.mds), servers, draw(&cluster.clients), draw(&cluster.events)]
            }
            Page::Locations => vec![draw(&LocationView::tree(&cluster.cs))],
            Page::Disks => vec![
                "This version does not collect the S.M.A.R.T. state of disks: run smartctl -H on the hosts of the chunk \
                 servers.\nDisks that fail in use show as the flags H, h, S, R and T of their chunk server: press i.\n"
                    .to_owned(),
            ],
        };
        tables.iter().for_each(|table| {
            let _never = write!(text, "\n{table}");
        });
        text
    }

    /// The lines of a screen: no more than fit, each no longer than it is wide. The last one says which keys there are, or
    /// what is wrong.
    pub(crate) fn screen(&mut self, cluster: &ClusterView, trouble: Option<&str>, size: Size) -> Vec<String> {
        let text = self.text(cluster);
        let all: Vec<&str> = text.lines().collect();
        let room = size.rows.saturating_sub(1);
        self.above = self.above.min(all.len().saturating_sub(room));
        let cut = |line: &str| line.chars().take(size.columns).collect::<String>();
        let mut lines: Vec<String> = all.iter().skip(self.above).take(room).map(|line| cut(line)).collect();
        lines.resize(room, String::new());
        let keys = format!(
            "{}v: {}  i: columns  w: {}  d: {}  arrows: scroll  q: quit",
            if self.above + room < all.len() { "(more below)  " } else { "" },
            if self.verbose { "less" } else { "more" },
            if self.page == Page::Locations { "back" } else { "locations" },
            if self.page == Page::Disks { "back" } else { "disks" },
        );
        lines.push(cut(&trouble.map_or(keys, printable)));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::super::cluster::tests::{event, sample};
    use super::*;

    const LARGE: Size = Size { rows: 60, columns: 200 };

    fn cluster() -> ClusterView {
        ClusterView::new(&sample(), &[event()])
    }

    fn after(keys: &str) -> Monitor {
        let mut monitor = Monitor::default();
        assert!(keys.chars().all(|key| monitor.press(Key::Letter(key), LARGE)));
        monitor
    }

    #[test]
    fn it_begins_with_what_is_looked_at_most() {
        let text = "\
Cluster 'stor1': degraded
Space: [WARN] allocatable 140GB of 1TB, free 314GB of 2TB
MDS nodes: 1 of 1, epoch uptime: 33 min
CS nodes: 1 of 2 (1 avail, 1 inactive, 0 offline)
Replication: 2 norm, 1 limit
IO:       read 1MB/s (256ops/s), write 0B/s (0ops/s)

MDSID  STATUS  %CTIME  COMMITS  %CPU  MEM  UPTIME  HOST
";
        let shown = Monitor::default().text(&cluster());
        assert!(shown.starts_with(text), "{shown}");
        let tables = ["\nCSID  STATUS    SPACE", "\nCLID  LEASES", "\nTIME (UTC)"];
        assert!(tables.iter().all(|title| shown.contains(title)), "{shown}");
        assert_eq!(after("vv").text(&cluster()), shown);
    }

    #[test]
    fn in_full_it_is_what_stat_says() {
        assert_eq!(after("v").text(&cluster()), cluster().to_string());
    }

    #[test]
    fn keys_turn_pages_and_columns() {
        let titles = |keys: &str| {
            let text = after(keys).text(&cluster());
            text.lines().filter(|line| line.contains("CSID") || line.contains("LOCATION")).collect::<String>()
        };
        assert!(titles("").contains("IOLAT(ms)") && titles("iii") == titles(""));
        assert!(titles("i").contains("TIER  FLAGS  READ"));
        assert!(titles("ii").contains("JOURNAL"));
        assert!(titles("w").contains("LOCATION") && titles("ww") == titles(""));
        assert_eq!(titles("wi"), titles("i"), "columns are those of the servers");
        assert!(after("d").text(&cluster()).contains("smartctl") && titles("dd") == titles(""));
        assert_eq!(after("dw"), after("w"));
        assert!(!Monitor::default().press(Key::Quit, LARGE) && !after("v").press(Key::Letter('q'), LARGE));
    }

    #[test]
    fn a_screen_is_never_larger_than_the_terminal() {
        let view = cluster();
        for (rows, columns) in [(60, 200), (24, 80), (5, 10), (1, 1), (0, 0)] {
            let mut monitor = Monitor::default();
            let size = Size { rows, columns };
            for key in [Key::PageDown, Key::Down, Key::PageUp, Key::Home, Key::Letter('i')] {
                monitor.press(key, size);
                let lines = monitor.screen(&view, None, size);
                assert!(lines.len() == rows.max(1), "{size:?}");
                assert!(lines.iter().all(|line| line.chars().count() <= columns), "{size:?}");
            }
        }
        let mut monitor = Monitor::default();
        let lines = monitor.screen(&view, Some("gone\x1b[2J"), LARGE);
        assert_eq!(lines.last().map(String::as_str), Some("gone\\u{1b}[2J"));
    }

    #[test]
    fn what_does_not_fit_can_be_scrolled_to() {
        let (view, size) = (cluster(), Size { rows: 6, columns: 80 });
        let mut monitor = Monitor::default();
        let first = monitor.screen(&view, None, size);
        assert!(first[0].starts_with("Cluster 'stor1'") && first[5].starts_with("(more below)"), "{first:?}");
        monitor.press(Key::Down, size);
        assert_eq!(monitor.screen(&view, None, size)[0], first[1]);
        (0..50).for_each(|_| assert!(monitor.press(Key::PageDown, size)));
        let last = monitor.screen(&view, None, size);
        assert!(
            last[4].contains("CS#1026 has not been heard from") && last[5].starts_with("v: more"),
            "{last:?}"
        );
        monitor.press(Key::Up, size);
        assert_eq!(monitor.screen(&view, None, size)[4], last[3], "not beyond the end before");
    }

    #[test]
    fn keys_are_known_by_what_terminals_send() {
        let keys = Key::all_in(b"V\x1b[A\x1bOB\x1b[5~\x1b[6~\x1b[H1\x03");
        let expected =
            [Key::Letter('v'), Key::Up, Key::Down, Key::PageUp, Key::PageDown, Key::Home, Key::Quit];
        assert_eq!(keys, expected);
        // A function key, a key with a modifier, Escape alone, and one that was cut off.
        assert_eq!(Key::all_in(b"\x1b[15~\x1b[1;5Cq"), [Key::Letter('q')]);
        assert_eq!(Key::all_in(b"\x1b"), []);
        assert_eq!(Key::all_in(b"\x1b[1;"), []);
        assert_eq!(Key::all_in("ä€".as_bytes()), []);
    }
}
