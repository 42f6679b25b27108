//! Whether the redundancy that files ask for can be had with the chunk servers there are.

use std::collections::BTreeSet;

use wire::cluster::{CsInfo, ServiceStatus};
use wire::cs::FLAGS_OUT_OF_SERVICE;
use wire::namespace::{Attrs, FailureDomain};

/// Where a chunk server is that the cluster may not know yet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Its host id.
    pub(crate) host: String,
    /// Its directory.
    pub(crate) path: String,
}

/// More replicas are wanted than there are places for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    /// Replicas a chunk should have.
    pub(crate) normal: u32,
    /// Replicas below which writes wait.
    pub(crate) minimum: u32,
    /// What may fail at once.
    pub(crate) domain: FailureDomain,
    /// How many of those there are.
    pub(crate) places: usize,
    /// Disks there are, whatever the failure domain.
    pub(crate) disks: usize,
}

/// What is missing for `attrs` with these servers and a new one; `None` when nothing is. Servers that are about to go,
/// or gone for long, do not count.
pub(crate) fn gap(attrs: &Attrs, servers: &[CsInfo], new: &Place) -> Option<Gap> {
    let stays = |server: &&CsInfo| {
        let going = matches!(
            server.status(),
            ServiceStatus::Offline
                | ServiceStatus::Failed
                | ServiceStatus::Releasing
                | ServiceStatus::Dropped
        );
        !going && server.flags & FLAGS_OUT_OF_SERVICE == 0
    };
    let place = |server: &CsInfo| (server.host_id.clone(), server.path.clone());
    let mut disks: BTreeSet<(String, String)> = servers.iter().filter(stays).map(place).collect();
    disks.insert((new.host.clone(), new.path.clone()));
    let hosts: BTreeSet<&String> = disks.iter().map(|(host, _)| host).collect();
    let domain = attrs.failure_domain();
    let places = if domain == FailureDomain::Disk { disks.len() } else { hosts.len() };
    let normal = attrs.replicas.unwrap_or(1);
    let minimum = attrs.replicas_min.unwrap_or(1);
    let too_few = u32::try_from(places).is_ok_and(|places| places < normal);
    too_few.then_some(Gap { normal, minimum, domain, places, disks: disks.len() })
}

impl Gap {
    /// What it means and what to do.
    pub(crate) fn text(&self, cluster: &str) -> String {
        let disk = self.domain == FailureDomain::Disk;
        let (unit, where_to) = if disk { ("disk", "disks") } else { ("host", "hosts") };
        let plural = if self.places == 1 { "" } else { "s" };
        let (normal, minimum, places) = (self.normal, self.minimum, self.places);
        let effect = if (places as u64) < u64::from(minimum) {
            "nothing can be written until there are more"
        } else {
            "data will have fewer replicas than asked for until there are more"
        };
        let mut remedy = format!(
            "make chunk servers on other {where_to}, or ask for less: \
             vstorage -c {cluster} set-attr -R -p / replicas={places}"
        );
        if !disk && self.disks as u64 >= u64::from(normal) {
            remedy = format!("{remedy} or failure-domain=disk");
        }
        format!(
            "files in cluster '{cluster}' ask for {normal} replicas (at least {minimum}) on different {unit}s, \
             and there is room on {places} {unit}{plural} only: {effect}; {remedy}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attrs(normal: u32, minimum: u32, domain: FailureDomain) -> Attrs {
        Attrs {
            replicas: Some(normal),
            replicas_min: Some(minimum),
            failure_domain: Some(domain.into()),
            ..Default::default()
        }
    }

    fn server(host: &str, path: &str, status: ServiceStatus) -> CsInfo {
        CsInfo { host_id: host.into(), path: path.into(), status: status.into(), ..Default::default() }
    }

    #[test]
    fn places_are_counted_by_failure_domain() {
        use FailureDomain::{Disk, Host};
        use ServiceStatus::{Active, Dropped, Failed, Inactive, Offline};
        let new = Place { host: "h1".into(), path: "/c1".into() };
        let two = [server("h1", "/c2", Active), server("h1", "/c3", Inactive)];
        let known = [server("h1", "/c1", Active)];
        let gone = [server("h2", "/c2", Offline), server("h3", "/c3", Failed), server("h4", "/c4", Dropped)];
        let flagged = [CsInfo { flags: wire::cs::FLAG_FAILED_IO, ..server("h2", "/c2", Active) }];
        let hosts = [server("h2", "/c1", Active), server("h3", "/c1", Active)];
        let table: [(&str, Attrs, &[CsInfo], Option<usize>); 9] = [
            ("one replica needs one place", attrs(1, 1, Host), &[], None),
            ("three disks of one host", attrs(3, 2, Disk), &two, None),
            ("three disks are one host", attrs(3, 2, Host), &two, Some(1)),
            ("three hosts", attrs(3, 2, Host), &hosts, None),
            ("too few disks", attrs(4, 3, Disk), &two, Some(3)),
            ("the new one is not counted twice", attrs(2, 1, Disk), &known, Some(1)),
            ("what is gone does not count", attrs(2, 1, Host), &gone, Some(1)),
            ("what has failed does not count", attrs(2, 1, Disk), &flagged, Some(1)),
            ("without attributes", Attrs::default(), &[], None),
        ];
        for (what, attrs, servers, places) in table {
            assert_eq!(gap(&attrs, servers, &new).map(|gap| gap.places), places, "{what}");
        }
    }

    #[test]
    fn the_warning_says_what_to_do() {
        let gap = Gap { normal: 3, minimum: 2, domain: FailureDomain::Host, places: 1, disks: 3 };
        assert_eq!(
            gap.text("stor1"),
            "files in cluster 'stor1' ask for 3 replicas (at least 2) on different hosts, and there is room on 1 host \
             only: nothing can be written until there are more; make chunk servers on other hosts, or ask for less: \
             vstorage -c stor1 set-attr -R -p / replicas=1 or failure-domain=disk"
        );
        let gap = Gap { domain: FailureDomain::Disk, places: 2, disks: 2, ..gap };
        let text = gap.text("stor1");
        assert!(text.contains("on 2 disks only: data will have fewer replicas"), "{text}");
        assert!(text.ends_with("replicas=2"), "{text}");
    }
}
