# Runs inside the lab for bench/boot.ts: one guest of one monitor, with the same kernel, initramfs,
# memory and command line as the others, all files in /tmp. Prints KIND MONITOR TIMES..., then what
# belongs to it. The work folder holds program/, data/, bzimage, initramfs and stopwatch.
# $1 Node, $2 command line, $3 monitor, $4 kind: quiet or loud.
node=$1 cmdline=$2 monitor=$3 kind=$4
[ "$kind" = quiet ] && cmdline="$cmdline quiet"
cp -r program data bzimage initramfs stopwatch /tmp/
cd /tmp || exit 1
export XDG_DATA_HOME=/tmp/data
stored=/tmp/data/faraday/kernels/stock/vmlinux

watch() {
  ./stopwatch -l 60 'Linux version' 'Run /init' 'USER SPACE' -- "$@" 2>> errors < /dev/null
}

faraday() {
  watch "$node" program/bin/faraday.js run --kernel stock --initrd initramfs --memory 128M \
    --cmdline-replace "$cmdline" --report report.json
}

cell() {
  watch program/build/faraday-cell composed
}

microvm() {
  # Without the PIC and the PIT it starts faster than with its defaults: this is QEMU at its best.
  watch qemu-system-x86_64 -M microvm,acpi=on,pic=off,pit=off,rtc=on -accel kvm -cpu host \
    -m 128M -smp 1 -nodefaults -no-user-config -display none -no-reboot -serial stdio \
    -kernel "$stored" -initrd initramfs -append "$cmdline"
}

kvmtool() {
  watch lkvm run --kernel bzimage --initrd initramfs --mem 128 --cpus 1 --network mode=none \
    --console serial --params "$cmdline"
}

# Programs and files into memory, the kernel's traits onto Faraday's shelf; no guest yet.
"$node" program/bin/faraday.js image compose --out composed --kernel stock --initrd initramfs \
  --memory 128M --cmdline-replace "$cmdline" > /dev/null || exit 1
program/build/faraday-cell 2> /dev/null
program/build/faraday-cell /none 2> /dev/null
qemu-system-x86_64 --version > /dev/null
qemu-system-x86_64 -M microvm -accel kvm -display none -nodefaults -S -daemonize -pidfile qemu.pid
kill "$(cat qemu.pid)"
cat composed/machine "$stored" initramfs program/build/* > /dev/null
for _ in 1 2 3; do
  echo "node empty $(./stopwatch -- "$node" -e 0 < /dev/null)"
done

echo "$kind $monitor $("$monitor")"
[ "$monitor" = faraday ] && echo "report $kind $(tr -d '\n' < report.json)"
cat errors >&2
