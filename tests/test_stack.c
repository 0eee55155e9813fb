/*
 * test_stack.c - coroutines with a stack: what survives a switch, whose stack it is, how large, and what happens when it is too
 * small.
 */
#include "support.h"

#include <fenv.h>

#if !defined(AIOLOOP_USE_COROUTINES) || AIOLOOP_USE_COROUTINES != 0

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#if !defined(AIOLOOP_USE_THREADS) || AIOLOOP_USE_THREADS != 0
#define STACK_THREADS 1
#include <pthread.h>
#else
#define STACK_THREADS 0
#endif

#if defined(__GNUC__)
#define STACK_NOINLINE __attribute__((noinline))
#else
#define STACK_NOINLINE
#endif

/* ---- helpers ---- */

/* Where the stack is now. AddressSanitizer may keep variables elsewhere. */
static STACK_NOINLINE char *stack_here(void) {
#if defined(__GNUC__)
    return (char *)__builtin_frame_address(0);
#else
    char *volatile place;
    place = (char *)&place;
    return place;
#endif
}

static bool stack_is_within(const char *place, const char *memory, size_t size) {
    return (uintptr_t)place - (uintptr_t)memory < size;
}

static int64_t stack_yield(aioloop *loop) {
    return aioloop_await(aioloop_sleep(loop, 0), NULL);
}

/* A task that exists, not the static future of a failure. */
static aioloop_task *stack_task(aioloop *loop, aioloop_coroutine fn, void *arg, const aioloop_task_options *options) {
    aioloop_task *task = aioloop_create_task(loop, fn, arg, options);
    CHECK_PTR(aioloop_future_get_loop(task), loop);
    return task;
}

/* Runs a coroutine to its end. */
static int64_t stack_run(aioloop *loop, aioloop_coroutine fn, void *arg, const aioloop_task_options *options) {
    return aioloop_run_until_complete(loop, stack_task(loop, fn, arg, options), NULL);
}

/* ---- what survives ---- */

typedef struct stack_sum {
    int seed;
    bool waits;
    uint64_t integers;
    double reals;
} stack_sum;

/* More values alive at each wait than there are registers that a function keeps. */
static int64_t stack_compute(aioloop *loop, void *arg, void **out) {
    stack_sum *sum = (stack_sum *)arg;
    uint64_t s = (uint64_t)sum->seed;
    uint64_t a = s + 1, b = s + 2, c = s + 3, d = s + 4, e = s + 5, f = s + 6, g = s + 7, h = s + 8, i = s + 9, j = s + 10;
    double t = (double)sum->seed;
    double k = t + 0.25, l = t + 0.5, m = t + 0.75, n = t + 1.25, o = t + 1.5, p = t + 1.75, q = t + 2.25, r = t + 2.5, u = t + 3.5;
    int round;
    (void)out;
    for (round = 0; round < 20; round++) {
        if (sum->waits && stack_yield(loop) < 0)
            return AIOLOOP_ECANCELED;
        a += b * 3, b ^= c + 5, c += d >> 1, d += e * 7, e ^= f << 3, f += g, g ^= h, h += i * 11, i += j, j ^= a;
        k += l * 0.5, l -= m * 0.25, m += n * 0.125, n -= o * 0.5, o += p * 0.25, p -= q * 0.5, q += r * 0.125, r -= u * 0.25;
        u += k * 0.0625;
    }
    sum->integers = a ^ b ^ c ^ d ^ e ^ f ^ g ^ h ^ i ^ j;
    sum->reals = k + l + m + n + o + p + q + r + u;
    return 0;
}

TEST(registers_survive_switches, "") {
    aioloop *loop = test_loop();
    stack_sum sums[6];
    aioloop_future *tasks[6];
    int64_t n;
    int i;
    for (i = 0; i < 6; i++) {
        sums[i].seed = 100 * i;
        sums[i].waits = true;
        tasks[i] = stack_task(loop, stack_compute, &sums[i], NULL);
    }
    n = aioloop_run_until_complete(loop, aioloop_gather(loop, tasks, 6, false), NULL);
    CHECK_EQ(n, 6);
    for (i = 0; i < 6; i++) {
        stack_sum alone;
        alone.seed = 100 * i;
        alone.waits = false;
        CHECK_EQ(stack_compute(NULL, &alone, NULL), 0);
        CHECK_EQ(sums[i].integers, alone.integers);
        CHECK_MEM(&sums[i].reals, &alone.reals, sizeof(double));
    }
    test_end(loop);
}

#if defined(FE_UPWARD) && defined(FE_DOWNWARD)

static double stack_third(void) {
    volatile double one = 1.0;
    volatile double three = 3.0;
    return one / three;
}

typedef struct stack_rounding {
    int mode;
    int before;
    int after;
    double third;
} stack_rounding;

static int64_t stack_round(aioloop *loop, void *arg, void **out) {
    stack_rounding *r = (stack_rounding *)arg;
    (void)out;
    r->before = fegetround();
    if (r->mode >= 0)
        fesetround(r->mode);
    if (stack_yield(loop) < 0 || stack_yield(loop) < 0)
        return AIOLOOP_ECANCELED;
    r->after = fegetround();
    r->third = stack_third();
    return 0;
}

/* What division gives in each mode; ends the test where modes have no effect. */
static void stack_needs_rounding(aioloop *loop, double *up, double *down) {
    bool works = fesetround(FE_UPWARD) == 0;
    *up = stack_third();
    works = fesetround(FE_DOWNWARD) == 0 && works;
    *down = stack_third();
    fesetround(FE_TONEAREST);
    if (!works || !(*up > *down)) {
        test_end(loop);
        SKIP("rounding has no modes here");
    }
}

TEST(rounding_mode_is_each_coroutines_own, "") {
    aioloop *loop = test_loop();
    stack_rounding up = {FE_UPWARD, 0, 0, 0.0};
    stack_rounding down = {FE_DOWNWARD, 0, 0, 0.0};
    stack_rounding none = {-1, 0, 0, 0.0};
    aioloop_future *tasks[3];
    double above;
    double below;
    int64_t n;
    stack_needs_rounding(loop, &above, &below);
    tasks[0] = stack_task(loop, stack_round, &up, NULL);
    tasks[1] = stack_task(loop, stack_round, &down, NULL);
    tasks[2] = stack_task(loop, stack_round, &none, NULL);
    n = aioloop_run_until_complete(loop, aioloop_gather(loop, tasks, 3, false), NULL);
    CHECK_EQ(n, 3);
    CHECK_EQ(fegetround(), FE_TONEAREST);
    CHECK_EQ(up.after, FE_UPWARD);
    CHECK_EQ(down.after, FE_DOWNWARD);
    CHECK_EQ(none.after, FE_TONEAREST);
    CHECK_MEM(&up.third, &above, sizeof(double));
    CHECK_MEM(&down.third, &below, sizeof(double));
    test_end(loop);
}

TEST(coroutine_begins_with_its_creators_rounding_mode, "") {
    aioloop *loop = test_loop();
    stack_rounding up = {FE_UPWARD, 0, 0, 0.0};
    stack_rounding next = {-1, 0, 0, 0.0};
    double above;
    double below;
    stack_needs_rounding(loop, &above, &below);
    CHECK_EQ(stack_run(loop, stack_round, &up, NULL), 0); /* leaves a stack in this mode */
    CHECK_EQ(stack_run(loop, stack_round, &next, NULL), 0);
    CHECK_EQ(next.before, FE_TONEAREST);
    CHECK_EQ(next.after, FE_TONEAREST);
    test_end(loop);
}

#endif

/* ---- how large ---- */

/* Uses about a kilobyte at each level. */
static STACK_NOINLINE int stack_dig(aioloop *loop, int depth) {
    volatile char room[1000];
    int n;
    room[0] = (char)depth;
    room[999] = (char)depth;
    if (depth == 0)
        return (int)stack_yield(loop);
    n = stack_dig(loop, depth - 1);
    return room[0] == (char)depth && room[999] == (char)depth ? n : -1;
}

static int64_t stack_digging(aioloop *loop, void *arg, void **out) {
    (void)out;
    return stack_dig(loop, *(int *)arg);
}

TEST(recursion_has_the_usual_stack, "") {
    aioloop *loop = test_loop();
    int depth = sizeof(void *) == 8 ? 180 : 35;
    CHECK_EQ(stack_run(loop, stack_digging, &depth, NULL), 0);
    test_end(loop);
}

TEST(recursion_has_the_stack_that_was_asked_for, "") {
    aioloop *loop = test_loop();
    aioloop_task_options options = AIOLOOP_ZERO;
    int depth = 3000;
    options.stack_size = 5u << 20;
    CHECK_EQ(stack_run(loop, stack_digging, &depth, &options), 0);
    options.stack_size = 20u << 20; /* one that is mapped alone */
    depth = 8000;
    CHECK_EQ(stack_run(loop, stack_digging, &depth, &options), 0);
    test_end(loop);
}

TEST(impossible_stack_is_refused, "") {
    aioloop *loop = test_loop();
    aioloop_task_options options = AIOLOOP_ZERO;
    static char memory[64];
    int depth = 0;
    options.stack_size = 64;
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_create_task(loop, stack_digging, &depth, &options), NULL), AIOLOOP_EINVAL);
    options.stack = memory;
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_create_task(loop, stack_digging, &depth, &options), NULL), AIOLOOP_EINVAL);
    options.stack_size = 0;
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_create_task(loop, stack_digging, &depth, &options), NULL), AIOLOOP_EINVAL);
    options.stack = NULL;
    options.stack_size = SIZE_MAX;
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_create_task(loop, stack_digging, &depth, &options), NULL), AIOLOOP_EINVAL);
    options.stack_size = SIZE_MAX / 2;
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_create_task(loop, stack_digging, &depth, &options), NULL), AIOLOOP_ENOMEM);
    test_end(loop);
}

/* ---- whose ---- */

static int64_t stack_locate(aioloop *loop, void *arg, void **out) {
    (void)out;
    *(char **)arg = stack_here();
    return stack_yield(loop);
}

TEST(coroutine_runs_on_the_users_stack, "") {
    aioloop *loop = test_loop();
    aioloop_task_options options = AIOLOOP_ZERO;
    static char memory[65536];
    char *place = NULL;
    size_t offset;
    for (offset = 0; offset < 20; offset += 7) { /* however it is aligned */
        memset(memory, 0x5a, sizeof(memory));
        options.stack = memory + offset;
        options.stack_size = 32768 + offset;
        CHECK_EQ(stack_run(loop, stack_locate, &place, &options), 0);
        CHECK(stack_is_within(place, memory + offset, options.stack_size));
        CHECK(memory[options.stack_size + offset] == 0x5a);
        CHECK(offset == 0 || memory[offset - 1] == 0x5a);
    }
    test_end(loop);
}

TEST(stacks_are_used_again, "") {
    aioloop *loop = test_loop();
    char *first = NULL;
    char *place = NULL;
    int i;
    CHECK_EQ(stack_run(loop, stack_locate, &first, NULL), 0);
    for (i = 0; i < 50; i++) {
        CHECK_EQ(stack_run(loop, stack_locate, &place, NULL), 0);
        CHECK_PTR(place, first);
    }
    test_end(loop);
}

static int64_t stack_never(aioloop *loop, void *arg, void **out) {
    (void)loop;
    (void)out;
    *(int *)arg += 1;
    return 0;
}

TEST(stack_of_a_task_cancelled_before_it_began_is_used_again, "") {
    aioloop *loop = test_loop();
    char *place = NULL;
    int runs = 0;
    int i;
    for (i = 0; i < 3; i++) {
        aioloop_task *task = stack_task(loop, stack_never, &runs, NULL);
        aioloop_future_ref(task);
        aioloop_future_cancel(task, NULL);
        CHECK_EQ(aioloop_run_until_complete(loop, task, NULL), AIOLOOP_ECANCELED);
        aioloop_future_unref(task);
        CHECK_EQ(stack_run(loop, stack_locate, &place, NULL), 0);
    }
    CHECK_EQ(runs, 0);
    test_end(loop);
}

static aioloop *stack_loops[2]; /* that the following are in */

typedef struct stack_nest {
    int depth;
    char *places[20];
} stack_nest;

static int64_t stack_nesting(aioloop *loop, void *arg, void **out) {
    stack_nest *nest = (stack_nest *)arg;
    aioloop_task_options eager = AIOLOOP_ZERO;
    int depth = nest->depth++;
    int64_t below = 0;
    (void)out;
    eager.eager = true;
    nest->places[depth] = stack_here();
    if (nest->depth < 20)
        below = aioloop_await(aioloop_create_task(loop, stack_nesting, nest, &eager), NULL);
    if (below < 0 || stack_yield(loop) < 0)
        return AIOLOOP_ECANCELED;
    return below + 1;
}

TEST(eager_tasks_nest_on_stacks, "") {
    aioloop *loop = test_loop();
    stack_nest nest;
    int i;
    memset(&nest, 0, sizeof(nest));
    CHECK_EQ(stack_run(loop, stack_nesting, &nest, NULL), 20);
    for (i = 1; i < 20; i++)
        CHECK(!stack_is_within(nest.places[i], nest.places[i - 1] - 8192, 16384));
    test_end(loop);
}

#if defined(__linux__)
/* MiB of address space; 0: unknown. */
static long stack_address_space(void) {
    unsigned long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f == NULL)
        return 0;
    if (fscanf(f, "%lu", &pages) != 1)
        pages = 0;
    fclose(f);
    return (long)(pages / 256);
}

static int64_t stack_returns(aioloop *loop, void *arg, void **out) {
    (void)loop;
    (void)arg;
    (void)out;
    return 1;
}

static int64_t stack_huge_ones(aioloop *loop, void *arg, void **out) {
    aioloop_task_options options = AIOLOOP_ZERO;
    int i;
    (void)arg;
    (void)out;
    options.eager = true;
    options.stack_size = (size_t)20 << 20; /* mapped alone */
    for (i = 0; i < 30; i++)
        CHECK_EQ(aioloop_await(aioloop_create_task(loop, stack_returns, NULL, &options), NULL), 1);
    return stack_address_space();
}

TEST(huge_stack_of_an_eager_task_is_given_back, "") {
    aioloop *loop = test_loop();
    long before = stack_address_space();
    CHECK(stack_run(loop, stack_huge_ones, NULL, NULL) - before < 300);
    test_end(loop);
}
#endif

static int64_t stack_chain(aioloop *loop, void *arg, void **out) {
    int *count = (int *)arg;
    int i;
    (void)out;
    for (i = 0; i < 10; i++) {
        if (stack_yield(loop) < 0)
            return AIOLOOP_ECANCELED;
        *count += 1;
    }
    return 0;
}

TEST_WITH(thousands_of_stacks, "", TEST_SLOW) {
    aioloop *loop = test_loop();
    int tasks = TEST_TSAN ? 200 : 4000;
    int count = 0;
    int round;
    int i;
    for (round = 0; round < 2; round++) { /* the second time on those of the first */
        for (i = 0; i < tasks; i++)
            aioloop_future_unref(stack_task(loop, stack_chain, &count, NULL));
        test_run_until(loop, &count, 10 * tasks * (round + 1), "all tasks");
        test_spin(loop, 2);
    }
    test_end(loop);
}

static int stack_reports;

static void stack_count_report(aioloop *loop, const aioloop_exception_context *context, void *arg) {
    (void)loop;
    (void)context;
    (void)arg;
    stack_reports++;
}

static int64_t stack_wait_for_ever(aioloop *loop, void *arg, void **out) {
    (void)out;
    *(int *)arg += 1;
    return aioloop_await(aioloop_sleep(loop, AIOLOOP_FOREVER), NULL);
}

TEST(loop_is_freed_under_suspended_stacks, "") {
    aioloop *loop = test_loop();
    aioloop_task_options options = AIOLOOP_ZERO;
    static char memory[32768];
    int count = 0;
    int i;
    stack_reports = 0;
    aioloop_set_exception_handler(loop, stack_count_report, NULL);
    for (i = 0; i < 6; i++) {
        options.stack_size = i == 0 ? sizeof(memory) : i == 1 ? 20u << 20 : 0;
        options.stack = i == 0 ? memory : NULL;
        aioloop_future_unref(stack_task(loop, stack_wait_for_ever, &count, &options));
    }
    aioloop_future_unref(stack_task(loop, stack_never, &count, NULL)); /* runs and ends */
    test_spin(loop, 3);
    aioloop_future_unref(stack_task(loop, stack_never, &count, NULL)); /* never begins */
    CHECK_EQ(count, 7);
    test_end(loop);
    CHECK_EQ(stack_reports, 7);
    memset(memory, 0, sizeof(memory)); /* ours again */
}

/* ---- what runs on the loop's stack ---- */

typedef struct stack_told {
    char memory[16384];
    char *coroutine;
    char *handler;
    char *log;
    int calls;
    int64_t awaited;
} stack_told;

static void stack_on_error(aioloop *loop, const aioloop_exception_context *context, void *arg) {
    stack_told *told = (stack_told *)arg;
    volatile char room[32768]; /* more than the coroutine has */
    room[0] = 1;
    room[32767] = room[0];
    told->handler = stack_here();
    told->calls++;
    told->awaited = aioloop_await(aioloop_sleep(loop, 0), NULL);
    if (told->calls == 1) {
        aioloop_default_exception_handler(loop, context);
        aioloop_call_exception_handler(loop, context); /* from the loop's stack */
    }
}

static void stack_on_log(aioloop *loop, aioloop_log_level level, const char *text, void *arg) {
    stack_told *told = (stack_told *)arg;
    (void)loop;
    (void)level;
    if (strstr(text, "a report") == NULL) /* also of what a fault has done, after the test */
        return;
    told->log = stack_here();
    told->calls += 10;
}

static int64_t stack_telling(aioloop *loop, void *arg, void **out) {
    stack_told *told = (stack_told *)arg;
    aioloop_exception_context context;
    (void)out;
    memset(&context, 0, sizeof(context));
    context.message = "a report";
    told->coroutine = stack_here();
    aioloop_call_exception_handler(loop, &context);
    return stack_yield(loop);
}

static int64_t stack_telling_below(aioloop *loop, void *arg, void **out) {
    stack_told *told = (stack_told *)arg;
    aioloop_task_options options = AIOLOOP_ZERO;
    (void)out;
    options.eager = true;
    options.stack = told->memory;
    options.stack_size = sizeof(told->memory);
    return aioloop_await(aioloop_create_task(loop, stack_telling, told, &options), NULL);
}

TEST(reports_are_made_on_the_loops_stack, "") {
    aioloop *loop = test_loop();
    static stack_told told;
    char *here = stack_here();
    memset(&told, 0, sizeof(told));
    aioloop_set_exception_handler(loop, stack_on_error, &told);
    aioloop_set_log(loop, stack_on_log, &told);
    CHECK_EQ(stack_run(loop, stack_telling_below, &told, NULL), 0);
    CHECK_EQ(told.calls, 12);
    CHECK_EQ(told.awaited, AIOLOOP_EMISUSE);
    CHECK(stack_is_within(told.coroutine, told.memory, sizeof(told.memory)));
    CHECK(stack_is_within(told.handler, here - 131072, 131072));
    CHECK(stack_is_within(told.log, here - 131072, 131072));
    test_end(loop);
}

/* ---- threads ---- */

#if STACK_THREADS
static void *stack_thread(void *arg) {
    aioloop *loop = (aioloop *)arg;
    int count = 0;
    int i;
    for (i = 0; i < 20; i++)
        aioloop_future_unref(stack_task(loop, stack_chain, &count, NULL));
    for (i = 0; i < 100000 && count < 200; i++) /* fewer tasks than that, and it ends all the same */
        if (aioloop_run_once(loop, 0) < 0)
            break;
    aioloop_run_once(loop, 0);
    CHECK_EQ(count, 200);
    return NULL;
}

TEST_WITH(stacks_in_two_threads, "", TEST_THREADS) {
    pthread_t threads[2];
    int i;
    for (i = 0; i < 2; i++)
        stack_loops[i] = test_loop();
    test_needs_threads(stack_loops[0]);
    for (i = 0; i < 2; i++)
        CHECK(pthread_create(&threads[i], NULL, stack_thread, stack_loops[i]) == 0);
    for (i = 0; i < 2; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    for (i = 0; i < 2; i++)
        test_end(stack_loops[i]);
}
#endif

/* ---- overflows and other faults ---- */

static volatile int stack_bottomless = 1;

static STACK_NOINLINE int stack_fall(int depth) {
    volatile char room[300];
    room[0] = (char)depth;
    room[299] = (char)depth;
    if (!stack_bottomless)
        return depth;
    return stack_fall(depth + 1) + room[0];
}

static int64_t stack_falling(aioloop *loop, void *arg, void **out) {
    (void)loop;
    (void)arg;
    (void)out;
    return stack_fall(0);
}

static char *volatile stack_forbidden; /* NULL unless there is something */

static int64_t stack_faulting(aioloop *loop, void *arg, void **out) {
    (void)loop;
    (void)arg;
    (void)out;
    *stack_forbidden = 1;
    return 0;
}

static int64_t stack_sending(aioloop *loop, void *arg, void **out) {
    (void)loop;
    (void)arg;
    (void)out;
    return raise(SIGSEGV);
}

/* How a process ended: the signal, or 1000 + what it exited with; and what it wrote to standard error. */
static char stack_said[4096];

static int stack_end_of(void (*fn)(void)) {
    int ends[2];
    int status = 0;
    size_t n = 0;
    ssize_t part;
    pid_t child;
    CHECK(pipe(ends) == 0);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        signal(SIGSEGV, SIG_DFL);
        signal(SIGABRT, SIG_DFL);
        dup2(ends[1], 2);
        close(ends[0]);
        close(ends[1]);
        fn();
        _exit(0);
    }
    close(ends[1]);
    while ((part = read(ends[0], stack_said + n, sizeof(stack_said) - 1 - n)) > 0 || (part < 0 && errno == EINTR))
        n += part > 0 ? (size_t)part : 0;
    stack_said[n] = '\0';
    close(ends[0]);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        continue;
    return WIFSIGNALED(status) ? WTERMSIG(status) : 1000 + WEXITSTATUS(status);
}

static bool stack_overflow_was_said(void) {
    return strstr(stack_said, "the stack of a coroutine has overflowed") != NULL;
}

/* Sanitizers have handlers of their own; an emulator may not do as it says with pages that are to be guarded. */
static void stack_needs_faults(void) {
    char *page;
    int advised;
    bool honest = true;
    if (TEST_ASAN || TEST_TSAN || TEST_MSAN)
        SKIP("a sanitizer sees to faults");
    page = (char *)mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != (char *)MAP_FAILED);
    advised = madvise(page, 65536, 102 /* MADV_GUARD_INSTALL */);
    if (advised == 0) { /* then the system cannot read it either */
        int ends[2];
        CHECK(pipe(ends) == 0);
        honest = write(ends[1], page, 1) < 0;
        close(ends[0]);
        close(ends[1]);
    }
    munmap(page, 65536);
    CHECK_EQ(0, 0);
    if (!honest)
        SKIP("guards are promised and not kept here");
}

/* valgrind counts a fault as an error, also one that is dealt with. */
static void stack_needs_faults_that_count(void) {
    const char *preloaded = getenv("LD_PRELOAD");
    stack_needs_faults();
    if (preloaded != NULL && strstr(preloaded, "vgpreload") != NULL)
        SKIP("valgrind counts faults");
}

static aioloop *stack_debug_loop(void) {
    aioloop_config config = AIOLOOP_ZERO;
    config.debug = 1;
    return aioloop_new_event_loop(&config);
}

static void stack_run_in_child(aioloop *loop, aioloop_coroutine fn) {
    int64_t n = aioloop_run_until_complete(loop, aioloop_create_task(loop, fn, NULL, NULL), NULL);
    if (n < 0)
        _exit(2);
}

static void stack_child_overflows(void) {
    stack_run_in_child(stack_debug_loop(), stack_falling);
}

TEST(overflow_is_told_in_debug_mode, "") {
    stack_needs_faults();
    CHECK_EQ(stack_end_of(stack_child_overflows), SIGSEGV);
    CHECK(stack_overflow_was_said());
}

static void stack_child_overflows_silently(void) {
    aioloop_config config = AIOLOOP_ZERO;
    config.debug = -1;
    stack_run_in_child(aioloop_new_event_loop(&config), stack_falling);
}

TEST(overflow_ends_the_program_without_debug_mode, "") {
    stack_needs_faults();
    CHECK_EQ(stack_end_of(stack_child_overflows_silently), SIGSEGV);
    CHECK_STR(stack_said, "");
}

static void stack_child_overflows_alone(void) {
    aioloop_task_options options = AIOLOOP_ZERO;
    aioloop *loop = stack_debug_loop();
    options.stack_size = 20u << 20;
    aioloop_run_until_complete(loop, aioloop_create_task(loop, stack_falling, NULL, &options), NULL);
}

TEST(overflow_of_a_huge_stack_is_told, "") {
    stack_needs_faults();
    CHECK_EQ(stack_end_of(stack_child_overflows_alone), SIGSEGV);
    CHECK(stack_overflow_was_said());
}

static void stack_child_overflows_in_the_second_loop(void) {
    aioloop *first = stack_debug_loop();
    aioloop *second = stack_debug_loop();
    char *place = NULL;
    aioloop_run_until_complete(first, aioloop_create_task(first, stack_locate, &place, NULL), NULL);
    aioloop_run_until_complete(second, aioloop_create_task(second, stack_locate, &place, NULL), NULL);
    aioloop_close(first);
    aioloop_free(first);
    stack_run_in_child(second, stack_falling);
}

TEST(overflow_is_told_in_each_loop, "") {
    stack_needs_faults();
    CHECK_EQ(stack_end_of(stack_child_overflows_in_the_second_loop), SIGSEGV);
    CHECK(stack_overflow_was_said());
}

#if STACK_THREADS
static void *stack_overflowing_thread(void *arg) {
    stack_run_in_child((aioloop *)arg, stack_falling);
    return NULL;
}

static void stack_child_overflows_in_a_thread(void) {
    aioloop *first = stack_debug_loop();
    aioloop *second = stack_debug_loop();
    char *place = NULL;
    pthread_t thread;
    aioloop_run_until_complete(first, aioloop_create_task(first, stack_locate, &place, NULL), NULL);
    if (pthread_create(&thread, NULL, stack_overflowing_thread, second) == 0)
        pthread_join(thread, NULL);
}

TEST_WITH(overflow_is_told_in_each_thread, "", TEST_THREADS) {
    stack_needs_faults();
    CHECK_EQ(stack_end_of(stack_child_overflows_in_a_thread), SIGSEGV);
    CHECK(stack_overflow_was_said());
}
#endif

static void stack_child_faults(void) {
    stack_run_in_child(stack_debug_loop(), stack_faulting);
}

static void stack_child_is_sent_the_signal(void) {
    stack_run_in_child(stack_debug_loop(), stack_sending);
}

TEST(other_faults_are_not_taken_for_overflows, "") {
    stack_needs_faults_that_count();
    CHECK_EQ(stack_end_of(stack_child_faults), SIGSEGV);
    CHECK_STR(stack_said, "");
    CHECK_EQ(stack_end_of(stack_child_is_sent_the_signal), SIGSEGV);
    CHECK_STR(stack_said, "");
}

static void stack_on_signal(int number) {
    _exit(number == SIGSEGV ? 7 : 1);
}

static void stack_child_with_a_handler(void) {
    signal(SIGSEGV, stack_on_signal);
    stack_child_faults();
}

static void stack_child_overflows_with_a_handler(void) {
    signal(SIGSEGV, stack_on_signal);
    stack_child_overflows();
}

TEST(handler_of_the_program_has_the_fault, "") {
    stack_needs_faults_that_count();
    CHECK_EQ(stack_end_of(stack_child_with_a_handler), 1007);
    CHECK_STR(stack_said, "");
    CHECK_EQ(stack_end_of(stack_child_overflows_with_a_handler), 1007);
    CHECK(stack_overflow_was_said());
}

static volatile int stack_repairs;

/* As a program does that watches its own memory: allows the access, and goes on. */
static void stack_repair(int number, siginfo_t *info, void *context) {
    (void)context;
    if (number != SIGSEGV || (char *)info->si_addr != stack_forbidden)
        _exit(3);
    mprotect(stack_forbidden, 65536, PROT_READ | PROT_WRITE);
    stack_repairs = stack_repairs + 1;
}

static void stack_child_repairs(void) {
    struct sigaction action;
    aioloop *loop;
    int i;
    memset(&action, 0, sizeof(action));
    action.sa_sigaction = stack_repair;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &action, NULL);
    loop = stack_debug_loop();
    stack_forbidden = (char *)mmap(NULL, 65536, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (i = 0; i < 3; i++) {
        stack_run_in_child(loop, stack_faulting);
        mprotect(stack_forbidden, 65536, PROT_NONE);
    }
    aioloop_close(loop);
    aioloop_free(loop);
    *stack_forbidden = 2; /* and without a loop */
    if (stack_repairs == 4)
        _exit(8);
}

TEST(handler_that_repairs_goes_on, "") {
    stack_needs_faults_that_count();
    CHECK_EQ(stack_end_of(stack_child_repairs), 1008);
    CHECK_STR(stack_said, "");
}

static bool stack_has_signal_stack(void) {
    stack_t now;
    return sigaltstack(NULL, &now) == 0 && (now.ss_flags & SS_DISABLE) == 0;
}

static void stack_child_looks_at_signal_stacks(void) {
    aioloop *loop = stack_debug_loop();
    static char own[65536];
    char *place = NULL;
    stack_t mine;
    bool clean;
    aioloop_run_until_complete(loop, aioloop_create_task(loop, stack_locate, &place, NULL), NULL);
    clean = !stack_has_signal_stack();
    memset(&mine, 0, sizeof(mine));
    mine.ss_sp = own;
    mine.ss_size = sizeof(own);
    sigaltstack(&mine, NULL);
    aioloop_run_until_complete(loop, aioloop_create_task(loop, stack_locate, &place, NULL), NULL);
    aioloop_close(loop);
    aioloop_free(loop);
    _exit(clean && stack_has_signal_stack() ? 9 : 4);
}

TEST(signal_stack_of_the_thread_is_its_own_after_a_run, "") {
    stack_needs_faults();
    CHECK_EQ(stack_end_of(stack_child_looks_at_signal_stacks), 1009);
    CHECK_STR(stack_said, "");
}

#else

static int64_t stack_never(aioloop *loop, void *arg, void **out) {
    (void)loop;
    (void)out;
    *(int *)arg += 1;
    return 0;
}

TEST(coroutine_with_a_stack_is_refused_where_there_are_none, "") {
    aioloop *loop = test_loop();
    int runs = 0;
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_create_task(loop, stack_never, &runs, NULL), NULL), AIOLOOP_ENOTAVAILABLE);
    CHECK_EQ(runs, 0);
    test_end(loop);
}

#endif
