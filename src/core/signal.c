/*
 * signal.c - signals as callbacks of a loop.                  (asyncio: unix_events.add_signal_handler)
 *
 * A signal may come in any thread, in the middle of anything. All that happens then is that it is noted, in the loop's
 * handler and in the loop, which is woken and goes through its handlers before it waits again. So none is lost, however
 * many there are, and none needs memory; equal ones that come before the loop looks are one, as they are for the
 * system.
 *
 * The handlers of one signal, of all loops, are a list that is read in there without a lock: a single store puts one in
 * or takes it out, and what was taken out goes when nobody reads any more. A forked child has the lists, but they are
 * its parent's: what comes to the child does there what it would have done by default.
 */
#ifndef AIOL_CORE_SIGNAL_C
#define AIOL_CORE_SIGNAL_C

#include "core/loop.c"
#include "sys/signal_posix.c"

typedef struct aiol_signal {
    aiol_resource resource;
    aiol_node node;                     /* in the ready queue once the loop has seen that it came */
    struct aiol_signal *next;           /* of this loop */
    struct aiol_signal *volatile other; /* of this signal */
    aioloop_callback fn;
    void *arg;
    int number;
    volatile uint32_t pending; /* it came, and the loop has not looked */
    bool urgent;               /* if it comes again before that, the default action is due */
    bool removed;
    bool queued;
    bool running; /* its callback is on the stack */
} aiol_signal;

static aiol_signal *volatile aiol_signal_lists[AIOL_SIGNAL_COUNT];
static volatile int aiol_signal_process; /* whose lists they are */
static uint32_t aiol_signal_readers;     /* threads that may be going through a list because a signal came */
static uint32_t aiol_signal_lock;        /* of those that change one */

/* ---- in the middle of anything ---- */

static void aiol_signal_note(aiol_signal *s) {
    aioloop *loop = s->resource.loop;
    aiol_store(&s->pending, 1);
    if (aiol_load(&loop->signalled) != 0)
        return; /* it looks before it waits */
    aiol_store(&loop->signalled, 1);
    loop->engine->calls->wake(loop->engine);
}

/* What the system calls. */
static void aiol_signal_arrived(int number) {
    aiol_signal *s;
    bool unheard = false;
    if (aiol_load(&aiol_signal_process) != aiol_process_id()) {
        aiol_signal_obey(number);
        return;
    }
    aiol_add_u32(&aiol_signal_readers, 1);
    for (s = aiol_load(&aiol_signal_lists[number]); s != NULL; s = aiol_load(&s->other)) {
        unheard = unheard || (s->urgent && aiol_load(&s->pending) != 0);
        aiol_signal_note(s);
    }
    aiol_add_u32(&aiol_signal_readers, (uint32_t)-1);
    if (unheard)
        aiol_signal_obey(number);
}

/* ---- the lists ---- */

/* A forked child begins with lists of its own: empty ones. */
static void aiol_signals_adopt(void) {
    int process = aiol_process_id();
    int number;
    if (aiol_load(&aiol_signal_process) == process)
        return;
    for (number = 1; number < AIOL_SIGNAL_COUNT; number++) {
        if (aiol_load(&aiol_signal_lists[number]) != NULL && aiol_signal_calls(number, aiol_signal_arrived))
            aiol_signal_restore(number);
        aiol_store(&aiol_signal_lists[number], NULL);
    }
    aiol_store(&aiol_signal_readers, 0);
    aiol_store(&aiol_signal_lock, 0);
    aiol_store(&aiol_signal_process, process);
}

static void aiol_signals_enter(void) {
    aiol_signals_adopt();
    while (aiol_exchange_u32(&aiol_signal_lock, 1) != 0)
        ; /* another thread closes its loop; rare and short */
}

static void aiol_signals_leave(void) {
    aiol_store(&aiol_signal_lock, 0);
}

/* Takes it out, and returns when nobody sees it any more. The last one's signal has its default action then, unless the
 * program has changed that meanwhile. */
static void aiol_signal_unlink(aiol_signal *s) {
    aiol_signal *volatile *place = &aiol_signal_lists[s->number];
    if (aiol_load(place) == s && aiol_load(&s->other) == NULL && aiol_signal_calls(s->number, aiol_signal_arrived))
        aiol_signal_restore(s->number);
    while (aiol_load(place) != NULL && aiol_load(place) != s)
        place = &aiol_load(place)->other;
    if (aiol_load(place) == s)
        aiol_store(place, aiol_load(&s->other));
    while (aiol_load(&aiol_signal_readers) != 0)
        ; /* a thread between two instructions; rare and short */
}

static int aiol_signal_attach(aiol_signal *s) {
    int err;
    aiol_signals_enter();
    aiol_store(&s->other, aiol_load(&aiol_signal_lists[s->number]));
    aiol_store(&aiol_signal_lists[s->number], s);
    err = aiol_signal_catch(s->number, aiol_signal_arrived);
    if (err < 0)
        aiol_signal_unlink(s);
    aiol_signals_leave();
    return err;
}

static void aiol_signal_detach(aiol_signal *s) {
    aiol_signals_enter();
    aiol_signal_unlink(s);
    aiol_signals_leave();
}

/* ---- a loop's handlers ---- */

static void aiol_signal_free(aiol_signal *s) {
    aioloop *loop = s->resource.loop;
    aiol_resource_remove(&s->resource);
    aiol_free(&loop->allocator, s, sizeof(*s));
}

static void aiol_signal_free_if_over(aiol_signal *s) {
    if (s->removed && !s->queued && !s->running)
        aiol_signal_free(s);
}

static AIOL_NOINLINE void aiol_signal_report(aiol_signal *s, int code) {
    aioloop_exception_context context;
    memset(&context, 0, sizeof(context));
    context.message = "Error in signal handler";
    aiol_report(s->resource.loop, code, s->resource.site, &context);
}

static void aiol_signal_run(aioloop *loop, aiol_node *node) {
    aiol_signal *s = AIOL_CONTAINER(node, aiol_signal, node);
    s->queued = false;
    if (!s->removed) {
        aiol_frame frame = aiol_enter(loop, &s->resource.context);
        aioloop_time since = AIOL_UNLIKELY(loop->debug) ? aiol_loop_now(loop) : 0;
        int raised;
        s->running = true;
        s->fn(loop, s->arg);
        if (AIOL_UNLIKELY(since != 0))
            aiol_slow(loop, s->resource.site, since, "signal handler");
        raised = loop->raised;
        if (AIOL_UNLIKELY(raised != 0))
            aiol_signal_report(s, raised);
        aiol_leave(loop, &frame);
        aiol_callback_end(loop);
        s->running = false; /* now: the exception handler may remove it too */
    }
    aiol_signal_free_if_over(s);
}

/* Queues the handlers of what has come. */
AIOLOOP_INTERNAL AIOL_NOINLINE void aiol_signals_drain(aioloop *loop) {
    aiol_signal *s;
    aiol_store(&loop->signalled, 0); /* first: what comes from here on is noted again */
    for (s = loop->signals; s != NULL; s = s->next) {
        if (aiol_load(&s->pending) == 0)
            continue;
        aiol_store(&s->pending, 0);
        if (!s->queued) { /* else a fatal error has kept it from running */
            s->queued = true;
            aiol_queue_push(&loop->ready, &s->node);
        }
    }
}

static void aiol_signal_closed(aiol_resource *resource) {
    aiol_signal *s = AIOL_CONTAINER(resource, aiol_signal, resource);
    if (!s->removed)
        aiol_signal_detach(s);
    s->removed = true;
}

static void aiol_signal_destroy(aiol_resource *resource) {
    aiol_signal_free(AIOL_CONTAINER(resource, aiol_signal, resource));
}

static bool aiol_signal_open(const aiol_resource *resource) {
    (void)resource;
    return false; /* the loop's end is the usual end of it */
}

static const aiol_resource_calls aiol_signal_calls_table = {"signal handler", aiol_signal_closed, aiol_signal_destroy,
                                                            aiol_signal_open};

/* Where the loop's handler is linked; the end of its list if it has none. */
static aiol_signal **aiol_signal_find(aioloop *loop, int number) {
    aiol_signal **place = &loop->signals;
    while (*place != NULL && (*place)->number != number)
        place = &(*place)->next;
    return place;
}

static void aiol_signal_set(aiol_signal *s, aioloop_callback fn, void *arg) {
    aiol_map *old = s->resource.context;
    s->fn = fn;
    s->arg = arg;
    s->urgent = false;
    s->resource.context = aiol_map_ref(aiol_thread.map);
    s->resource.site = aiol_site_take(s->resource.loop);
    aiol_map_unref(old);
}

static void aiol_signal_remove(aiol_signal **place) {
    aiol_signal *s = *place;
    *place = s->next;
    aiol_signal_detach(s);
    s->removed = true;
    aiol_signal_free_if_over(s);
}

static bool aiol_thread_owns_signals(void) {
    return aiol_thread_is_main(aiol_thread_is_first());
}

/* Whether this thread may see to this loop's handlers. */
static int aiol_signal_check(aioloop *loop) {
    if (!aiol_thread_owns_signals())
        return aiol_fail(aiol_loop_is_ours(loop) ? loop : NULL, AIOLOOP_EMISUSE, "signals belong to the process's main thread");
    if (!aiol_loop_is_ours(loop) || (aiol_load(&loop->running) != 0 && aiol_thread.running != loop))
        return aiol_fail(NULL, AIOLOOP_EMISUSE, "the loop is not this thread's");
    return 0;
}

AIOLOOP_API int(aioloop_add_signal_handler)(aioloop *loop, int number, aioloop_callback fn, void *arg) {
    aiol_signal **place;
    aiol_signal *s;
    int err;
    if (loop == NULL)
        return AIOLOOP_EINVAL;
    if (loop->closed)
        return aiol_fail(loop, AIOLOOP_ECLOSED, NULL);
    err = aiol_signal_check(loop);
    if (err < 0)
        return err;
    if (!aiol_signal_exists(number))
        return aiol_fail(loop, AIOLOOP_EINVAL, "there is no signal %d", number);
    if (fn == NULL)
        return aiol_fail(loop, AIOLOOP_EINVAL, "a callback is needed, not NULL");
    place = aiol_signal_find(loop, number);
    if (*place != NULL) {
        err = aiol_signal_catch(number, aiol_signal_arrived); /* the program may have changed what happens */
        if (err < 0)
            return aiol_fail(loop, err, "signal %d cannot be caught", number);
        aiol_signal_set(*place, fn, arg);
        return 0;
    }
    s = (aiol_signal *)aiol_alloc_zero(&loop->allocator, sizeof(*s));
    if (s == NULL)
        return aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
    s->number = number;
    s->node.run = aiol_signal_run;
    aiol_resource_add(loop, &s->resource, &aiol_signal_calls_table);
    err = aiol_signal_attach(s);
    if (err < 0) {
        aiol_signal_free(s);
        return aiol_fail(loop, err, "signal %d cannot be caught", number);
    }
    *place = s;
    aiol_signal_set(s, fn, arg);
    return 0;
}

AIOLOOP_API int aioloop_remove_signal_handler(aioloop *loop, int number) {
    aiol_signal **place;
    int err;
    if (loop == NULL)
        return AIOLOOP_EINVAL;
    if (!aiol_signal_exists(number))
        return AIOLOOP_EINVAL;
    if (loop->closed)
        return 0;
    err = aiol_signal_check(loop);
    if (err < 0)
        return err;
    place = aiol_signal_find(loop, number);
    if (*place == NULL)
        return 0;
    aiol_signal_remove(place);
    return 1;
}

/* ---- for aioloop_run ---- */

/* fn is called when the program is interrupted (SIGINT), if nobody has decided what is to happen then and this thread
 * may. If the loop does not get round to calling it, the next interruption ends the program, as by default. */
AIOLOOP_INTERNAL int aiol_interrupt_begin(aioloop *loop, aioloop_callback fn, void *arg) {
    int err;
    if (!aiol_thread_owns_signals() || !aiol_signal_calls(SIGINT, SIG_DFL))
        return 0;
    err = (aioloop_add_signal_handler)(loop, SIGINT, fn, arg);
    if (err == 0)
        (*aiol_signal_find(loop, SIGINT))->urgent = true;
    return err;
}

/* Does nothing if the handler is another one by now. True: the program was interrupted, and fn was not called any more. */
AIOLOOP_INTERNAL bool aiol_interrupt_end(aioloop *loop, aioloop_callback fn) {
    aiol_signal **place = aiol_signal_find(loop, SIGINT);
    aiol_signal *s = *place;
    bool missed;
    if (s == NULL || s->fn != fn)
        return false;
    aiol_signal_detach(s);
    missed = aiol_load(&s->pending) != 0 || s->queued;
    aiol_signal_remove(place);
    return missed;
}

#endif
