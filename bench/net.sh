# Runs inside the lab for bench/net.ts: guests that load their network device, under each monitor in
# turn; images in /tmp, in memory. A line before each guest's own: 'guest ROUND MONITOR', after
# Faraday's one with its report, then what the server at the tap's address has measured.
# The work folder holds program/, data/, root.ext4, netload. $1 Node, $2 command line, $3 rounds,
# $4 the tap's address, $5 the guest's, $6 the length of their network, $7 after how many seconds no
# other round begins, then the monitors.
node=$1 cmdline=$2 rounds=$3 here=$4 there=$5 bits=$6 enough=$7
shift 7
cp -r program data netload /tmp/
cp --sparse=always root.ext4 /tmp/
cd /tmp || exit 1
export XDG_DATA_HOME=/tmp/data
stored=/tmp/data/faraday/kernels/stock

faraday() { # BACKEND
  timeout -k 1 60 "$node" program/bin/faraday.js run --kernel stock --memory 256M \
    --rootfs root.ext4,ro --net "tap=tap0,ip=$there/$bits" --net-backend "$1" \
    --cmdline quiet --report report.json < /dev/null
  echo "report $(tr -d '\n' < report.json)"
  rm -f report.json
}

microvm() { # VHOST
  timeout -k 1 60 qemu-system-x86_64 -M microvm,acpi=on,pic=off,pit=off,rtc=on -accel kvm \
    -name guest,debug-threads=on -cpu host,arch-capabilities=off \
    -m 256M -smp 1 -nodefaults -no-user-config -display none -no-reboot -serial stdio \
    -kernel "$stored/vmlinux" -initrd "$stored/initramfs.cpio" -append "$cmdline quiet" \
    -drive if=none,id=root,file=root.ext4,format=raw,readonly=on,cache=writeback \
    -device virtio-blk-device,drive=root \
    -netdev "tap,id=net,ifname=tap0,script=no,downscript=no,vhost=$1" \
    -device virtio-net-device,netdev=net < /dev/null
}

# A tap of its own for each guest: one that has been in use keeps the offloads of its last user.
new_tap() {
  ip tuntap add dev tap0 mode tap || exit 1
  echo 1 > /proc/sys/net/ipv6/conf/tap0/disable_ipv6
  ip address add "$here/$bits" dev tap0
  ip link set tap0 up
}

for round in $(seq 0 "$rounds"); do # the first one warms up
  [ "$SECONDS" -gt "$enough" ] && break
  for monitor in "$@"; do
    echo "guest $round $monitor"
    new_tap
    ./netload serve "$here" > measured &
    server=$!
    $monitor
    kill "$server" 2> /dev/null # it has ended, if all went well
    wait "$server"
    cat measured
    ip tuntap del dev tap0 mode tap
  done
done
exit 0
