//! `vstorage get-config`: the cluster's parameters.

use clap::Args;
use serde::Serialize;
use wire::cluster::{ConfigEntry, GetConfig as GetConfigRequest};

use crate::cli::Context;
use crate::error::Error;
use crate::table::{Column, Row, printable};

const EXAMPLES: &str = "\
Examples:
  vstorage -c stor1 get-config
  vstorage -c stor1 get-config mds.alloc.fill_margin
  vstorage -c stor1 get-config mds.wd -l";

/// Show the cluster's parameters
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct GetConfig {
    /// Only those whose name begins so
    #[arg(value_name = "PREFIX", default_value = "", hide_default_value = true)]
    prefix: String,
    /// With default and meaning
    #[arg(short, long)]
    long: bool,
}

/// A parameter.
#[derive(Debug, Serialize)]
struct Setting {
    key: String,
    value: String,
    default: String,
    description: String,
}

impl From<ConfigEntry> for Setting {
    fn from(entry: ConfigEntry) -> Self {
        Self { key: entry.key, value: entry.value, default: entry.default, description: entry.description }
    }
}

impl Row for Setting {
    const COLUMNS: &'static [Column] =
        &[Column::text("KEY"), Column::text("VALUE"), Column::text("DEFAULT"), Column::text("DESCRIPTION")];

    fn cells(&self) -> Vec<String> {
        vec![self.key.clone(), self.value.clone(), self.default.clone(), self.description.clone()]
    }
}

/// The names that have the longest beginning in common with a text.
fn alike(text: &str, names: &[String]) -> Vec<String> {
    let common =
        |name: &String| text.bytes().zip(name.bytes()).take_while(|(one, other)| one == other).count();
    let most = names.iter().map(common).max().unwrap_or(0);
    names.iter().filter(|name| common(name) == most).map(|name| printable(name)).collect()
}

impl GetConfig {
    /// Shows them.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Error> {
        let mds = context.mds().await?;
        let request = GetConfigRequest { prefix: self.prefix.clone() };
        let reply = mds.ask(&request, "parameters").await?;
        if reply.entries.is_empty() && !self.prefix.is_empty() {
            let all = mds.ask(&GetConfigRequest::default(), "parameters").await?.entries;
            let names: Vec<String> = all.into_iter().map(|entry| entry.key).collect();
            return Err(Error::NoParameter { alike: alike(&self.prefix, &names), prefix: self.prefix });
        }
        let settings: Vec<Setting> = reply.entries.into_iter().map(Setting::from).collect();
        if self.long {
            return context.output.rows(&settings);
        }
        context.output.value(&settings, || {
            settings
                .iter()
                .map(|one| format!("{}={}\n", printable(&one.key), printable(&one.value)))
                .collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_begin_alike_are_offered() {
        let names = [
            "gen.lease_term",
            "mds.wd.max_offline_cs",
            "mds.wd.max_offline_cs_hosts",
            "mds.wd.verify_chunks",
        ];
        let names = names.map(str::to_owned);
        assert_eq!(alike("mds.wd.max_ofline", &names), names[1..3]);
        assert_eq!(alike("gen", &names), names[..1]);
        assert_eq!(alike("x", &names), names);
    }
}
