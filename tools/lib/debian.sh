# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Packages of another suite of Debian's than the machine's, laid into a folder and not installed. Sourced, never run.

# Prints where this machine gets Debian's packages; nothing where it has none.
debian_mirror() {
    # shellcheck disable=SC2016 # apt's own placeholders
    apt-get indextargets --format '$(REPO_URI) $(ORIGIN) $(SUITE)' 2>/dev/null |
        awk '$2 == "Debian" && $1 !~ /security/ { print $1; exit }'
}

# unpack_debian SUITE FOLDER PACKAGE...: apt reads that suite alone, with folders of its own.
unpack_debian() {
    local suite=$1 folder=$2 work mirror
    shift 2
    mirror=$(debian_mirror)
    [[ -n $mirror ]] || { echo "this machine has no packages of Debian's" >&2; return 1; }
    work=$(mktemp -d)
    mkdir -p "$work/lists/partial" "$work/archives/partial" "$folder"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$work/sources.list"
    local -a apart=(-qq -o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=/nonexistent
        -o "Dir::State::lists=$work/lists" -o Dir::State::status=/dev/null -o "Dir::Cache=$work" -o APT::Sandbox::User=root)
    if (cd "$work" && apt-get "${apart[@]}" update && apt-get "${apart[@]}" download "$@") >"$work/log" 2>&1; then
        local package
        for package in "$work"/*.deb; do dpkg-deb -x "$package" "$folder"; done
        rm -rf "$work"
    else
        tail -1 "$work/log" >&2
        rm -rf "$work"
        return 1
    fi
}
