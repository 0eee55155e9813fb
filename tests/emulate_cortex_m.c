/*
 * emulate_cortex_m.c - a firmware for an emulated Cortex-M board: coroutines on stacks of the user's, the loop asleep between
 * timer interrupts. Ends with status 0 if all is right. See `make emulate`.
 */
#undef AIOLOOP_PORT
#define AIOLOOP_PORT 1
#define AIOLOOP_USE_COROUTINES 1
#define AIOLOOP_IMPLEMENTATION
#include "aioloop.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- the board: start-up, and SysTick as the clock ---- */

extern void initialise_monitor_handles(void);
extern char __bss_start__[];
extern char __bss_end__[];
int main(void);
void board_start(void);

#define BOARD_SYSTICK ((volatile uint32_t *)0xE000E010)
#define BOARD_RAM_END 0x20400000u
#define BOARD_MS 25000u /* ticks of the processor, at 25 MHz */

static volatile uint32_t board_ticks; /* milliseconds */
static volatile uint32_t board_interrupts;
static volatile uint32_t board_woken;
static aioloop *board_loop;
static uint32_t board_posts;

static void board_post(aioloop *loop, void *arg) {
    (void)loop;
    (void)arg;
    board_posts++;
}

/* Interrupts push onto the stack that is current: also a coroutine's. */
static void board_tick(void) {
    board_ticks = board_ticks + 1;
    board_interrupts = board_interrupts + 1;
    if (board_loop != NULL && board_ticks % 8 == 0)
        aioloop_call_soon_threadsafe(board_loop, board_post, NULL);
}

static void board_end(int status) {
    fflush(stdout);
    _Exit(status);
}

static void board_fault(void) {
    printf("a fault\n");
    board_end(3);
}

void board_start(void) {
    memset(__bss_start__, 0, (size_t)(__bss_end__ - __bss_start__));
#if defined(__ARM_FP)
    *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20; /* lets programs use the FPU */
    __asm__ volatile("dsb\n\tisb");
#endif
    initialise_monitor_handles();
    BOARD_SYSTICK[1] = BOARD_MS - 1;
    BOARD_SYSTICK[2] = 0;
    BOARD_SYSTICK[0] = 7;
    board_end(main());
}

typedef void (*board_vector)(void);
__attribute__((section(".vectors"), used)) static const board_vector board_vectors[16] = {
    (board_vector)BOARD_RAM_END, board_start, board_fault, board_fault, board_fault, board_fault, board_fault, NULL,
    NULL, NULL, NULL, board_fault, board_fault, NULL, board_fault, board_tick};

/* ---- the port ---- */

aioloop_time aioloop_port_now(void) {
    return AIOLOOP_MS(1) * board_ticks;
}

void aioloop_port_sleep_until(aioloop_time deadline) {
    __asm__ volatile("cpsid i");
    if (!board_woken && aioloop_port_now() < deadline)
        __asm__ volatile("wfi");
    board_woken = 0;
    __asm__ volatile("cpsie i");
}

void aioloop_port_wake(void) {
    board_woken = 1;
}

uint32_t aioloop_port_lock(void) {
    uint32_t state;
    __asm__ volatile("mrs %0, primask\n\tcpsid i" : "=r"(state));
    return state;
}

void aioloop_port_unlock(uint32_t state) {
    __asm__ volatile("msr primask, %0" : : "r"(state));
}

/* ---- the program ---- */

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            printf("%s:%d: %s\n", __FILE__, __LINE__, #condition);                                 \
            board_end(1);                                                                          \
        }                                                                                          \
    } while (0)

/* More values alive than there are registers; what they come to must not depend on the waits. */
static int64_t compute(aioloop *loop, void *arg, void **out) {
    uint32_t seed = (uint32_t)(uintptr_t)arg;
    bool waits = loop != NULL;
    uint32_t a = seed, b = seed + 1, c = seed + 2, d = seed + 3, e = seed + 4, f = seed + 5, g = seed + 6, h = seed + 7;
    float p = (float)seed, q = p + 0.5f, r = p + 0.25f, s = p + 0.75f;
    int i;
    (void)out;
    for (i = 0; i < 12; i++) {
        if (waits && aioloop_await(aioloop_sleep(loop, AIOLOOP_MS(seed % 3)), NULL) < 0)
            return AIOLOOP_ECANCELED;
        a += b * 3, b ^= c, c += d, d += e * 7, e ^= f, f += g, g ^= h, h += a;
        p += q * 0.5f, q -= r * 0.25f, r += s * 0.125f, s -= p * 0.0625f;
    }
    return (int64_t)(a ^ b ^ c ^ d ^ e ^ f ^ g ^ h) + (int64_t)((p + q + r + s) * 16.0f);
}

static int64_t nap(aioloop *loop, void *arg, void **out) {
    aioloop_time before = aioloop_now(loop);
    (void)arg;
    (void)out;
    CHECK(aioloop_await(aioloop_sleep(loop, AIOLOOP_MS(20)), NULL) == 0);
    CHECK(aioloop_now(loop) - before >= AIOLOOP_MS(20));
    CHECK(aioloop_now(loop) - before <= AIOLOOP_MS(200));
    return 1;
}

static int64_t busy(aioloop *loop, void *arg, void **out) {
    uint32_t until = board_interrupts + 3; /* so some come on this stack */
    (void)loop;
    (void)arg;
    (void)out;
    while (board_interrupts < until)
        continue;
    return 2;
}

#define STACK 2048
static char stacks[8][STACK + 1];

static int64_t parent(aioloop *loop, void *arg, void **out) {
    aioloop_task_options options = AIOLOOP_ZERO;
    aioloop_results *results = NULL;
    aioloop_future *tasks[6];
    int64_t n;
    size_t i;
    (void)arg;
    (void)out;
    options.stack_size = STACK;
    for (i = 0; i < 6; i++) {
        options.stack = stacks[i] + i % 2;
        options.eager = i == 3;
        tasks[i] = aioloop_create_task(loop, i == 4 ? nap : i == 5 ? busy : compute, (void *)(uintptr_t)i, &options);
    }
    n = aioloop_await(aioloop_gather(loop, tasks, 6, false), &results);
    CHECK(n == 6);
    for (i = 0; i < 4; i++)
        CHECK(aioloop_results_get(results, i, NULL) == compute(NULL, (void *)(uintptr_t)i, NULL));
    CHECK(aioloop_results_get(results, 4, NULL) == 1);
    CHECK(aioloop_results_get(results, 5, NULL) == 2);
    aioloop_results_free(results);
    return 42;
}

int main(void) {
    aioloop_task_options options = AIOLOOP_ZERO;
    aioloop_future *task;
    int round;
    board_loop = aioloop_new_event_loop(NULL);
    CHECK(board_loop != NULL);
    for (round = 0; round < 3; round++) {
        options.stack_size = 4096;
        options.stack = NULL; /* the loop's: memory of the heap */
        task = aioloop_create_task(board_loop, parent, NULL, &options);
        CHECK(aioloop_run_until_complete(board_loop, task, NULL) == 42);
    }
    CHECK(board_posts >= 3);
    BOARD_SYSTICK[0] = 0;
    aioloop_free(board_loop);
    printf("passed: %d interrupts, %d posts\n", (int)board_interrupts, (int)board_posts);
    return 0;
}
