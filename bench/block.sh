# Runs inside the lab for bench/block.ts: guests that load their second disk, under each monitor in
# turn; images in /tmp, in memory. A line before each guest's own: 'guest MONITOR', and after
# Faraday's one with its report.
# The work folder holds program/, data/, root.ext4. $1 Node, $2 command line, $3 rounds.
node=$1 cmdline=$2 rounds=$3
cp -r program data /tmp/
cp --sparse=always root.ext4 /tmp/
cd /tmp || exit 1
export XDG_DATA_HOME=/tmp/data
stored=/tmp/data/faraday/kernels/stock
head -c 256M /dev/urandom > disk.img

faraday() { # IO-ENGINE
  timeout 60 "$node" program/bin/faraday.js run --kernel stock --memory 128M \
    --rootfs root.ext4,ro --disk "path=disk.img,io-engine=$1" \
    --cmdline quiet --report report.json < /dev/null
  echo "report $(tr -d '\n' < report.json)"
}

microvm() {
  timeout 60 qemu-system-x86_64 -M microvm,acpi=on,pic=off,pit=off,rtc=on -accel kvm -cpu host \
    -m 128M -smp 1 -nodefaults -no-user-config -display none -no-reboot -serial stdio \
    -kernel "$stored/vmlinux" -initrd "$stored/initramfs.cpio" -append "$cmdline quiet" \
    -object iothread,id=io \
    -drive if=none,id=root,file=root.ext4,format=raw,readonly=on,cache=writeback \
    -device virtio-blk-device,drive=root \
    -drive if=none,id=data,file=disk.img,format=raw,cache=writeback,aio=io_uring \
    -device virtio-blk-device,drive=data,iothread=io < /dev/null
}

for round in $(seq 0 "$rounds"); do # the first one warms up
  for monitor in 'faraday sync' 'faraday io_uring' microvm; do
    echo "guest $round $monitor"
    $monitor
  done
done
