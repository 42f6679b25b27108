//! Temporary.
#![allow(missing_docs)]
pub mod server {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::rc::Rc;
    use std::time::Duration;
    use link::*;
    use rt::net::{Address, Listener};
    use wire::Op;
    use wire::Status;

    #[derive(Clone, Debug)]
    pub struct ServerOptions { pub security: Security }
    impl Default for ServerOptions { fn default() -> Self { Self { security: Security::real() } } }

    #[derive(Default)]
    struct File { id: u64, path: String, size: u64, chunk: u64, epoch: u64, holder: u64, dirty: bool, chunks: BTreeMap<u64, (u64, bool)> }
    #[derive(Default)]
    pub struct World { files: Vec<File>, cs: BTreeMap<u64, (String, Vec<u8>, u64, u64)>, uuids: BTreeMap<Vec<u8>, u64>, sessions: BTreeMap<u64, (u64, u64)>, next: u64 }
    thread_local! { static W: RefCell<World> = RefCell::default(); }
    pub async fn create(_d: &Path, _c: [u8;16], _n: &str, _a: std::net::SocketAddr) -> Result<(), std::io::Error> { W.with(|w| *w.borrow_mut() = World::default()); Ok(()) }

    struct S { conns: RefCell<BTreeMap<u64, Connection>>, started: u64 }
    const TERM: u64 = 8_000_000_000;
    const CSTERM: u64 = 4_000_000_000;
    fn now() -> u64 { rt::time::now().as_nanos() }
    fn ok<M: prost::Message>(m: &M) -> Response { Response::ok(m.encode_to_vec()) }
    fn err(s: Status) -> Response { Response::failure(s, &wire::ErrorBody::default()) }
    fn map_of(f: &File, w: &World, from: u64, count: u64) -> wire::lease::MapReply {
        use wire::lease::*;
        MapReply {
            chunks: f.chunks.range(from..from+count).map(|(&index, &(id, rec))| ChunkMap { index, chunk_id: id, version: 1, members: w.cs.keys().enumerate().map(|(s, &cs_id)| Member { cs_id, state: MemberState::Member.into(), slot: s as u32 }).collect(), needs_reconcile: rec, blocked: false }).collect(),
            servers: w.cs.iter().map(|(&cs_id, (a, b, _, _))| CsAddress { cs_id, addresses: vec![a.clone()], boot_id: b.clone() }).collect(),
            next_index: 0,
        }
    }
    impl S {
        async fn fence(&self, file: u64, epoch: u64, until: u64) -> bool {
            let ids: Vec<u64> = W.with(|w| w.borrow().cs.keys().copied().collect());
            for id in ids {
                loop {
                    if now() > until { return false; }
                    let conn = self.conns.borrow().get(&id).cloned().filter(|c| c.is_open());
                    if let Some(c) = conn {
                        let r = c.ask(&wire::cs::Fence { items: vec![wire::cs::FenceItem { file_id: file, epoch }], last: false }, rt::time::now() + Duration::from_secs(2)).await;
                        if matches!(&r, Ok(r) if r.results.iter().all(|x| x.status == 0)) { break; }
                    }
                    let lapsed = W.with(|w| w.borrow().cs[&id].2 + CSTERM < now()) && now() > self.started + CSTERM;
                    if lapsed { W.with(|w| { let mut w = w.borrow_mut(); let n = now(); w.cs.get_mut(&id).unwrap().3 = n; }); break; }
                    rt::time::sleep(Duration::from_millis(50)).await;
                }
            }
            true
        }
    }
    impl Service for S {
        async fn serve(self: Rc<Self>, c: Connection, r: Request) -> Response {
            let Some(op) = r.known_op() else { return err(Status::Unsupported) };
            match op {
                Op::SetConfig => ok(&wire::hello::Empty {}),
                Op::Create => {
                    let m: wire::namespace::Create = wire::decode_body(&r.body).unwrap();
                    W.with(|w| { let mut w = w.borrow_mut(); w.next += 1; let id = w.next; if !w.files.iter().any(|f| f.path == m.path) { w.files.push(File { id, path: m.path, size: m.size, chunk: m.attrs.chunk_size.unwrap(), ..File::default() }); } });
                    ok(&wire::namespace::FileReply::default())
                }
                Op::RegisterCs => {
                    let m: wire::cs::RegisterCs = wire::decode_body(&r.body).unwrap();
                    let id = W.with(|w| { let mut w = w.borrow_mut(); let n = w.uuids.len() as u64 + 1025; let id = *w.uuids.entry(m.cs_uuid.clone()).or_insert(n); w.cs.insert(id, (m.addresses[0].clone(), m.boot_id.clone(), now(), 0)); id });
                    self.conns.borrow_mut().insert(id, c);
                    let fences = W.with(|w| w.borrow().files.iter().map(|f| wire::cs::FenceItem { file_id: f.id, epoch: f.epoch }).collect());
                    ok(&wire::cs::RegisterCsReply { cs_id: id, term_ms: 4000, fences, stale: false, session: 1, report_all: false, more_fences: false })
                }
                Op::Heartbeat => {
                    let m: wire::cs::Heartbeat = wire::decode_body(&r.body).unwrap();
                    W.with(|w| w.borrow_mut().cs.get_mut(&m.cs_id).unwrap().2 = now());
                    ok(&wire::cs::HeartbeatReply { term_ms: 4000 })
                }
                Op::OpenSession => {
                    let m: wire::session::OpenSession = wire::decode_body(&r.body).unwrap();
                    let id = u64::from(m.client_uuid[0]);
                    let token = W.with(|w| { let mut w = w.borrow_mut(); let t = w.sessions.get(&id).map_or(1, |s| s.1 + 1); w.sessions.insert(id, (now(), t)); t });
                    ok(&wire::session::OpenSessionReply { session: wire::session::SessionKey { client_id: id, token: token.to_le_bytes().to_vec() }, term_ms: 8000 })
                }
                Op::RenewSession => {
                    let m: wire::session::RenewSession = wire::decode_body(&r.body).unwrap();
                    let good = W.with(|w| { let mut w = w.borrow_mut(); match w.sessions.get_mut(&m.session.client_id) { Some(s) if s.1.to_le_bytes().to_vec() == m.session.token && s.0.max(self.started) + TERM > now() => { s.0 = now(); true } _ => false } });
                    if good { ok(&wire::session::RenewSessionReply { term_ms: 8000, ..Default::default() }) } else { err(Status::SessionExpired) }
                }
                Op::CloseSession => ok(&wire::hello::Empty {}),
                Op::Open => {
                    let m: wire::lease::Open = wire::decode_body(&r.body).unwrap();
                    let me = m.session.client_id;
                    let until = r.deadline.map_or(now() + 5_000_000_000, |d| d.as_nanos());
                    let look = |w: &World| w.files.iter().position(|f| match &m.file { Some(wire::namespace::FileRef::Path(p)) => *p == f.path, Some(wire::namespace::FileRef::Id(i)) => *i == f.id, None => false });
                    let Some(ix) = W.with(|w| look(&w.borrow())) else { return err(Status::NotFound) };
                    loop {
                        let free = W.with(|w| { let w = w.borrow(); let f = &w.files[ix]; f.holder == 0 || f.holder == me || w.sessions.get(&f.holder).is_none_or(|s| s.0.max(self.started) + TERM < now()) });
                        if free { break; }
                        if now() > until { return err(Status::LeaseHeld); }
                        rt::time::sleep(Duration::from_millis(100)).await;
                    }
                    let (id, epoch, dirty) = W.with(|w| { let mut w = w.borrow_mut(); let f = &mut w.files[ix];
                        if m.resume_epoch != 0 && f.epoch != m.resume_epoch { return (0, 0, false); }
                        f.epoch += 1; if f.holder != 0 { f.dirty = true; } f.holder = me; if f.dirty { for c in f.chunks.values_mut() { c.1 = true; } } (f.id, f.epoch, f.dirty) });
                    if id == 0 { return err(Status::Forbidden); }
                    if dirty && !self.fence(id, epoch, until).await { return err(Status::Retry); }
                    W.with(|w| { let w = w.borrow(); let f = &w.files[ix]; if f.epoch != epoch { return err(Status::Retry); }
                        ok(&wire::lease::OpenReply { file_id: f.id, epoch: f.epoch, size: f.size, chunk_size: f.chunk, attrs: Default::default(), needs_reconcile: f.dirty, map: map_of(f, &w, 0, 1000) }) })
                }
                Op::Release => {
                    let m: wire::lease::Release = wire::decode_body(&r.body).unwrap();
                    W.with(|w| { let mut w = w.borrow_mut(); if let Some(f) = w.files.iter_mut().find(|f| f.id == m.file_id && f.epoch == m.epoch) { let pend = f.chunks.values().any(|c| c.1); f.holder = 0; f.dirty = !m.clean || pend; } });
                    ok(&wire::hello::Empty {})
                }
                Op::GetMap => {
                    let m: wire::lease::GetMap = wire::decode_body(&r.body).unwrap();
                    W.with(|w| { let w = w.borrow(); let f = w.files.iter().find(|f| f.id == m.file_id).unwrap(); if f.epoch != m.epoch { return err(Status::StaleEpoch); } ok(&map_of(f, &w, m.first_index, m.count.into())) })
                }
                Op::ReconcileDone => {
                    let m: wire::lease::ReconcileDone = wire::decode_body(&r.body).unwrap();
                    W.with(|w| { let mut w = w.borrow_mut(); let f = w.files.iter_mut().find(|f| f.id == m.file_id).unwrap(); if f.epoch != m.epoch { return err(Status::StaleEpoch); } for c in f.chunks.values_mut() { if c.0 == m.chunk_id { c.1 = false; } } ok(&wire::hello::Empty {}) })
                }
                Op::AllocateChunks => {
                    let m: wire::lease::AllocateChunks = wire::decode_body(&r.body).unwrap();
                    let index = m.indices[0];
                    let Some((id, size, epoch)) = W.with(|w| { let mut w = w.borrow_mut(); let fi = w.files.iter().position(|f| f.id == m.file_id).unwrap(); if w.files[fi].epoch != m.epoch { return None; } if let Some(&(id, _)) = w.files[fi].chunks.get(&index) { return Some((id, w.files[fi].chunk, m.epoch)); } w.next += 1; let id = w.next; Some((id, w.files[fi].chunk, m.epoch)) }) else { return err(Status::StaleEpoch) };
                    let ids: Vec<u64> = W.with(|w| w.borrow().cs.keys().copied().collect());
                    for cs in ids {
                        let conn = self.conns.borrow().get(&cs).cloned();
                        let Some(conn) = conn else { return err(Status::Retry) };
                        let req = wire::cs::CreateChunks { items: vec![wire::cs::CreateItem { chunk_id: id, version: 1, file_id: m.file_id, size_bytes: size, layout: 0, slot: 0, epoch }] };
                        let r = conn.ask(&req, rt::time::now() + Duration::from_secs(3)).await;
                        if !matches!(&r, Ok(r) if r.results.iter().all(|x| x.status == 0)) { return err(Status::Retry); }
                    }
                    W.with(|w| { let mut w = w.borrow_mut(); let fi = w.files.iter().position(|f| f.id == m.file_id).unwrap(); if w.files[fi].epoch != m.epoch { return err(Status::StaleEpoch); } w.files[fi].chunks.entry(index).or_insert((id, false)); let f = &w.files[fi]; ok(&map_of(f, &w, index, 1)) })
                }
                _ => err(Status::Unsupported),
            }
        }
    }
    pub async fn run_server(_d: &Path, credentials: Credentials, address: std::net::SocketAddr, options: ServerOptions) -> Result<(), std::io::Error> {
        let mut hello = LocalHello::new(wire::hello::Role::Mds, rt::node::boot_id()?); hello.mds_id = 1;
        let endpoint = Endpoint::new(credentials, hello, Options { security: options.security, ..Options::default() }).map_err(std::io::Error::other)?;
        let listener = Listener::bind(&Address::Tcp(std::net::SocketAddr::new(address.ip(), address.port() + 1)))?;
        endpoint.serve(listener, Rc::new(S { conns: RefCell::default(), started: now() })).await;
        Ok(())
    }
}
