//! Manual pages: one for each program and each of its commands.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use clap::Command;
use clap_mangen::Man;

/// Commands of administrators.
const SECTION: &str = "8";
/// What the whole is called at the foot of each page.
const SOURCE: &str = "vstorage";

/// Adds the pages of a program.
pub(crate) fn pages(grammar: &Command, files: &mut BTreeMap<PathBuf, String>) {
    add(grammar, None, files);
}

fn add(command: &Command, above: Option<&str>, files: &mut BTreeMap<PathBuf, String>) {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let path = Path::new("man").join(format!("{name}.{SECTION}"));
    files.insert(path, page(command, above).expect("a page fits in memory"));
    let shown = |one: &&Command| !one.is_hide_set() && one.get_name() != "help";
    for below in command.get_subcommands().filter(shown) {
        add(below, Some(&name), files);
    }
}

/// A page. Examples and what else stands below a help text keep their lines, which is why they are not left to clap_mangen.
fn page(command: &Command, above: Option<&str>) -> io::Result<String> {
    let man = Man::new(command.clone()).section(SECTION).source(SOURCE).manual(SOURCE);
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    if command.get_arguments().any(|argument| !argument.is_hide_set()) {
        man.render_options_section(&mut text)?;
    }
    if command.get_subcommands().any(|one| !one.is_hide_set()) {
        man.render_subcommands_section(&mut text)?;
    }
    let mut page = String::from_utf8(text).expect("a page is text");
    if let Some(help) = command.get_after_help() {
        // The first line is the title of what follows.
        page.push_str(".SH EXAMPLES\n.nf\n");
        for line in help.to_string().lines().skip(1) {
            page.push_str(&literal(line));
            page.push('\n');
        }
        page.push_str(".fi\n");
    }
    if let Some(above) = above {
        page.push_str(&format!(".SH \"SEE ALSO\"\n\\fB{}\\fR({SECTION})\n", literal(above)));
    }
    let lines: Vec<&str> = page.lines().map(str::trim_end).collect();
    Ok(lines.join("\n") + "\n")
}

/// A line as it is, for troff.
fn literal(line: &str) -> String {
    let escaped = line.trim_end().replace('\\', "\\e").replace('-', "\\-");
    match escaped.starts_with(['.', '\'']) {
        true => format!("\\&{escaped}"),
        false => escaped,
    }
}
