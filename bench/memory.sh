# For bench/memory.ts: idle guests of 128 MiB, three of each kind at once, and what /proc says of
# their processes: OUT/KIND-NUMBER-PROGRAM.smaps. In the folder of program/; $1 Node, $2 how Faraday
# calls the kernel, $3 its path, $4 the initramfs or '', $5 command line, $6 OUT.
node=$1 name=$2 vmlinux=$3 initramfs=$4 cmdline=$5 out=$6
mkdir -p "$out"
initrd=() qemu_initrd=()
[ -n "$initramfs" ] && initrd=(--initrd "$initramfs") qemu_initrd=(-initrd "$initramfs")

faraday() { # FLAGS...
  exec "$node" program/bin/faraday.js run --kernel "$name" "${initrd[@]}" --memory 128M \
    --cmdline-replace "$cmdline" "$@"
}

microvm() {
  exec qemu-system-x86_64 -M microvm,acpi=on,pic=off,pit=off,rtc=on -accel kvm \
    -cpu host,arch-capabilities=off -m 128M -smp 1 -nodefaults -no-user-config -display none \
    -no-reboot -serial stdio -kernel "$vmlinux" "${qemu_initrd[@]}" -append "$cmdline"
}

cell() {
  exec program/build/faraday-cell "$out/composed"
}

"$node" program/bin/faraday.js image compose --out "$out/composed" --kernel "$name" \
  "${initrd[@]}" --memory 128M --cmdline-replace "$cmdline" >&2 || exit 1

look() { # KIND NUMBER PROGRAM PID
  cat "/proc/$4/smaps" > "$out/$1-$2-$3.smaps"
}

# The cell of a detached run, whose parent is gone.
detached_cell() { # OUTPUT
  sed -n 's/.*process \([0-9]*\).*/\1/p' "$1.errors"
}

measure() { # KIND COMMAND...
  local kind=$1 pids=()
  shift
  for number in 1 2 3; do
    "$@" < /dev/null > "$out/$kind-$number.out" 2> "$out/$kind-$number.out.errors" &
    pids[number]=$!
    for _ in $(seq 300); do
      grep -q IDLE "$out/$kind-$number.out" && break
      sleep 0.1
    done
  done
  sleep 2
  for number in 1 2 3; do
    local pid=${pids[number]}
    case $kind in
      faraday)
        look $kind $number node "$pid"
        look $kind $number cell "$(pgrep -P "$pid")"
        ;;
      detach)
        pids[number]=$(detached_cell "$out/$kind-$number.out")
        look $kind $number cell "${pids[number]}"
        ;;
      *) look $kind $number "$kind" "$pid" ;;
    esac
  done
  kill "${pids[@]}"
  sleep 1
}

measure microvm microvm
measure faraday faraday
measure detach faraday --detach
measure cell cell
exit 0
