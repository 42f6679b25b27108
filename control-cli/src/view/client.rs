//! Clients.

use serde::Serialize;
use wire::session::{ClientInfo, ClientKind};

use super::io::IoView;
use crate::table::{Column, Row};
use crate::units::{elapsed, latencies, ops, rate};

/// A client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ClientView {
    /// Its id.
    client_id: u64,
    /// What it is.
    kind: &'static str,
    /// Its host.
    host: String,
    /// Where it is connected from.
    address: String,
    /// Files open for reading.
    leases_read: u32,
    /// Files open for writing.
    leases_write: u32,
    /// I/O since the session began.
    io: IoView,
    /// I/O per second.
    io_rate: IoView,
    /// Average latency.
    latency_us_avg: u64,
    /// Longest latency.
    latency_us_max: u64,
    /// Age of the session.
    age_ms: u64,
    /// Version of its program.
    version: String,
}

impl From<&ClientInfo> for ClientView {
    fn from(info: &ClientInfo) -> Self {
        let kind = match info.kind() {
            ClientKind::Unspecified => "unknown",
            ClientKind::Mount => "mount",
            ClientKind::Ublk => "ublk",
            ClientKind::Nbd => "nbd",
            ClientKind::Iscsi => "iscsi",
            ClientKind::S3 => "s3",
            ClientKind::Tool => "tool",
        };
        Self {
            client_id: info.client_id,
            kind,
            host: info.host_name.clone(),
            address: info.address.clone(),
            leases_read: info.leases_read,
            leases_write: info.leases_write,
            io: (&info.io).into(),
            io_rate: (&info.io_rate).into(),
            latency_us_avg: info.io_rate.latency_us_avg,
            latency_us_max: info.io_rate.latency_us_max,
            age_ms: info.age_ms,
            version: info.software.clone(),
        }
    }
}

impl ClientView {
    fn leases(&self) -> String {
        format!("{}/{}", self.leases_read, self.leases_write)
    }
}

impl Row for ClientView {
    const COLUMNS: &'static [Column] = &[
        Column::number("CLID"),
        Column::number("LEASES"),
        Column::number("READ"),
        Column::number("WRITE"),
        Column::number("RD_OPS"),
        Column::number("WR_OPS"),
        Column::number("FSYNCS"),
        Column::number("IOLAT(ms)"),
        Column::text("HOST"),
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.client_id.to_string(),
            self.leases(),
            rate(self.io_rate.read_bytes),
            rate(self.io_rate.write_bytes),
            ops(self.io_rate.read_ops),
            ops(self.io_rate.write_ops),
            ops(self.io_rate.flushes),
            latencies(self.latency_us_avg, self.latency_us_max),
            self.host.clone(),
        ]
    }
}

/// A client in a list of who and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct ClientPlace(pub(crate) ClientView);

impl Row for ClientPlace {
    const COLUMNS: &'static [Column] = &[
        Column::number("CLID"),
        Column::text("KIND"),
        Column::number("LEASES"),
        Column::number("AGE"),
        Column::text("ADDRESS"),
        Column::text("HOST"),
        Column::text("VERSION"),
    ];

    fn cells(&self) -> Vec<String> {
        let client = &self.0;
        vec![
            client.client_id.to_string(),
            client.kind.to_owned(),
            client.leases(),
            elapsed(client.age_ms),
            client.address.clone(),
            client.host.clone(),
            client.version.clone(),
        ]
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use wire::session::IoStats;

    use super::*;
    use crate::table::draw;

    /// A client as an MDS describes it.
    pub(crate) fn sample() -> ClientInfo {
        ClientInfo {
            client_id: 2053,
            host_name: "s4".into(),
            address: "10.30.24.74:40112".into(),
            kind: ClientKind::Nbd.into(),
            leases_read: 0,
            leases_write: 1,
            io: IoStats { write_bytes: 1 << 30, write_ops: 262_144, ..Default::default() },
            io_rate: IoStats {
                read_bytes: 1 << 20,
                write_bytes: 3 << 19,
                read_ops: 256,
                write_ops: 384,
                flushes: 2,
                latency_us_avg: 900,
                latency_us_max: 12_400,
                ..Default::default()
            },
            age_ms: 33 * 60_000,
            software: "0.1.0".into(),
        }
    }

    #[test]
    fn clients_have_the_columns_of_the_guide() {
        let drawn = "\
CLID  LEASES   READ    WRITE    RD_OPS    WR_OPS  FSYNCS  IOLAT(ms)  HOST
2053     0/1  1MB/s  1.5MB/s  256ops/s  384ops/s  2ops/s       1/12  s4
";
        assert_eq!(draw(&[ClientView::from(&sample())]), drawn);
    }

    #[test]
    fn a_list_of_clients_says_what_and_where_they_are() {
        let drawn = "\
CLID  KIND  LEASES     AGE  ADDRESS            HOST  VERSION
2053  nbd      0/1  33 min  10.30.24.74:40112  s4    0.1.0
";
        let place = ClientPlace(ClientView::from(&sample()));
        assert_eq!(draw(std::slice::from_ref(&place)), drawn);
        let json = serde_json::to_value(&place).unwrap();
        assert_eq!(json["client_id"], 2053);
        assert_eq!(json["io_rate"]["write_bytes"], 3 << 19);
        assert_eq!(json["io"]["write_ops"], 262_144);
    }
}
