# Sourced by every scenario of the boot tests, which runs inside the lab in a folder of its own
# under /tmp. The runner sets NODE, FARADAY (its launcher), CLOUD and GENERIC (stored kernels), FILES
# (the cloud kernel's package, unpacked), IMAGES (the folder with root.ext4 and initramfs) and NAME
# (the scenario's).

faraday() {
  "$NODE" "$FARADAY" "$@"
}

# The engines that can record: every guest of theirs is recorded into keep/.
RECORDING='v8'

# recording FLAGS...: prints where a guest with these flags is recorded; nothing where it is not.
recording() {
  local engine=cell word previous= number=1
  for word in "$@"; do
    [ "$word" = --record ] && return
    [ "$previous" = --engine ] && engine=$word
    previous=$word
  done
  case " $RECORDING " in *" $engine "*) ;; *) return ;; esac
  while [ -e "keep/guest-$number.rec" ]; do
    number=$((number + 1))
  done
  echo "keep/guest-$number.rec"
}

# boot FLAGS...: one guest, which runs this scenario's job, with a report, recorded where it can be.
boot() {
  local file backend='--net-backend none'
  file=$(recording "$@")
  case " $* " in *' --net'*) backend= ;; esac
  faraday run $backend --cmdline "quiet job=$NAME" --report report.json \
    ${file:+--record "$file"} "$@"
}

# A root disk of this scenario's own.
fresh_root() {
  cp --sparse=always "$IMAGES/root.ext4" root.ext4
}

# await_text FILE TEXT: waits until the file holds the text; the scenario's limit ends it.
await_text() {
  until grep -q "$2" "$1" 2> /dev/null; do
    sleep 0.1
  done
}

# no_network: removes the interfaces and name spaces that an earlier scenario left.
no_network() {
  local link
  ip -all netns delete
  for link in /sys/class/net/*; do
    [ "${link##*/}" = lo ] || ip link delete "${link##*/}" 2> /dev/null
  done
}

# tap NAME ADDRESS...: a tap of this host, up, with these addresses; TAP_FLAGS for `ip tuntap`.
tap() {
  local name=$1 address
  ip tuntap add dev "$name" mode tap $TAP_FLAGS
  # An address is of use at once, instead of after a second in which nobody objects to it.
  echo 0 > "/proc/sys/net/ipv6/conf/$name/accept_dad"
  shift
  for address in "$@"; do
    ip address add "$address" dev "$name"
  done
  ip link set "$name" up
}
