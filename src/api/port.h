/*
 * port.h - what a firmware supplies when there is no operating system (AIOLOOP_PORT 1).
 *
 * The smallest port: a clock, a way to wait, and a lock against interrupts. With it callbacks, timers and futures work;
 * calls that need descriptors or sockets answer AIOLOOP_ENOTAVAILABLE. The user writes these five functions; the
 * library calls them.
 */
#ifndef AIOLOOP_API_PORT_H
#define AIOLOOP_API_PORT_H

#include "api/base.h"

/* The time in nanoseconds since any moment; never goes back. */
extern aioloop_time aioloop_port_now(void);

/* Waits until the clock shows deadline (AIOLOOP_FOREVER: no limit) or aioloop_port_wake was called since the last wait
 * began; may return early. A board waits for an interrupt here. */
extern void aioloop_port_sleep_until(aioloop_time deadline);

/* Ends the wait; called from any interrupt or thread by aioloop_call_soon_threadsafe. */
extern void aioloop_port_wake(void);

/* Keeps interrupts away for a few instructions, so that aioloop_call_soon_threadsafe may be called from them. The
 * result of lock is given to unlock. The first post, and one that finds more waiting than ever before, allocates: where
 * an interrupt must not, post once while starting up. */
extern uint32_t aioloop_port_lock(void);
extern void aioloop_port_unlock(uint32_t state);

#endif
