# Runs inside the lab for bench/smp.ts: guests with 1, 2 and 4 vCPUs that share out their jobs, under
# both monitors in turn. A line before each guest's own: 'guest ROUND MONITOR VCPUS'.
# The work folder holds program/, data/, root.ext4. $1 Node, $2 command line, $3 rounds.
node=$1 cmdline=$2 rounds=$3
cp -r program data /tmp/
cp --sparse=always root.ext4 /tmp/
cd /tmp || exit 1
export XDG_DATA_HOME=/tmp/data
stored=/tmp/data/faraday/kernels/stock
head -c 64M /dev/urandom > disk.img

faraday() { # VCPUS
  timeout -k 1 60 "$node" program/bin/faraday.js run --kernel stock --memory 128M --cpus "$1" \
    --rootfs root.ext4,ro --disk path=disk.img --cmdline quiet < /dev/null
}

microvm() { # VCPUS
  timeout -k 1 60 qemu-system-x86_64 -M microvm,acpi=on,pic=off,pit=off,rtc=on -accel kvm \
    -cpu host,arch-capabilities=off \
    -m 128M -smp "$1" -nodefaults -no-user-config -display none -no-reboot -serial stdio \
    -kernel "$stored/vmlinux" -initrd "$stored/initramfs.cpio" -append "$cmdline quiet" \
    -object iothread,id=io \
    -drive if=none,id=root,file=root.ext4,format=raw,readonly=on,cache=writeback \
    -device virtio-blk-device,drive=root \
    -drive if=none,id=data,file=disk.img,format=raw,cache=writeback,aio=io_uring \
    -device virtio-blk-device,drive=data,iothread=io < /dev/null
}

for round in $(seq "$rounds"); do
  for vcpus in 1 2 4; do
    for monitor in faraday microvm; do
      echo "guest $round $monitor $vcpus"
      "$monitor" "$vcpus"
    done
  done
done
exit 0
