complete -c vstorage-mount -s c -l cluster -d 'The cluster' -r
complete -c vstorage-mount -s o -d 'Mount options, with commas between' -r
complete -c vstorage-mount -s l -l log-file -d 'Log to this file [default: /var/log/vstorage/vstorage-mount.log, in the foreground standard error]' -r -F
complete -c vstorage-mount -l log-level -d 'How much to log' -r -f -a "off\t''
error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c vstorage-mount -l wait -d 'How long to wait for the metadata servers and for leases that are about to end, in seconds' -r
complete -c vstorage-mount -s f -l foreground -d 'Stay in the foreground, and log to standard error unless there is a log file'
complete -c vstorage-mount -l fail-on-nospace -d 'Let a write fail when the cluster is full; else it waits until there is space'
complete -c vstorage-mount -l detached -d 'Started by itself, to say on standard output when it is mounted'
complete -c vstorage-mount -s h -l help -d 'Print help (see more with \'--help\')'
complete -c vstorage-mount -s V -l version -d 'Print version'
