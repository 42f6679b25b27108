//! Each fuzz function, driven with inputs grown from the fixtures.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use wire::fuzz::{TARGETS, Target};

use crate::mutator::{Random, mutate};
use crate::sample::all;

/// Inputs per function.
const INPUTS: usize = 250_000;

/// An input is grown from a fixture by this many rounds of mutation before the next one starts afresh.
const GENERATIONS: usize = 4;

fn seeds(target: &Target) -> Vec<Vec<u8>> {
    let seeds: Vec<Vec<u8>> = all()
        .iter()
        .filter_map(|sample| {
            let (header, body) = sample.parts();
            (target.seed)(&header, body)
        })
        .collect();
    assert!(!seeds.is_empty(), "no fixture leads to {}", target.name);
    for seed in &seeds {
        assert!((target.run)(seed), "{} refuses a fixture", target.name);
    }
    seeds
}

/// Runs one function; how many inputs it accepted.
fn drive(target: &Target) -> usize {
    let seeds = seeds(target);
    let mut random = Random::new(0x5eed_0000_0000_0001 + target.name.len() as u64);
    let mut input = Vec::new();
    let mut accepted = 0;
    for round in 0..INPUTS {
        if round % GENERATIONS == 0 {
            input.clone_from(&seeds[random.below(seeds.len())]);
        }
        let other = &seeds[random.below(seeds.len())];
        mutate(&mut random, &mut input, other);
        accepted += usize::from((target.run)(&input));
    }
    accepted
}

/// Runs the functions whose index leaves `part` when divided by 4: four tests, to use all cores.
fn drive_part(part: usize) {
    for target in TARGETS.iter().skip(part).step_by(4) {
        let accepted = drive(target);
        println!("{}: {accepted} of {INPUTS} accepted", target.name);
        // Were nearly all inputs refused or nearly all accepted, the run would prove little.
        assert!(accepted > INPUTS / 100, "{}: only {accepted} accepted", target.name);
        assert!(accepted < INPUTS - INPUTS / 100, "{}: only {} refused", target.name, INPUTS - accepted);
    }
}

#[test]
fn parsers_survive_mutated_fixtures_a() {
    drive_part(0);
}

#[test]
fn parsers_survive_mutated_fixtures_b() {
    drive_part(1);
}

#[test]
fn parsers_survive_mutated_fixtures_c() {
    drive_part(2);
}

#[test]
fn parsers_survive_mutated_fixtures_d() {
    drive_part(3);
}

#[test]
fn each_function_has_a_target_in_the_fuzz_project() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let files: BTreeSet<String> = fs::read_dir(fuzz.join("fuzz_targets"))
        .expect("the fuzz targets")
        .map(|entry| entry.expect("a target").path())
        .filter_map(|path| path.file_stem()?.to_str()?.strip_prefix("wire_").map(str::to_owned))
        .collect();
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).expect("its manifest");
    let names: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(names.len(), TARGETS.len(), "names are unique");
    assert_eq!(files, names);
    for name in names {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/wire_{name}.rs\"")), "{name}");
    }
}
