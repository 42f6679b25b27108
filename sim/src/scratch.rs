//! Files that are deleted while they are open: they live until their last lease ends (C9).

use std::rc::Rc;
use std::time::Duration;

use client::{OpenOptions, Servers, Session, Volume};
use link::Master;
use rt::buf::Buf;
use wire::namespace::Remove;

use crate::cluster;
use crate::oracle::{Oracle, SECTOR};
use crate::workload::{Job, Shared};

/// Bytes of such a file.
const BYTES: u64 = 64 << 10;
/// The longest life of one after its deletion: longer than quarantine lasts in these runs.
const LIFE_MAX_MS: u64 = 9_000;

/// Makes a file, deletes it while it is open, and reads it once more after a while.
pub async fn live_on(shared: &Rc<Shared>, session: &Rc<Session>, servers: &Rc<Servers>, job: &Job) {
    let number = shared.scratches.get();
    shared.scratches.set(number + 1);
    let path = format!("/scratch{number}");
    let patience = || rt::time::now() + Duration::from_secs(10);
    if let Err(error) = session.master().ask(&cluster::new_file(path.clone(), BYTES), patience()).await {
        rt::sim::trace(|| format!("making {path}: {error}"));
        // It may have been made all the same.
        let _unknown = session.master().ask(&Remove { path, recursive: false }, patience()).await;
        return;
    }
    let opened = written(session, servers, &path, job, number).await;
    let removed = session.master().ask(&Remove { path: path.clone(), recursive: false }, patience()).await;
    let (volume, generation) = match opened {
        Ok(opened) => opened,
        Err(error) => return rt::sim::trace(|| format!("{path}: {error}")),
    };
    if removed.is_ok() {
        rt::sim::hit("client.deleted-while-open");
        rt::time::sleep(Duration::from_millis(rt::random::below(LIFE_MAX_MS))).await;
    }
    match volume.read_whole(0, BYTES as usize).await {
        Ok(data) => {
            let bytes = data.chunks(SECTOR as usize);
            if let Some(sector) = bytes.zip(0..).find_map(|(bytes, sector)| {
                (bytes != Oracle::content(job.client as u64, sector, number + 1)).then_some(sector)
            }) {
                shared.violation(format!("C9: {path}, deleted while it is open, has lost sector {sector}"));
            }
        }
        // The lease has ended, and with it the file; but not as long as the session is what it was.
        Err(error) => {
            if session.valid().await.is_ok() && session.generation() == generation {
                shared.violation(format!("C9: {path}, deleted while it is open: {error}"));
            }
        }
    }
    if let Err(error) = volume.close().await {
        rt::sim::trace(|| format!("closing {path}: {error}"));
    }
}

/// Deletes what clients that died have left: nobody opens it any more, so that nobody would settle it (C5).
pub async fn clear(shared: &Shared, master: &Master) {
    for number in 0..shared.scratches.get() {
        let request = Remove { path: format!("/scratch{number}"), recursive: false };
        // Most of them are gone.
        if let Err(error) = master.ask(&request, rt::time::now() + Duration::from_secs(10)).await {
            rt::sim::trace(|| format!("{}: {error}", request.path));
        }
    }
}

/// Opens the file and writes all of it, durably; also the generation of the session that has the lease.
async fn written(
    session: &Rc<Session>,
    servers: &Rc<Servers>,
    path: &str,
    job: &Job,
    number: u64,
) -> Result<(Volume, u64), Box<dyn std::error::Error>> {
    let options = OpenOptions { write: true, patience: Duration::from_secs(20) };
    let generation = session.generation();
    let volume = Volume::open(session, servers, path, &options).await?;
    let mut data = Buf::new(BYTES as usize);
    for (bytes, sector) in data.chunks_mut(SECTOR as usize).zip(0..) {
        bytes.copy_from_slice(&Oracle::content(job.client as u64, sector, number + 1));
    }
    volume.write(0, data.freeze()).await?;
    volume.flush().await?;
    Ok((volume, generation))
}
