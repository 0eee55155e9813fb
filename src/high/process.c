/*
 * process.c - programs as children, with streams.                    (asyncio: subprocess.py)
 *
 * A process is the protocol of a subprocess, and feeds a stream for each of its pipes. It goes when it has no owner and the
 * subprocess has told it the last thing.
 */
#ifndef AIOL_HIGH_PROCESS_C
#define AIOL_HIGH_PROCESS_C

#include "api/subprocess.h"
#include "high/streams.c"

/* A wait that waits. */
typedef struct aiol_spawned_waiter {
    aiol_link link;
    aioloop_future *future;
} aiol_spawned_waiter;

struct aioloop_process {
    aiol_resource resource;    /* refs: the owners */
    aioloop_subprocess *child; /* a reference, from connection_made on */
    aioloop_stream *streams[3]; /* NULL: no pipe, or its owner and it are gone */
    bool told[3];              /* the loss of the stream's pipe */
    bool attached;             /* the child will tell more */
    aiol_link waiters;
    aioloop_future *opening;    /* the call's; held */
    aioloop_future *connecting; /* aioloop_subprocess_exec's; held */
    aioloop_future *talking;    /* aioloop_process_communicate's; held */
    aioloop_future *reading[3]; /* its readings, 0: its wait; held until the next one */
    int pending;                /* of them */
    aioloop_communication said;
};

/* ---- life ---- */

static void aiol_spawned_destroy(aiol_resource *resource) {
    aioloop_process *p = AIOL_CONTAINER(resource, aioloop_process, resource);
    const aioloop_allocator *a = &resource->loop->allocator;
    aiol_resource_remove(resource);
    while (!aiol_list_empty(&p->waiters)) {
        aiol_spawned_waiter *w = AIOL_CONTAINER(p->waiters.next, aiol_spawned_waiter, link);
        aiol_list_remove(&w->link);
        aiol_free(a, w, sizeof(*w));
    }
    aiol_free(a, p, sizeof(*p));
}

static void aiol_spawned_loop_closed(aiol_resource *resource) {
    (void)resource; /* the subprocess ends; what waits stays pending */
}

static bool aiol_spawned_is_open(const aiol_resource *resource) {
    (void)resource; /* the subprocess says it */
    return false;
}

static const aiol_resource_calls aiol_spawned_resource = {"process", aiol_spawned_loop_closed, aiol_spawned_destroy,
                                                          aiol_spawned_is_open};

/* The readings of the last communicate go, with the bytes that they gave. */
static void aiol_spawned_forget_readings(aioloop_process *p) {
    int i;
    memset(&p->said, 0, sizeof(p->said));
    for (i = 0; i < 3; i++) {
        aioloop_future *f = p->reading[i];
        p->reading[i] = NULL;
        aioloop_future_unref(f);
    }
}

static void aiol_spawned_free_if_over(aioloop_process *p) {
    aioloop_subprocess *child = p->child;
    if (p->attached || p->resource.refs != 0)
        return;
    aiol_spawned_destroy(&p->resource);
    aioloop_subprocess_unref(child);
}

AIOLOOP_API aioloop_process *aioloop_process_ref(aioloop_process *process) {
    if (process != NULL)
        process->resource.refs++;
    return process;
}

AIOLOOP_API void aioloop_process_unref(aioloop_process *process) {
    int i;
    if (process == NULL)
        return;
    AIOL_ASSERT(process->resource.refs != 0);
    if (--process->resource.refs != 0 || process->resource.loop->freeing)
        return;
    aiol_spawned_forget_readings(process);
    for (i = 0; i < 3; i++) {
        aioloop_stream *s = process->streams[i];
        if (process->told[i] || process->child == NULL)
            process->streams[i] = NULL; /* else it is there until its pipe is lost */
        aioloop_stream_unref(s);
    }
    aioloop_subprocess_close(process->child);
    aiol_spawned_free_if_over(process);
}

/* As a future's dispose. */
static void aiol_spawned_dispose(void *pointer) {
    aioloop_process_unref((aioloop_process *)pointer);
}

/* ---- the protocol ---- */

static void aiol_spawned_made(aioloop_subprocess *child, void *self) {
    aioloop_process *p = (aioloop_process *)self;
    int i;
    p->child = aioloop_subprocess_ref(child);
    p->attached = true;
    for (i = 0; i < 3; i++)
        if (p->streams[i] != NULL)
            aiol_streams_made(aioloop_subprocess_get_pipe_transport(child, i), p->streams[i]);
    if (p->streams[0] != NULL)
        aioloop_stream_feed_eof(p->streams[0]);
}

static void aiol_spawned_data(aioloop_subprocess *child, void *self, int fd, const void *data, size_t size) {
    aioloop_process *p = (aioloop_process *)self;
    (void)child;
    if (p->streams[fd] != NULL)
        aiol_streams_received(NULL, p->streams[fd], data, size);
}

static void aiol_spawned_pipe_lost(aioloop_subprocess *child, void *self, int fd, int error) {
    aioloop_process *p = (aioloop_process *)self;
    aioloop_stream *s = p->streams[fd];
    (void)child;
    p->told[fd] = true;
    if (p->resource.refs == 0)
        p->streams[fd] = NULL;
    if (s != NULL)
        aiol_streams_lost(NULL, s, error);
}

static void aiol_spawned_pause(aioloop_subprocess *child, void *self) {
    aioloop_process *p = (aioloop_process *)self;
    (void)child;
    if (p->streams[0] != NULL)
        aiol_streams_pause(NULL, p->streams[0]);
}

static void aiol_spawned_resume(aioloop_subprocess *child, void *self) {
    aioloop_process *p = (aioloop_process *)self;
    (void)child;
    if (p->streams[0] != NULL)
        aiol_streams_resume(NULL, p->streams[0]);
}

static void aiol_spawned_waiter_free(aiol_spawned_waiter *w) {
    aioloop_future *f = w->future;
    aiol_list_remove(&w->link);
    aiol_free(&f->loop->allocator, w, sizeof(*w));
    aiol_future_release(f);
}

/* What a wait gives. */
static int64_t aiol_spawned_outcome(const aioloop_process *p) {
    int code = 255;
    (void)aioloop_subprocess_get_returncode(p->child, &code);
    return code < 0 ? AIOLOOP_SIGNALLED(-code) : code;
}

static void aiol_spawned_exited(aioloop_subprocess *child, void *self) {
    aioloop_process *p = (aioloop_process *)self;
    (void)child;
    while (!aiol_list_empty(&p->waiters)) {
        aiol_spawned_waiter *w = AIOL_CONTAINER(p->waiters.next, aiol_spawned_waiter, link);
        aioloop_future_set_result(w->future, aiol_spawned_outcome(p), NULL, NULL);
        aiol_spawned_waiter_free(w);
    }
}

static void aiol_spawned_lost(aioloop_subprocess *child, void *self, int error) {
    aioloop_process *p = (aioloop_process *)self;
    (void)child;
    (void)error;
    p->attached = false;
    aiol_spawned_free_if_over(p);
}

static const aioloop_subprocess_protocol aiol_spawned_protocol = {0,
                                                                  NULL,
                                                                  aiol_spawned_made,
                                                                  aiol_spawned_data,
                                                                  aiol_spawned_pipe_lost,
                                                                  aiol_spawned_exited,
                                                                  aiol_spawned_lost,
                                                                  aiol_spawned_pause,
                                                                  aiol_spawned_resume};

/* ---- starting ---- */

static void aiol_spawned_opened(aioloop_future *connecting, void *arg) {
    aioloop_process *p = (aioloop_process *)arg;
    aioloop_future *f = p->opening;
    bool made = aioloop_future_exception(connecting) == 0;
    p->opening = NULL;
    p->connecting = NULL;
    if (made && !aioloop_future_done(f)) {
        aioloop_future_set_result(f, aioloop_subprocess_get_pid(p->child), p, aiol_spawned_dispose);
    } else {
        if (!aioloop_future_done(f))
            aioloop_future_copy(f, connecting);
        aioloop_process_unref(p); /* which kills the child, if there is one */
    }
    aiol_future_release(f);
    aioloop_future_unref(connecting);
}

static bool aiol_spawned_open_cancelled(aioloop_future *future, void *owner) {
    (void)future;
    aioloop_future_cancel(((aioloop_process *)owner)->connecting, NULL); /* and opened gives everything back */
    return true;
}

/* With its streams, and one owner. NULL: no memory. */
static aioloop_process *aiol_spawned_new(aioloop *loop, const aioloop_subprocess_options *o, size_t limit) {
    aioloop_process *p = (aioloop_process *)aiol_alloc_zero(&loop->allocator, sizeof(*p));
    int i;
    if (p == NULL)
        return NULL;
    p->resource.refs = 1;
    aiol_list_init(&p->waiters);
    aiol_resource_add(loop, &p->resource, &aiol_spawned_resource);
    for (i = 0; i < 3; i++) {
        int kind = i == 0 ? o->std_in : i == 1 ? o->std_out : o->std_err;
        if (kind != AIOLOOP_STDIO_PIPE)
            continue;
        p->streams[i] = aiol_streams_make(loop, limit);
        if (p->streams[i] == NULL) {
            aioloop_process_unref(p);
            return NULL;
        }
    }
    return p;
}

/* The future that goes on where connecting ends. */
static aioloop_future *aiol_spawned_open(aioloop_process *p, aioloop_future *connecting) {
    aioloop *loop = p->resource.loop;
    aioloop_future *f;
    if (aioloop_future_done(connecting)) { /* it has failed */
        aioloop_process_unref(p);
        return connecting;
    }
    f = (aioloop_create_operation)(loop, aiol_spawned_open_cancelled, p);
    p->connecting = aioloop_future_ref(connecting);
    if (!aiol_streams_is_static(f)) {
        p->opening = f;
        f->site = connecting->site;
        if ((aioloop_future_add_done_callback)(connecting, aiol_spawned_opened, p) == 0)
            return f;
        aiol_future_release(f);
        aioloop_future_unref(f);
    }
    aioloop_future_cancel(connecting, NULL);
    aioloop_future_unref(connecting);
    aioloop_process_unref(p);
    return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
}

static aioloop_process *aiol_spawned_to_open(aioloop *loop, const aioloop_process_options *o, aioloop_future **refused) {
    aioloop_process *p = NULL;
    size_t limit = 0;
    int err;
    if (loop == NULL || loop->closed) {
        *refused = aiol_future_failed(loop == NULL ? AIOLOOP_EINVAL + 0 : aiol_fail(loop, AIOLOOP_ECLOSED, NULL));
        return NULL;
    }
    err = aiol_streams_limit(loop, o->limit, &limit);
    if (err == 0) {
        p = aiol_spawned_new(loop, &o->subprocess, limit);
        err = p == NULL ? aiol_fail(loop, AIOLOOP_ENOMEM, NULL) : 0;
    }
    *refused = err < 0 ? aiol_future_failed(err) : NULL;
    return p;
}

AIOLOOP_API aioloop_future *(aioloop_create_subprocess_exec)(aioloop *loop, const char *const *args,
                                                             const aioloop_process_options *options) {
    static const aioloop_process_options defaults = AIOLOOP_ZERO;
    const aioloop_process_options *o = options != NULL ? options : &defaults;
    aioloop_future *refused;
    aioloop_process *p = aiol_spawned_to_open(loop, o, &refused);
    if (p == NULL)
        return refused;
    return aiol_spawned_open(p, (aioloop_subprocess_exec)(loop, &aiol_spawned_protocol, p, args, &o->subprocess));
}

AIOLOOP_API aioloop_future *(aioloop_create_subprocess_shell)(aioloop *loop, const char *command,
                                                              const aioloop_process_options *options) {
    static const aioloop_process_options defaults = AIOLOOP_ZERO;
    const aioloop_process_options *o = options != NULL ? options : &defaults;
    aioloop_future *refused;
    aioloop_process *p = aiol_spawned_to_open(loop, o, &refused);
    if (p == NULL)
        return refused;
    return aiol_spawned_open(p, (aioloop_subprocess_shell)(loop, &aiol_spawned_protocol, p, command, &o->subprocess));
}

/* ---- what it is, and signals ---- */

AIOLOOP_API aioloop_stream *aioloop_process_stdin(const aioloop_process *process) {
    return process == NULL ? NULL : process->streams[0];
}

AIOLOOP_API aioloop_stream *aioloop_process_stdout(const aioloop_process *process) {
    return process == NULL ? NULL : process->streams[1];
}

AIOLOOP_API aioloop_stream *aioloop_process_stderr(const aioloop_process *process) {
    return process == NULL ? NULL : process->streams[2];
}

AIOLOOP_API int aioloop_process_pid(const aioloop_process *process) {
    return aioloop_subprocess_get_pid(process == NULL ? NULL : process->child);
}

AIOLOOP_API bool aioloop_process_returncode(const aioloop_process *process, int *code) {
    return process != NULL && aioloop_subprocess_get_returncode(process->child, code);
}

AIOLOOP_API int aioloop_process_send_signal(aioloop_process *process, int signal) {
    return process == NULL ? AIOLOOP_EINVAL + 0 : aioloop_subprocess_send_signal(process->child, signal);
}

AIOLOOP_API int aioloop_process_terminate(aioloop_process *process) {
    return process == NULL ? AIOLOOP_EINVAL + 0 : aioloop_subprocess_terminate(process->child);
}

AIOLOOP_API int aioloop_process_kill(aioloop_process *process) {
    return process == NULL ? AIOLOOP_EINVAL + 0 : aioloop_subprocess_kill(process->child);
}

/* ---- waiting ---- */

static bool aiol_spawned_wait_cancelled(aioloop_future *future, void *owner) {
    (void)future;
    aiol_spawned_waiter_free((aiol_spawned_waiter *)owner);
    return true;
}

AIOLOOP_API aioloop_future *(aioloop_process_wait)(aioloop_process *process) {
    aiol_spawned_waiter *w;
    aioloop *loop;
    aioloop_future *f;
    if (process == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    loop = process->resource.loop;
    if (loop->closed)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ECLOSED, NULL));
    if (aioloop_subprocess_get_returncode(process->child, NULL)) {
        f = (aioloop_create_operation)(loop, NULL, NULL);
        if (aiol_streams_is_static(f))
            return f;
        aioloop_future_set_result(f, aiol_spawned_outcome(process), NULL, NULL);
        aiol_future_release(f);
        return f;
    }
    w = (aiol_spawned_waiter *)aiol_alloc_zero(&loop->allocator, sizeof(*w));
    if (w == NULL)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    f = (aioloop_create_operation)(loop, aiol_spawned_wait_cancelled, w);
    if (aiol_streams_is_static(f)) {
        aiol_free(&loop->allocator, w, sizeof(*w));
        return f;
    }
    w->future = f;
    aiol_list_append(&process->waiters, &w->link);
    return f;
}

/* ---- talking ---- */

static void aiol_spawned_said(aioloop_future *reading, void *arg);

/* It is over, or is given up. Each part that will not report any more lets go of the process. */
static void aiol_spawned_end_talk(aioloop_process *p) {
    aioloop_future *f = p->talking;
    int i;
    p->talking = NULL;
    aioloop_process_ref(p);
    for (i = 0; i < 3; i++) {
        aioloop_future *reading = p->reading[i];
        if (reading == NULL)
            continue;
        if (aioloop_future_remove_done_callback(reading, aiol_spawned_said, p) > 0)
            aioloop_process_unref(p);
        aioloop_future_cancel(reading, NULL);
    }
    aiol_future_release(f);
    aioloop_process_unref(p);
}

/* Takes what a reading of output fd has given. */
static void aiol_spawned_take(aioloop_process *p, int fd, const char **data, size_t *size) {
    int64_t n = p->reading[fd] == NULL ? 0 : aioloop_future_result(p->reading[fd], data);
    *size = n > 0 ? (size_t)n : 0;
}

/* All parts are there, or it fails. */
static void aiol_spawned_finish_talk(aioloop_process *p, int code) {
    aioloop_future *f = p->talking;
    aiol_future_hold(f);
    aioloop_process_ref(p);
    aiol_spawned_end_talk(p);
    if (code < 0) {
        aioloop_future_set_exception(f, code, NULL);
    } else {
        aiol_spawned_take(p, 1, &p->said.std_out, &p->said.std_out_size);
        aiol_spawned_take(p, 2, &p->said.std_err, &p->said.std_err_size);
        aioloop_future_set_result(f, aiol_spawned_outcome(p), &p->said, NULL);
    }
    aiol_future_release(f);
    aioloop_process_unref(p);
}

/* One of its parts is over. */
static void aiol_spawned_said(aioloop_future *reading, void *arg) {
    aioloop_process *p = (aioloop_process *)arg;
    int code = aioloop_future_cancelled(reading) ? AIOLOOP_EMISUSE + 0 : aioloop_future_exception(reading);
    if (p->talking != NULL && (--p->pending == 0 || code < 0))
        aiol_spawned_finish_talk(p, code);
    aioloop_process_unref(p);
}

static bool aiol_spawned_talk_cancelled(aioloop_future *future, void *owner) {
    (void)future;
    aiol_spawned_end_talk((aioloop_process *)owner);
    return true;
}

/* Writes the input and ends it. A child that has gone is no error. */
static int aiol_spawned_feed(aioloop_process *p, const void *input, size_t size) {
    aioloop_stream *s = p->streams[0];
    int err = s == NULL || size == 0 ? 0 : aioloop_stream_write(s, input, size);
    if (err == 0)
        aioloop_stream_close(s);
    return err;
}

/* Begins a part: a reading, or 0, the wait. It holds the process until it has reported. */
static int aiol_spawned_listen(aioloop_process *p, int i) {
    aioloop_future *f = NULL;
    int err;
    if (i == 0)
        f = (aioloop_process_wait)(p);
    else if (p->streams[i] != NULL)
        f = (aioloop_stream_read)(p->streams[i], -1);
    if (f == NULL)
        return 0;
    if (aiol_streams_is_static(f))
        return aioloop_future_exception(f);
    p->reading[i] = aioloop_future_ref(f);
    err = (aioloop_future_add_done_callback)(f, aiol_spawned_said, p);
    if (err < 0)
        return err;
    p->pending++;
    aioloop_process_ref(p);
    return 0;
}

AIOLOOP_API aioloop_future *(aioloop_process_communicate)(aioloop_process *process, const void *input, size_t size) {
    aioloop_future *f;
    aioloop *loop;
    int err = 0;
    int i;
    if (process == NULL || (input == NULL && size != 0))
        return aiol_future_failed(AIOLOOP_EINVAL);
    loop = process->resource.loop;
    if (loop->closed)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ECLOSED, NULL));
    if (process->talking != NULL || (size != 0 && process->streams[0] == NULL))
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_EMISUSE, process->talking != NULL ? "communicate runs already"
                                                                                           : "the child's input is no pipe"));
    aiol_spawned_forget_readings(process);
    f = (aioloop_create_operation)(loop, aiol_spawned_talk_cancelled, process);
    if (aiol_streams_is_static(f))
        return f;
    process->talking = f;
    process->pending = 0;
    for (i = 0; i < 3 && err == 0; i++)
        err = aiol_spawned_listen(process, i);
    if (err == 0)
        err = aiol_spawned_feed(process, input, size);
    if (err < 0)
        aiol_spawned_finish_talk(process, err);
    return f;
}

/* ---- quoting ---- */

/* What a shell takes for itself. */
static bool aiol_shell_is_plain(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c != '\0' && strchr("@%_-+=:,./", c) != NULL);
}

typedef struct aiol_shell_text {
    char *buffer;
    size_t room; /* without the zero */
    size_t size;
} aiol_shell_text;

static void aiol_shell_add(aiol_shell_text *t, const char *text, size_t size) {
    size_t i;
    for (i = 0; i < size; i++, t->size++)
        if (t->size < t->room)
            t->buffer[t->size] = text[i];
}

AIOLOOP_API int64_t aioloop_shell_quote(const char *text, char *buffer, size_t size) {
    aiol_shell_text t;
    size_t plain = 0;
    const char *at;
    if (text == NULL || (buffer == NULL && size != 0))
        return AIOLOOP_EINVAL;
    t.buffer = buffer;
    t.room = size == 0 ? 0 : size - 1;
    t.size = 0;
    while (aiol_shell_is_plain(text[plain]))
        plain++;
    if (plain != 0 && text[plain] == '\0') {
        aiol_shell_add(&t, text, plain);
    } else {
        aiol_shell_add(&t, "'", 1);
        for (at = text; *at != '\0'; at++)
            if (*at == '\'')
                aiol_shell_add(&t, "'\"'\"'", 5);
            else
                aiol_shell_add(&t, at, 1);
        aiol_shell_add(&t, "'", 1);
    }
    if (size != 0)
        buffer[aiol_min_size(t.size, t.room)] = '\0';
    return (int64_t)t.size;
}

#endif
