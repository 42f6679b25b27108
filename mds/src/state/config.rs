//! The cluster's parameters: names, defaults, ranges.
//!
//! All are whole numbers. A parameter that nobody set has its default. Some decide what a command does, so a
//! default never changes: in a rolling upgrade two versions would carry out the same command differently.

use super::refusal::{BadValue, Refusal, UnknownParameter};
use std::collections::BTreeMap;

/// A parameter.
#[derive(Debug, PartialEq, Eq)]
pub struct ParameterSpec {
    /// Its name, as in `vstorage set-config NAME=VALUE`.
    pub name: &'static str,
    /// Its value if nobody set it.
    pub default: u64,
    /// The least value.
    pub min: u64,
    /// The greatest value.
    pub max: u64,
    /// What it counts.
    pub unit: &'static str,
    /// What it does.
    pub about: &'static str,
}

macro_rules! parameters {
    ($($variant:ident = $name:literal, $default:literal, $min:literal..=$max:literal, $unit:literal, $about:literal;)*) => {
        /// The parameters, in the order of their names.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Parameter {
            $(#[doc = $about] $variant,)*
        }

        impl Parameter {
            /// All parameters.
            pub const ALL: &'static [Parameter] = &[$(Self::$variant),*];

            /// Its line in the table.
            pub fn spec(self) -> &'static ParameterSpec {
                match self {
                    $(Self::$variant => &ParameterSpec {
                        name: $name, default: $default, min: $min, max: $max, unit: $unit, about: $about,
                    },)*
                }
            }
        }
    };
}

parameters! {
    PunchHole = "gen.do_punch_hole", 0, 0..=1, "0 = off, 1 = on",
        "Whether a discard gives disk space back. Turn it on once every chunk server runs a version that can.";
    LeaseTerm = "gen.lease_term", 60, 6..=3600, "seconds",
        "How long a client may hold its leases without renewing them.";
    FillMargin = "mds.alloc.fill_margin", 5, 0..=50, "percent",
        "Part of each chunk server's disk that is kept free of new chunks.";
    StrictFailureDomain = "mds.alloc.strict_failure_domain", 1, 0..=1, "0 = advisory, 1 = strict",
        "Whether a chunk is refused rather than placed with two replicas on one host.";
    StrictTier = "mds.alloc.strict_tier", 0, 0..=1, "0 = fall back, 1 = strict",
        "Whether a chunk is refused rather than placed on another tier when its own is full.";
    CsTerm = "mds.cs.term", 10, 2..=300, "seconds",
        "How long a chunk server's registration lasts without being renewed.";
    CopyLimit = "mds.wd.copy_limit", 0, 0..=1000000, "MB/s",
        "How much each chunk server copies at most to make missing replicas, besides what it leaves to clients; 0: no limit.";
    DeleteUnknown = "mds.wd.delete_unknown", 0, 0..=1, "0 = keep, 1 = delete",
        "Whether chunks are deleted that were made before the metadata was restored from a backup and that it does not know.";
    InventoryInterval = "mds.wd.inventory_interval", 21600, 10..=2592000, "seconds",
        "How often each chunk server is asked for all it has, which is compared with the maps; with each registration as well.";
    IoTout = "mds.wd.io_tout", 3000, 10..=600000, "milliseconds",
        "From how long on a request to a chunk server's disk counts as slow (flag T).";
    MaxOfflineCs = "mds.wd.max_offline_cs", 2, 0..=4096, "chunk servers",
        "With more chunk servers offline the cluster counts as failed and nothing is replicated anew; 0: never.";
    MaxOfflineCsHosts = "mds.wd.max_offline_cs_hosts", 1, 0..=4096, "hosts",
        "With more hosts offline nothing is replicated anew; 0: no limit.";
    MoveLimit = "mds.wd.move_limit", 0, 0..=1000000, "MB/s",
        "The same for replicas that are only moved to a better place, which wait for those that are missing; 0: no limit.";
    OfflineTout = "mds.wd.offline_tout", 300, 10..=604800, "seconds",
        "After how long an inactive chunk server counts as offline, and its chunks are replicated anew.";
    QuarantineTout = "mds.wd.quarantine_tout", 300, 0..=2592000, "seconds",
        "How long deleted chunks are kept when not all chunk servers that have them serve, and replicas of others that were moved.";
    VerifyChunks = "mds.wd.verify_chunks", 2, 0..=1000, "chunks per minute",
        "How many chunks each chunk server reads and verifies.";
}

impl Parameter {
    /// Finds a parameter by name.
    ///
    /// # Errors
    /// [`Refusal::UnknownParameter`] with the nearest name there is.
    pub fn parse(name: &str) -> Result<Self, Refusal> {
        Self::ALL.iter().copied().find(|parameter| parameter.spec().name == name).ok_or_else(|| {
            Refusal::UnknownParameter(UnknownParameter {
                key: name.to_owned(),
                nearest: nearest(name).unwrap_or_default().to_owned(),
            })
        })
    }

    /// Reads a value for this parameter.
    ///
    /// # Errors
    /// [`Refusal::BadValue`] if it is no decimal number or out of range.
    pub fn parse_value(self, text: &str) -> Result<u64, Refusal> {
        let spec = self.spec();
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let value = if digits { text.parse::<u64>().ok() } else { None };
        value.filter(|value| (spec.min..=spec.max).contains(value)).ok_or_else(|| {
            Refusal::BadValue(BadValue {
                key: spec.name.to_owned(),
                value: text.to_owned(),
                min: spec.min,
                max: spec.max,
                unit: spec.unit.to_owned(),
            })
        })
    }
}

/// The name that needs the fewest edits, if that is at most a third of it.
fn nearest(name: &str) -> Option<&'static str> {
    let (distance, best) = Parameter::ALL
        .iter()
        .map(|parameter| (edit_distance(name, parameter.spec().name), parameter.spec().name))
        .min()?;
    (distance <= best.len() / 3).then_some(best)
}

/// Levenshtein's distance over bytes.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.bytes().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(from != to)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}

/// The values in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    set: BTreeMap<Parameter, u64>,
}

impl Config {
    /// The value in force.
    pub fn get(&self, parameter: Parameter) -> u64 {
        self.set.get(&parameter).copied().unwrap_or(parameter.spec().default)
    }

    /// Whether a parameter with two values is on.
    pub fn is_on(&self, parameter: Parameter) -> bool {
        self.get(parameter) != 0
    }

    /// The value in force, in milliseconds, of a parameter in seconds.
    pub fn millis(&self, parameter: Parameter) -> u64 {
        self.get(parameter) * 1000
    }

    /// The parameters somebody set.
    pub fn explicit(&self) -> impl Iterator<Item = (Parameter, u64)> {
        self.set.iter().map(|(parameter, value)| (*parameter, *value))
    }

    /// Sets a value that [`Parameter::parse_value`] has accepted; returns the one before.
    pub(super) fn set(&mut self, parameter: Parameter, value: u64) -> u64 {
        let old = self.get(parameter);
        self.set.insert(parameter, value);
        old
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_consistent() {
        let names: Vec<_> = Parameter::ALL.iter().map(|parameter| parameter.spec().name).collect();
        assert!(names.is_sorted() && names.windows(2).all(|pair| pair[0] != pair[1]));
        for parameter in Parameter::ALL {
            let spec = parameter.spec();
            assert!((spec.min..=spec.max).contains(&spec.default), "{}", spec.name);
            assert_eq!(Parameter::parse(spec.name), Ok(*parameter));
        }
    }

    #[test]
    fn the_defaults_of_the_guide() {
        let guide = [
            ("gen.do_punch_hole", 0),
            ("mds.alloc.fill_margin", 5),
            ("mds.alloc.strict_failure_domain", 1),
            ("mds.alloc.strict_tier", 0),
            ("mds.wd.max_offline_cs", 2),
            ("mds.wd.max_offline_cs_hosts", 1),
            ("mds.wd.offline_tout", 300),
            ("mds.wd.verify_chunks", 2),
        ];
        for (name, default) in guide {
            assert_eq!(Config::default().get(Parameter::parse(name).unwrap()), default, "{name}");
        }
    }

    #[test]
    fn unknown_names_are_refused_with_the_nearest() {
        let nearest_of = |name| match Parameter::parse(name) {
            Err(Refusal::UnknownParameter(unknown)) => unknown.nearest,
            other => panic!("{other:?}"),
        };
        assert_eq!(nearest_of("mds.wd.offline_timeout"), "mds.wd.offline_tout");
        assert_eq!(nearest_of("gen.leaseterm"), "gen.lease_term");
        assert_eq!(nearest_of("completely.different"), "");
        assert_eq!(nearest_of(""), "");
    }

    #[test]
    fn values_are_checked() {
        let cases = [
            ("60", Some(60)),
            ("6", Some(6)),
            ("3600", Some(3600)),
            ("5", None),
            ("3601", None),
            ("", None),
            ("-6", None),
            ("+60", None),
            ("60s", None),
            ("99999999999999999999", None),
        ];
        for (text, want) in cases {
            assert_eq!(Parameter::LeaseTerm.parse_value(text).ok(), want, "{text:?}");
        }
    }

    #[test]
    fn distances() {
        for (a, b, want) in [("", "", 0), ("a", "", 1), ("abc", "abd", 1), ("abc", "bc", 1), ("ab", "ba", 2)]
        {
            assert_eq!(edit_distance(a, b), want, "{a} {b}");
        }
    }
}
