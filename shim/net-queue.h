// Queues of a network device, for net-receive.c and net-transmit.c.
//
// Buffers of the guest are host addresses here: they were checked when their record was read, and
// count only as long as the queue's generation is the one they were taken in. While a call may
// touch them the queue has a request in flight, so that a driver that resets the device waits.
#pragma once

#include "net.h"

#define NET_TURN 64u     // frames of one queue before the others get theirs
#define NET_VAIN_MAX 64u // answers that want another look and bring nothing: then it has none

/** Between these two the lock is free, and the queue's driver waits before it takes memory back. */
void net_begin(const struct net *net, uint32_t queue);
void net_end(const struct net *net, uint32_t queue);

/**
 * Whether a cage that answered so may have more. An honest one says so with each request, and
 * without one only where it has answered as many chains itself as the ring holds: of frames those
 * are nonsense, and no driver has so many commands. One that says so many times and has no good
 * request is not heard until a doorbell rings: it would keep the thread busy for ever.
 */
bool net_hears(struct net *net, uint32_t effects);

/**
 * The next record of a queue: its bytes, or 0. `ask`: where there is none, the driver is asked for
 * its doorbell. *more: there may be one all the same. Lock held.
 */
uint32_t net_next(struct net *net, uint32_t queue, bool ask, uint8_t *record, bool *more);

/**
 * A ring is empty: gives its driver a moment to fill it again, unasked, where it has to share our
 * processor. Asked at once it would ring, and wait for us, at every single frame. Lock held, and
 * given up meanwhile.
 */
void net_give_way(const struct net *net, uint32_t queue);

/** What an errno of the backend makes of a frame; a backend that is gone is noticed. */
uint32_t net_reason(struct net *net, int error);

/** For how many nanoseconds the two buckets from `first` on hold the next frame back. */
uint64_t net_limited(struct net *net, uint32_t first, uint64_t now);

/** A frame passed: counts it, and takes it from the buckets. */
void net_passed(struct net *net, uint32_t queue, uint32_t first, uint64_t bytes);

/** The generation that the device's queue has now. */
uint32_t net_generation(const struct net *net, uint32_t queue);
