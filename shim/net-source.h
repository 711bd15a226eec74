// What the network thread waits for: made by net-add.c, handled by net.c.
#pragma once

#include "net.h"

enum net_source { SOURCE_WAKE, SOURCE_BACKEND, SOURCE_KICK };

/** A source as epoll keeps it: of the device `net`, its pair or queue `index`. */
static inline uint64_t net_tag(enum net_source source, uint32_t net, uint32_t index) {
  return (uint64_t)source << 32 | net << 16 | index;
}
