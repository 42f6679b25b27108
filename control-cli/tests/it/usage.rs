//! Command lines that make no sense, and hosts that know too little.

use crate::host::Host;

#[test]
fn what_makes_no_sense_ends_with_2_and_is_said() {
    let host = Host::new();
    host.write_list("stor1", "127.0.0.1:1\n");
    let table: [(&[&str], &str); 18] = [
        (&[], "Usage: vstorage"),
        (&["frobnicate"], "frobnicate"),
        (&["create", "/a/../b", "--size", "1G"], "the path must not contain \"..\""),
        (&["create", "/", "--size", "1G"], "top directory"),
        (&["create", "/a", "--size", "1G", "tier=1", "tier=2"], "given twice"),
        (&["stat", "a"], "do you mean /a?"),
        (&["get-attr", "/"], "this host has no cluster mounted there ("),
        (&["get-attr", "/"], "give a path within the cluster with -p, such as -p /"),
        (&["set-attr", "-R", "/vstorage/stor1", "replicas=3"], "or a path within the cluster with -p"),
        (&["get-attr", "-p", "/.."], "must not contain \"..\""),
        (&["set-attr", "-p", "/"], "no attribute to set"),
        (&["set-attr", "-p", "/", "raid=5"], "there is no attribute \"raid\""),
        (&["rm", "-r", "/"], "top directory"),
        (&["make-mds", "-a", "10.0.0.1", "-r", "/x"], "add -I"),
        (&["make-mds", "-a", "10.0.0.2:2510", "-r", "/x", "-b", "10.0.0.1"], "add -I"),
        (&["make-mds", "-I", "-a", "10.0.0.1", "-r", "/x"], "name the new cluster with -c NAME"),
        (&["make-cs", "-r", "/x/../y"], "without \"..\""),
        (&["export", "--nbd", &"/x".repeat(60), "/vm1"], "107 bytes"),
    ];
    for (args, part) in table {
        let ended = host.run(args);
        assert!(ended.failed(2).contains(part), "{args:?}: {ended:?}");
    }
}

#[test]
fn help_and_version_are_results() {
    let host = Host::new();
    assert_eq!(host.run(&["--version"]).done(), concat!("vstorage ", env!("CARGO_PKG_VERSION"), "\n"));
    assert!(host.run(&["--help"]).done().contains("vstorage -c stor1 make-mds -I"));
    assert!(host.run(&["help", "make-cs"]).done().contains("-s 30720 -T ssd"));
    assert!(!host.run(&["--help"]).done().contains("detached"));
}

#[test]
fn a_host_that_knows_too_little_says_what_is_missing() {
    let host = Host::new();
    assert!(
        host.run(&["stat"]).failed(2).contains("name the cluster with -c NAME; this host knows no cluster")
    );
    let unknown = host.run(&["-c", "stor1", "stat"]);
    let text = unknown.failed(1);
    assert!(text.contains("no list of the metadata servers of cluster 'stor1'"), "{text}");
    assert!(text.contains("echo 10.30.100.101:2510 >> "), "{text}");
    host.write_list("stor1", "127.0.0.1:1\n");
    let text = host.run(&["stat"]).failed(1).to_owned();
    assert!(
        text.contains("not authenticated in cluster 'stor1'") && text.contains("auth_digest.key"),
        "{text}"
    );
    std::fs::write(host.cluster_file("stor1", "auth_digest.key"), "garbage").unwrap();
    let text = host.run(&["stat"]).failed(1).to_owned();
    assert!(text.contains("cannot use the credentials in"), "{text}");
    host.write_list("stor2", "127.0.0.1:1\n");
    assert!(host.run(&["stat"]).failed(2).contains("this host knows: stor1, stor2"));
    assert!(host.run(&["-c", "../x", "stat"]).failed(1).contains("is no cluster name"));
    assert!(host.run(&["-c", "stor1", "start-service"]).failed(1).contains("no services on this host"));
}

#[test]
fn a_log_file_that_cannot_be_written_is_an_error() {
    let host = Host::new();
    let text = host.run(&["--log-file", "/nowhere/at/all.log", "ls"]).failed(1).to_owned();
    assert!(text.contains("cannot write the log file /nowhere/at/all.log"), "{text}");
}
