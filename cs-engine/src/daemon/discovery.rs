//! Where the metadata servers are: the names in `bs.list` or in DNS records, and the addresses they have now.
//!
//! A name that cannot be found now keeps nobody from the others; it is asked for again while the server runs.

use std::rc::Rc;
use std::time::Duration;

use link::ServerAddress;
use link::cluster_dir::HostDirs;
use link::discovery::{Found, Source};
use rt::net::Address;

use super::Failure;
use crate::server::Registrar;

/// First pause before names are asked for again while none was found.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// Longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Pause between two looks at the addresses of names while the server runs.
const REFRESH: Duration = Duration::from_secs(30);

/// The metadata servers by this host's list, or by DNS records.
#[derive(Clone, Debug)]
pub(super) struct Servers {
    by: Source,
    listed: Vec<ServerAddress>,
}

impl Servers {
    /// Reads the list of a cluster; looks for its records if there is none.
    ///
    /// # Errors
    /// [`Failure::Discovery`].
    pub(super) async fn load(dirs: &HostDirs, cluster: &str) -> Result<Self, Failure> {
        let Found { servers, by } = link::discovery::servers(dirs, cluster).await?;
        Ok(Self { by, listed: servers })
    }

    /// The addresses that can be found now, in the order of the list, and why others cannot.
    async fn look(&self) -> (Vec<Address>, Vec<String>) {
        // Side by side: a name server that does not answer must not hold the others up.
        let looks: Vec<_> = self
            .listed
            .iter()
            .map(|server| {
                let server = server.clone();
                rt::spawn(async move { server.for_clients().await })
            })
            .collect();
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for (server, look) in self.listed.iter().zip(looks) {
            let why = match look.await {
                Ok(Ok(addresses)) => {
                    for address in addresses {
                        if !found.contains(&address) {
                            found.push(address);
                        }
                    }
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            missing.push(format!("{}: {why}", server.host));
        }
        (found, missing)
    }

    /// The addresses that can be found now; at least one.
    ///
    /// # Errors
    /// [`Failure::NoAddress`].
    pub(super) async fn addresses(&self) -> Result<Vec<Address>, Failure> {
        let (found, missing) = self.look().await;
        if found.is_empty() {
            let text = missing.join("; ");
            return Err(Failure::NoAddress { by: self.by.clone(), text });
        }
        missing.iter().for_each(|text| tracing::warn!("cannot find a metadata server: {text}"));
        Ok(found)
    }

    /// Waits until at least one address can be found: name servers may come up after us.
    pub(super) async fn wait(&self) -> Vec<Address> {
        let mut pause = PAUSE_MIN;
        loop {
            match self.addresses().await {
                Ok(addresses) => return addresses,
                Err(failure) => tracing::warn!("{failure}; looking again in {} ms", pause.as_millis()),
            }
            rt::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Keeps the registrar's addresses those that the names have. Ends never, unless all are addresses already.
    pub(super) async fn follow(self, registrar: Rc<Registrar>, mut known: Vec<Address>) {
        if self.listed.iter().all(|server| server.host.parse::<std::net::IpAddr>().is_ok()) {
            return;
        }
        loop {
            rt::time::sleep(REFRESH).await;
            let (found, missing) = self.look().await;
            // What cannot be found now may still be where it was.
            let kept = known.iter().filter(|_| !missing.is_empty()).cloned();
            let mut next = found.clone();
            next.extend(kept.filter(|address| !found.contains(address)));
            if !next.is_empty() && next != known {
                let texts: Vec<String> = next.iter().map(ToString::to_string).collect();
                tracing::info!("metadata servers are looked for at {}", texts.join(", "));
                registrar.set_mds(next.clone());
                known = next;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A top-level name that is never given out (RFC 6761, section 6.4).
    const NOWHERE: &str = "s1.invalid";

    fn servers(text: &str) -> Servers {
        Servers { by: Source::List("bs.list".into()), listed: link::servers::parse_list(text).unwrap() }
    }

    #[test]
    fn a_name_that_cannot_be_found_keeps_nobody_from_the_others() {
        rt::Executor::start(&rt::ExecutorOptions::default()).unwrap().run(async {
            let found = servers(&format!("{NOWHERE}\n127.0.0.1:4110\n[::1]\n")).addresses().await.unwrap();
            let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
            assert_eq!(texts, ["127.0.0.1:4111", "[::1]:2511"]);
            let none = servers(NOWHERE).addresses().await.unwrap_err().to_string();
            assert!(none.contains("no metadata server can be found (s1.invalid: "), "{none}");
            assert!(none.contains("bs.list"), "{none}");
        });
    }

    #[test]
    fn a_list_without_servers_is_refused() {
        rt::Executor::start(&rt::ExecutorOptions::default()).unwrap().run(async {
            let root = tempfile::tempdir().unwrap();
            let dirs = HostDirs::below(root.path());
            std::fs::create_dir_all(dirs.cluster("stor1")).unwrap();
            for (text, part) in [("# nobody\n", "no metadata server"), ("s1:x\n", "line 1")] {
                std::fs::write(dirs.bs_list("stor1"), text).unwrap();
                let error = Servers::load(&dirs, "stor1").await.unwrap_err().to_string();
                assert!(error.contains(part), "{error}");
            }
            let error = Servers::load(&dirs, "stor2").await.unwrap_err().to_string();
            assert!(error.contains("is missing, and no name server is known"), "{error}");
        });
    }
}
