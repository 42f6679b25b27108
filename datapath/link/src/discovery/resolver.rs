//! What the domain name system says of clusters: their names in TXT records, their metadata servers in SRV records, and
//! both in a whole zone (RFC 2782, RFC 5936).

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use simple_dns::rdata::RData;
use simple_dns::{ResourceRecord, TYPE};

use super::dns::{Asker, DnsError, Patience};
use crate::cluster_dir::{HostDirs, check_cluster_name};
use crate::servers::ServerAddress;

/// Where a name server listens.
const PORT: u16 = 53;
/// The name of the records that list clusters.
const CLUSTERS: &str = "pstorage_clusters";
/// What the names of the records of a cluster's metadata servers begin with.
const SERVICE: &str = "_pstorage._tcp";
/// As many name servers as the C library asks.
const SERVERS_MAX: usize = 3;
/// As many domains as the C library once looked in.
const DOMAINS_MAX: usize = 6;
/// How long a look-up may take in all.
const LOOK_LIMIT: Duration = Duration::from_secs(15);
/// How long the transfer of zones may take in all.
const ZONES_LIMIT: Duration = Duration::from_secs(60);

/// Whom to ask, and in which domains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolver {
    path: PathBuf,
    servers: Vec<SocketAddr>,
    domains: Vec<String>,
    patience: Patience,
}

impl Resolver {
    /// As this host's resolv.conf(5) says. A missing one names nobody.
    ///
    /// # Errors
    /// Those of reading the file.
    pub async fn load(dirs: &HostDirs) -> io::Result<Self> {
        let path = &dirs.resolv_conf;
        let bytes = match rt::fs::read(path).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(Self::parse(path, &String::from_utf8_lossy(&bytes), &rt::node::host_name()))
    }

    /// By the text of a resolv.conf(5), on a host of this name. What other resolvers take as well and we do not know
    /// changes nothing.
    fn parse(path: &Path, text: &str, host_name: &str) -> Self {
        let (mut servers, mut domains, mut patience) = (Vec::new(), Vec::new(), Patience::default());
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => servers.extend(words.next().and_then(server)),
                // The last of these lines counts.
                Some("search" | "domain") => domains = words.map(domain).collect(),
                Some("options") => words.for_each(|word| patience.set(word)),
                _ => {}
            }
        }
        if domains.is_empty() {
            domains.push(host_name.split_once('.').map(|(_, rest)| domain(rest)).unwrap_or_default());
        }
        servers.truncate(SERVERS_MAX);
        domains.truncate(DOMAINS_MAX);
        Self { path: path.to_owned(), servers, domains, patience }
    }

    /// The domains that are looked in; the empty one is the root.
    #[must_use]
    pub fn domains(&self) -> &[String] {
        &self.domains
    }

    /// The names of clusters in TXT records, in order.
    ///
    /// # Errors
    /// [`DnsError`] if no domain has an answer.
    pub async fn clusters(&self) -> Result<BTreeSet<String>, DnsError> {
        self.beside(LOOK_LIMIT, |resolver, asker| {
            resolver.in_all_domains(|domain| {
                let records = resolver.ask(asker, &within(CLUSTERS, domain), TYPE::TXT)?;
                Ok(records.iter().flat_map(names_in).collect())
            })
        })
        .await
    }

    /// The names of clusters that have SRV records in the zones of the domains, in order.
    ///
    /// # Errors
    /// [`DnsError`] if no zone can be had.
    pub async fn clusters_of_zones(&self) -> Result<BTreeSet<String>, DnsError> {
        self.beside(ZONES_LIMIT, |resolver, asker| {
            resolver.in_all_domains(|domain| {
                let mut last = None;
                for &server in &resolver.servers {
                    match asker.zone(server, domain) {
                        Ok(records) => {
                            return Ok(records.iter().filter_map(|one| cluster_of(one, domain)).collect());
                        }
                        Err(error) => last = Some(error),
                    }
                }
                Err(last.unwrap_or_else(|| resolver.no_server()))
            })
        })
        .await
    }

    /// The metadata servers of a cluster, the preferred ones first. At least one.
    ///
    /// # Errors
    /// [`DnsError`] if no domain has an answer, or none has such a record.
    pub async fn servers_of(&self, cluster: &str) -> Result<Vec<ServerAddress>, DnsError> {
        let name = format!("{SERVICE}.{cluster}");
        let asked = name.clone();
        let found = self.beside(LOOK_LIMIT, move |resolver, asker| {
            resolver.in_all_domains(|domain| {
                let records = resolver.ask(asker, &within(&asked, domain), TYPE::SRV)?;
                Ok(records.iter().filter_map(target_in).collect())
            })
        });
        let mut servers: Vec<ServerAddress> = Vec::new();
        for target in found.await? {
            if !servers.contains(&target.server) {
                servers.push(target.server);
            }
        }
        if servers.is_empty() {
            return Err(DnsError::NoRecord { name, domains: self.domains.clone() });
        }
        Ok(servers)
    }

    /// Does something on a thread where it may block.
    async fn beside<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce(&Self, Asker) -> Result<T, DnsError> + Send + 'static,
    ) -> Result<T, DnsError> {
        let mut id = [0; 2];
        rt::random::fill_secret(&mut id);
        let asker = Asker { id: u16::from_be_bytes(id), wait: self.patience.answer };
        let resolver = self.clone();
        let work = rt::blocking::run(move || work(&resolver, asker));
        match rt::time::timeout(limit, work).await {
            Ok(done) => done.map_err(DnsError::Thread)?,
            Err(_) => Err(DnsError::Slow(limit)),
        }
    }

    fn no_server(&self) -> DnsError {
        DnsError::NoServer { path: self.path.clone() }
    }

    /// What all domains together say; the last error if none says anything.
    fn in_all_domains<T: Ord>(
        &self,
        ask: impl Fn(&str) -> Result<BTreeSet<T>, DnsError>,
    ) -> Result<BTreeSet<T>, DnsError> {
        let (mut all, mut answered, mut last) = (BTreeSet::new(), false, None);
        for domain in &self.domains {
            match ask(domain) {
                Ok(found) => {
                    answered = true;
                    all.extend(found);
                }
                Err(error) => {
                    // Whoever is silent is so about all domains.
                    let silent = matches!(error, DnsError::Io { .. });
                    last = Some(error);
                    if silent {
                        break;
                    }
                }
            }
        }
        if answered { Ok(all) } else { Err(last.unwrap_or_else(|| self.no_server())) }
    }

    /// The records of a name; none if there is no such name. As the C library does it, everybody is asked once before
    /// anybody is asked again.
    fn ask(&self, asker: Asker, name: &str, kind: TYPE) -> Result<Vec<ResourceRecord<'static>>, DnsError> {
        let mut last = None;
        for _attempt in 0..self.patience.attempts {
            for &server in &self.servers {
                match asker.records(server, name, kind) {
                    Ok(records) => return Ok(records),
                    Err(error) => last = Some(error),
                }
            }
        }
        Err(last.unwrap_or_else(|| self.no_server()))
    }
}

/// `ADDRESS`, or `[ADDRESS]:PORT` as OpenBSD has it. An address of one link has the link behind a `%`.
fn server(word: &str) -> Option<SocketAddr> {
    let (address, port) = match word.strip_prefix('[').and_then(|rest| rest.split_once("]:")) {
        Some((address, port)) => (address, port.parse().ok()?),
        None => (word, PORT),
    };
    let ip: IpAddr = address.split('%').next()?.parse().ok()?;
    Some(SocketAddr::new(ip, port))
}

fn domain(word: &str) -> String {
    word.trim_matches('.').to_owned()
}

fn within(name: &str, domain: &str) -> String {
    if domain.is_empty() { name.to_owned() } else { format!("{name}.{domain}") }
}

/// A metadata server by its SRV record; in the order in which they are to be tried.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    /// Less is better.
    priority: u16,
    /// More is better: how far it is from the most.
    lightness: u16,
    server: ServerAddress,
}

/// The names in a TXT record: each of its strings has some, with commas between. What cannot be the name of a cluster is
/// none.
fn names_in(record: &ResourceRecord<'_>) -> Vec<String> {
    let RData::TXT(text) = &record.rdata else { return Vec::new() };
    // A name has no `=`, at which the strings come parted.
    let strings = text.iter_raw().filter(|(_, value)| value.is_none()).map(|(name, _)| name);
    let names = strings.flat_map(|string| string.split(|byte| *byte == b','));
    names
        .map(|name| String::from_utf8_lossy(name).trim().to_owned())
        .filter(|name| check_cluster_name(name).is_ok())
        .collect()
}

fn target_in(record: &ResourceRecord<'_>) -> Option<Target> {
    let RData::SRV(found) = &record.rdata else { return None };
    let host = domain(&found.target.to_string());
    // The root is how a zone says that there is none.
    if host.is_empty() {
        return None;
    }
    match format!("{host}:{}", found.port).parse() {
        Ok(server) => Some(Target { priority: found.priority, lightness: u16::MAX - found.weight, server }),
        Err(error) => {
            tracing::warn!("the SRV record of {} is of no use: {error}", record.name);
            None
        }
    }
}

/// The cluster whose metadata server an SRV record of a zone tells of.
fn cluster_of(record: &ResourceRecord<'_>, domain: &str) -> Option<String> {
    target_in(record)?;
    let name = record.name.to_string();
    let name = name.trim_end_matches('.');
    let split = name.len().checked_sub(domain.len())?;
    let (below, end) = (name.get(..split)?, name.get(split..)?);
    if !end.eq_ignore_ascii_case(domain) {
        return None;
    }
    let below = if domain.is_empty() { below } else { below.strip_suffix('.')? };
    let (service, cluster) = below.split_at_checked(SERVICE.len())?;
    let cluster = service.eq_ignore_ascii_case(SERVICE).then(|| cluster.strip_prefix('.'))??;
    check_cluster_name(cluster).is_ok().then(|| cluster.to_owned())
}

#[cfg(test)]
mod tests {
    use simple_dns::rdata::{SRV, TXT};
    use simple_dns::{CLASS, Name};

    use super::*;

    fn parse(text: &str, host_name: &str) -> Resolver {
        Resolver::parse(Path::new("resolv.conf"), text, host_name)
    }

    #[test]
    fn a_resolver_is_read_from_its_file() {
        let text = "# ours\nnameserver 10.0.0.53\nnameserver fe80::1%eth0\nnameserver x\nnameserver [127.0.0.1]:5300\n\
                    nameserver 10.0.0.54\nsearch a.test. b.test\noptions rotate timeout:1 attempts:3\n";
        let found = parse(text, "s1.stor.test");
        let addresses = found.servers.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(addresses, ["10.0.0.53:53", "[fe80::1]:53", "127.0.0.1:5300"]);
        assert_eq!(found.domains, ["a.test", "b.test"]);
        assert_eq!(found.patience, Patience { answer: Duration::from_secs(1), attempts: 3 });
        assert_eq!(parse("domain c.test\n", "s1").domains, ["c.test"]);
        assert_eq!(parse("", "s1.stor.test").domains, ["stor.test"]);
        assert_eq!(parse("", "s1").domains, [""]);
        assert_eq!(parse("options timeout:x attempts:0 timeout:4000", "s1").patience, Patience::default());
    }

    #[test]
    fn names_are_parted_as_in_the_guide() {
        let text = |strings: &[&'static str]| {
            let text = strings.iter().fold(TXT::new(), |text, one| text.with_string(one).unwrap());
            names_in(&ResourceRecord::new(Name::new_unchecked(CLUSTERS), CLASS::IN, 300, RData::TXT(text)))
        };
        assert_eq!(
            text(&["cluster1,cluster2", "cluster3,cluster4"]),
            ["cluster1", "cluster2", "cluster3", "cluster4"]
        );
        assert_eq!(text(&["cluster6", " cluster7 ,,"]), ["cluster6", "cluster7"]);
        assert_eq!(text(&["v=spf1 -all", "../x", "\x1b[2J"]), Vec::<String>::new());
    }

    #[test]
    fn a_cluster_is_named_by_its_servers() {
        let record = |name: &'static str, target: &'static str, port| {
            let server = SRV { priority: 3, weight: 1, port, target: Name::new_unchecked(target) };
            ResourceRecord::new(Name::new_unchecked(name), CLASS::IN, 300, RData::SRV(server))
        };
        let of = |name, domain| cluster_of(&record(name, "s1.stor.test", 2510), domain);
        assert_eq!(of("_pstorage._tcp.stor1.stor.test", "stor.test").as_deref(), Some("stor1"));
        assert_eq!(of("_PSTORAGE._TCP.stor1.Stor.Test", "stor.test").as_deref(), Some("stor1"));
        assert_eq!(of("_pstorage._tcp.stor1", "").as_deref(), Some("stor1"));
        assert_eq!(of("_pstorage._tcp.stor1.stor.test", "other.test"), None);
        assert_eq!(of("_pstorage._tcp.a.stor1.stor.test", "stor.test"), None, "that is no cluster's name");
        assert_eq!(of("_ldap._tcp.stor1.stor.test", "stor.test"), None);
        assert_eq!(of("_pstorage._tcpstor1.stor.test", "stor.test"), None);
        assert_eq!(of("stor.test", "stor.test"), None);
        assert_eq!(target_in(&record("a", "", 2510)), None, "said to be none");
        assert_eq!(target_in(&record("a", "s1.stor.test", 0)), None, "no port");
        let target = target_in(&record("a", "s1.stor.test", 2510)).unwrap();
        assert_eq!(target.server.to_string(), "s1.stor.test:2510");
        let better = Target { priority: 2, lightness: u16::MAX, ..target.clone() };
        let heavier = Target { lightness: target.lightness - 1, ..target.clone() };
        assert!(better < heavier && heavier < target);
    }
}
