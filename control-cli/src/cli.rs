//! The grammar: what all commands share, and which there are.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use link::cluster_dir::HostDirs;

use crate::cluster::{Cluster, ClusterError};
use crate::command::{
    auth_node, change_password, configure_cs, configure_mds, create, detached, discover, export, get_attr,
    get_config, get_event, list_clients, list_nodes, list_services, ls, make_cs, make_mds, mv, resize,
    revoke, revoke_node, rm, rm_cs, rm_mds, set_attr, set_config, start_service, stat, stop_service, top,
};
use crate::error::Error;
use crate::logging::LogLevel;
use crate::mds::Mds;
use crate::output::Output;

/// How long the metadata servers have for an answer, unless told otherwise.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// How long services have to start or stop, unless told otherwise: recovery and draining take their time.
const SERVICE_PATIENCE: Duration = Duration::from_secs(120);

const EXAMPLES: &str = "\
Examples:
  vstorage -c stor1 make-mds -I -a 10.30.100.101 -r /vstorage/stor1-mds -p
  vstorage -c stor1 auth-node
  vstorage -c stor1 make-cs -r /vstorage/stor1-cs
  vstorage -c stor1 start-service
  vstorage -c stor1 set-attr -R -p / replicas=3
  vstorage -c stor1 create /vm1 --size 100G
  vstorage -c stor1 export --nbd /run/vm1.sock /vm1
  vstorage -c stor1 stat

Environment: VSTORAGE_ETC, VSTORAGE_LOG and VSTORAGE_RUN replace /etc/vstorage,
/var/log/vstorage and /run/vstorage; VSTORAGE_RESOLV_CONF replaces /etc/resolv.conf where
clusters and their metadata servers are looked for.
Exit codes: 0 done, 1 failed, 2 the command line makes no sense.";

/// Set up, change and watch a storage cluster.
#[derive(Debug, Parser)]
#[command(name = "vstorage", version, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What all commands share.
#[derive(Debug, Args)]
pub(crate) struct Globals {
    /// The cluster; if this host knows only one, that is meant
    #[arg(short = 'c', long, global = true, value_name = "NAME", help_heading = "Global options")]
    pub(crate) cluster: Option<String>,
    /// Results as JSON
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
    /// How long to wait, in seconds [default: 10 for an answer, 120 for services]
    #[arg(long, global = true, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400),
          help_heading = "Global options")]
    pub(crate) timeout: Option<u64>,
    /// How much to log: off, error, warn, info, debug or trace [default: error, or info with --log-file]
    #[arg(
        long,
        global = true,
        value_name = "LEVEL",
        value_enum,
        hide_possible_values = true,
        help_heading = "Global options"
    )]
    pub(crate) log_level: Option<LogLevel>,
    /// Log to this file instead of standard error
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub(crate) log_file: Option<PathBuf>,
}

/// A command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    MakeMds(make_mds::MakeMds),
    AuthNode(auth_node::AuthNode),
    MakeCs(make_cs::MakeCs),
    ConfigureCs(configure_cs::ConfigureCs),
    ConfigureMds(configure_mds::ConfigureMds),
    RmCs(rm_cs::RmCs),
    RmMds(rm_mds::RmMds),
    StartService(start_service::StartService),
    StopService(stop_service::StopService),
    Discover(discover::Discover),
    ListServices(list_services::ListServices),
    Stat(stat::Stat),
    Top(top::Top),
    GetEvent(get_event::GetEvent),
    ListClients(list_clients::ListClients),
    Revoke(revoke::Revoke),
    ListNodes(list_nodes::ListNodes),
    RevokeNode(revoke_node::RevokeNode),
    ChangePassword(change_password::ChangePassword),
    GetConfig(get_config::GetConfig),
    SetConfig(set_config::SetConfig),
    GetAttr(get_attr::GetAttr),
    SetAttr(set_attr::SetAttr),
    Create(create::Create),
    Ls(ls::Ls),
    Resize(resize::Resize),
    Mv(mv::Mv),
    Rm(rm::Rm),
    Export(export::Export),
    #[command(hide = true)]
    Detached(detached::Detached),
}

impl Command {
    /// Does it.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn run(self, context: &mut Context) -> Result<Next, Error> {
        match self {
            Self::MakeMds(command) => return command.run(context),
            Self::MakeCs(command) => return command.run(context).await,
            Self::Export(command) => return command.run(context).await,
            Self::ConfigureCs(command) => return command.run(context).await,
            Self::ConfigureMds(command) => command.run(context).await,
            Self::RmCs(command) => command.run(context).await,
            Self::RmMds(command) => command.run(context).await,
            Self::StartService(command) => command.run(context).await,
            Self::StopService(command) => command.run(context).await,
            Self::Discover(command) => command.run(context).await,
            Self::ListServices(command) => command.run(context).await,
            Self::Stat(command) => command.run(context).await,
            Self::Top(command) => command.run(context).await,
            Self::GetEvent(command) => command.run(context).await,
            Self::ListClients(command) => command.run(context).await,
            Self::Revoke(command) => command.run(context).await,
            Self::AuthNode(command) => command.run(context).await,
            Self::ListNodes(command) => command.run(context).await,
            Self::RevokeNode(command) => command.run(context).await,
            Self::ChangePassword(command) => command.run(context).await,
            Self::GetConfig(command) => command.run(context).await,
            Self::SetConfig(command) => command.run(context).await,
            Self::GetAttr(command) => command.run(context).await,
            Self::SetAttr(command) => command.run(context).await,
            Self::Create(command) => command.run(context).await,
            Self::Ls(command) => command.run(context).await,
            Self::Resize(command) => command.run(context).await,
            Self::Mv(command) => command.run(context).await,
            Self::Rm(command) => command.run(context).await,
            Self::Detached(_) => unreachable!("it runs without an executor"),
        }?;
        Ok(Next::Done)
    }
}

/// What is left to do when a command has run.
#[derive(Debug)]
pub(crate) enum Next {
    /// Nothing.
    Done,
    /// End with this code.
    Exit(ExitCode),
    /// Let this program take our place.
    Become(std::process::Command),
}

/// Where a command runs.
pub(crate) struct Context {
    /// What all commands share.
    pub(crate) globals: Globals,
    /// Directories of this host.
    pub(crate) dirs: HostDirs,
    /// Where results go.
    pub(crate) output: Output,
}

impl Context {
    /// By arguments and environment.
    pub(crate) fn new(globals: Globals) -> Self {
        let output = Output::standard(globals.json);
        Self { dirs: HostDirs::from_environment(), globals, output }
    }

    /// The cluster that is meant.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub(crate) fn cluster(&self) -> Result<Cluster, ClusterError> {
        Cluster::meant(&self.dirs, self.globals.cluster.as_deref())
    }

    /// Its metadata servers.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub(crate) async fn mds(&self) -> Result<Mds, ClusterError> {
        Mds::of(&self.cluster()?, self.answer_patience()).await
    }

    /// How long the metadata servers have for an answer.
    pub(crate) fn answer_patience(&self) -> Duration {
        self.globals.timeout.map_or(ANSWER_PATIENCE, Duration::from_secs)
    }

    /// Its metadata servers, connected; tells the operator which one it is.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn announced_mds(&self) -> Result<Mds, Error> {
        self.announced_mds_of(&self.cluster()?).await
    }

    /// As [`Context::announced_mds`], of the cluster given.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn announced_mds_of(&self, cluster: &Cluster) -> Result<Mds, Error> {
        let mds = Mds::of(cluster, self.answer_patience()).await?;
        let id = mds.connected().await?;
        if !self.output.is_json() {
            self.output.note(&format!("connected to MDS#{id}"));
        }
        Ok(mds)
    }

    /// How long services have to start or stop.
    pub(crate) fn service_patience(&self) -> Duration {
        self.globals.timeout.map_or(SERVICE_PATIENCE, Duration::from_secs)
    }

    /// What a daemon that takes our place is told of its log besides its own arguments: what we were told ourselves.
    pub(crate) fn pass_logging(&self, command: &mut std::process::Command) {
        if let Some(level) = self.globals.log_level {
            command.args(["--log-level", level.name()]);
        }
        if let Some(file) = &self.globals.log_file {
            command.arg("--log-file").arg(file);
        }
    }

    /// As [`Context::pass_logging`], for what makes something and ends: on a terminal its result counts, not its log.
    pub(crate) fn pass_quiet_logging(&self, command: &mut std::process::Command) {
        if self.globals.log_level.is_none() && self.globals.log_file.is_none() {
            command.args(["--log-level", LogLevel::Warn.name()]);
        }
        self.pass_logging(command);
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples() {
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let example = format!("vstorage -c stor1 {}", command.get_name());
            assert!(help.starts_with("Example") && help.contains(&example), "{}", command.get_name());
            assert!(command.get_about().is_some(), "{}", command.get_name());
        }
    }

    #[test]
    fn every_example_can_be_parsed() {
        let mut grammar = Cli::command();
        grammar.build();
        let mut texts = vec![EXAMPLES.to_owned()];
        texts.extend(
            grammar.get_subcommands().filter_map(|command| command.get_after_help().map(ToString::to_string)),
        );
        let lines = texts.iter().flat_map(|text| text.lines()).map(str::trim);
        let examples: Vec<&str> = lines.filter(|line| line.starts_with("vstorage ")).collect();
        assert!(examples.len() > 20, "{examples:?}");
        for example in examples {
            let parsed = Cli::try_parse_from(example.split_whitespace());
            assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
        }
    }

    #[test]
    fn the_commands_of_the_guide_are_understood() {
        let guide = [
            "vstorage -c stor1 make-mds -I -a 10.30.100.101 -r /vstorage/stor1-mds -p",
            "vstorage -c stor1 make-mds -I -a 10.30.100.101:4110 -r /vstorage/stor1-mds -p",
            "vstorage -c stor1 make-mds -a 10.30.100.102 -r /vstorage/stor1-mds",
            "vstorage -c stor1 make-mds -a 10.30.100.102:2510 -r /vstorage/stor1-mds -b 10.30.100.101",
            "vstorage -c stor1 auth-node",
            "vstorage -c stor1 make-cs -r /vstorage/stor1-cs",
            "vstorage -c stor1 make-cs -r /vstorage/stor1-cs -t 1",
            "vstorage make-cs -r /vstorage/stor1-cs -a 132.132.1.101:3000",
            "vstorage make-cs -r /vstorage/stor1-cs -a 132.132.1.101",
            "vstorage -c stor1 make-cs -r /vstorage/stor1-cs -j /ssd/stor1/cs1 -s 30720 -T ssd",
            "vstorage -c stor1 make-cs -r /vstorage/stor1-cs -j /ssd/stor1/cs1 -s 30720 -S",
            "vstorage -c stor1 configure-cs -r /vstorage/stor1-cs1 -a /ssd/stor1-cs1-journal -s 2048 -T ssd",
            "vstorage -c stor1 configure-cs -r /vstorage/stor1-cs1 -d",
            "vstorage -c stor_1 configure-cs -r /vstorage/stor_1-cs1/data -s 4096",
            "vstorage get-attr /vstorage/stor1",
            "vstorage set-attr -R /vstorage/stor1 replicas=3",
            "vstorage set-attr -R /vstorage/stor1 replicas=2:1",
            "vstorage set-attr -R /vstorage/stor1/private/MyCT tier=1",
            "vstorage set-attr -R /vstorage/stor1 encoding=5+2",
            "vstorage -c stor1 set-attr -R -p /failure-domain=disk",
            "vstorage -c stor1 set-attr -R -p / failure-domain=host",
            "vstorage set-config gen.do_punch_hole=1",
            "vstorage -c stor1 set-config mds.wd.verify_chunks=3",
            "vstorage -c stor1 list-services -M",
            "vstorage -c stor1 list-services -C",
            "vstorage -c cluster1 set-config mds.alloc.strict_tier=1",
            "vstorage -c stor1 set-config mds.alloc.fill_margin=2",
            "vstorage discover",
            "vstorage -c stor1 stat",
            "vstorage -c stor1 get-event",
            "vstorage -c stor1 top",
            "vstorage -c stor1 rm-mds 3",
            "vstorage -c stor1 rm-cs --wait 1028",
            "vstorage -c stor1 rm-cs --cancel 1028",
            "vstorage -c stor1 rm-cs -f 1028",
            "vstorage -c stor1 configure-mds -r /vstorage/stor1-cs1/mds/data -n 1@10.10.20.1 -n 2@10.10.20.2 \
             -n 3@10.10.20.3 -n 4@10.10.20.4 -n 5@10.10.20.5",
        ];
        for line in guide {
            let parsed = Cli::try_parse_from(line.split_whitespace());
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let table = [
            ("vstorage", "Usage"),
            ("vstorage frobnicate", "frobnicate"),
            ("vstorage create /a", "--size"),
            ("vstorage create /a --size 1G --dir", "--dir"),
            ("vstorage create /a --size 0", "at least 1 byte"),
            ("vstorage create a --size 1G", "do you mean /a?"),
            ("vstorage create /a/../b --size 1G", "must not contain \"..\""),
            ("vstorage create /a --size 1G replicas=0", "1 to 15"),
            ("vstorage ls /..", "must not contain"),
            ("vstorage resize /a --size x", "not a size"),
            ("vstorage make-mds -I -a fd00::1 -r /x", "brackets"),
            ("vstorage make-mds -I -r /x", "-a"),
            ("vstorage make-mds -I -a s1 -r /x -b s2", "cannot be used with"),
            ("vstorage make-cs", "-r"),
            ("vstorage make-cs -r /x -t 4", "0..=3"),
            ("vstorage make-cs -r /x -j /y", "-s"),
            ("vstorage make-cs -r /x -s 100", "-j"),
            ("vstorage make-cs -r /x -j /y -s 0", "0"),
            ("vstorage make-cs -r /x -a 10.0.0.256", "neither an IP address nor a host name"),
            ("vstorage configure-cs -r /x", "required"),
            ("vstorage configure-cs -r /x -a /y", "-s"),
            ("vstorage configure-cs -r /x -d -s 4096", "cannot be used with"),
            ("vstorage configure-cs -r /x -s 4096 -T ssd", "-a"),
            ("vstorage configure-cs -r /x -s 0", "0"),
            ("vstorage configure-cs -d", "-r"),
            ("vstorage make-cs -r /x -a 0.0.0.0:3000", "reach"),
            ("vstorage make-cs -r /x -T hdd", "ssd"),
            ("vstorage export /a", "--nbd"),
            ("vstorage export --listen 10.0.0.1:10809 /a", "loopback"),
            ("vstorage set-config x", "KEY=VALUE"),
            ("vstorage set-config", "KEY=VALUE"),
            ("vstorage set-config =1", "KEY=VALUE"),
            ("vstorage revoke", "PATH"),
            ("vstorage revoke-node", "NODE"),
            ("vstorage auth-node -b fd00::1", "brackets"),
            ("vstorage revoke /a -C 7", "cannot be used with"),
            ("vstorage get-event -n 0", "0"),
            ("vstorage --timeout 0 stat", "0"),
            ("vstorage --log-level loud stat", "loud"),
            ("vstorage mv /a", "TO"),
            ("vstorage top --delay 0", "0"),
            ("vstorage rm-cs", "CSID"),
            ("vstorage rm-cs CS#1028", "CS#1028"),
            ("vstorage rm-cs --wait --cancel 1028", "cannot be used with"),
            ("vstorage rm-cs -f --cancel 1028", "cannot be used with"),
            ("vstorage rm-mds", "MDSID"),
            ("vstorage configure-mds -r /x", "-n"),
            ("vstorage configure-mds -r /x -n 10.10.20.1", "1@10.10.20.1"),
            ("vstorage configure-mds -r /x -n 1@fd00::1", "brackets"),
        ];
        for (line, part) in table {
            let error = Cli::try_parse_from(line.split(' ')).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(part), "{line}: {error}");
        }
    }
}
