/*
 * task.c - coroutines, step by step.                                              (asyncio: tasks.py)
 *
 * A step runs the coroutine from one wait to the next. Waiting puts the task's slot among the callbacks of the future
 * (or into the heap of timers), and completing that future puts it into the ready queue, as any callback; so neither
 * needs memory.
 *
 * The outcome of a wait is fetched when the coroutine goes on: slot.u.future is the future it waited for, with a
 * reference, and a static one stands there for what is no future's: a cancellation, a sleep that is over, misuse.
 *
 * A stackful task is one whose step enters its stack; otherwise there is no difference.
 */
#ifndef AIOL_CORE_TASK_C
#define AIOL_CORE_TASK_C

#include "core/coro.c"

/* A time-out that the task has entered: scope.c's. */
typedef struct aiol_scope {
    struct aiol_scope *outer;
    struct aiol_task *task;
    aioloop_timer_handle timer;
    int cancelling; /* when it was entered */
    bool due;       /* it has cancelled the task, */
    bool alone;     /* to which no other cancellation was to be told */
} aiol_scope;

typedef struct aiol_task_extra {
    aiol_scope *scopes; /* the innermost first */
    char *name;
    size_t name_size;
    aioloop_timer_handle timer;
    const void *waits_at; /* debug mode: the place of its last wait */
    struct aioloop_generator *generator; /* whose body it is */
} aiol_task_extra;

static aioloop_future aiol_future_slept = {{NULL, NULL}, NULL, 1, AIOL_FUTURE_FINISHED, AIOL_FUTURE_STATIC, 0, 0, 0, {NULL}, {NULL}, {NULL}, NULL};

AIOL_INLINE aiol_task *aiol_task_of_slot(aiol_slot *slot) {
    return AIOL_CONTAINER(slot, aiol_task, slot);
}

/* The task, or NULL for another future. */
AIOL_INLINE aiol_task *aiol_task_of(const aioloop_future *f) {
    if (f == NULL || (f->flags & (AIOL_FUTURE_TASK | AIOL_FUTURE_STATIC)) != AIOL_FUTURE_TASK)
        return NULL;
    return (aiol_task *)(uintptr_t)f;
}

#define AIOL_TASK_ROOM ((sizeof(aiol_task) + 15) / 16 * 16) /* where a copy lies */

AIOLOOP_INTERNAL size_t aiol_task_size(const aiol_task *task) {
    return task->copy_size == 0 ? sizeof(*task) : AIOL_TASK_ROOM + task->copy_size;
}

/* NULL when there is no memory. */
static AIOL_NOINLINE aiol_task_extra *aiol_task_extra_of(aiol_task *task) {
    if (task->extra == NULL)
        task->extra = (aiol_task_extra *)aiol_alloc_zero(&task->future.loop->allocator, sizeof(aiol_task_extra));
    return task->extra;
}

/* ---- the end ---- */

/* Lets go of the innermost scope. */
static void aiol_scope_free(aiol_task *task) {
    aiol_scope *scope = task->extra->scopes;
    task->extra->scopes = scope->outer;
    aioloop_timer_handle_cancel(&scope->timer);
    aiol_free(&task->future.loop->allocator, scope, sizeof(*scope));
}

/* The innermost scope was not left, and nobody can leave it any more. */
static AIOL_NOINLINE void aiol_task_drop_scope(aiol_task *task) {
    char name[64];
    if (task->extra->scopes->due)
        (void)aioloop_task_uncancel(&task->future);
    if (task->future.loop->debug)
        aiol_warn(task->future.loop, task->future.site,
                  "%s has not left a time-out scope that it entered: aioloop_timeout_exit must be called on every way out",
                  aiol_task_name(task, name, sizeof(name)));
    aiol_scope_free(task);
}

/* Lets go of the coroutine: of its stack, its argument, its context. */
static void aiol_task_end_coroutine(aiol_task *task, bool dropped) {
    aioloop *loop = task->future.loop;
    void (*dispose)(void *) = NULL;
    void *arg = task->slot.arg;
    task->flags |= AIOL_TASK_ENDED;
    while (AIOL_UNLIKELY(task->extra != NULL && task->extra->scopes != NULL)) {
        if (dropped)
            aiol_scope_free(task);
        else
            aiol_task_drop_scope(task);
    }
#if AIOLOOP_USE_COROUTINES
    if ((task->flags & AIOL_TASK_STACKFUL) != 0) {
        aiol_coro *co = (aiol_coro *)arg;
        dispose = co->dispose;
        arg = co->arg;
        aiol_coro_free(loop, co, dropped);
    } else
#endif
    {
        dispose = ((aioloop_frame *)arg)->dispose;
    }
    task->slot.arg = NULL;
    if (dispose != NULL && !dropped)
        dispose(arg);
    (void)loop;
}

/* With the future, when it is freed: what may still run user code. */
AIOLOOP_INTERNAL void aiol_task_strip(aiol_task *task) {
    aioloop *loop = task->future.loop;
    aiol_task_extra *extra = task->extra;
    aiol_map *map = NULL;
    aioloop_context *explicit_one = NULL;
    if ((task->flags & AIOL_TASK_ENDED) == 0)
        aiol_task_end_coroutine(task, true);
    if ((task->slot.flags & AIOL_SLOT_EXPLICIT) != 0)
        explicit_one = task->slot.context.explicit_one;
    else
        map = task->slot.context.map;
    task->slot.context.map = NULL;
    task->slot.flags = AIOL_SLOT_TASK;
    task->extra = NULL;
    if (extra != NULL) {
        aiol_free(&loop->allocator, extra->name, extra->name_size);
        aiol_free(&loop->allocator, extra, sizeof(*extra));
    }
    aiol_map_unref(map);
    aioloop_context_unref(explicit_one);
}

AIOLOOP_INTERNAL void aiol_task_report_pending(aiol_task *task) {
    aioloop_exception_context context;
    const aiol_site *at = aiol_site_at(task->future.loop, task->future.site);
    if ((task->flags & (AIOL_TASK_GENERATOR | AIOL_TASK_STARTED)) == AIOL_TASK_GENERATOR)
        return; /* nobody has asked it for anything */
    memset(&context, 0, sizeof(context));
    context.message = "Task was destroyed but it is pending";
    context.asyncgen = (task->flags & AIOL_TASK_GENERATOR) != 0 ? task->extra->generator : NULL;
    context.future = &task->future;
    context.task = &task->future;
    if (at != NULL) {
        context.source_file = at->file;
        context.source_line = at->line;
    }
    aioloop_call_exception_handler(task->future.loop, &context);
}

/* Debug mode: in C a cancellation is swallowed by not looking at what a call returned. */
static AIOL_NOINLINE void aiol_task_report_swallowed(aiol_task *task, const char *what) {
    char name[64];
    if ((task->flags & AIOL_TASK_SWALLOWS) == 0)
        aiol_warn(task->future.loop, task->future.site,
                  "%s %s a cancellation that it was told (pass on AIOLOOP_ECANCELED, or take it back with aioloop_task_uncancel)",
                  aiol_task_name(task, name, sizeof(name)), what);
    task->flags |= AIOL_TASK_SWALLOWS;
}

/* The loop's last error with its message, as an object; NULL if there is none, or no memory for it. */
static struct aioloop_error *aiol_task_told(aioloop *loop) {
    int code = loop->error.error.code;
    const char *text = aiol_detail(loop, code);
    if (loop->error_of != NULL && loop->error_of->code == code)
        return aiol_error_ref(loop->error_of);
    return text == NULL ? NULL : aiol_error_new(&loop->allocator, code, text, 0);
}

/* What the coroutine returned becomes the future's result. */
static void aiol_task_finish(aiol_task *task, int64_t n, void *pointer) {
    aioloop *loop = task->future.loop;
    aioloop_future *f = &task->future;
    if (task->extra != NULL)
        aioloop_timer_handle_cancel(&task->extra->timer);
    if (n >= 0 && (task->flags & AIOL_TASK_MUST_CANCEL) != 0) {
        if (pointer != NULL && f->end.dispose != NULL)
            f->end.dispose(pointer);
        n = AIOLOOP_ECANCELED;
    } else if (n < 0 && n != (int)n) {
        n = aiol_fail(loop, AIOLOOP_EINVAL, "a coroutine returned a number that is neither a result nor a code");
    } else if (n < 0 && loop->told && loop->error.error.code == (int)n) {
        aiol_error_free(&loop->allocator, f->error);
        f->error = aiol_task_told(loop);
    }
    if (n == AIOLOOP_ECANCELED && (task->flags & AIOL_TASK_EXPIRED) != 0 && task->cancelling <= 1)
        n = AIOLOOP_ETIMEDOUT;
    if (f->error != NULL && (n >= 0 || f->error->code != (int)n)) { /* of a cancel, or of an error that was dealt with */
        aiol_error_free(&loop->allocator, f->error);
        f->error = NULL;
    }
    if (AIOL_UNLIKELY(loop->debug) && n >= 0 && (task->flags & AIOL_TASK_TOLD) != 0 && task->cancelling != 0)
        aiol_task_report_swallowed(task, "has ended without passing on");
    if (n >= 0) {
        aiol_future_finish(f, n, pointer, pointer != NULL ? f->end.dispose : NULL);
    } else {
        f->code = (int)n;
        aiol_future_done(f, n == AIOLOOP_ECANCELED ? AIOL_FUTURE_CANCELLED : AIOL_FUTURE_FAILED);
    }
    if (n == AIOLOOP_EFATAL)
        aiol_loop_halt(loop);
}

/* ---- a step ---- */

/* The message that was set in this step is the task's, and other tasks run before it goes on. */
static AIOL_NOINLINE void aiol_task_keep_error(aiol_task *task) {
    aioloop *loop = task->future.loop;
    aioloop_future *f = &task->future;
    struct aioloop_error *error;
    if ((task->flags & AIOL_TASK_MUST_CANCEL) != 0)
        return; /* there stands the message of the cancel */
    error = aiol_task_told(loop);
    aiol_error_free(&loop->allocator, f->error);
    f->error = error;
}

/* The message of a cancel; NULL: there is none, or an error that was told since is kept in its place. */
static struct aioloop_error *aiol_task_cancel_error(const aiol_task *task) {
    struct aioloop_error *error = task->future.error;
    return error != NULL && error->code == AIOLOOP_ECANCELED ? error : NULL;
}

/* What it waited for, and will not fetch. */
static void aiol_task_forget_wait(aiol_task *task) {
    aioloop_future *awaited = (task->flags & AIOL_TASK_SLEEPS) != 0 ? NULL : task->slot.u.future;
    task->flags &= (uint16_t)~AIOL_TASK_SLEEPS;
    task->slot.u.future = NULL;
    if (awaited != NULL && (awaited->flags & AIOL_FUTURE_STATIC) == 0)
        aiol_future_release(awaited); /* with its result, if nobody else takes it */
}

/* What a coroutine is told instead of what it waited for. */
static void aiol_task_deliver_cancel(aiol_task *task) {
    const aioloop_future *awaited = (task->flags & AIOL_TASK_SLEEPS) != 0 ? NULL : task->slot.u.future;
    if (awaited != NULL && aiol_future_outranks(awaited)) { /* the next wait is told */
        task->flags |= AIOL_TASK_DEFERRED;
        return;
    }
    task->flags &= (uint16_t) ~(AIOL_TASK_MUST_CANCEL | AIOL_TASK_MUST_HEAR | AIOL_TASK_DEFERRED);
    aiol_task_forget_wait(task);
    task->slot.u.future = &aiol_future_was_cancelled;
    aiol_tell_of(task->future.loop, AIOLOOP_ECANCELED, aiol_task_cancel_error(task));
}

/* A step function that does not keep to the macros. */
static AIOL_NOINLINE int64_t aiol_task_broken(aiol_task *task, int64_t n) {
    if (n == AIOLOOP_SUSPENDED)
        return aiol_fail(task->future.loop, AIOLOOP_EMISUSE, "a step function has returned without finishing or waiting");
    task->flags |= AIOL_TASK_BROKEN; /* it is told when the wait is over: until then the task is in some list */
    return AIOLOOP_SUSPENDED;
}

static int64_t aiol_task_resume(aioloop *loop, aiol_task *task, void **pointer) {
#if AIOLOOP_USE_COROUTINES
    if ((task->flags & AIOL_TASK_STACKFUL) != 0) {
        aiol_coro *co = (aiol_coro *)task->slot.arg;
        aiol_coro_enter(loop, co);
        if (!co->ended)
            return AIOLOOP_SUSPENDED;
        *pointer = co->out;
        return co->result;
    }
#endif
    return task->slot.fn.step(loop, (aioloop_frame *)task->slot.arg, pointer);
}

/* Debug mode: it may have taken long since then. */
static AIOL_NOINLINE void aiol_task_slow(aiol_task *task, aioloop_time since) {
    char name[64];
    char what[128];
    snprintf(what, sizeof(what), "a step of %s", aiol_task_name(task, name, sizeof(name)));
    aiol_slow(task->future.loop, task->future.site, since, what);
}

/* Runs the task until it waits or ends; in the latter case the loop's reference goes. */
static void aiol_task_step(aioloop *loop, aiol_task *task) {
    aiol_frame frame = aiol_enter(loop, aiol_slot_place(&task->slot));
    aioloop_context *entered = loop->entered;
    aioloop_time since = AIOL_UNLIKELY(loop->debug) ? aiol_loop_now(loop) : 0;
    bool told = loop->told;
    void *pointer = NULL;
    int64_t n;
    task->slot.state = AIOL_SLOT_READY;
    task->flags = (uint16_t)((task->flags & ~AIOL_TASK_WAITS) | AIOL_TASK_RUNS);
    loop->task = task;
    loop->entered = aiol_thread.run;
    loop->told = false;
    if (AIOL_UNLIKELY((task->flags & AIOL_TASK_MUST_CANCEL) != 0) && (task->flags & AIOL_TASK_STARTED) == 0) {
        n = AIOLOOP_ECANCELED; /* it was cancelled before it began */
    } else if (AIOL_UNLIKELY((task->flags & AIOL_TASK_BROKEN) != 0)) {
        n = aiol_fail(loop, AIOLOOP_EMISUSE, "a step function has returned in the middle of a wait");
    } else {
        if (AIOL_UNLIKELY((task->flags & AIOL_TASK_MUST_CANCEL) != 0))
            aiol_task_deliver_cancel(task);
        else if (AIOL_UNLIKELY(task->future.error != NULL))
            aiol_tell_of(loop, task->future.error->code, task->future.error);
        if ((task->flags & AIOL_TASK_SLEEPS) != 0) {
            task->flags &= (uint16_t)~AIOL_TASK_SLEEPS;
            task->slot.u.future = &aiol_future_slept;
        }
        loop->told = false;
        task->flags |= AIOL_TASK_STARTED;
        n = aiol_task_resume(loop, task, &pointer);
        if (AIOL_UNLIKELY((n == AIOLOOP_SUSPENDED) != ((task->flags & AIOL_TASK_WAITS) != 0)))
            n = aiol_task_broken(task, n);
    }
    loop->task = NULL; /* what is called from here on cannot wait */
    if (AIOL_UNLIKELY(since != 0))
        aiol_task_slow(task, since);
    if (n == AIOLOOP_SUSPENDED) {
        if (AIOL_UNLIKELY(loop->told))
            aiol_task_keep_error(task);
    } else {
        if (AIOL_UNLIKELY(task->slot.u.future != NULL))
            aiol_task_forget_wait(task);
        aiol_task_end_coroutine(task, false);
        aiol_task_finish(task, n, pointer);
    }
    task->flags &= (uint16_t)~AIOL_TASK_RUNS;
    loop->told = told;
    loop->entered = entered;
    aiol_leave(loop, &frame);
    if (n != AIOLOOP_SUSPENDED)
        aiol_future_release(&task->future);
}

AIOLOOP_INTERNAL void aiol_run_task(aioloop *loop, aiol_node *node) {
    aiol_task_step(loop, aiol_task_of_slot((aiol_slot *)(void *)node));
    if (AIOL_UNLIKELY(loop->attention))
        aiol_callback_end(loop);
}

/* ---- waiting ---- */

/* The use of a future that cannot be waited for ends; what stands in its place says why. */
static aioloop_future *aiol_await_refuse(aioloop *loop, aioloop_future *f, int code, const char *text) {
    if (aiol_future_use(f) == 0)
        aiol_future_release(f);
    aiol_fail(loop, code, "%s", text);
    return aiol_future_failed(code);
}

/* What the task is to wait for, with a reference that is the task's; or a static future. */
static aioloop_future *aiol_await_begin(aioloop *loop, aiol_task *task, aioloop_future *f) {
    int err;
    if (f == NULL)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_EINVAL, "a future is needed, not NULL"));
    if (aiol_future_is_static(f))
        return f;
    if (AIOL_UNLIKELY(f->loop != loop))
        return aiol_await_refuse(loop, f, AIOLOOP_EMISUSE, "the future belongs to another loop");
    if (AIOL_UNLIKELY(f == &task->future))
        return aiol_await_refuse(loop, f, AIOLOOP_EMISUSE, "a task cannot wait for itself");
    if (AIOL_UNLIKELY(aiol_thread.run != loop->entered))
        return aiol_await_refuse(loop, f, AIOLOOP_EMISUSE, "a wait inside of aioloop_context_run");
    err = aiol_future_use(f);
    return err < 0 ? aiol_future_failed(err) : f;
}

/* Debug mode: a task that was told a cancellation and waits at the same place again is a loop that goes on
 * regardless. */
static AIOL_NOINLINE void aiol_task_watch(aiol_task *task, const void *place) {
    if (aiol_task_extra_of(task) == NULL)
        return;
    if ((task->flags & AIOL_TASK_TOLD) != 0 && task->extra->waits_at == place && place != NULL)
        aiol_task_report_swallowed(task, "waits on after");
    task->extra->waits_at = place;
}

/* Goes on in the next iteration. */
static void aiol_task_yield(aioloop *loop, aiol_task *task) {
    task->flags |= AIOL_TASK_WAITS;
    task->slot.at.node.run = aiol_run_task;
    aiol_queue_push(&loop->ready, &task->slot.at.node);
}

/* True: the task is to be suspended. False: the outcome is there. */
static bool aiol_task_wait(aioloop *loop, aiol_task *task, aioloop_future *f) {
    f = aiol_await_begin(loop, task, f);
    task->slot.u.future = f;
    if (f->state != AIOL_FUTURE_PENDING) {
        if (AIOL_LIKELY((f->flags & AIOL_FUTURE_YIELDS) == 0))
            return false;
        aiol_task_yield(loop, task);
        return true;
    }
    task->flags |= AIOL_TASK_WAITS;
    task->slot.at.node.run = aiol_run_task;
    aiol_future_push_callback(f, &task->slot);
    if (AIOL_UNLIKELY((task->flags & AIOL_TASK_MUST_CANCEL) != 0)) {
        const struct aioloop_error *error = aiol_task_cancel_error(task);
        if (aioloop_future_cancel(f, error != NULL ? aioloop_error_message(error) : NULL) &&
            (task->slot.state == AIOL_SLOT_WAITING || f->state != AIOL_FUTURE_PENDING)) /* else a circle was broken here */
            task->flags &= (uint16_t)~(AIOL_TASK_MUST_CANCEL | AIOL_TASK_DEFERRED);
    }
    return true;
}

static bool aiol_task_sleep(aioloop *loop, aiol_task *task, aioloop_time delay) {
    int err = 0;
    task->slot.u.future = &aiol_future_slept;
    if (delay == AIOLOOP_NOT_A_TIME)
        err = aiol_fail(loop, AIOLOOP_EINVAL, "not a time");
    else if (AIOL_UNLIKELY(aiol_thread.run != loop->entered))
        err = aiol_fail(loop, AIOLOOP_EMISUSE, "a wait inside of aioloop_context_run");
    if (err == 0 && delay > 0 && (task->flags & AIOL_TASK_MUST_CANCEL) != 0) {
        task->flags |= AIOL_TASK_MUST_HEAR;
    } else if (err == 0 && delay > 0) {
        aioloop_time when = aiol_time_add(aiol_loop_now(loop), delay);
        task->slot.sequence = ++loop->sequence;
        err = aiol_heap_push(&loop->allocator, &loop->timers, when, &task->slot.at.heap);
        if (err == 0) {
            task->slot.u.when = when;
            task->slot.at.node.run = aiol_run_task;
            task->slot.state = AIOL_SLOT_TIMER;
            task->flags |= AIOL_TASK_SLEEPS | AIOL_TASK_WAITS;
            return true;
        }
        aiol_fail(loop, err, NULL);
    }
    if (err < 0) {
        task->slot.u.future = aiol_future_failed(err);
        return false;
    }
    aiol_task_yield(loop, task);
    return true;
}

/* The outcome of the last wait. */
static int64_t aiol_task_take(aioloop *loop, aiol_task *task, void *out) {
    aioloop_future *f = task->slot.u.future;
    int64_t n;
    if (f == NULL)
        return aiol_fail(loop, AIOLOOP_EMISUSE, "there was no wait to have the result of");
    task->slot.u.future = NULL;
    if (AIOL_LIKELY((f->flags & AIOL_FUTURE_STATIC) == 0)) {
        n = aioloop_future_result(f, out);
        if (AIOL_UNLIKELY(n < 0))
            aiol_tell_of(loop, (int)n, f->error);
        aiol_future_release(f);
    } else {
        n = f->code;
        if (n < 0 && loop->error.error.code != (int)n) /* else what failed has said more */
            aiol_fail(loop, (int)n, NULL);
        loop->told |= n < 0;
    }
    if (AIOL_UNLIKELY(n == AIOLOOP_ECANCELED) && task->cancelling != 0) {
        task->flags = (uint16_t)((task->flags | AIOL_TASK_TOLD) & ~AIOL_TASK_SWALLOWS);
    }
    return n;
}

/* ---- cancelling ---- */

/* Its next wait is cancelled. */
AIOLOOP_INTERNAL void aiol_task_must_cancel(aiol_task *task, const char *message) {
    aioloop_future *f = &task->future;
    struct aioloop_error *last = f->error; /* message may be in it */
    task->flags |= AIOL_TASK_MUST_CANCEL;
    f->error = message == NULL ? NULL : aiol_error_new(&f->loop->allocator, AIOLOOP_ECANCELED, message, 0);
    aiol_error_free(&f->loop->allocator, last);
}

/* Cancels the task that f is, if it is one: counts, and goes on to what it waits for. Returns what is to be cancelled
 * in the end and is no task, and at *waiter the task that waits for it; NULL: nothing is. A circle of tasks that wait
 * for each other is broken at one of them. */
AIOLOOP_INTERNAL aioloop_future *aiol_task_cancel(aioloop_future *f, const char *message, aiol_task **waiter) {
    const aioloop_future *mark = f; /* Brent's: each time at twice the distance */
    size_t steps = 0;
    size_t limit = 2;
    for (;;) {
        aiol_task *task = aiol_task_of(f);
        aioloop *loop = f->loop;
        if (task == NULL)
            return f;
        if (task->cancelling != UINT16_MAX)
            task->cancelling++;
        if (task->slot.state == AIOL_SLOT_WAITING) {
            aioloop_future *awaited = task->slot.u.future;
            if (awaited != mark) {
                if (++steps == limit) {
                    mark = awaited;
                    limit *= 2;
                }
                *waiter = task;
                f = awaited;
                continue;
            }
            aiol_future_remove_slot(awaited, &task->slot);
            aiol_queue_push(&loop->ready, &task->slot.at.node);
            task->flags |= AIOL_TASK_MUST_HEAR;
        } else if ((task->flags & AIOL_TASK_SLEEPS) != 0) {
            task->flags |= AIOL_TASK_MUST_HEAR;
        }
        if (task->slot.state == AIOL_SLOT_TIMER) {
            aiol_heap_remove(&loop->timers, &task->slot.at.heap);
            task->slot.state = AIOL_SLOT_READY;
            task->slot.at.node.run = aiol_run_task;
            aiol_queue_push(&loop->ready, &task->slot.at.node);
        }
        aiol_task_must_cancel(task, message);
        return NULL;
    }
}

/* ---- making ---- */

static void aiol_task_expired(aioloop *loop, void *arg) {
    aiol_task *task = (aiol_task *)arg;
    (void)loop;
    task->flags |= AIOL_TASK_EXPIRED;
    aioloop_future_cancel(&task->future, NULL);
}

static void aiol_recipe_dispose(const aioloop_task_recipe *recipe) {
    if (recipe->options.dispose != NULL)
        recipe->options.dispose(recipe->arg);
}

/* The message of why it is refused is stored. */
static int aiol_recipe_check(aioloop *loop, const aioloop_task_recipe *recipe) {
    if (loop->closed)
        return aiol_fail(loop, AIOLOOP_ECLOSED, NULL);
    if (AIOL_UNLIKELY(loop->debug) && aiol_wrong_thread(loop))
        return AIOLOOP_EMISUSE;
    if ((recipe->coroutine == NULL) == (recipe->step == NULL))
        return aiol_fail(loop, AIOLOOP_EINVAL, "a task needs a function");
    if (recipe->options.copy_size > UINT32_MAX / 2 || (recipe->options.copy_size != 0 && recipe->arg == NULL))
        return aiol_fail(loop, AIOLOOP_EINVAL, "copy_size needs something to copy");
    if (recipe->options.timeout == AIOLOOP_NOT_A_TIME)
        return aiol_fail(loop, AIOLOOP_EINVAL, "not a time");
    if (recipe->step != NULL && (recipe->arg == NULL || (recipe->options.copy_size != 0 && recipe->options.copy_size < sizeof(aioloop_frame))))
        return aiol_fail(loop, AIOLOOP_EINVAL, "a coroutine without a stack needs a frame");
#if AIOLOOP_USE_COROUTINES
    if (recipe->coroutine != NULL && recipe->options.stack_size != 0 &&
        recipe->options.stack_size < AIOL_STACK_LEAST + sizeof(aiol_coro))
        return aiol_fail(loop, AIOLOOP_EINVAL, "a stack of %zu bytes is too small", recipe->options.stack_size);
    if (recipe->coroutine != NULL && recipe->options.stack_size > SIZE_MAX / 2)
        return aiol_fail(loop, AIOLOOP_EINVAL, "no stack can be that large");
    if (recipe->coroutine != NULL && recipe->options.stack != NULL && recipe->options.stack_size == 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "a stack needs its stack_size");
#else
    if (recipe->coroutine != NULL)
        return aiol_fail(loop, AIOLOOP_ENOTAVAILABLE, "built with AIOLOOP_USE_COROUTINES 0");
#endif
    return 0;
}

/* What only some tasks have. */
static int aiol_task_adorn(aiol_task *task, const aioloop_task_options *options) {
    int err;
    if (options->name != NULL && (err = aioloop_task_set_name(&task->future, options->name)) < 0)
        return err;
    if (options->timeout == 0)
        return 0;
    if (aiol_task_extra_of(task) == NULL)
        return AIOLOOP_ENOMEM;
    task->extra->timer = (aioloop_call_later)(task->future.loop, options->timeout, aiol_task_expired, task);
    return aioloop_handle_is_null(&task->extra->timer.handle) ? AIOLOOP_ENOMEM : 0;
}

/* A pending task that is in no list yet, with one reference; NULL when there is no memory. */
static aiol_task *aiol_task_make(aioloop *loop, const aioloop_task_recipe *recipe) {
    const aioloop_task_options *options = &recipe->options;
    size_t size = options->copy_size == 0 ? sizeof(aiol_task) : AIOL_TASK_ROOM + options->copy_size;
    aiol_task *task = (aiol_task *)aiol_alloc(&loop->allocator, size);
    void *arg = recipe->arg;
#if AIOLOOP_USE_COROUTINES
    aiol_coro *co = NULL;
    if (task != NULL && recipe->coroutine != NULL) {
        co = aiol_coro_new(loop, options->stack, options->stack_size);
        if (co == NULL) {
            aiol_free(&loop->allocator, task, size);
            task = NULL;
        }
    }
#endif
    if (task == NULL)
        return NULL;
    memset(&task->slot, 0, sizeof(*task) - offsetof(aiol_task, slot));
    aiol_future_init(loop, &task->future);
    task->future.flags = AIOL_FUTURE_UNCLAIMED | AIOL_FUTURE_TASK | AIOL_FUTURE_OWN;
    task->future.end.dispose = options->dispose_result;
    task->copy_size = (uint32_t)options->copy_size;
    if (options->copy_size != 0) {
        memcpy((char *)task + AIOL_TASK_ROOM, arg, options->copy_size);
        arg = (char *)task + AIOL_TASK_ROOM;
    }
    task->slot.flags = AIOL_SLOT_TASK | AIOL_SLOT_HOLDS;
    task->slot.site = ++loop->task_number;
    task->slot.at.node.run = aiol_run_task;
    aiol_slot_capture(&task->slot, options->context);
#if AIOLOOP_USE_COROUTINES
    if (co != NULL) {
        co->fn = recipe->coroutine;
        co->arg = arg;
        co->out = NULL;
        co->ended = false;
        co->dispose = options->dispose;
        task->flags = AIOL_TASK_STACKFUL;
        task->slot.arg = co;
        return task;
    }
#endif
    task->slot.fn.step = recipe->step;
    task->slot.arg = arg;
    ((aioloop_frame *)arg)->dispose = options->dispose;
    return task;
}

/* An eager one, inside the call. What its creator has raised before stays its creator's. */
static AIOL_NOINLINE void aiol_task_begin_now(aioloop *loop, aiol_task *task) {
    aiol_task *creator = loop->told ? loop->task : NULL;
    int code = loop->error.error.code;
    if (creator != NULL)
        aiol_task_keep_error(creator);
    aiol_task_step(loop, task);
    if (creator != NULL && creator->future.error != NULL && creator->future.error->code == code)
        aiol_tell_of(loop, code, creator->future.error);
}

AIOLOOP_API aioloop_task *(aioloop_task_new)(aioloop *loop, const aioloop_task_recipe *recipe) {
    aiol_task *task;
    int err;
    if (recipe == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    err = loop == NULL ? AIOLOOP_EINVAL : aiol_recipe_check(loop, recipe);
    if (err < 0) {
        aiol_recipe_dispose(recipe);
        return aiol_future_failed(err);
    }
    task = aiol_task_make(loop, recipe);
    if (task == NULL) {
        aiol_recipe_dispose(recipe);
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    }
    err = recipe->options.name != NULL || recipe->options.timeout != 0 ? aiol_task_adorn(task, &recipe->options) : 0;
    if (err < 0) {
        aiol_task_end_coroutine(task, false);
        aiol_future_destroy(&task->future);
        return aiol_future_failed(aiol_fail(loop, err, NULL));
    }
    aiol_future_hold(&task->future); /* the loop's, until it is done */
    if (recipe->options.eager && aiol_thread.running == loop)
        aiol_task_begin_now(loop, task);
    else
        aiol_queue_push(&loop->ready, &task->slot.at.node);
    return &task->future;
}

static aioloop_task *aiol_create_task(aioloop *loop, const aioloop_task_recipe *recipe) {
    aioloop_task *task;
    if (loop == NULL || AIOL_LIKELY(loop->factory == NULL))
        return (aioloop_task_new)(loop, recipe);
    task = loop->factory(loop, recipe, loop->factory_arg);
    return task != NULL ? task : aiol_future_failed(aiol_fail(loop, AIOLOOP_EMISUSE, "the task factory made no task"));
}

static const aioloop_task_options aiol_task_default_options = AIOLOOP_ZERO;

/* What a task is made of, as the public calls are given it. */
AIOL_INLINE aioloop_task_recipe aiol_recipe(aioloop_coroutine coroutine, aioloop_step step, void *arg,
                                            const aioloop_task_options *options) {
    aioloop_task_recipe recipe;
    recipe.coroutine = coroutine;
    recipe.step = step;
    recipe.arg = arg;
    recipe.options = options != NULL ? *options : aiol_task_default_options;
    return recipe;
}

AIOLOOP_API aioloop_task *(aioloop_create_task)(aioloop *loop, aioloop_coroutine fn, void *arg,
                                                const aioloop_task_options *options) {
    aioloop_task_recipe recipe = aiol_recipe(fn, NULL, arg, options);
    return aiol_create_task(loop, &recipe);
}

AIOLOOP_API aioloop_task *(aioloop_create_task_frame)(aioloop *loop, aioloop_step fn, aioloop_frame *frame,
                                                      const aioloop_task_options *options) {
    aioloop_task_recipe recipe = aiol_recipe(NULL, fn, frame, options);
    return aiol_create_task(loop, &recipe);
}

AIOLOOP_API void aioloop_set_task_factory(aioloop *loop, aioloop_task_factory factory, void *arg) {
    if (loop == NULL)
        return;
    loop->factory = factory;
    loop->factory_arg = arg;
}

AIOLOOP_API aioloop_task_factory aioloop_get_task_factory(aioloop *loop, void **arg) {
    if (loop == NULL)
        return NULL;
    if (arg != NULL)
        *arg = loop->factory_arg;
    return loop->factory;
}

/* ---- asking ---- */

AIOLOOP_API aioloop_task *aioloop_current_task(aioloop *loop) {
    if (loop == NULL)
        loop = aiol_thread.running;
    return loop == NULL || loop->task == NULL ? NULL : &loop->task->future;
}

AIOLOOP_API size_t aioloop_all_tasks(aioloop *loop, aioloop_task **tasks, size_t capacity) {
    const aiol_link *link;
    size_t count = 0;
    if (loop == NULL)
        return 0;
    if (tasks == NULL)
        capacity = 0;
    for (link = loop->futures.next; link != &loop->futures; link = link->next) {
        aioloop_future *f = AIOL_CONTAINER(link, aioloop_future, link);
        if (f->state != AIOL_FUTURE_PENDING || (f->flags & AIOL_FUTURE_TASK) == 0 ||
            (((const aiol_task *)(const void *)f)->flags & AIOL_TASK_GENERATOR) != 0)
            continue;
        if (count < capacity) {
            f->flags &= (uint16_t) ~(AIOL_FUTURE_UNCLAIMED | AIOL_FUTURE_USED); /* whoever created it can still use it */
            f->refs++;
            tasks[count] = f;
        }
        count++;
    }
    return count;
}

AIOLOOP_API bool aioloop_is_task(const aioloop_future *future) {
    return aiol_task_of(future) != NULL;
}

/* Where the values are that the task runs with; NULL for what is no task. */
AIOLOOP_INTERNAL aiol_map **aiol_task_place(aioloop_future *f) {
    aiol_task *task = aiol_task_of(f);
    return task == NULL ? NULL : aiol_slot_place(&task->slot);
}

/* The name; one that is made up is written to buffer. */
AIOLOOP_INTERNAL const char *aiol_task_name(aiol_task *task, char *buffer, size_t size) {
    if (task->extra != NULL && task->extra->name != NULL)
        return task->extra->name;
    snprintf(buffer, size, "Task-%lu", (unsigned long)task->slot.site);
    return buffer;
}

AIOLOOP_API const char *aioloop_task_get_name(aioloop_task *task) {
    aiol_task *t = aiol_task_of(task);
    char text[32];
    if (t == NULL)
        return NULL;
    if (t->extra == NULL || t->extra->name == NULL) {
        if (aioloop_task_set_name(task, aiol_task_name(t, text, sizeof(text))) < 0)
            return "Task";
    }
    return t->extra->name;
}

AIOLOOP_API int aioloop_task_set_name(aioloop_task *task, const char *name) {
    aiol_task *t = aiol_task_of(task);
    const aioloop_allocator *a;
    size_t size;
    char *copy;
    if (t == NULL || name == NULL)
        return AIOLOOP_EINVAL;
    a = &t->future.loop->allocator;
    size = strlen(name) + 1;
    copy = (char *)aiol_alloc(a, size);
    if (copy == NULL || aiol_task_extra_of(t) == NULL) {
        aiol_free(a, copy, size);
        return aiol_fail(t->future.loop, AIOLOOP_ENOMEM, NULL);
    }
    memcpy(copy, name, size);
    aiol_free(a, t->extra->name, t->extra->name_size);
    t->extra->name = copy;
    t->extra->name_size = size;
    return 0;
}

/* From its first use on the task's values belong to a context object, which the task runs in itself. */
AIOLOOP_API aioloop_context *aioloop_task_get_context(aioloop_task *task) {
    aiol_task *t = aiol_task_of(task);
    aioloop_context *context;
    bool current;
    if (t == NULL)
        return NULL;
    if ((t->slot.flags & AIOL_SLOT_EXPLICIT) != 0) {
        aioloop_context_ref(t->slot.context.explicit_one);
        return t->slot.context.explicit_one;
    }
    current = aiol_thread.place == &t->slot.context.map;
    if ((t->flags & AIOL_TASK_RUNS) != 0 && !current) {
        aiol_fail(t->future.loop, AIOLOOP_EMISUSE, "the context of a task that runs, from code that it calls in another context");
        return NULL;
    }
    context = aioloop_copy_context();
    if (context == NULL)
        return NULL;
    aiol_map_unref(context->map);
    context->map = t->slot.context.map;
    t->slot.context.explicit_one = context;
    t->slot.flags |= AIOL_SLOT_EXPLICIT;
    if (current)
        aiol_thread.place = &context->map;
    aioloop_context_ref(context);
    return context;
}

AIOLOOP_API int aioloop_task_cancelling(const aioloop_task *task) {
    const aiol_task *t = aiol_task_of(task);
    return t == NULL ? 0 : t->cancelling;
}

AIOLOOP_API int aioloop_task_uncancel(aioloop_task *task) {
    aiol_task *t = aiol_task_of(task);
    if (t == NULL)
        return 0;
    if (t->cancelling != 0 && --t->cancelling == 0) {
        if ((t->flags & AIOL_TASK_MUST_HEAR) == 0)
            t->flags &= (uint16_t)~(AIOL_TASK_MUST_CANCEL | AIOL_TASK_DEFERRED);
    }
    t->flags &= (uint16_t)~AIOL_TASK_TOLD;
    return t->cancelling;
}

/* ---- the calls of coroutines ---- */

/* Outside of any task, or where it cannot wait. */
static AIOL_NOINLINE int64_t aiol_await_nowhere(aioloop *loop, aioloop_future *future, const char *text) {
    if (loop == NULL && future != NULL)
        loop = future->loop;
    if (future != NULL && !aiol_future_is_static(future) && aiol_future_use(future) == 0)
        aiol_future_release(future);
    return aiol_fail(loop, AIOLOOP_EMISUSE, "%s", text);
}

/* Whether it may wait where it is: on its own stack, if it has one. */
static bool aiol_task_may_block(const aioloop *loop, const aiol_task *task) {
#if AIOLOOP_USE_COROUTINES
    return (task->flags & AIOL_TASK_STACKFUL) != 0 && loop->coro == (const aiol_coro *)task->slot.arg;
#else
    (void)loop;
    (void)task;
    return false;
#endif
}

/* Suspends a task with a stack. */
AIOL_INLINE void aiol_task_block(aiol_task *task) {
#if AIOLOOP_USE_COROUTINES
    aiol_coro_leave((aiol_coro *)task->slot.arg);
#else
    (void)task;
#endif
}

AIOLOOP_API AIOL_NOINLINE int64_t aioloop_await(aioloop_future *future, void *out) {
    aioloop *loop = aiol_thread.running;
    aiol_task *task = loop == NULL ? NULL : loop->task;
    if (AIOL_UNLIKELY(task == NULL))
        return aiol_await_nowhere(loop, future, "await outside of a task");
    if (AIOL_UNLIKELY(!aiol_task_may_block(loop, task)))
        return aiol_await_nowhere(loop, future, "a coroutine without a stack waits by AIOLOOP_AWAIT");
    if (AIOL_UNLIKELY((task->flags & AIOL_TASK_WAITS) != 0))
        return aiol_await_nowhere(loop, future, "await in a task that waits already");
    if (AIOL_UNLIKELY(loop->debug))
        aiol_task_watch(task, AIOL_RETURN_ADDRESS);
    if (aiol_task_wait(loop, task, future))
        aiol_task_block(task);
    return aiol_task_take(loop, task, out);
}

/* The task that the macros are used in, or NULL. One that waits already can do nothing but return. */
AIOL_INLINE aiol_task *aiol_frame_task(aioloop *loop) {
    aiol_task *task = loop == NULL || aiol_thread.running != loop ? NULL : loop->task;
    return AIOL_LIKELY(task != NULL && (task->flags & AIOL_TASK_WAITS) == 0) ? task : NULL;
}

/* True: the step function has to return. In a task with a stack the wait is over when this returns. */
static bool aiol_frame_suspend(aioloop *loop, aiol_task *task, bool waits) {
    if (!waits || !aiol_task_may_block(loop, task))
        return waits;
    aiol_task_block(task);
    return false;
}

AIOLOOP_API AIOL_NOINLINE bool aioloop_frame_await(aioloop *loop, aioloop_future *future) {
    aiol_task *task = aiol_frame_task(loop);
    if (AIOL_UNLIKELY(task == NULL)) {
        aiol_await_nowhere(loop, future, "await outside of a task, or in one that waits already");
        return false;
    }
    if (AIOL_UNLIKELY(loop->debug))
        aiol_task_watch(task, AIOL_RETURN_ADDRESS);
    return aiol_frame_suspend(loop, task, aiol_task_wait(loop, task, future));
}

AIOLOOP_API AIOL_NOINLINE bool aioloop_frame_sleep(aioloop *loop, aioloop_time delay) {
    aiol_task *task = aiol_frame_task(loop);
    if (AIOL_UNLIKELY(task == NULL)) {
        aiol_await_nowhere(loop, NULL, "sleep outside of a task, or in one that waits already");
        return false;
    }
    if (AIOL_UNLIKELY(loop->debug))
        aiol_task_watch(task, AIOL_RETURN_ADDRESS);
    return aiol_frame_suspend(loop, task, aiol_task_sleep(loop, task, delay));
}

AIOLOOP_API AIOL_NOINLINE int64_t aioloop_frame_result(aioloop *loop, void *out) {
    aiol_task *task = aiol_frame_task(loop);
    if (task == NULL)
        return AIOLOOP_EMISUSE;
    return aiol_task_take(loop, task, out);
}

AIOLOOP_API int64_t aioloop_frame_call(aioloop *loop, aioloop_step fn, aioloop_frame *frame, void *out) {
    void *pointer = NULL;
    int64_t n = fn(loop, frame, &pointer);
    if (n >= 0)
        aiol_store_pointer(out, pointer);
    return n;
}

AIOLOOP_API int64_t aioloop_frame_lost(aioloop *loop) {
    return aiol_fail(loop, AIOLOOP_EMISUSE, "a frame that was not zeroed before its coroutine began, or was changed meanwhile");
}

#endif
