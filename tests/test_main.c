/*
 * test_main.c - the runner: finds the tests, runs each in a process of its own, tells the result.
 *
 * In parts: options; memory and system calls that fail on demand; assertions; one test in this
 * process; results; processes (POSIX, Windows); the plain run; torture; main.
 *
 * The parent starts itself again with `--run NAME --child` and learns the result from the exit
 * code, one of OUTCOME_...: numbers that exit(0), abort() and the sanitizers do not use, so a test
 * that ends the process is not taken for one that passed. In torture the children are forked
 * without exec, thousands of them, and report through shared memory.
 *
 * Invariant: nothing is injected, counted or searched for leaks outside run_here, and the parent
 * never runs a test body.
 *
 * Trap: a test that gives up is left by longjmp from whatever stack it was on, perhaps a
 * coroutine's. The sanitizers have to be told (leave_stack, arrive_on_stack), and a test that has
 * threads of its own cannot be left at all: its process ends.
 *
 * It is long because one file is linked into each test program, and it is two programs: the parent,
 * and what surrounds a test in the child.
 */
#if defined(_WIN32)
#ifndef __USE_MINGW_ANSI_STDIO
#define __USE_MINGW_ANSI_STDIO 1
#endif
#elif !defined(_GNU_SOURCE)
#define _GNU_SOURCE 1
#endif

/* A system that is neither can still run tests, one after another in one process. */
#ifndef TEST_POSIX
#if !defined(_WIN32) && (defined(__unix__) || defined(__APPLE__) || defined(__linux__))
#define TEST_POSIX 1
#else
#define TEST_POSIX 0
#endif
#endif
#ifndef TEST_WINDOWS
#if defined(_WIN32)
#define TEST_WINDOWS 1
#else
#define TEST_WINDOWS 0
#endif
#endif
#define TEST_PROCESSES (TEST_POSIX || TEST_WINDOWS)

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if TEST_POSIX
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/prctl.h>
#endif
#endif
#if TEST_WINDOWS
#include <windows.h>
#endif

#include "test.h"

#if TEST_ASAN
#ifdef __cplusplus
extern "C"
#endif
    void
    __asan_unpoison_memory_region(void const volatile *address, size_t size);
#endif
#if TEST_TSAN
#ifdef __cplusplus
extern "C" {
#endif
void *__tsan_get_current_fiber(void);
void __tsan_switch_to_fiber(void *fiber, unsigned flags);
#ifdef __cplusplus
}
#endif
#endif

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- options and shared state ---- */

enum { OUTCOME_PASS = 110, OUTCOME_FAIL, OUTCOME_SKIP, OUTCOME_GAVE_UP };

enum {
    MODE_RUN,     /* each test in a process */
    MODE_TORTURE, /* each test many times, each time with one fault */
    MODE_HERE,    /* --no-fork: all in this process */
    MODE_ONE,     /* --run NAME: one in this process */
    MODE_LIST,
    MODE_ROWS
};

static struct {
    int mode;
    int child; /* the exit code is for the parent */
    int fork;  /* do not exec */
    int verbose;
    int jobs;
    double timeout;
    long cap;
    unsigned skip_flags;
    const char *run;
    const char *wrap;
    const char *tap;
    const char *results;
    const char *label;
    const char *program;
    char **filters;
    int filter_count;
} options;

enum { CALLS_MAX = 96, UNKNOWN_MAX = 8, HOW_MAX = 256 };

/* What a run tells its parent; in shared memory where there is any, so that it survives a crash and
 * also hears of what a forked child of the test does. */
typedef struct run_report {
    long reached; /* the fault has been injected */
    long allocations;
    long calls[CALLS_MAX];
    const char *unknown[UNKNOWN_MAX]; /* calls that the table of faults lacks; literals, so the
                                         addresses mean the same in the parent */
    char how[HOW_MAX];                /* the first complaint */
} run_report;

/* The fault to inject: the k-th allocation, or the k-th call of a name; 0 for none. */
typedef struct fault_plan {
    long allocation;
    int call;
    int error;
    long call_number;
} fault_plan;

static run_report own_report;
static run_report *report = &own_report;
static fault_plan plan;

enum { PHASE_IDLE, PHASE_BODY, PHASE_CLEANUP };

/* The test that runs in this process. */
static struct {
    const test_case *test;
    long number; /* of tests run here, from 1: tells this test's blocks from older ones */
    long checks;
    long injecting;
    int phase;
    int outcome;
    int fds_may_leak;
    jmp_buf escape;
    void *fiber;
#if TEST_POSIX
    pid_t pid;
    pthread_t thread;
#elif TEST_WINDOWS
    DWORD thread;
#endif
} run;

static test_case *first_test;

void (*test_cleanup_hook)(void);
void (*test_forget_hook)(void);
const char *(*test_number_hook)(long long number);
void (*test_call_hook)(const char *system_call_name);

/* What test_fail_calls was told: an index in fault_calls and one, and errno; 0 for none. */
static long failing_call;
static long failing_error;

void test_register(test_case *test) {
    test->next = first_test;
    first_test = test;
}

/* ---- atomics: three branches; tcc has none, and there the library has no threads either ---- */

#if (defined(__GNUC__) || defined(__clang__)) && !defined(__TINYC__)
static long atomic_add(long *pointer, long n) {
    return __atomic_add_fetch(pointer, n, __ATOMIC_SEQ_CST);
}
static long atomic_get(long *pointer) {
    return __atomic_load_n(pointer, __ATOMIC_SEQ_CST);
}
static long atomic_swap(long *pointer, long value) {
    return __atomic_exchange_n(pointer, value, __ATOMIC_SEQ_CST);
}
#elif TEST_WINDOWS
static long atomic_add(long *pointer, long n) {
    return InterlockedExchangeAdd(pointer, n) + n;
}
static long atomic_get(long *pointer) {
    return InterlockedExchangeAdd(pointer, 0);
}
static long atomic_swap(long *pointer, long value) {
    return InterlockedExchange(pointer, value);
}
#else
static long atomic_add(long *pointer, long n) {
    return *pointer += n;
}
static long atomic_get(long *pointer) {
    return *pointer;
}
static long atomic_swap(long *pointer, long value) {
    long old = *pointer;
    *pointer = value;
    return old;
}
#endif

static void yield_processor(void) {
#if TEST_POSIX
    sched_yield();
#elif TEST_WINDOWS
    Sleep(0);
#endif
}

static double now(void) {
#if TEST_POSIX
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
#elif TEST_WINDOWS
    LARGE_INTEGER count, frequency;
    QueryPerformanceCounter(&count);
    QueryPerformanceFrequency(&frequency);
    return (double)count.QuadPart / (double)frequency.QuadPart;
#else
    return (double)clock() / (double)CLOCKS_PER_SEC;
#endif
}

static int under_valgrind; /* set by main */

static int find_valgrind(void) {
    const char *preload = getenv("LD_PRELOAD");
    return preload != NULL && strstr(preload, "vgpreload") != NULL;
}

double test_slowdown(void) {
    const char *text = getenv("TEST_SLOWDOWN");
    double factor = text != NULL ? strtod(text, NULL) : 1;
    if (!(factor > 0))
        factor = 1;
    if (TEST_TSAN)
        factor *= 5;
    else if (TEST_ASAN || TEST_MSAN)
        factor *= 3;
    if (under_valgrind || (options.wrap != NULL && strstr(options.wrap, "valgrind") != NULL))
        factor *= 20;
    return factor;
}

unsigned test_flags(void) {
    return run.test != NULL ? run.test->flags : 0;
}

int test_injected(void) {
    return atomic_get(&report->reached) != 0;
}

/* ---- memory ----
 *
 * A block is [padding][block][the user's bytes][guard]. Live ones are in a list, so that leaks can
 * be named. Freed ones wait in quarantine, filled, so that a second free and a late write are seen.
 * Under ASan there is neither guard nor quarantine, under valgrind no quarantine and no filling:
 * those know better, and would only see memory that is ours. */

enum {
    FRESH = 0xA5,
    FREED = 0xDD,
    GUARD = 0xB7,
    GUARD_SIZE = TEST_ASAN ? 0 : 16,
    QUARANTINE_BLOCKS = 256,
    QUARANTINE_LARGEST = 4096
};

#define MARK_LIVE 0x11B71AC5u
#define MARK_FREE 0xDEADB10Cu
#define MARK_EDGE 0xB7B7B7B7u

typedef struct block {
    struct block *next;
    struct block *previous;
    size_t size;
    long run;    /* run.number when it was made */
    long number; /* of the allocation in that run, from 1 */
    unsigned mark;
    unsigned edge; /* next to the user's bytes: written over by an underrun */
} block;

/* The user's bytes stay as aligned as malloc made them. */
enum { HEADER_SIZE = (int)((sizeof(block) + 15) / 16 * 16) };

static struct {
    long lock;
    block *live;
    block *quarantine[QUARANTINE_BLOCKS];
    size_t quarantine_next;
} memory;

static int in_forked_child(void) {
#if TEST_POSIX
    return run.phase != PHASE_IDLE && getpid() != run.pid;
#else
    return 0;
#endif
}

/* A child that the test forked while another thread was in here inherits a lock that nobody will
 * open; being alone, it takes it. */
static void memory_lock(void) {
    long turns = 0;
    while (atomic_swap(&memory.lock, 1) != 0) {
        if (++turns > 10000 && in_forked_child())
            return;
        yield_processor();
    }
}

static void memory_unlock(void) {
    atomic_swap(&memory.lock, 0);
}

static block *block_of(void *user) {
    return (block *)(void *)((char *)user - sizeof(block));
}

static unsigned char *bytes_of(block *b) {
    return (unsigned char *)b + sizeof(*b);
}

static void really_free(block *b) {
    free((char *)b + sizeof(*b) - HEADER_SIZE);
}

TEST_NORETURN static void memory_broken(const block *b, const char *what) {
    fprintf(stderr, "memory: block of %llu bytes (allocation %ld): %s\n",
            (unsigned long long)b->size, b->number, what);
    fflush(stderr);
    abort();
}

static void check_filled(block *b, const unsigned char *bytes, size_t n, int value,
                         const char *what) {
    size_t i;
    for (i = 0; i < n; i++)
        if (bytes[i] != value)
            memory_broken(b, what);
}

static void check_live(block *b) {
    if (b->mark == MARK_FREE)
        memory_broken(b, "freed twice");
    if (b->mark != MARK_LIVE) {
        fprintf(stderr, "memory: freed a block that test_malloc did not make, or whose header is "
                        "written over\n");
        abort();
    }
    if (b->edge != MARK_EDGE)
        memory_broken(b, "written before its start");
    check_filled(b, bytes_of(b) + b->size, GUARD_SIZE, GUARD, "written past its end");
}

static void check_quarantined(block *b) {
    check_filled(b, bytes_of(b), b->size, FREED, "written after it was freed");
}

static int allocation_fails(long *number) {
    *number = 0;
    if (!atomic_get(&run.injecting))
        return 0;
    *number = atomic_add(&report->allocations, 1);
    if (*number != plan.allocation)
        return 0;
    atomic_swap(&report->reached, 1);
    return 1;
}

/* The part of test_malloc that no fault is for. */
static void *make_block(size_t size, long number) {
    char *raw;
    block *b;
    if (size > (size_t)-1 / 4) {
        errno = ENOMEM;
        return NULL;
    }
    raw = (char *)malloc(HEADER_SIZE + size + GUARD_SIZE);
    if (raw == NULL)
        return NULL;
    b = (block *)(void *)(raw + HEADER_SIZE - sizeof(block));
    b->size = size;
    b->run = run.number;
    b->number = number;
    b->mark = MARK_LIVE;
    b->edge = MARK_EDGE;
    if (!TEST_MSAN && !under_valgrind)
        memset(bytes_of(b), FRESH, size);
    memset(bytes_of(b) + size, GUARD, GUARD_SIZE);
    memory_lock();
    b->previous = NULL;
    b->next = memory.live;
    if (b->next != NULL)
        b->next->previous = b;
    memory.live = b;
    memory_unlock();
    return bytes_of(b);
}

void *test_malloc(size_t size) {
    long number;
    if (allocation_fails(&number)) {
        errno = ENOMEM;
        return NULL;
    }
    return make_block(size, number);
}

void *test_calloc(size_t count, size_t size) {
    void *user = NULL;
    if (size != 0 && count > (size_t)-1 / 4 / size)
        return NULL;
    if (test_fault("calloc") == 0)
        user = make_block(count * size, 0);
    if (user != NULL)
        memset(user, 0, count * size);
    return user;
}

void test_free(void *user) {
    block *b;
    if (user == NULL)
        return;
    b = block_of(user);
    memory_lock();
    check_live(b);
    b->mark = MARK_FREE;
    if (b->previous != NULL)
        b->previous->next = b->next;
    else
        memory.live = b->next;
    if (b->next != NULL)
        b->next->previous = b->previous;
    memory_unlock();
    if (!under_valgrind)
        memset(user, FREED, b->size);
    if (!TEST_ASAN && !under_valgrind && b->size <= QUARANTINE_LARGEST) {
        block *oldest;
        memory_lock();
        oldest = memory.quarantine[memory.quarantine_next];
        memory.quarantine[memory.quarantine_next] = b;
        memory.quarantine_next = (memory.quarantine_next + 1) % QUARANTINE_BLOCKS;
        memory_unlock();
        b = oldest;
        if (b != NULL)
            check_quarantined(b);
    }
    if (b != NULL)
        really_free(b);
}

/* Always moves, so that a pointer kept across it is found out. */
void *test_realloc(void *user, size_t size) {
    void *fresh;
    if (user == NULL)
        return test_malloc(size);
    check_live(block_of(user));
    fresh = test_malloc(size);
    if (fresh == NULL)
        return NULL;
    if (size > block_of(user)->size)
        size = block_of(user)->size;
    memcpy(fresh, user, size);
    test_free(user);
    return fresh;
}

/* ---- system calls ---- */

/* The calls that torture makes fail, and with what. Each ends with 0. */
typedef struct fault_call {
    const char *name;
    int errors[8];
} fault_call;

static const fault_call fault_calls[] = {
    {"recv", {EINTR, EAGAIN, ECONNRESET, ENOBUFS, 0, 0, 0, 0}},
    {"recvfrom", {EINTR, EAGAIN, ECONNRESET, ENOBUFS, 0, 0, 0, 0}},
    {"recvmsg", {EINTR, EAGAIN, ECONNRESET, ENOBUFS, 0, 0, 0, 0}},
    {"recvmmsg", {EINTR, EAGAIN, ECONNRESET, ENOBUFS, 0, 0, 0, 0}},
    {"sendmmsg", {EINTR, EAGAIN, EPIPE, ECONNRESET, ENOBUFS, 0, 0, 0}},
    {"send", {EINTR, EAGAIN, EPIPE, ECONNRESET, ENOBUFS, 0, 0, 0}},
    {"sendto", {EINTR, EAGAIN, EPIPE, ECONNRESET, ENOBUFS, 0, 0, 0}},
    {"sendmsg", {EINTR, EAGAIN, EPIPE, ECONNRESET, ENOBUFS, 0, 0, 0}},
    {"accept", {EINTR, EAGAIN, ECONNABORTED, EMFILE, ENFILE, ENOBUFS, ENOMEM, 0}},
    {"accept4", {EINTR, EAGAIN, ECONNABORTED, EMFILE, ENFILE, ENOBUFS, ENOMEM, 0}},
    {"connect", {EINTR, ECONNREFUSED, EADDRNOTAVAIL, 0, 0, 0, 0, 0}},
    {"socket", {EMFILE, ENFILE, ENOBUFS, 0, 0, 0, 0, 0}},
    {"socketpair", {EMFILE, ENFILE, ENOBUFS, 0, 0, 0, 0, 0}},
    {"bind", {EADDRINUSE, EADDRNOTAVAIL, EACCES, 0, 0, 0, 0, 0}},
    {"listen", {EADDRINUSE, 0, 0, 0, 0, 0, 0, 0}},
    {"getsockname", {ENOBUFS, ENOTCONN, 0, 0, 0, 0, 0, 0}},
    {"getpeername", {ENOBUFS, ENOTCONN, 0, 0, 0, 0, 0, 0}},
    {"setsockopt", {ENOPROTOOPT, 0, 0, 0, 0, 0, 0, 0}},
    {"getsockopt", {ENOBUFS, 0, 0, 0, 0, 0, 0, 0}},
    {"shutdown", {ENOTCONN, 0, 0, 0, 0, 0, 0, 0}},
    {"epoll_create1", {EMFILE, ENFILE, ENOMEM, 0, 0, 0, 0, 0}},
    {"epoll_ctl", {ENOMEM, ENOSPC, 0, 0, 0, 0, 0, 0}},
    {"epoll_wait", {EINTR, 0, 0, 0, 0, 0, 0, 0}},
    {"epoll_pwait2", {EINTR, 0, 0, 0, 0, 0, 0, 0}},
    {"io_uring_setup", {EPERM, ENOSYS, ENOMEM, EMFILE, 0, 0, 0, 0}},
    {"io_uring_register", {ENOMEM, EINVAL, 0, 0, 0, 0, 0, 0}},
    {"io_uring_enter", {EINTR, EAGAIN, EBUSY, 0, 0, 0, 0, 0}},
    {"mmap", {ENOMEM, 0, 0, 0, 0, 0, 0, 0}},
    {"pthread_mutex_init", {EAGAIN, ENOMEM, 0, 0, 0, 0, 0, 0}},
    {"pthread_cond_init", {EAGAIN, ENOMEM, 0, 0, 0, 0, 0, 0}},
    {"pthread_create", {EAGAIN, 0, 0, 0, 0, 0, 0, 0}},
    {"madvise", {EINVAL, ENOMEM, 0, 0, 0, 0, 0, 0}},
    {"mprotect", {ENOMEM, 0, 0, 0, 0, 0, 0, 0}},
    {"poll", {EINTR, ENOMEM, 0, 0, 0, 0, 0, 0}},
    {"select", {EINTR, 0, 0, 0, 0, 0, 0, 0}},
    {"eventfd", {EMFILE, ENFILE, 0, 0, 0, 0, 0, 0}},
    {"pipe", {EMFILE, ENFILE, 0, 0, 0, 0, 0, 0}},
    {"pipe2", {EMFILE, ENFILE, 0, 0, 0, 0, 0, 0}},
    {"read", {EINTR, EAGAIN, 0, 0, 0, 0, 0, 0}},
    {"write", {EINTR, EAGAIN, 0, 0, 0, 0, 0, 0}},
    {"fcntl", {ENOMEM, 0, 0, 0, 0, 0, 0, 0}},
    {"close", {EINTR, 0, 0, 0, 0, 0, 0, 0}},
    {"unlink", {EACCES, 0, 0, 0, 0, 0, 0, 0}},
    {"open", {EINTR, EACCES, EMFILE, 0, 0, 0, 0, 0}},
    {"opendir", {EACCES, EMFILE, 0, 0, 0, 0, 0, 0}},
    {"getrandom", {EINTR, ENOSYS, 0, 0, 0, 0, 0, 0}},
    {"fork", {EAGAIN, ENOMEM, 0, 0, 0, 0, 0, 0}},
    {"waitid", {EINTR, 0, 0, 0, 0, 0, 0, 0}},
    {"pselect", {EINTR, ENOMEM, 0, 0, 0, 0, 0, 0}},
    {"dup2", {EINTR, 0, 0, 0, 0, 0, 0, 0}},
    {"pidfd_open", {ENOSYS, EMFILE, 0, 0, 0, 0, 0, 0}},
    {"close_range", {ENOSYS, 0, 0, 0, 0, 0, 0, 0}},
    {"sigaction", {EINVAL, 0, 0, 0, 0, 0, 0, 0}},
    {"sendfile", {EINTR, EAGAIN, EPIPE, ECONNRESET, EINVAL, EIO, 0, 0}},
    {"pread", {EINTR, EIO, 0, 0, 0, 0, 0, 0}},
    {"clone", {EAGAIN, ENOMEM, 0, 0, 0, 0, 0, 0}},
    {"pwritev2", {EINTR, EAGAIN, EPIPE, EOPNOTSUPP, EIO, 0, 0, 0}},
    {"writev", {EINTR, EAGAIN, EPIPE, EIO, 0, 0, 0, 0}},
    {"fstat", {EIO, 0, 0, 0, 0, 0, 0, 0}},
    {"stat", {EACCES, 0, 0, 0, 0, 0, 0, 0}},
    {"lstat", {EACCES, 0, 0, 0, 0, 0, 0, 0}},
    {"getaddrinfo", {ENOMEM, EMFILE, 0, 0, 0, 0, 0, 0}},
    {"getnameinfo", {ENOMEM, EMFILE, 0, 0, 0, 0, 0, 0}},
    {"calloc", {ENOMEM, 0, 0, 0, 0, 0, 0, 0}},
    /* Known, and never made to fail. */
    {"clock_gettime", {0, 0, 0, 0, 0, 0, 0, 0}},
};

typedef struct error_name {
    const char *name;
    int error;
} error_name;

static const error_name error_names[] = {
    {"EACCES", EACCES},         {"EADDRINUSE", EADDRINUSE}, {"EADDRNOTAVAIL", EADDRNOTAVAIL},
    {"EAGAIN", EAGAIN},         {"ECONNABORTED", ECONNABORTED},
    {"ECONNREFUSED", ECONNREFUSED},                         {"ECONNRESET", ECONNRESET},
    {"EINTR", EINTR},           {"EMFILE", EMFILE},         {"ENFILE", ENFILE},
    {"ENOBUFS", ENOBUFS},       {"ENOMEM", ENOMEM},         {"ENOPROTOOPT", ENOPROTOOPT},
    {"ENOSPC", ENOSPC},         {"ENOTCONN", ENOTCONN},     {"EPIPE", EPIPE},
    {"EPERM", EPERM},           {"ENOSYS", ENOSYS},         {"EBUSY", EBUSY},
    {"EINVAL", EINVAL},         {"EIO", EIO},
};

/* The index of a call's name in fault_calls, or -1. */
static int call_index(const char *name) {
    size_t i;
    for (i = 0; i < COUNT(fault_calls); i++)
        if (strcmp(fault_calls[i].name, name) == 0)
            return (int)i;
    return -1;
}

/* So that a call which the table forgets does not go untortured unnoticed. Two threads may both
 * note the same name or one of them lose its; that is good enough, and safe in a signal handler. */
static void note_unknown_call(const char *name) {
    size_t i;
    for (i = 0; i < UNKNOWN_MAX; i++) {
        if (report->unknown[i] == NULL) {
            report->unknown[i] = name;
            return;
        }
        if (strcmp(report->unknown[i], name) == 0)
            return;
    }
}

void test_fail_calls(const char *system_call_name, int error) {
    atomic_swap(&failing_error, error);
    atomic_swap(&failing_call, system_call_name == NULL ? 0 : call_index(system_call_name) + 1);
}

int test_fault(const char *system_call_name) {
    int call;
    long number;
    if (test_call_hook != NULL)
        test_call_hook(system_call_name);
    if (atomic_get(&failing_call) != 0 && call_index(system_call_name) + 1 == atomic_get(&failing_call))
        return (int)atomic_get(&failing_error);
    if (!atomic_get(&run.injecting))
        return 0;
    call = call_index(system_call_name);
    if (call < 0) {
        note_unknown_call(system_call_name);
        return 0;
    }
    number = atomic_add(&report->calls[call], 1);
    if (plan.call_number == 0 || call != plan.call || number != plan.call_number)
        return 0;
    atomic_swap(&report->reached, 1);
    return plan.error;
}

/* ---- assertions ---- */

void test_checked(void) {
    atomic_add(&run.checks, 1);
}

/* Prints a complaint; the first one is also the headline of the report. */
static void complain(const char *format, va_list arguments, const char *file, int line) {
    char text[1024];
    size_t n = 0;
    if (file != NULL)
        n = (size_t)snprintf(text, sizeof(text), "%s:%d: ", file, line);
    if (n < sizeof(text))
        vsnprintf(text + n, sizeof(text) - n, format, arguments);
    fflush(stdout);
    fprintf(stderr, "%s\n", text);
    fflush(stderr);
    if (report->how[0] == '\0')
        snprintf(report->how, sizeof(report->how), "%.*s", (int)strcspn(text, "\n"), text);
}

/* A fault of the test as a whole. */
TEST_PRINTF(1, 2)
static void blame(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    complain(format, arguments, NULL, 0);
    va_end(arguments);
    run.outcome = OUTCOME_FAIL;
}

static int on_test_thread(void) {
#if TEST_POSIX
    return pthread_equal(pthread_self(), run.thread);
#elif TEST_WINDOWS
    return GetCurrentThreadId() == run.thread;
#else
    return 1;
#endif
}

/* Ends the process of --run. A test that passed goes through exit, where LeakSanitizer looks for
 * what the test itself forgot; after giving up, that would be the locals of functions never left.
 * Without ASan exit is right for those too: coverage is written there. */
TEST_NORETURN static void finish(int outcome) {
    int code = outcome;
    int quick = outcome == OUTCOME_FAIL || outcome == OUTCOME_SKIP;
    if (outcome == OUTCOME_GAVE_UP)
        quick = TEST_ASAN || (test_flags() & TEST_THREADS) != 0 || !on_test_thread();
    if (!options.child) {
        code = outcome == OUTCOME_FAIL;
        if (plan.allocation != 0 || plan.call_number != 0)
            printf("the fault was %s\n", test_injected() ? "injected" : "not reached");
        printf("%d passed, %d failed%s\n", outcome == OUTCOME_PASS || outcome == OUTCOME_GAVE_UP,
               outcome == OUTCOME_FAIL, outcome == OUTCOME_SKIP ? ", 1 skipped" : "");
    }
    fflush(stdout);
    fflush(stderr);
    if (quick)
        _Exit(code);
    exit(code);
}

static void leave_stack(void) {
#if TEST_TSAN
    if (run.fiber != __tsan_get_current_fiber())
        __tsan_switch_to_fiber(run.fiber, 0);
#endif
}

static void arrive_on_stack(void) {
#if TEST_ASAN
    /* If a coroutine was left, ASan cleaned that stack; the frames abandoned on this one are still
     * poisoned and would be taken for errors of the clean-up. */
    char here = 0;
    const size_t reach = 512 * 1024;
    __asan_unpoison_memory_region((char *)((size_t)&here - reach), reach);
#endif
}

TEST_NORETURN static void leave(int outcome) {
    if (in_forked_child())
        _Exit(1);
    if (run.phase != PHASE_BODY && on_test_thread()) {
        blame("a check failed after the test's own code had ended");
        finish(OUTCOME_FAIL);
    }
    if (test_injected())
        outcome = OUTCOME_GAVE_UP;
    if (!on_test_thread() || (outcome != OUTCOME_GAVE_UP && options.mode != MODE_HERE))
        finish(outcome);
    run.outcome = outcome;
    leave_stack();
    longjmp(run.escape, 1);
}

void test_give_up(void) {
    leave(OUTCOME_FAIL);
}

void test_fail(const char *file, int line, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    complain(format, arguments, file, line);
    va_end(arguments);
    test_give_up();
}

static void print_at(const char *file, int line, const char *word, const char *format,
                     va_list arguments) {
    char text[1024];
    vsnprintf(text, sizeof(text), format, arguments);
    fflush(stdout);
    fprintf(stderr, "%s:%d: %s%s\n", file, line, word, text);
    fflush(stderr);
}

void test_skip(const char *file, int line, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    print_at(file, line, "skipped: ", format, arguments);
    va_end(arguments);
    leave(OUTCOME_SKIP);
}

void test_note(const char *file, int line, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    print_at(file, line, "", format, arguments);
    va_end(arguments);
}

static void describe_int(char *to, size_t size, long long n) {
    const char *name = test_number_hook != NULL ? test_number_hook(n) : NULL;
    if (name != NULL)
        snprintf(to, size, "%lld (%s)", n, name);
    else if (n > 0xFFFF || n < -0xFFFF)
        snprintf(to, size, "%lld (0x%llx)", n, (unsigned long long)n);
    else
        snprintf(to, size, "%lld", n);
}

void test_fail_int(const char *file, int line, const char *text, long long a, long long b) {
    char left[96];
    char right[96];
    describe_int(left, sizeof(left), a);
    describe_int(right, sizeof(right), b);
    test_fail(file, line, "%s failed: left is %s, right is %s", text, left, right);
}

/* Appends n bytes as a C string would be written; long ones are cut. */
static void describe_bytes(char *to, size_t size, const void *bytes, size_t n) {
    const unsigned char *p = (const unsigned char *)bytes;
    size_t used = 0;
    size_t i;
    to[used++] = '"';
    for (i = 0; i < n && used + 12 < size; i++) {
        if (p[i] == '"' || p[i] == '\\')
            used += (size_t)snprintf(to + used, size - used, "\\%c", p[i]);
        else if (p[i] == '\n')
            used += (size_t)snprintf(to + used, size - used, "\\n");
        else if (p[i] < 0x20 || p[i] > 0x7E)
            used += (size_t)snprintf(to + used, size - used, "\\x%02x", p[i]);
        else
            to[used++] = (char)p[i];
    }
    snprintf(to + used, size - used, "\"%s", i < n ? "..." : "");
}

static void describe_string(char *to, size_t size, const char *text) {
    if (text == NULL)
        snprintf(to, size, "NULL");
    else
        describe_bytes(to, size, text, strlen(text));
}

void test_check_str(const char *file, int line, const char *text, const char *a, const char *b) {
    char left[300];
    char right[300];
    test_checked();
    if (a == NULL || b == NULL ? a == b : strcmp(a, b) == 0)
        return;
    describe_string(left, sizeof(left), a);
    describe_string(right, sizeof(right), b);
    test_fail(file, line, "%s failed: left is %s, right is %s", text, left, right);
}

void test_check_mem(const char *file, int line, const char *text, const void *a, const void *b,
                    size_t n) {
    const unsigned char *left = (const unsigned char *)a;
    const unsigned char *right = (const unsigned char *)b;
    char left_text[160];
    char right_text[160];
    size_t at = 0;
    size_t from;
    size_t shown;
    test_checked();
    if (n == 0)
        return;
    if (a == NULL || b == NULL)
        test_fail(file, line, "%s failed: left is %s, right is %s", text,
                  a == NULL ? "NULL" : "not NULL", b == NULL ? "NULL" : "not NULL");
    while (at < n && left[at] == right[at])
        at++;
    if (at == n)
        return;
    from = at > 8 ? at - 8 : 0;
    shown = n - from > 24 ? 24 : n - from;
    describe_bytes(left_text, sizeof(left_text), left + from, shown);
    describe_bytes(right_text, sizeof(right_text), right + from, shown);
    test_fail(file, line, "%s failed at byte %llu of %llu: from byte %llu, left is %s, right is %s",
              text, (unsigned long long)at, (unsigned long long)n, (unsigned long long)from,
              left_text, right_text);
}

void test_check_ptr(const char *file, int line, const char *text, const void *a, const void *b) {
    test_checked();
    if (a != b)
        test_fail(file, line, "%s failed: left is %p, right is %p", text, a, b);
}

void test_allow_fd_leak(void) {
    run.fds_may_leak = 1;
}

/* ---- one test in this process ---- */

#if TEST_POSIX

typedef struct open_fd {
    int fd;
    dev_t device;
    ino_t inode;
} open_fd;

enum { FDS_MAX = 1024 };

typedef struct fd_list {
    int count;
    open_fd at[FDS_MAX];
} fd_list;

static fd_list fds_before;
static fd_list fds_after;

static void add_fd(fd_list *list, int fd) {
    struct stat about;
    if (list->count == FDS_MAX || fstat(fd, &about) != 0)
        return;
    list->at[list->count].fd = fd;
    list->at[list->count].device = about.st_dev;
    list->at[list->count].inode = about.st_ino;
    list->count++;
}

/* Descriptors at and above the limit cannot be the test's: valgrind keeps its own there. */
static void list_fds(fd_list *list) {
    struct rlimit limit;
    DIR *directory;
    int fd;
    int end = 65536;
    list->count = 0;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < (rlim_t)end)
        end = (int)limit.rlim_cur;
    directory = opendir("/proc/self/fd");
    if (directory != NULL) {
        struct dirent *entry;
        while ((entry = readdir(directory)) != NULL) {
            fd = atoi(entry->d_name);
            if (entry->d_name[0] != '.' && fd != dirfd(directory) && fd < end)
                add_fd(list, fd);
        }
        closedir(directory);
        return;
    }
    for (fd = 0; fd < end && fd < FDS_MAX; fd++)
        if (fcntl(fd, F_GETFD) >= 0)
            add_fd(list, fd);
}

static const open_fd *find_fd(const fd_list *list, int fd) {
    int i;
    for (i = 0; i < list->count; i++)
        if (list->at[i].fd == fd)
            return &list->at[i];
    return NULL;
}

static void check_fds(void) {
    char text[HOW_MAX];
    char path[64];
    char target[64];
    const open_fd *other;
    size_t used = 0;
    int i;
    int fd;
    ssize_t n;
    text[0] = '\0';
    list_fds(&fds_after);
    for (i = 0; i < fds_after.count && used < sizeof(text); i++) {
        fd = fds_after.at[i].fd;
        other = find_fd(&fds_before, fd);
        if (other != NULL && other->device == fds_after.at[i].device &&
            other->inode == fds_after.at[i].inode)
            continue;
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        n = readlink(path, target, sizeof(target) - 1);
        target[n > 0 ? n : 0] = '\0';
        used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%d%s%s%s%s",
                                 used > 0 ? ", " : "", fd, n > 0 ? " (" : "", target,
                                 n > 0 ? ")" : "", other != NULL ? " in place of another" : "");
    }
    if (used > 0)
        blame("left descriptors open: %s", text);
    for (i = 0; i < fds_before.count; i++)
        if (find_fd(&fds_after, fds_before.at[i].fd) == NULL)
            blame("closed descriptor %d, which it did not open", fds_before.at[i].fd);
}

#endif

/* The blocks that the test allocated and did not free; also a last look at the freed ones. */
static void check_blocks(void) {
    char sizes[160];
    const block *b;
    size_t used = 0;
    unsigned long long bytes = 0;
    long blocks = 0;
    size_t i;
    memory_lock();
    for (i = 0; i < QUARANTINE_BLOCKS; i++)
        if (memory.quarantine[i] != NULL)
            check_quarantined(memory.quarantine[i]);
    for (b = memory.live; b != NULL; b = b->next) {
        if (b->run != run.number)
            continue;
        blocks++;
        bytes += b->size;
        if (used + 48 < sizeof(sizes))
            used += (size_t)snprintf(sizes + used, sizeof(sizes) - used, "%s%llu (allocation %ld)",
                                     blocks > 1 ? ", " : "", (unsigned long long)b->size,
                                     b->number);
        else if (used + 4 < sizeof(sizes))
            used += (size_t)snprintf(sizes + used, sizeof(sizes) - used, "...");
    }
    memory_unlock();
    if (blocks > 0)
        blame("leaked %ld block%s, %llu byte%s: %s", blocks, blocks > 1 ? "s" : "", bytes,
              bytes != 1 ? "s" : "", sizes);
}

static int has_blocks(void) {
    const block *b;
    memory_lock();
    for (b = memory.live; b != NULL && b->run != run.number; b = b->next)
        ;
    memory_unlock();
    return b != NULL;
}

static void wait_until_freed(double seconds) {
    const double end = now() + seconds;
    while (has_blocks() && now() < end)
        yield_processor();
}

void test_wait_until_freed(void) {
    wait_until_freed(10 * test_slowdown());
}

static void prepare(const test_case *test) {
    memset(report, 0, sizeof(*report));
    run.test = test;
    run.number++;
    run.checks = 0;
    run.outcome = OUTCOME_PASS;
    run.fds_may_leak = 0;
#if TEST_TSAN
    run.fiber = __tsan_get_current_fiber();
#endif
#if TEST_POSIX
    run.pid = getpid();
    run.thread = pthread_self();
    list_fds(&fds_before);
#elif TEST_WINDOWS
    run.thread = GetCurrentThreadId();
#endif
    run.phase = PHASE_BODY;
}

/* Runs one test and looks for what it left behind; OUTCOME_... Everything that has to survive the
 * longjmp is in run. */
static int run_here(const test_case *test) {
    prepare(test);
    if (setjmp(run.escape) == 0) {
        atomic_swap(&run.injecting, 1);
        test->run();
    } else {
        arrive_on_stack();
    }
    atomic_swap(&run.injecting, 0);
    if (in_forked_child()) {
        fprintf(stderr, "%s: a child that the test forked came back\n", run.test->name);
        _Exit(1);
    }
    if (run.outcome == OUTCOME_GAVE_UP && (run.test->flags & TEST_THREADS) != 0)
        return run.outcome;
    if (run.outcome != OUTCOME_PASS) {
        run.phase = PHASE_CLEANUP;
        if (test_cleanup_hook != NULL)
            test_cleanup_hook();
    }
    run.phase = PHASE_IDLE;
    if (run.outcome == OUTCOME_FAIL || run.outcome == OUTCOME_SKIP)
        return run.outcome;
    if (run.outcome == OUTCOME_PASS && atomic_get(&run.checks) == 0 && !test_injected())
        blame("no CHECK was made: this test cannot fail");
    if (run.outcome == OUTCOME_GAVE_UP) {
        report->how[0] = '\0'; /* a new headline: what made the test give up is no failure */
        wait_until_freed(0.5); /* a thread that looks a name up may outlive its loop */
    }
    if (test_forget_hook != NULL)
        test_forget_hook();
    check_blocks();
#if TEST_POSIX
    if (!run.fds_may_leak)
        check_fds();
#endif
    return run.outcome;
}

/* ---- results ---- */

enum { STATE_NONE, STATE_PASS, STATE_FAIL, STATE_SKIP };

typedef struct result {
    const test_case *test;
    int state;
    double seconds;
    char *output;
    /* Torture's. */
    long allocation_faults;
    long call_faults;
    long failures;
    int running;
} result;

static struct {
    result *at;
    size_t count;
    size_t done;
    long states[4];
    int progress; /* the progress line is on the screen */
} results;

static void *allocate(size_t size) {
    void *p = calloc(1, size);
    if (p == NULL) {
        fprintf(stderr, "%s: out of memory\n", options.program);
        exit(2);
    }
    return p;
}

static void hide_progress(void) {
    if (results.progress)
        printf("\r%*s\r", 78, "");
    results.progress = 0;
}

static void print_indented(FILE *to, const char *prefix, const char *text) {
    size_t n;
    size_t shown;
    while (text != NULL && *text != '\0') {
        n = strcspn(text, "\n");
        shown = n > 0 && text[n - 1] == '\r' ? n - 1 : n; /* Windows */
        fprintf(to, "%s%.*s\n", prefix, (int)shown, text);
        text += n + (text[n] == '\n');
    }
}

static void settle(result *r, int state, double seconds) {
    r->state = state;
    r->seconds = seconds;
    results.done++;
    results.states[state]++;
}

static void print_result(const result *r, const char *how) {
    const char *word = r->state == STATE_PASS ? "ok  " : r->state == STATE_SKIP ? "skip" : "FAIL";
    if (r->state != STATE_FAIL && !options.verbose)
        return;
    hide_progress();
    printf("[%lu/%lu] %s %s (%.3f s)%s%s\n", (unsigned long)results.done,
           (unsigned long)results.count, word, r->test->name, r->seconds,
           how[0] != '\0' ? ": " : "", how);
    print_indented(stdout, "    ", r->output);
    fflush(stdout);
}

/* The last line of a text, without its newline: a skipped test says why there. */
static void last_line(const char *text, char *to, size_t size) {
    size_t end = text != NULL ? strlen(text) : 0;
    size_t start;
    while (end > 0 && (text[end - 1] == '\n' || text[end - 1] == '\r'))
        end--;
    start = end;
    while (start > 0 && text[start - 1] != '\n')
        start--;
    snprintf(to, size, "%.*s", (int)(end - start), end > 0 ? text + start : "");
}

static FILE *open_report(const char *path, const char *mode) {
    FILE *file = fopen(path, mode);
    if (file == NULL) {
        fprintf(stderr, "%s: cannot write %s: %s\n", options.program, path, strerror(errno));
        exit(2);
    }
    return file;
}

static void write_tap(void) {
    FILE *file = open_report(options.tap, "w");
    char why[200];
    size_t i;
    fprintf(file, "TAP version 13\n1..%lu\n", (unsigned long)results.count);
    for (i = 0; i < results.count; i++) {
        const result *r = &results.at[i];
        fprintf(file, "%sok %lu - %s", r->state == STATE_FAIL ? "not " : "", (unsigned long)i + 1,
                r->test->name);
        if (r->state == STATE_SKIP) {
            last_line(r->output, why, sizeof(why));
            fprintf(file, " # SKIP %s", why);
        }
        fprintf(file, "\n");
        if (r->state == STATE_FAIL)
            print_indented(file, "# ", r->output);
    }
    fclose(file);
}

/* Flushed after each line, so that two programs may append to the same file. */
static void write_results(void) {
    static const char *const words[] = {"none", "pass", "fail", "skip"};
    FILE *file = open_report(options.results, "a");
    size_t i;
    for (i = 0; i < results.count; i++) {
        const result *r = &results.at[i];
        fprintf(file, "%s\t%s\t%s\t%.3f\t%s\n", words[r->state], r->test->name, r->test->rows,
                r->seconds, options.label);
        fflush(file);
    }
    fclose(file);
}

static int slower(const void *a, const void *b) {
    const result *left = *(const result *const *)a;
    const result *right = *(const result *const *)b;
    return (left->seconds < right->seconds) - (left->seconds > right->seconds);
}

static void print_slowest(void) {
    const result **order =
        (const result **)allocate((results.count + 1) * sizeof(const result *));
    size_t i;
    for (i = 0; i < results.count; i++)
        order[i] = &results.at[i];
    qsort((void *)order, results.count, sizeof(order[0]), slower);
    if (results.count > 0)
        printf("slowest:\n");
    for (i = 0; i < results.count && i < 10; i++)
        printf("%9.3f s  %s\n", order[i]->seconds, order[i]->test->name);
    free((void *)order);
}

/* The end of every run of several tests; the exit code. */
static int conclude(void) {
    hide_progress();
    if (options.verbose)
        print_slowest();
    if (options.tap != NULL)
        write_tap();
    if (options.results != NULL)
        write_results();
    if (results.count == 0)
        printf("no test selected\n");
    printf("%ld passed, %ld failed", results.states[STATE_PASS], results.states[STATE_FAIL]);
    if (results.states[STATE_SKIP] > 0)
        printf(", %ld skipped", results.states[STATE_SKIP]);
    printf("\n");
    fflush(stdout);
    return results.states[STATE_FAIL] > 0;
}

/* A test that the options leave out, with the reason for TAP's. */
static int left_out(result *r) {
    const char *why = NULL;
    if (options.mode == MODE_TORTURE && (r->test->flags & TEST_SLOW) != 0)
        why = "too slow for torture";
    else if ((r->test->flags & options.skip_flags) != 0)
        why = "--skip-flag";
    if (why == NULL)
        return 0;
    r->output = (char *)allocate(strlen(why) + 1);
    memcpy(r->output, why, strlen(why));
    settle(r, STATE_SKIP, 0);
    print_result(r, "");
    return 1;
}

/* --no-fork: all of them here, one after another; output goes straight to the screen. */
static int run_all_here(void) {
    size_t i;
    for (i = 0; i < results.count; i++) {
        result *r = &results.at[i];
        double start = now();
        int outcome;
        if (left_out(r))
            continue;
        outcome = run_here(r->test);
        settle(r,
               outcome == OUTCOME_FAIL   ? STATE_FAIL
               : outcome == OUTCOME_SKIP ? STATE_SKIP
                                         : STATE_PASS,
               now() - start);
        print_result(r, "");
    }
    return conclude();
}

/* ---- processes ---- */

#if TEST_PROCESSES

/* Windows waits for 64 processes at most. Of more output than OUTPUT_MAX only the end is kept. */
enum { JOBS_MAX = 60, OUTPUT_MAX = 64 * 1024, OUTPUT_NOTE = 64 };

/* A slot for one running test. The output file and the shared report are kept from test to test. */
typedef struct job {
    result *of;
    fault_plan plan;
    int stage;     /* torture's */
    long number;
    int running;
    int timed_out;
    double started;
    double deadline;
    double timeout;
    double seconds;
    int code;        /* the exit code, or -1 */
    int state;       /* the verdict, STATE_... */
    char how[HOW_MAX];
    char *output;
    run_report *report;
#if TEST_POSIX
    pid_t pid;
    int file;
#else
    run_report no_report;
    HANDLE process;
    HANDLE group;
    HANDLE file;
#endif
} job;

static job jobs[JOBS_MAX];

#endif

#if TEST_POSIX

static sigset_t outside_mask; /* of the program's start, but SIGCHLD is let through */
static volatile sig_atomic_t interrupted;
static char self_path[4096];

static void on_child(int signal_number) {
    (void)signal_number; /* only to wake pselect */
}

static void on_interrupt(int signal_number) {
    interrupted = signal_number;
}

static void handle(int signal_number, void (*handler)(int)) {
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    action.sa_handler = handler;
    sigemptyset(&action.sa_mask);
    sigaction(signal_number, &action, NULL);
}

static run_report *shared_report(void) {
    void *p = mmap(NULL, sizeof(run_report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                   -1, 0);
    return p != MAP_FAILED ? (run_report *)p : &own_report;
}

/* SIGCHLD stays blocked except inside pselect, so that no end of a child is missed. */
static void processes_open(void) {
    sigset_t mask;
    ssize_t n = readlink("/proc/self/exe", self_path, sizeof(self_path) - 1);
    if (n <= 0)
        snprintf(self_path, sizeof(self_path), "%s", options.program);
    handle(SIGCHLD, on_child);
    handle(SIGINT, on_interrupt);
    handle(SIGTERM, on_interrupt);
    handle(SIGHUP, on_interrupt);
    sigemptyset(&mask);
    sigaddset(&mask, SIGCHLD);
    sigaddset(&mask, SIGINT);
    sigaddset(&mask, SIGTERM);
    sigaddset(&mask, SIGHUP);
    sigprocmask(SIG_BLOCK, &mask, &outside_mask);
    sigdelset(&outside_mask, SIGCHLD);
}

static void job_open(job *j) {
    const char *directory = getenv("TMPDIR");
    char path[1024];
    if (directory == NULL || directory[0] == '\0')
        directory = "/tmp";
    snprintf(path, sizeof(path), "%s/aioloop-test-XXXXXX", directory);
    j->file = mkstemp(path);
    if (j->file < 0) {
        fprintf(stderr, "%s: cannot make %s: %s\n", options.program, path, strerror(errno));
        exit(2);
    }
    unlink(path);
    fcntl(j->file, F_SETFD, FD_CLOEXEC);
    j->report = shared_report();
}

/* Becomes `wrap... program --run NAME --child`. */
TEST_NORETURN static void exec_test(const test_case *test) {
    static char run_word[] = "--run";
    static char child_word[] = "--child";
    char *words[40];
    size_t n = 0;
    if (options.wrap != NULL) {
        char *copy = (char *)allocate(strlen(options.wrap) + 1);
        char *word;
        memcpy(copy, options.wrap, strlen(options.wrap));
        for (word = strtok(copy, " "); word != NULL && n < 32; word = strtok(NULL, " "))
            words[n++] = word;
    }
    words[n++] = self_path;
    words[n++] = run_word;
    words[n] = (char *)allocate(strlen(test->name) + 1);
    memcpy(words[n++], test->name, strlen(test->name));
    words[n++] = child_word;
    words[n] = NULL;
    execvp(words[0], words);
    fprintf(stderr, "cannot run %s: %s\n", words[0], strerror(errno));
    _Exit(127);
}

/* In the new process: a group of its own, signals as a shell gives them, output to the file. */
TEST_NORETURN static void become_test(job *j) {
    int null;
    setpgid(0, 0);
#if defined(__linux__)
    prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
    handle(SIGCHLD, SIG_DFL);
    handle(SIGINT, SIG_DFL);
    handle(SIGTERM, SIG_DFL);
    handle(SIGHUP, SIG_DFL);
    handle(SIGPIPE, SIG_DFL);
    sigprocmask(SIG_SETMASK, &outside_mask, NULL);
    null = open("/dev/null", O_RDWR);
    if (null >= 0 && null != 0) {
        dup2(null, 0);
        close(null);
    }
    dup2(j->file, 1);
    dup2(j->file, 2);
    if (!options.fork)
        exec_test(j->of->test);
    if (options.mode == MODE_TORTURE) {
        /* Thousands of core files help nobody; the run can be repeated. */
        struct rlimit none;
        none.rlim_cur = 0;
        none.rlim_max = 0;
        setrlimit(RLIMIT_CORE, &none);
    }
    options.child = 1;
    options.mode = MODE_ONE;
    report = j->report;
    plan = j->plan;
    finish(run_here(j->of->test));
}

static void job_start(job *j) {
    memset(j->report, 0, sizeof(*j->report));
    if (ftruncate(j->file, 0) != 0 || lseek(j->file, 0, SEEK_SET) != 0) {
        fprintf(stderr, "%s: cannot empty a temporary file\n", options.program);
        exit(2);
    }
    /* Or the child would write it too. */
    fflush(NULL);
    j->pid = fork();
    if (j->pid == 0)
        become_test(j);
    if (j->pid < 0) {
        fprintf(stderr, "%s: fork: %s\n", options.program, strerror(errno));
        exit(2);
    }
    setpgid(j->pid, j->pid);
}

static void job_kill(job *j) {
    kill(-j->pid, SIGKILL);
    kill(j->pid, SIGKILL);
}

/* Whether the process has ended, and then how. Before it is reaped, while its number cannot belong
 * to anybody else, what is left of its group is killed. */
static int job_ended(job *j) {
    siginfo_t info;
    int status;
    memset(&info, 0, sizeof(info));
    if (waitid(P_PID, (id_t)j->pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0)
        return 0;
    kill(-j->pid, SIGKILL);
    while (waitpid(j->pid, &status, 0) < 0 && errno == EINTR)
        continue;
    j->code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    if (WIFSIGNALED(status))
        snprintf(j->how, sizeof(j->how), "killed by signal %d (%s)", WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    return 1;
}

static void job_read(job *j, char *to, size_t size, size_t *length, size_t *left_out_bytes) {
    off_t end = lseek(j->file, 0, SEEK_END);
    off_t start = end > (off_t)size ? end - (off_t)size : 0;
    ssize_t n = pread(j->file, to, size, start);
    *length = n > 0 ? (size_t)n : 0;
    *left_out_bytes = (size_t)start;
}

/* Until a child ends or `seconds` are over. */
static void processes_wait(double seconds) {
    struct timespec t;
    int i;
    t.tv_sec = (time_t)seconds;
    t.tv_nsec = (long)((seconds - (double)t.tv_sec) * 1e9);
    if (!interrupted)
        pselect(0, NULL, NULL, NULL, &t, &outside_mask);
    if (!interrupted)
        return;
    for (i = 0; i < options.jobs; i++)
        if (jobs[i].running)
            job_kill(&jobs[i]);
    hide_progress();
    fflush(stdout);
    handle(interrupted, SIG_DFL);
    sigprocmask(SIG_SETMASK, &outside_mask, NULL);
    raise(interrupted);
    _Exit(2);
}

static int processor_count(void) {
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
}

#elif TEST_WINDOWS

static char self_path[4096];

static void processes_open(void) {
    if (GetModuleFileNameA(NULL, self_path, sizeof(self_path)) == 0)
        snprintf(self_path, sizeof(self_path), "%s", options.program);
    /* Inherited: a crash ends the process instead of asking the user. */
    SetErrorMode(SEM_FAILCRITICALERRORS | SEM_NOGPFAULTERRORBOX | SEM_NOOPENFILEERRORBOX);
}

TEST_NORETURN static void windows_failed(const char *what) {
    fprintf(stderr, "%s: %s: error %lu\n", options.program, what, (unsigned long)GetLastError());
    exit(2);
}

static void job_open(job *j) {
    char directory[MAX_PATH + 1];
    char path[MAX_PATH + 1];
    if (GetTempPathA(sizeof(directory), directory) == 0 ||
        GetTempFileNameA(directory, "aio", 0, path) == 0)
        windows_failed("GetTempFileName");
    j->file = CreateFileA(path, GENERIC_READ | GENERIC_WRITE,
                          FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL,
                          CREATE_ALWAYS, FILE_ATTRIBUTE_TEMPORARY | FILE_FLAG_DELETE_ON_CLOSE,
                          NULL);
    if (j->file == INVALID_HANDLE_VALUE)
        windows_failed("CreateFile");
    j->report = &j->no_report;
}

/* A job object holds the test and its children, and ends them with the runner. */
static HANDLE new_group(void) {
    JOBOBJECT_EXTENDED_LIMIT_INFORMATION limits;
    HANDLE group = CreateJobObjectA(NULL, NULL);
    if (group == NULL)
        windows_failed("CreateJobObject");
    memset(&limits, 0, sizeof(limits));
    limits.BasicLimitInformation.LimitFlags = JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE;
    SetInformationJobObject(group, JobObjectExtendedLimitInformation, &limits, sizeof(limits));
    return group;
}

static void job_start(job *j) {
    SECURITY_ATTRIBUTES inherited;
    STARTUPINFOA start;
    PROCESS_INFORMATION process;
    HANDLE null;
    char command[8192];
    BOOL ok;
    snprintf(command, sizeof(command), "%s%s\"%s\" --run %s --child",
             options.wrap != NULL ? options.wrap : "", options.wrap != NULL ? " " : "", self_path,
             j->of->test->name);
    SetFilePointer(j->file, 0, NULL, FILE_BEGIN);
    SetEndOfFile(j->file);
    memset(&inherited, 0, sizeof(inherited));
    inherited.nLength = sizeof(inherited);
    inherited.bInheritHandle = TRUE;
    null = CreateFileA("NUL", GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_WRITE, &inherited,
                       OPEN_EXISTING, 0, NULL);
    memset(&start, 0, sizeof(start));
    start.cb = sizeof(start);
    start.dwFlags = STARTF_USESTDHANDLES;
    start.hStdInput = null;
    start.hStdOutput = j->file;
    start.hStdError = j->file;
    /* Inheritable only meanwhile: the other tests have no business with it. */
    SetHandleInformation(j->file, HANDLE_FLAG_INHERIT, HANDLE_FLAG_INHERIT);
    ok = CreateProcessA(NULL, command, NULL, NULL, TRUE, CREATE_SUSPENDED, NULL, NULL, &start,
                        &process);
    SetHandleInformation(j->file, HANDLE_FLAG_INHERIT, 0);
    CloseHandle(null);
    if (!ok)
        windows_failed("CreateProcess");
    j->process = process.hProcess;
    j->group = new_group();
    AssignProcessToJobObject(j->group, j->process);
    ResumeThread(process.hThread);
    CloseHandle(process.hThread);
}

static void job_kill(job *j) {
    TerminateJobObject(j->group, 1);
    TerminateProcess(j->process, 1);
}

static int job_ended(job *j) {
    DWORD code = 0;
    if (WaitForSingleObject(j->process, 0) != WAIT_OBJECT_0)
        return 0;
    GetExitCodeProcess(j->process, &code);
    TerminateJobObject(j->group, 1);
    CloseHandle(j->process);
    CloseHandle(j->group);
    j->code = code <= 0xFFFF ? (int)code : -1;
    if (j->code < 0)
        snprintf(j->how, sizeof(j->how), "crashed with code 0x%08lx", (unsigned long)code);
    return 1;
}

static void job_read(job *j, char *to, size_t size, size_t *length, size_t *left_out_bytes) {
    DWORD end = GetFileSize(j->file, NULL);
    DWORD start = end > (DWORD)size ? end - (DWORD)size : 0;
    DWORD n = 0;
    SetFilePointer(j->file, (LONG)start, NULL, FILE_BEGIN);
    if (!ReadFile(j->file, to, (DWORD)size, &n, NULL))
        n = 0;
    *length = n;
    *left_out_bytes = start;
}

static void processes_wait(double seconds) {
    HANDLE handles[JOBS_MAX];
    DWORD n = 0;
    int i;
    for (i = 0; i < options.jobs; i++)
        if (jobs[i].running)
            handles[n++] = jobs[i].process;
    WaitForMultipleObjects(n, handles, FALSE, (DWORD)(seconds * 1000) + 1);
}

static int processor_count(void) {
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    return (int)info.dwNumberOfProcessors;
}

#endif

#if TEST_PROCESSES

/* The output, or its end, as a string to be freed. */
static char *job_output(job *j) {
    char *text = (char *)allocate(OUTPUT_NOTE + OUTPUT_MAX + 1);
    char *from = text + OUTPUT_NOTE;
    size_t length;
    size_t missing;
    int n;
    job_read(j, from, OUTPUT_MAX, &length, &missing);
    from[length] = '\0';
    /* A zero byte in it would hide the rest. */
    for (n = 0; (size_t)n < length; n++)
        if (from[n] == '\0')
            from[n] = ' ';
    if (missing > 0) {
        n = snprintf(text, OUTPUT_NOTE, "(%llu bytes are left out here)\n",
                     (unsigned long long)missing);
        memmove(text + n, from, length + 1);
    } else {
        memmove(text, from, length + 1);
    }
    return text;
}

/* UBSan goes on after a report, and so does TSan until the end that giving up does not reach. */
static int sanitizer_spoke(const char *output) {
    return strstr(output, ": runtime error: ") != NULL || strstr(output, "Sanitizer: ") != NULL;
}

static void job_judge(job *j) {
    j->state = STATE_FAIL;
    if (j->timed_out)
        snprintf(j->how, sizeof(j->how), "timed out after %g s", j->timeout);
    else if (j->code == OUTCOME_FAIL)
        snprintf(j->how, sizeof(j->how), "%s", j->report->how);
    else if (j->code == OUTCOME_SKIP)
        j->state = STATE_SKIP;
    else if (j->code == OUTCOME_PASS || j->code == OUTCOME_GAVE_UP)
        j->state = STATE_PASS;
    else if (j->code >= 0)
        snprintf(j->how, sizeof(j->how), "the process ended with exit code %d", j->code);
    j->output = job_output(j);
    if (j->state == STATE_PASS && sanitizer_spoke(j->output)) {
        j->state = STATE_FAIL;
        snprintf(j->how, sizeof(j->how), "a sanitizer complained");
    }
}

static void show_progress(const char *name) {
#if TEST_POSIX
    if (!isatty(1))
        return;
    hide_progress();
    printf("[%lu/%lu] %.60s", (unsigned long)results.done, (unsigned long)results.count, name);
    fflush(stdout);
    results.progress = 1;
#else
    (void)name;
#endif
}

enum { NEXT_STARTED, NEXT_LATER, NEXT_NONE };

static void job_begin(job *j) {
    if (j->report == NULL)
        job_open(j);
    j->running = 1;
    j->timed_out = 0;
    j->how[0] = '\0';
    j->timeout = options.timeout * test_slowdown();
    if ((j->of->test->flags & TEST_SLOW) != 0)
        j->timeout *= 5;
    j->started = now();
    j->deadline = j->started + j->timeout;
    job_start(j);
}

/* Looks after a running job; whether it has ended. */
static int job_step(job *j) {
    if (job_ended(j)) {
        j->running = 0;
        j->seconds = now() - j->started;
        job_judge(j);
        return 1;
    }
    if (now() >= j->deadline) {
        j->timed_out = 1;
        j->deadline = now() + 3600;
        job_kill(j);
    }
    return 0;
}

/* Keeps the slots busy: next fills a job, over takes its result. */
static void drive(int (*next)(job *j), void (*over)(job *j)) {
    int busy = 0;
    int more = 1;
    int moved;
    int i;
    while (busy > 0 || more) {
        double until = now() + 3600;
        moved = 0;
        for (i = 0; i < options.jobs; i++) {
            job *j = &jobs[i];
            if (j->running && job_step(j)) {
                over(j);
                free(j->output);
                j->output = NULL;
                busy--;
                moved = 1;
            }
            if (!j->running && more) {
                int answer;
                memset(&j->plan, 0, sizeof(j->plan));
                answer = next(j);
                more = answer != NEXT_NONE;
                if (answer == NEXT_STARTED) {
                    job_begin(j);
                    busy++;
                    moved = 1;
                }
            }
            if (j->running && j->deadline < until)
                until = j->deadline;
        }
        if (!moved && busy > 0)
            processes_wait(until > now() ? until - now() : 0);
    }
}

/* ---- the plain run ---- */

static size_t next_result;

static int plain_next(job *j) {
    while (next_result < results.count) {
        j->of = &results.at[next_result++];
        if (left_out(j->of))
            continue;
        show_progress(j->of->test->name);
        return NEXT_STARTED;
    }
    return NEXT_NONE;
}

static void plain_over(job *j) {
    j->of->output = j->output;
    j->output = NULL;
    settle(j->of, j->state, j->seconds);
    print_result(j->of, j->how);
}

#endif

#if TEST_POSIX

/* ---- torture ----
 *
 * Stage 0 runs the test as it is and counts. Stage 1 fails allocations, stage 2 + n the n-th pair
 * of call and error: the k-th for k = 1, 2... until a run that ends without having reached its
 * fault. With several jobs a few runs past the end are made; they do no harm. */

enum { STAGE_PLAIN, STAGE_ALLOCATIONS, STAGE_CALLS, ALLOCATIONS_MAX = 3000, SERIES_FAILURES = 10 };
enum { OUTPUTS_SHOWN = 3 };

static struct {
    size_t test;
    int stage;
    long next_number;
    int ended;    /* the series: a run did not reach its fault, or enough failed */
    int counted;  /* stage 0 is over */
    long series_failures;
    run_report plain; /* what stage 0 counted */
    long allocation_faults;
    long call_faults;
    const char *unknown[UNKNOWN_MAX];
} torture;

/* The pair of call and error that a stage stands for; 0 if there is none. */
static int torture_pair(int stage, int *call, int *error) {
    size_t i;
    size_t e;
    int n = stage - STAGE_CALLS;
    for (i = 0; i < COUNT(fault_calls); i++) {
        for (e = 0; fault_calls[i].errors[e] != 0; e++) {
            if (n-- == 0) {
                *call = (int)i;
                *error = fault_calls[i].errors[e];
                return 1;
            }
        }
    }
    return 0;
}

static void torture_settle(result *r) {
    if (r->running > 0 || r->state != STATE_NONE)
        return;
    settle(r, r->failures > 0 ? STATE_FAIL : STATE_PASS, r->seconds);
    if (!options.verbose)
        return;
    hide_progress();
    printf("[%lu/%lu] %s %s (%.3f s): %ld allocations and %ld system calls failed\n",
           (unsigned long)results.done, (unsigned long)results.count,
           r->failures > 0 ? "FAIL" : "ok  ", r->test->name, r->seconds, r->allocation_faults,
           r->call_faults);
}

static void torture_enter(int stage) {
    torture.stage = stage;
    torture.next_number = 1;
    torture.ended = 0;
    torture.series_failures = 0;
}

/* Goes on to the next test; that of the old one may still run. */
static void torture_next_test(void) {
    size_t old = torture.test++;
    torture.counted = 0;
    torture_enter(STAGE_PLAIN);
    if (results.at[old].state == STATE_NONE)
        torture_settle(&results.at[old]);
}

/* Which call of a name fails next; 0: none. A library asks for memory thousands of times, so of those ever fewer fail. */
static long torture_call_number(int call) {
    long number = 1;
    long i;
    if (torture.next_number > options.cap && strcmp(fault_calls[call].name, "calloc") != 0)
        return 0;
    if (strcmp(fault_calls[call].name, "calloc") != 0)
        return torture.next_number;
    for (i = 1; i < torture.next_number; i++)
        number += 1 + number / (2 * options.cap + 1);
    return number <= torture.plain.calls[call] ? number : 0;
}

static int torture_start(job *j, result *r) {
    j->of = r;
    j->stage = torture.stage;
    j->number = torture.next_number++;
    r->running++;
    show_progress(r->test->name);
    return NEXT_STARTED;
}

static int torture_next(job *j) {
    while (torture.test < results.count) {
        result *r = &results.at[torture.test];
        int call = 0;
        int error = 0;
        if (torture.stage == STAGE_PLAIN) {
            if (torture.next_number == 1 && !left_out(r))
                return torture_start(j, r);
            if (r->state == STATE_NONE && !torture.counted)
                return NEXT_LATER;
            if (r->state != STATE_NONE || r->failures > 0)
                torture_next_test();
            else
                torture_enter(STAGE_ALLOCATIONS);
        } else if (torture.stage == STAGE_ALLOCATIONS) {
            if (torture.plain.allocations > 0 && !torture.ended &&
                torture.next_number <= ALLOCATIONS_MAX) {
                j->plan.allocation = torture.next_number;
                return torture_start(j, r);
            }
            if (torture.plain.allocations > ALLOCATIONS_MAX) {
                hide_progress();
                printf("%s: only the first %d allocations were made to fail\n", r->test->name,
                       ALLOCATIONS_MAX);
            }
            torture_enter(STAGE_CALLS);
        } else if (!torture_pair(torture.stage, &call, &error)) {
            torture_next_test();
        } else if (torture.plain.calls[call] == 0 || torture.ended || torture_call_number(call) == 0) {
            torture_enter(torture.stage + 1);
        } else {
            j->plan.call = call;
            j->plan.error = error;
            j->plan.call_number = torture_call_number(call);
            return torture_start(j, r);
        }
    }
    return NEXT_NONE;
}

static const char *name_of_error(int error) {
    size_t i;
    for (i = 0; i < COUNT(error_names); i++)
        if (error_names[i].error == error)
            return error_names[i].name;
    return "?";
}

static void torture_print_failure(job *j) {
    const result *r = j->of;
    const char *call = fault_calls[j->plan.call].name;
    const char *error = name_of_error(j->plan.error);
    hide_progress();
    if (j->stage == STAGE_PLAIN)
        printf("FAIL %s: without a fault: %s\n", r->test->name, j->how);
    else if (j->stage == STAGE_ALLOCATIONS)
        printf("FAIL %s: allocation %ld: %s\n", r->test->name, j->number, j->how);
    else
        printf("FAIL %s: %s call %ld with %s: %s\n", r->test->name, call, j->plan.call_number, error,
               j->how);
    if (r->failures <= OUTPUTS_SHOWN || options.verbose)
        print_indented(stdout, "    ", j->output);
    if (j->stage == STAGE_PLAIN)
        printf("    again: %s --run %s\n", options.program, r->test->name);
    else if (j->stage == STAGE_ALLOCATIONS)
        printf("    again: %s --run %s --fail-alloc %ld\n", options.program, r->test->name,
               j->number);
    else
        printf("    again: %s --run %s --fail-call %s:%s:%ld\n", options.program, r->test->name,
               call, error, j->plan.call_number);
    fflush(stdout);
}

static void torture_note_unknown(const run_report *from) {
    size_t i;
    size_t k;
    for (i = 0; i < UNKNOWN_MAX && from->unknown[i] != NULL; i++) {
        for (k = 0; k < UNKNOWN_MAX && torture.unknown[k] != NULL; k++)
            if (strcmp(torture.unknown[k], from->unknown[i]) == 0)
                break;
        if (k < UNKNOWN_MAX)
            torture.unknown[k] = from->unknown[i];
    }
}

static void torture_over(job *j) {
    result *r = j->of;
    int reached = j->report->reached != 0;
    int current = r == &results.at[torture.test] && j->stage == torture.stage;
    r->running--;
    r->seconds += j->seconds;
    torture_note_unknown(j->report);
    if (reached && j->stage == STAGE_ALLOCATIONS) {
        r->allocation_faults++;
        torture.allocation_faults++;
    } else if (reached) {
        r->call_faults++;
        torture.call_faults++;
    }
    if (j->stage == STAGE_PLAIN) {
        torture.counted = 1;
        torture.plain = *j->report;
    }
    if (j->stage == STAGE_PLAIN && j->state == STATE_SKIP) {
        r->output = j->output;
        j->output = NULL;
        settle(r, STATE_SKIP, j->seconds);
        print_result(r, "");
        return;
    }
    if (j->state == STATE_FAIL) {
        r->failures++;
        torture_print_failure(j);
        if (current && ++torture.series_failures == SERIES_FAILURES && !torture.ended) {
            torture.ended = 1;
            printf("%s: %d failures here, the rest of this series is left out\n", r->test->name,
                   SERIES_FAILURES);
        }
    }
    if (current && j->stage != STAGE_PLAIN && !reached)
        torture.ended = 1;
    /* The last run of a test that torture_next has already left. */
    if (r < &results.at[torture.test])
        torture_settle(r);
}

static int run_torture(void) {
    size_t i;
    options.fork = 1;
    torture_enter(STAGE_PLAIN);
    drive(torture_next, torture_over);
    hide_progress();
    for (i = 0; i < UNKNOWN_MAX && torture.unknown[i] != NULL; i++)
        printf("torture knows no errors for the system call %s\n", torture.unknown[i]);
    if (torture.allocation_faults + torture.call_faults == 0)
        printf("nothing was made to fail: is the library compiled with AIOLOOP_MALLOC=test_malloc "
               "and so on? See fault.h.\n");
    printf("%ld faults injected: %ld allocations, %ld system calls\n",
           torture.allocation_faults + torture.call_faults, torture.allocation_faults,
           torture.call_faults);
    return conclude();
}

#endif

/* ---- main ---- */

static const char usage[] =
    "usage: %s [options] [words: run the tests whose name or rows contain one of them]\n"
    "  -j N                  tests at the same time (number of processors)\n"
    "  -v, --verbose         every test, its output, the slowest ones\n"
    "  --timeout S           of a test, in seconds (20, or $TEST_TIMEOUT; torture: 10);\n"
    "                        multiplied by $TEST_SLOWDOWN, and more under sanitizers\n"
    "  --list, --rows        print the names; print each row with the tests that prove it\n"
    "  --skip-flag FLAG      leave out tests that are real-fds, threads or slow\n"
    "  --tap FILE            write the results as TAP\n"
    "  --results FILE        append pass|fail|skip, name, rows, seconds, label\n"
    "  --label TEXT          the label\n"
    "  --run NAME            one test in this process, for a debugger (break test_give_up)\n"
    "  --no-fork             all tests in this process\n"
    "  --fork                do not start the program again, only fork\n"
    "  --wrap COMMAND        start each test under a command: --wrap \"valgrind -q\"\n"
    "  --torture             make each allocation and each system call fail, one at a time\n"
    "  --torture-cap N       so many calls of each name and error (40)\n"
    "  --fail-alloc K        with --run: make the K-th allocation fail\n"
    "  --fail-call CALL:ERROR:K   with --run: make the K-th call fail\n";

TEST_PRINTF(1, 2)
TEST_NORETURN static void refuse(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "%s: ", options.program);
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    exit(2);
}

static double parse_number(const char *option, const char *text, double least) {
    char *end;
    double n = strtod(text, &end);
    if (end == text || *end != '\0' || !(n >= least))
        refuse("%s: a number from %g on, not \"%s\"", option, least, text);
    return n;
}

static void parse_fail_call(const char *text) {
    char name[32];
    char error[32];
    long number = 0;
    size_t i;
    if (sscanf(text, "%31[^:]:%31[^:]:%ld", name, error, &number) != 3 || number < 1)
        refuse("--fail-call: CALL:ERROR:K, not \"%s\"", text);
    plan.call = call_index(name);
    if (plan.call < 0)
        refuse("--fail-call: no such call: %s", name);
    for (i = 0; i < COUNT(error_names); i++)
        if (strcmp(error_names[i].name, error) == 0)
            plan.error = error_names[i].error;
    if (plan.error == 0)
        refuse("--fail-call: no such error: %s", error);
    plan.call_number = number;
}

static unsigned parse_flag(const char *text) {
    if (strcmp(text, "real-fds") == 0)
        return TEST_REAL_FDS;
    if (strcmp(text, "threads") == 0)
        return TEST_THREADS;
    if (strcmp(text, "slow") != 0)
        refuse("--skip-flag: real-fds, threads or slow, not \"%s\"", text);
    return TEST_SLOW;
}

/* Options without a value; 0 if it is none of them. */
static int parse_switch(const char *option) {
    if (strcmp(option, "-v") == 0 || strcmp(option, "--verbose") == 0)
        options.verbose = 1;
    else if (strcmp(option, "--list") == 0)
        options.mode = MODE_LIST;
    else if (strcmp(option, "--rows") == 0)
        options.mode = MODE_ROWS;
    else if (strcmp(option, "--torture") == 0)
        options.mode = MODE_TORTURE;
    else if (strcmp(option, "--no-fork") == 0)
        options.mode = MODE_HERE;
    else if (strcmp(option, "--fork") == 0)
        options.fork = 1;
    else if (strcmp(option, "--child") == 0)
        options.child = 1;
    else
        return 0;
    return 1;
}

/* Options with a value; 0 if it is none of them. */
static int parse_value(const char *option, const char *value) {
    if (strcmp(option, "-j") == 0)
        options.jobs = (int)parse_number(option, value, 1);
    else if (strcmp(option, "--timeout") == 0)
        options.timeout = parse_number(option, value, 0.001);
    else if (strcmp(option, "--torture-cap") == 0)
        options.cap = (long)parse_number(option, value, 0);
    else if (strcmp(option, "--skip-flag") == 0)
        options.skip_flags |= parse_flag(value);
    else if (strcmp(option, "--tap") == 0)
        options.tap = value;
    else if (strcmp(option, "--results") == 0)
        options.results = value;
    else if (strcmp(option, "--label") == 0)
        options.label = value;
    else if (strcmp(option, "--wrap") == 0)
        options.wrap = value;
    else if (strcmp(option, "--fail-alloc") == 0)
        plan.allocation = (long)parse_number(option, value, 1);
    else if (strcmp(option, "--fail-call") == 0)
        parse_fail_call(value);
    else if (strcmp(option, "--run") == 0) {
        options.mode = MODE_ONE;
        options.run = value;
    } else
        return 0;
    return 1;
}

/* --option VALUE, --option=VALUE, -jN. */
static void parse_options(int argc, char **argv) {
    int i;
    options.filters = (char **)allocate((size_t)(argc + 1) * sizeof(char *));
    for (i = 1; i < argc; i++) {
        char *word = argv[i];
        char *equals = strchr(word, '=');
        if (strcmp(word, "-h") == 0 || strcmp(word, "--help") == 0) {
            printf(usage, options.program);
            exit(0);
        }
        if (word[0] != '-') {
            options.filters[options.filter_count++] = word;
        } else if (parse_switch(word)) {
            continue;
        } else if (strncmp(word, "-j", 2) == 0 && word[2] != '\0') {
            parse_value("-j", word + 2);
        } else if (strncmp(word, "--", 2) == 0 && equals != NULL) {
            *equals = '\0';
            if (!parse_value(word, equals + 1))
                refuse("no such option: %s (--help)", word);
        } else if (i + 1 == argc) {
            refuse("no such option, or without its value: %s (--help)", word);
        } else if (!parse_value(word, argv[++i])) {
            refuse("no such option: %s (--help)", word);
        }
    }
}

static void set_defaults(void) {
    const char *timeout = getenv("TEST_TIMEOUT");
    if (options.timeout == 0 && timeout != NULL && timeout[0] != '\0')
        options.timeout = parse_number("TEST_TIMEOUT", timeout, 0.001);
    if (options.timeout == 0)
        options.timeout = options.mode == MODE_TORTURE ? 10 : 20;
    if ((plan.allocation != 0 || plan.call_number != 0) && options.mode != MODE_ONE)
        refuse("--fail-alloc and --fail-call need --run NAME");
#if TEST_PROCESSES
    if (options.jobs == 0)
        options.jobs = processor_count();
    if (options.jobs > JOBS_MAX)
        options.jobs = JOBS_MAX;
#else
    if (options.mode == MODE_RUN)
        options.mode = MODE_HERE;
#endif
#if !TEST_POSIX
    if (options.mode == MODE_TORTURE)
        refuse("torture needs fork");
#endif
}

static int by_place(const void *a, const void *b) {
    const test_case *left = ((const result *)a)->test;
    const test_case *right = ((const result *)b)->test;
    int order = strcmp(left->file, right->file);
    if (order != 0)
        return order;
    return (left->line > right->line) - (left->line < right->line);
}

static int selected(const test_case *test) {
    int i;
    if (options.run != NULL)
        return strcmp(test->name, options.run) == 0;
    for (i = 0; i < options.filter_count; i++)
        if (strstr(test->name, options.filters[i]) != NULL ||
            strstr(test->rows, options.filters[i]) != NULL)
            return 1;
    return options.filter_count == 0;
}

/* Words like TRN-07 with single spaces between: a comma would make a row that no table has. */
static void check_rows(const test_case *test) {
    const char *p = test->rows;
    while (*p != '\0') {
        size_t letters = strspn(p, "ABCDEFGHIJKLMNOPQRSTUVWXYZ");
        size_t digits = p[letters] == '-' ? strspn(p + letters + 1, "0123456789") : 0;
        const char *end = p + letters + 1 + digits;
        if (letters == 0 || digits == 0 || (*end != '\0' && *end != ' ') ||
            (*end == ' ' && end[1] == '\0'))
            refuse("%s:%d: rows \"%s\": write \"TRN-07 TRN-08\"", test->file, test->line,
                   test->rows);
        p = *end == ' ' ? end + 1 : end;
    }
}

static void collect_tests(void) {
    const test_case *test;
    const test_case *other;
    size_t count = 0;
    for (test = first_test; test != NULL; test = test->next) {
        count++;
        check_rows(test);
        for (other = test->next; other != NULL; other = other->next)
            if (strcmp(test->name, other->name) == 0)
                refuse("two tests are called %s: %s:%d and %s:%d", test->name, other->file,
                       other->line, test->file, test->line);
    }
    results.at = (result *)allocate((count + 1) * sizeof(result));
    for (test = first_test; test != NULL; test = test->next)
        if (selected(test))
            results.at[results.count++].test = test;
    qsort(results.at, results.count, sizeof(result), by_place);
}

static void print_rows(void) {
    size_t i;
    for (i = 0; i < results.count; i++) {
        const char *p = results.at[i].test->rows;
        while (*p != '\0') {
            size_t n = strcspn(p, " ");
            printf("%.*s %s\n", (int)n, p, results.at[i].test->name);
            p += n + (p[n] == ' ');
        }
    }
}

static int run_mode(void) {
    size_t i;
    switch (options.mode) {
    case MODE_LIST:
        for (i = 0; i < results.count; i++)
            printf("%s\n", results.at[i].test->name);
        return 0;
    case MODE_ROWS:
        print_rows();
        return 0;
    case MODE_ONE:
        if (results.count == 0)
            refuse("no test is called %s", options.run);
#if TEST_POSIX
        report = shared_report();
#endif
        finish(run_here(results.at[0].test));
    case MODE_HERE:
        return run_all_here();
    default:
        break;
    }
#if TEST_PROCESSES
    processes_open();
#endif
#if TEST_POSIX
    if (options.mode == MODE_TORTURE)
        return run_torture();
#endif
#if TEST_PROCESSES
    drive(plain_next, plain_over);
#endif
    return conclude();
}

int main(int argc, char **argv) {
    options.program = argc > 0 ? argv[0] : "tests";
    options.cap = 40;
    options.label = "";
    under_valgrind = find_valgrind();
    /* So that a crash loses nothing that was printed. Windows has no line buffering. */
    setvbuf(stdout, NULL, TEST_WINDOWS ? _IONBF : _IOLBF, BUFSIZ);
    parse_options(argc, argv);
    set_defaults();
    collect_tests();
    return run_mode();
}
