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

impl GetConfig {
    /// Shows them.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Error> {
        let request = GetConfigRequest { prefix: self.prefix.clone() };
        let reply = context.mds().await?.ask(&request, "parameters").await?;
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
