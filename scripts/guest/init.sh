#!/bin/busybox sh
# The first process of the guest (build-guest.mjs): devices, network, the folder shared with the host, then /job/run.sh. Its output
# and its exit code go to two serial ports; then the guest ends.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/
busybox=/bin/busybox
$busybox mkdir -p /proc /sys /dev /run/lock/iscsi /tmp /mnt /share /var/lib/iscsi /var/lib/nfs
$busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devices /dev
mount -t tmpfs run /run && mkdir -p /run/lock/iscsi
for module in virtio_pci virtio_net virtio_console 9p 9pnet_virtio iscsi_tcp sd_mod ext4 xfs nfsv4; do modprobe $module; done
setting() { sed -n "s/.*\bholdfast\.$1=\([^ ]*\).*/\1/p" /proc/cmdline; }
name=$(setting name)
hostname "$name"
# Two guests behind one address must not look like one NFS client, nor like one initiator.
echo "$name" >/sys/module/nfs/parameters/nfs4_unique_id
echo "InitiatorName=iqn.2026-11.io.holdfast.guest:$name" >/etc/iscsi/initiatorname.iscsi
ip link set lo up
ip addr add 10.0.2.15/24 dev eth0 && ip link set eth0 up && ip route add default via 10.0.2.2
mount -t 9p -o trans=virtio,version=9p2000.L,cache=none share /share
port() { for entry in /sys/class/virtio-ports/*; do grep -qx "$1" "$entry/name" && echo "/dev/${entry##*/}"; done; }
sh -e /job/run.sh >"$(port output)" 2>&1 </dev/null
echo "$?" >"$(port status)"
sync
sleep 0.3
poweroff -f
