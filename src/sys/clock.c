/*
 * clock.c - the monotonic clock, and who we are.
 */
#ifndef AIOL_SYS_CLOCK_C
#define AIOL_SYS_CLOCK_C

#include "sys/sys.h"

AIOLOOP_INTERNAL aioloop_time aiol_clock_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now); /* cannot fail: the clock exists and the pointer is good */
    return (aioloop_time)now.tv_sec * 1000000000 + (aioloop_time)now.tv_nsec;
}

AIOLOOP_INTERNAL int aiol_process_id(void) {
    return (int)getpid();
}

#endif
