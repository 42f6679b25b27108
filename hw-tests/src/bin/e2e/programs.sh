# Programs at work on a mounted cluster: $1 is a directory on it, $2 says "all" for those that take minutes, $3 is a directory
# on this machine's disk. Each prints a line that begins with its name; what is not installed is passed over. Run as root.
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

[ "$2" = all ] || exit 0
point=$PWD scratch=$3
# Debian's lists of packages and sources, fetched beside those of the system.
apt() {
    apt-get -qq -o Dir::Etc::SourceList="$scratch/apt/sources.list" -o Dir::Etc::SourceParts=- \
        -o Dir::State::Lists="$scratch/apt/lists" -o Dir::Cache="$scratch/apt" -o APT::Sandbox::User=root \
        -o Acquire::http::Timeout=30 -o APT::Update::Error-Mode=any "$@" >>"$scratch/apt/log" 2>&1
}
lists() {
    [ ! -e "$scratch/apt" ] || return 0
    mkdir -p "$scratch/apt/lists/partial" "$scratch/apt/archives/partial"
    local key=/usr/share/keyrings/debian-archive-keyring.gpg
    local format='$(ORIGIN) deb $(REPO_URI) $(RELEASE) main' options=
    [ ! -e "$key" ] || options="[signed-by=$key] "
    apt-get indextargets --format "$format" 'Created-By: Packages' | sed -n 's/^Debian deb //p' | sort -u |
        sed "s|.*|deb $options&\ndeb-src $options&|" >"$scratch/apt/sources.list"
    # What is missing afterwards is said where it is wanted.
    apt update || true
}
# The source of an installed package, unpacked in $scratch/NAME.
source_of() {
    local named version
    has dpkg-source && has gcc && has apt-get || return 1
    lists
    named=$(dpkg-query -W -f '${source:Package}' "$1") version=$(dpkg-query -W -f '${source:Version}' "$1")
    if ! (cd "$scratch" && apt --download-only source "$named=$version" &&
        dpkg-source -x "$named"_*.dsc "$named" >>apt/log 2>&1); then
        echo "skipped: the source of $named $version cannot be had from Debian: $(tail -n 1 "$scratch/apt/log")"
        return 1
    fi
}

# SQLite's own tests with several processes and with several threads.
if has sqlite3 && { [ -e /usr/include/sqlite3.h ] || { echo "skipped: libsqlite3-dev is not installed"; false; }; } &&
    source_of sqlite3; then
    from=$scratch/sqlite3
    # Its clients give up when they wait for ten seconds: here a slow machine is no failure.
    sed -e 's/\b[13]0000\b/3600000/g' "$from/mptest/mptest.c" >"$scratch/mptest.c"
    gcc -O1 -w -o "$scratch/mptest" "$scratch/mptest.c" -lsqlite3
    gcc -O1 -w -I"$from/src" -o "$scratch/threadtest3" "$from/test/threadtest3.c" "$from/src/test_multiplex.c" \
        -lsqlite3 -lpthread
    mkdir suite && cd suite
    for mode in delete wal; do
        for script in crash01 multiwrite01; do
            # It looks for its databases by the name alone.
            if ! "$scratch/mptest" "$mode-$script.db" "$from/mptest/$script.test" --journalmode "$mode" \
                >"$scratch/mptest.log" 2>&1; then
                tail -n 40 "$scratch/mptest.log"
                exit 1
            fi
            echo "mptest $script, $mode: $(sed -n 's/^Summary: //p' "$scratch/mptest.log")"
        done
    done
    if ! "$scratch/threadtest3" >"$scratch/threadtest3.log" 2>&1; then
        tail -n 40 "$scratch/threadtest3.log"
        exit 1
    fi
    echo "threadtest3: $(tail -n 1 "$scratch/threadtest3.log")"
    cd "$point"
fi

bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -n 1)
as() { su postgres -s /bin/sh -c "cd / && $1"; }
if [ -z "$bin" ] || ! id postgres >/dev/null 2>&1; then
    echo "skipped: postgresql is not installed"
    exit 0
fi
if ! as "test -x $point && test -x $scratch"; then
    echo "skipped: the user postgres may not enter $point and $scratch; choose a --dir that all users may pass through"
    exit 0
fi
mkdir pg && chown postgres pg && chmod 700 pg
data=$point/pg
socket=$(mktemp -d) && chown postgres "$socket"
start="$bin/pg_ctl -D $data -o '-k $socket -c listen_addresses=' -l $data/log -w start"
as "$bin/initdb -D $data -A trust --no-locale -E UTF8" >/dev/null
as "$start" >/dev/null
trap 'as "$bin/pg_ctl -D $data -m immediate stop" >/dev/null 2>&1 || true; rm -rf "$socket"' EXIT
as "$bin/createdb -h $socket b && $bin/pgbench -h $socket -i -s 1 -q b" >/dev/null 2>&1
as "$bin/pgbench -h $socket -c 4 -T 10 b" | grep -q 'number of failed transactions: 0'
# A crash of the database, and its recovery from what it had synced.
as "$bin/pg_ctl -D $data -m immediate -w stop" >/dev/null
as "$start" >/dev/null
sums='select (select sum(abalance) from pgbench_accounts) = (select sum(bbalance) from pgbench_branches)'
test "$(as "$bin/psql -h $socket -At -c '$sums' b")" = t
echo "postgres: balances agree after a crash"

# PostgreSQL's regression tests. The program that runs them is installed, what it runs is in the source; the library that the
# tests load is compiled with the headers of the package for those who write such.
number=$(basename "$(dirname "$bin")")
lib=/usr/lib/postgresql/$number/lib
if source_of "postgresql-$number"; then
    own="postgresql-server-dev-$number"
    from=$scratch/postgresql-$number/src/test/regress
    if [ ! -e "/usr/include/postgresql/$number/server" ]; then
        wanted=$(dpkg-query -W -f '${Version}' "postgresql-$number")
        if ! (cd "$scratch" && apt download "$own=$wanted" && dpkg -x "$own"_*.deb "$own"); then
            echo "skipped: $own $wanted is not installed, and cannot be had from Debian: $(tail -n 1 "$scratch/apt/log")"
            exit 0
        fi
    fi
    include=$(ls -d "/usr/include/postgresql/$number/server" "$scratch/$own/usr/include/postgresql/$number/server" \
        2>/dev/null | head -n 1)
    mkdir "$scratch/regress"
    gcc -O1 -fPIC -shared -w -I"$include" -o "$scratch/regress/regress.so" "$from/regress.c"
    cp "$lib/autoinc.so" "$lib/refint.so" "$scratch/regress"
    chown -R postgres "$from" "$scratch/regress"
    run="$lib/pgxs/src/test/regress/pg_regress --inputdir=$from --outputdir=$scratch/regress --bindir=$bin"
    run="$run --dlpath=$scratch/regress --host=$socket --schedule=$from/parallel_schedule --max-concurrent-tests=20"
    if ! as "cd $from && $run" >"$scratch/regress/all" 2>&1; then
        grep -a FAILED "$scratch/regress/all" || tail -n 20 "$scratch/regress/all"
        head -c 8000 "$scratch/regress/regression.diffs" || true
        exit 1
    fi
    echo "pg_regress:$(sed -n 's/\(All .* passed\).*/\1/p' "$scratch/regress/all")"
fi
as "$bin/pg_ctl -D $data -m fast -w stop" >/dev/null
trap - EXIT
rm -rf "$socket"
