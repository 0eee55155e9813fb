/*
 * core.h - the loop, its callbacks and futures: the only place that knows what they look like.
 *
 * One queue holds everything that is to run: NODES, each a link and a function. A scheduled callback is a SLOT, which
 * starts with a node; what must never fail for want of memory (a lost connection) has a node of its own inside.
 */
#ifndef AIOL_CORE_CORE_H
#define AIOL_CORE_CORE_H

#include "api/loop.h"
#include "api/resolve.h"
#include "api/task.h"
#include "base/atomic.h"
#include "base/bytes.c"
#include "base/context.c"
#include "base/heap.h"
#include "base/list.h"
#include "io/op.h"

typedef struct aiol_node {
    struct aiol_node *next;
    void (*run)(aioloop *loop, struct aiol_node *node);
} aiol_node;

/* First in, first out. end is where the next node is linked: the last node's next, or head of an empty queue. */
typedef struct aiol_queue {
    aiol_node *head;
    aiol_node **end;
} aiol_queue;

AIOL_INLINE void aiol_queue_init(aiol_queue *q) {
    q->head = NULL;
    q->end = &q->head;
}

AIOL_INLINE void aiol_queue_push(aiol_queue *q, aiol_node *node) {
    node->next = NULL;
    *q->end = node;
    q->end = &node->next;
}

/* The oldest node, or NULL. */
AIOL_INLINE aiol_node *aiol_queue_pop(aiol_queue *q) {
    aiol_node *node = q->head;
    if (node != NULL) {
        q->head = node->next;
        if (q->head == NULL)
            q->end = &q->head;
    }
    return node;
}

/* Moves everything of from, which becomes empty, behind what is in q. */
AIOL_INLINE void aiol_queue_append(aiol_queue *q, aiol_queue *from) {
    if (from->head == NULL)
        return;
    *q->end = from->head;
    q->end = from->end;
    aiol_queue_init(from);
}

/* READY: free, queued or running. TIMER: in the heap, until due or cancelled. DUE: a timer whose turn comes in this
 * iteration. WAITING: a done-callback, until its future is done. */
typedef enum aiol_slot_state { AIOL_SLOT_READY, AIOL_SLOT_TIMER, AIOL_SLOT_DUE, AIOL_SLOT_WAITING } aiol_slot_state;

enum {
    AIOL_SLOT_REMOTE = 1,   /* of the pool that other threads use */
    AIOL_SLOT_EXPLICIT = 2, /* context is an aioloop_context, used itself */
    AIOL_SLOT_HOLDS = 4,    /* owns a reference of its future */
    AIOL_SLOT_TASK = 8      /* inside a task, and goes with it */
};

/* A free slot is as a plain callback needs it: run is aiol_run_call, state READY, nothing captured, no site, sequence
 * 0. So scheduling one writes only what differs. */
typedef struct aiol_slot {
    union {
        aiol_node node;
        aiol_heap_item heap; /* a TIMER's; shares its place with the link alone */
    } at;
    uint64_t sequence; /* the handle's; 0: no handle is valid */
    union {
        aioloop_callback call;
        aioloop_future_callback future;
        aioloop_step step;
    } fn;
    void *arg;
    union {
        aiol_map *map; /* the values captured; NULL: none */
        aioloop_context *explicit_one;
    } context;
    union {
        aioloop_time when; /* a TIMER's: the heap's key may be earlier (lazily re-armed) */
        aioloop_future *future;
    } u;
    uint32_t site;  /* debug mode: where it was made; 0: unknown. Of a task: its number */
    uint16_t index; /* in its chunk */
    uint8_t state;
    uint8_t flags;
} aiol_slot;

AIOL_STATIC_ASSERT(sizeof(void *) != 8 || sizeof(aiol_slot) == 64, slot_is_a_cache_line);

/* Of timers with equal deadlines the one made first. */
AIOL_INLINE bool aiol_heap_before(const aiol_heap_item *a, const aiol_heap_item *b) {
    return ((const aiol_slot *)(const void *)a)->sequence < ((const aiol_slot *)(const void *)b)->sequence;
}

/* What belongs to a loop and must be ended with it: connections, servers, attempts, watchers. */
struct aiol_resource;

typedef struct aiol_resource_calls {
    const char *name;                                   /* for the warning of debug mode */
    void (*closed)(struct aiol_resource *resource);     /* the loop closes: give back what is the system's */
    void (*destroy)(struct aiol_resource *resource);    /* the loop is freed: after closed */
    bool (*open)(const struct aiol_resource *resource); /* it should have been closed before */
} aiol_resource_calls;

typedef struct aiol_resource {
    aiol_link link;
    const aiol_resource_calls *calls;
    aioloop *loop;
    aiol_map *context; /* the values its user code runs with; let go by aiol_resource_remove */
    uint32_t site;
    uint32_t refs;
} aiol_resource;

/* What core calls of net, which stands above it. NULL until the first connection. */
typedef struct aiol_net_calls {
    void (*flush_unsent)(aioloop *loop);
    void (*freed)(aioloop *loop);
} aiol_net_calls;

typedef struct aiol_site {
    const char *file;
    int line;
} aiol_site;

typedef struct aiol_slot_chunk {
    struct aiol_slot_chunk *next;
    aioloop *loop;
    size_t count;
    /* slots follow */
} aiol_slot_chunk;

#define AIOL_REMOTE_CHUNKS 32
#define AIOL_CACHE_LINE 64

struct aioloop {
    /* What every callback touches. */
    aiol_queue ready;
    aiol_queue batch; /* of this iteration, not run yet */
    aiol_slot *free_slots;
    uint64_t sequence;
    aiol_map *map;     /* what is current between callbacks; owned while the loop runs */
    aiol_map *outer_map; /* the thread's before the run, and who owns it */
    aiol_map **outer_place;
    uint32_t turn;     /* counts callbacks */
    bool attention;    /* something is to be done when the callback ends: raised or unsent says what */
    bool careful;      /* closed, or debug mode: the slow path looks which */
    int raised;        /* the code that the running callback raised; 0: none */
    aiol_link unsent;  /* writers of this callback that have a send to start */
    aiol_link sending; /* those of the callback before, while they are seen to */
    bool halt;         /* fatal: stop dispatching */
    bool stopping;
    bool closed;
    bool debug;
    bool more; /* the engine keeps something for the next iteration */
    aioloop_future *awaited; /* what run_until_complete runs for */
    struct aiol_task *task;  /* whose step runs; none in callbacks, also in those that a task's call causes */
    struct aiol_coro *coro;  /* on whose stack this runs; NULL: the loop's */
    aioloop_context *entered; /* aiol_thread.run when the step began */
    bool told;               /* error was set in this step */
    uint32_t running;
    aiol_engine *engine;
    aiol_budget budget;
    const struct aiol_net_calls *net;

    aiol_heap timers;
    aiol_queue due;
    aioloop_time due_at; /* the clock when they were moved there */

    aiol_slot *remote_done; /* to go back to remote_free */

    /* What other threads touch, on cache lines of its own: each post would else take the loop's away. */
    char apart_1[AIOL_CACHE_LINE];
    void *inbox; /* aiol_slot *, newest first */
    char apart_2[AIOL_CACHE_LINE];
    void *remote_free; /* not a pointer: see inbox.c */
    char apart_3[AIOL_CACHE_LINE];
    uint32_t sleeping;
    uint32_t wakers; /* threads that may be about to wake */
    uint32_t posts_refused;
    void *remote_chunks[AIOL_REMOTE_CHUNKS];
    void *concurrents; /* threadsafe.c's; NULL until the first */
#if AIOLOOP_USE_SUBPROCESS
    volatile uint32_t signalled; /* a signal came that the loop has not looked for */
    struct aiol_signal *signals; /* its handlers */
#endif
    char apart_4[AIOL_CACHE_LINE];

    aioloop_allocator allocator;
    aiol_slot_chunk *chunks;
    aiol_link futures;
    aiol_link ended; /* debug mode: futures in quarantine */
    unsigned ended_count;
    aiol_link resources;
    aiol_link closers;       /* of generators and the like: see generator.c */
    bool asyncgens_shutdown; /* was called */
    bool executor_shutdown;  /* likewise */
    struct aiol_executor *executor; /* executor.c's; NULL until the first job or pool */
    aioloop_time closed_at;
    int process;
    uint32_t thread; /* the number of the one that ran it first: some engines belong to one (io_uring); 0: none yet */
    uint32_t site;

    aioloop_exception_handler handler;
    void *handler_arg;
    aioloop_log log;
    void *log_arg;
    aiol_error_slot error;
    struct aioloop_error *error_of; /* a future's, whose text and list error borrows; owned */
    aioloop_time slow;
    aiol_site *sites; /* index 1 is the first */
    size_t site_count;
    size_t site_capacity;
    uint32_t iteration;
    bool ending;  /* close or free is under way: what they call may not free it */
    bool freeing; /* user code may still let go of things: no block goes before all of it has run */
    aioloop_future *nothing; /* done, with 0; NULL until the first who needs it */
    uint32_t task_number; /* the last one given */
    aioloop_task_factory factory;
    void *factory_arg;
    aioloop_resolver resolver; /* NULL: the system's */
    void *resolver_arg;
    bool resolving; /* it is being called: what it asks for itself is for the system */
    struct aiol_stacks *stacks; /* coro.c's; NULL until the first */
    aiol_link *spare_writers; /* net's; singly linked */
    unsigned spare_writer_count;
    aiol_chunk_stock spare_chunks; /* of what they send */
    char *tls_buffer; /* net's too; NULL: none, or in use */
};

/* ---- futures ---- */

typedef enum aiol_future_state {
    AIOL_FUTURE_PENDING,
    AIOL_FUTURE_FINISHED,
    AIOL_FUTURE_FAILED,
    AIOL_FUTURE_CANCELLED
} aiol_future_state;

enum {
    AIOL_FUTURE_UNCLAIMED = 1,
    AIOL_FUTURE_LOOKED_AT = 2, /* its failure need not be reported */
    AIOL_FUTURE_TAKEN = 4,     /* the result has an owner */
    AIOL_FUTURE_STATIC = 8,    /* one of the failed ones that no loop owns */
    AIOL_FUTURE_USED = 16,     /* it was unclaimed, and that was its one use */
    AIOL_FUTURE_GRANT = 32,    /* any reading takes the result, also one without the pointer */
    AIOL_FUTURE_TASK = 64,     /* the first member of an aiol_task */
    AIOL_FUTURE_OWN = 128,     /* an operation's of the library, which alone completes it */
    AIOL_FUTURE_YIELDS = 256,  /* waiting for it takes an iteration, though it is done */
    AIOL_FUTURE_BORROWS = 512, /* its result is that of next.source */
    AIOL_FUTURE_OUTRANKS = 1024, /* it is done, and who waits is told so before it hears of a cancellation */
    AIOL_FUTURE_WAITER = 2048,   /* the first member of an aiol_waiter */
    AIOL_FUTURE_COMMON = 4096,   /* loop->nothing: nobody's, so that nobody ends it */
    AIOL_FUTURE_READ = 8192      /* somebody has had the result, with its pointer or without */
};

struct aioloop_future {
    aiol_link link;
    aioloop *loop;
    uint32_t refs;
    uint8_t state;
    uint16_t flags;
    int code;
    uint32_t site;
    int64_t number;
    /* By state: what gives up the work while it is PENDING, and what ends the result once it is FINISHED. A task's is
     * always the latter. */
    union {
        bool (*cancel)(aioloop_future *future, void *owner);
        void (*dispose)(void *pointer);
    } end;
    union {
        void *owner;   /* PENDING: the operation */
        void *pointer; /* FINISHED: the result's */
    } of;
    union {
        aiol_slot *callbacks;   /* PENDING: the last one registered, whose next is the first */
        aioloop_future *source; /* of one that borrows */
    } next;
    struct aioloop_error *error;
};

AIOL_STATIC_ASSERT(sizeof(void *) != 8 || sizeof(aioloop_future) <= 88, future_is_small);

/* A future with a place in a line: of those who wait at an object, later perhaps of those whom it has given something.
 * It leaves the line when it is freed, so the object may find all of them, and go before any of them. */
typedef struct aiol_waiter {
    aioloop_future future;
    aiol_link link;
    void (*gone)(struct aiol_waiter *waiter, bool unread); /* may be NULL: it is being freed; with a result that nobody read? */
    void *object;                                          /* that it waits at; NULL: that has gone */
    void (*dispose)(void *pointer);                        /* this and mark are the object's */
    uint64_t mark;
} aiol_waiter;

/* Of an aiol_task. */
enum {
    AIOL_TASK_STACKFUL = 1,
    AIOL_TASK_GENERATOR = 2,  /* runs the body of one, on behalf of other tasks */
    AIOL_TASK_STARTED = 4,
    AIOL_TASK_RUNS = 8,       /* its step does, or the exception handler in its context */
    AIOL_TASK_WAITS = 16,     /* somebody will put it into the ready queue, or has */
    AIOL_TASK_SLEEPS = 32,    /* u is a deadline */
    AIOL_TASK_BROKEN = 64,    /* its step function has returned in the middle of a wait */
    AIOL_TASK_ENDED = 128,    /* the coroutine has; the future may yet have to be completed */
    AIOL_TASK_MUST_CANCEL = 256,   /* a cancel that is told at the next wait */
    AIOL_TASK_MUST_HEAR = 512,     /* it has ended a wait, so it is told even if it is taken back */
    AIOL_TASK_EXPIRED = 1024,      /* its own time-out has cancelled it */
    AIOL_TASK_TOLD = 2048,         /* a cancellation was told, and not taken back since */
    AIOL_TASK_SWALLOWS = 4096,     /* and that was reported */
    AIOL_TASK_DEFERRED = 8192      /* MUST_CANCEL came behind a result that outranks it */
};

/* A coroutine that runs. Its slot is at any time in one place: in the ready queue, in the heap of timers (it sleeps),
 * or among the callbacks of the future it waits for; so neither waiting nor waking needs memory. The slot has the step
 * function and the frame (or the coroutine's stack), the context, and in u the future awaited or the deadline. */
typedef struct aiol_task {
    aioloop_future future;
    aiol_slot slot;
    struct aiol_task_extra *extra; /* what few tasks have: a name given, a deadline */
    uint32_t copy_size;            /* of the frame or argument that follows */
    uint16_t cancelling;
    uint16_t flags;
} aiol_task;

struct aiol_coro;

/* ---- running user code ---- */

typedef struct aiol_frame {
    aiol_context_frame context;
    aiol_task *task;
    int raised;
} aiol_frame;

/* Before user code: its context becomes the current one. */
AIOL_INLINE aiol_frame aiol_enter(aioloop *loop, aiol_map **place) {
    aiol_frame frame;
    frame.context = aiol_context_enter(place);
    frame.raised = loop->raised;
    frame.task = loop->task;
    loop->raised = 0;
    loop->task = NULL;
    loop->turn++;
    return frame;
}

/* After it: what it raised, or 0. */
AIOL_INLINE int aiol_leave(aioloop *loop, const aiol_frame *frame) {
    int raised = loop->raised;
    loop->raised = frame->raised;
    loop->task = frame->task;
    aiol_context_leave(&frame->context);
    return raised;
}

/* The same for what the engine calls, and cheaper: between callbacks it is always the loop's own map that is current,
 * and nothing is raised. Afterwards loop->attention says whether there is something to do about it. */
AIOL_INLINE void aiol_dispatch_enter(aioloop *loop, aiol_map **place) {
    aiol_thread.map = *place;
    aiol_thread.place = place;
    loop->turn++;
}

AIOL_INLINE void aiol_dispatch_leave(aioloop *loop) {
    aiol_thread.map = loop->map;
    aiol_thread.place = &loop->map;
}

AIOL_INLINE bool aiol_loop_has_unsent(const aioloop *loop) {
    return !aiol_list_empty(&loop->unsent) || !aiol_list_empty(&loop->sending);
}

/* The message that goes with a code which user code returned or raised; NULL: none. */
AIOL_INLINE const char *aiol_detail(const aioloop *loop, int code) {
    return loop->error.error.code == code && loop->error.error.text[0] != '\0' ? loop->error.error.text : NULL;
}

/* At the end of a callback that the loop called: what it wrote goes out. What it raised was dealt with before. */
AIOL_INLINE void aiol_callback_end(aioloop *loop) {
    loop->attention = false;
    if (AIOL_UNLIKELY(aiol_loop_has_unsent(loop)))
        loop->net->flush_unsent(loop);
}

AIOL_INLINE aioloop_time aiol_loop_now(const aioloop *loop) {
    return loop->engine == NULL ? loop->closed_at : loop->engine->calls->now(loop->engine);
}

/* log.c */
AIOLOOP_INTERNAL uint32_t aiol_site_take(aioloop *loop);
AIOLOOP_INTERNAL const aiol_site *aiol_site_at(const aioloop *loop, uint32_t site);
AIOLOOP_INTERNAL int aiol_fail(aioloop *loop, int code, const char *format, ...) AIOLOOP_PRINTF(3, 4);
AIOLOOP_INTERNAL void aiol_tell_of(aioloop *loop, int code, struct aioloop_error *error);
AIOLOOP_INTERNAL void aiol_report(aioloop *loop, int code, uint32_t site, aioloop_exception_context *context);
AIOLOOP_INTERNAL void aiol_warn(aioloop *loop, uint32_t site, const char *format, ...) AIOLOOP_PRINTF(3, 4);
AIOLOOP_INTERNAL void aiol_slow(aioloop *loop, uint32_t site, aioloop_time since, const char *what);
AIOLOOP_INTERNAL bool aiol_wrong_thread(aioloop *loop);
AIOLOOP_INTERNAL int aiol_check(aioloop *loop);

/* handle.c */
AIOLOOP_INTERNAL aiol_slot *aiol_slot_new(aioloop *loop);
AIOLOOP_INTERNAL void aiol_slot_free(aioloop *loop, aiol_slot *slot);
AIOLOOP_INTERNAL void aiol_slot_drop(aioloop *loop, aiol_slot *slot);
AIOLOOP_INTERNAL aioloop *aiol_slot_loop(const aiol_slot *slot);
AIOLOOP_INTERNAL void aiol_slot_capture(aiol_slot *slot, aioloop_context *context);
AIOLOOP_INTERNAL void aiol_run_call(aioloop *loop, aiol_node *node);
AIOLOOP_INTERNAL void aiol_run_call_carefully(aioloop *loop, aiol_node *node);
AIOLOOP_INTERNAL void aiol_run_nothing(aioloop *loop, aiol_node *node);
AIOLOOP_INTERNAL void aiol_run_due(aioloop *loop, aiol_node *node);

/* inbox.c */
#if AIOLOOP_USE_THREADS
AIOLOOP_INTERNAL void aiol_inbox_drain(aioloop *loop);
#endif

/* signal.c */
#if AIOLOOP_USE_SUBPROCESS
AIOLOOP_INTERNAL void aiol_signals_drain(aioloop *loop);
/* Whether a signal came that the loop has not seen. */
AIOL_INLINE bool aiol_signals_wait(const aioloop *loop) {
    return aiol_load(&loop->signalled) != 0;
}
#else
#define aiol_signals_drain(loop) ((void)(loop))
#define aiol_signals_wait(loop) ((void)(loop), false)
#endif

/* timer.c */
AIOLOOP_INTERNAL aioloop_time aiol_timer_next(aioloop *loop);
AIOLOOP_INTERNAL void aiol_timer_move_due(aioloop *loop);
AIOLOOP_INTERNAL void aiol_timer_cancel(aioloop *loop, aiol_slot *slot);

/* future.c */
AIOLOOP_INTERNAL aioloop_future *aiol_future_failed(int code);
AIOLOOP_INTERNAL aioloop_future *aiol_future_new(aioloop *loop, bool (*cancel)(aioloop_future *, void *), void *owner);
AIOLOOP_INTERNAL aiol_waiter *aiol_waiter_new(aioloop *loop, bool (*cancel)(aioloop_future *, void *), void *object);
AIOLOOP_INTERNAL void aiol_future_init(aioloop *loop, aioloop_future *f);
AIOLOOP_INTERNAL aioloop_future *aiol_future_nothing(aioloop *loop);
AIOLOOP_INTERNAL void aiol_future_hold(aioloop_future *f);
AIOLOOP_INTERNAL void aiol_future_release(aioloop_future *f);
AIOLOOP_INTERNAL int aiol_future_finish(aioloop_future *f, int64_t number, void *pointer, void (*dispose)(void *));
AIOLOOP_INTERNAL int aiol_future_finish_first(aioloop_future *f, int64_t number, void *pointer,
                                              void (*dispose)(void *));
AIOLOOP_INTERNAL int aiol_future_fail(aioloop_future *f, int code, const char *text);
AIOLOOP_INTERNAL void aiol_future_fail_with(aioloop_future *f, int code, struct aioloop_error *error);
AIOLOOP_INTERNAL int aiol_future_end_cancelled(aioloop_future *f, const char *text);
AIOLOOP_INTERNAL void aiol_future_destroy(aioloop_future *f);
AIOLOOP_INTERNAL void aiol_future_strip(aioloop_future *f);
AIOLOOP_INTERNAL int aiol_future_use(aioloop_future *f);
AIOLOOP_INTERNAL int aiol_future_take_over(aioloop_future *f, aioloop_future *source);
AIOLOOP_INTERNAL void aiol_future_push_callback(aioloop_future *f, aiol_slot *slot);
AIOLOOP_INTERNAL void aiol_future_attach(aioloop_future *f, aiol_slot *slot, aioloop_future_callback fn, void *arg);
AIOLOOP_INTERNAL void aiol_future_remove_slot(aioloop_future *f, aiol_slot *slot);
AIOLOOP_INTERNAL void aiol_future_free_ended(aioloop *loop, unsigned left);
AIOLOOP_INTERNAL void aiol_run_future(aioloop *loop, aiol_node *node);

/* task.c */
AIOLOOP_INTERNAL void aiol_run_task(aioloop *loop, aiol_node *node);
AIOLOOP_INTERNAL aioloop_future *aiol_task_cancel(aioloop_future *f, const char *message, struct aiol_task **waiter);
AIOLOOP_INTERNAL void aiol_task_must_cancel(struct aiol_task *task, const char *message);
AIOLOOP_INTERNAL void aiol_task_strip(aiol_task *task);
AIOLOOP_INTERNAL size_t aiol_task_size(const aiol_task *task);
AIOLOOP_INTERNAL aiol_map **aiol_task_place(aioloop_future *f);
AIOLOOP_INTERNAL const char *aiol_task_name(aiol_task *task, char *buffer, size_t size);
AIOLOOP_INTERNAL void aiol_task_report_pending(aiol_task *task);
AIOLOOP_INTERNAL void aiol_on_loop_stack(aioloop *loop, void (*fn)(void *arg), void *arg);
AIOLOOP_INTERNAL void aiol_stacks_unwatch(aioloop *loop);
AIOLOOP_INTERNAL void aiol_stacks_free(aioloop *loop);

/* loop.c */
AIOLOOP_INTERNAL void aiol_loop_halt(aioloop *loop);
AIOLOOP_INTERNAL void aiol_resource_add(aioloop *loop, aiol_resource *resource, const aiol_resource_calls *calls);
AIOLOOP_INTERNAL void aiol_resource_remove(aiol_resource *resource);

#endif
