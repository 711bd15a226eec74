# Sourced by every scenario of the boot tests, which runs inside the lab in a folder of its own
# under /tmp. The runner sets NODE, FARADAY (its launcher), CLOUD and GENERIC (stored kernels), FILES
# (the cloud kernel's package, unpacked), IMAGES (the folder with root.ext4 and initramfs) and NAME
# (the scenario's).

faraday() {
  "$NODE" "$FARADAY" "$@"
}

# boot FLAGS...: one guest, which runs this scenario's job, with a report.
boot() {
  faraday run --net-backend none --cmdline "quiet job=$NAME" --report report.json "$@"
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
