# Runs inside the lab for bench/boot.ts: the two monitors in turn, each with the same kernel,
# initramfs, memory and command line, all files in /tmp. One line a run: KIND MONITOR TIMES...
# The work folder holds program/, vmlinux, initramfs and stopwatch. $1 Node, $2 command line,
# $3 how many runs with kernel messages, $4 how many without.
node=$1 cmdline=$2 loud=$3 quiet=$4
cp -r program vmlinux initramfs stopwatch /tmp/
cd /tmp || exit 1

watch() {
  ./stopwatch 'Linux version' 'Run /init' 'USER SPACE' -- "$@" 2>> errors < /dev/null
}

faraday() { # MORE PARAMETERS
  watch "$node" program/bin/faraday.js run --kernel vmlinux --initrd initramfs --memory 128M \
    --boot-timer --cmdline-replace "$cmdline $1" --report report.json
}

microvm() {
  # Without the PIC and the PIT it starts faster than with its defaults: this is QEMU at its best.
  watch qemu-system-x86_64 -M microvm,acpi=on,pic=off,pit=off,rtc=on -accel kvm -cpu host \
    -m 128M -smp 1 -nodefaults -no-user-config -display none -no-reboot -serial stdio \
    -kernel vmlinux -initrd initramfs \
    -append "$cmdline $1"
}

run_both() { # KIND PARAMETERS
  echo "$1 faraday $(faraday "$2")"
  echo "first $("$node" -p 'JSON.parse(fs.readFileSync("report.json")).milliseconds.toFirstInstruction')"
  echo "$1 microvm $(microvm "$2")"
}

run_both warmup quiet
for _ in $(seq "$loud"); do run_both loud ''; done
for _ in $(seq "$quiet"); do run_both quiet quiet; done
for _ in 1 2 3 4 5; do
  echo "node $(./stopwatch -- "$node" -e 0 < /dev/null)"
done
cat errors >&2
