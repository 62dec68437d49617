# shellcheck shell=bash
# Debian packages, with root's rights or without them. Sourced, not run.
#
# Both ways go through the machine's own apt and the sources it is configured with: what
# comes in is what the machine's administrator trusts, with the signatures checked.

have_apt() { command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; }

# apt_install PACKAGE…: into the system; only as root. The package lists are refreshed
# only if they turn out too old, or absent: that is most of the time it takes.
apt_install() {
    install_now "$@" >/dev/null 2>&1 || quietly update_and_install "$@"
}

update_and_install() {
    # That some source is out of reach does not matter if another one has the packages:
    # not the update decides, but the installation after it.
    apt-get update || true
    install_now "$@"
}

install_now() {
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" </dev/null
}

# apt_extract FOLDER PACKAGE…: unpacks the packages, and what they need that is not
# installed, under FOLDER. It needs no rights but to write there: apt gets lists and a cache
# of its own, and of the system's state it only reads what is installed.
apt_extract() {
    local folder=$1 state=$1.apt archive
    mkdir -p "$folder" "$state/lists/partial" "$state/archives/partial"
    write_apt_conf "$state" >"$state/apt.conf"
    quietly update_and_download "$state/apt.conf" "${@:2}" || return
    for archive in "$state"/archives/*.deb; do
        quietly dpkg-deb --extract "$archive" "$folder" || return
    done
    rm -rf "$state"
}

update_and_download() {
    local packages
    apt-get -c "$1" update || true
    mapfile -t packages < <(resolve "$@")
    # `--reinstall`: they are missed here, whatever dpkg remembers of them.
    apt-get -c "$1" install --yes --no-install-recommends --download-only --reinstall \
        "${packages[@]}" </dev/null
}

# The hooks that a system may have for its own lists can be cleared in a file only.
write_apt_conf() {
    cat <<END
Dir::State::Lists "$1/lists";
Dir::Cache "$1";
Debug::NoLocking "true";
Acquire::Languages "none";
Acquire::Retries "3";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
END
}

# A package such as `postgresql` is empty and stands for this release's `postgresql-15`;
# only the latter is worth a `--reinstall`.
resolve() {
    local package actual
    for package in "${@:2}"; do
        actual=$(apt-cache -c "$1" depends "$package" |
            sed -n "s/^ *Depends: \($package-[0-9][0-9]*\)\$/\1/p") || true
        echo "${actual:-$package}"
    done
}

# quietly COMMAND…: shows what the command said only if it fails.
quietly() {
    local status=0 said
    said=$("$@" 2>&1) || status=$?
    [[ $status -eq 0 ]] || printf '%s\n' "$said" >&2
    return "$status"
}
