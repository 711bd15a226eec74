// The accessors' log (struct access_log): every access to guest memory with the data it moved.
// Compiled into the addon's cages and into the recording cell's, by CAGE_TRACED; a released cell
// has nothing of it. Included by core-accessors.h alone.
#pragma once

/** The entry of the script at its place, or false where there is no whole one left. */
static bool scripted(const struct access_log *log, struct access_entry *entry) {
  if (log->script_bytes - log->script_at < sizeof *entry) return false;
  memcpy(entry, log->script + log->script_at, sizeof *entry);
  return true;
}

/**
 * In a replay: puts what the script says was there into guest memory, just before it is read. What
 * is read otherwise than the script has it is read as it is: whoever compares the two will tell.
 */
static void serve(const struct w2c_guest *guest, uint32_t kind, uint64_t address, uint32_t length,
                  void *ram) {
  const struct access_log *log = guest->log;
  struct access_entry entry;
  if (!log || !ram || !scripted(log, &entry)) return;
  const uint8_t *data = log->script + log->script_at + sizeof entry;
  size_t left = log->script_bytes - log->script_at - sizeof entry;
  if (entry.kind != kind || entry.address != address || entry.length != length) return;
  if (length <= left) memcpy(ram, data, length);
}

/** Goes to the script's next entry. */
static void advance(struct access_log *log) {
  struct access_entry entry;
  if (!scripted(log, &entry)) return;
  size_t left = log->script_bytes - log->script_at - sizeof entry;
  size_t data = entry.kind & ACCESS_REFUSED ? 0 : entry.length;
  log->script_at += sizeof entry + (data < left ? data : left);
}

/** Notes an access; `data` is NULL where it was refused. */
static void trace(const struct w2c_guest *guest, uint32_t kind, uint64_t address, uint32_t length,
                  const void *data) {
  struct access_log *log = guest->log;
  if (!log) return;
  const struct access_entry entry = {.kind = kind, .length = length, .address = address};
  size_t bytes = data ? length : 0;
  size_t end = log->used + sizeof entry + bytes;
  if (end <= log->capacity) {
    memcpy(log->bytes + log->used, &entry, sizeof entry);
    if (bytes > 0) memcpy(log->bytes + log->used + sizeof entry, data, bytes);
  }
  log->used = end;
  advance(log);
}
