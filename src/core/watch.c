/*
 * watch.c - watchers: callbacks for descriptors that the user owns.      (asyncio: selector_events.add_reader)
 *
 * A watcher is a POLL operation. Removing it ends the operation; if the engine still owes it a last call (CANCELLING),
 * the watcher lives until that has come.
 */
#ifndef AIOL_CORE_WATCH_C
#define AIOL_CORE_WATCH_C

#include "core/loop.c"

typedef struct aiol_watcher {
    aiol_resource resource;
    aiol_op op;
    aioloop_callback fn;
    void *arg;
    uint32_t changed; /* the iteration in which it was set last: no event of that one is its */
    bool removed;
    bool running; /* its callback is on the stack */
} aiol_watcher;

static void aiol_watcher_free(aiol_watcher *w) {
    aioloop *loop = w->resource.loop;
    aiol_resource_remove(&w->resource);
    aiol_free(&loop->allocator, w, sizeof(*w));
}

static void aiol_watcher_free_if_over(aiol_watcher *w) {
    if (w->removed && !w->running && w->op.state == AIOL_OP_IDLE)
        aiol_watcher_free(w);
}

static AIOL_NOINLINE void aiol_watcher_report(aiol_watcher *w, int code) {
    aioloop_exception_context context;
    memset(&context, 0, sizeof(context));
    context.message = "Error in watcher";
    context.socket = &w->op.fd;
    aiol_report(w->resource.loop, code, w->resource.site, &context);
}

static size_t aiol_watcher_ready(aiol_op *op, int64_t n, const void *data) {
    aiol_watcher *w = AIOL_CONTAINER(op, aiol_watcher, op);
    aioloop *loop = w->resource.loop;
    (void)data;
    if (!w->removed && (w->changed != loop->iteration || n < 0)) {
        aiol_frame frame = aiol_enter(loop, &w->resource.context);
        aioloop_time since = AIOL_UNLIKELY(loop->debug) ? aiol_loop_now(loop) : 0;
        int raised;
        w->running = true;
        /* The engine gave up on the descriptor (n < 0): the callback finds out why by using it, once. */
        if (n < 0)
            w->removed = true;
        w->fn(loop, w->arg);
        if (AIOL_UNLIKELY(since != 0))
            aiol_slow(loop, w->resource.site, since, "watcher");
        raised = loop->raised;
        if (AIOL_UNLIKELY(raised != 0))
            aiol_watcher_report(w, raised);
        aiol_leave(loop, &frame);
        aiol_callback_end(loop);
        w->running = false; /* now: the exception handler may remove the watcher too */
    }
    aiol_watcher_free_if_over(w);
    return 0;
}

static void aiol_watcher_remove(aiol_watcher *w) {
    w->removed = true;
    aiol_op_cancel(w->resource.loop->engine, &w->op);
    aiol_watcher_free_if_over(w);
}

static void aiol_watcher_closed(aiol_resource *resource) {
    aiol_watcher *w = AIOL_CONTAINER(resource, aiol_watcher, resource);
    w->removed = true;
    w->op.state = AIOL_OP_IDLE; /* the engine goes as a whole */
}

static void aiol_watcher_destroy(aiol_resource *resource) {
    aiol_watcher_free(AIOL_CONTAINER(resource, aiol_watcher, resource));
}

static bool aiol_watcher_open(const aiol_resource *resource) {
    (void)resource;
    return false; /* forgetting to remove one harms nobody */
}

static const aiol_resource_calls aiol_watcher_calls = {"watcher", aiol_watcher_closed, aiol_watcher_destroy,
                                                       aiol_watcher_open};

/* NULL also if something else of the loop's waits there. */
static aiol_watcher *aiol_watcher_find(aioloop *loop, aioloop_socket fd, unsigned event) {
    aiol_op *op = loop->engine->calls->watching(loop->engine, fd, event);
    return op == NULL || op->done != aiol_watcher_ready ? NULL : AIOL_CONTAINER(op, aiol_watcher, op);
}

/* What a watcher calls from now on. */
static void aiol_watcher_set(aiol_watcher *w, aioloop_callback fn, void *arg) {
    aiol_map *old = w->resource.context;
    w->fn = fn;
    w->arg = arg;
    w->resource.context = aiol_map_ref(aiol_thread.map);
    w->changed = w->resource.loop->iteration;
    w->resource.site = aiol_site_take(w->resource.loop);
    aiol_map_unref(old);
}

static int aiol_watch(aioloop *loop, aioloop_socket fd, aioloop_callback fn, void *arg, unsigned event) {
    aiol_watcher *w;
    int64_t n;
    int err;
    if (loop == NULL)
        return AIOLOOP_EINVAL;
    if (loop->careful && (err = aiol_check(loop)) < 0)
        return err;
    if (fn == NULL)
        return aiol_fail(loop, AIOLOOP_EINVAL, "a callback is needed, not NULL");
    err = loop->engine->calls->attach(loop->engine, fd, AIOL_OWNER_WATCHER);
    if (err < 0)
        return aiol_fail(loop, err, err == AIOLOOP_EMISUSE ? "descriptor %ld belongs to a transport" : "descriptor %ld: %s",
                         (long)fd, aioloop_strerror(err));
    w = aiol_watcher_find(loop, fd, event);
    if (w != NULL) {
        aiol_watcher_set(w, fn, arg);
        return 0;
    }
    if (loop->engine->calls->watching(loop->engine, fd, event) != NULL)
        return aiol_fail(loop, AIOLOOP_EMISUSE, "an operation is pending on socket %ld", (long)fd);
    w = (aiol_watcher *)aiol_alloc_zero(&loop->allocator, sizeof(*w));
    if (w == NULL)
        return aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
    w->op.kind = AIOL_OP_POLL;
    w->op.fd = fd;
    w->op.done = aiol_watcher_ready;
    w->op.u.poll.events = event;
    aiol_resource_add(loop, &w->resource, &aiol_watcher_calls);
    aiol_watcher_set(w, fn, arg);
    n = aiol_op_submit(loop->engine, &w->op);
    if (n == AIOL_PENDING)
        return 0;
    aiol_watcher_free(w);
    return aiol_fail(loop, (int)n, "descriptor %ld cannot be watched", (long)fd);
}

static int aiol_unwatch(aioloop *loop, aioloop_socket fd, unsigned event) {
    aiol_watcher *w;
    if (loop == NULL)
        return AIOLOOP_EINVAL;
    if (loop->closed || fd < 0)
        return 0;
    if (AIOL_UNLIKELY(loop->debug) && aiol_wrong_thread(loop))
        return AIOLOOP_EMISUSE;
    if (loop->engine->calls->owned(loop->engine, fd))
        return aiol_fail(loop, AIOLOOP_EMISUSE, "descriptor %ld belongs to a transport", (long)fd);
    w = aiol_watcher_find(loop, fd, event);
    if (w == NULL)
        return 0;
    aiol_watcher_remove(w);
    return 1;
}

AIOLOOP_API int(aioloop_add_reader)(aioloop *loop, aioloop_socket fd, aioloop_callback fn, void *arg) {
    return aiol_watch(loop, fd, fn, arg, AIOL_POLL_READABLE);
}

AIOLOOP_API int(aioloop_add_writer)(aioloop *loop, aioloop_socket fd, aioloop_callback fn, void *arg) {
    return aiol_watch(loop, fd, fn, arg, AIOL_POLL_WRITABLE);
}

AIOLOOP_API int aioloop_remove_reader(aioloop *loop, aioloop_socket fd) {
    return aiol_unwatch(loop, fd, AIOL_POLL_READABLE);
}

AIOLOOP_API int aioloop_remove_writer(aioloop *loop, aioloop_socket fd) {
    return aiol_unwatch(loop, fd, AIOL_POLL_WRITABLE);
}

#endif
