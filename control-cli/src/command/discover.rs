//! `vstorage discover`: the clusters, or the metadata servers of one, that the domain name system tells of.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use link::ServerAddress;
use link::cluster_dir::check_cluster_name;
use link::discovery::{DnsError, Resolver};
use serde::Serialize;

use crate::cli::Context;
use crate::cluster::ClusterError;
use crate::error::Error;
use crate::table::printable;
use crate::units::exact_time;

const EXAMPLES: &str = "\
Examples:
  vstorage discover
  vstorage -c stor1 discover

The names of clusters are those in TXT records pstorage_clusters and, if the name server gives out
its zone, those that have SRV records _pstorage._tcp.NAME. Name servers and domains are those of
/etc/resolv.conf. With -c, the metadata servers of that cluster by its SRV records, one per line as
in bs.list. Hosts without a bs.list use these records by themselves.";

/// Find clusters by their DNS records
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Discover {}

/// A way of finding clusters, and how it went.
#[derive(Debug, Serialize)]
struct Attempt {
    method: &'static str,
    at_ms: u64,
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// A cluster and how it was found.
#[derive(Debug, Serialize)]
struct Found {
    cluster: String,
    by: Vec<&'static str>,
}

/// All that came of it.
#[derive(Debug, Serialize)]
struct Discovery {
    domains: Vec<String>,
    attempts: Vec<Attempt>,
    clusters: Vec<Found>,
}

/// A metadata server.
#[derive(Debug, Serialize)]
struct ServerView {
    host: String,
    port: u16,
}

impl From<ServerAddress> for ServerView {
    fn from(server: ServerAddress) -> Self {
        Self { host: server.host, port: server.port }
    }
}

impl Discover {
    /// Looks for them.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Error> {
        let resolver = Resolver::load(&context.dirs).await;
        let resolver = resolver
            .map_err(|error| ClusterError::Unreadable { path: context.dirs.resolv_conf.clone(), error })?;
        match context.globals.cluster.clone() {
            Some(cluster) => Self::servers(context, &resolver, &cluster).await,
            None => Self::clusters(context, &resolver).await,
        }
    }

    /// Shows the metadata servers of one cluster.
    async fn servers(context: &mut Context, resolver: &Resolver, cluster: &str) -> Result<(), Error> {
        check_cluster_name(cluster).map_err(ClusterError::Name)?;
        let found = resolver.servers_of(cluster).await;
        let found = found.map_err(|error| Error::Discovery { cluster: cluster.to_owned(), error })?;
        let text: String = found.iter().map(|server| format!("{server}\n")).collect();
        let views: Vec<ServerView> = found.into_iter().map(ServerView::from).collect();
        context.output.value(&views, || text)
    }

    /// Shows what clusters there are.
    async fn clusters(context: &mut Context, resolver: &Resolver) -> Result<(), Error> {
        let mut discovery =
            Discovery { domains: resolver.domains().to_vec(), attempts: Vec::new(), clusters: Vec::new() };
        let mut clusters: BTreeMap<String, Vec<&'static str>> = BTreeMap::new();
        let mut note = |method, what: &str, found: Result<BTreeSet<String>, DnsError>| {
            let at_ms = rt::time::wall_clock_ms();
            let error = found.as_ref().err().map(|error| printable(&error.to_string()));
            let result = if error.is_none() { "OK" } else { "FAIL" };
            if !context.output.is_json() {
                let why = error.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
                context
                    .output
                    .note(&format!("{} Discovering using {what}: {result}{why}", exact_time(at_ms)));
            }
            for cluster in found.into_iter().flatten() {
                clusters.entry(cluster).or_default().push(method);
            }
            discovery.attempts.push(Attempt { method, at_ms, result, error });
        };
        note("dns-txt", "DNS TXT records", resolver.clusters().await);
        note("dns-zone", "DNS zone transfer", resolver.clusters_of_zones().await);
        discovery.attempts.push(Attempt {
            method: "zeroconf",
            at_ms: rt::time::wall_clock_ms(),
            result: "not supported",
            error: None,
        });
        discovery.clusters = clusters.into_iter().map(|(cluster, by)| Found { cluster, by }).collect();
        let answered = discovery.attempts.iter().any(|attempt| attempt.result == "OK");
        let names: String = discovery.clusters.iter().map(|found| format!("{}\n", found.cluster)).collect();
        if !context.output.is_json() {
            let at = exact_time(rt::time::wall_clock_ms());
            context.output.note(&format!("{at} Discovering using Zeroconf: not supported"));
            if answered && names.is_empty() {
                context.output.note("no DNS record tells of a cluster; see vstorage discover --help");
            }
        }
        context.output.value(&discovery, || names)?;
        if answered { Ok(()) } else { Err(Error::Reported) }
    }
}
