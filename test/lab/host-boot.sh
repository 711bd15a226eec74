#!/bin/busybox sh
# First process of the emulated host, in its initramfs: loads the modules in /modules, builds the
# root from 9p shares of the machine outside, and hands over to host-run.sh there.
# Shares: `root` (that machine's file system, read-only), `work` (the work folder, read-write) and
# `job` (what to run). /job/job.sh sets WORK, the work folder's path.
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
load() { # FILE...
  for module in "$@"; do
    insmod "$module" || echo "cannot load $module"
  done
}
load /modules/*

# A share keeps pages and names in memory (cache=loose): nobody else changes these files meanwhile,
# and without it every look at a file would leave the emulated host.
share() { # TAG FOLDER OPTIONS
  mkdir -p "$2"
  mount -t 9p -o "trans=virtio,version=9p2000.L,msize=512000,$3" "$1" "$2"
}

share root /outside cache=loose,ro
mkdir -p /upper /root
mount -t tmpfs -o size=75% upper /upper
mkdir /upper/files /upper/work
mount -t overlay -o lowerdir=/outside,upperdir=/upper/files,workdir=/upper/work root /root

for folder in proc sys dev; do
  mount --move "/$folder" "/root/$folder"
done
for folder in tmp run dev/shm; do
  mkdir -p "/root/$folder"
  mount -t tmpfs -o mode=1777 tmpfs "/root/$folder"
done
mkdir -p /root/dev/pts
mount -t devpts -o ptmxmode=666 devpts /root/dev/pts
ln -sf pts/ptmx /root/dev/ptmx
ln -sf /proc/self/fd /root/dev/fd
ln -sf /proc/self/fd/0 /root/dev/stdin
ln -sf /proc/self/fd/1 /root/dev/stdout
ln -sf /proc/self/fd/2 /root/dev/stderr
mount -t securityfs security /root/sys/kernel/security
mount -t cgroup2 cgroup /root/sys/fs/cgroup

lab=/root/run/lab
share job "$lab/job" cache=loose,ro
. "$lab/job/job.sh"
share work "/root$WORK" cache=loose

# All of the machine outside, where /tmp, /run and mount points are not hidden.
mkdir "$lab/outside"
mount --bind /outside "$lab/outside"

# The kernel's modules may lie in a cache folder that is hidden now, under /tmp for example.
release=$(uname -r)
mkdir -p "/root/lib/modules/$release"
mount --bind "/outside$MODULES/lib/modules/$release" "/root/lib/modules/$release"

# KVM remembers the processor's TSC rate from when it is loaded. On a busy machine the kernel's first
# guess at it is off, and the timers of a guest with a wrong rate never fire: load KVM only when the
# kernel has measured again, which is when it takes the TSC for its clock. Without a TSC that it
# trusts there is nothing to wait for, hence the limit.
clock=/root/sys/devices/system/clocksource/clocksource0/current_clocksource
tries=0
while read -r name < "$clock" && [ "$name" != tsc ] && [ "$tries" -lt 100 ]; do
  tries=$((tries + 1))
  sleep 0.05
done
load /late-modules/*

cp /bin/busybox /host-run.sh "$lab/"
exec switch_root /root "/run/lab/busybox" sh /run/lab/host-run.sh
