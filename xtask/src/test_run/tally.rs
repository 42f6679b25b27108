//! Counts what libtest prints.

/// Sums over the test binaries of a run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Binaries that printed a result.
    pub(super) results: u64,
    /// Tests that passed.
    pub(super) passed: u64,
    /// Tests that failed.
    pub(super) failed: u64,
    /// Tests that were not run.
    pub(super) ignored: u64,
    /// Their names, as far as they were printed.
    pub(super) ignored_names: Vec<String>,
}

impl Tally {
    /// Takes in one line of output, whatever it is.
    pub(super) fn count(&mut self, line: &str) {
        let Some(rest) = line.strip_prefix("test ") else { return };
        if let Some(result) = rest.strip_prefix("result: ") {
            self.results += 1;
            self.passed += number_before(result, " passed");
            self.failed += number_before(result, " failed");
            self.ignored += number_before(result, " ignored");
        } else if let Some((name, verdict)) = rest.split_once(" ... ")
            && (verdict == "ignored" || verdict.starts_with("ignored,"))
        {
            self.ignored_names.push(name.to_owned());
        }
    }
}

/// The number that stands before `word` in `ok. 5 passed; 0 failed; …`.
fn number_before(result: &str, word: &str) -> u64 {
    let before = result.split(';').find_map(|part| part.strip_suffix(word));
    before.and_then(|part| part.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_summed_and_other_lines_are_not() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test disk::tests::torn ... ok",
            "test disk::tests::slow ... ignored, takes an hour",
            "test disk::tests::never ... ignored",
            "test result: ok. 5 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: FAILED. 40 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 9.10s",
            "the test result: ok. 9 passed; 9 failed; 9 ignored",
            "test a ... FAILED",
        ] {
            tally.count(line);
        }
        let ignored_names = vec!["disk::tests::slow".to_owned(), "disk::tests::never".to_owned()];
        assert_eq!(tally, Tally { results: 2, passed: 45, failed: 3, ignored: 2, ignored_names });
    }
}
