# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_vstorage_ublkd_global_optspecs
    string join \n log-level= log-file= h/help V/version
end

function __fish_vstorage_ublkd_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_vstorage_ublkd_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_vstorage_ublkd_using_subcommand
    set -l cmd (__fish_vstorage_ublkd_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c vstorage-ublkd -n "__fish_vstorage_ublkd_needs_command" -l log-level -d 'How much to log' -r -f -a "off\t''
error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c vstorage-ublkd -n "__fish_vstorage_ublkd_needs_command" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage-ublkd -n "__fish_vstorage_ublkd_needs_command" -s h -l help -d 'Print help'
complete -c vstorage-ublkd -n "__fish_vstorage_ublkd_needs_command" -s V -l version -d 'Print version'
complete -c vstorage-ublkd -n "__fish_vstorage_ublkd_needs_command" -f -a "nbd" -d 'Serve a volume by the NBD protocol'
complete -c vstorage-ublkd -n "__fish_vstorage_ublkd_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c vstorage-ublkd -n "__fish_vstorage_ublkd_using_subcommand nbd" -s c -l cluster -d 'The cluster' -r
complete -c vstorage-ublkd -n "__fish_vstorage_ublkd_using_subcommand nbd" -l socket -d 'Serve on this Unix socket; one that a dead server left behind is replaced' -r
complete -c vstorage-ublkd -n "__fish_vstorage_ublkd_using_subcommand nbd" -l socket-mode -d 'Who may use the Unix socket, as permissions in octal' -r
complete -c vstorage-ublkd -n "__fish_vstorage_ublkd_using_subcommand nbd" -l listen -d 'Serve on this TCP address; port 0 picks a free one' -r
complete -c vstorage-ublkd -n "__fish_vstorage_ublkd_using_subcommand nbd" -l name -d 'Name of the export; clients that ask for none get it, too' -r
complete -c vstorage-ublkd -n "__fish_vstorage_ublkd_using_subcommand nbd" -l wait -d 'How long to wait for the metadata servers and for a lease that is about to end, in seconds' -r
complete -c vstorage-ublkd -n "__fish_vstorage_ublkd_using_subcommand nbd" -l cs-timeout -d 'How long a chunk server may be silent before writes go on without it, in milliseconds; one whose connection breaks is waited for a sixth of that' -r
complete -c vstorage-ublkd -n "__fish_vstorage_ublkd_using_subcommand nbd" -l log-level -d 'How much to log' -r -f -a "off\t''
error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c vstorage-ublkd -n "__fish_vstorage_ublkd_using_subcommand nbd" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage-ublkd -n "__fish_vstorage_ublkd_using_subcommand nbd" -l allow-public -d 'Let --listen name an address that other machines can reach'
complete -c vstorage-ublkd -n "__fish_vstorage_ublkd_using_subcommand nbd" -l read-only -d 'Refuse writes, and let others read at the same time'
complete -c vstorage-ublkd -n "__fish_vstorage_ublkd_using_subcommand nbd" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c vstorage-ublkd -n "__fish_vstorage_ublkd_using_subcommand help; and not __fish_seen_subcommand_from nbd help" -f -a "nbd" -d 'Serve a volume by the NBD protocol'
complete -c vstorage-ublkd -n "__fish_vstorage_ublkd_using_subcommand help; and not __fish_seen_subcommand_from nbd help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
