# Programs at work on a mounted cluster: $1 is a directory on it, $2 says "all" for those that take minutes. Each prints a line
# that begins with its name; what is not installed is passed over. Run as root.
set -eu
cd "$1"
has() { command -v "$1" >/dev/null || { echo "skipped: $1 is not installed"; return 1; }; }

if has git; then
    export GIT_AUTHOR_NAME=test GIT_AUTHOR_EMAIL=test@localhost GIT_COMMITTER_NAME=test GIT_COMMITTER_EMAIL=test@localhost
    git init -q -b main source
    for number in $(seq 60); do
        mkdir -p "source/d$((number % 7))"
        seq "$number" 500 >"source/d$((number % 7))/f$number"
    done
    git -C source add . && git -C source commit -qm first
    git clone -q source clone
    git -C clone fsck --strict 2>&1
    test -z "$(git -C clone status --porcelain)"
    git -C clone gc -q
    git -C clone fsck --strict 2>&1
    echo "git: $(git -C clone ls-files | wc -l) files"
fi

if has cargo; then
    mkdir -p tiny/src
    printf '[package]\nname = "tiny"\nversion = "0.1.0"\nedition = "2021"\n[workspace]\n' >tiny/Cargo.toml
    echo 'fn main() { println!("built on the mount"); }' >tiny/src/main.rs
    # A toolchain file above would choose another compiler.
    (cd tiny && env -u CARGO_TARGET_DIR cargo build -q --offline)
    echo "cargo: $(tiny/target/debug/tiny)"
fi

if has sqlite3; then
    for mode in wal delete; do
        sqlite3 "$mode.db" "pragma journal_mode=$mode;
            create table t(a integer primary key, b text);
            with recursive n(i) as (select 1 union all select i+1 from n where i<3000)
                insert into t select i, hex(randomblob(40)) from n;
            begin; delete from t; rollback;
            delete from t where a%3=0; vacuum;" >/dev/null
        test "$(sqlite3 "$mode.db" 'pragma integrity_check; select count(*) from t')" = "ok
2000"
    done
    echo "sqlite3: ok"
fi

bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -n 1)
if [ "$2" = all ] && [ -n "$bin" ] && id postgres >/dev/null 2>&1; then
    mkdir pg && chown postgres pg && chmod 700 pg
    data=$PWD/pg
    socket=$(mktemp -d) && chown postgres "$socket"
    as() { su postgres -s /bin/sh -c "cd / && $1"; }
    as "$bin/initdb -D $data -A trust" >/dev/null
    as "$bin/pg_ctl -D $data -o '-k $socket -c listen_addresses=' -l $data/log -w start" >/dev/null
    trap 'as "$bin/pg_ctl -D $data -m immediate stop" >/dev/null 2>&1 || true; rm -rf "$socket"' EXIT
    as "$bin/createdb -h $socket b && $bin/pgbench -h $socket -i -s 1 -q b" >/dev/null 2>&1
    as "$bin/pgbench -h $socket -c 4 -T 10 b" | grep -q 'number of failed transactions: 0'
    # A crash of the database, and its recovery from what it had synced.
    as "$bin/pg_ctl -D $data -m immediate -w stop" >/dev/null
    as "$bin/pg_ctl -D $data -o '-k $socket -c listen_addresses=' -l $data/log -w start" >/dev/null
    sums='select (select sum(abalance) from pgbench_accounts) = (select sum(bbalance) from pgbench_branches)'
    test "$(as "$bin/psql -h $socket -At -c '$sums' b")" = t
    as "$bin/pg_ctl -D $data -m fast -w stop" >/dev/null
    trap - EXIT
    rm -rf "$socket"
    echo "postgres: balances agree after a crash"
fi
