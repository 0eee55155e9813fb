/*
 * simulate_tasks.c - random scripts of tasks on the simulated back end, checked against a model of asyncio's rules.
 *
 *     simulate_tasks [--delayed|--readiness|--both] [--faults] [-v] FIRST COUNT
 *     simulate_tasks ... --seed N
 *     simulate_tasks --oracle FIRST COUNT      for oracle_tasks.py: scripts and the model's traces, as lines of JSON
 *
 * Each seed makes a script: tasks that create, cancel and await each other, futures, sleeps, gather, wait, wait_for
 * and shield, nested time-outs and task groups, and callbacks that interfere from outside. One interpreter plays it
 * four times: on a small asyncio of its own (the model, which follows the algorithms of CPython 3.13: ready queue,
 * must_cancel, fut_waiter, the count of cancels), and on the library with coroutines that have a stack, that have
 * none, and mixed. All four must leave the same trace: what each await returned, when and in what order, how each
 * task and future ended, how many tasks there were. Further: whatever is to be disposed of is, once; a failure is
 * reported if and only if nobody looked at it; every byte of memory comes back.
 *
 * With --faults each run is repeated with one of its allocations failing; then only the latter is checked. A script
 * that shows a difference is made smaller before it is printed, with both traces.
 *
 * Not part of the test program: it has a main of its own and needs no runner.
 */
#define AIOLOOP_IMPLEMENTATION
#include "aioloop.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TK_TASKS 10
#define TK_FUTURES 4
#define TK_STEPS 24
#define TK_EVENTS 12
#define TK_DEPTH 4
#define TK_MEMBERS 3
#define TK_TRACE 4096
#define TK_RESULTS 256
#define TK_SWEEPS 400

/* The ids of what can be waited for: tasks, futures, and what the step of a task made. */
#define TK_FUTURE_ID(i) (TK_TASKS + (i))
#define TK_STEP_ID(task, step) (TK_TASKS + TK_FUTURES + (task)*TK_STEPS + (step))
#define TK_OBJECTS (TK_TASKS + TK_FUTURES + TK_TASKS * TK_STEPS)
#define TK_NOBODY (-1)

/* ---- scripts ---- */

typedef enum tk_op {
    TK_NOTHING,
    TK_AWAIT,
    TK_SLEEP, /* a future */
    TK_NAP,   /* without one */
    TK_CREATE,
    TK_CANCEL,
    TK_UNCANCEL,
    TK_SET_RESULT,
    TK_SET_EXCEPTION,
    TK_WAIT_FOR,
    TK_SHIELD,
    TK_GATHER,
    TK_WAIT,
    TK_TIMEOUT,
    TK_RESCHEDULE,
    TK_GROUP,
    TK_LEAVE, /* the scope that the step `match` has entered */
    TK_LOOK,
    TK_FAIL
} tk_op;

static const char *const tk_op_names[] = {"nothing", "await",    "sleep",      "nap",           "create",
                                          "cancel",  "uncancel", "set_result", "set_exception", "wait_for",
                                          "shield",  "gather",   "wait",       "timeout",       "reschedule",
                                          "group",   "leave",    "look",       "fail"};

/* What a step does about an error. */
typedef enum tk_care {
    TK_PASS,      /* lets it through */
    TK_SWALLOW,   /* goes on */
    TK_TAKE_BACK, /* goes on, and takes a cancellation back */
    TK_REPLACE,   /* fails with another one */
    TK_LATE,      /* of leaving a scope: only ETIMEDOUT is dealt with */
    TK_ERRORS     /* of leaving a scope: all but cancellations are */
} tk_care;

static const char *const tk_care_names[] = {"",           " else go on",         " else take back",
                                            " else fail", " else if late go on", " else if failed go on"};

typedef struct tk_step {
    tk_op op;
    tk_care care;
    int of[TK_MEMBERS]; /* what it is about */
    int count;
    int match;  /* of a scope: its other end */
    int number; /* a code, a mode */
    bool keep;  /* what it makes is awaited later, by its id; a task's: it is claimed */
    bool eager;
    bool inherited; /* in the group that this task belongs to, instead of one of its own */
    bool grouped;
    bool blind; /* the result's pointer is not asked for */
    aioloop_time time;
} tk_step;

/* Something that comes from outside: some iterations after a time, or when something is done. */
typedef struct tk_event {
    tk_op op;
    int of;
    int number;
    int after; /* the id of what is to be done; TK_NOBODY: at the time */
    int hops;  /* iterations */
    aioloop_time time;
} tk_event;

typedef struct tk_script {
    int tasks;
    int futures;
    int events;
    int steps[TK_TASKS];
    bool root[TK_TASKS];          /* created before the loop runs */
    bool watched[TK_OBJECTS];     /* a done-callback tells when it is done */
    bool copied[TK_TASKS];        /* its argument is */
    aioloop_time limit[TK_TASKS]; /* its own time-out */
    tk_step step[TK_TASKS][TK_STEPS];
    tk_event event[TK_EVENTS];
    bool debug;
} tk_script;

/* ---- what happens ---- */

typedef struct tk_record {
    const char *what;
    aioloop_time time;
    int who;
    int where;
    int64_t number;
    int64_t extra;
} tk_record;

typedef enum tk_engine { TK_MODEL, TK_STACKFUL, TK_STACKLESS, TK_MIXED, TK_ENGINES } tk_engine;

static const char *const tk_engine_names[] = {"model", "stackful", "stackless", "mixed"};

typedef enum tk_suspension { TK_ENDS, TK_WAITS, TK_NAPS } tk_suspension;

struct md_group;
struct md_timeout;

typedef struct tk_scope {
    int step; /* that entered it */
    aioloop_timeout timeout;
    struct md_timeout *model_timeout;
    void *group;
} tk_scope;

typedef struct tk_arg {
    aioloop_frame frame; /* first: it is a frame */
    struct tk_task *task;
    int64_t n;
    void *pointer;
} tk_arg;

/* Where a task of the script is. */
typedef struct tk_task {
    int index;
    tk_arg arg;
    int at; /* the step */
    bool started;
    bool created;
    bool waiting; /* the step has asked for a wait, whose result comes */
    int depth;
    tk_scope scopes[TK_DEPTH];
    void *membership; /* the group it was made in */
    int64_t outcome;  /* on the way to the end of a scope */
    int64_t result;
    void *awaited;
    bool blind;
    aioloop_time delay;
    int disposed;
} tk_task;

typedef struct tk_token {
    bool given; /* it is the result of something */
    bool grant;
    bool taken;
    int disposed;
} tk_token;

typedef struct tk_object {
    void *handle; /* to be used; NULL: not there, or let go */
    void *known;  /* the address, for reports */
    unsigned order;
    int reports;
    int expected;
} tk_object;

typedef struct tk_world {
    const tk_script *script;
    tk_engine engine;
    bool delayed;
    aioloop *loop;
    tk_task task[TK_TASKS];
    tk_object object[TK_OBJECTS];
    int hops[TK_EVENTS]; /* so far */
    tk_token token[TK_OBJECTS];
    unsigned order;
    int sweeps;
    int warnings;
    aioloop_results *results[TK_RESULTS];
    int result_count;
    tk_record record[TK_TRACE];
    int records;
    char failure[256]; /* "": none */
    uint64_t allocations;
    uint64_t fault_at;
    bool fault_fired;
    size_t blocks;
    size_t bytes;
} tk_world;

static tk_world *tk; /* the one that runs */

static struct {
    const char *program;
    bool verbose;
    bool faults;
    uint64_t seed;
    bool delayed;
    uint64_t records;
} tk_total;

/* The first thing that is wrong is kept. */
static void tk_fail(const char *format, ...) {
    va_list arguments;
    if (tk->failure[0] != '\0')
        return;
    va_start(arguments, format);
    vsnprintf(tk->failure, sizeof(tk->failure), format, arguments);
    va_end(arguments);
}

static aioloop_time tk_now(void);

static void tk_trace(const char *what, int who, int where, int64_t number, int64_t extra) {
    tk_record *r;
    if (tk->records == TK_TRACE) {
        tk_fail("the trace is full");
        return;
    }
    r = &tk->record[tk->records++];
    r->what = what;
    r->time = tk_now();
    r->who = who;
    r->where = where;
    r->number = number;
    r->extra = extra;
}

/* ---- the model: asyncio in small ---- */

typedef struct md_handle {
    struct md_handle *next;
    void (*fn)(void *a, void *b);
    void *a;
    void *b;
    bool cancelled;
    bool timed; /* in the list of timers */
    aioloop_time when;
} md_handle;

typedef struct md_block {
    struct md_block *next;
    double aligned;
} md_block;

typedef enum md_state { MD_PENDING, MD_FINISHED, MD_FAILED, MD_CANCELLED } md_state;

struct md_future;

typedef struct md_callback {
    struct md_callback *next;
    void (*fn)(struct md_future *f, void *arg);
    void *arg;
} md_callback;

typedef enum md_kind { MD_PLAIN, MD_TASK, MD_GATHER, MD_WAIT, MD_WAIT_FOR, MD_SHIELD, MD_EXIT } md_kind;

/* A future, and whatever it is besides. */
typedef struct md_future {
    struct md_future *next; /* all of them */
    md_kind kind;
    int id; /* TK_NOBODY: nobody can see it */
    md_state state;
    int64_t number;
    int code;
    void *value;
    bool looked;
    bool yields; /* waiting takes an iteration, though it is done */
    md_callback *callbacks;
    /* of several */
    struct md_future *inner[TK_MEMBERS];
    int count;
    int finished;
    int mode;
    bool failed;
    bool cancel_requested;
    bool expired;
    md_handle *timer;
    /* a task */
    tk_task *task;
    bool started;
    bool must_cancel;
    int cancels;
    struct md_future *fut_waiter;
    md_handle *nap;
    bool nap_cancelled;
    /* leaving a group */
    struct md_group *group;
} md_future;

typedef struct md_group {
    md_future *parent;
    md_future *members[TK_TASKS];
    int count;
    int errors[TK_TASKS + 1];
    int error_count;
    md_future *exit;
    int64_t outcome;
    bool exiting;
    bool aborting;
    bool parent_cancel_requested;
    bool propagate; /* the cancellation */
} md_group;

typedef struct md_timeout {
    md_future *task;
    md_handle *timer;
    int cancelling;
    bool expiring;
    bool over;
} md_timeout;

static struct {
    aioloop_time now;
    md_handle *ready;
    md_handle **ready_end;
    md_handle *timers;
    md_future *futures;
    md_future *current;
    md_block *blocks;
    bool stopping;
} md;

static void *md_new(size_t size) {
    md_block *b = (md_block *)calloc(1, sizeof(*b) + size);
    if (b == NULL)
        abort();
    b->next = md.blocks;
    md.blocks = b;
    return b + 1;
}

static void md_begin(void) {
    memset(&md, 0, sizeof(md));
    md.ready_end = &md.ready;
}

static void md_end(void) {
    while (md.blocks != NULL) {
        md_block *b = md.blocks;
        md.blocks = b->next;
        free(b);
    }
}

static md_handle *md_handle_new(void (*fn)(void *a, void *b), void *a, void *b) {
    md_handle *h = (md_handle *)md_new(sizeof(*h));
    h->fn = fn;
    h->a = a;
    h->b = b;
    return h;
}

static void md_append(md_handle *h) {
    h->next = NULL;
    *md.ready_end = h;
    md.ready_end = &h->next;
}

static md_handle *md_call_soon(void (*fn)(void *a, void *b), void *a, void *b) {
    md_handle *h = md_handle_new(fn, a, b);
    md_append(h);
    return h;
}

static md_handle *md_call_at(aioloop_time when, void (*fn)(void *a, void *b), void *a, void *b) {
    md_handle *h = md_handle_new(fn, a, b);
    md_handle **place = &md.timers;
    while (*place != NULL && (*place)->when <= when)
        place = &(*place)->next;
    h->when = when;
    h->timed = true;
    h->next = *place;
    *place = h;
    return h;
}

static void md_handle_cancel(md_handle *h) {
    md_handle **place = &md.timers;
    if (h == NULL)
        return;
    h->cancelled = true;
    if (!h->timed)
        return;
    while (*place != h)
        place = &(*place)->next;
    *place = h->next;
    h->timed = false;
}

/* Until it is stopped or nothing can happen any more. */
static void md_run(void) {
    while (!md.stopping && (md.ready != NULL || md.timers != NULL)) {
        md_handle *batch;
        if (md.ready == NULL && md.now < md.timers->when)
            md.now = md.timers->when;
        while (md.timers != NULL && md.timers->when <= md.now) {
            md_handle *h = md.timers;
            md.timers = h->next;
            h->timed = false;
            md_append(h);
        }
        batch = md.ready;
        md.ready = NULL;
        md.ready_end = &md.ready;
        while (batch != NULL) {
            md_handle *h = batch;
            batch = h->next;
            if (!h->cancelled)
                h->fn(h->a, h->b);
        }
    }
}

/* ---- the model's futures ---- */

static md_future *md_future_new(md_kind kind, int id) {
    md_future *f = (md_future *)md_new(sizeof(*f));
    f->kind = kind;
    f->id = id;
    f->next = md.futures;
    md.futures = f;
    return f;
}

static void md_run_callback(void *a, void *b) {
    md_callback *c = (md_callback *)a;
    c->fn((md_future *)b, c->arg);
}

static void md_done(md_future *f, md_state state) {
    md_callback *c = f->callbacks;
    f->state = state;
    f->callbacks = NULL;
    for (; c != NULL; c = c->next)
        md_call_soon(md_run_callback, c, f);
}

static void md_finish(md_future *f, int64_t number, void *value) {
    f->number = number;
    f->value = value;
    md_done(f, MD_FINISHED);
}

static void md_fail(md_future *f, int code) {
    f->code = code;
    f->looked = false; /* set_exception: __log_traceback = True */
    md_done(f, MD_FAILED);
}

static void md_end_cancelled(md_future *f) {
    f->code = AIOLOOP_ECANCELED;
    md_done(f, MD_CANCELLED);
}

static void md_add_done_callback(md_future *f, void (*fn)(md_future *f, void *arg), void *arg) {
    md_callback *c = (md_callback *)md_new(sizeof(*c));
    md_callback **place = &f->callbacks;
    c->fn = fn;
    c->arg = arg;
    if (f->state != MD_PENDING) {
        md_call_soon(md_run_callback, c, f);
        return;
    }
    while (*place != NULL)
        place = &(*place)->next;
    *place = c;
}

static void md_remove_done_callback(md_future *f, void (*fn)(md_future *f, void *arg), void *arg) {
    md_callback **place = &f->callbacks;
    while (*place != NULL) {
        if ((*place)->fn == fn && (*place)->arg == arg)
            *place = (*place)->next;
        else
            place = &(*place)->next;
    }
}

/* The result, looked at. */
static int64_t md_result(md_future *f, void **value) {
    f->looked = true;
    *value = NULL;
    if (f->state != MD_FINISHED)
        return f->code;
    *value = f->value;
    return f->number;
}

static void md_copy(md_future *f, md_future *from) {
    from->looked = true;
    if (from->state == MD_FINISHED)
        md_finish(f, from->number, from->value);
    else if (from->state == MD_CANCELLED)
        md_end_cancelled(f);
    else
        md_fail(f, from->code);
}

static bool md_cancel(md_future *f);
static void md_task_step(void *a, void *b);

static void md_group_abort(md_group *g) {
    int i;
    g->aborting = true;
    for (i = 0; i < g->count; i++)
        md_cancel(g->members[i]);
}

static void md_wait_end(md_future *f);

static bool md_task_cancel(md_future *f) {
    f->cancels++;
    /* One that has failed is not looked at by this: unlike asyncio, the library reports an error that came too late
     * for whoever waited. */
    if (f->fut_waiter != NULL && f->fut_waiter->state == MD_PENDING && md_cancel(f->fut_waiter))
        return true;
    if (f->nap != NULL) { /* the sleep's future is cancelled */
        if (f->nap->timed) {
            md_handle_cancel(f->nap);
            md_call_soon(md_task_step, f, NULL);
        }
        f->nap = NULL;
        f->nap_cancelled = true;
        return true;
    }
    f->must_cancel = true;
    return true;
}

static bool md_cancel(md_future *f) {
    int i;
    f->looked = true;
    if (f->state != MD_PENDING)
        return false;
    switch (f->kind) {
    case MD_TASK:
        return md_task_cancel(f);
    case MD_GATHER:
        f->cancel_requested = true;
        for (i = 0; i < f->count; i++)
            md_cancel(f->inner[i]);
        return true;
    case MD_WAIT_FOR:
        if (md_cancel(f->inner[0])) {
            f->cancel_requested = true;
            return true;
        }
        break; /* it is done, and what waits for the waiting is cancelled all the same */
    case MD_EXIT:
        if (!f->group->aborting) {
            f->group->propagate = true;
            md_group_abort(f->group);
        }
        return true;
    case MD_WAIT:
        md_wait_end(f);
        break;
    case MD_PLAIN:
    case MD_SHIELD:
        break;
    }
    md_handle_cancel(f->timer);
    md_end_cancelled(f);
    return true;
}

/* ---- the model's tasks ---- */

static tk_suspension tk_advance(tk_task *t, int64_t n, void *value);
static void tk_disposed(tk_task *t);
static void tk_give_token(int id, bool grant);

static void md_task_wakeup(md_future *f, void *arg) {
    md_task_step(arg, f);
}

static void md_task_finish(md_future *t, int64_t n) {
    tk_disposed(t->task);
    md_handle_cancel(t->timer);
    if (n >= 0 && t->must_cancel)
        n = AIOLOOP_ECANCELED;
    else if (n >= 0)
        tk_give_token(t->id, false);
    if (n == AIOLOOP_ECANCELED && t->expired && t->cancels <= 1)
        n = AIOLOOP_ETIMEDOUT;
    if (n >= 0)
        md_finish(t, n, &tk->token[t->id]);
    else if (n == AIOLOOP_ECANCELED)
        md_end_cancelled(t);
    else
        md_fail(t, (int)n);
}

/* What the task is given for the future it has waited for; a group's errors come before a cancellation, which comes
 * again. */
static int64_t md_task_take(md_future *t, md_future *f, void **value) {
    int64_t n;
    bool collected = f != NULL && f->kind == MD_EXIT && f->state == MD_FAILED;
    *value = NULL;
    if (t->must_cancel && !collected) {
        t->must_cancel = false;
        return AIOLOOP_ECANCELED;
    }
    if (f == NULL)
        return t->nap_cancelled ? AIOLOOP_ECANCELED : 0;
    n = md_result(f, value);
    if (collected)
        t->must_cancel = t->cancels != 0;
    return n;
}

/* b: the future that is done, or NULL. */
static void md_task_step(void *a, void *b) {
    md_future *t = (md_future *)a;
    md_future *before = md.current;
    void *value = NULL;
    int64_t n = 0;
    md.current = t;
    t->fut_waiter = NULL;
    t->nap = NULL;
    if (!t->started && t->must_cancel) {
        md_task_finish(t, AIOLOOP_ECANCELED);
        md.current = before;
        return;
    }
    if (t->started)
        n = md_task_take(t, (md_future *)b, &value);
    t->started = true;
    t->nap_cancelled = false;
    for (;;) {
        tk_suspension what = tk_advance(t->task, n, value);
        md_future *f = (md_future *)t->task->awaited;
        if (what == TK_ENDS) {
            md_task_finish(t, t->task->result);
            break;
        }
        if (what == TK_NAPS) {
            t->nap_cancelled = t->task->delay > 0 && t->must_cancel;
            if (t->nap_cancelled)
                t->must_cancel = false;
            if (t->task->delay > 0 && !t->nap_cancelled)
                t->nap = md_call_at(md.now + t->task->delay, md_task_step, t, NULL);
            else
                md_call_soon(md_task_step, t, NULL);
            break;
        }
        if (f->state == MD_PENDING) {
            md_add_done_callback(f, md_task_wakeup, t);
            t->fut_waiter = f;
            if (t->must_cancel && md_cancel(f))
                t->must_cancel = false;
            break;
        }
        if (f->yields) {
            md_call_soon(md_task_step, t, f);
            break;
        }
        n = md_result(f, &value);
        if (f->kind == MD_EXIT && f->state == MD_FAILED)
            t->must_cancel = t->cancels != 0;
    }
    md.current = before;
}

static void md_task_expired(void *a, void *b) {
    md_future *t = (md_future *)a;
    (void)b;
    t->expired = true;
    md_cancel(t);
}

static md_future *md_create_task(tk_task *task, bool eager) {
    md_future *t = md_future_new(MD_TASK, task->index);
    aioloop_time limit = tk->script->limit[task->index];
    t->task = task;
    if (limit != 0)
        t->timer = md_call_at(md.now + limit, md_task_expired, t, NULL);
    if (eager)
        md_task_step(t, NULL);
    else
        md_call_soon(md_task_step, t, NULL);
    return t;
}

static int md_uncancel(md_future *t) {
    if (t->cancels > 0 && --t->cancels == 0)
        t->must_cancel = false;
    return t->cancels;
}

/* ---- the model's combinators ---- */

static void md_sleep_over(void *a, void *b) {
    (void)b;
    md_finish((md_future *)a, 0, NULL);
}

static md_future *md_sleep(aioloop_time delay) {
    md_future *f = md_future_new(MD_PLAIN, TK_NOBODY);
    if (delay > 0) {
        f->timer = md_call_at(md.now + delay, md_sleep_over, f, NULL);
        return f;
    }
    f->yields = true;
    md_finish(f, 0, NULL);
    return f;
}

static void md_gather_count(md_future *inner, void *arg) {
    md_future *f = (md_future *)arg;
    f->finished++;
    inner->looked = true;
    if (f->state != MD_PENDING)
        return;
    if (f->mode == 0 && !f->cancel_requested && inner->state != MD_FINISHED)
        md_fail(f, inner->code); /* also for a cancelled one: gather itself was not */
    else if (f->finished == f->count && f->cancel_requested)
        md_end_cancelled(f);
    else if (f->finished == f->count)
        md_finish(f, f->count, f);
}

static md_future *md_of(md_kind kind, int id, void *const *inner, int count) {
    md_future *f = md_future_new(kind, id);
    int i;
    f->count = count;
    for (i = 0; i < count; i++)
        f->inner[i] = (md_future *)inner[i];
    return f;
}

static md_future *md_gather(int id, void *const *inner, int count, bool return_exceptions) {
    md_future *f = md_of(MD_GATHER, id, inner, count);
    bool done[TK_MEMBERS];
    int i;
    f->mode = return_exceptions;
    for (i = 0; i < count; i++) {
        done[i] = f->inner[i]->state != MD_PENDING;
        if (!done[i])
            md_add_done_callback(f->inner[i], md_gather_count, f);
    }
    for (i = 0; i < count; i++)
        if (done[i])
            md_gather_count(f->inner[i], f);
    if (count == 0)
        md_finish(f, 0, f);
    return f;
}

static bool md_wait_is_over(const md_future *f) {
    return f->finished == f->count || (f->finished != 0 && f->mode == AIOLOOP_FIRST_COMPLETED) ||
           (f->failed && f->mode == AIOLOOP_FIRST_EXCEPTION);
}

static void md_wait_finish(md_future *f) {
    int64_t done = 0;
    int i;
    for (i = 0; i < f->count; i++)
        done += f->inner[i]->state != MD_PENDING;
    md_wait_end(f);
    md_finish(f, done, NULL);
}

static void md_wait_done(md_future *inner, void *arg) {
    md_future *f = (md_future *)arg;
    f->finished++;
    f->failed |= inner->state == MD_FAILED;
    if (f->state == MD_PENDING && md_wait_is_over(f))
        md_wait_finish(f);
}

static void md_wait_end(md_future *f) {
    int i;
    md_handle_cancel(f->timer);
    for (i = 0; i < f->count; i++)
        md_remove_done_callback(f->inner[i], md_wait_done, f);
}

static void md_wait_late(void *a, void *b) {
    (void)b;
    md_wait_finish((md_future *)a);
}

static md_future *md_wait(int id, void *const *inner, int count, int mode, aioloop_time timeout) {
    md_future *f = md_of(MD_WAIT, id, inner, count);
    int i;
    f->mode = mode;
    for (i = 0; i < count; i++) {
        if (f->inner[i]->state == MD_PENDING) {
            md_add_done_callback(f->inner[i], md_wait_done, f);
        } else {
            f->finished++;
            f->failed |= f->inner[i]->state == MD_FAILED;
        }
    }
    if (md_wait_is_over(f))
        md_wait_finish(f);
    else if (timeout != 0)
        f->timer = md_call_at(md.now + timeout, md_wait_late, f, NULL);
    return f;
}

static void md_follow(md_future *inner, void *arg) {
    md_future *f = (md_future *)arg;
    md_handle_cancel(f->timer);
    if (f->state != MD_PENDING)
        return;
    if (inner->state == MD_CANCELLED && f->expired && !f->cancel_requested)
        md_fail(f, AIOLOOP_ETIMEDOUT);
    else
        md_copy(f, inner);
}

static void md_wait_for_late(void *a, void *b) {
    md_future *f = (md_future *)a;
    (void)b;
    if (f->state != MD_PENDING || f->inner[0]->state != MD_PENDING)
        return;
    f->expired = true;
    md_cancel(f->inner[0]);
}

static md_future *md_wait_for(int id, void *inner, aioloop_time timeout) {
    md_future *f = md_of(MD_WAIT_FOR, id, &inner, 1);
    if (f->inner[0]->state != MD_PENDING) {
        md_follow(f->inner[0], f);
        return f;
    }
    md_add_done_callback(f->inner[0], md_follow, f);
    if (timeout > 0)
        f->timer = md_call_at(md.now + timeout, md_wait_for_late, f, NULL);
    else
        md_wait_for_late(f, NULL);
    return f;
}

static md_future *md_shield(int id, void *inner) {
    md_future *f = md_of(MD_SHIELD, id, &inner, 1);
    if (f->inner[0]->state != MD_PENDING)
        md_follow(f->inner[0], f);
    else
        md_add_done_callback(f->inner[0], md_follow, f);
    return f;
}

/* ---- the model's scopes ---- */

static void md_timeout_due(void *a, void *b) {
    md_timeout *t = (md_timeout *)a;
    (void)b;
    t->timer = NULL;
    t->expiring = true;
    md_cancel(t->task);
}

static int md_timeout_reschedule(md_timeout *t, aioloop_time when) {
    if (t->expiring || t->over)
        return AIOLOOP_EMISUSE;
    md_handle_cancel(t->timer);
    t->timer = NULL;
    if (when <= md.now)
        t->timer = md_call_soon(md_timeout_due, t, NULL);
    else if (when != AIOLOOP_FOREVER)
        t->timer = md_call_at(when, md_timeout_due, t, NULL);
    return 0;
}

static md_timeout *md_timeout_enter(aioloop_time when) {
    md_timeout *t = (md_timeout *)md_new(sizeof(*t));
    t->task = md.current;
    t->cancelling = t->task->cancels;
    md_timeout_reschedule(t, when);
    return t;
}

static int64_t md_timeout_exit(md_timeout *t, int64_t outcome) {
    md_handle_cancel(t->timer);
    t->over = true;
    if (t->expiring && md_uncancel(t->task) <= t->cancelling && outcome == AIOLOOP_ECANCELED)
        return AIOLOOP_ETIMEDOUT;
    return outcome;
}

static md_group *md_group_enter(void) {
    md_group *g = (md_group *)md_new(sizeof(*g));
    g->parent = md.current;
    return g;
}

/* The end of __aexit__. */
static void md_group_check_over(md_group *g) {
    if (!g->exiting || g->count != 0)
        return;
    if (g->outcome < 0 && g->outcome != AIOLOOP_ECANCELED)
        g->errors[g->error_count++] = (int)g->outcome;
    if (g->error_count != 0)
        md_fail(g->exit, AIOLOOP_ETASKGROUP);
    else if (g->propagate)
        md_end_cancelled(g->exit);
    else
        md_finish(g->exit, g->outcome < 0 ? 0 : g->outcome, NULL);
}

static void md_group_task_done(md_future *f, void *arg) {
    md_group *g = (md_group *)arg;
    int i = 0;
    while (g->members[i] != f)
        i++;
    for (g->count--; i < g->count; i++)
        g->members[i] = g->members[i + 1];
    if (f->state == MD_FAILED) {
        f->looked = true;
        g->errors[g->error_count++] = f->code;
        if (!g->aborting && !g->parent_cancel_requested) {
            md_group_abort(g);
            if (!g->exiting) {
                g->parent_cancel_requested = true;
                md_cancel(g->parent);
            }
        }
    }
    md_group_check_over(g);
}

static md_future *md_group_create_task(md_group *g, tk_task *task, bool eager) {
    md_future *t;
    if (g->aborting || (g->exiting && g->count == 0)) {
        tk_disposed(task);
        t = md_future_new(MD_PLAIN, task->index);
        md_fail(t, AIOLOOP_EMISUSE);
        return t;
    }
    t = md_create_task(task, eager);
    g->members[g->count++] = t;
    md_add_done_callback(t, md_group_task_done, g);
    return t;
}

static md_future *md_group_exit(int id, md_group *g, int64_t outcome) {
    md_future *f = md_future_new(MD_EXIT, id);
    f->group = g;
    g->exit = f;
    g->exiting = true;
    g->outcome = outcome;
    g->propagate = outcome == AIOLOOP_ECANCELED;
    if (g->parent_cancel_requested && md_uncancel(g->parent) == 0)
        g->propagate = false;
    if (outcome < 0 && !g->aborting)
        md_group_abort(g);
    md_group_check_over(g);
    return f;
}

static int md_count_tasks(void) {
    const md_future *f;
    int count = 0;
    for (f = md.futures; f != NULL; f = f->next)
        count += f->kind == MD_TASK && f->state == MD_PENDING;
    return count;
}

/* ---- the library ---- */

typedef struct tk_block {
    size_t size;
    size_t mark;
} tk_block;

#define TK_MARK ((size_t)0x51b10c52)

static void *tk_allocate(void *context, void *pointer, size_t old_size, size_t new_size) {
    tk_block *old = pointer == NULL ? NULL : (tk_block *)pointer - 1;
    tk_block *block = NULL;
    (void)context;
    if (old != NULL && (old->mark != TK_MARK || old->size != old_size)) {
        tk_fail("a block is freed that is none, or of another size");
        return NULL;
    }
    if (new_size != 0) {
        if (++tk->allocations == tk->fault_at) {
            tk->fault_fired = true;
            return NULL;
        }
        block = (tk_block *)malloc(sizeof(*block) + new_size);
        if (block == NULL)
            abort();
        block->size = new_size;
        block->mark = TK_MARK;
        memset(block + 1, 0xa5, new_size < 4096 ? new_size : 4096);
        if (old != NULL)
            memcpy(block + 1, old + 1, old_size < new_size ? old_size : new_size);
        tk->blocks++;
        tk->bytes += new_size;
    }
    if (old != NULL) {
        tk->blocks--;
        tk->bytes -= old_size;
        memset(old, 0xdd, sizeof(*old) + (old_size < 4096 ? old_size : 4096));
        free(old);
    }
    return block == NULL ? NULL : block + 1;
}

static int64_t tk_return(const tk_task *t, void **out) {
    if (t->result >= 0) {
        tk_give_token(t->index, false);
        *out = &tk->token[t->index];
    }
    return t->result;
}

static int64_t tk_coroutine(aioloop *loop, void *arg, void **out) {
    tk_arg *a = (tk_arg *)arg;
    int64_t n = 0;
    void *pointer = NULL;
    for (;;) {
        tk_suspension what = tk_advance(a->task, n, pointer);
        pointer = NULL;
        if (what == TK_ENDS)
            break;
        if (what == TK_WAITS) {
            n = aioloop_await((aioloop_future *)a->task->awaited, a->task->blind ? NULL : (void *)&pointer);
        } else {
            (void)aioloop_frame_sleep(loop, a->task->delay);
            n = aioloop_frame_result(loop, NULL);
        }
    }
    return tk_return(a->task, out);
}

static int64_t tk_step_function(aioloop *loop, aioloop_frame *frame, void **out) {
    tk_arg *self = (tk_arg *)(void *)frame;
    tk_suspension what;
    AIOLOOP_BEGIN(loop, frame);
    for (;;) {
        what = tk_advance(self->task, self->n, self->pointer);
        self->pointer = NULL;
        if (what == TK_ENDS)
            break;
        if (what == TK_WAITS) {
            AIOLOOP_AWAIT(self->n, (aioloop_future *)self->task->awaited,
                          self->task->blind ? NULL : (void *)&self->pointer);
        } else {
            AIOLOOP_SLEEP(self->n, self->task->delay);
        }
    }
    return tk_return(self->task, out);
    AIOLOOP_END;
}

static void tk_dispose_arg(void *arg) {
    tk_disposed(((tk_arg *)arg)->task);
}

static void tk_dispose_token(void *pointer) {
    ((tk_token *)pointer)->disposed++;
}

static bool tk_is_token(const void *pointer) {
    return (const char *)pointer >= (const char *)tk->token &&
           (const char *)pointer < (const char *)(tk->token + TK_OBJECTS);
}

static aioloop_future *tk_create_task(tk_task *t, void *group, bool eager) {
    aioloop_task_options options = AIOLOOP_ZERO;
    bool stackful = tk->engine == TK_STACKFUL || (tk->engine == TK_MIXED && (t->index & 1) != 0);
    options.eager = eager;
    options.timeout = tk->script->limit[t->index];
    options.dispose = tk_dispose_arg;
    options.dispose_result = tk_dispose_token;
    options.copy_size = tk->script->copied[t->index] ? sizeof(t->arg) : 0;
    if (group != NULL && stackful)
        return aioloop_task_group_create_task((aioloop_task_group *)group, tk_coroutine, &t->arg, &options);
    if (group != NULL)
        return aioloop_task_group_create_task_frame((aioloop_task_group *)group, tk_step_function, &t->arg.frame,
                                                    &options);
    if (stackful)
        return aioloop_create_task(tk->loop, tk_coroutine, &t->arg, &options);
    return aioloop_create_task_frame(tk->loop, tk_step_function, &t->arg.frame, &options);
}

/* ---- the same calls for both ---- */

static bool tk_modelled(void) {
    return tk->engine == TK_MODEL;
}

static aioloop_time tk_now(void) {
    return tk_modelled() ? md.now : tk->loop == NULL ? 0 : aioloop_now(tk->loop);
}

static int tk_count_tasks(void) {
    return tk_modelled() ? md_count_tasks() : (int)aioloop_all_tasks(tk->loop, NULL, 0);
}

static bool tk_cancel(void *f) {
    return tk_modelled() ? md_cancel((md_future *)f) : aioloop_future_cancel((aioloop_future *)f, NULL);
}

/* Its code, looked at: AIOLOOP_EINVALIDSTATE while it is pending. */
static int tk_exception(void *f) {
    md_future *m = (md_future *)f;
    if (!tk_modelled())
        return aioloop_future_exception((aioloop_future *)f);
    if (m->state == MD_PENDING)
        return AIOLOOP_EINVALIDSTATE;
    m->looked = true;
    return m->code;
}

static bool tk_is_done(void *f) {
    return tk_modelled() ? ((md_future *)f)->state != MD_PENDING : aioloop_future_done((aioloop_future *)f);
}

static bool tk_is_cancelled(void *f) {
    return tk_modelled() ? ((md_future *)f)->state == MD_CANCELLED : aioloop_future_cancelled((aioloop_future *)f);
}

static int tk_cancelling(void *f) {
    return tk_modelled() ? ((md_future *)f)->cancels : aioloop_task_cancelling((aioloop_future *)f);
}

static int tk_uncancel(void *f) {
    return tk_modelled() ? md_uncancel((md_future *)f) : aioloop_task_uncancel((aioloop_future *)f);
}

static void tk_give_token(int id, bool grant) {
    tk->token[id].given = true;
    tk->token[id].grant = grant;
}

static int tk_set_result(int id, void *f, bool grant) {
    md_future *m = (md_future *)f;
    int err = 0;
    if (!tk_modelled() && grant)
        err = aioloop_future_set_grant((aioloop_future *)f, id, &tk->token[id], tk_dispose_token);
    else if (!tk_modelled())
        err = aioloop_future_set_result((aioloop_future *)f, id, &tk->token[id], tk_dispose_token);
    else if (m->state != MD_PENDING)
        err = AIOLOOP_EINVALIDSTATE;
    else
        md_finish(m, id, &tk->token[id]);
    if (err == 0)
        tk_give_token(id, grant);
    return err;
}

static int tk_set_exception(void *f, int code) {
    md_future *m = (md_future *)f;
    if (!tk_modelled())
        return aioloop_future_set_exception((aioloop_future *)f, code, NULL);
    if (m->state != MD_PENDING)
        return AIOLOOP_EINVALIDSTATE;
    md_fail(m, code);
    return 0;
}

static int tk_code_of_done(void *f);
static void tk_happen(const tk_event *e);

static void tk_watched_done(int id, void *f) {
    int i;
    tk_trace("is done", id, 0, tk_code_of_done(f), tk_is_cancelled(f));
    for (i = 0; i < tk->script->events; i++)
        if (tk->script->event[i].after == id)
            tk_happen(&tk->script->event[i]);
}

static void tk_on_done(aioloop_future *f, void *arg) {
    tk_watched_done((int)(intptr_t)arg, f);
}

static void md_on_done(md_future *f, void *arg) {
    tk_watched_done((int)(intptr_t)arg, f);
}

/* Without looking at it. */
static int tk_code_of_done(void *f) {
    if (tk_modelled())
        return ((md_future *)f)->code;
    return ((aioloop_future *)f)
        ->code; /* the one look behind the curtain: every function that asks counts as looking */
}

/* f was made. keep: it can be used by its id from now on. */
static void tk_made(int id, void *f, bool keep) {
    tk_object *o = &tk->object[id];
    o->known = f;
    o->order = ++tk->order;
    if (!keep)
        return;
    o->handle = f;
    if (!tk_modelled())
        (void)aioloop_future_ref((aioloop_future *)f);
    if (!tk->script->watched[id])
        return;
    if (tk_modelled())
        md_add_done_callback((md_future *)f, md_on_done, (void *)(intptr_t)id);
    else
        (void)aioloop_future_add_done_callback((aioloop_future *)f, tk_on_done, (void *)(intptr_t)id);
}

/* ---- the interpreter ---- */

static bool tk_is_task(int id) {
    return id < TK_TASKS;
}

static void tk_disposed(tk_task *t) {
    t->disposed++;
    tk_trace("lets go", t->index, t->at, 0, 0);
}

static void tk_create(int index, void *group, bool eager, bool keep) {
    tk_task *t = &tk->task[index];
    void *f;
    if (t->created)
        return;
    t->created = true;
    t->membership = group;
    t->arg.task = t;
    if (!tk_modelled())
        f = tk_create_task(t, group, eager);
    else if (group != NULL)
        f = md_group_create_task((md_group *)group, t, eager);
    else
        f = md_create_task(t, eager);
    tk_made(index, f, keep);
    if (!tk_modelled() && !keep)
        aioloop_future_unref((aioloop_future *)f);
}

/* The innermost group that the task has entered, or the one it belongs to. */
static void *tk_group_of(tk_task *t, bool inherited) {
    int i;
    if (inherited)
        return tk->fault_fired ? NULL : t->membership;
    for (i = t->depth - 1; i >= 0; i--)
        if (tk->script->step[t->index][t->scopes[i].step].op == TK_GROUP)
            return t->scopes[i].group;
    return NULL;
}

static tk_suspension tk_wait_for_it(tk_task *t, void *f) {
    t->awaited = f;
    t->waiting = true;
    return TK_WAITS;
}

/* Something that steps and events have in common. */
static void tk_interfere(tk_op op, int who, int at, int of, int number) {
    void *f = tk->object[of].handle;
    int64_t n = 0;
    if (f == NULL || op == TK_NOTHING)
        return;
    if (op == TK_CANCEL)
        n = tk_cancel(f);
    else if (op == TK_UNCANCEL)
        n = tk_is_task(of) ? tk_uncancel(f) : 0;
    else if (op == TK_SET_RESULT)
        n = tk_set_result(of, f, number != 0);
    else if (op == TK_SET_EXCEPTION)
        n = tk_set_exception(f, number);
    else if (op == TK_LOOK)
        n = tk_exception(f);
    tk_trace(tk_op_names[op], who, at, of, n);
}

static void tk_combine_trace(const tk_task *t, int at, int id, void *f) {
    tk_trace("makes", t->index, at, id, tk_is_done(f));
}

/* Makes what the step says; NULL if what it needs is not there. */
static void *tk_combine(tk_task *t, const tk_step *s, int id) {
    void *inner[TK_MEMBERS];
    aioloop_future *futures[TK_MEMBERS];
    aioloop_wait_options options = AIOLOOP_ZERO;
    int i;
    int count = 0;
    void *f = NULL;
    for (i = 0; i < s->count; i++)
        if (tk->object[s->of[i]].handle != NULL)
            inner[count++] = tk->object[s->of[i]].handle;
    if (count != s->count)
        return NULL;
    for (i = 0; i < count; i++)
        futures[i] = (aioloop_future *)inner[i];
    if (tk_modelled()) {
        switch (s->op) {
        case TK_SLEEP:
            f = md_sleep(s->time);
            break;
        case TK_WAIT_FOR:
            f = md_wait_for(id, inner[0], s->time);
            break;
        case TK_SHIELD:
            f = md_shield(id, inner[0]);
            break;
        case TK_GATHER:
            f = md_gather(id, inner, count, s->number != 0);
            break;
        default:
            f = md_wait(id, inner, count, s->number, s->time);
        }
    } else {
        options.return_when = (aioloop_return_when)s->number;
        options.timeout = s->time;
        switch (s->op) {
        case TK_SLEEP:
            f = aioloop_sleep(tk->loop, s->time);
            break;
        case TK_WAIT_FOR:
            f = aioloop_wait_for(futures[0], s->time);
            break;
        case TK_SHIELD:
            f = aioloop_shield(futures[0]);
            break;
        case TK_GATHER:
            f = aioloop_gather(tk->loop, futures, (size_t)count, s->number != 0);
            break;
        default:
            f = aioloop_wait(tk->loop, futures, (size_t)count, &options);
        }
    }
    tk_combine_trace(t, t->at, id, f);
    tk_made(id, f, s->keep);
    return f;
}

/* An error on its way out: to the end of the innermost scope, or of the task. */
static bool tk_raise(tk_task *t, int64_t code) {
    if (t->depth == 0) {
        t->result = code;
        return false;
    }
    t->outcome = code;
    t->at = tk->script->step[t->index][t->scopes[t->depth - 1].step].match;
    return true;
}

/* Deals with the outcome of a step. False: the task has ended. */
static bool tk_outcome(tk_task *t, const tk_step *s, int64_t n) {
    if (n < 0) {
        switch (s->care) {
        case TK_PASS:
            return tk_raise(t, n);
        case TK_REPLACE:
            return tk_raise(t, -500 - t->at);
        case TK_LATE:
            if (n != AIOLOOP_ETIMEDOUT)
                return tk_raise(t, n);
            break;
        case TK_ERRORS:
            if (n == AIOLOOP_ECANCELED)
                return tk_raise(t, n);
            break;
        case TK_TAKE_BACK:
            if (n == AIOLOOP_ECANCELED && tk->object[t->index].handle != NULL)
                tk_interfere(TK_UNCANCEL, t->index, t->at, t->index, 0);
            break;
        case TK_SWALLOW:
            break;
        }
    }
    t->at++;
    return true;
}

/* What came with a result. */
static void tk_look_at(tk_task *t, int64_t n, void *value) {
    int i;
    if (value == NULL)
        return;
    if (tk_is_token(value)) {
        ((tk_token *)value)->taken = true;
        tk_trace("a pointer", t->index, t->at, (tk_token *)value - tk->token, 0);
    } else if (tk_modelled()) {
        md_future *f = (md_future *)value;
        for (i = 0; i < f->count; i++) {
            void *inner;
            int64_t m = md_result(f->inner[i], &inner);
            tk_trace("one of", t->index, t->at, i, m);
            if (inner != NULL && tk_is_token(inner))
                ((tk_token *)inner)->taken = true;
        }
    } else {
        aioloop_results *results = (aioloop_results *)value;
        for (i = 0; i < tk->result_count && tk->results[i] != results; i++)
            continue;
        if (i == tk->result_count && i < TK_RESULTS)
            tk->results[tk->result_count++] = results;
        for (i = 0; i < (int)n; i++) {
            void *inner = NULL;
            int64_t m = aioloop_results_get(results, (size_t)i, &inner);
            tk_trace("one of", t->index, t->at, i, m);
            if (m >= 0 && inner != NULL && tk_is_token(inner)) {
                ((tk_token *)inner)->taken = true;
            } else if (m >= 0 && inner != NULL) { /* the results of another gather, taken now */
                int j;
                for (j = 0; j < tk->result_count && tk->results[j] != inner; j++)
                    continue;
                if (j == tk->result_count && j < TK_RESULTS)
                    tk->results[tk->result_count++] = (aioloop_results *)inner;
            }
        }
    }
}

static int tk_compare(const void *a, const void *b) {
    return *(const int *)a - *(const int *)b;
}

/* The errors that a group has collected. */
static void tk_look_at_errors(tk_task *t, md_group *g) {
    int codes[TK_TASKS + 1];
    int count = 0;
    int i;
    if (tk_modelled()) {
        for (i = 0; i < g->error_count; i++)
            codes[count++] = g->errors[i];
    } else {
        const aioloop_error *error = aioloop_last_error(tk->loop);
        for (i = 0; i < (int)aioloop_error_count(error) && i <= TK_TASKS; i++)
            codes[count++] = aioloop_error_code(aioloop_error_at(error, (size_t)i));
    }
    qsort(codes, (size_t)count, sizeof(codes[0]), tk_compare);
    for (i = 0; i < count; i++)
        tk_trace("an error of", t->index, t->at, codes[i], count);
}

static bool tk_take(tk_task *t, const tk_step *s, int64_t n, void *value) {
    t->waiting = false;
    tk_trace("gets", t->index, t->at, n, 0);
    if (t->blind && n >= TK_FUTURE_ID(0) && n < TK_FUTURE_ID(TK_FUTURES) && tk->token[n].grant)
        tk->token[n].taken = true; /* the number is the future's id, and it is the only one in this range */
    if (n >= 0 && !t->blind)
        tk_look_at(t, n, value);
    if (s->op == TK_LEAVE) {
        t->depth--;
        if (n == AIOLOOP_ETASKGROUP)
            tk_look_at_errors(t, (md_group *)t->scopes[t->depth].group);
    }
    return tk_outcome(t, s, n);
}

static void tk_enter(tk_task *t, const tk_step *s) {
    tk_scope *scope = &t->scopes[t->depth++];
    scope->step = t->at;
    if (s->op == TK_GROUP && tk_modelled()) {
        scope->group = md_group_enter();
    } else if (s->op == TK_GROUP) {
        scope->group = aioloop_task_group_enter(tk->loop);
    } else if (tk_modelled()) {
        scope->model_timeout = md_timeout_enter(s->time == AIOLOOP_FOREVER ? s->time : md.now + s->time);
    } else {
        (void)aioloop_timeout_enter(tk->loop, &scope->timeout, s->time);
    }
}

static void tk_reschedule(tk_task *t, const tk_step *s) {
    int i = s->number;
    int n;
    aioloop_time when = s->time == AIOLOOP_FOREVER ? s->time : tk_now() + s->time;
    if (i >= t->depth || tk->script->step[t->index][t->scopes[i].step].op != TK_TIMEOUT)
        return;
    n = tk_modelled() ? md_timeout_reschedule(t->scopes[i].model_timeout, when)
                      : aioloop_timeout_reschedule(&t->scopes[i].timeout, when);
    tk_trace("reschedule", t->index, t->at, i, n);
}

/* Leaves the innermost scope. */
static tk_suspension tk_leave(tk_task *t, const tk_step *s) {
    tk_scope *scope = &t->scopes[t->depth - 1];
    int64_t outcome = t->outcome;
    int id = TK_STEP_ID(t->index, t->at);
    t->outcome = 0;
    if (tk->script->step[t->index][s->match].op == TK_GROUP) {
        void *f = tk_modelled() ? (void *)md_group_exit(id, (md_group *)scope->group, outcome)
                                : (void *)aioloop_task_group_exit((aioloop_task_group *)scope->group, outcome);
        tk_made(id, f, false);
        return tk_wait_for_it(t, f);
    }
    outcome =
        tk_modelled() ? md_timeout_exit(scope->model_timeout, outcome) : aioloop_timeout_exit(&scope->timeout, outcome);
    tk_trace("leaves", t->index, t->at, outcome, 0);
    t->depth--;
    return tk_outcome(t, s, outcome) ? TK_WAITS : TK_ENDS;
}

static void tk_check_current(const tk_task *t) {
    aioloop_task *current;
    if (tk_modelled())
        return;
    current = aioloop_current_task(tk->loop);
    if (current == NULL || (tk->object[t->index].handle != NULL && current != tk->object[t->index].handle))
        tk_fail("the current task is not task %d", t->index);
}

/* Runs a task up to its next wait, the result of the last one being n and value. */
static tk_suspension tk_advance(tk_task *t, int64_t n, void *value) {
    tk_check_current(t);
    if (!t->started)
        tk_trace("begins", t->index, 0, tk_count_tasks(), 0);
    t->started = true;
    if (t->waiting) {
        tk_trace("goes on", t->index, t->at, tk_count_tasks(),
                 tk->object[t->index].handle == NULL ? 0 : tk_cancelling(tk->object[t->index].handle));
        if (!tk_take(t, &tk->script->step[t->index][t->at], n, value))
            goto ended;
    }
    while (t->at < tk->script->steps[t->index]) {
        const tk_step *s = &tk->script->step[t->index][t->at];
        void *f;
        tk_suspension what;
        t->blind = s->blind;
        switch (s->op) {
        case TK_NAP:
            t->delay = s->time;
            t->waiting = true;
            return TK_NAPS;
        case TK_AWAIT:
            f = tk->object[s->of[0]].handle;
            if (f != NULL)
                return tk_wait_for_it(t, f);
            break;
        case TK_SLEEP:
        case TK_WAIT_FOR:
        case TK_SHIELD:
        case TK_GATHER:
        case TK_WAIT:
            f = tk_combine(t, s, TK_STEP_ID(t->index, t->at));
            if (f != NULL && !s->keep) {
                t->blind = false;
                return tk_wait_for_it(t, f);
            }
            break;
        case TK_CREATE:
            f = s->grouped ? tk_group_of(t, s->inherited) : NULL;
            if (f != NULL || !s->grouped)
                tk_create(s->of[0], f, s->eager, s->keep);
            break;
        case TK_TIMEOUT:
        case TK_GROUP:
            tk_enter(t, s);
            break;
        case TK_RESCHEDULE:
            tk_reschedule(t, s);
            break;
        case TK_LEAVE:
            t->blind = true;
            what = tk_leave(t, s);
            if (what == TK_ENDS)
                goto ended;
            if (t->waiting)
                return what;
            continue;
        case TK_FAIL:
            if (!tk_raise(t, s->number))
                goto ended;
            continue;
        case TK_CANCEL:
        case TK_UNCANCEL:
        case TK_SET_RESULT:
        case TK_SET_EXCEPTION:
        case TK_LOOK:
            tk_interfere(s->op, t->index, t->at, s->of[0], s->number);
            break;
        case TK_NOTHING:
            break;
        }
        t->at++;
    }
    t->result = 100 + t->index;
ended:
    tk_trace("ends", t->index, t->at, t->result, tk_count_tasks());
    return TK_ENDS;
}

/* ---- from outside ---- */

static void tk_on_event(aioloop *loop, void *arg) {
    (void)loop;
    tk_happen((const tk_event *)arg);
}

static void md_on_event(void *a, void *b) {
    (void)b;
    tk_happen((const tk_event *)a);
}

static void tk_happen(const tk_event *e) {
    void *arg = (void *)(uintptr_t)e;
    if (tk->hops[e - tk->script->event]++ < e->hops) {
        if (tk_modelled())
            md_call_soon(md_on_event, arg, NULL);
        else
            (void)aioloop_call_soon(tk->loop, tk_on_event, arg);
    } else {
        tk_interfere(e->op, TK_NOBODY, 0, e->of, e->number);
    }
}

static void tk_later(aioloop_time delay, bool sweep, const tk_event *event);

/* When the script is over, everything that is left is cancelled until nothing is. */
static void tk_sweep(void) {
    int i;
    int pending = 0;
    int tasks;
    for (i = 0; i < TK_OBJECTS; i++)
        if (tk->object[i].handle != NULL && !tk_is_done(tk->object[i].handle)) {
            (void)tk_cancel(tk->object[i].handle);
            pending++;
        }
    tasks = tk_count_tasks() + pending;
    tk_trace("sweep", TK_NOBODY, 0, tasks, 0);
    if (tasks != 0 && ++tk->sweeps < TK_SWEEPS) {
        tk_later(AIOLOOP_MS(50), true, NULL);
        return;
    }
    if (tasks != 0)
        tk_fail("%d tasks and futures do not end", tasks);
    if (tk_modelled())
        md.stopping = true;
    else
        aioloop_stop(tk->loop);
}

static void tk_on_sweep(aioloop *loop, void *arg) {
    (void)loop;
    (void)arg;
    tk_sweep();
}

static void md_on_sweep(void *a, void *b) {
    (void)a;
    (void)b;
    tk_sweep();
}

static void tk_later(aioloop_time delay, bool sweep, const tk_event *event) {
    int i;
    void *arg = (void *)(uintptr_t)event;
    if (tk_modelled()) {
        md_call_at(md.now + delay, sweep ? md_on_sweep : md_on_event, arg, NULL);
        return;
    }
    for (i = 0; i < 2; i++) { /* a second time, if an allocation had to fail */
        aioloop_timer_handle h = aioloop_call_later(tk->loop, delay, sweep ? tk_on_sweep : tk_on_event, arg);
        if (!aioloop_handle_is_null(&h.handle))
            return;
    }
    tk_fail("a timer cannot be made");
}

/* ---- a run ---- */

static void tk_on_error(aioloop *loop, const aioloop_exception_context *context, void *arg) {
    int i;
    int found = -1;
    (void)loop;
    (void)arg;
    for (i = 0; i < TK_OBJECTS; i++)
        if (context->future != NULL && tk->object[i].known == context->future &&
            (found < 0 || tk->object[i].order > tk->object[found].order))
            found = i;
    if (found < 0 || strstr(context->message, "never retrieved") == NULL) {
        if (!tk->fault_fired)
            tk_fail("a report that nobody expected: %s", context->message);
        return;
    }
    tk->object[found].reports++;
}

static void tk_on_log(aioloop *loop, aioloop_log_level level, const char *text, void *arg) {
    (void)loop;
    (void)level;
    (void)text;
    (void)arg;
    tk->warnings++;
}

static void tk_begin(void) {
    const tk_script *s = tk->script;
    int i;
    for (i = 0; i < TK_TASKS; i++)
        tk->task[i].index = i;
    for (i = 0; i < s->futures; i++)
        tk_made(TK_FUTURE_ID(i),
                tk_modelled() ? (void *)md_future_new(MD_PLAIN, TK_FUTURE_ID(i))
                              : (void *)aioloop_create_future(tk->loop),
                true);
    for (i = 0; i < s->events; i++)
        if (s->event[i].after == TK_NOBODY)
            tk_later(s->event[i].time, false, &s->event[i]);
    tk_later(AIOLOOP_MS(200), true, NULL);
    for (i = 0; i < s->tasks; i++)
        if (s->root[i])
            tk_create(i, NULL, false, true);
}

static void tk_run_model(void) {
    md_future *f;
    md_begin();
    tk_begin();
    md_run();
    if (!md.stopping)
        tk_fail("the model has nothing to do any more");
    for (f = md.futures; f != NULL; f = f->next)
        if (f->id >= 0 && f->state == MD_FAILED && !f->looked)
            tk->object[f->id].expected++;
    md_end();
}

/* Lets go of everything. */
static void tk_let_go(void) {
    int i;
    for (i = 0; i < tk->result_count; i++)
        aioloop_results_free(tk->results[i]);
    for (i = 0; i < TK_OBJECTS; i++) {
        aioloop_future *f = (aioloop_future *)tk->object[i].handle;
        tk->object[i].handle = NULL;
        if (f == NULL)
            continue;
        if (!aioloop_future_done(f))
            tk_fail("object %d is still pending at the end", i);
        aioloop_future_unref(f);
        if (i >= TK_TASKS && i < TK_TASKS + TK_FUTURES)
            aioloop_future_unref(f); /* it was claimed by whoever created it, and again */
    }
}

static void tk_check_end(void) {
    int i;
    for (i = 0; i < TK_TASKS; i++)
        if (tk->task[i].disposed != (int)tk->task[i].created)
            tk_fail("the argument of task %d was disposed of %d times", i, tk->task[i].disposed);
    for (i = 0; i < TK_OBJECTS; i++) {
        const tk_token *k = &tk->token[i];
        if (k->disposed + (int)k->taken != (int)k->given)
            tk_fail("the result of %d was taken %d times and disposed of %d times", i, k->taken, k->disposed);
    }
    if (tk->blocks != 0 || tk->bytes != 0)
        tk_fail("%lu blocks of %lu bytes are left", (unsigned long)tk->blocks, (unsigned long)tk->bytes);
}

static void tk_run_library(void) {
    static const aioloop_allocator allocator = {tk_allocate, NULL};
    aioloop_config config = AIOLOOP_ZERO;
    int err;
    config.backend = tk->delayed ? "sim,delayed" : "sim";
    config.allocator = &allocator;
    config.debug = tk->script->debug ? 1 : -1;
    tk->loop = aioloop_new_event_loop(&config);
    if (tk->loop == NULL) {
        if (!tk->fault_fired)
            tk_fail("there is no loop");
        return;
    }
    aioloop_set_exception_handler(tk->loop, tk_on_error, NULL);
    aioloop_set_log(tk->loop, tk_on_log, NULL);
    tk_begin();
    err = aioloop_run_forever(tk->loop);
    if (err != 0)
        tk_fail("the run answers %d", err);
    if (aioloop_all_tasks(tk->loop, NULL, 0) != 0)
        tk_fail("there are tasks left");
    if (aioloop_current_task(tk->loop) != NULL)
        tk_fail("there is a current task outside of a run");
    if (aioloop_next_deadline(tk->loop) > aioloop_now(tk->loop) && aioloop_next_deadline(tk->loop) != AIOLOOP_FOREVER)
        tk_fail("a timer is left at the end");
    aioloop_verify(tk->loop);
    tk_let_go();
    err = aioloop_free(tk->loop);
    tk->loop = NULL;
    if (err != 0)
        tk_fail("freeing the loop answers %d", err);
    tk_check_end();
}

/* Plays a script. The world is the caller's to free. */
static tk_world *tk_play(const tk_script *script, tk_engine engine, bool delayed, uint64_t fault_at) {
    tk_world *w = (tk_world *)calloc(1, sizeof(*w));
    if (w == NULL)
        abort();
    w->script = script;
    w->engine = engine;
    w->delayed = delayed;
    w->fault_at = fault_at;
    tk = w;
    if (engine == TK_MODEL)
        tk_run_model();
    else
        tk_run_library();
    tk_total.records += (uint64_t)w->records;
    return w;
}

/* The first record that differs, or -1. */
static int tk_differ(const tk_world *a, const tk_world *b) {
    int i;
    for (i = 0; i < a->records && i < b->records; i++) {
        const tk_record *p = &a->record[i];
        const tk_record *q = &b->record[i];
        if (strcmp(p->what, q->what) != 0 || p->time - a->record[0].time != q->time - b->record[0].time ||
            p->who != q->who || p->where != q->where || p->number != q->number || p->extra != q->extra)
            return i;
    }
    return a->records == b->records ? -1 : i;
}

static void tk_compare_worlds(tk_world *model, tk_world *w) {
    int i = tk_differ(model, w);
    tk = w;
    if (i >= 0)
        tk_fail("record %d differs", i);
    for (i = 0; i < TK_OBJECTS; i++)
        if (model->object[i].expected != w->object[i].reports)
            tk_fail("the failure of %d was reported %d times instead of %d", i, w->object[i].reports,
                    model->object[i].expected);
}

/* Plays a script on everything. Returns the run that is wrong, with the model's at model; NULL: none is. */
static tk_world *tk_check(const tk_script *script, bool delayed, tk_world **model) {
    int engine;
    *model = tk_play(script, TK_MODEL, delayed, 0);
    if ((*model)->failure[0] != '\0')
        return tk_play(script, TK_MODEL, delayed, 0);
    for (engine = TK_STACKFUL; engine < TK_ENGINES; engine++) {
        tk_world *w = tk_play(script, (tk_engine)engine, delayed, 0);
        if (w->failure[0] == '\0')
            tk_compare_worlds(*model, w);
        if (w->failure[0] != '\0')
            return w;
        free(w);
    }
    free(*model);
    *model = NULL;
    return NULL;
}

/* ---- chance ---- */

static uint64_t tk_random;

/* splitmix64 */
static uint64_t tk_draw(void) {
    uint64_t z = tk_random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static int tk_below(int bound) {
    return (int)((tk_draw() >> 33) % (uint64_t)bound);
}

static bool tk_one_in(int n) {
    return tk_below(n) == 0;
}

/* What a script has much of. */
static struct {
    int times;    /* how many different ones, of the table below */
    int failures; /* one plain step in this many fails */
    int groups;   /* one scope in this many is a group */
    int passes;   /* of ten errors, about so many are passed on */
    bool apart;   /* no two times are the same, and nothing that asyncio itself does not have */
} tk_taste;

/* Times are few and round, so that things fall together. */
static aioloop_time tk_time(void) {
    static const int ms[] = {1, 0, 1, 2, 0, 2, 3, 1, 5, 8, 20, 5000};
    if (tk_taste.apart)
        return AIOLOOP_US(1 + tk_below(20000));
    return AIOLOOP_MS(ms[tk_below(tk_taste.times)]);
}

/* ---- making scripts ---- */

typedef struct tk_author {
    tk_script *script;
    int self;
    int *next_task;     /* the first that nobody creates yet */
    int limit;          /* of steps */
    int made[TK_STEPS]; /* what can be awaited by id */
    int made_count;
    int own[TK_TASKS]; /* tasks that it creates */
    int own_count;
    int groups; /* open */
    int timeouts;
    bool member; /* of a group */
} tk_author;

/* Something it may wait for: nothing that could come to wait for it. */
static int tk_pick_awaitable(tk_author *a) {
    if (a->own_count != 0 && tk_below(5) < 3)
        return a->own[tk_below(a->own_count)];
    if (a->made_count != 0 && tk_one_in(3))
        return a->made[tk_below(a->made_count)];
    if (a->self + 1 < a->script->tasks && tk_one_in(3))
        return a->self + 1 + tk_below(a->script->tasks - a->self - 1);
    return TK_FUTURE_ID(tk_below(a->script->futures));
}

static int tk_pick_anything(tk_author *a) {
    switch (tk_below(5)) {
    case 0:
        return a->self;
    case 1:
        return TK_FUTURE_ID(tk_below(a->script->futures));
    case 2:
        return tk_below(a->script->tasks);
    default:
        return tk_pick_awaitable(a);
    }
}

static tk_care tk_pick_care(void) {
    static const tk_care cares[] = {TK_SWALLOW, TK_TAKE_BACK, TK_REPLACE};
    return tk_below(10) < tk_taste.passes ? TK_PASS : cares[tk_below(3)];
}

static tk_care tk_pick_care_of_leaving(void) {
    static const tk_care cares[] = {TK_PASS, TK_PASS, TK_SWALLOW, TK_TAKE_BACK, TK_LATE, TK_LATE, TK_ERRORS, TK_ERRORS};
    return cares[tk_below(8)];
}

static tk_step *tk_write(tk_author *a, tk_op op) {
    tk_step *s = &a->script->step[a->self][a->script->steps[a->self]++];
    s->op = op;
    s->care = tk_pick_care();
    return s;
}

static int tk_last_id(const tk_author *a) {
    return TK_STEP_ID(a->self, a->script->steps[a->self] - 1);
}

static void tk_write_combination(tk_author *a) {
    static const tk_op ops[] = {TK_WAIT_FOR, TK_WAIT_FOR, TK_SHIELD, TK_GATHER, TK_GATHER, TK_WAIT};
    tk_step *s = tk_write(a, ops[tk_below(6)]);
    int i;
    s->count = 1;
    if (s->op == TK_GATHER || s->op == TK_WAIT)
        s->count = tk_one_in(12) && s->op == TK_GATHER ? 0 : 1 + tk_below(TK_MEMBERS);
    for (i = 0; i < s->count; i++)
        s->of[i] = tk_pick_awaitable(a);
    s->number = s->op == TK_GATHER ? tk_below(2) : tk_below(3);
    if (tk_taste.apart && s->op == TK_GATHER &&
        s->number == 0) /* where tasks answer a cancel, asyncio does not wait for all */
        for (i = 0; i < s->count; i++)
            s->of[i] = TK_FUTURE_ID(tk_below(a->script->futures));
    s->time = s->op == TK_WAIT && tk_one_in(2) ? 0 : tk_time();
    s->keep = tk_one_in(4) && (!tk_taste.apart || s->op == TK_GATHER || s->op == TK_SHIELD);
    if (s->keep)
        a->made[a->made_count++] = tk_last_id(a);
}

static void tk_write_create(tk_author *a) {
    tk_step *s = tk_write(a, TK_CREATE);
    if (*a->next_task >= a->script->tasks) {
        s->op = TK_NAP;
        s->time = tk_time();
        return;
    }
    s->of[0] = (*a->next_task)++;
    s->eager = tk_one_in(4);
    s->keep = !tk_one_in(6);
    s->grouped = (a->groups != 0 && !tk_one_in(4)) || tk_one_in(4);
    s->inherited = s->grouped && (a->groups == 0 || tk_one_in(4));
    if (s->inherited && tk_one_in(2))
        s->grouped = s->inherited = false;
    s->eager = s->eager && !(tk_taste.apart && s->grouped);
    a->own[a->own_count++] = s->of[0];
}

static void tk_write_block(tk_author *a, int depth);

static void tk_write_scope(tk_author *a, int depth) {
    bool group = tk_one_in(tk_taste.groups);
    int begin = a->script->steps[a->self];
    int end;
    tk_step *s = tk_write(a, group ? TK_GROUP : TK_TIMEOUT);
    s->time = tk_one_in(8) ? AIOLOOP_FOREVER : tk_time();
    if (!group && tk_one_in(8) && s->time != AIOLOOP_FOREVER)
        s->time = -AIOLOOP_MS(1);
    a->limit--;
    a->groups += group;
    a->timeouts += !group;
    tk_write_block(a, depth + 1);
    a->limit++;
    a->groups -= group;
    a->timeouts -= !group;
    end = a->script->steps[a->self];
    s = tk_write(a, TK_LEAVE);
    s->match = begin;
    s->care = tk_pick_care_of_leaving();
    a->script->step[a->self][begin].match = end;
}

static void tk_write_plain(tk_author *a, int depth) {
    static const tk_op ops[] = {TK_AWAIT,  TK_AWAIT,    TK_AWAIT,      TK_SLEEP,         TK_NAP,  TK_NAP, TK_CANCEL,
                                TK_CANCEL, TK_UNCANCEL, TK_SET_RESULT, TK_SET_EXCEPTION, TK_LOOK, TK_FAIL};
    tk_step *s = tk_write(a, ops[tk_below(13)]);
    s->time = tk_time();
    s->blind = tk_one_in(3) && !tk_taste.apart;
    switch (s->op) {
    case TK_AWAIT:
        s->of[0] = tk_pick_awaitable(a);
        break;
    case TK_CANCEL:
    case TK_LOOK:
        s->of[0] = tk_pick_anything(a);
        break;
    case TK_UNCANCEL:
        s->of[0] = tk_one_in(3) ? tk_below(a->script->tasks) : a->self;
        break;
    case TK_SET_RESULT:
    case TK_SET_EXCEPTION:
        s->of[0] = TK_FUTURE_ID(tk_below(a->script->futures));
        s->number = s->op == TK_SET_RESULT ? tk_below(2) : -300 - s->of[0];
        break;
    case TK_FAIL:
        s->number = tk_one_in(6) ? AIOLOOP_ECANCELED : tk_one_in(6) ? AIOLOOP_ETIMEDOUT : -400 - a->self;
        if (!tk_one_in(tk_taste.failures))
            s->op = TK_NAP;
        break;
    default:
        if (a->timeouts != 0 && tk_one_in(4)) {
            s->op = TK_RESCHEDULE;
            s->number = tk_below(depth);
        }
        break;
    }
}

static void tk_write_block(tk_author *a, int depth) {
    int n = depth == 0 ? 2 + tk_below(7) : 1 + tk_below(4);
    while (n-- > 0 && a->script->steps[a->self] < a->limit) {
        int what = tk_below(10);
        if (what < 2 && depth < TK_DEPTH && a->script->steps[a->self] + 3 < a->limit)
            tk_write_scope(a, depth);
        else if (what < 4)
            tk_write_create(a);
        else if (what < 6)
            tk_write_combination(a);
        else
            tk_write_plain(a, depth);
    }
}

static void tk_write_events(tk_script *s) {
    static const tk_op ops[] = {TK_CANCEL, TK_CANCEL, TK_CANCEL, TK_SET_RESULT, TK_SET_EXCEPTION, TK_LOOK, TK_UNCANCEL};
    int n = tk_below(TK_EVENTS - 3);
    while (s->events < n) {
        tk_event *e = &s->event[s->events++];
        e->op = ops[tk_below(7)];
        e->of = tk_below(s->tasks);
        e->time = tk_time();
        if (e->time > AIOLOOP_MS(20))
            e->time = 0;
        e->hops = tk_one_in(2) || tk_taste.apart ? 0 : tk_below(5);
        e->after = TK_NOBODY;
        if (tk_one_in(3) && !tk_taste.apart) {
            e->after = tk_below(s->tasks);
            s->watched[e->after] = true;
        }
        if (e->op == TK_SET_RESULT || e->op == TK_SET_EXCEPTION)
            e->of = TK_FUTURE_ID(tk_below(s->futures));
        e->number = e->op == TK_SET_RESULT ? tk_below(2) : -300 - e->of;
    }
}

static void tk_write_script(tk_script *s, uint64_t seed) {
    int next = 1;
    int i;
    memset(s, 0, sizeof(*s));
    tk_random = seed * UINT64_C(0x2545f4914f6cdd1d);
    s->tasks = 2 + tk_below(TK_TASKS - 1);
    s->futures = 1 + tk_below(TK_FUTURES);
    s->debug = tk_one_in(6);
    tk_taste.times = tk_one_in(3) ? 12 : 2 + tk_below(6);
    tk_taste.failures = 1 + tk_below(6);
    tk_taste.groups = tk_one_in(3) ? 1 : 2;
    tk_taste.passes = 2 + tk_below(7);
    s->root[0] = true;
    for (i = 0; i < TK_OBJECTS; i++)
        s->watched[i] = tk_one_in(2);
    for (i = 0; i < s->tasks; i++) {
        tk_author a;
        memset(&a, 0, sizeof(a));
        a.script = s;
        a.self = i;
        if (next <= i) { /* nobody creates it */
            s->root[i] = true;
            next = i + 1;
        }
        a.next_task = &next;
        a.limit = TK_STEPS - 1;
        s->copied[i] = tk_one_in(2);
        s->limit[i] = tk_one_in(6) && !tk_taste.apart ? tk_time() : 0;
        tk_write_block(&a, 0);
    }
    tk_write_events(s);
}

/* ---- telling ---- */

static const char *tk_name(int id, char *text, size_t size) {
    if (id < 0)
        snprintf(text, size, "outside");
    else if (tk_is_task(id))
        snprintf(text, size, "T%d", id);
    else if (id < TK_TASKS + TK_FUTURES)
        snprintf(text, size, "F%d", id - TK_TASKS);
    else
        snprintf(text, size, "S%d.%d", (id - TK_TASKS - TK_FUTURES) / TK_STEPS,
                 (id - TK_TASKS - TK_FUTURES) % TK_STEPS);
    return text;
}

static void tk_print_script(const tk_script *s) {
    char name[32];
    int i;
    int j;
    int k;
    for (i = 0; i < s->tasks; i++) {
        int depth = 1;
        printf("T%d%s", i, s->root[i] ? " from the start" : "");
        if (s->limit[i] != 0)
            printf(", timeout %lld ms", (long long)(s->limit[i] / AIOLOOP_MS(1)));
        printf("\n");
        for (j = 0; j < s->steps[i]; j++) {
            const tk_step *p = &s->step[i][j];
            if (p->op == TK_NOTHING)
                continue;
            depth -= p->op == TK_LEAVE;
            printf("  %2d %*s%s", j, 2 * depth, "", tk_op_names[p->op]);
            depth += p->op == TK_TIMEOUT || p->op == TK_GROUP;
            for (k = 0; k < (p->count != 0 ? p->count : 1); k++)
                if (p->count != 0 || p->op == TK_AWAIT || p->op == TK_CREATE || p->op == TK_LOOK ||
                    (p->op >= TK_CANCEL && p->op <= TK_SET_EXCEPTION))
                    printf(" %s", tk_name(p->of[k], name, sizeof(name)));
            if (p->op == TK_FAIL || p->op == TK_GATHER || p->op == TK_WAIT || p->op == TK_SET_EXCEPTION ||
                p->op == TK_RESCHEDULE)
                printf(" %d", p->number);
            if (p->op == TK_TIMEOUT || p->op == TK_RESCHEDULE || p->op == TK_SLEEP || p->op == TK_NAP ||
                p->op == TK_WAIT_FOR || p->op == TK_WAIT)
                printf(" %lld ms", (long long)(p->time / AIOLOOP_MS(1)));
            printf("%s%s%s%s%s%s\n", p->keep ? " kept" : "", p->eager ? " eager" : "", p->grouped ? " in group" : "",
                   p->inherited ? " inherited" : "", p->blind ? " blind" : "", tk_care_names[p->care]);
        }
    }
    for (i = 0; i < s->events; i++)
        if (s->event[i].op != TK_NOTHING) {
            if (s->event[i].after != TK_NOBODY)
                printf("when %s is done", tk_name(s->event[i].after, name, sizeof(name)));
            else
                printf("at %lld ms", (long long)(s->event[i].time / AIOLOOP_MS(1)));
            printf(" and %d iterations: %s %s %d\n", s->event[i].hops, tk_op_names[s->event[i].op],
                   tk_name(s->event[i].of, name, sizeof(name)), s->event[i].number);
        }
}

static void tk_print_record(const tk_world *w, int i) {
    const tk_record *r = &w->record[i];
    char name[32];
    if (i < w->records)
        printf("%5lld ms %s.%d %s %lld %lld", (long long)((r->time - w->record[0].time) / AIOLOOP_MS(1)),
               tk_name(r->who, name, sizeof(name)), r->where, r->what, (long long)r->number, (long long)r->extra);
    printf("\n");
}

static void tk_print_failure(const tk_script *script, const tk_world *model, const tk_world *w) {
    int differs = tk_differ(model, w);
    int i;
    fflush(stdout);
    printf("seed %llu, %s, %s: %s\n", (unsigned long long)tk_total.seed, w->delayed ? "delayed" : "readiness",
           tk_engine_names[w->engine], w->failure);
    tk_print_script(script);
    printf("---- model\n");
    for (i = 0; i < model->records; i++) {
        printf("%s ", i == differs ? ">>" : "  ");
        tk_print_record(model, i);
    }
    printf("---- %s\n", tk_engine_names[w->engine]);
    for (i = 0; i < w->records; i++) {
        printf("%s ", i == differs ? ">>" : "  ");
        tk_print_record(w, i);
    }
    printf("replay: %s --%s%s --seed %llu\n", tk_total.program, w->delayed ? "delayed" : "readiness",
           w->fault_at != 0 ? " --faults" : "", (unsigned long long)tk_total.seed);
}

static void tk_print_json(uint64_t seed) {
    static tk_script s;
    tk_world *w;
    int i;
    int j;
    tk_taste.apart = true;
    tk_write_script(&s, seed);
    printf("{\"seed\": %llu, \"futures\": %d, \"tasks\": [", (unsigned long long)seed, s.futures);
    for (i = 0; i < s.tasks; i++) {
        printf("%s{\"root\": %d, \"steps\": [", i == 0 ? "" : ", ", s.root[i]);
        for (j = 0; j < s.steps[i]; j++) {
            const tk_step *p = &s.step[i][j];
            printf(
                "%s{\"op\": \"%s\", \"care\": %d, \"of\": [%d, %d, %d], \"count\": %d, \"match\": %d, \"number\": %d, ",
                j == 0 ? "" : ", ", tk_op_names[p->op], (int)p->care, p->of[0], p->of[1], p->of[2], p->count, p->match,
                p->number);
            printf("\"keep\": %d, \"eager\": %d, \"grouped\": %d, \"inherited\": %d, \"time\": ", p->keep, p->eager,
                   p->grouped, p->inherited);
            if (p->time == AIOLOOP_FOREVER)
                printf("null}");
            else
                printf("%lld}", (long long)(p->time / AIOLOOP_US(1)));
        }
        printf("]}");
    }
    printf("], \"events\": [");
    for (i = 0; i < s.events; i++)
        printf("%s[\"%s\", %d, %d, %lld]", i == 0 ? "" : ", ", tk_op_names[s.event[i].op], s.event[i].of,
               s.event[i].number, (long long)(s.event[i].time / AIOLOOP_US(1)));
    w = tk_play(&s, TK_MODEL, false, 0);
    printf("], \"trace\": [");
    for (i = 0; i < w->records; i++)
        printf("%s[\"%s\", %lld, %d, %d, %lld, %lld]", i == 0 ? "" : ", ", w->record[i].what,
               (long long)(w->record[i].time / AIOLOOP_US(1)), w->record[i].who, w->record[i].where,
               (long long)w->record[i].number, (long long)w->record[i].extra);
    printf("]}\n");
    free(w);
}

static bool tk_still_wrong(const tk_script *script, bool delayed) {
    tk_world *model;
    tk_world *w = tk_check(script, delayed, &model);
    bool wrong = w != NULL;
    free(w);
    free(model);
    return wrong;
}

/* Takes out what is not needed for the difference. */
static void tk_shrink(tk_script *s, bool delayed) {
    bool again = true;
    int i;
    int j;
    while (again) {
        again = false;
        for (i = 0; i < s->events; i++) {
            tk_op op = s->event[i].op;
            s->event[i].op = TK_NOTHING;
            if (op != TK_NOTHING && tk_still_wrong(s, delayed))
                again = true;
            else
                s->event[i].op = op;
        }
        for (i = s->tasks - 1; i >= 0; i--) {
            aioloop_time limit = s->limit[i];
            s->limit[i] = 0;
            if (limit != 0 && !tk_still_wrong(s, delayed))
                s->limit[i] = limit;
            for (j = s->steps[i] - 1; j >= 0; j--) {
                tk_step *p = &s->step[i][j];
                tk_step *other = p->op == TK_TIMEOUT || p->op == TK_GROUP ? &s->step[i][p->match] : NULL;
                tk_op op = p->op;
                if (op == TK_NOTHING || op == TK_LEAVE)
                    continue;
                p->op = TK_NOTHING;
                if (other != NULL)
                    other->op = TK_NOTHING;
                if (tk_still_wrong(s, delayed)) {
                    again = true;
                    continue;
                }
                p->op = op;
                if (other != NULL)
                    other->op = TK_LEAVE;
            }
        }
    }
}

static void tk_on_signal(int number) {
    char text[128];
    int n = snprintf(text, sizeof(text), "simulate_tasks: crashed or hung: replay: --%s%s --seed %llu\n",
                     tk_total.delayed ? "delayed" : "readiness", tk_total.faults ? " --faults" : "",
                     (unsigned long long)tk_total.seed);
    ssize_t ignored = write(2, text, (size_t)n);
    (void)ignored;
    _exit(128 + number);
}

/* One of the allocations of each kind of run fails. */
static bool tk_run_faults(const tk_script *script, uint64_t seed, bool delayed) {
    int engine;
    bool good = true;
    tk_random = ~seed;
    for (engine = TK_STACKFUL; engine < TK_ENGINES && good; engine++) {
        tk_world *w = tk_play(script, (tk_engine)engine, delayed, 0);
        uint64_t n = 1 + (tk_draw() >> 16) % w->allocations;
        free(w);
        w = tk_play(script, (tk_engine)engine, delayed, n);
        good = w->failure[0] == '\0';
        if (!good) {
            printf("with allocation %llu failing: ", (unsigned long long)n);
            tk_print_failure(script, w, w);
        }
        free(w);
    }
    return good;
}

static bool tk_run_seed(uint64_t seed, bool delayed) {
    static tk_script script;
    tk_world *model;
    tk_world *w;
    tk_total.seed = seed;
    tk_total.delayed = delayed;
    alarm(60);
    tk_write_script(&script, seed);
    if (tk_total.verbose)
        tk_print_script(&script);
    if (tk_total.faults)
        return tk_run_faults(&script, seed, delayed);
    w = tk_check(&script, delayed, &model);
    if (w == NULL)
        return true;
    free(w);
    free(model);
    alarm(600);
    tk_shrink(&script, delayed);
    w = tk_check(&script, delayed, &model);
    tk_print_failure(&script, model, w);
    free(w);
    free(model);
    return false;
}

static int tk_usage(void) {
    fprintf(stderr, "usage: %s [--delayed|--readiness|--both] [--faults] [-v] FIRST COUNT | --seed N\n",
            tk_total.program);
    return 2;
}

int main(int argc, char **argv) {
    bool readiness = true;
    bool delayed = true;
    bool oracle = false;
    uint64_t numbers[2];
    int count = 0;
    int i;
    uint64_t seed;
    tk_total.program = argv[0];
    for (i = 1; i < argc; i++) {
        char *end = argv[i];
        if (strcmp(argv[i], "-v") == 0) {
            tk_total.verbose = true;
        } else if (strcmp(argv[i], "--oracle") == 0) {
            oracle = true;
        } else if (strcmp(argv[i], "--faults") == 0) {
            tk_total.faults = true;
        } else if (strcmp(argv[i], "--delayed") == 0 || strcmp(argv[i], "--readiness") == 0 ||
                   strcmp(argv[i], "--both") == 0) {
            readiness = argv[i][2] != 'd';
            delayed = argv[i][2] != 'r';
        } else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc && count == 0) {
            numbers[count++] = strtoull(argv[++i], NULL, 10);
            numbers[count++] = 1;
        } else {
            if (count == 2)
                return tk_usage();
            numbers[count++] = strtoull(argv[i], &end, 10);
            if (*argv[i] == '\0' || *end != '\0')
                return tk_usage();
        }
    }
    if (count != 2)
        return tk_usage();
    signal(SIGALRM, tk_on_signal);
#if !defined(__SANITIZE_ADDRESS__)
    signal(SIGSEGV, tk_on_signal);
    signal(SIGABRT, tk_on_signal);
#endif
    for (seed = numbers[0]; oracle && seed - numbers[0] < numbers[1]; seed++)
        tk_print_json(seed);
    for (seed = numbers[0]; !oracle && seed - numbers[0] < numbers[1]; seed++) {
        if (readiness && !tk_run_seed(seed, false))
            return 1;
        if (delayed && !tk_run_seed(seed, true))
            return 1;
    }
    if (oracle)
        return 0;
    printf("%llu seeds of tasks%s%s%s: %llu records: no difference\n", (unsigned long long)numbers[1],
           readiness ? ", readiness" : "", delayed ? ", delayed" : "", tk_total.faults ? ", faults" : "",
           (unsigned long long)tk_total.records);
    return 0;
}
