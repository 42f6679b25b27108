//! Manual pages and completions are made from the grammars of the command lines, and those in `packaging/` are up to date.
//!
//! `cargo xtask packaging` sets `VSTORAGE_WRITE_PACKAGING`; then they are written rather than compared.

mod manual;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Command;
use clap_complete::Shell;

/// Set when the files are to be written.
const WRITE: &str = "VSTORAGE_WRITE_PACKAGING";
/// The directories in which all files are made here.
const DIRS: [&str; 4] = ["man", "completions/bash", "completions/fish", "completions/zsh"];

/// The command lines of the product, with everything the parser adds.
fn grammars() -> Vec<Command> {
    let mut all = vec![
        control_cli::grammar(),
        cs_engine::daemon::grammar(),
        fuse_mount::daemon::grammar(),
        mds::daemon::grammar(),
        ublk_target::daemon::grammar(),
    ];
    all.iter_mut().for_each(Command::build);
    all
}

/// All files by their paths.
fn files() -> BTreeMap<PathBuf, String> {
    let mut files = BTreeMap::new();
    for grammar in grammars() {
        manual::pages(&grammar, &mut files);
        let name = grammar.get_name().to_owned();
        for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut grammar.clone(), &name, &mut text);
            let file = match shell {
                Shell::Fish => format!("{name}.fish"),
                Shell::Zsh => format!("_{name}"),
                _ => name.clone(),
            };
            let text = String::from_utf8(text).expect("completions are text");
            let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
            files.insert(
                Path::new("completions").join(shell.to_string()).join(file),
                lines.join("\n").trim_end().to_owned() + "\n",
            );
        }
    }
    files
}

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging")
}

/// The files that are there now.
fn present() -> BTreeMap<PathBuf, String> {
    let mut present = BTreeMap::new();
    for dir in DIRS {
        for entry in std::fs::read_dir(packaging().join(dir)).into_iter().flatten().flatten() {
            let path = Path::new(dir).join(entry.file_name());
            present.insert(path, std::fs::read_to_string(entry.path()).expect("text"));
        }
    }
    present
}

#[test]
fn packaging_is_up_to_date() {
    let (wanted, present) = (files(), present());
    let stale: Vec<&PathBuf> = present.keys().filter(|path| !wanted.contains_key(*path)).collect();
    let changed: Vec<&PathBuf> =
        wanted.iter().filter(|(path, text)| present.get(*path) != Some(text)).map(|(path, _)| path).collect();
    if std::env::var_os(WRITE).is_none() {
        assert!(
            stale.is_empty() && changed.is_empty(),
            "out of date in packaging/: {changed:?}; of commands that are no more: {stale:?}; run `cargo xtask packaging`"
        );
        return;
    }
    for path in &stale {
        std::fs::remove_file(packaging().join(path)).expect("it can be removed");
    }
    for path in &changed {
        let file = packaging().join(path);
        std::fs::create_dir_all(file.parent().expect("in a directory")).expect("a directory");
        std::fs::write(&file, &wanted[*path]).expect("it can be written");
    }
    println!("packaging: {} files, {} written, {} removed", wanted.len(), changed.len(), stale.len());
}

/// Every command of a grammar that operators see, with all that are below it.
fn walk(command: &Command, visit: &mut dyn FnMut(&Command)) {
    visit(command);
    let shown = |one: &&Command| !one.is_hide_set() && one.get_name() != "help";
    command.get_subcommands().filter(shown).for_each(|one| walk(one, visit));
}

#[test]
fn every_help_text_has_an_example() {
    let mut without = Vec::new();
    let mut seen = 0;
    for grammar in grammars() {
        walk(&grammar, &mut |command| {
            seen += 1;
            let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let example = help.lines().any(|line| line.trim_start().starts_with(grammar.get_name()));
            let about = command.get_about().is_some_and(|about| !about.to_string().is_empty());
            if !(about && help.starts_with("Example") && example) {
                without.push(name);
            }
        });
    }
    assert!(seen > 30, "only {seen} commands were found");
    assert!(without.is_empty(), "without a text or an example of its own: {without:?}");
}

#[test]
fn every_option_says_what_it_does() {
    for grammar in grammars() {
        walk(&grammar, &mut |command| {
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(!help.is_empty(), "{} of {}", argument.get_id(), command.get_name());
            }
        });
    }
}

#[test]
fn the_shells_and_man_read_them() {
    let dir = tempfile::tempdir().expect("a directory");
    for (path, text) in files() {
        let checker =
            match path.components().nth(1).map(|part| part.as_os_str().to_string_lossy().into_owned()) {
                Some(shell) if shell == "bash" => vec!["bash", "-n"],
                Some(page) if page.ends_with(".8") => vec!["groff", "-man", "-Tutf8", "-ww", "-z"],
                _ => continue,
            };
        let file = dir.path().join("checked");
        std::fs::write(&file, text).expect("written");
        let ran = std::process::Command::new(checker[0]).args(&checker[1..]).arg(&file).output();
        match ran {
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success() && said.is_empty(), "{}: {said}", path.display());
            }
            Err(error)
                if error.kind() == std::io::ErrorKind::NotFound
                    && std::env::var_os("VSTORAGE_REQUIRE_ALL").is_none() =>
            {
                println!("{} is not installed: {} is not checked", checker[0], path.display());
            }
            Err(error) => panic!("{}: {error}", checker[0]),
        }
    }
}
