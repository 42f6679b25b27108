//! The checksum pages of one chunk: both copies of each, and what they say of its blocks.

use rt::fs::File;

use super::identity::is_blank;
use super::report::{Finding, Problem, Report};
use super::{Context, disk};
use crate::engine::OpenError;
use crate::format::block::BlockState;
use crate::format::table::{CRCS_PER_PAGE, CrcPage, Place, newer};
use crate::format::{BLOCK, FormatError};
use crate::tables::{CRC_TABLE, Slot};

/// What the two copies of a page amount to.
#[derive(Debug, PartialEq, Eq)]
struct Judged {
    content: Content,
    /// A bad copy beside a good one, or beside one that was never written.
    bad: Option<(u8, FormatError)>,
    /// Both are good and equally old, and differ.
    differ: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Content {
    /// This page counts.
    Page(CrcPage),
    /// Nothing was written in this life of the chunk: every block is a hole.
    Unwritten,
    /// No copy is good.
    Lost(FormatError),
}

/// Judges two copies. `expected`: the journal speaks of blocks of this page, so that its first write may have been cut
/// off.
fn judge(
    pair: &[[u8; BLOCK]; 2],
    store_uuid: &[u8; 16],
    (chunk, born, page): (u64, u64, u32),
    expected: bool,
) -> Judged {
    let decoded = pair.each_ref().map(|copy| CrcPage::decode(copy, store_uuid));
    let blank = pair.each_ref().map(is_blank);
    let lost = |field| Content::Lost(FormatError::Range { structure: "checksum page", field });
    let mut judged = Judged { content: Content::Unwritten, bad: None, differ: false };
    if let [Ok(a), Ok(b)] = &decoded {
        judged.differ = a.sequence == b.sequence && a != b;
    }
    for (copy, decoded) in decoded.iter().enumerate() {
        if let Err(why) = decoded
            && !blank[copy]
        {
            judged.bad = Some((copy as u8, *why));
        }
    }
    judged.content = match newer(decoded, |page| page.sequence) {
        Ok((found, _)) if (found.chunk, found.born) == (chunk, born) => {
            if found.page == page {
                Content::Page(found)
            } else {
                lost("page number")
            }
        }
        Ok((found, _)) if found.born < born => Content::Unwritten,
        Ok(_) => lost("chunk"),
        Err(_) if blank == [true, true] => Content::Unwritten,
        Err(_) if blank[1] && expected => Content::Unwritten,
        Err([why, _]) => Content::Lost(why),
    };
    judged
}

/// What the table says of every block of a chunk; `None` where a page is lost. `expected` tells of which pages the
/// journal speaks.
///
/// # Errors
/// [`OpenError`] when the table's length cannot be found out.
pub(super) async fn states(
    context: &Context<'_>,
    file: &File,
    slot: &Slot,
    expected: impl Fn(u32) -> bool,
    report: &mut Report,
) -> Result<Vec<Option<BlockState>>, OpenError> {
    let path = context.meta_dir.join(CRC_TABLE);
    let header = &slot.header;
    let blocks = (header.size / BLOCK as u64) as u32;
    let pages = blocks.div_ceil(CRCS_PER_PAGE);
    let place = |page, copy| Place::CrcPage { slot: slot.slot, page, copy }.offset();
    let len = pages as usize * 2 * BLOCK;
    let buf = match disk::read_padded(file, len, place(0, 0)).await {
        Ok(buf) => buf,
        Err(error) => {
            let finding = Finding::at(&path, place(0, 0), Problem::Unreadable(error));
            report.add(finding.chunk(header.chunk));
            return Ok(vec![None; blocks as usize]);
        }
    };
    let mut states = Vec::with_capacity(blocks as usize);
    for (page, pair) in (0..pages).zip(buf.as_chunks::<BLOCK>().0.as_chunks::<2>().0) {
        let identity = (header.chunk, header.born, page);
        let judged = judge(pair, &context.superblock.store_uuid, identity, expected(page));
        let first = page * CRCS_PER_PAGE;
        let here = first..blocks.min(first + CRCS_PER_PAGE);
        let mut add = |copy, problem| {
            report.add(Finding {
                chunk: Some(header.chunk),
                blocks: Some(here.clone()),
                ..Finding::at(&path, place(page, copy), problem)
            });
        };
        if judged.differ {
            add(0, Problem::CopiesDiffer("a checksum page"));
        }
        match (judged.bad, &judged.content) {
            (_, Content::Lost(why)) => add(0, Problem::PageLost { page, why: *why }),
            // Cut off by a crash after which nothing has been written here, or in an earlier life of the slot.
            (Some(_), content) if context.tears() && (expected(page) || *content == Content::Unwritten) => {
                report.copies_cut_off += 1;
            }
            (Some((copy, why)), _) => add(copy, Problem::PageCopy { page, copy, why }),
            (None, _) => {}
        }
        states.extend(here.map(|block| match &judged.content {
            Content::Page(found) => {
                Some(BlockState::from_raw(found.entries[(block % CRCS_PER_PAGE) as usize]))
            }
            Content::Unwritten => Some(BlockState::Hole),
            Content::Lost(_) => None,
        }));
    }
    Ok(states)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: [u8; 16] = [7; 16];
    const BLANK: [u8; BLOCK] = [0; BLOCK];

    fn page(sequence: u64, chunk: u64, born: u64, page: u32) -> [u8; BLOCK] {
        CrcPage { sequence, ..CrcPage::holes(chunk, born, page) }.encode(&STORE)
    }

    #[test]
    fn every_pair_of_copies() {
        let good = page(5, 9, 100, 3);
        let mut bad = good;
        bad[200] ^= 1;
        let mut other = CrcPage { sequence: 5, ..CrcPage::holes(9, 100, 3) };
        other.entries[0] = 77;
        let other = other.encode(&STORE);
        // The copies, whether the journal speaks of them, and: page of sequence (0 unwritten, -1 lost), bad copy, differ.
        #[rustfmt::skip]
        let rows = [
            (BLANK, BLANK,                 false,  0, None,    false),
            (good,  BLANK,                 false,  5, None,    false),
            (good,  page(4, 9, 100, 3),    false,  5, None,    false),
            (good,  page(6, 9, 100, 3),    false,  6, None,    false),
            (good,  other,                 false,  5, None,    true),
            (good,  bad,                   false,  5, Some(1), false),
            (bad,   good,                  false,  5, Some(0), false),
            (bad,   BLANK,                 false, -1, Some(0), false),
            (bad,   BLANK,                 true,   0, Some(0), false),
            (BLANK, bad,                   true,  -1, Some(1), false),
            (bad,   bad,                   true,  -1, Some(1), false),
            (page(5, 8, 90, 3), BLANK,     false,  0, None,    false),
            (page(5, 8, 100, 3), BLANK,    false, -1, None,    false),
            (page(5, 9, 110, 3), BLANK,    false, -1, None,    false),
            (page(5, 9, 100, 2), BLANK,    false, -1, None,    false),
        ];
        for (number, (a, b, expected, sequence, bad, differ)) in rows.into_iter().enumerate() {
            let judged = judge(&[a, b], &STORE, (9, 100, 3), expected);
            let found = match judged.content {
                Content::Page(page) => page.sequence as i64,
                Content::Unwritten => 0,
                Content::Lost(_) => -1,
            };
            let bad_copy = judged.bad.map(|(copy, _)| copy);
            assert_eq!((found, bad_copy, judged.differ), (sequence, bad, differ), "row {number}");
        }
    }
}
