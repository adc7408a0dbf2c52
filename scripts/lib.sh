# Functions that the scripts beside this file share; sourced, never run.
# shellcheck shell=bash

say() { printf '%s\n' "$*"; }
warn() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() {
    warn "$*"
    exit 1
}

need_root() {
    [[ $(id -u) == 0 ]] || die "this needs root; run: sudo scripts/${0##*/}"
}

# The user who called sudo, or nothing: when that is root, and when the name is of nobody.
sudo_user() {
    local user=${SUDO_USER:-}
    if [[ -n $user && $user != root ]] && id -- "$user" >/dev/null 2>&1; then
        printf '%s\n' "$user"
    fi
}

# The host's release if it is a Debian with a name, else bookworm.
debian_suite() (
    # shellcheck source=/dev/null
    . /etc/os-release
    if [[ ${ID:-} == debian && -n ${VERSION_CODENAME:-} ]]; then
        printf '%s\n' "$VERSION_CODENAME"
    else
        echo bookworm
    fi
)

# json_number KEY: from a flat place in JSON on stdin.
json_number() { grep -o "\"$1\"[[:space:]]*:[[:space:]]*[0-9]*" | head -n 1 | grep -o '[0-9]*$'; }

home_of() { getent passwd "$1" | cut -d: -f6; }

# Installs those of the Debian packages $@ that are missing, quietly unless it fails.
need_packages() {
    local package missing=() log
    for package in "$@"; do
        # shellcheck disable=SC2016 # dpkg-query's variable, not the shell's
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] ||
            missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    command -v apt-get >/dev/null || die "apt-get is not here; install by hand: ${missing[*]}"
    say "installing ${missing[*]}"
    log=$(mktemp)
    if ! apt_install "${missing[@]}" >"$log" 2>&1; then
        # Package lists may be old or not there at all. One of several archives that does not
        # answer is no reason to stop: the install says whether it was needed.
        apt-get -qq update >>"$log" 2>&1 </dev/null || true
        if ! apt_install "${missing[@]}" >>"$log" 2>&1; then
            tail -n 20 "$log" >&2
            rm -f "$log"
            die "apt-get could not install ${missing[*]}"
        fi
    fi
    rm -f "$log"
}

apt_install() {
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" </dev/null
}

# Sets CARGO to the cargo to use and BUILD_USER to who runs it (empty: root, as we are). The
# cargo of the user who called sudo comes first, so that target/ and the downloads are theirs.
find_cargo() {
    local user home candidate
    user=$(sudo_user)
    if [[ -n $user ]]; then
        home=$(home_of "$user")
        for candidate in "$home/.cargo/bin/cargo" /usr/local/bin/cargo /usr/bin/cargo; do
            BUILD_USER=$user CARGO=$candidate
            cargo_fits || continue
            # A clone that is not theirs to write in, or was built by root before.
            if ! as_user "$user" test -w . || { [[ -e target ]] && ! as_user "$user" test -w target; }; then
                BUILD_USER=''
                export CARGO_HOME=${CARGO_HOME:-$(home_of root)/.cargo}
            fi
            return 0
        done
    fi
    BUILD_USER=''
    for candidate in "$(type -P cargo || true)" "${HOME:-}/.cargo/bin/cargo" "$(home_of root)/.cargo/bin/cargo"; do
        CARGO=$candidate
        ! cargo_fits || return 0
    done
    die "no cargo of 1.85 or newer is here: on Debian 13 apt-get install cargo rustfmt rust-clippy," \
        "elsewhere https://rustup.rs"
}

# Whether CARGO is there and new enough for the project's edition.
cargo_fits() {
    local version
    [[ -n $CARGO && -x $CARGO ]] || return 1
    version=$(cargo_user --version 2>/dev/null) || return 1
    [[ $version =~ ^cargo\ ([0-9]+)\.([0-9]+) ]] || return 1
    ((BASH_REMATCH[1] > 1 || BASH_REMATCH[2] >= 85))
}

# Runs $2… as the user $1, with that user's home.
as_user() {
    local user=$1
    shift
    runuser -u "$user" -- env "HOME=$(home_of "$user")" "USER=$user" "LOGNAME=$user" "$@"
}

# Runs cargo as root. rustup's cargo lies beside the rustc that it calls, and its toolchains
# are in the same home. What the user who called sudo has downloaded is taken from there: from
# another place all of it would be downloaded and built again.
cargo_root() {
    local bin home
    bin=${CARGO%/*}
    home=${bin%/.cargo/bin}
    if [[ $home != "$bin" ]]; then
        PATH=$bin:$PATH CARGO_HOME=${CARGO_HOME:-$home/.cargo} \
            RUSTUP_HOME=${RUSTUP_HOME:-$home/.rustup} "$CARGO" "$@" </dev/null
    elif [[ -n $BUILD_USER ]]; then
        CARGO_HOME=${CARGO_HOME:-$(home_of "$BUILD_USER")/.cargo} "$CARGO" "$@" </dev/null
    else
        "$CARGO" "$@" </dev/null
    fi
}

# Runs cargo as whoever called sudo, if the project is theirs.
cargo_user() {
    if [[ -n $BUILD_USER ]]; then
        as_user "$BUILD_USER" env "PATH=${CARGO%/*}:$PATH" "$CARGO" "$@" </dev/null
    else
        cargo_root "$@"
    fi
}
