//! The clients that people use.

use std::path::Path;

use rt::random::Rng;
use ublk_target::nbd::ServeOptions;

use crate::server::{MIB, Server, run};
use crate::tools::{installed, quick, succeed};

const QEMU_IMG: (&str, &str) = ("qemu-img", "qemu-utils");
const QEMU_IO: (&str, &str) = ("qemu-io", "qemu-utils");
const NBDINFO: (&str, &str) = ("nbdinfo", "libnbd-bin");
const NBDCOPY: (&str, &str) = ("nbdcopy", "libnbd-bin");
const FIO: (&str, &str) = ("fio", "fio");

/// A disk image with data, zeroes that are allocated, and holes.
fn make_image(path: &Path, size: u64) -> Vec<u8> {
    let mut rng = Rng::from_seed(5);
    let mut image = vec![0; size as usize];
    for _ in 0..40 {
        let len = 1 + rng.below(size / 40) as usize;
        let at = rng.below(size - len as u64) as usize;
        rng.fill(&mut image[at..at + len]);
    }
    image[..70_000].fill(0);
    std::fs::write(path, &image).expect("room for an image");
    image
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

#[test]
fn qemu_img_and_nbdinfo_describe_the_export() {
    if !installed("qemu_img_and_nbdinfo_describe_the_export", &[QEMU_IMG, NBDINFO]) {
        return;
    }
    run(async {
        let options =
            ServeOptions { name: "vol".into(), description: "a volume".into(), ..ServeOptions::default() };
        let server = Server::start(64 * MIB, options).await;
        let info = succeed("qemu-img", &["info", "--output=json", &server.uri()]).await;
        assert!(info.contains("\"virtual-size\": 67108864"), "{info}");
        let info = succeed("nbdinfo", &[&server.uri()]).await;
        for line in [
            "export-size: 67108864",
            "export=\"vol\"",
            "description: a volume",
            "can_multi_conn: true",
            "can_df: true",
            "can_fast_zero: true",
            "can_flush: true",
            "can_fua: true",
            "can_trim: true",
            "can_zero: true",
            "can_cache: true",
            "is_read_only: false",
            "base:allocation",
            "using structured packets",
        ] {
            assert!(info.contains(line), "{line:?} is missing in {info}");
        }
        let list = succeed("nbdinfo", &["--list", &server.uri()]).await;
        assert!(list.contains("export=\"vol\""), "{list}");
        server.stop().await;
    });
}

#[test]
fn an_image_goes_in_and_comes_out_unchanged_with_qemu() {
    let name = "an_image_goes_in_and_comes_out_unchanged_with_qemu";
    if !installed(name, &[QEMU_IMG, QEMU_IO, NBDINFO]) {
        return;
    }
    run(async {
        let size = if quick() { 16 * MIB } else { 128 * MIB };
        let server = Server::start(size, ServeOptions::default()).await;
        let (image, back) = (server.path("image"), server.path("back"));
        let expected = make_image(&image, size);
        let uri = server.uri();
        succeed(
            "qemu-img",
            &["convert", "-n", "-W", "-m", "8", "-f", "raw", "-O", "raw", text(&image), &uri],
        )
        .await;
        assert!(std::fs::read(server.file()).unwrap() == expected, "the device holds the image");
        succeed("qemu-img", &["compare", "-f", "raw", "-F", "raw", text(&image), &uri]).await;
        succeed("qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, text(&back)]).await;
        assert!(std::fs::read(&back).unwrap() == expected);
        // Where the image has only zeroes the volume has holes.
        let map = succeed("nbdinfo", &["--map", &uri]).await;
        let first = map.lines().next().unwrap_or_default();
        assert!(first.trim_start().starts_with('0') && first.ends_with("hole,zero"), "{map}");
        let commands = [
            "write -P 0xaa 1M 64k",
            "write -f -P 0xbb 4097 513",
            "write -z 2M 1M",
            "write -z -u 3M 1M",
            "discard 4M 1M",
            "aio_write -P 0xcc 6M 2M",
            "aio_flush",
            "flush",
            "read -P 0xaa 1M 64k",
            "read -P 0xbb 4097 513",
            "read -P 0 2M 2M",
            "read -P 0xcc 6M 2M",
        ];
        let mut args = vec!["-f", "raw"];
        args.extend(commands.iter().flat_map(|command| ["-c", command]));
        args.push(&uri);
        let said = succeed("qemu-io", &args).await;
        assert!(!said.contains("failed"), "{said}");
        server.stop().await;
    });
}

#[test]
fn nbdcopy_copies_over_several_connections() {
    if !installed("nbdcopy_copies_over_several_connections", &[NBDCOPY]) {
        return;
    }
    run(async {
        let size = if quick() { 16 * MIB } else { 128 * MIB };
        for tcp in [false, true] {
            let server = match tcp {
                true => Server::start_tcp(size).await,
                false => Server::start(size, ServeOptions::default()).await,
            };
            let (image, back) = (server.path("image"), server.path("back"));
            let expected = make_image(&image, size);
            let uri = server.uri();
            let wide = ["--connections=4", "--requests=64", "--flush"];
            succeed("nbdcopy", &[&wide[..], &[text(&image), &uri]].concat()).await;
            assert!(std::fs::read(server.file()).unwrap() == expected);
            succeed("nbdcopy", &[&wide[..], &[&uri, text(&back)]].concat()).await;
            assert!(std::fs::read(&back).unwrap() == expected);
            server.stop().await;
        }
    });
}

#[test]
fn fio_finds_what_it_wrote() {
    if !installed("fio_finds_what_it_wrote", &[FIO]) {
        return;
    }
    run(async {
        let server = Server::start(256 * MIB, ServeOptions::default()).await;
        let uri = format!("--uri={}", server.uri());
        let amount = if quick() { "--io_size=8m" } else { "--io_size=96m" };
        let shared = [
            "--name=verify",
            "--ioengine=nbd",
            &uri,
            "--size=64m",
            amount,
            "--rw=randrw",
            "--iodepth=32",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--fsync=64",
            "--randrepeat=1",
            "--verify_state_save=0",
        ];
        let sizes = ["--bsrange=512-256k", "--bs=4k"];
        for sizes in if quick() { &sizes[..1] } else { &sizes[..] } {
            let said = succeed("fio", &[&shared[..], &[*sizes]].concat()).await;
            assert!(said.contains("err= 0"), "{said}");
        }
        server.stop().await;
    });
}
