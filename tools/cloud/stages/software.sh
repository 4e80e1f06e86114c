# Software: Debian's packages, the Python environment, and this project in it.
# shellcheck shell=bash

UV_VERSION=0.13.8
# What compiles uWSGI and makes the environment; the rest is installed beside that.
BUILD_PACKAGES=(python3.11 python3-venv python3-dev gcc libc6-dev)
PACKAGES=(mariadb-server rabbitmq-server memcached openvswitch-switch docker.io apparmor
    docker-registry dnsmasq-base dnsmasq-utils haproxy conntrack ipset iptables iproute2 ethtool iputils-arping
    iputils-ping busybox-static catatonit curl ca-certificates qemu-utils sudo procps util-linux e2fsprogs
    xfsprogs)

package_installed() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }

# install_packages NAME...: the missing ones, and none of their services is started.
install_packages() {
    local missing=() name policy=/usr/sbin/policy-rc.d rc=0
    for name in "$@"; do package_installed "$name" || missing+=("$name"); done
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\n# zun-allinone: services are started by hand\nexit 101\n' >$policy
        chmod +x $policy
    fi
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        -o DPkg::Lock::Timeout=300 "${missing[@]}" || rc=$?
    ! grep -q zun-allinone $policy || rm -f $policy
    return $rc
}

stage_build_tools() { install_packages "${BUILD_PACKAGES[@]}"; }
stage_packages() { install_packages "${PACKAGES[@]}"; }

# Docker Engine and containerd of another release of Debian, beside those of the machine, which are
# not touched. Both run on this one's C library; runc would not, and is the machine's.
stage_second_engine() {
    local apt=$SECOND_ENGINE.apt mirror packages=(docker.io containerd) package
    [ -n "$SECOND_SUITE" ] && [ ! -d "$SECOND_ENGINE" ] || return 0
    mirror=$(apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 'Created-By: Packages' |
        awk -v release="$(. /etc/os-release && echo "$VERSION_CODENAME")" '$1 == release {print $2; exit}')
    [ -n "$mirror" ] || die 'apt knows no mirror of Debian'
    rm -rf "$apt" "$SECOND_ENGINE.new"
    mkdir -p "$apt"/{lists/partial,cache/archives/partial} "$SECOND_ENGINE.new"
    touch "$apt/status"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $SECOND_SUITE main" \
        >"$apt/sources.list"
    (
        cd "$apt"
        printf '%s\n' "Dir::Etc::SourceList \"$apt/sources.list\";" 'Dir::Etc::SourceParts "-";' \
            "Dir::State::Lists \"$apt/lists\";" "Dir::State::Status \"$apt/status\";" \
            "Dir::Cache \"$apt/cache\";" 'APT::Sandbox::User "root";' >apt.conf
        export APT_CONFIG=$apt/apt.conf
        apt-get update -q
        apt-get download -q "${packages[@]}"
        for package in *.deb; do dpkg-deb -x "$package" "$SECOND_ENGINE.new"; done
    )
    rm -rf "$apt"
    mv "$SECOND_ENGINE.new" "$SECOND_ENGINE"
}

stage_venv() {
    local want
    want=$(sha256sum <"$CLOUD/requirements.txt")
    [ "$(cat "$VENV/.requirements" 2>/dev/null)" != "$want" ] || return 0
    mkdir -p "$ALLINONE_CACHE"
    if [ ! -x "$UV" ]; then
        "$PYTHON" -m venv "$ALLINONE_CACHE/uvtool"
        "$ALLINONE_CACHE/uvtool/bin/pip" install -q "uv==$UV_VERSION"
    fi
    [ -x "$VENV/bin/python" ] || "$UV" venv -p "$PYTHON" "$VENV"
    "$UV" pip install --python "$VENV/bin/python" -r "$CLOUD/requirements.txt"
    # nova and zun cannot write .pyc files there, and without them start three times as long
    "$VENV/bin/python" -m compileall -q -j 0 "$VENV/lib" || true # samples in packages are templates
    echo "$want" >"$VENV/.requirements"
}

project_hash() {
    (cd "$REPO" && find zun_virt zun_agent setup.cfg pyproject.toml -type f ! -name '*.pyc' \
        -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c 1-16)
}

# The project as an operator would install it: a wheel. From a copy, since setuptools builds in
# the tree that it is given.
stage_project() {
    local want copy
    want=$(project_hash)
    [ "$(cat "$VENV/.zun-virt" 2>/dev/null)" != "$want" ] || return 0
    copy=$(mktemp -d)
    (cd "$REPO" && tar -c --exclude='*.pyc' zun_virt zun_agent setup.cfg pyproject.toml LICENSE \
        "$(ls README.rst 2>/dev/null || echo setup.cfg)") | tar -x -C "$copy"
    [ -e "$copy/README.rst" ] || echo zun-virt >"$copy/README.rst"
    "$UV" pip install --python "$VENV/bin/python" --no-deps --no-build-isolation \
        --reinstall-package zun-virt --compile-bytecode "$copy"
    rm -rf "$copy"
    echo "$want" >"$VENV/.zun-virt"
}
