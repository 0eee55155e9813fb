/*
 * thread.c - threads, and how they wait for each other.
 *
 * Without threads, or without an operating system, making one of these answers AIOLOOP_ENOTAVAILABLE.
 */
#ifndef AIOL_SYS_THREAD_C
#define AIOL_SYS_THREAD_C

#include "sys/sys.h"
#include "base/util.h"

#if AIOL_HAVE_PTHREAD

typedef pthread_mutex_t aiol_mutex;
typedef pthread_cond_t aiol_thread_condition;

typedef struct aiol_worker {
    pthread_t thread;
    void (*fn)(void *arg);
    void *arg;
} aiol_worker;

/* What these functions return: 0 or errno's number. */
static int aiol_pthread_error(int number) {
    return number == 0 ? 0 : aiol_error_from_errno(number);
}

AIOLOOP_INTERNAL int aiol_mutex_init(aiol_mutex *mutex) {
    if (AIOL_SYS(pthread_mutex_init, 0) < 0)
        return aiol_error_from_errno(errno);
    return aiol_pthread_error(pthread_mutex_init(mutex, NULL));
}

AIOLOOP_INTERNAL void aiol_mutex_destroy(aiol_mutex *mutex) {
    pthread_mutex_destroy(mutex);
}

AIOLOOP_INTERNAL void aiol_mutex_lock(aiol_mutex *mutex) {
    pthread_mutex_lock(mutex);
}

/* False: it is held. */
AIOLOOP_INTERNAL bool aiol_mutex_try(aiol_mutex *mutex) {
    return pthread_mutex_trylock(mutex) == 0;
}

AIOLOOP_INTERNAL void aiol_mutex_unlock(aiol_mutex *mutex) {
    pthread_mutex_unlock(mutex);
}

AIOLOOP_INTERNAL int aiol_thread_condition_init(aiol_thread_condition *condition) {
    pthread_condattr_t attributes;
    int err;
    if (AIOL_SYS(pthread_cond_init, 0) < 0)
        return aiol_error_from_errno(errno);
    err = pthread_condattr_init(&attributes);
    if (err != 0)
        return aiol_pthread_error(err);
#ifndef __APPLE__
    err = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
#endif
    if (err == 0)
        err = pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
    return aiol_pthread_error(err);
}

AIOLOOP_INTERNAL void aiol_thread_condition_destroy(aiol_thread_condition *condition) {
    pthread_cond_destroy(condition);
}

AIOLOOP_INTERNAL void aiol_thread_condition_signal(aiol_thread_condition *condition) {
    pthread_cond_signal(condition);
}

AIOLOOP_INTERNAL void aiol_thread_condition_broadcast(aiol_thread_condition *condition) {
    pthread_cond_broadcast(condition);
}

/* When a wait is to end that begins now; AIOLOOP_FOREVER: never. */
AIOLOOP_INTERNAL aioloop_time aiol_thread_condition_deadline(aioloop_time timeout) {
    return aiol_time_add(aiol_clock_now(), timeout);
}

/* Waits with the mutex held. 0, also for no reason; AIOLOOP_ETIMEDOUT when the deadline has passed. */
AIOLOOP_INTERNAL int aiol_thread_condition_wait(aiol_thread_condition *condition, aiol_mutex *mutex, aioloop_time deadline) {
    struct timespec t;
    int err;
#ifdef __APPLE__ /* its conditions have no clock to choose */
    aioloop_time left = deadline - aiol_clock_now();
#else
    aioloop_time left = deadline;
#endif
    if (deadline == AIOLOOP_FOREVER) {
        pthread_cond_wait(condition, mutex);
        return 0;
    }
    if (left < 0)
        left = 0;
    t.tv_sec = (time_t)(left / 1000000000);
    t.tv_nsec = (long)(left % 1000000000);
#ifdef __APPLE__
    err = pthread_cond_timedwait_relative_np(condition, mutex, &t);
#else
    err = pthread_cond_timedwait(condition, mutex, &t);
#endif
    return err == ETIMEDOUT ? AIOLOOP_ETIMEDOUT : 0;
}

static void *aiol_worker_main(void *arg) {
    aiol_worker *worker = (aiol_worker *)arg;
    worker->fn(worker->arg);
    return NULL;
}

/* The attributes of a thread with at least that much stack; 0: the system's default. */
static int aiol_worker_attributes(pthread_attr_t *attributes, size_t stack_size) {
    const size_t unit = 65536; /* of which every system's page is a part */
    int err = pthread_attr_init(attributes);
    if (err != 0 || stack_size == 0)
        return err;
    if (stack_size < (size_t)PTHREAD_STACK_MIN)
        stack_size = (size_t)PTHREAD_STACK_MIN;
    err = stack_size > SIZE_MAX - unit ? EINVAL : pthread_attr_setstacksize(attributes, (stack_size + unit - 1) / unit * unit);
    if (err != 0)
        pthread_attr_destroy(attributes);
    return err;
}

/* Runs fn(arg) in a thread, with all signals blocked: they are the program's. worker stays where it is until the thread
 * is joined, or is detached by itself. */
AIOLOOP_INTERNAL int aiol_worker_start(aiol_worker *worker, void (*fn)(void *arg), void *arg, size_t stack_size) {
    pthread_attr_t attributes;
    sigset_t all;
    sigset_t before;
    int err;
    if (AIOL_SYS(pthread_create, 0) < 0)
        return aiol_error_from_errno(errno);
    err = aiol_worker_attributes(&attributes, stack_size);
    if (err != 0)
        return aiol_pthread_error(err);
    worker->fn = fn;
    worker->arg = arg;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    err = pthread_create(&worker->thread, &attributes, aiol_worker_main, worker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return aiol_pthread_error(err);
}

AIOLOOP_INTERNAL void aiol_worker_join(aiol_worker *worker) {
    pthread_join(worker->thread, NULL);
}

/* Nobody will join it. */
AIOLOOP_INTERNAL void aiol_worker_detach(aiol_worker *worker) {
    pthread_detach(worker->thread);
}

/* Whether it is the calling thread. */
AIOLOOP_INTERNAL bool aiol_worker_is_current(const aiol_worker *worker) {
    return pthread_equal(worker->thread, pthread_self()) != 0;
}

/* For debuggers and tools, where the system has names for threads; it may cut it. */
AIOLOOP_INTERNAL void aiol_thread_set_name(const char *name) {
#if defined(__linux__)
    (void)pthread_setname_np(pthread_self(), name);
#elif defined(__APPLE__)
    (void)pthread_setname_np(name);
#else
    (void)name;
#endif
}

#if AIOL_OS_LINUX && defined(SYS_sched_setattr)
/* The system's struct sched_attr, which C libraries lack. */
typedef struct aiol_schedule {
    uint32_t size;
    uint32_t policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t slice; /* 0: not known, and ignored */
    uint64_t deadline;
    uint64_t period;
} aiol_schedule;

/* The calling thread works for long at a time and nobody waits for its first step: it asks for the longest slices, so
 * that those who wake up for a moment, loops above all, go first (Linux 6.12). It has no less of the processor. */
AIOLOOP_INTERNAL void aiol_thread_give_way(void) {
    aiol_schedule schedule;
    memset(&schedule, 0, sizeof(schedule));
    if (syscall(SYS_sched_getattr, 0, &schedule, (unsigned)sizeof(schedule), 0u) == -1)
        return;
    if (schedule.policy != 0 && schedule.policy != 3 /* SCHED_OTHER, SCHED_BATCH */)
        return;
    schedule.size = (uint32_t)sizeof(schedule);
    schedule.slice = AIOLOOP_MS(100);
    if (schedule.nice >= 0)
        schedule.flags |= 1; /* SCHED_FLAG_RESET_ON_FORK: what it starts is no worker */
    (void)syscall(SYS_sched_setattr, 0, &schedule, 0u);
}
#else
AIOLOOP_INTERNAL void aiol_thread_give_way(void) {
}
#endif

/* How many threads can run at a time; at least 1. */
AIOLOOP_INTERNAL unsigned aiol_processor_count(void) {
    long count = sysconf(_SC_NPROCESSORS_ONLN);
    return count > 0 ? (unsigned)count : 1;
}

#else

typedef int aiol_mutex;
typedef int aiol_thread_condition;

typedef struct aiol_worker {
    int unused;
} aiol_worker;

AIOLOOP_INTERNAL int aiol_mutex_init(aiol_mutex *mutex) {
    (void)mutex;
    return AIOLOOP_ENOTAVAILABLE;
}

AIOLOOP_INTERNAL void aiol_mutex_destroy(aiol_mutex *mutex) {
    (void)mutex;
}

AIOLOOP_INTERNAL void aiol_mutex_lock(aiol_mutex *mutex) {
    (void)mutex;
}

AIOLOOP_INTERNAL bool aiol_mutex_try(aiol_mutex *mutex) {
    (void)mutex;
    return true;
}

AIOLOOP_INTERNAL void aiol_mutex_unlock(aiol_mutex *mutex) {
    (void)mutex;
}

AIOLOOP_INTERNAL int aiol_thread_condition_init(aiol_thread_condition *condition) {
    (void)condition;
    return AIOLOOP_ENOTAVAILABLE;
}

AIOLOOP_INTERNAL void aiol_thread_condition_destroy(aiol_thread_condition *condition) {
    (void)condition;
}

AIOLOOP_INTERNAL void aiol_thread_condition_signal(aiol_thread_condition *condition) {
    (void)condition;
}

AIOLOOP_INTERNAL void aiol_thread_condition_broadcast(aiol_thread_condition *condition) {
    (void)condition;
}

AIOLOOP_INTERNAL aioloop_time aiol_thread_condition_deadline(aioloop_time timeout) {
    return timeout;
}

AIOLOOP_INTERNAL int aiol_thread_condition_wait(aiol_thread_condition *condition, aiol_mutex *mutex, aioloop_time deadline) {
    (void)condition;
    (void)mutex;
    (void)deadline;
    return AIOLOOP_ETIMEDOUT;
}

AIOLOOP_INTERNAL int aiol_worker_start(aiol_worker *worker, void (*fn)(void *arg), void *arg, size_t stack_size) {
    (void)worker;
    (void)fn;
    (void)arg;
    (void)stack_size;
    return AIOLOOP_ENOTAVAILABLE;
}

AIOLOOP_INTERNAL void aiol_worker_join(aiol_worker *worker) {
    (void)worker;
}

AIOLOOP_INTERNAL void aiol_worker_detach(aiol_worker *worker) {
    (void)worker;
}

AIOLOOP_INTERNAL bool aiol_worker_is_current(const aiol_worker *worker) {
    (void)worker;
    return false;
}

AIOLOOP_INTERNAL void aiol_thread_set_name(const char *name) {
    (void)name;
}

AIOLOOP_INTERNAL void aiol_thread_give_way(void) {
}

AIOLOOP_INTERNAL unsigned aiol_processor_count(void) {
    return 1;
}

#endif

#endif
