# Images without internet: stand-ins made of Debian's packages, in the local registry, and the
# archive of the pause image for Glance. Where Docker Hub can be reached it is used instead.
# shellcheck shell=bash

PAUSE_ARCHIVE=$STATE/images/pause.tar
DEBS=$ALLINONE_CACHE/debs
BUSYBOX_TAGS=(alpine:latest alpine:3.20 busybox:latest)
NGINX_TAGS=(nginx:latest)

hub_reachable() {
    [ "$(curl -s -o /dev/null --max-time "$HUB_TIMEOUT" -w '%{http_code}' \
        https://registry-1.docker.io/v2/)" = 401 ]
}

stage_images() {
    mkdir -p "$STATE/images"
    if [ ! -e "$STATE/done/images" ]; then
        if hub_reachable; then
            pull_pause
        else
            build_pause
            publish busybox_root '["/bin/sh"]' '' "${BUSYBOX_TAGS[@]}"
            publish nginx_root '["nginx","-g","daemon off;"]' 80/tcp "${NGINX_TAGS[@]}"
        fi
        touch "$STATE/done/images"
    fi
    mirror_or_tag
}

pull_pause() {
    docker pull -q kubernetes/pause
    docker save -o "$PAUSE_ARCHIVE" kubernetes/pause
}

# The same thing from Debian: a static init that reaps, and does nothing else (-P: pause).
build_pause() {
    local root
    root=$(mktemp -d)
    install -m 755 /usr/bin/catatonit "$root/pause"
    import_image "$root" kubernetes/pause -c 'ENTRYPOINT ["/pause","-P"]'
    docker save -o "$PAUSE_ARCHIVE" kubernetes/pause
    # hosts of sandboxes get it from Glance
    docker rmi kubernetes/pause >/dev/null
}

# import_image ROOT NAME [docker import's arguments...]: ROOT's files become the image, and go.
# Owners and times are fixed, so that the same files make the same layer.
import_image() {
    local root=$1 name=$2
    shift 2
    tar -c -C "$root" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 . |
        docker import -c "LABEL $OUR_LABEL=1" "$@" - "$name"
    rm -rf "$root"
}

# publish ROOT_FUNCTION COMMAND PORT TAG...: into the registry, under the names of Docker Hub.
publish() {
    local make=$1 command=$2 port=$3 root tag first='' extra=()
    shift 3
    root=$(mktemp -d)
    "$make" "$root"
    [ -z "$port" ] || extra+=(-c "EXPOSE $port")
    for tag in "$@"; do
        if [ -z "$first" ]; then
            first=$REGISTRY/library/$tag
            import_image "$root" "$first" -c "CMD $command" "${extra[@]}" \
                -c 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
        else
            docker tag "$first" "$REGISTRY/library/$tag"
        fi
        docker push -q "$REGISTRY/library/$tag"
    done
    for tag in "$@"; do docker rmi "$REGISTRY/library/$tag" >/dev/null; done
}

# busybox_root DIRECTORY: a shell and the usual small tools, users and a place for temporary files.
busybox_root() {
    local root=$1 applet
    mkdir -p "$root"/{bin,sbin,usr/bin,usr/sbin,etc,root,home,proc,sys,dev,run,var/log,var/tmp,tmp}
    chmod 1777 "$root/tmp" "$root/var/tmp"
    chmod 700 "$root/root"
    install -m 755 /bin/busybox "$root/bin/busybox"
    for applet in $(/bin/busybox --list); do
        [ -e "$root/bin/$applet" ] || ln -s busybox "$root/bin/$applet"
    done
    printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' \
        >"$root/etc/passwd"
    printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
    printf 'ID=zun-allinone\nNAME="busybox of Debian, standing in"\n' >"$root/etc/os-release"
}

# nginx_root DIRECTORY: the real server, with the libraries that it needs and busybox's shell.
nginx_root() {
    local root=$1 library
    busybox_root "$root"
    fetch_packages nginx nginx-common
    dpkg-deb -x "$DEBS"/nginx_*.deb "$root"
    dpkg-deb -x "$DEBS"/nginx-common_*.deb "$root"
    ldd "$root/usr/sbin/nginx" | grep -o '/[^ ]*' | sort -u | while read -r library; do
        install -D -m 755 "$(readlink -f "$library")" "$root$library"
    done
    rm -rf "$root"/usr/share/{doc,man,lintian,vim,apport} "$root"/etc/nginx/{modules,sites}-*
    mkdir -p "$root"/var/lib/nginx "$root"/var/www/html "$root"/var/log/nginx
    ln -sf /dev/stdout "$root/var/log/nginx/access.log"
    ln -sf /dev/stderr "$root/var/log/nginx/error.log"
    cp "$CLOUD/config/nginx.conf" "$root/etc/nginx/nginx.conf"
    cp "$root/usr/share/nginx/html/index.html" "$root/var/www/html/index.html"
}

# fetch_packages NAME...: their archives into the cache, without installing them.
fetch_packages() {
    local name
    mkdir -p "$DEBS"
    for name in "$@"; do
        compgen -G "$DEBS/${name}_*.deb" >/dev/null || fetch_package "$name" ||
            { apt-get update -q && fetch_package "$name"; }
    done
}

fetch_package() { (cd "$DEBS" && apt-get download -q -o APT::Sandbox::User=root "$1"); }

# An engine that was there before and knows no mirror gets the stand-ins under their names.
mirror_or_tag() {
    local tag
    [ ! -e "$STATE/done/tags" ] || return 0
    if [ -d "$STATE/registry/docker/registry/v2/repositories/library" ] &&
        ! docker info -f '{{.RegistryConfig.Mirrors}}' | grep -q "$REGISTRY"; then
        for tag in "${BUSYBOX_TAGS[@]}" "${NGINX_TAGS[@]}"; do
            docker pull -q "$REGISTRY/library/$tag"
            docker tag "$REGISTRY/library/$tag" "$tag"
        done
    fi
    touch "$STATE/done/tags"
}
