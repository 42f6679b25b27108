# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_vstorage_csd_global_optspecs
    string join \n log-level= log-file= h/help V/version
end

function __fish_vstorage_csd_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_vstorage_csd_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_vstorage_csd_using_subcommand
    set -l cmd (__fish_vstorage_csd_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c vstorage-csd -n "__fish_vstorage_csd_needs_command" -l log-level -d 'How much to log: error, warn, info, debug or trace' -r -f -a "off\t''
error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c vstorage-csd -n "__fish_vstorage_csd_needs_command" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage-csd -n "__fish_vstorage_csd_needs_command" -s h -l help -d 'Print help'
complete -c vstorage-csd -n "__fish_vstorage_csd_needs_command" -s V -l version -d 'Print version'
complete -c vstorage-csd -n "__fish_vstorage_csd_needs_command" -f -a "make" -d 'Make a chunk server and join it to the cluster'
complete -c vstorage-csd -n "__fish_vstorage_csd_needs_command" -f -a "run" -d 'Run a chunk server until SIGTERM'
complete -c vstorage-csd -n "__fish_vstorage_csd_needs_command" -f -a "configure" -d 'Add, move, resize or destroy the journal of a chunk server, which may be at work'
complete -c vstorage-csd -n "__fish_vstorage_csd_needs_command" -f -a "check" -d 'Report every inconsistency of a stopped chunk server; changes nothing'
complete -c vstorage-csd -n "__fish_vstorage_csd_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c vstorage-csd -n "__fish_vstorage_csd_using_subcommand make" -s c -l cluster -d 'The cluster' -r
complete -c vstorage-csd -n "__fish_vstorage_csd_using_subcommand make" -s r -l repository -d 'Directory of the chunk server, on a disk of its own; made if it does not exist' -r -F
complete -c vstorage-csd -n "__fish_vstorage_csd_using_subcommand make" -s t -l tier -d 'Storage tier, 0 to 3' -r
complete -c vstorage-csd -n "__fish_vstorage_csd_using_subcommand make" -s a -l address -d 'Address and port at which clients reach the server; any free port when not given' -r
complete -c vstorage-csd -n "__fish_vstorage_csd_using_subcommand make" -s j -l journal -d 'Directory for the journal and the checksums, on an SSD; needs -s' -r -F
complete -c vstorage-csd -n "__fish_vstorage_csd_using_subcommand make" -s s -l journal-size -d 'Size of the journal in MB' -r
complete -c vstorage-csd -n "__fish_vstorage_csd_using_subcommand make" -s T -l tune -d 'Tune the journal; `ssd` is the only kind' -r -f -a "ssd\t''"
complete -c vstorage-csd -n "__fish_vstorage_csd_using_subcommand make" -l log-level -d 'How much to log: error, warn, info, debug or trace' -r -f -a "off\t''
error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c vstorage-csd -n "__fish_vstorage_csd_using_subcommand make" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage-csd -n "__fish_vstorage_csd_using_subcommand make" -s S -l no-checksums -d 'Keep no checksums'
complete -c vstorage-csd -n "__fish_vstorage_csd_using_subcommand make" -s h -l help -d 'Print help'
complete -c vstorage-csd -n "__fish_vstorage_csd_using_subcommand run" -s c -l cluster -d 'The cluster' -r
complete -c vstorage-csd -n "__fish_vstorage_csd_using_subcommand run" -s r -l repository -d 'Directory of the chunk server' -r -F
complete -c vstorage-csd -n "__fish_vstorage_csd_using_subcommand run" -l cache -d 'Memory for checksum pages, in MB' -r
complete -c vstorage-csd -n "__fish_vstorage_csd_using_subcommand run" -l log-level -d 'How much to log: error, warn, info, debug or trace' -r -f -a "off\t''
error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c vstorage-csd -n "__fish_vstorage_csd_using_subcommand run" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage-csd -n "__fish_vstorage_csd_using_subcommand run" -s h -l help -d 'Print help'
complete -c vstorage-csd -n "__fish_vstorage_csd_using_subcommand configure" -s r -l repository -d 'Directory of the chunk server' -r -F
complete -c vstorage-csd -n "__fish_vstorage_csd_using_subcommand configure" -s a -l add-journal -d 'Directory for a journal and the checksums, on an SSD; needs -s' -r -F
complete -c vstorage-csd -n "__fish_vstorage_csd_using_subcommand configure" -s s -l journal-size -d 'Size of the journal in MB' -r
complete -c vstorage-csd -n "__fish_vstorage_csd_using_subcommand configure" -s T -l tune -d 'Tune the journal; `ssd` is the only kind' -r -f -a "ssd\t''"
complete -c vstorage-csd -n "__fish_vstorage_csd_using_subcommand configure" -l log-level -d 'How much to log: error, warn, info, debug or trace' -r -f -a "off\t''
error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c vstorage-csd -n "__fish_vstorage_csd_using_subcommand configure" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage-csd -n "__fish_vstorage_csd_using_subcommand configure" -s d -l destroy-journal -d 'Destroy that journal: the chunk server keeps one beside its chunks then'
complete -c vstorage-csd -n "__fish_vstorage_csd_using_subcommand configure" -s h -l help -d 'Print help'
complete -c vstorage-csd -n "__fish_vstorage_csd_using_subcommand check" -l log-level -d 'How much to log: error, warn, info, debug or trace' -r -f -a "off\t''
error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c vstorage-csd -n "__fish_vstorage_csd_using_subcommand check" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage-csd -n "__fish_vstorage_csd_using_subcommand check" -l json -d 'Print the report as JSON'
complete -c vstorage-csd -n "__fish_vstorage_csd_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c vstorage-csd -n "__fish_vstorage_csd_using_subcommand help; and not __fish_seen_subcommand_from make run configure check help" -f -a "make" -d 'Make a chunk server and join it to the cluster'
complete -c vstorage-csd -n "__fish_vstorage_csd_using_subcommand help; and not __fish_seen_subcommand_from make run configure check help" -f -a "run" -d 'Run a chunk server until SIGTERM'
complete -c vstorage-csd -n "__fish_vstorage_csd_using_subcommand help; and not __fish_seen_subcommand_from make run configure check help" -f -a "configure" -d 'Add, move, resize or destroy the journal of a chunk server, which may be at work'
complete -c vstorage-csd -n "__fish_vstorage_csd_using_subcommand help; and not __fish_seen_subcommand_from make run configure check help" -f -a "check" -d 'Report every inconsistency of a stopped chunk server; changes nothing'
complete -c vstorage-csd -n "__fish_vstorage_csd_using_subcommand help; and not __fish_seen_subcommand_from make run configure check help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
