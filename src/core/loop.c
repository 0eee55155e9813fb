/*
 * loop.c - one iteration, and the life of a loop.                          (asyncio: base_events.py)
 *
 * An iteration: wait and harvest, calling nobody; move the timers due now to the due list; run what was ready when that
 * was done; dispatch the harvest; run the due list. What is queued meanwhile runs in the next one.
 *
 * A fatal error keeps the rest of all three for the next run.
 */
#ifndef AIOL_CORE_LOOP_C
#define AIOL_CORE_LOOP_C

#include "core/executor.c"
#include "io/engine.c"

#define AIOL_READ_BUDGET (256u * 1024u) /* bytes per connection and iteration */

/* ---- resources ---- */

AIOLOOP_INTERNAL void aiol_resource_add(aioloop *loop, aiol_resource *resource, const aiol_resource_calls *calls) {
    resource->loop = loop;
    resource->calls = calls;
    aiol_list_append(&loop->resources, &resource->link);
}

AIOLOOP_INTERNAL void aiol_resource_remove(aiol_resource *resource) {
    aiol_map *context = resource->context;
    resource->context = NULL;
    aiol_list_remove(&resource->link);
    aiol_map_unref(context);
}

static aiol_resource *aiol_resource_of(aiol_link *link) {
    return AIOL_CONTAINER(link, aiol_resource, link);
}

/* ---- making ---- */

static uint32_t aiol_first_thread_known; /* whether some thread has made, set or asked for a loop */

static bool aiol_thread_is_first(void) {
    if (!aiol_thread.counted) {
        aiol_thread.counted = true;
        aiol_thread.first = aiol_exchange_u32(&aiol_first_thread_known, 1) == 0;
    }
    return aiol_thread.first;
}

AIOLOOP_API aioloop *(aioloop_new_event_loop)(const aioloop_config *config) {
    const aioloop_allocator *allocator = &aiol_default_allocator;
    const char *choice = config != NULL && config->backend != NULL ? config->backend : getenv("AIOLOOP_BACKEND");
    const char *debug = getenv("AIOLOOP_DEBUG");
    aiol_engine_setup setup;
    aioloop *loop;
    int err;
    if (config != NULL && config->allocator != NULL)
        allocator = config->allocator;
    loop = (aioloop *)aiol_alloc_zero(allocator, sizeof(*loop));
    if (loop == NULL) {
        aiol_fail(NULL, AIOLOOP_ENOMEM, NULL);
        return NULL;
    }
    loop->allocator = *allocator;
    memset(&setup, 0, sizeof(setup));
    setup.allocator = &loop->allocator;
    setup.seed = 1;
    err = aiol_engine_open(choice, &setup, &loop->engine, aiol_thread.error.buffer);
    if (err < 0) {
        aiol_fail(NULL, err, "%s", aiol_thread.error.buffer);
        aiol_free(allocator, loop, sizeof(*loop));
        return NULL;
    }
    loop->budget.bytes = AIOL_READ_BUDGET;
    loop->budget.halt = &loop->halt;
    loop->slow = AIOLOOP_MS(100);
    loop->process = aiol_process_id();
    aiol_queue_init(&loop->ready);
    aiol_queue_init(&loop->batch);
    aiol_queue_init(&loop->due);
    aiol_list_init(&loop->unsent);
    aiol_list_init(&loop->sending);
    aiol_list_init(&loop->futures);
    aiol_list_init(&loop->ended);
    aiol_list_init(&loop->resources);
    aiol_list_init(&loop->closers);
    loop->debug = AIOLOOP_USE_DEBUG && (config != NULL && config->debug != 0 ? config->debug > 0
                                                                             : debug != NULL && debug[0] != '\0');
    loop->careful = loop->debug;
    loop->site = aiol_site_take(loop);
    (void)aiol_thread_is_first();
    (void)aiol_inbox_sleep(loop); /* whoever posts before the first run wakes it: another main loop may watch it */
    return loop;
}

/* ---- finding ---- */

AIOLOOP_API aioloop *aioloop_get_running_loop(void) {
    if (aiol_thread.running == NULL || aiol_thread.running_process != aiol_process_id())
        return NULL;
    return aiol_thread.running;
}

AIOLOOP_API aioloop *aioloop_get_event_loop(void) {
    aioloop *loop = aioloop_get_running_loop();
    if (loop != NULL)
        return loop;
    if (aiol_thread.current_was_set)
        return aiol_thread.current;
    if (!aiol_thread_is_first())
        return NULL;
    loop = (aioloop_new_event_loop)(NULL);
    if (loop != NULL)
        aioloop_set_event_loop(loop);
    return loop;
}

AIOLOOP_API void aioloop_set_event_loop(aioloop *loop) {
    (void)aiol_thread_is_first();
    aiol_thread.current = loop;
    aiol_thread.current_was_set = true;
}

/* ---- one iteration ---- */

/* Until when the engine may wait: 0 if there is something to do. */
AIOL_INLINE aioloop_time aiol_loop_deadline(aioloop *loop, aioloop_time limit) {
    aioloop_time next;
    if (loop->ready.head != NULL || loop->stopping || limit <= 0 || (loop->attention && aiol_loop_has_unsent(loop)))
        return 0;
    if (loop->timers.count == 0)
        return limit;
    next = aiol_timer_next(loop);
    return next < limit ? next : limit;
}

static int aiol_loop_wait(aioloop *loop, aioloop_time limit) {
    aiol_engine *engine = loop->engine;
    aioloop_time deadline = aiol_loop_deadline(loop, limit);
    int err;
    if (deadline <= 0)
        return engine->calls->wait(engine, 0);
    if (!aiol_inbox_sleep(loop) || aiol_signals_wait(loop))
        deadline = 0;
    err = engine->calls->wait(engine, deadline);
    aiol_inbox_awake(loop);
    if (err == AIOLOOP_EDEADLK && aiol_executor_busy(loop))
        err = 0; /* a thread will bring something */
    return err;
}

/* A fatal error: nothing more is called in this iteration, and what was to be comes first in the next. */
AIOLOOP_INTERNAL void aiol_loop_halt(aioloop *loop) {
    aiol_queue rest; /* the queue that runs may be appended from, not to: aiol_run_queue keeps its end for last */
    loop->halt = true;
    aiol_queue_init(&rest);
    aiol_queue_append(&rest, &loop->batch);
    aiol_queue_append(&rest, &loop->due);
    aiol_queue_append(&rest, &loop->ready);
    aiol_queue_append(&loop->ready, &rest);
}

/* Nothing is pushed to the queue meanwhile; a halt empties it. */
static AIOL_NOINLINE void aiol_run_queue(aioloop *loop, aiol_queue *queue) {
    aiol_node *node = queue->head;
    aiol_map *last;
    aiol_thread.map = NULL;
    aiol_thread.place = NULL;
    do {
        queue->head = node->next;
        node->run(loop, node);
        node = queue->head;
    } while (node != NULL);
    queue->end = &queue->head;
    last = aiol_thread.map;
    aiol_thread.map = loop->map;
    aiol_thread.place = &loop->map;
    aiol_map_unref(last); /* may call user code: what is current is right by now */
}

/* limit: a point on the clock. 0 or the error of the wait. */
static int aiol_loop_iterate(aioloop *loop, aioloop_time limit) {
    int n;
    if (AIOL_UNLIKELY(loop->attention))
        aiol_callback_end(loop); /* what was written outside of any */
    if (AIOL_UNLIKELY(loop->halt))
        return 0;
    n = aiol_loop_wait(loop, limit);
    loop->iteration++;
    if (AIOL_UNLIKELY(n < 0))
        return n;
    if (AIOL_UNLIKELY(aiol_inbox_full(loop)))
        aiol_inbox_drain(loop);
    if (AIOL_UNLIKELY(aiol_signals_wait(loop)))
        aiol_signals_drain(loop);
    if (loop->timers.count != 0)
        aiol_timer_move_due(loop);
    if (loop->ready.head != NULL) {
        aiol_queue_append(&loop->batch, &loop->ready);
        aiol_run_queue(loop, &loop->batch);
    }
    loop->more = n > 0;
    if (n > 0 && !loop->halt)
        loop->more = loop->engine->calls->dispatch(loop->engine, &loop->budget) > 0;
    if (loop->due.head != NULL && !loop->halt)
        aiol_run_queue(loop, &loop->due);
    if (AIOL_UNLIKELY(loop->remote_done != NULL))
        aiol_inbox_return(loop);
    return 0;
}

/* ---- running ---- */

static uint32_t aiol_threads_numbered;

/* False in a forked child, which has a copy: the kernel side is its parent's. */
static bool aiol_loop_is_ours(const aioloop *loop) {
    return loop->process == aiol_process_id();
}

/* False if another thread ran the loop first, or another process. */
static bool aiol_loop_stays(aioloop *loop) {
    if (!aiol_loop_is_ours(loop))
        return false;
    if (aiol_thread.number == 0)
        aiol_thread.number = aiol_add_u32(&aiol_threads_numbered, 1);
    if (loop->thread == 0)
        loop->thread = aiol_thread.number;
    return loop->thread == aiol_thread.number;
}

/* Makes this thread the one that runs the loop. */
static int aiol_loop_begin(aioloop *loop) {
    if (loop == NULL)
        return AIOLOOP_EINVAL;
    if (loop->closed)
        return aiol_fail(loop, AIOLOOP_ECLOSED, NULL);
    if (loop->resolving)
        return aiol_fail(loop, AIOLOOP_EMISUSE, "a resolver cannot run the loop");
    if (aioloop_get_running_loop() != NULL)
        return aioloop_get_running_loop() == loop ? aiol_fail(loop, AIOLOOP_EMISUSE, "the loop is running already")
                                                  : AIOLOOP_EMISUSE;
    if (!aiol_loop_is_ours(loop))
        return AIOLOOP_EMISUSE;
    if (aiol_exchange_u32(&loop->running, 1) != 0)
        return AIOLOOP_EMISUSE; /* in another thread */
    if (!aiol_loop_stays(loop)) {
        aiol_store(&loop->running, 0);
        return aiol_fail(loop, AIOLOOP_EMISUSE,
                         "a loop stays on the thread that ran it first (run_until_complete and backend_fd count)");
    }
    aiol_thread.running = loop;
    aiol_thread.tell = aiol_tell_running;
    aiol_thread.running_process = loop->process;
    loop->outer_map = aiol_thread.map;
    loop->outer_place = aiol_thread.place;
    loop->map = aiol_map_ref(aiol_thread.map);
    aiol_thread.place = &loop->map;
    aiol_inbox_awake(loop);
    loop->halt = false;
    loop->raised = 0;
    loop->attention = aiol_loop_has_unsent(loop);
    return 0;
}

static void aiol_loop_end(aioloop *loop) {
    aiol_map *before = loop->outer_place != NULL ? *loop->outer_place : loop->outer_map;
    aiol_stacks_unwatch(loop);
    aiol_thread.running = NULL;
    aiol_thread.tell = NULL;
    aiol_thread.place = loop->outer_place;
    aiol_thread.map = loop->map;
    if (loop->outer_place != NULL)
        *loop->outer_place = loop->map;
    loop->map = NULL;
    aiol_map_unref(before);
    (void)aiol_inbox_sleep(loop);
    aiol_store(&loop->running, 0);
}

AIOLOOP_API int aioloop_run_forever(aioloop *loop) {
    int err = aiol_loop_begin(loop);
    if (err < 0)
        return err;
    do {
        err = aiol_loop_iterate(loop, AIOLOOP_FOREVER);
        if (loop->halt)
            err = AIOLOOP_EFATAL;
    } while (err == 0 && !loop->stopping);
    loop->stopping = false;
    if (loop->engine->calls->flush(loop->engine) < 0) /* another main loop may watch the descriptor from here on */
        loop->more = true;
    aiol_loop_end(loop);
    if (err < 0 && err != AIOLOOP_EFATAL)
        aiol_fail(loop, err, err == AIOLOOP_EDEADLK ? "back end %s: nothing can ever happen: no timer, nothing under way (%s)"
                                                    : "the back end %s cannot wait: %s",
                  loop->engine->name, aioloop_strerror(err));
    return err;
}

/* Only the run that waits for it: a stop or a fatal error may have ended that one before this was called. */
static void aiol_loop_stop_on_done(aioloop_future *future, void *arg) {
    aioloop *loop = (aioloop *)arg;
    if (loop->awaited == future)
        loop->stopping = true;
}

AIOLOOP_API int64_t aioloop_run_until_complete(aioloop *loop, aioloop_future *future, void *out) {
    int64_t n;
    if (loop == NULL || future == NULL)
        return AIOLOOP_EINVAL;
    if (aiol_future_is_static(future))
        return aiol_fail(loop, future->code, NULL);
    n = aiol_future_use(future);
    if (n < 0)
        return n;
    if (future->loop != loop)
        n = aiol_fail(loop, AIOLOOP_EINVAL, "the future belongs to another loop");
    else if (loop->closed)
        n = AIOLOOP_ECLOSED;
    if (n == 0 && (aioloop_get_running_loop() != NULL || aiol_load(&loop->running) != 0 || loop->resolving))
        n = aiol_fail(loop, AIOLOOP_EMISUSE, "a loop is running already");
    if (n == 0)
        n = aiol_future_callback(future, aiol_loop_stop_on_done, loop, NULL, 0);
    if (n == 0) {
        loop->awaited = future;
        n = aioloop_run_forever(loop);
        loop->awaited = NULL;
        aioloop_future_remove_done_callback(future, aiol_loop_stop_on_done, loop);
    }
    if (n == 0 && future->state == AIOL_FUTURE_PENDING) {
        n = aiol_fail(loop, AIOLOOP_EMISUSE, "the loop was stopped before the future completed");
    } else if (n == 0) {
        n = aioloop_future_result(future, out);
        if (n < 0)
            aiol_tell_of(loop, (int)n, future->error);
    }
    aiol_future_release(future);
    return n;
}

static aioloop_time aiol_loop_next(aioloop *loop) {
    aioloop_time next = aiol_loop_deadline(loop, AIOLOOP_FOREVER);
    return next <= 0 || loop->more || aiol_inbox_waits(loop) || aiol_signals_wait(loop) ? aiol_loop_now(loop) : next;
}

AIOLOOP_API int aioloop_run_once(aioloop *loop, aioloop_time max_wait) {
    aioloop_time limit = AIOLOOP_FOREVER;
    aioloop_time next;
    int err;
    if (max_wait == AIOLOOP_NOT_A_TIME)
        return AIOLOOP_EINVAL;
    err = aiol_loop_begin(loop);
    if (err < 0)
        return err;
    if (max_wait <= 0)
        limit = 0;
    else if (max_wait != AIOLOOP_FOREVER)
        limit = aiol_time_add(aiol_loop_now(loop), max_wait);
    err = aiol_loop_iterate(loop, limit);
    if (err == 0 && loop->engine->calls->flush(loop->engine) < 0)
        loop->more = true; /* an operation's failure: the next dispatch tells it */
    if (loop->halt)
        err = AIOLOOP_EFATAL;
    loop->stopping = false;
    aiol_loop_end(loop);
    if (err < 0)
        return err;
    next = aiol_loop_next(loop);
    return next != AIOLOOP_FOREVER && next <= aiol_loop_now(loop) ? 1 : 0;
}

AIOLOOP_API aioloop_time aioloop_next_deadline(aioloop *loop) {
    if (loop == NULL || loop->closed)
        return AIOLOOP_FOREVER;
    /* What was asked for since the last run, outside of it, is told to the system: the caller is about to sleep. */
    if (loop->thread != 0 && loop->thread == aiol_thread.number && aiol_thread.running != loop &&
        aiol_loop_is_ours(loop) && loop->engine->calls->flush(loop->engine) < 0)
        loop->more = true;
    return aiol_loop_next(loop);
}

AIOLOOP_API int aioloop_backend_fd(aioloop *loop) {
    if (loop == NULL)
        return AIOLOOP_EINVAL;
    if (loop->closed)
        return AIOLOOP_ECLOSED;
    if (!aiol_loop_stays(loop))
        return aiol_fail(loop, AIOLOOP_EMISUSE, "a loop stays on the thread that ran it first");
    if (loop->engine->calls->flush(loop->engine) < 0)
        loop->more = true;
    return loop->engine->calls->descriptor(loop->engine);
}

AIOLOOP_API const char *aioloop_backend_name(aioloop *loop) {
    return loop == NULL || loop->engine == NULL ? "none" : loop->engine->name;
}

AIOLOOP_API void aioloop_stop(aioloop *loop) {
    if (loop != NULL)
        loop->stopping = true;
}

AIOLOOP_API bool aioloop_is_running(aioloop *loop) {
    return loop != NULL && aiol_load(&loop->running) != 0;
}

AIOLOOP_API bool aioloop_is_closed(aioloop *loop) {
    return loop != NULL && aiol_load(&loop->closed);
}

AIOLOOP_API aioloop_time aioloop_now(aioloop *loop) {
    return loop == NULL ? 0 : aiol_loop_now(loop);
}

/* ---- closing ---- */

static void aiol_loop_drop_queue(aioloop *loop, aiol_queue *queue) {
    aiol_node *node;
    while ((node = aiol_queue_pop(queue)) != NULL) {
        if (node->run == aiol_run_future) {
            aiol_slot *slot = (aiol_slot *)(void *)node;
            aioloop_future *f = slot->u.future;
            aiol_slot_free(loop, slot);
            aiol_future_release(f);
        } else if (node->run == aiol_run_call || node->run == aiol_run_call_carefully || node->run == aiol_run_due ||
                   node->run == aiol_run_nothing) {
            aiol_slot_free(loop, (aiol_slot *)(void *)node);
        }
        /* Other nodes are inside what they run for, and go with that. */
    }
}

static void aiol_loop_drop_callbacks(aioloop *loop) {
    aiol_inbox_drain(loop);
    aiol_loop_drop_queue(loop, &loop->batch);
    aiol_loop_drop_queue(loop, &loop->ready);
    aiol_loop_drop_queue(loop, &loop->due);
    while (loop->timers.count != 0)
        aiol_timer_cancel(loop, (aiol_slot *)(void *)loop->timers.entries[0].item);
    aiol_inbox_return(loop);
}

/* What should have been ended before the loop was. */
static void aiol_loop_warn_open(aioloop *loop) {
    const aiol_link *link;
    for (link = loop->resources.next; link != &loop->resources; link = link->next) {
        const aiol_resource *resource = AIOL_CONTAINER(link, const aiol_resource, link);
        if (resource->calls->open(resource))
            aiol_warn(loop, resource->site, "unclosed %s", resource->calls->name);
    }
}

AIOLOOP_API int aioloop_close(aioloop *loop) {
    aiol_link *link;
    bool ending;
    if (loop == NULL)
        return AIOLOOP_EINVAL;
    if (loop->closed)
        return 0;
    if ((aiol_load(&loop->running) != 0 && aiol_loop_is_ours(loop)) || loop->resolving)
        return aiol_fail(loop, AIOLOOP_EMISUSE, "the loop is running");
    ending = loop->ending;
    loop->ending = true;
    loop->closed_at = aiol_loop_now(loop);
    aiol_store(&loop->closed, true);
    loop->careful = true;
    if (loop->debug && aiol_loop_is_ours(loop))
        aiol_loop_warn_open(loop);
    aiol_inbox_refuse(loop);
    aiol_executor_close(loop);
    for (link = loop->resources.next; link != &loop->resources; link = link->next)
        aiol_resource_of(link)->calls->closed(aiol_resource_of(link));
    if (aiol_loop_is_ours(loop))
        loop->engine->calls->close(loop->engine);
    else
        loop->engine->calls->forget(loop->engine);
    loop->engine = NULL;
    aiol_loop_drop_callbacks(loop);
    aiol_concurrents_close(loop);
    loop->ending = ending;
    return 0;
}

/* One of the loop's futures, with a reference; NULL behind the last. */
static aioloop_future *aiol_loop_hold_future(aioloop *loop, aiol_link *link) {
    aioloop_future *f = AIOL_CONTAINER(link, aioloop_future, link);
    if (link == &loop->futures)
        return NULL;
    aiol_future_hold(f);
    return f;
}

/* The failures that nobody looked at, of futures whose owners never let go, and tasks that never ended. The handler
 * may drop any of them. */
static void aiol_loop_report_failures(aioloop *loop) {
    aioloop_future *f;
    if (!aiol_loop_is_ours(loop))
        return;
    f = aiol_loop_hold_future(loop, loop->futures.next);
    while (f != NULL) {
        aioloop_future *last = f;
        if (f->state == AIOL_FUTURE_FAILED && (f->flags & AIOL_FUTURE_LOOKED_AT) == 0)
            aiol_future_report(f);
        else if (f->state == AIOL_FUTURE_PENDING && (f->flags & AIOL_FUTURE_TASK) != 0)
            aiol_task_report_pending((aiol_task *)(void *)f);
        f = aiol_loop_hold_future(loop, f->link.next);
        aiol_future_release(last); /* may run user code, so not before the next one is held */
    }
}

/* Runs all the user code that freeing still runs (of results and of context values), while every block is there: it may
 * let go of futures, transports and servers of the loop, which does nothing any more. */
static void aiol_loop_strip(aioloop *loop) {
    aiol_link *link;
    loop->freeing = true;
    aiol_loop_drop_callbacks(loop); /* what a thread posted meanwhile */
    aiol_concurrents_free(loop);
    aiol_wrappings_free(loop);
    aiol_executor_free(loop);
    for (link = loop->futures.next; link != &loop->futures; link = link->next)
        aiol_future_strip(AIOL_CONTAINER(link, aioloop_future, link));
    for (link = loop->resources.next; link != &loop->resources; link = link->next) {
        aiol_resource *resource = aiol_resource_of(link);
        aiol_map *context = resource->context;
        resource->context = NULL;
        aiol_map_unref(context);
    }
}

AIOLOOP_API int aioloop_free(aioloop *loop) {
    aioloop_allocator allocator;
    int err;
    if (loop == NULL)
        return 0;
    if ((aiol_load(&loop->running) != 0 && aiol_loop_is_ours(loop)) || loop->resolving)
        return aiol_fail(loop, AIOLOOP_EMISUSE, "the loop is running");
    if (loop->ending)
        return aiol_fail(loop, AIOLOOP_EMISUSE, "the loop is being closed or freed");
    loop->ending = true;
    if (loop->debug && !loop->closed && aiol_loop_is_ours(loop))
        aiol_warn(loop, loop->site, "unclosed event loop");
    err = aioloop_close(loop);
    if (err < 0) {
        loop->ending = false;
        return err;
    }
    aiol_loop_report_failures(loop);
    if (aiol_thread.current == loop)
        aiol_thread.current = NULL;
    if (aiol_thread.running == loop) { /* a forked child, inside the parent's run: the values outlive who owns them */
        aiol_thread.running = NULL;
        aiol_thread.tell = NULL;
        aiol_map_ref(aiol_thread.map);
        aiol_thread.place = NULL;
    }
    aiol_loop_strip(loop);
    while (!aiol_list_empty(&loop->resources)) {
        aiol_resource *resource = aiol_resource_of(loop->resources.next);
        resource->calls->destroy(resource);
    }
    if (loop->net != NULL)
        loop->net->freed(loop);
    while (!aiol_list_empty(&loop->futures))
        aiol_future_destroy(AIOL_CONTAINER(loop->futures.next, aioloop_future, link));
    aiol_future_free_ended(loop, 0);
    while (loop->chunks != NULL) {
        aiol_slot_chunk *chunk = loop->chunks;
        loop->chunks = chunk->next;
        aiol_slot_chunk_free(loop, chunk);
    }
    aiol_inbox_free(loop);
    aiol_stacks_free(loop);
    aiol_error_free(&loop->allocator, loop->error_of);
    allocator = loop->allocator;
    aiol_free(&allocator, loop->timers.entries, loop->timers.capacity * sizeof(loop->timers.entries[0]));
    aiol_free(&allocator, loop->sites, loop->site_capacity * sizeof(loop->sites[0]));
    aiol_free(&allocator, loop, sizeof(*loop));
    return 0;
}

AIOLOOP_API void aioloop_verify(aioloop *loop) {
#if AIOLOOP_USE_DEBUG
    if (loop == NULL || loop->closed)
        return;
    aiol_heap_verify(&loop->timers);
    loop->engine->calls->verify(loop->engine);
#else
    (void)loop;
#endif
}

#endif
