//! `make`: a directory becomes a chunk server of the cluster.

use std::process::ExitCode;

use link::cluster_dir::{HostDirs, ServiceKind, add_local_service};

use super::discovery::Servers;
use super::{Failure, MakeArgs, device, endpoint};
use crate::engine::{self, CreateOptions, Engine, EngineOptions};
use crate::format::superblock::{OtherJournal, Superblock};
use crate::server::{Registrar, RegistrarOptions, Server};

/// Size of a journal beside the chunks, in bytes.
pub(super) const INTERNAL_JOURNAL: u64 = 256 << 20;

pub(super) async fn make(args: MakeArgs) -> Result<ExitCode, Failure> {
    let dirs = HostDirs::from_environment();
    let host_id = dirs.host_id().await.map_err(Failure::io("cannot find out the host id"))?;
    let endpoint = endpoint(&dirs, &args.cluster, 0).await?;
    let mds = Servers::load(&dirs, &args.cluster).await?.addresses().await?;
    let absolute = |path: &std::path::Path| std::path::absolute(path).map_err(Failure::io("bad path"));
    let dir = absolute(&args.repository)?;
    let journal_dir = args.journal.as_deref().map(absolute).transpose()?;
    let boot_id = rt::node::boot_id().map_err(Failure::io("cannot read the boot id"))?;
    rt::fs::create_dir_all(&dir).await.map_err(Failure::io("cannot make the directory"))?;
    let journal_bytes = match args.journal_size {
        Some(megabytes) => megabytes.saturating_mul(1 << 20),
        None => INTERNAL_JOURNAL,
    };
    let random = || {
        let mut id = [0; 16];
        rt::random::fill_secret(&mut id);
        id
    };
    let superblock = Superblock {
        sequence: 1,
        cluster: endpoint.credentials().identity().cluster.0,
        cluster_name: args.cluster.clone(),
        cs_uuid: random(),
        cs_id: 0,
        store_uuid: random(),
        journal_generation: 1,
        nonce: [0; 16],
        nonce_offered: [0; 16],
        boot_id,
        incarnation: 0,
        tier: args.tier,
        no_checksums: args.no_checksums,
        ssd_journal: args.tune.is_some(),
        block_atomic: device::is_block_atomic(&dir),
        failed: false,
        failed_journal: false,
        journal_bytes,
        journal_dir,
        listen: args.address.map(|address| address.to_string()).unwrap_or_default(),
        other_journal: OtherJournal::None,
    };
    let options = CreateOptions { dir: dir.clone(), superblock };
    engine::create(&options).await?;
    let joined = join(&dir, endpoint, mds, host_id).await;
    let joined = match joined {
        Ok(joined) => joined,
        Err(failure) => {
            engine::remove_created(&options).await;
            return Err(failure);
        }
    };
    add_local_service(&dirs, &args.cluster, ServiceKind::Cs, &dir)
        .await
        .map_err(Failure::io("cannot note the new chunk server in services.list"))?;
    println!("CS#{} made in {} for cluster {:?}", joined.cs_id, dir.display(), args.cluster);
    Ok(ExitCode::SUCCESS)
}

async fn join(
    dir: &std::path::Path,
    endpoint: link::Endpoint,
    mds: Vec<rt::net::Address>,
    host_id: String,
) -> Result<crate::server::Joined, Failure> {
    let lock = engine::lock_directory(dir).await?;
    let engine = Engine::open(dir, lock, EngineOptions::default()).await?;
    let boot_id = rt::node::boot_id().map_err(Failure::io("cannot read the boot id"))?;
    let server = Server::new(std::rc::Rc::clone(&engine), boot_id);
    let options = RegistrarOptions { mds, addresses: Vec::new(), host_id, path: dir.to_owned() };
    let joined = Registrar::new(server, endpoint.clone(), options).join().await;
    endpoint.close().await;
    engine.stop().await;
    Ok(joined?)
}
