/*
 * generator.c - asynchronous generators, and what is closed with the loop.          (asyncio: base_events.py; PEP 525)
 *
 * The body is a task that nobody sees. At a yield its slot is in no list at all; a request puts it into the ready
 * queue, and the next yield, or the end, answers. So handing out a value needs memory for the future of the request
 * alone.
 *
 * The answered future is kept until the next request: if nobody has read it by then, its value is given again.
 */
#ifndef AIOL_CORE_GENERATOR_C
#define AIOL_CORE_GENERATOR_C

#include "api/generator.h"
#include "core/scope.c"

/* ---- closers ---- */

/* A shutdown under way. Its node calls the closers, in the next iteration. */
typedef struct aiol_shutdown {
    aiol_node node;
    aiol_resource resource;
    aioloop_future *future;
    aiol_link waiting; /* closers to be called */
    aiol_link closing; /* closers whose future is not done */
    bool cancelled;
} aiol_shutdown;

typedef struct aiol_closer {
    aiol_link link; /* among the loop's, or a shutdown's */
    aiol_shutdown *shutdown; /* that has it; NULL: none */
    aioloop_close_function close;
    void *arg;
    void (*through)(struct aiol_closer *closer); /* the shutdown is through with it */
    aiol_slot *slot;        /* in reserve, for the callback of: */
    aioloop_future *future; /* that of its closing */
    bool called;
} aiol_closer;

/* Makes ready what closing needs. 0 or AIOLOOP_ENOMEM. */
static int aiol_closer_init(aioloop *loop, aiol_closer *closer, aioloop_close_function close, void *arg,
                            void (*through)(aiol_closer *)) {
    closer->close = close;
    closer->arg = arg;
    closer->through = through;
    closer->slot = aiol_slot_new(loop);
    return closer->slot == NULL ? AIOLOOP_ENOMEM : 0;
}

static void aiol_closer_end(aioloop *loop, aiol_closer *closer) {
    aiol_slot *slot = closer->slot;
    aiol_list_remove(&closer->link);
    closer->slot = NULL;
    if (slot != NULL)
        aiol_slot_free(loop, slot);
}

static void aiol_closer_register(aioloop *loop, aiol_closer *closer, const char *what) {
    aiol_list_append(&loop->closers, &closer->link);
    if (loop->asyncgens_shutdown)
        aiol_warn(loop, 0, "%s %p was registered after aioloop_shutdown_asyncgens", what, closer->arg);
}

static void aiol_shutdown_destroy(aiol_resource *resource) {
    aiol_shutdown *s = AIOL_CONTAINER(resource, aiol_shutdown, resource);
    aiol_resource_remove(resource);
    aiol_free(&resource->loop->allocator, s, sizeof(*s));
}

static const aiol_resource_calls aiol_shutdown_resource = {"shutdown", aiol_combine_closed, aiol_shutdown_destroy,
                                                           aiol_combine_is_open};

static void aiol_shutdown_check_over(aiol_shutdown *s) {
    aioloop_future *f = s->future;
    if (!aiol_list_empty(&s->waiting) || !aiol_list_empty(&s->closing))
        return;
    if (s->cancelled)
        aiol_future_end_cancelled(f, NULL);
    else
        aiol_future_finish(f, 0, NULL, NULL);
    aiol_shutdown_destroy(&s->resource);
    aiol_future_release(f);
}

/* One closing has ended, with code; f may be NULL. */
static void aiol_shutdown_ended(aiol_closer *closer, aioloop_future *f, int code, const char *detail) {
    aiol_shutdown *s = closer->shutdown;
    aioloop *loop = s->resource.loop;
    if (code < 0 && code != AIOLOOP_ECANCELED) {
        aioloop_exception_context context;
        memset(&context, 0, sizeof(context));
        context.message = "An error occurred while closing an asynchronous generator";
        context.detail = detail;
        context.future = f;
        context.asyncgen = closer->arg;
        aiol_report(loop, code, 0, &context);
    }
    aiol_list_remove(&closer->link);
    closer->shutdown = NULL;
    closer->future = NULL;
    closer->through(closer);
}

static void aiol_shutdown_done(aioloop_future *f, void *arg) {
    aiol_closer *closer = (aiol_closer *)arg;
    aiol_shutdown *s = closer->shutdown;
    f->flags |= AIOL_FUTURE_LOOKED_AT;
    aiol_shutdown_ended(closer, f, f->state == AIOL_FUTURE_FINISHED ? 0 : f->code,
                        f->error == NULL ? NULL : aioloop_error_message(f->error));
    aiol_shutdown_check_over(s);
}

/* Begins one closing. */
static void aiol_shutdown_close(aiol_shutdown *s, aiol_closer *closer) {
    aioloop *loop = s->resource.loop;
    aioloop_future *f;
    aiol_slot *slot;
    int err;
    aiol_list_remove(&closer->link);
    aiol_list_append(&s->closing, &closer->link);
    closer->called = true;
    f = closer->close(loop, closer->arg);
    err = f == NULL ? 0 : aiol_future_use(f);
    if (err == 0 && f != NULL && f->loop != loop) {
        aiol_future_release(f);
        err = aiol_fail(loop, AIOLOOP_EMISUSE, "the future of a closer belongs to another loop");
    }
    if (f == NULL || err < 0) {
        aiol_shutdown_ended(closer, NULL, err, NULL);
        return;
    }
    slot = closer->slot;
    closer->slot = NULL;
    closer->future = f;
    slot->flags |= AIOL_SLOT_HOLDS;
    aiol_slot_capture(slot, NULL);
    aiol_future_attach(f, slot, aiol_shutdown_done, closer);
    if (s->cancelled)
        aioloop_future_cancel(f, NULL);
}

static void aiol_shutdown_run(aioloop *loop, aiol_node *node) {
    aiol_shutdown *s = AIOL_CONTAINER(node, aiol_shutdown, node);
    aiol_frame frame = aiol_enter(loop, &s->resource.context);
    int raised;
    while (!aiol_list_empty(&s->waiting)) {
        aiol_closer *closer = AIOL_CONTAINER(s->waiting.next, aiol_closer, link);
        if (!s->cancelled) {
            aiol_shutdown_close(s, closer);
            continue;
        }
        aiol_list_remove(&closer->link); /* as it was */
        aiol_list_append(&loop->closers, &closer->link);
        closer->shutdown = NULL;
    }
    raised = loop->raised;
    loop->raised = 0;
    if (raised != 0) {
        aioloop_exception_context context;
        memset(&context, 0, sizeof(context));
        context.message = "Error in a closer";
        aiol_report(loop, raised, 0, &context);
    }
    aiol_callback_end(loop);
    aiol_leave(loop, &frame);
    aiol_shutdown_check_over(s);
}

static bool aiol_shutdown_cancel(aioloop_future *f, void *owner) {
    aiol_shutdown *s = (aiol_shutdown *)owner;
    aiol_link *link;
    (void)f;
    s->cancelled = true;
    for (link = s->closing.next; link != &s->closing; link = link->next) /* cancelling calls nobody */
        if (AIOL_CONTAINER(link, aiol_closer, link)->future != NULL)
            aioloop_future_cancel(AIOL_CONTAINER(link, aiol_closer, link)->future, NULL);
    return false;
}

AIOLOOP_API aioloop_future *(aioloop_shutdown_asyncgens)(aioloop *loop) {
    aiol_shutdown *s;
    aiol_link *link;
    int err = loop == NULL ? AIOLOOP_EINVAL : aiol_check(loop);
    if (err < 0)
        return aiol_future_failed(err);
    s = (aiol_shutdown *)aiol_alloc_zero(&loop->allocator, sizeof(*s));
    if (s != NULL)
        s->future = aiol_future_new(loop, aiol_shutdown_cancel, s);
    if (s == NULL || s->future == NULL) {
        aiol_free(&loop->allocator, s, sizeof(*s));
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    }
    loop->asyncgens_shutdown = true;
    aiol_resource_add(loop, &s->resource, &aiol_shutdown_resource);
    aiol_list_init(&s->waiting);
    aiol_list_init(&s->closing);
    aiol_list_move(&s->waiting, &loop->closers);
    for (link = s->waiting.next; link != &s->waiting; link = link->next)
        AIOL_CONTAINER(link, aiol_closer, link)->shutdown = s;
    if (aiol_list_empty(&s->waiting)) {
        aioloop_future *f = s->future;
        aiol_shutdown_check_over(s);
        return f;
    }
    s->resource.context = aiol_map_ref(aiol_thread.map);
    s->node.run = aiol_shutdown_run;
    aiol_queue_push(&loop->ready, &s->node);
    return s->future;
}

/* ---- closers of the program's own ---- */

struct aioloop_closer {
    aiol_resource resource;
    aiol_closer closer;
    bool unregistered; /* goes when the shutdown is through with it */
};

static void aiol_own_closer_destroy(aiol_resource *resource) {
    aioloop_closer *c = AIOL_CONTAINER(resource, aioloop_closer, resource);
    aiol_resource_remove(resource);
    aiol_free(&resource->loop->allocator, c, sizeof(*c));
}

static const aiol_resource_calls aiol_own_closer_resource = {"closer", aiol_combine_closed, aiol_own_closer_destroy,
                                                             aiol_combine_is_open};

static void aiol_own_closer_through(aiol_closer *closer) {
    aioloop_closer *c = AIOL_CONTAINER(closer, aioloop_closer, closer);
    if (!c->unregistered)
        return;
    aiol_closer_end(c->resource.loop, closer);
    aiol_own_closer_destroy(&c->resource);
}

AIOLOOP_API aioloop_closer *(aioloop_register_closer)(aioloop *loop, aioloop_close_function close, void *arg) {
    aioloop_closer *c;
    int err = loop == NULL ? AIOLOOP_EINVAL : aiol_check(loop);
    if (err == 0 && close == NULL)
        err = aiol_fail(loop, AIOLOOP_EINVAL, "a closer needs a function");
    if (err < 0)
        return NULL;
    c = (aioloop_closer *)aiol_alloc_zero(&loop->allocator, sizeof(*c));
    if (c == NULL || aiol_closer_init(loop, &c->closer, close, arg, aiol_own_closer_through) < 0) {
        aiol_free(&loop->allocator, c, sizeof(*c));
        aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
        return NULL;
    }
    aiol_resource_add(loop, &c->resource, &aiol_own_closer_resource);
    aiol_closer_register(loop, &c->closer, "the closer of");
    return c;
}

AIOLOOP_API void aioloop_unregister_closer(aioloop_closer *closer) {
    if (closer == NULL || closer->resource.loop->freeing)
        return; /* it goes with the loop */
    closer->unregistered = true;
    if (closer->closer.shutdown == NULL || !closer->closer.called)
        aiol_own_closer_through(&closer->closer);
}

/* ---- generators ---- */

enum {
    AIOL_GENERATOR_IDLE,  /* has not begun, or is at a yield */
    AIOL_GENERATOR_ASKED, /* a request is under way */
    AIOL_GENERATOR_OVER   /* has ended, or was given up */
};

struct aioloop_generator {
    aiol_resource resource;  /* references: the program's, one of a request, of the ready queue, of a shutdown */
    aiol_closer closer;      /* registered from the first step on */
    aiol_task *task;         /* with a reference; NULL when it has ended */
    aioloop_future *waiter;  /* of the request under way; NULL: nobody waits */
    aioloop_future *last;    /* that had the last value */
    aioloop_future *closing; /* in reserve; with close_behind: given out already */
    int64_t sent;            /* what yield returns */
    uint8_t state;
    bool closes;       /* the request is to close */
    bool cancelled;    /* and was cancelled when the body had heard of it */
    bool queued;       /* the body's slot is in the ready queue */
    bool close_behind; /* when the request is answered, it is closed */
};

static void aiol_run_generator(aioloop *loop, aiol_node *node);

static bool aiol_generator_began(const aioloop_generator *g) {
    return g->task != NULL && (g->task->flags & AIOL_TASK_STARTED) != 0;
}

/* Lets go of the body. What is suspended for good stays with the loop, which reports it in the end. */
static void aiol_generator_detach(aioloop_generator *g) {
    aiol_task *task = g->task;
    if (task == NULL)
        return;
    g->task = NULL;
    if (task->extra != NULL && !g->queued)
        task->extra->generator = NULL; /* else the queue has a reference, and comes back to it */
    aiol_future_release(&task->future);
}

/* Ends the body without having run it. What its argument is disposed of by may let go of the generator. */
static void aiol_generator_never_begin(aioloop_generator *g) {
    aiol_task *task = g->task;
    g->state = AIOL_GENERATOR_OVER;
    aiol_future_hold(&task->future);
    aiol_generator_detach(g);
    aiol_task_end_coroutine(task, false);
    aiol_future_release(&task->future);
}

static void aiol_generator_destroy(aiol_resource *resource) {
    aioloop_generator *g = AIOL_CONTAINER(resource, aioloop_generator, resource);
    aiol_resource_remove(resource);
    aiol_free(&resource->loop->allocator, g, sizeof(*g));
}

static const aiol_resource_calls aiol_generator_resource = {"generator", aiol_combine_closed, aiol_generator_destroy,
                                                            aiol_combine_is_open};

static void aiol_generator_end(aioloop_generator *g) {
    aioloop_future *last = g->last;
    aioloop_future *closing = g->closing;
    aiol_generator_detach(g);
    aiol_closer_end(g->resource.loop, &g->closer);
    aiol_generator_destroy(&g->resource);
    if (closing != NULL) { /* nobody has it: neither reference was given away */
        closing->end.cancel = NULL;
        aiol_future_release(closing);
        aioloop_future_unref(closing);
    }
    if (last != NULL)
        aiol_future_release(last); /* with the value, if nobody has taken it */
}

/* Has the body go on: sent is what yield returns. f (may be NULL) is told the outcome. */
static void aiol_generator_ask(aioloop_generator *g, aioloop_future *f, bool closes, int64_t sent) {
    aioloop *loop = g->resource.loop;
    aioloop_future *last = g->last;
    g->last = NULL;
    g->waiter = f;
    g->closes = closes;
    g->cancelled = false;
    g->sent = sent;
    g->state = AIOL_GENERATOR_ASKED;
    g->resource.refs++;
    if (!g->queued) {
        g->queued = true;
        g->resource.refs++;
        aiol_future_hold(&g->task->future);
        g->task->slot.at.node.run = aiol_run_generator;
        aiol_queue_push(&loop->ready, &g->task->slot.at.node);
    }
    if (last != NULL)
        aiol_future_release(last);
}

static bool aiol_generator_cancel(aioloop_future *f, void *owner) {
    aioloop_generator *g = (aioloop_generator *)owner;
    if (f != g->waiter) { /* the closing that was to follow */
        g->close_behind = false;
        g->closing = NULL;
        aiol_future_release(f);
        return true;
    }
    if (g->queued) { /* the body has not heard of it */
        g->waiter = NULL;
        g->state = AIOL_GENERATOR_IDLE;
        g->resource.refs--; /* the queue has another */
        aiol_future_release(f);
        return true;
    }
    g->cancelled = true;
    aioloop_future_cancel(&g->task->future, NULL);
    return false;
}

/* The future for a closing; NULL when there is neither the one in reserve nor memory. */
static aioloop_future *aiol_generator_take_closing(aioloop_generator *g) {
    aioloop_future *f = g->close_behind ? NULL : g->closing;
    if (f == NULL)
        return aiol_future_new(g->resource.loop, aiol_generator_cancel, g);
    g->closing = NULL;
    return f;
}

/* The last reference went. */
static void aiol_generator_unneeded(aioloop_generator *g) {
    if (g->state == AIOL_GENERATOR_IDLE && aiol_generator_began(g)) {
        aioloop_future *f;
        if (g->resource.loop->closed)
            return; /* it goes with the loop */
        f = aiol_generator_take_closing(g);
        aiol_generator_ask(g, f, true, AIOLOOP_EGENERATOREXIT);
        aioloop_future_unref(f); /* an error is reported, since nobody looks at it */
        return;
    }
    if (g->state == AIOL_GENERATOR_IDLE)
        aiol_generator_never_begin(g);
    aiol_generator_end(g);
}

static void aiol_generator_release(aioloop_generator *g) {
    if (--g->resource.refs == 0)
        aiol_generator_unneeded(g);
}

/* The body's first step, or the next after a yield. */
static void aiol_run_generator(aioloop *loop, aiol_node *node) {
    aiol_task *task = aiol_task_of_slot((aiol_slot *)(void *)node);
    aioloop_generator *g = task->extra->generator;
    g->queued = false;
    if (g->task == NULL)
        task->extra->generator = NULL;
    if (g->state == AIOL_GENERATOR_ASKED) { /* else the request was cancelled */
        if (aiol_generator_began(g)) {
            task->slot.u.future = &aiol_future_slept;
        } else {
            aiol_future_hold(&task->future); /* the loop's, until it is done */
            aiol_closer_register(loop, &g->closer, "the asynchronous generator");
        }
        aiol_run_task(loop, node);
    }
    aiol_generator_release(g);
    aiol_future_release(&task->future);
}

/* ---- answers ---- */

static void aiol_generator_nothing_to_dispose(void *pointer) {
    (void)pointer;
}

/* The request ends with an error; takes error (may be NULL) over. */
static void aiol_generator_fail(aioloop_future *f, int code, struct aioloop_error *error) {
    aiol_future_fail_with(f, code, error);
    aiol_future_release(f);
}

/* Not in a list of what is to be closed any more, unless a shutdown is at it. */
static void aiol_generator_unregister(aioloop_generator *g) {
    if (g->closer.shutdown == NULL || !g->closer.called)
        aiol_list_remove(&g->closer.link);
}

/* The body hands out a value. */
static void aiol_generator_give(aioloop_generator *g, int64_t number, void *pointer) {
    aioloop *loop = g->resource.loop;
    aiol_task *task = g->task;
    aioloop_future *f = g->waiter;
    void (*dispose)(void *) = pointer != NULL ? task->future.end.dispose : NULL;
    if (dispose == NULL)
        dispose = aiol_generator_nothing_to_dispose; /* with one, the value is in one place only, whoever follows the future */
    g->waiter = NULL;
    g->state = AIOL_GENERATOR_IDLE;
    if (g->cancelled && (task->flags & AIOL_TASK_MUST_CANCEL) != 0) { /* by the body itself, which is not to hear of it */
        task->flags &= (uint16_t)~(AIOL_TASK_MUST_CANCEL | AIOL_TASK_DEFERRED);
        (void)aioloop_task_uncancel(&task->future);
        aiol_future_end_cancelled(f, NULL);
        aiol_future_release(f);
        f = aiol_future_new(loop, NULL, NULL); /* keeps the value for the next request */
        aioloop_future_unref(f);
    }
    g->last = f;
    if (f != NULL) {
        aiol_future_finish(f, number, pointer, dispose);
    } else {
        dispose(pointer);
    }
    if (g->close_behind) {
        f = g->closing;
        g->closing = NULL;
        g->close_behind = false;
        aiol_generator_ask(g, f, true, AIOLOOP_EGENERATOREXIT);
    }
    aiol_generator_release(g);
}

/* The body hands out a value while it is being closed: it is left where it is. */
static void aiol_generator_ignored(aioloop_generator *g, void *pointer) {
    static const char text[] = "the generator ignored AIOLOOP_EGENERATOREXIT";
    aioloop *loop = g->resource.loop;
    void (*dispose)(void *) = g->task->future.end.dispose;
    aioloop_future *f = g->waiter;
    g->waiter = NULL;
    g->state = AIOL_GENERATOR_OVER;
    aiol_generator_unregister(g);
    if (f != NULL)
        aiol_generator_fail(f, AIOLOOP_EMISUSE, aiol_error_new(&loop->allocator, AIOLOOP_EMISUSE, text, 0));
    if (g->close_behind) {
        f = g->closing;
        g->closing = NULL;
        g->close_behind = false;
        aiol_generator_fail(f, AIOLOOP_EMISUSE, aiol_error_new(&loop->allocator, AIOLOOP_EMISUSE, text, 0));
    }
    if (dispose != NULL && pointer != NULL)
        dispose(pointer);
    aiol_generator_release(g);
}

static void aiol_generator_body_done(aioloop_future *body, void *arg) {
    aioloop_generator *g = (aioloop_generator *)arg;
    aioloop_future *f = g->waiter;
    int code = body->state == AIOL_FUTURE_FINISHED ? AIOLOOP_ESTOPITERATION : body->code;
    bool ended = code == AIOLOOP_ESTOPITERATION || (g->closes && code == AIOLOOP_EGENERATOREXIT);
    body->flags |= AIOL_FUTURE_LOOKED_AT;
    if (body->state == AIOL_FUTURE_FINISHED && body->of.pointer == NULL)
        body->flags |= AIOL_FUTURE_TAKEN; /* there is nothing to dispose of */
    g->waiter = NULL;
    g->state = AIOL_GENERATOR_OVER;
    aiol_generator_unregister(g);
    aiol_generator_detach(g);
    if (f != NULL && ended && g->closes) {
        aiol_future_finish(f, 0, NULL, NULL);
        aiol_future_release(f);
    } else if (f != NULL) {
        aiol_generator_fail(f, code, code == AIOLOOP_ESTOPITERATION ? NULL : aiol_error_ref(body->error));
    }
    if (g->close_behind) {
        f = g->closing;
        g->closing = NULL;
        g->close_behind = false;
        aiol_future_finish(f, 0, NULL, NULL);
        aiol_future_release(f);
    }
    aiol_generator_release(g);
}

/* ---- inside ---- */

/* 0: the body is to be suspended. */
static int aiol_generator_yield(aioloop *loop, aiol_task *task, int64_t number, void *pointer) {
    aioloop_generator *g = task == NULL || (task->flags & AIOL_TASK_GENERATOR) == 0 ? NULL : task->extra->generator;
    if (g == NULL || g->state != AIOL_GENERATOR_ASKED)
        return aiol_fail(loop, AIOLOOP_EMISUSE, "a yield outside of the body of a generator");
    if (aiol_thread.run != loop->entered)
        return aiol_fail(loop, AIOLOOP_EMISUSE, "a yield inside of aioloop_context_run");
    if (number < 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "a value is a number of 0 or more");
    task->slot.u.future = NULL;
    if (g->closes)
        aiol_generator_ignored(g, pointer);
    else
        aiol_generator_give(g, number, pointer);
    task->flags |= AIOL_TASK_WAITS;
    return 0;
}

/* What the yield returns. */
static int64_t aiol_generator_resumed(aioloop *loop, aiol_task *task) {
    int64_t n = aiol_task_take(loop, task, NULL);
    if (n < 0)
        return n;
    n = task->extra->generator->sent;
    return n < 0 ? aiol_fail(loop, (int)n, NULL) : n;
}

AIOLOOP_API AIOL_NOINLINE int64_t aioloop_yield(aioloop *loop, int64_t number, void *pointer) {
    aiol_task *task = aiol_frame_task(loop);
    int err;
    if (task != NULL && !aiol_task_may_block(loop, task))
        return aiol_fail(loop, AIOLOOP_EMISUSE, "a coroutine without a stack hands out values by AIOLOOP_YIELD");
    err = aiol_generator_yield(loop, task, number, pointer);
    if (err < 0)
        return err;
    aiol_task_block(task);
    return aiol_generator_resumed(loop, task);
}

AIOLOOP_API bool aioloop_frame_yield(aioloop *loop, int64_t number, void *pointer) {
    aiol_task *task = aiol_frame_task(loop);
    int err = aiol_generator_yield(loop, task, number, pointer);
    if (err == 0)
        return aiol_frame_suspend(loop, task, true);
    if (task != NULL)
        task->slot.u.future = aiol_future_failed(err);
    return false;
}

AIOLOOP_API int64_t aioloop_frame_yielded(aioloop *loop) {
    aiol_task *task = aiol_frame_task(loop);
    if (task == NULL)
        return AIOLOOP_EMISUSE;
    return aiol_generator_resumed(loop, task);
}

/* ---- outside ---- */

/* A shutdown closes it. */
static aioloop_future *aiol_generator_shut(aioloop *loop, void *arg) {
    aioloop_generator *g = (aioloop_generator *)arg;
    aioloop_future *f = aiol_generator_take_closing(g);
    g->resource.refs++; /* the shutdown's */
    if (f == NULL)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    if (g->state == AIOL_GENERATOR_ASKED && !g->closes)
        aioloop_future_cancel(g->waiter, NULL);
    if (g->state == AIOL_GENERATOR_ASKED) {
        g->closing = f;
        g->close_behind = true;
    } else {
        aiol_generator_ask(g, f, true, AIOLOOP_EGENERATOREXIT);
    }
    return f;
}

static void aiol_generator_through(aiol_closer *closer) {
    aiol_generator_release(AIOL_CONTAINER(closer, aioloop_generator, closer));
}

static aioloop_generator *aiol_generator_new(aioloop *loop, const aioloop_task_recipe *recipe) {
    aioloop_generator *g;
    int err = loop == NULL ? AIOLOOP_EINVAL : aiol_recipe_check(loop, recipe);
    if (err == 0 && recipe->options.timeout != 0)
        err = aiol_fail(loop, AIOLOOP_EINVAL, "a generator has no time-out; aioloop_generator_anext may have one");
    if (err < 0) {
        aiol_recipe_dispose(recipe);
        return NULL;
    }
    g = (aioloop_generator *)aiol_alloc_zero(&loop->allocator, sizeof(*g));
    if (g != NULL)
        g->task = aiol_task_make(loop, recipe);
    if (g == NULL || g->task == NULL) {
        aiol_free(&loop->allocator, g, sizeof(*g));
        aiol_recipe_dispose(recipe);
        aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
        return NULL;
    }
    g->resource.refs = 1;
    aiol_resource_add(loop, &g->resource, &aiol_generator_resource);
    g->task->flags |= AIOL_TASK_GENERATOR;
    g->task->future.flags &= (uint16_t)~AIOL_FUTURE_UNCLAIMED;
    g->closing = aiol_future_new(loop, aiol_generator_cancel, g);
    if (g->closing == NULL || aiol_task_extra_of(g->task) == NULL || aiol_task_adorn(g->task, &recipe->options) < 0 ||
        aiol_closer_init(loop, &g->closer, aiol_generator_shut, g, aiol_generator_through) < 0 ||
        aiol_future_callback(&g->task->future, aiol_generator_body_done, g, NULL, 0) < 0) {
        aiol_generator_never_begin(g);
        aiol_generator_end(g);
        aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
        return NULL;
    }
    g->task->extra->generator = g;
    return g;
}

AIOLOOP_API aioloop_generator *(aioloop_generator_new)(aioloop *loop, aioloop_coroutine fn, void *arg,
                                                       const aioloop_task_options *options) {
    aioloop_task_recipe recipe = aiol_recipe(fn, NULL, arg, options);
    return aiol_generator_new(loop, &recipe);
}

AIOLOOP_API aioloop_generator *(aioloop_generator_new_frame)(aioloop *loop, aioloop_step fn, aioloop_frame *frame,
                                                             const aioloop_task_options *options) {
    aioloop_task_recipe recipe = aiol_recipe(NULL, fn, frame, options);
    return aiol_generator_new(loop, &recipe);
}

AIOLOOP_API aioloop_generator *aioloop_generator_ref(aioloop_generator *generator) {
    if (generator != NULL)
        generator->resource.refs++;
    return generator;
}

AIOLOOP_API void aioloop_generator_unref(aioloop_generator *generator) {
    if (generator != NULL && !generator->resource.loop->freeing)
        aiol_generator_release(generator);
}

static int aiol_generator_check(aioloop_generator *g) {
    int err = g == NULL ? AIOLOOP_EINVAL : aiol_check(g->resource.loop);
    if (err == 0 && (g->state == AIOL_GENERATOR_ASKED || g->close_behind))
        err = aiol_fail(g->resource.loop, AIOLOOP_EMISUSE, "the generator is running already");
    return err;
}

static aioloop_future *aiol_generator_refuse(aioloop_generator *g, int code) {
    return code == AIOLOOP_EINVAL || code == AIOLOOP_ECLOSED ? aiol_future_failed(code)
                                                             : aiol_combine_failed(g->resource.loop, code);
}

/* Whether the value that was handed out last was read, or still may be. */
static bool aiol_generator_is_unread(const aioloop_generator *g) {
    return g->last != NULL && g->last->refs == 1 && (g->last->flags & (AIOL_FUTURE_TAKEN | AIOL_FUTURE_READ)) == 0;
}

/* Gives it again. */
static void aiol_generator_repeat(aioloop_generator *g, aioloop_future *f) {
    aioloop_future *last = g->last;
    last->flags |= AIOL_FUTURE_TAKEN;
    aiol_future_finish(f, last->number, last->of.pointer, last->end.dispose);
    g->last = f;
    aiol_future_release(last);
}

static aioloop_future *aiol_generator_request(aioloop_generator *g, bool repeats, int64_t sent) {
    aioloop_future *f;
    aioloop *loop;
    int err = aiol_generator_check(g);
    if (err < 0)
        return aiol_generator_refuse(g, err);
    loop = g->resource.loop;
    if (g->state == AIOL_GENERATOR_OVER) {
        err = aiol_fail(loop, AIOLOOP_ESTOPITERATION, NULL);
    } else if (!aiol_generator_began(g) && sent > 0) {
        err = aiol_fail(loop, AIOLOOP_EMISUSE, "a generator that has not begun has no yield to answer");
    } else if (!aiol_generator_began(g) && sent < 0) {
        f = aiol_generator_refuse(g, aiol_fail(loop, (int)sent, NULL));
        aiol_generator_never_begin(g);
        return f;
    }
    if (err < 0)
        return aiol_generator_refuse(g, err);
    f = aiol_future_new(loop, aiol_generator_cancel, g);
    if (f == NULL)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    if (repeats && aiol_generator_is_unread(g))
        aiol_generator_repeat(g, f);
    else
        aiol_generator_ask(g, f, false, sent);
    return f;
}

AIOLOOP_API aioloop_future *(aioloop_generator_anext)(aioloop_generator *generator) {
    return aiol_generator_request(generator, true, 0);
}

AIOLOOP_API aioloop_future *(aioloop_generator_asend)(aioloop_generator *generator, int64_t number) {
    return number < 0 ? aiol_future_failed(AIOLOOP_EINVAL) : aiol_generator_request(generator, false, number);
}

AIOLOOP_API aioloop_future *(aioloop_generator_athrow)(aioloop_generator *generator, int code) {
    return code >= 0 ? aiol_future_failed(AIOLOOP_EINVAL) : aiol_generator_request(generator, false, code);
}

AIOLOOP_API aioloop_future *(aioloop_generator_aclose)(aioloop_generator *generator) {
    aioloop_future *f;
    int err = aiol_generator_check(generator);
    if (err < 0)
        return aiol_generator_refuse(generator, err);
    f = aiol_generator_take_closing(generator);
    if (f == NULL)
        return aiol_future_failed(aiol_fail(generator->resource.loop, AIOLOOP_ENOMEM, NULL));
    if (generator->state == AIOL_GENERATOR_IDLE && aiol_generator_began(generator)) {
        aiol_generator_ask(generator, f, true, AIOLOOP_EGENERATOREXIT);
        return f;
    }
    aiol_future_finish(f, 0, NULL, NULL);
    aiol_future_release(f);
    if (generator->state == AIOL_GENERATOR_IDLE)
        aiol_generator_never_begin(generator);
    return f;
}

#endif
