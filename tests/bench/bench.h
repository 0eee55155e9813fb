/*
 * bench.h - what the benchmark programs share: arguments, clocks, pinning, control, and main.
 *
 * There is one program per library (bench_hand.c, bench_libev.c, bench_libuv.c, bench_aioloop.c);
 * those of tasks (bench_tasks.c, bench_hand_tasks.c) have modes of their own. Each of the former defines the functions declared under "what a program supplies"; main here calls the one
 * named on the command line, so every program is started the same way:
 *
 *     bench_X echo [--once] [--core N]     a server; prints "port P"; see bench_control
 *     bench_X udp [--core N]               the same with datagrams, for those that have it
 *     bench_X soon --live L --count N      callbacks that post themselves, L of them at a time
 *     bench_X timers --live L --count N    arm L, cancel half, let half fire; N timers in all
 *     bench_X million --live L             the same once, each phase by itself, and its memory
 *     bench_X rearm --live L --count N     push one of L live timers back, N times
 *     bench_X posts --count N --core2 M    posts from another thread, which runs on core M
 *     bench_X wakeup --count N             round trips between two loops in two threads
 *     bench_X pool --live L --count N      functions in a pool of four threads, L of them at a time
 *
 * All but echo and udp print one JSON object. What is common costs the same instructions everywhere or none
 * where it is measured. Work of a single thread is timed by the processor time it used, which a
 * busy machine disturbs less than the wall clock; both are printed.
 */
#ifndef BENCH_H
#define BENCH_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* A file need not use all of these. */
#define BENCH_FN __attribute__((unused)) static

/* What the peers' servers give to one recv: asyncio's own size, and the fastest of those tried
 * (64 KiB costs a third more with 100 KiB messages). On a page, so that the linker's whim does not
 * decide how fast copies are. */
#define BENCH_READ_SIZE (256 * 1024)
__attribute__((unused, aligned(4096))) static char bench_buffer[BENCH_READ_SIZE];
#define BENCH_BACKLOG 1024

BENCH_FN void bench_die(const char *what) {
    fprintf(stderr, "%s: %s\n", what, errno ? strerror(errno) : "failed");
    exit(1);
}

BENCH_FN void bench_check(bool good, const char *what) {
    if (!good)
        bench_die(what);
}

BENCH_FN void *bench_alloc(size_t count, size_t size) {
    void *memory = calloc(count, size);
    bench_check(memory != NULL, "calloc");
    return memory;
}

/* ---- arguments ---- */

struct bench_args {
    const char *mode;
    const char *folder; /* of certificates */
    long live, count, size, answer, connections, depth, port, pid, core, core2, tls, rate;
    double seconds;
    bool once;
};

BENCH_FN struct bench_args bench_parse(int argc, char **argv) {
    struct bench_args args = {"", ".", 1, 1, 64, 64, 1, 1, 0, 0, -1, -1, 12, 100, 1.0, false};
    if (argc > 1)
        args.mode = argv[1];
    for (int i = 2; i < argc; i++) {
        const struct {
            const char *name;
            long *value;
        } numbers[] = {{"--live", &args.live},   {"--count", &args.count},
                       {"--size", &args.size},   {"--port", &args.port},
                       {"--pid", &args.pid},     {"--core", &args.core},
                       {"--core2", &args.core2}, {"--connections", &args.connections},
                       {"--depth", &args.depth}, {"--answer", &args.answer},
                       {"--tls", &args.tls},     {"--rate", &args.rate}};
        bool known = false;
        if (strcmp(argv[i], "--once") == 0) {
            args.once = known = true;
        } else if (i + 1 < argc && strcmp(argv[i], "--seconds") == 0) {
            args.seconds = atof(argv[++i]);
            known = true;
        } else if (i + 1 < argc && strcmp(argv[i], "--folder") == 0) {
            args.folder = argv[++i];
            known = true;
        } else if (i + 1 < argc) {
            for (size_t k = 0; k < sizeof(numbers) / sizeof(numbers[0]) && !known; k++) {
                if (strcmp(argv[i], numbers[k].name) == 0) {
                    *numbers[k].value = atol(argv[++i]);
                    known = true;
                }
            }
        }
        if (!known) {
            fprintf(stderr, "%s: what is %s?\n", argv[0], argv[i]);
            exit(2);
        }
    }
    return args;
}

/* ---- clocks, cores, chance ---- */

BENCH_FN int64_t bench_clock(clockid_t which) {
    struct timespec t;
    clock_gettime(which, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

BENCH_FN int64_t bench_now(void) {
    return bench_clock(CLOCK_MONOTONIC);
}

BENCH_FN void bench_sleep_until(int64_t when) {
    struct timespec t = {when / 1000000000, when % 1000000000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
        ;
}

/* Keeps the calling thread on one core. Without that core the machine decides, and the times say
 * so. */
BENCH_FN void bench_pin(long core) {
    cpu_set_t set;
    if (core < 0)
        return;
    CPU_ZERO(&set);
    CPU_SET((size_t)core, &set);
    sched_setaffinity(0, sizeof(set), &set);
}

/* As many open files as may be. */
BENCH_FN void bench_files(void) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
}

/* Where a second thread runs; -1: wherever the first one may. */
__attribute__((unused)) static long bench_core2;

/* Threads of a pool: libuv's default. */
#define BENCH_POOL_THREADS 4

/* A linear congruential step: few instructions, the same everywhere. */
BENCH_FN uint32_t bench_random(uint32_t *state, uint32_t bound) {
    *state = *state * 1664525u + 1013904223u;
    return (uint32_t)(((uint64_t)*state * bound) >> 32);
}

/* A span of time in one thread (cpu) and outside (wall). */
struct bench_span {
    int64_t wall, cpu;
};

BENCH_FN struct bench_span bench_start(void) {
    struct bench_span span = {bench_now(), bench_clock(CLOCK_PROCESS_CPUTIME_ID)};
    return span;
}

BENCH_FN struct bench_span bench_stop(struct bench_span begun) {
    struct bench_span span = bench_start();
    span.wall -= begun.wall;
    span.cpu -= begun.cpu;
    return span;
}

BENCH_FN void bench_print(struct bench_span span, long count) {
    printf("{\"ns\": %.3f, \"wall_ns\": %.3f, \"count\": %ld}\n", (double)span.cpu / (double)count,
           (double)span.wall / (double)count, count);
}

/* ---- memory ---- */

/* Bytes that the program holds from malloc, its headers and rounding included. */
BENCH_FN size_t bench_heap(void) {
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

/* A line of /proc/self/status in KiB: "VmHWM:" (most ever resident), "RssAnon:" (resident now, no
 * files). */
BENCH_FN long bench_status(const char *name) {
    char line[256];
    long value = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL)
        if (strncmp(line, name, strlen(name)) == 0)
            value = atol(line + strlen(name));
    if (file != NULL)
        fclose(file);
    return value;
}

/* ---- servers ---- */

__attribute__((unused)) static long bench_connections;
__attribute__((unused)) static bool bench_once;
/* Calls of malloc and its kin, where a program counts them. */
__attribute__((unused)) static long bench_allocations;
/* What a server waits with, if it can say. */
__attribute__((unused)) static const char *bench_engine = "unknown";

/* A connection is there; one is gone. The latter is false when the server has to end: with --once,
 * after the last. */
BENCH_FN void bench_opened(void) {
    bench_connections++;
}

BENCH_FN bool bench_closed(void) {
    return --bench_connections > 0 || !bench_once;
}

/* Standard input is readable: each byte asks for a line of figures. False at its end: the server
 * ends. */
BENCH_FN bool bench_control(void) {
    char byte;
    const long allocations = bench_allocations; /* not those of telling */
    if (read(0, &byte, 1) <= 0)
        return false;
    printf("{\"engine\": \"%s\", \"connections\": %ld, \"heap\": %zu, \"rss_anon\": %ld, "
           "\"cpu_ns\": %lld, \"allocations\": %ld}\n",
           bench_engine, bench_connections, bench_heap(), bench_status("RssAnon:") * 1024,
           (long long)bench_clock(CLOCK_PROCESS_CPUTIME_ID), allocations);
    fflush(stdout);
    bench_allocations = allocations;
    return true;
}

BENCH_FN void bench_announce(int port) {
    printf("port %d\n", port);
    fflush(stdout);
}

/* A listening socket at a free port, which is announced. */
BENCH_FN int bench_listen(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    bench_check(fd >= 0, "socket");
    bench_check(bind(fd, (struct sockaddr *)&address, size) == 0, "bind");
    bench_check(listen(fd, BENCH_BACKLOG) == 0, "listen");
    bench_check(getsockname(fd, (struct sockaddr *)&address, &size) == 0, "getsockname");
    bench_announce(ntohs(address.sin_port));
    return fd;
}

/* asyncio, and so every server here, sends at once. */
BENCH_FN void bench_nodelay(int fd) {
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

/* ---- files ---- */

/* A file of so many MiB, in memory. */
BENCH_FN int bench_file(long mib) {
    int file = memfd_create("bench", MFD_CLOEXEC);
    char *block = (char *)bench_alloc(1, 1 << 20);
    bench_check(file >= 0, "memfd_create");
    memset(block, 'x', 1 << 20);
    for (long i = 0; i < mib; i++)
        bench_check(write(file, block, 1 << 20) == 1 << 20, "write");
    free(block);
    return file;
}

/* Takes whatever comes, to the end, without looking at it. */
BENCH_FN void *bench_drain(void *arg) {
    bench_pin(bench_core2);
    while (recv(*(int *)arg, NULL, 1 << 20, MSG_TRUNC) > 0)
        ;
    close(*(int *)arg);
    return NULL;
}

/* A connection whose other end is drained by a thread. What the sending thread takes is measured alone. */
struct bench_drained {
    int fd, other;
    pthread_t thread;
    int64_t wall, cpu;
};

BENCH_FN void bench_drained_begin(struct bench_drained *d) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bench_check(bind(listener, (struct sockaddr *)&address, size) == 0 && listen(listener, 1) == 0, "listen");
    bench_check(getsockname(listener, (struct sockaddr *)&address, &size) == 0, "getsockname");
    d->other = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bench_check(connect(d->other, (struct sockaddr *)&address, size) == 0, "connect");
    d->fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    bench_check(d->fd >= 0, "accept4");
    bench_nodelay(d->fd);
    close(listener);
    bench_check(pthread_create(&d->thread, NULL, bench_drain, &d->other) == 0, "pthread_create");
    d->wall = bench_now();
    d->cpu = bench_clock(CLOCK_THREAD_CPUTIME_ID);
}

/* All of mib MiB have been given to the system. The connection is closed by now, or fd is. */
BENCH_FN void bench_drained_end(struct bench_drained *d, long mib) {
    int64_t cpu = bench_clock(CLOCK_THREAD_CPUTIME_ID) - d->cpu;
    int64_t wall;
    close(d->fd);
    pthread_join(d->thread, NULL);
    wall = bench_now() - d->wall;
    printf("{\"cpu_us\": %.3f, \"wall_us\": %.3f, \"count\": %ld}\n", (double)cpu / 1e3 / (double)mib,
           (double)wall / 1e3 / (double)mib, mib);
}

/* ---- calls from another thread: for the libraries that have only a bell ---- */

struct bench_call {
    void (*fn)(void *arg);
    void *arg;
};

struct bench_calls {
    pthread_mutex_t lock;
    struct bench_call *items, *taken;
    size_t size, capacity, taken_capacity;
};

/* True if the queue was empty, so that the bell has to be rung: once for as many calls as wait. */
BENCH_FN bool bench_calls_push(struct bench_calls *calls, void (*fn)(void *arg), void *arg) {
    struct bench_call call = {fn, arg};
    bool first;
    pthread_mutex_lock(&calls->lock);
    if (calls->size == calls->capacity) {
        calls->capacity = calls->capacity ? calls->capacity * 2 : 64;
        calls->items = (struct bench_call *)realloc(calls->items, calls->capacity * sizeof(call));
        bench_check(calls->items != NULL, "realloc");
    }
    first = calls->size == 0;
    calls->items[calls->size++] = call;
    pthread_mutex_unlock(&calls->lock);
    return first;
}

/* Takes what waits, leaving the other of two arrays in its place, and runs it. */
BENCH_FN size_t bench_calls_run(struct bench_calls *calls) {
    struct bench_call *items;
    size_t size, capacity;
    pthread_mutex_lock(&calls->lock);
    items = calls->items;
    size = calls->size;
    capacity = calls->capacity;
    calls->items = calls->taken;
    calls->capacity = calls->taken_capacity;
    calls->size = 0;
    pthread_mutex_unlock(&calls->lock);
    calls->taken = items;
    calls->taken_capacity = capacity;
    for (size_t i = 0; i < size; i++)
        items[i].fn(items[i].arg);
    return size;
}

/* ---- timers ---- */

/* A deadline of the timers benchmark: within the next 5 ms. */
#define BENCH_TIMER_SPREAD_NS 5000000
/* In the million benchmark: late enough that none fires while a slow library arms and cancels. */
#define BENCH_MILLION_BASE_NS 1500000000
#define BENCH_MILLION_SPREAD_NS 500000000
/* An idle time-out, as servers have them. */
#define BENCH_IDLE_NS 60000000000
/* A busy loop reads the clock once in an iteration, not for each message: so many re-arms share a
 * reading. */
#define BENCH_REARMS_PER_CLOCK 64

/* The million benchmark: memory before, and the three phases. The handles that a program needs to
 * cancel count as its memory, as do the timers that libev and libuv leave to the program to keep.
 */
struct bench_million {
    long before;
    struct bench_span begun, arm, cancel, fire;
};

BENCH_FN struct bench_million bench_million_begin(void) {
    struct bench_million m = {bench_status("VmHWM:"), {0, 0}, {0, 0}, {0, 0}, {0, 0}};
    m.begun = bench_start();
    return m;
}

BENCH_FN void bench_million_armed(struct bench_million *m) {
    m->arm = bench_stop(m->begun);
    m->begun = bench_start();
}

/* Waits until all are due, so that firing is not a matter of waiting. */
BENCH_FN void bench_million_cancelled(struct bench_million *m, int64_t armed_at) {
    m->cancel = bench_stop(m->begun);
    if (bench_now() > armed_at + BENCH_MILLION_BASE_NS)
        fprintf(stderr, "warning: timers fell due before they were cancelled\n");
    bench_sleep_until(armed_at + BENCH_MILLION_BASE_NS + BENCH_MILLION_SPREAD_NS + 5000000);
    m->begun = bench_start();
}

BENCH_FN void bench_million_fired(struct bench_million *m, long live, long fired) {
    m->fire = bench_stop(m->begun);
    bench_check(fired == live / 2, "timers fired");
    printf("{\"arm_ns\": %.2f, \"cancel_ns\": %.2f, \"fire_ns\": %.2f, \"arm_wall_ns\": %.2f, "
           "\"cancel_wall_ns\": %.2f, \"fire_wall_ns\": %.2f, \"peak_mib\": %.1f}\n",
           (double)m->arm.cpu / (double)live, (double)m->cancel.cpu / (double)(live / 2),
           (double)m->fire.cpu / (double)fired, (double)m->arm.wall / (double)live,
           (double)m->cancel.wall / (double)(live / 2), (double)m->fire.wall / (double)fired,
           (double)(bench_status("VmHWM:") - m->before) / 1024);
}

/* ---- tasks: bench_tasks.c and bench_hand_tasks.c ---- */

/* Resident memory and page tables, in KiB. */
struct bench_footprint {
    long rss, pte;
};

BENCH_FN struct bench_footprint bench_footprint(void) {
    struct bench_footprint print = {bench_status("VmRSS:"), bench_status("VmPTE:")};
    return print;
}

/* What each of count took since; heap: bytes in all that were asked of the allocator. */
BENCH_FN void bench_footprint_print(struct bench_footprint before, long count, double heap) {
    struct bench_footprint now = bench_footprint();
    printf("{\"heap\": %.1f, \"rss\": %.1f, \"pte\": %.1f, \"resident\": %.1f}\n", heap / (double)count,
           (double)(now.rss - before.rss) * 1024 / (double)count, (double)(now.pte - before.pte) * 1024 / (double)count,
           (double)(now.rss - before.rss + now.pte - before.pte) * 1024 / (double)count);
}

/* ---- what a program supplies ---- */

struct bench_mode {
    const char *name;
    void (*run)(const struct bench_args *args);
};

/* Runs the mode that the command line names. */
BENCH_FN int bench_run(int argc, char **argv, const struct bench_mode *modes, size_t count) {
    struct bench_args args = bench_parse(argc, argv);
    bench_once = args.once;
    bench_core2 = args.core2;
    bench_pin(args.core);
    bench_files();
    for (size_t i = 0; i < count; i++) {
        if (strcmp(args.mode, modes[i].name) == 0) {
            modes[i].run(&args);
            return 0;
        }
    }
    fprintf(stderr, "usage: %s MODE [--option value ...]; modes:", argv[0]);
    for (size_t i = 0; i < count; i++)
        fprintf(stderr, " %s", modes[i].name);
    fprintf(stderr, "\n");
    return 2;
}

#ifndef BENCH_NO_MAIN

static void bench_echo(const struct bench_args *args);
static void bench_soon(const struct bench_args *args);
static void bench_timers(const struct bench_args *args);
static void bench_million(const struct bench_args *args);
static void bench_rearm(const struct bench_args *args);
static void bench_posts(const struct bench_args *args);
static void bench_wakeup(const struct bench_args *args);
#ifdef BENCH_HAS_POOL
static void bench_pool(const struct bench_args *args);
#endif
#ifdef BENCH_HAS_SENDFILE
static void bench_sendfile(const struct bench_args *args);
#endif
#ifdef BENCH_HAS_UDP
static void bench_udp(const struct bench_args *args);
#endif

int main(int argc, char **argv) {
    static const struct bench_mode modes[] = {
        {"echo", bench_echo},   {"soon", bench_soon},   {"timers", bench_timers}, {"million", bench_million},
        {"rearm", bench_rearm}, {"posts", bench_posts}, {"wakeup", bench_wakeup},
#ifdef BENCH_HAS_POOL
        {"pool", bench_pool},
#endif
#ifdef BENCH_HAS_SENDFILE
        {"sendfile", bench_sendfile},
#endif
#ifdef BENCH_HAS_UDP
        {"udp", bench_udp},
#endif
    };
    return bench_run(argc, argv, modes, sizeof(modes) / sizeof(modes[0]));
}

#endif
#endif
