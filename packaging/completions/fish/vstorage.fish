# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_vstorage_global_optspecs
    string join \n c/cluster= json timeout= log-level= log-file= h/help V/version
end

function __fish_vstorage_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_vstorage_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_vstorage_using_subcommand
    set -l cmd (__fish_vstorage_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c vstorage -n "__fish_vstorage_needs_command" -s c -l cluster -d 'The cluster; if this host knows only one, that is meant' -r
complete -c vstorage -n "__fish_vstorage_needs_command" -l timeout -d 'How long to wait, in seconds [default: 10 for an answer, 120 for services]' -r
complete -c vstorage -n "__fish_vstorage_needs_command" -l log-level -d 'How much to log: off, error, warn, info, debug or trace [default: error, or info with --log-file]' -r -f -a "off\t'Nothing'
error\t'Failures'
warn\t'And what may lead to one'
info\t'And what happens'
debug\t'And how'
trace\t'And every step'"
complete -c vstorage -n "__fish_vstorage_needs_command" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage -n "__fish_vstorage_needs_command" -l json -d 'Results as JSON'
complete -c vstorage -n "__fish_vstorage_needs_command" -s h -l help -d 'Print help'
complete -c vstorage -n "__fish_vstorage_needs_command" -s V -l version -d 'Print version'
complete -c vstorage -n "__fish_vstorage_needs_command" -f -a "make-mds" -d 'Make a cluster and its first metadata server'
complete -c vstorage -n "__fish_vstorage_needs_command" -f -a "auth-node" -d 'Make this host a node of the cluster'
complete -c vstorage -n "__fish_vstorage_needs_command" -f -a "make-cs" -d 'Make a chunk server'
complete -c vstorage -n "__fish_vstorage_needs_command" -f -a "configure-cs" -d 'Add, resize or remove the journal of a chunk server'
complete -c vstorage -n "__fish_vstorage_needs_command" -f -a "configure-mds" -d 'Give the metadata servers of the cluster new addresses'
complete -c vstorage -n "__fish_vstorage_needs_command" -f -a "rm-cs" -d 'Remove chunk servers from the cluster'
complete -c vstorage -n "__fish_vstorage_needs_command" -f -a "rm-mds" -d 'Remove a metadata server from the cluster'
complete -c vstorage -n "__fish_vstorage_needs_command" -f -a "start-service" -d 'Start services of this host'
complete -c vstorage -n "__fish_vstorage_needs_command" -f -a "stop-service" -d 'Stop services of this host'
complete -c vstorage -n "__fish_vstorage_needs_command" -f -a "discover" -d 'Find clusters by their DNS records'
complete -c vstorage -n "__fish_vstorage_needs_command" -f -a "list-services" -d 'List the metadata and chunk servers with their directories'
complete -c vstorage -n "__fish_vstorage_needs_command" -f -a "stat" -d 'Show the state of the cluster, or of a file'
complete -c vstorage -n "__fish_vstorage_needs_command" -f -a "top" -d 'Watch the state of the cluster'
complete -c vstorage -n "__fish_vstorage_needs_command" -f -a "get-event" -d 'Show what happened in the cluster'
complete -c vstorage -n "__fish_vstorage_needs_command" -f -a "list-clients" -d 'List the clients'
complete -c vstorage -n "__fish_vstorage_needs_command" -f -a "revoke" -d 'Take the leases on a file, or those of a client, away'
complete -c vstorage -n "__fish_vstorage_needs_command" -f -a "list-nodes" -d 'List the nodes of the cluster'
complete -c vstorage -n "__fish_vstorage_needs_command" -f -a "revoke-node" -d 'Take a node\'s membership away'
complete -c vstorage -n "__fish_vstorage_needs_command" -f -a "change-password" -d 'Change the password of the cluster'
complete -c vstorage -n "__fish_vstorage_needs_command" -f -a "get-config" -d 'Show the cluster\'s parameters'
complete -c vstorage -n "__fish_vstorage_needs_command" -f -a "set-config" -d 'Change the cluster\'s parameters'
complete -c vstorage -n "__fish_vstorage_needs_command" -f -a "get-attr" -d 'Show the attributes of a file or directory'
complete -c vstorage -n "__fish_vstorage_needs_command" -f -a "set-attr" -d 'Change attributes of a file or directory'
complete -c vstorage -n "__fish_vstorage_needs_command" -f -a "create" -d 'Create a volume or a directory'
complete -c vstorage -n "__fish_vstorage_needs_command" -f -a "ls" -d 'List a directory'
complete -c vstorage -n "__fish_vstorage_needs_command" -f -a "resize" -d 'Change the size of a volume'
complete -c vstorage -n "__fish_vstorage_needs_command" -f -a "mv" -d 'Rename a file or directory'
complete -c vstorage -n "__fish_vstorage_needs_command" -f -a "rm" -d 'Remove a file or directory'
complete -c vstorage -n "__fish_vstorage_needs_command" -f -a "export" -d 'Export a volume as a network block device'
complete -c vstorage -n "__fish_vstorage_needs_command" -f -a "detached" -d 'Leave the terminal\'s session and become a program'
complete -c vstorage -n "__fish_vstorage_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c vstorage -n "__fish_vstorage_using_subcommand make-mds" -s a -l address -d 'The address at which the others reach this server' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand make-mds" -s r -l repository -d 'The directory for its data; 10 GB should be free there' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand make-mds" -s b -l bootstrap -d 'A metadata server of the cluster that this one is to join; this version makes the first one only' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand make-mds" -s c -l cluster -d 'The cluster; if this host knows only one, that is meant' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand make-mds" -l timeout -d 'How long to wait, in seconds [default: 10 for an answer, 120 for services]' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand make-mds" -l log-level -d 'How much to log: off, error, warn, info, debug or trace [default: error, or info with --log-file]' -r -f -a "off\t'Nothing'
error\t'Failures'
warn\t'And what may lead to one'
info\t'And what happens'
debug\t'And how'
trace\t'And every step'"
complete -c vstorage -n "__fish_vstorage_using_subcommand make-mds" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand make-mds" -s I -l init -d 'Make a new cluster'
complete -c vstorage -n "__fish_vstorage_using_subcommand make-mds" -s p -l password -d 'Ask for the password of the new cluster'
complete -c vstorage -n "__fish_vstorage_using_subcommand make-mds" -l json -d 'Results as JSON'
complete -c vstorage -n "__fish_vstorage_using_subcommand make-mds" -s h -l help -d 'Print help'
complete -c vstorage -n "__fish_vstorage_using_subcommand auth-node" -s b -l bootstrap -d 'A metadata server, if this host has no list of them yet; the list is written then' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand auth-node" -l node -d 'The name of this node [default: the name of this host]' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand auth-node" -s c -l cluster -d 'The cluster; if this host knows only one, that is meant' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand auth-node" -l timeout -d 'How long to wait, in seconds [default: 10 for an answer, 120 for services]' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand auth-node" -l log-level -d 'How much to log: off, error, warn, info, debug or trace [default: error, or info with --log-file]' -r -f -a "off\t'Nothing'
error\t'Failures'
warn\t'And what may lead to one'
info\t'And what happens'
debug\t'And how'
trace\t'And every step'"
complete -c vstorage -n "__fish_vstorage_using_subcommand auth-node" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand auth-node" -s P -l password-stdin -d 'Read the password from standard input, even if that is a terminal'
complete -c vstorage -n "__fish_vstorage_using_subcommand auth-node" -l json -d 'Results as JSON'
complete -c vstorage -n "__fish_vstorage_using_subcommand auth-node" -s h -l help -d 'Print help'
complete -c vstorage -n "__fish_vstorage_using_subcommand make-cs" -s r -l repository -d 'The directory for its data, on a disk of its own' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand make-cs" -s t -l tier -d 'Storage tier, 0 to 3 [default: 0]' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand make-cs" -s a -l address -d 'The address at which clients reach it [default: the one that leads to the metadata servers, any port]' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand make-cs" -s j -l journal -d 'The directory for its journal, on an SSD [default: in its own directory]' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand make-cs" -s s -l journal-size -d 'Size of the journal in MB' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand make-cs" -s T -l tune -d 'Tune the journal for flash' -r -f -a "ssd\t'Flash'"
complete -c vstorage -n "__fish_vstorage_using_subcommand make-cs" -s c -l cluster -d 'The cluster; if this host knows only one, that is meant' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand make-cs" -l timeout -d 'How long to wait, in seconds [default: 10 for an answer, 120 for services]' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand make-cs" -l log-level -d 'How much to log: off, error, warn, info, debug or trace [default: error, or info with --log-file]' -r -f -a "off\t'Nothing'
error\t'Failures'
warn\t'And what may lead to one'
info\t'And what happens'
debug\t'And how'
trace\t'And every step'"
complete -c vstorage -n "__fish_vstorage_using_subcommand make-cs" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand make-cs" -s S -l no-checksums -d 'Keep no checksums of the data'
complete -c vstorage -n "__fish_vstorage_using_subcommand make-cs" -l json -d 'Results as JSON'
complete -c vstorage -n "__fish_vstorage_using_subcommand make-cs" -s h -l help -d 'Print help'
complete -c vstorage -n "__fish_vstorage_using_subcommand configure-cs" -s r -l repository -d 'The directory of the chunk server' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand configure-cs" -s a -l add-journal -d 'Add a journal in this directory, on an SSD' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand configure-cs" -s s -l journal-size -d 'Size of the journal in MB' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand configure-cs" -s T -l tune -d 'Tune the journal for flash' -r -f -a "ssd\t'Flash'"
complete -c vstorage -n "__fish_vstorage_using_subcommand configure-cs" -s c -l cluster -d 'The cluster; if this host knows only one, that is meant' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand configure-cs" -l timeout -d 'How long to wait, in seconds [default: 10 for an answer, 120 for services]' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand configure-cs" -l log-level -d 'How much to log: off, error, warn, info, debug or trace [default: error, or info with --log-file]' -r -f -a "off\t'Nothing'
error\t'Failures'
warn\t'And what may lead to one'
info\t'And what happens'
debug\t'And how'
trace\t'And every step'"
complete -c vstorage -n "__fish_vstorage_using_subcommand configure-cs" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand configure-cs" -s d -l destroy-journal -d 'Remove the journal'
complete -c vstorage -n "__fish_vstorage_using_subcommand configure-cs" -l json -d 'Results as JSON'
complete -c vstorage -n "__fish_vstorage_using_subcommand configure-cs" -s h -l help -d 'Print help'
complete -c vstorage -n "__fish_vstorage_using_subcommand configure-mds" -s r -l repository -d 'The directory of the metadata server of this host' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand configure-mds" -s n -l new-address -d 'The new address of a metadata server; give all of them' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand configure-mds" -s c -l cluster -d 'The cluster; if this host knows only one, that is meant' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand configure-mds" -l timeout -d 'How long to wait, in seconds [default: 10 for an answer, 120 for services]' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand configure-mds" -l log-level -d 'How much to log: off, error, warn, info, debug or trace [default: error, or info with --log-file]' -r -f -a "off\t'Nothing'
error\t'Failures'
warn\t'And what may lead to one'
info\t'And what happens'
debug\t'And how'
trace\t'And every step'"
complete -c vstorage -n "__fish_vstorage_using_subcommand configure-mds" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand configure-mds" -l json -d 'Results as JSON'
complete -c vstorage -n "__fish_vstorage_using_subcommand configure-mds" -s h -l help -d 'Print help'
complete -c vstorage -n "__fish_vstorage_using_subcommand rm-cs" -s c -l cluster -d 'The cluster; if this host knows only one, that is meant' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand rm-cs" -l timeout -d 'How long to wait, in seconds [default: 10 for an answer, 120 for services]' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand rm-cs" -l log-level -d 'How much to log: off, error, warn, info, debug or trace [default: error, or info with --log-file]' -r -f -a "off\t'Nothing'
error\t'Failures'
warn\t'And what may lead to one'
info\t'And what happens'
debug\t'And how'
trace\t'And every step'"
complete -c vstorage -n "__fish_vstorage_using_subcommand rm-cs" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand rm-cs" -l wait -d 'Wait until their data is on other chunk servers'
complete -c vstorage -n "__fish_vstorage_using_subcommand rm-cs" -l cancel -d 'Let those stay that are being removed'
complete -c vstorage -n "__fish_vstorage_using_subcommand rm-cs" -s f -l force -d 'Remove those that are lost for ever, with their data'
complete -c vstorage -n "__fish_vstorage_using_subcommand rm-cs" -l json -d 'Results as JSON'
complete -c vstorage -n "__fish_vstorage_using_subcommand rm-cs" -s h -l help -d 'Print help'
complete -c vstorage -n "__fish_vstorage_using_subcommand rm-mds" -s c -l cluster -d 'The cluster; if this host knows only one, that is meant' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand rm-mds" -l timeout -d 'How long to wait, in seconds [default: 10 for an answer, 120 for services]' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand rm-mds" -l log-level -d 'How much to log: off, error, warn, info, debug or trace [default: error, or info with --log-file]' -r -f -a "off\t'Nothing'
error\t'Failures'
warn\t'And what may lead to one'
info\t'And what happens'
debug\t'And how'
trace\t'And every step'"
complete -c vstorage -n "__fish_vstorage_using_subcommand rm-mds" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand rm-mds" -l json -d 'Results as JSON'
complete -c vstorage -n "__fish_vstorage_using_subcommand rm-mds" -s h -l help -d 'Print help'
complete -c vstorage -n "__fish_vstorage_using_subcommand start-service" -s c -l cluster -d 'The cluster; if this host knows only one, that is meant' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand start-service" -l timeout -d 'How long to wait, in seconds [default: 10 for an answer, 120 for services]' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand start-service" -l log-level -d 'How much to log: off, error, warn, info, debug or trace [default: error, or info with --log-file]' -r -f -a "off\t'Nothing'
error\t'Failures'
warn\t'And what may lead to one'
info\t'And what happens'
debug\t'And how'
trace\t'And every step'"
complete -c vstorage -n "__fish_vstorage_using_subcommand start-service" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand start-service" -l no-systemd -d 'Even if systemd runs on this host'
complete -c vstorage -n "__fish_vstorage_using_subcommand start-service" -l json -d 'Results as JSON'
complete -c vstorage -n "__fish_vstorage_using_subcommand start-service" -s h -l help -d 'Print help'
complete -c vstorage -n "__fish_vstorage_using_subcommand stop-service" -s c -l cluster -d 'The cluster; if this host knows only one, that is meant' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand stop-service" -l timeout -d 'How long to wait, in seconds [default: 10 for an answer, 120 for services]' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand stop-service" -l log-level -d 'How much to log: off, error, warn, info, debug or trace [default: error, or info with --log-file]' -r -f -a "off\t'Nothing'
error\t'Failures'
warn\t'And what may lead to one'
info\t'And what happens'
debug\t'And how'
trace\t'And every step'"
complete -c vstorage -n "__fish_vstorage_using_subcommand stop-service" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand stop-service" -l kill -d 'Kill services that have not ended in time'
complete -c vstorage -n "__fish_vstorage_using_subcommand stop-service" -l no-systemd -d 'Even if systemd runs on this host'
complete -c vstorage -n "__fish_vstorage_using_subcommand stop-service" -l json -d 'Results as JSON'
complete -c vstorage -n "__fish_vstorage_using_subcommand stop-service" -s h -l help -d 'Print help'
complete -c vstorage -n "__fish_vstorage_using_subcommand discover" -s c -l cluster -d 'The cluster; if this host knows only one, that is meant' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand discover" -l timeout -d 'How long to wait, in seconds [default: 10 for an answer, 120 for services]' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand discover" -l log-level -d 'How much to log: off, error, warn, info, debug or trace [default: error, or info with --log-file]' -r -f -a "off\t'Nothing'
error\t'Failures'
warn\t'And what may lead to one'
info\t'And what happens'
debug\t'And how'
trace\t'And every step'"
complete -c vstorage -n "__fish_vstorage_using_subcommand discover" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand discover" -l json -d 'Results as JSON'
complete -c vstorage -n "__fish_vstorage_using_subcommand discover" -s h -l help -d 'Print help'
complete -c vstorage -n "__fish_vstorage_using_subcommand list-services" -s c -l cluster -d 'The cluster; if this host knows only one, that is meant' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand list-services" -l timeout -d 'How long to wait, in seconds [default: 10 for an answer, 120 for services]' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand list-services" -l log-level -d 'How much to log: off, error, warn, info, debug or trace [default: error, or info with --log-file]' -r -f -a "off\t'Nothing'
error\t'Failures'
warn\t'And what may lead to one'
info\t'And what happens'
debug\t'And how'
trace\t'And every step'"
complete -c vstorage -n "__fish_vstorage_using_subcommand list-services" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand list-services" -s M -l mds -d 'Metadata servers'
complete -c vstorage -n "__fish_vstorage_using_subcommand list-services" -s C -l cs -d 'Chunk servers'
complete -c vstorage -n "__fish_vstorage_using_subcommand list-services" -s a -l all -d 'All of them, as without any of these'
complete -c vstorage -n "__fish_vstorage_using_subcommand list-services" -l json -d 'Results as JSON'
complete -c vstorage -n "__fish_vstorage_using_subcommand list-services" -s h -l help -d 'Print help'
complete -c vstorage -n "__fish_vstorage_using_subcommand stat" -s c -l cluster -d 'The cluster; if this host knows only one, that is meant' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand stat" -l timeout -d 'How long to wait, in seconds [default: 10 for an answer, 120 for services]' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand stat" -l log-level -d 'How much to log: off, error, warn, info, debug or trace [default: error, or info with --log-file]' -r -f -a "off\t'Nothing'
error\t'Failures'
warn\t'And what may lead to one'
info\t'And what happens'
debug\t'And how'
trace\t'And every step'"
complete -c vstorage -n "__fish_vstorage_using_subcommand stat" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand stat" -l json -d 'Results as JSON'
complete -c vstorage -n "__fish_vstorage_using_subcommand stat" -s h -l help -d 'Print help'
complete -c vstorage -n "__fish_vstorage_using_subcommand top" -s d -l delay -d 'How often to look, in seconds' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand top" -s c -l cluster -d 'The cluster; if this host knows only one, that is meant' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand top" -l timeout -d 'How long to wait, in seconds [default: 10 for an answer, 120 for services]' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand top" -l log-level -d 'How much to log: off, error, warn, info, debug or trace [default: error, or info with --log-file]' -r -f -a "off\t'Nothing'
error\t'Failures'
warn\t'And what may lead to one'
info\t'And what happens'
debug\t'And how'
trace\t'And every step'"
complete -c vstorage -n "__fish_vstorage_using_subcommand top" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand top" -s v -l verbose -d 'Begin with all there is to say of the cluster, as with the key v'
complete -c vstorage -n "__fish_vstorage_using_subcommand top" -l json -d 'Results as JSON'
complete -c vstorage -n "__fish_vstorage_using_subcommand top" -s h -l help -d 'Print help'
complete -c vstorage -n "__fish_vstorage_using_subcommand get-event" -l after -d 'Only events with a higher number than this, the oldest first' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand get-event" -s n -l number -d 'At most this many: with --after the first ones, else the last ones' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand get-event" -s c -l cluster -d 'The cluster; if this host knows only one, that is meant' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand get-event" -l timeout -d 'How long to wait, in seconds [default: 10 for an answer, 120 for services]' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand get-event" -l log-level -d 'How much to log: off, error, warn, info, debug or trace [default: error, or info with --log-file]' -r -f -a "off\t'Nothing'
error\t'Failures'
warn\t'And what may lead to one'
info\t'And what happens'
debug\t'And how'
trace\t'And every step'"
complete -c vstorage -n "__fish_vstorage_using_subcommand get-event" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand get-event" -s f -l follow -d 'Go on with what happens from now on'
complete -c vstorage -n "__fish_vstorage_using_subcommand get-event" -l json -d 'Results as JSON'
complete -c vstorage -n "__fish_vstorage_using_subcommand get-event" -s h -l help -d 'Print help'
complete -c vstorage -n "__fish_vstorage_using_subcommand list-clients" -s c -l cluster -d 'The cluster; if this host knows only one, that is meant' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand list-clients" -l timeout -d 'How long to wait, in seconds [default: 10 for an answer, 120 for services]' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand list-clients" -l log-level -d 'How much to log: off, error, warn, info, debug or trace [default: error, or info with --log-file]' -r -f -a "off\t'Nothing'
error\t'Failures'
warn\t'And what may lead to one'
info\t'And what happens'
debug\t'And how'
trace\t'And every step'"
complete -c vstorage -n "__fish_vstorage_using_subcommand list-clients" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand list-clients" -l json -d 'Results as JSON'
complete -c vstorage -n "__fish_vstorage_using_subcommand list-clients" -s h -l help -d 'Print help'
complete -c vstorage -n "__fish_vstorage_using_subcommand revoke" -s C -l client -d 'All leases of this client' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand revoke" -s c -l cluster -d 'The cluster; if this host knows only one, that is meant' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand revoke" -l timeout -d 'How long to wait, in seconds [default: 10 for an answer, 120 for services]' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand revoke" -l log-level -d 'How much to log: off, error, warn, info, debug or trace [default: error, or info with --log-file]' -r -f -a "off\t'Nothing'
error\t'Failures'
warn\t'And what may lead to one'
info\t'And what happens'
debug\t'And how'
trace\t'And every step'"
complete -c vstorage -n "__fish_vstorage_using_subcommand revoke" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand revoke" -l json -d 'Results as JSON'
complete -c vstorage -n "__fish_vstorage_using_subcommand revoke" -s h -l help -d 'Print help'
complete -c vstorage -n "__fish_vstorage_using_subcommand list-nodes" -s c -l cluster -d 'The cluster; if this host knows only one, that is meant' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand list-nodes" -l timeout -d 'How long to wait, in seconds [default: 10 for an answer, 120 for services]' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand list-nodes" -l log-level -d 'How much to log: off, error, warn, info, debug or trace [default: error, or info with --log-file]' -r -f -a "off\t'Nothing'
error\t'Failures'
warn\t'And what may lead to one'
info\t'And what happens'
debug\t'And how'
trace\t'And every step'"
complete -c vstorage -n "__fish_vstorage_using_subcommand list-nodes" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand list-nodes" -s a -l all -d 'Also those that were revoked'
complete -c vstorage -n "__fish_vstorage_using_subcommand list-nodes" -l json -d 'Results as JSON'
complete -c vstorage -n "__fish_vstorage_using_subcommand list-nodes" -s h -l help -d 'Print help'
complete -c vstorage -n "__fish_vstorage_using_subcommand revoke-node" -s c -l cluster -d 'The cluster; if this host knows only one, that is meant' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand revoke-node" -l timeout -d 'How long to wait, in seconds [default: 10 for an answer, 120 for services]' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand revoke-node" -l log-level -d 'How much to log: off, error, warn, info, debug or trace [default: error, or info with --log-file]' -r -f -a "off\t'Nothing'
error\t'Failures'
warn\t'And what may lead to one'
info\t'And what happens'
debug\t'And how'
trace\t'And every step'"
complete -c vstorage -n "__fish_vstorage_using_subcommand revoke-node" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand revoke-node" -l json -d 'Results as JSON'
complete -c vstorage -n "__fish_vstorage_using_subcommand revoke-node" -s h -l help -d 'Print help'
complete -c vstorage -n "__fish_vstorage_using_subcommand change-password" -s c -l cluster -d 'The cluster; if this host knows only one, that is meant' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand change-password" -l timeout -d 'How long to wait, in seconds [default: 10 for an answer, 120 for services]' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand change-password" -l log-level -d 'How much to log: off, error, warn, info, debug or trace [default: error, or info with --log-file]' -r -f -a "off\t'Nothing'
error\t'Failures'
warn\t'And what may lead to one'
info\t'And what happens'
debug\t'And how'
trace\t'And every step'"
complete -c vstorage -n "__fish_vstorage_using_subcommand change-password" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand change-password" -s P -l password-stdin -d 'Read the passwords from standard input, even if that is a terminal'
complete -c vstorage -n "__fish_vstorage_using_subcommand change-password" -l json -d 'Results as JSON'
complete -c vstorage -n "__fish_vstorage_using_subcommand change-password" -s h -l help -d 'Print help'
complete -c vstorage -n "__fish_vstorage_using_subcommand get-config" -s c -l cluster -d 'The cluster; if this host knows only one, that is meant' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand get-config" -l timeout -d 'How long to wait, in seconds [default: 10 for an answer, 120 for services]' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand get-config" -l log-level -d 'How much to log: off, error, warn, info, debug or trace [default: error, or info with --log-file]' -r -f -a "off\t'Nothing'
error\t'Failures'
warn\t'And what may lead to one'
info\t'And what happens'
debug\t'And how'
trace\t'And every step'"
complete -c vstorage -n "__fish_vstorage_using_subcommand get-config" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand get-config" -s l -l long -d 'With default and meaning'
complete -c vstorage -n "__fish_vstorage_using_subcommand get-config" -l json -d 'Results as JSON'
complete -c vstorage -n "__fish_vstorage_using_subcommand get-config" -s h -l help -d 'Print help'
complete -c vstorage -n "__fish_vstorage_using_subcommand set-config" -l default -d 'Back to the default' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand set-config" -s c -l cluster -d 'The cluster; if this host knows only one, that is meant' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand set-config" -l timeout -d 'How long to wait, in seconds [default: 10 for an answer, 120 for services]' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand set-config" -l log-level -d 'How much to log: off, error, warn, info, debug or trace [default: error, or info with --log-file]' -r -f -a "off\t'Nothing'
error\t'Failures'
warn\t'And what may lead to one'
info\t'And what happens'
debug\t'And how'
trace\t'And every step'"
complete -c vstorage -n "__fish_vstorage_using_subcommand set-config" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand set-config" -l json -d 'Results as JSON'
complete -c vstorage -n "__fish_vstorage_using_subcommand set-config" -s h -l help -d 'Print help'
complete -c vstorage -n "__fish_vstorage_using_subcommand get-attr" -s c -l cluster -d 'The cluster; if this host knows only one, that is meant' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand get-attr" -l timeout -d 'How long to wait, in seconds [default: 10 for an answer, 120 for services]' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand get-attr" -l log-level -d 'How much to log: off, error, warn, info, debug or trace [default: error, or info with --log-file]' -r -f -a "off\t'Nothing'
error\t'Failures'
warn\t'And what may lead to one'
info\t'And what happens'
debug\t'And how'
trace\t'And every step'"
complete -c vstorage -n "__fish_vstorage_using_subcommand get-attr" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand get-attr" -s p -l cluster-path -d 'The path is one within the cluster, not one of this host below a mounted cluster'
complete -c vstorage -n "__fish_vstorage_using_subcommand get-attr" -l json -d 'Results as JSON'
complete -c vstorage -n "__fish_vstorage_using_subcommand get-attr" -s h -l help -d 'Print help'
complete -c vstorage -n "__fish_vstorage_using_subcommand set-attr" -s c -l cluster -d 'The cluster; if this host knows only one, that is meant' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand set-attr" -l timeout -d 'How long to wait, in seconds [default: 10 for an answer, 120 for services]' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand set-attr" -l log-level -d 'How much to log: off, error, warn, info, debug or trace [default: error, or info with --log-file]' -r -f -a "off\t'Nothing'
error\t'Failures'
warn\t'And what may lead to one'
info\t'And what happens'
debug\t'And how'
trace\t'And every step'"
complete -c vstorage -n "__fish_vstorage_using_subcommand set-attr" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand set-attr" -s R -l recursive -d 'A directory with all below it'
complete -c vstorage -n "__fish_vstorage_using_subcommand set-attr" -s p -l cluster-path -d 'The path is one within the cluster, not one of this host below a mounted cluster'
complete -c vstorage -n "__fish_vstorage_using_subcommand set-attr" -l json -d 'Results as JSON'
complete -c vstorage -n "__fish_vstorage_using_subcommand set-attr" -s h -l help -d 'Print help'
complete -c vstorage -n "__fish_vstorage_using_subcommand create" -l size -d 'Size of the volume' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand create" -s c -l cluster -d 'The cluster; if this host knows only one, that is meant' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand create" -l timeout -d 'How long to wait, in seconds [default: 10 for an answer, 120 for services]' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand create" -l log-level -d 'How much to log: off, error, warn, info, debug or trace [default: error, or info with --log-file]' -r -f -a "off\t'Nothing'
error\t'Failures'
warn\t'And what may lead to one'
info\t'And what happens'
debug\t'And how'
trace\t'And every step'"
complete -c vstorage -n "__fish_vstorage_using_subcommand create" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand create" -l dir -d 'Make a directory'
complete -c vstorage -n "__fish_vstorage_using_subcommand create" -l json -d 'Results as JSON'
complete -c vstorage -n "__fish_vstorage_using_subcommand create" -s h -l help -d 'Print help'
complete -c vstorage -n "__fish_vstorage_using_subcommand ls" -s c -l cluster -d 'The cluster; if this host knows only one, that is meant' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand ls" -l timeout -d 'How long to wait, in seconds [default: 10 for an answer, 120 for services]' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand ls" -l log-level -d 'How much to log: off, error, warn, info, debug or trace [default: error, or info with --log-file]' -r -f -a "off\t'Nothing'
error\t'Failures'
warn\t'And what may lead to one'
info\t'And what happens'
debug\t'And how'
trace\t'And every step'"
complete -c vstorage -n "__fish_vstorage_using_subcommand ls" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand ls" -s l -l long -d 'Type, size and time of each entry'
complete -c vstorage -n "__fish_vstorage_using_subcommand ls" -l json -d 'Results as JSON'
complete -c vstorage -n "__fish_vstorage_using_subcommand ls" -s h -l help -d 'Print help'
complete -c vstorage -n "__fish_vstorage_using_subcommand resize" -l size -d 'Its new size' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand resize" -s c -l cluster -d 'The cluster; if this host knows only one, that is meant' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand resize" -l timeout -d 'How long to wait, in seconds [default: 10 for an answer, 120 for services]' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand resize" -l log-level -d 'How much to log: off, error, warn, info, debug or trace [default: error, or info with --log-file]' -r -f -a "off\t'Nothing'
error\t'Failures'
warn\t'And what may lead to one'
info\t'And what happens'
debug\t'And how'
trace\t'And every step'"
complete -c vstorage -n "__fish_vstorage_using_subcommand resize" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand resize" -l shrink -d 'Let it become smaller: what lies behind its new end is destroyed'
complete -c vstorage -n "__fish_vstorage_using_subcommand resize" -l json -d 'Results as JSON'
complete -c vstorage -n "__fish_vstorage_using_subcommand resize" -s h -l help -d 'Print help'
complete -c vstorage -n "__fish_vstorage_using_subcommand mv" -s c -l cluster -d 'The cluster; if this host knows only one, that is meant' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand mv" -l timeout -d 'How long to wait, in seconds [default: 10 for an answer, 120 for services]' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand mv" -l log-level -d 'How much to log: off, error, warn, info, debug or trace [default: error, or info with --log-file]' -r -f -a "off\t'Nothing'
error\t'Failures'
warn\t'And what may lead to one'
info\t'And what happens'
debug\t'And how'
trace\t'And every step'"
complete -c vstorage -n "__fish_vstorage_using_subcommand mv" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand mv" -l json -d 'Results as JSON'
complete -c vstorage -n "__fish_vstorage_using_subcommand mv" -s h -l help -d 'Print help'
complete -c vstorage -n "__fish_vstorage_using_subcommand rm" -s c -l cluster -d 'The cluster; if this host knows only one, that is meant' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand rm" -l timeout -d 'How long to wait, in seconds [default: 10 for an answer, 120 for services]' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand rm" -l log-level -d 'How much to log: off, error, warn, info, debug or trace [default: error, or info with --log-file]' -r -f -a "off\t'Nothing'
error\t'Failures'
warn\t'And what may lead to one'
info\t'And what happens'
debug\t'And how'
trace\t'And every step'"
complete -c vstorage -n "__fish_vstorage_using_subcommand rm" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand rm" -s r -l recursive -d 'A directory with all it holds'
complete -c vstorage -n "__fish_vstorage_using_subcommand rm" -l json -d 'Results as JSON'
complete -c vstorage -n "__fish_vstorage_using_subcommand rm" -s h -l help -d 'Print help'
complete -c vstorage -n "__fish_vstorage_using_subcommand export" -l nbd -d 'Serve NBD on this Unix socket' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand export" -l listen -d 'Serve NBD on this address of the loopback' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand export" -l cs-timeout -d 'How long a chunk server may be silent before writes go on without it, in milliseconds; one whose connection breaks is waited for a sixth of that [default: 3500]' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand export" -s c -l cluster -d 'The cluster; if this host knows only one, that is meant' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand export" -l timeout -d 'How long to wait, in seconds [default: 10 for an answer, 120 for services]' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand export" -l log-level -d 'How much to log: off, error, warn, info, debug or trace [default: error, or info with --log-file]' -r -f -a "off\t'Nothing'
error\t'Failures'
warn\t'And what may lead to one'
info\t'And what happens'
debug\t'And how'
trace\t'And every step'"
complete -c vstorage -n "__fish_vstorage_using_subcommand export" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand export" -l read-only -d 'Refuse writes, and let others read at the same time'
complete -c vstorage -n "__fish_vstorage_using_subcommand export" -l json -d 'Results as JSON'
complete -c vstorage -n "__fish_vstorage_using_subcommand export" -s h -l help -d 'Print help'
complete -c vstorage -n "__fish_vstorage_using_subcommand detached" -s c -l cluster -d 'The cluster; if this host knows only one, that is meant' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand detached" -l timeout -d 'How long to wait, in seconds [default: 10 for an answer, 120 for services]' -r
complete -c vstorage -n "__fish_vstorage_using_subcommand detached" -l log-level -d 'How much to log: off, error, warn, info, debug or trace [default: error, or info with --log-file]' -r -f -a "off\t'Nothing'
error\t'Failures'
warn\t'And what may lead to one'
info\t'And what happens'
debug\t'And how'
trace\t'And every step'"
complete -c vstorage -n "__fish_vstorage_using_subcommand detached" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage -n "__fish_vstorage_using_subcommand detached" -l json -d 'Results as JSON'
complete -c vstorage -n "__fish_vstorage_using_subcommand detached" -s h -l help -d 'Print help'
complete -c vstorage -n "__fish_vstorage_using_subcommand help; and not __fish_seen_subcommand_from make-mds auth-node make-cs configure-cs configure-mds rm-cs rm-mds start-service stop-service discover list-services stat top get-event list-clients revoke list-nodes revoke-node change-password get-config set-config get-attr set-attr create ls resize mv rm export detached help" -f -a "make-mds" -d 'Make a cluster and its first metadata server'
complete -c vstorage -n "__fish_vstorage_using_subcommand help; and not __fish_seen_subcommand_from make-mds auth-node make-cs configure-cs configure-mds rm-cs rm-mds start-service stop-service discover list-services stat top get-event list-clients revoke list-nodes revoke-node change-password get-config set-config get-attr set-attr create ls resize mv rm export detached help" -f -a "auth-node" -d 'Make this host a node of the cluster'
complete -c vstorage -n "__fish_vstorage_using_subcommand help; and not __fish_seen_subcommand_from make-mds auth-node make-cs configure-cs configure-mds rm-cs rm-mds start-service stop-service discover list-services stat top get-event list-clients revoke list-nodes revoke-node change-password get-config set-config get-attr set-attr create ls resize mv rm export detached help" -f -a "make-cs" -d 'Make a chunk server'
complete -c vstorage -n "__fish_vstorage_using_subcommand help; and not __fish_seen_subcommand_from make-mds auth-node make-cs configure-cs configure-mds rm-cs rm-mds start-service stop-service discover list-services stat top get-event list-clients revoke list-nodes revoke-node change-password get-config set-config get-attr set-attr create ls resize mv rm export detached help" -f -a "configure-cs" -d 'Add, resize or remove the journal of a chunk server'
complete -c vstorage -n "__fish_vstorage_using_subcommand help; and not __fish_seen_subcommand_from make-mds auth-node make-cs configure-cs configure-mds rm-cs rm-mds start-service stop-service discover list-services stat top get-event list-clients revoke list-nodes revoke-node change-password get-config set-config get-attr set-attr create ls resize mv rm export detached help" -f -a "configure-mds" -d 'Give the metadata servers of the cluster new addresses'
complete -c vstorage -n "__fish_vstorage_using_subcommand help; and not __fish_seen_subcommand_from make-mds auth-node make-cs configure-cs configure-mds rm-cs rm-mds start-service stop-service discover list-services stat top get-event list-clients revoke list-nodes revoke-node change-password get-config set-config get-attr set-attr create ls resize mv rm export detached help" -f -a "rm-cs" -d 'Remove chunk servers from the cluster'
complete -c vstorage -n "__fish_vstorage_using_subcommand help; and not __fish_seen_subcommand_from make-mds auth-node make-cs configure-cs configure-mds rm-cs rm-mds start-service stop-service discover list-services stat top get-event list-clients revoke list-nodes revoke-node change-password get-config set-config get-attr set-attr create ls resize mv rm export detached help" -f -a "rm-mds" -d 'Remove a metadata server from the cluster'
complete -c vstorage -n "__fish_vstorage_using_subcommand help; and not __fish_seen_subcommand_from make-mds auth-node make-cs configure-cs configure-mds rm-cs rm-mds start-service stop-service discover list-services stat top get-event list-clients revoke list-nodes revoke-node change-password get-config set-config get-attr set-attr create ls resize mv rm export detached help" -f -a "start-service" -d 'Start services of this host'
complete -c vstorage -n "__fish_vstorage_using_subcommand help; and not __fish_seen_subcommand_from make-mds auth-node make-cs configure-cs configure-mds rm-cs rm-mds start-service stop-service discover list-services stat top get-event list-clients revoke list-nodes revoke-node change-password get-config set-config get-attr set-attr create ls resize mv rm export detached help" -f -a "stop-service" -d 'Stop services of this host'
complete -c vstorage -n "__fish_vstorage_using_subcommand help; and not __fish_seen_subcommand_from make-mds auth-node make-cs configure-cs configure-mds rm-cs rm-mds start-service stop-service discover list-services stat top get-event list-clients revoke list-nodes revoke-node change-password get-config set-config get-attr set-attr create ls resize mv rm export detached help" -f -a "discover" -d 'Find clusters by their DNS records'
complete -c vstorage -n "__fish_vstorage_using_subcommand help; and not __fish_seen_subcommand_from make-mds auth-node make-cs configure-cs configure-mds rm-cs rm-mds start-service stop-service discover list-services stat top get-event list-clients revoke list-nodes revoke-node change-password get-config set-config get-attr set-attr create ls resize mv rm export detached help" -f -a "list-services" -d 'List the metadata and chunk servers with their directories'
complete -c vstorage -n "__fish_vstorage_using_subcommand help; and not __fish_seen_subcommand_from make-mds auth-node make-cs configure-cs configure-mds rm-cs rm-mds start-service stop-service discover list-services stat top get-event list-clients revoke list-nodes revoke-node change-password get-config set-config get-attr set-attr create ls resize mv rm export detached help" -f -a "stat" -d 'Show the state of the cluster, or of a file'
complete -c vstorage -n "__fish_vstorage_using_subcommand help; and not __fish_seen_subcommand_from make-mds auth-node make-cs configure-cs configure-mds rm-cs rm-mds start-service stop-service discover list-services stat top get-event list-clients revoke list-nodes revoke-node change-password get-config set-config get-attr set-attr create ls resize mv rm export detached help" -f -a "top" -d 'Watch the state of the cluster'
complete -c vstorage -n "__fish_vstorage_using_subcommand help; and not __fish_seen_subcommand_from make-mds auth-node make-cs configure-cs configure-mds rm-cs rm-mds start-service stop-service discover list-services stat top get-event list-clients revoke list-nodes revoke-node change-password get-config set-config get-attr set-attr create ls resize mv rm export detached help" -f -a "get-event" -d 'Show what happened in the cluster'
complete -c vstorage -n "__fish_vstorage_using_subcommand help; and not __fish_seen_subcommand_from make-mds auth-node make-cs configure-cs configure-mds rm-cs rm-mds start-service stop-service discover list-services stat top get-event list-clients revoke list-nodes revoke-node change-password get-config set-config get-attr set-attr create ls resize mv rm export detached help" -f -a "list-clients" -d 'List the clients'
complete -c vstorage -n "__fish_vstorage_using_subcommand help; and not __fish_seen_subcommand_from make-mds auth-node make-cs configure-cs configure-mds rm-cs rm-mds start-service stop-service discover list-services stat top get-event list-clients revoke list-nodes revoke-node change-password get-config set-config get-attr set-attr create ls resize mv rm export detached help" -f -a "revoke" -d 'Take the leases on a file, or those of a client, away'
complete -c vstorage -n "__fish_vstorage_using_subcommand help; and not __fish_seen_subcommand_from make-mds auth-node make-cs configure-cs configure-mds rm-cs rm-mds start-service stop-service discover list-services stat top get-event list-clients revoke list-nodes revoke-node change-password get-config set-config get-attr set-attr create ls resize mv rm export detached help" -f -a "list-nodes" -d 'List the nodes of the cluster'
complete -c vstorage -n "__fish_vstorage_using_subcommand help; and not __fish_seen_subcommand_from make-mds auth-node make-cs configure-cs configure-mds rm-cs rm-mds start-service stop-service discover list-services stat top get-event list-clients revoke list-nodes revoke-node change-password get-config set-config get-attr set-attr create ls resize mv rm export detached help" -f -a "revoke-node" -d 'Take a node\'s membership away'
complete -c vstorage -n "__fish_vstorage_using_subcommand help; and not __fish_seen_subcommand_from make-mds auth-node make-cs configure-cs configure-mds rm-cs rm-mds start-service stop-service discover list-services stat top get-event list-clients revoke list-nodes revoke-node change-password get-config set-config get-attr set-attr create ls resize mv rm export detached help" -f -a "change-password" -d 'Change the password of the cluster'
complete -c vstorage -n "__fish_vstorage_using_subcommand help; and not __fish_seen_subcommand_from make-mds auth-node make-cs configure-cs configure-mds rm-cs rm-mds start-service stop-service discover list-services stat top get-event list-clients revoke list-nodes revoke-node change-password get-config set-config get-attr set-attr create ls resize mv rm export detached help" -f -a "get-config" -d 'Show the cluster\'s parameters'
complete -c vstorage -n "__fish_vstorage_using_subcommand help; and not __fish_seen_subcommand_from make-mds auth-node make-cs configure-cs configure-mds rm-cs rm-mds start-service stop-service discover list-services stat top get-event list-clients revoke list-nodes revoke-node change-password get-config set-config get-attr set-attr create ls resize mv rm export detached help" -f -a "set-config" -d 'Change the cluster\'s parameters'
complete -c vstorage -n "__fish_vstorage_using_subcommand help; and not __fish_seen_subcommand_from make-mds auth-node make-cs configure-cs configure-mds rm-cs rm-mds start-service stop-service discover list-services stat top get-event list-clients revoke list-nodes revoke-node change-password get-config set-config get-attr set-attr create ls resize mv rm export detached help" -f -a "get-attr" -d 'Show the attributes of a file or directory'
complete -c vstorage -n "__fish_vstorage_using_subcommand help; and not __fish_seen_subcommand_from make-mds auth-node make-cs configure-cs configure-mds rm-cs rm-mds start-service stop-service discover list-services stat top get-event list-clients revoke list-nodes revoke-node change-password get-config set-config get-attr set-attr create ls resize mv rm export detached help" -f -a "set-attr" -d 'Change attributes of a file or directory'
complete -c vstorage -n "__fish_vstorage_using_subcommand help; and not __fish_seen_subcommand_from make-mds auth-node make-cs configure-cs configure-mds rm-cs rm-mds start-service stop-service discover list-services stat top get-event list-clients revoke list-nodes revoke-node change-password get-config set-config get-attr set-attr create ls resize mv rm export detached help" -f -a "create" -d 'Create a volume or a directory'
complete -c vstorage -n "__fish_vstorage_using_subcommand help; and not __fish_seen_subcommand_from make-mds auth-node make-cs configure-cs configure-mds rm-cs rm-mds start-service stop-service discover list-services stat top get-event list-clients revoke list-nodes revoke-node change-password get-config set-config get-attr set-attr create ls resize mv rm export detached help" -f -a "ls" -d 'List a directory'
complete -c vstorage -n "__fish_vstorage_using_subcommand help; and not __fish_seen_subcommand_from make-mds auth-node make-cs configure-cs configure-mds rm-cs rm-mds start-service stop-service discover list-services stat top get-event list-clients revoke list-nodes revoke-node change-password get-config set-config get-attr set-attr create ls resize mv rm export detached help" -f -a "resize" -d 'Change the size of a volume'
complete -c vstorage -n "__fish_vstorage_using_subcommand help; and not __fish_seen_subcommand_from make-mds auth-node make-cs configure-cs configure-mds rm-cs rm-mds start-service stop-service discover list-services stat top get-event list-clients revoke list-nodes revoke-node change-password get-config set-config get-attr set-attr create ls resize mv rm export detached help" -f -a "mv" -d 'Rename a file or directory'
complete -c vstorage -n "__fish_vstorage_using_subcommand help; and not __fish_seen_subcommand_from make-mds auth-node make-cs configure-cs configure-mds rm-cs rm-mds start-service stop-service discover list-services stat top get-event list-clients revoke list-nodes revoke-node change-password get-config set-config get-attr set-attr create ls resize mv rm export detached help" -f -a "rm" -d 'Remove a file or directory'
complete -c vstorage -n "__fish_vstorage_using_subcommand help; and not __fish_seen_subcommand_from make-mds auth-node make-cs configure-cs configure-mds rm-cs rm-mds start-service stop-service discover list-services stat top get-event list-clients revoke list-nodes revoke-node change-password get-config set-config get-attr set-attr create ls resize mv rm export detached help" -f -a "export" -d 'Export a volume as a network block device'
complete -c vstorage -n "__fish_vstorage_using_subcommand help; and not __fish_seen_subcommand_from make-mds auth-node make-cs configure-cs configure-mds rm-cs rm-mds start-service stop-service discover list-services stat top get-event list-clients revoke list-nodes revoke-node change-password get-config set-config get-attr set-attr create ls resize mv rm export detached help" -f -a "detached" -d 'Leave the terminal\'s session and become a program'
complete -c vstorage -n "__fish_vstorage_using_subcommand help; and not __fish_seen_subcommand_from make-mds auth-node make-cs configure-cs configure-mds rm-cs rm-mds start-service stop-service discover list-services stat top get-event list-clients revoke list-nodes revoke-node change-password get-config set-config get-attr set-attr create ls resize mv rm export detached help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
