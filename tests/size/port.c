/*
 * port.c - the five functions of a firmware port, as small as they can be: time passes with each look at it.
 */
#include "aioloop.h"

static aioloop_time port_time;

aioloop_time aioloop_port_now(void) {
    return port_time += 1000;
}

void aioloop_port_sleep_until(aioloop_time deadline) {
    if (deadline != AIOLOOP_FOREVER && deadline > port_time)
        port_time = deadline;
}

void aioloop_port_wake(void) {
}

uint32_t aioloop_port_lock(void) {
    return 0;
}

void aioloop_port_unlock(uint32_t state) {
    (void)state;
}
