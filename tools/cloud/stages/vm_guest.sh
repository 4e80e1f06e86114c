# A guest that boots in seconds without any help of the processor: Debian's kernel for clouds, and
# busybox in memory.
# shellcheck shell=bash

GUEST=$ALLINONE_CACHE/guest
GUEST_MODULES=(virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci failover
    net_failover virtio_net)

stage_vm_guest() {
    local want package root name
    want=$(stamp_of "$CLOUD"/config/guest-{init,dhcp} "$CLOUD/stages/vm_guest.sh")
    [ "$(cat "$GUEST/made" 2>/dev/null)" != "$want" ] || return 0
    rm -rf "$GUEST"
    mkdir -p "$GUEST"
    root=$(mktemp -d)
    fetch_packages linux-image-cloud-amd64
    package=$(dpkg-deb -f "$DEBS"/linux-image-cloud-amd64_*.deb Depends | cut -d ' ' -f 1)
    fetch_packages "$package"
    dpkg-deb -x "$DEBS/$package"_*.deb "$root/kernel"
    mv "$root"/kernel/boot/vmlinuz-* "$GUEST/vmlinuz"
    busybox_root "$root/guest"
    mkdir "$root/guest/modules"
    for name in "${GUEST_MODULES[@]}"; do
        find "$root/kernel" -name "$name.ko" -exec mv {} "$root/guest/modules" \;
    done
    install -m 755 "$CLOUD/config/guest-init" "$root/guest/init"
    install -m 755 "$CLOUD/config/guest-dhcp" "$root/guest/etc/dhcp"
    (cd "$root/guest" && find . | /bin/busybox cpio -o -H newc | gzip) >"$GUEST/initrd"
    rm -rf "$root"
    truncate -s 1M "$GUEST/disk" # Nova wants one; the guest does not look at it
    echo "$want" >"$GUEST/made"
}
