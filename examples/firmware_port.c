/*
 * firmware_port.c - the five functions that a board without an operating system supplies (port.h), written here over a
 * PC's clock and signals so that it can be tried at a desk. A signal plays the interrupt.
 *
 *     cc -DAIOLOOP_PORT=1 examples/firmware_port.c -o firmware_port && ./firmware_port
 *
 * Each function says what a Cortex-M would do in its place.
 */
#undef AIOLOOP_PORT
#define AIOLOOP_PORT 1
#define AIOLOOP_IMPLEMENTATION
#include "../aioloop.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/select.h>
#include <sys/time.h>
#include <time.h>

/* ---- the port ---- */

static volatile sig_atomic_t woken;

static sigset_t port_interrupts(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGALRM);
    return set;
}

/* A board: a hardware timer, extended to 64 bits. */
aioloop_time aioloop_port_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return AIOLOOP_SECONDS(1) * now.tv_sec + now.tv_nsec;
}

/* A board: cpsid i; if (!woken) wfi; cpsie i - an interrupt that is held off still ends wfi. pselect does the same: it lets
 * the signals in only while it waits, so a wake-up just before it is not slept through. */
void aioloop_port_sleep_until(aioloop_time deadline) {
    sigset_t interrupts = port_interrupts();
    sigset_t before;
    sigprocmask(SIG_BLOCK, &interrupts, &before);
    if (!woken) {
        aioloop_time left = deadline == AIOLOOP_FOREVER ? AIOLOOP_SECONDS(3600) : deadline - aioloop_port_now();
        struct timespec wait;
        if (left > 0) {
            wait.tv_sec = (time_t)(left / AIOLOOP_SECONDS(1));
            wait.tv_nsec = (long)(left % AIOLOOP_SECONDS(1));
            pselect(0, NULL, NULL, NULL, &wait, &before);
        }
    }
    woken = 0;
    sigprocmask(SIG_SETMASK, &before, NULL);
}

/* A board: the flag is enough; the interrupt that called this has ended wfi already. */
void aioloop_port_wake(void) {
    woken = 1;
}

/* A board: state = PRIMASK; cpsid i. */
uint32_t aioloop_port_lock(void) {
    sigset_t interrupts = port_interrupts();
    sigset_t before;
    sigprocmask(SIG_BLOCK, &interrupts, &before);
    return (uint32_t)sigismember(&before, SIGALRM);
}

/* A board: PRIMASK = state. */
void aioloop_port_unlock(uint32_t state) {
    sigset_t interrupts = port_interrupts();
    if (state == 0)
        sigprocmask(SIG_UNBLOCK, &interrupts, NULL);
}

/* ---- the firmware ---- */

static aioloop *loop;

/* In the loop: all the work is done here. */
static void button(aioloop *l, void *arg) {
    static int pressed;
    (void)arg;
    printf("button pressed %d times\n", ++pressed);
    if (pressed == 3)
        aioloop_stop(l);
}

/* The interrupt: posts, and is gone. */
static void button_interrupt(int number) {
    (void)number;
    aioloop_call_soon_threadsafe(loop, button, NULL);
}

static void blink(aioloop *l, void *arg) {
    static bool lit;
    (void)arg;
    lit = !lit;
    printf("LED %s\n", lit ? "on" : "off");
    aioloop_call_later(l, AIOLOOP_MS(200), blink, NULL);
}

static void ready(aioloop *l, void *arg) {
    (void)l;
    (void)arg;
}

int main(void) {
    struct sigaction action;
    struct itimerval every;
    aioloop_handle first;
    int error;
    loop = aioloop_new_event_loop(NULL);
    if (loop == NULL)
        return 1;
    /* The first post makes the memory for 64 of them, so that an interrupt never has to allocate. */
    first = aioloop_call_soon_threadsafe(loop, ready, NULL);
    if (aioloop_handle_is_null(&first))
        return 1;

    memset(&action, 0, sizeof(action));
    action.sa_handler = button_interrupt;
    sigaction(SIGALRM, &action, NULL);
    memset(&every, 0, sizeof(every));
    every.it_value.tv_usec = every.it_interval.tv_usec = 350000;
    setitimer(ITIMER_REAL, &every, NULL);

    aioloop_call_soon(loop, blink, NULL);
    error = aioloop_run_forever(loop);
    memset(&every, 0, sizeof(every));
    setitimer(ITIMER_REAL, &every, NULL); /* interrupts off, before the loop goes */
    printf("back end %s: %s\n", aioloop_backend_name(loop), aioloop_strerror(error));
    aioloop_free(loop);
    return error < 0;
}
