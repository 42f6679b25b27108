//! scratch
use client::*;
use link::{Expect, Keep, Master};
use std::rc::Rc;
fn main() {
    let path = std::env::args().nth(2).unwrap();
    let cluster = std::env::args().nth(1).unwrap();
    rt::Executor::start(&rt::ExecutorOptions::default()).unwrap().run(async move {
        let host = HostCluster::load(&cluster).await.unwrap();
        let master = Rc::new(Master::new(
            &host.endpoint,
            host.servers,
            Keep::new(Expect::role(wire::hello::Role::Mds)),
        ));
        let m = Membership::begin(
            master,
            wire::session::ClientKind::Nbd,
            None,
            std::time::Duration::from_secs(30),
        )
        .await
        .unwrap();
        let servers = Servers::new(host.endpoint.clone());
        let v = Volume::open(
            m.session(),
            &servers,
            &path,
            &OpenOptions { write: true, patience: std::time::Duration::from_secs(30) },
        )
        .await
        .unwrap();
        for (name, write) in [("write", true), ("read", false), ("write", true), ("read", false)] {
            let mut times = Vec::new();
            for i in 0..20000u64 {
                let at = (i * 7919 % (v.size() / 4096)) * 4096;
                let t = rt::time::now();
                if write {
                    v.write(at, rt::buf::Buf::zeroed(4096).freeze()).await.unwrap();
                } else {
                    v.read(at, 4096).await.unwrap();
                }
                times.push(t.elapsed().as_nanos() as u64);
            }
            times.sort();
            println!(
                "library {name}: p50 {} us  mean {} us",
                times[10000] / 1000,
                times.iter().sum::<u64>() / 20000 / 1000
            );
        }
        v.close().await.unwrap();
        m.end().await;
    });
}
