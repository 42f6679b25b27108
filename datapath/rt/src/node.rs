//! Who we are: the host and its boot.

use std::io;

use crate::context::{self, Driver};

/// The identity of this boot of the host: it changes with every reboot (C10).
///
/// # Errors
/// When `/proc/sys/kernel/random/boot_id` cannot be read or is not a UUID.
pub fn boot_id() -> io::Result<[u8; 16]> {
    let simulated = context::with(|core| match &core.driver {
        Driver::Uring(_) => None,
        Driver::Sim(world) => Some(world.boot_id(core.tasks.owner.get())),
    });
    if let Some(id) = simulated {
        return Ok(id);
    }
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    parse_uuid(text.trim()).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "boot_id is not a UUID"))
}

/// The name of the host.
#[must_use]
pub fn host_name() -> String {
    let simulated = context::with(|core| match &core.driver {
        Driver::Uring(_) => None,
        Driver::Sim(world) => Some(world.host_name(core.tasks.owner.get())),
    });
    simulated.unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned())
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|&byte| byte != b'-')
        .map(|byte| (byte as char).to_digit(16).map(|d| d as u8))
        .collect::<Option<_>>()?;
    let mut id = [0; 16];
    if digits.len() != 32 {
        return None;
    }
    for (byte, pair) in id.iter_mut().zip(digits.chunks(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    Some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_read_with_and_without_dashes() {
        let id = parse_uuid("00112233-4455-6677-8899-aabbccddeeff").unwrap();
        assert_eq!(id[1], 0x11);
        assert_eq!(id[15], 0xff);
        assert_eq!(parse_uuid("00112233445566778899aabbccddeeff"), Some(id));
        assert_eq!(parse_uuid("0011"), None);
        assert_eq!(parse_uuid("zz112233-4455-6677-8899-aabbccddeeff"), None);
    }
}
