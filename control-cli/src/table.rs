//! Tables: columns with a title, one line per row, or JSON.

use serde::Serialize;

/// On which side a column is flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Texts.
    Left,
    /// Numbers.
    Right,
}

/// A column of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    /// Its title.
    pub(crate) title: &'static str,
    /// Where its cells are flush.
    pub(crate) align: Align,
}

impl Column {
    /// A column of texts.
    pub(crate) const fn text(title: &'static str) -> Self {
        Self { title, align: Align::Left }
    }

    /// A column of numbers.
    pub(crate) const fn number(title: &'static str) -> Self {
        Self { title, align: Align::Right }
    }
}

/// What can be a row. For JSON it is serialized, with field names that never change their meaning.
pub(crate) trait Row: Serialize {
    /// The columns.
    const COLUMNS: &'static [Column];

    /// The cells, one per column.
    fn cells(&self) -> Vec<String>;
}

/// Draws a table: the titles, then one line per row. Columns are two spaces apart; lines have no blanks at their end.
pub(crate) fn draw<R: Row>(rows: &[R]) -> String {
    let titles = R::COLUMNS.iter().map(|column| column.title.to_owned()).collect();
    let mut lines: Vec<Vec<String>> = vec![titles];
    lines.extend(rows.iter().map(|row| row.cells().iter().map(|cell| printable(cell)).collect()));
    let width = |at: usize| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..R::COLUMNS.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let mut drawn = String::new();
        for ((cell, column), width) in line.iter().zip(R::COLUMNS).zip(&widths) {
            let gap = " ".repeat(width - cell.chars().count());
            match column.align {
                Align::Left => drawn.extend([cell.as_str(), &gap]),
                Align::Right => drawn.extend([gap.as_str(), cell]),
            }
            drawn.push_str("  ");
        }
        text.push_str(drawn.trim_end());
        text.push('\n');
    }
    text
}

/// The text without what could steer a terminal: names and messages come from others.
pub(crate) fn printable(text: &str) -> String {
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Fruit {
        name: &'static str,
        weight: u32,
        note: &'static str,
    }

    impl Row for Fruit {
        const COLUMNS: &'static [Column] =
            &[Column::text("NAME"), Column::number("WEIGHT"), Column::text("NOTE")];

        fn cells(&self) -> Vec<String> {
            vec![self.name.to_owned(), self.weight.to_string(), self.note.to_owned()]
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            Fruit { name: "fig", weight: 7, note: "" },
            Fruit { name: "Brombeere, rote", weight: 1_234_567, note: "äußerst" },
        ];
        let expected = "\
NAME              WEIGHT  NOTE
fig                    7
Brombeere, rote  1234567  äußerst
";
        assert_eq!(draw(&rows), expected);
        assert_eq!(draw::<Fruit>(&[]), "NAME  WEIGHT  NOTE\n");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let rows = [Fruit { name: "a\x1b[2Jb\nc", weight: 0, note: "\u{9b}" }];
        let drawn = draw(&rows);
        assert!(drawn.contains("a\\u{1b}[2Jb\\nc") && drawn.contains("\\u{9b}"), "{drawn:?}");
        assert_eq!(drawn.lines().count(), 2);
    }
}
