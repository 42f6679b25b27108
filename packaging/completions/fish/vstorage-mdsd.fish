# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_vstorage_mdsd_global_optspecs
    string join \n log-level= log-file= h/help V/version
end

function __fish_vstorage_mdsd_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_vstorage_mdsd_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_vstorage_mdsd_using_subcommand
    set -l cmd (__fish_vstorage_mdsd_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_needs_command" -l log-level -d 'How much to log: off, error, warn, info, debug or trace' -r
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_needs_command" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_needs_command" -s h -l help -d 'Print help'
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_needs_command" -s V -l version -d 'Print version'
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_needs_command" -f -a "make" -d 'Make a new cluster and its first metadata server'
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_needs_command" -f -a "run" -d 'Run a metadata server until SIGTERM'
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_needs_command" -f -a "password" -d 'Set the password of a cluster whose metadata server is stopped, without the old one: it was forgotten, or never set'
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_needs_command" -f -a "restored" -d 'Accept that the directory of a metadata server was put back from a copy, and that what was changed since is lost'
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_using_subcommand make" -s c -l cluster -d 'The name of the cluster' -r
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_using_subcommand make" -s a -l address -d 'The address of this host at which the others reach it. This port and the next one are used; 2510 and 2511 if none is given' -r
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_using_subcommand make" -s r -l repository -d 'Directory of the metadata server; made if it does not exist. 10 GB should be free there' -r -F
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_using_subcommand make" -l log-level -d 'How much to log: off, error, warn, info, debug or trace' -r
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_using_subcommand make" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_using_subcommand make" -s I -l init -d 'Make a new cluster; metadata servers cannot be added to one yet'
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_using_subcommand make" -s p -l password -d 'Take the password of the cluster from the first line of standard input'
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_using_subcommand make" -s h -l help -d 'Print help'
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_using_subcommand run" -s c -l cluster -d 'The name of the cluster' -r
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_using_subcommand run" -s r -l repository -d 'Directory of the metadata server' -r -F
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_using_subcommand run" -l log-level -d 'How much to log: off, error, warn, info, debug or trace' -r
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_using_subcommand run" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_using_subcommand run" -s h -l help -d 'Print help'
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_using_subcommand password" -s c -l cluster -d 'The name of the cluster' -r
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_using_subcommand password" -s r -l repository -d 'Directory of the metadata server' -r -F
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_using_subcommand password" -l log-level -d 'How much to log: off, error, warn, info, debug or trace' -r
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_using_subcommand password" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_using_subcommand password" -s h -l help -d 'Print help'
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_using_subcommand restored" -s c -l cluster -d 'The name of the cluster' -r
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_using_subcommand restored" -s r -l repository -d 'Directory of the metadata server' -r -F
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_using_subcommand restored" -l log-level -d 'How much to log: off, error, warn, info, debug or trace' -r
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_using_subcommand restored" -l log-file -d 'Log to this file instead of standard error' -r -F
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_using_subcommand restored" -s h -l help -d 'Print help'
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_using_subcommand help; and not __fish_seen_subcommand_from make run password restored help" -f -a "make" -d 'Make a new cluster and its first metadata server'
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_using_subcommand help; and not __fish_seen_subcommand_from make run password restored help" -f -a "run" -d 'Run a metadata server until SIGTERM'
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_using_subcommand help; and not __fish_seen_subcommand_from make run password restored help" -f -a "password" -d 'Set the password of a cluster whose metadata server is stopped, without the old one: it was forgotten, or never set'
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_using_subcommand help; and not __fish_seen_subcommand_from make run password restored help" -f -a "restored" -d 'Accept that the directory of a metadata server was put back from a copy, and that what was changed since is lost'
complete -c vstorage-mdsd -n "__fish_vstorage_mdsd_using_subcommand help; and not __fish_seen_subcommand_from make run password restored help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
