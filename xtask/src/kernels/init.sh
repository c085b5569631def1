#!/bin/busybox sh
# First process of a guest: mounts the machine's files, read-only beneath a layer in memory, and becomes the run's script.
export PATH=/bin
/bin/busybox mkdir -p /proc /sys /dev /host /top /root
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
fail() {
    echo "guest: $1" >/dev/ttyS1
    poweroff -f
}
while read -r module; do
    insmod "/modules/$module" || fail "insmod $module"
done </modules/order
mount -t virtiofs -o ro host /host || fail "the machine's files can't be mounted"
mount -t tmpfs tmpfs /top && mkdir /top/upper /top/work
mount -t overlay -o lowerdir=/host,upperdir=/top/upper,workdir=/top/work overlay /root || fail "no overlay"
for directory in proc sys dev; do
    mount --move /$directory /root/$directory
done
mount -t tmpfs tmpfs /root/run
mkdir -p /root/usr/lib/modules
# What the kernel asks for later comes from its own package.
mount --bind "/host$(sed -n 's/.* fabric.modules=\([^ ]*\).*/\1/p' /root/proc/cmdline)" /root/usr/lib/modules
cp "/host$(sed -n 's/.* fabric.script=\([^ ]*\).*/\1/p' /root/proc/cmdline)" /root/run/script
exec switch_root /root /bin/sh /run/script
