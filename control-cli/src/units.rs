//! Numbers as operators read and write them: sizes, rates, times.
//!
//! Sizes count in steps of 1024, as in the rest of the system: `2G` is 2 147 483 648 bytes.

use std::fmt;
use std::str::FromStr;

/// Names of the steps of 1024.
const STEPS: [&str; 6] = ["", "K", "M", "G", "T", "P"];

/// A size as an argument: bytes, or a number with K, M, G or T (`512M`, `2G`, `2GB`, `2GiB`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ByteSize(pub(crate) u64);

/// Why a text is no size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SizeError {
    /// It has another form.
    #[error(
        "not a size: give bytes, or a whole number with K, M, G or T (steps of 1024), such as 512M or 2G"
    )]
    Form,
    /// It does not fit 64 bits.
    #[error("the size is beyond 16 EiB")]
    TooLarge,
}

impl FromStr for ByteSize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, suffix) = text.split_at(digits);
        if number.is_empty() {
            return Err(SizeError::Form);
        }
        let upper = suffix.to_ascii_uppercase();
        let letter = match upper.strip_suffix("IB") {
            Some("") => return Err(SizeError::Form),
            Some(letter) => letter,
            None => upper.strip_suffix('B').unwrap_or(&upper),
        };
        let step = STEPS[..5].iter().position(|&known| known == letter).ok_or(SizeError::Form)?;
        let count: u64 = number.parse().map_err(|_| SizeError::TooLarge)?;
        count.checked_mul(1 << (10 * step)).map(Self).ok_or(SizeError::TooLarge)
    }
}

impl fmt::Display for ByteSize {
    /// Without loss: with the largest letter that divides it, as it may be given back as an argument.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = (self.0.trailing_zeros() as usize / 10).min(4);
        let step = if self.0 == 0 { 0 } else { step };
        write!(f, "{}{}", self.0 >> (10 * step), STEPS[step])
    }
}

/// A number in steps of 1024 with at most three digits: the number as text, and the step.
fn scaled(value: u64) -> (String, usize) {
    let mut number = value as f64;
    let mut step = 0;
    // From 999.5 on, rounding would give four digits.
    while number >= 999.5 && step + 1 < STEPS.len() {
        number /= 1024.0;
        step += 1;
    }
    let short = format!("{number:.1}");
    let text =
        if step == 0 || short.ends_with(".0") || number >= 9.95 { format!("{number:.0}") } else { short };
    (text, step)
}

/// A size for reading: `0B`, `9.1GB`, `238GB`.
pub(crate) fn bytes(value: u64) -> String {
    let (number, step) = scaled(value);
    format!("{number}{}B", STEPS[step])
}

/// Memory for reading, in the short form of process lists: `64m`.
pub(crate) fn memory(value: u64) -> String {
    let (number, step) = scaled(value);
    format!("{number}{}", STEPS[step].to_ascii_lowercase())
}

/// Bytes per second.
pub(crate) fn rate(bytes_per_s: u64) -> String {
    format!("{}/s", bytes(bytes_per_s))
}

/// Operations per second.
pub(crate) fn ops(per_s: u64) -> String {
    format!("{per_s}ops/s")
}

/// A time that has passed, in its two largest units: `33 min`, `2h 21m`, `17d 6h`.
pub(crate) fn elapsed(ms: u64) -> String {
    let seconds = ms / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} sec"),
        (0, 0, _) => format!("{minutes} min"),
        (0, _, _) => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

/// Thousandths as a percentage with one digit: `2.0%`.
pub(crate) fn percent(permille: u32) -> String {
    format!("{}.{}%", permille / 10, permille % 10)
}

/// Thousandths as a whole percentage: `10%`.
pub(crate) fn whole_percent(permille: u32) -> String {
    format!("{}%", (permille + 5) / 10)
}

/// A part of a whole as a percentage; all of nothing is nothing.
pub(crate) fn share(part: u64, whole: u64) -> String {
    let percent = if whole == 0 { 0 } else { u128::from(part) * 100 / u128::from(whole) };
    format!("{percent}%")
}

/// Thousandths as a number with one digit: `0.3`.
pub(crate) fn tenths(milli: u64) -> String {
    let tenths = milli.saturating_add(50) / 100;
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// Average and longest latency in milliseconds: `1/117`.
pub(crate) fn latencies(us_avg: u64, us_max: u64) -> String {
    let ms = |us: u64| us.saturating_add(500) / 1000;
    format!("{}/{}", ms(us_avg), ms(us_max))
}

/// A point in time, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    year: i64,
    month: i64,
    day: i64,
    second_of_day: i64,
}

impl Stamp {
    /// From milliseconds since 1970. Days become a date by the rules of the Gregorian calendar, counted from the
    /// first of March so that the leap day ends a year.
    fn of(ms: u64) -> Self {
        let seconds = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
        // 719 468 days lie between 0000-03-01 and 1970-01-01; an era is 400 years.
        let days = seconds / 86_400 + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        // Months of 153 days per five, from March on.
        let from_march = (5 * day_of_year + 2) / 153;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        Self {
            year: era * 400 + year_of_era + i64::from(month <= 2),
            month,
            day: day_of_year - (153 * from_march + 2) / 5 + 1,
            second_of_day: seconds % 86_400,
        }
    }

    fn clock(self) -> String {
        let s = self.second_of_day;
        format!("{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
    }
}

/// A moment (milliseconds since 1970) for tables, UTC: day, month and year, `21-02-14 16:55:20`.
pub(crate) fn table_time(ms: u64) -> String {
    let stamp = Stamp::of(ms);
    format!("{:02}-{:02}-{:02} {}", stamp.day, stamp.month, stamp.year % 100, stamp.clock())
}

/// A moment (milliseconds since 1970) of something that is over soon, UTC: `02-10-12 13:16:46.233`.
pub(crate) fn exact_time(ms: u64) -> String {
    format!("{}.{:03}", table_time(ms), ms % 1000)
}

/// A moment (milliseconds since 1970) in full, UTC: `2014-02-21 16:55:20 UTC`.
pub(crate) fn full_time(ms: u64) -> String {
    let stamp = Stamp::of(ms);
    format!("{:04}-{:02}-{:02} {} UTC", stamp.year, stamp.month, stamp.day, stamp.clock())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        let table = [
            ("0", 0),
            ("4096", 4096),
            ("1k", 1 << 10),
            ("512M", 512 << 20),
            ("2G", 2 << 30),
            ("2GB", 2 << 30),
            ("2GiB", 2 << 30),
            ("3t", 3 << 40),
            ("7B", 7),
            ("18446744073709551615", u64::MAX),
            ("16777215T", 16_777_215 << 40),
        ];
        for (text, bytes) in table {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "G", "-1", "+1", "1.5G", "1 G", "1X", "1GG", "1iB", "0x10", "1P", "٣"] {
            assert_eq!(text.parse::<ByteSize>(), Err(SizeError::Form), "{text:?}");
        }
        for text in ["18446744073709551616", "16777216T", "99999999999999999999G"] {
            assert_eq!(text.parse::<ByteSize>(), Err(SizeError::TooLarge), "{text:?}");
        }
    }

    #[test]
    fn sizes_survive_their_text() {
        for value in [0, 1, 1023, 1024, 1025, 64 << 20, 2 << 30, 5 << 40, 1 << 60, (1 << 60) + 1, u64::MAX] {
            let text = ByteSize(value).to_string();
            assert_eq!(text.parse(), Ok(ByteSize(value)), "{text}");
        }
        assert_eq!(ByteSize(64 << 20).to_string(), "64M");
        assert_eq!(ByteSize(1536).to_string(), "1536");
    }

    #[test]
    fn sizes_are_shown_with_at_most_three_digits() {
        let gib = 1u64 << 30;
        let table = [
            (0, "0B"),
            (762, "762B"),
            (999, "999B"),
            (1000, "1KB"),
            (1023, "1KB"),
            (1536, "1.5KB"),
            (gib, "1GB"),
            (gib * 91 / 10, "9.1GB"),
            (gib * 995 / 100, "9.9GB"),
            (gib * 996 / 100, "10GB"),
            (238 * gib, "238GB"),
            (999 * gib, "999GB"),
            (1000 * gib, "1TB"),
            (1638 * gib, "1.6TB"),
            (u64::MAX, "16384PB"),
        ];
        for (value, text) in table {
            assert_eq!(bytes(value), text, "{value}");
        }
        assert_eq!(memory(64 << 20), "64m");
        assert_eq!(memory(1536 << 20), "1.5g");
        assert_eq!(rate(0), "0B/s");
        assert_eq!(ops(7), "7ops/s");
    }

    #[test]
    fn times_are_shown_in_two_units() {
        let (minute, hour, day) = (60_000, 3_600_000, 86_400_000);
        let table = [
            (0, "0 sec"),
            (59_999, "59 sec"),
            (minute, "1 min"),
            (33 * minute + 59_000, "33 min"),
            (2 * hour + 21 * minute, "2h 21m"),
            (24 * hour - 1, "23h 59m"),
            (17 * day + 6 * hour, "17d 6h"),
            (400 * day, "400d 0h"),
        ];
        for (ms, text) in table {
            assert_eq!(elapsed(ms), text, "{ms}");
        }
    }

    #[test]
    fn parts_are_shown() {
        assert_eq!((percent(0), percent(20), percent(999)), ("0.0%".into(), "2.0%".into(), "99.9%".into()));
        assert_eq!(
            (whole_percent(0), whole_percent(95), whole_percent(104)),
            ("0%".into(), "10%".into(), "10%".into())
        );
        assert_eq!((share(0, 0), share(38, 38), share(1, 3)), ("0%".into(), "100%".into(), "33%".into()));
        assert_eq!((tenths(0), tenths(349), tenths(999)), ("0.0".into(), "0.3".into(), "1.0".into()));
        assert_eq!(latencies(1_200, 116_600), "1/117");
    }

    #[test]
    fn dates_are_right_in_leap_years_and_centuries() {
        let table = [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400_000, "2000-02-29 00:00:00 UTC"),
            (951_868_800_000, "2000-03-01 00:00:00 UTC"),
            (1_393_001_720_999, "2014-02-21 16:55:20 UTC"),
            (1_735_689_599_000, "2024-12-31 23:59:59 UTC"),
            (4_107_542_400_000, "2100-03-01 00:00:00 UTC"),
        ];
        for (ms, text) in table {
            assert_eq!(full_time(ms), text);
        }
        assert_eq!(table_time(1_393_001_720_999), "21-02-14 16:55:20");
        // Far beyond any calendar, and yet no panic.
        assert!(!full_time(u64::MAX).is_empty());
    }
}
