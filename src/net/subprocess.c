/*
 * subprocess.c - programs as children.                             (asyncio: base_subprocess.py, unix_events.py)
 *
 * A subprocess has up to three pipe transports, whose protocol passes on what happens to that of the subprocess, and
 * watches a descriptor that becomes readable when the child has ended. It is over (connection_lost) when that has
 * happened and all pipes are lost. Two references of its own: one until then, one as long as the engine has the watch.
 *
 * The program starts within the call, so nothing has to be copied; the protocol is first heard of by the loop.
 */
#ifndef AIOL_NET_SUBPROCESS_C
#define AIOL_NET_SUBPROCESS_C

#include "api/subprocess.h"
#include "net/pipe.c"
#include "sys/spawn_posix.c"

typedef struct aiol_subprocess_pipe {
    aioloop_subprocess *process;
    aioloop_transport *transport; /* a reference; NULL: this stream is no pipe */
    bool lost;
} aiol_subprocess_pipe;

struct aioloop_subprocess {
    aiol_resource resource;
    const aioloop_subprocess_protocol *protocol;
    void *self;
    void *arg;
    aioloop_future *future; /* the call's; NULL: it is settled */
    aiol_node node;         /* begins; later runs connection_lost */
    aiol_op watch;          /* a POLL of child.watch */
    aiol_child child;
    aiol_subprocess_pipe pipes[3];
    int status; /* once it has exited */
    bool started; /* the loop has had its turn */
    bool begun;  /* connection_made was called */
    bool exited; /* and was reaped */
    bool told;   /* of that, the protocol */
    bool closed;
    bool ending; /* connection_lost is queued, or will not come */
    bool lost;
    size_t block_size;
};

/* ---- the end ---- */

static void aiol_subprocess_destroy(aiol_resource *resource) {
    aioloop_subprocess *p = AIOL_CONTAINER(resource, aioloop_subprocess, resource);
    aioloop *loop = resource->loop;
    int i;
    for (i = 0; i < 3 && !loop->freeing; i++)
        aioloop_transport_unref(p->pipes[i].transport);
    aiol_resource_remove(resource);
    aiol_free(&loop->allocator, p, p->block_size);
}

/* The child is to be gone when this returns. */
static void aiol_subprocess_kill_and_reap(aioloop_subprocess *p) {
    if (!aiol_child_end(&p->child))
        aiol_warn(p->resource.loop, p->resource.site, "child %d may not be killed, and goes on", p->child.pid);
    if (p->child.watch != AIOL_NO_SOCKET)
        aiol_child_unwatch(&p->child, true);
}

/* The loop closes: the child goes with it. */
static void aiol_subprocess_loop_closed(aiol_resource *resource) {
    aioloop_subprocess *p = AIOL_CONTAINER(resource, aioloop_subprocess, resource);
    bool ours = resource->loop->process == aiol_process_id();
    if (p->future != NULL)
        p->future->of.owner = NULL; /* it stays pending */
    if (p->watch.state != AIOL_OP_IDLE && ours)
        aiol_op_cancel(resource->loop->engine, &p->watch);
    p->watch.state = AIOL_OP_IDLE;
    if (p->exited)
        return;
    if (ours)
        aiol_subprocess_kill_and_reap(p);
    else
        aiol_child_unwatch(&p->child, false);
    p->exited = ours;
}

static bool aiol_subprocess_is_open(const aiol_resource *resource) {
    const aioloop_subprocess *p = AIOL_CONTAINER(resource, const aioloop_subprocess, resource);
    return !p->ending && !p->closed;
}

static const aiol_resource_calls aiol_subprocess_resource = {"subprocess", aiol_subprocess_loop_closed, aiol_subprocess_destroy,
                                                             aiol_subprocess_is_open};

static void aiol_subprocess_report(aioloop_subprocess *p, int code, const char *message) {
    aioloop_exception_context context;
    aiol_context_frame frame;
    memset(&context, 0, sizeof(context));
    context.message = message;
    frame = aiol_context_enter(&p->resource.context);
    aiol_report(p->resource.loop, code, p->resource.site, &context);
    aiol_context_leave(&frame);
}

static void aiol_subprocess_lost(aioloop *loop, aiol_node *node) {
    aioloop_subprocess *p = AIOL_CONTAINER(node, aioloop_subprocess, node);
    p->lost = true;
    if (p->begun && p->protocol->connection_lost != NULL) {
        aiol_frame frame = aiol_enter(loop, &p->resource.context);
        int raised;
        p->protocol->connection_lost(p, p->self, 0);
        raised = aiol_leave(loop, &frame);
        if (AIOL_UNLIKELY(raised != 0))
            aiol_subprocess_report(p, raised, "Error in connection_lost");
    }
    aioloop_subprocess_unref(p);
    aiol_callback_end(loop);
}

static void aiol_subprocess_end_if_over(aioloop_subprocess *p) {
    int i;
    if (p->ending || !p->started || !p->exited || (p->begun && !p->told))
        return;
    for (i = 0; i < 3; i++)
        if (p->pipes[i].transport != NULL && !p->pipes[i].lost)
            return;
    p->ending = true;
    p->node.run = aiol_subprocess_lost;
    aiol_queue_push(&p->resource.loop->ready, &p->node);
}

/* Tells the protocol that the child has ended, unless it is to be told later, or nothing. */
static void aiol_subprocess_tell_exited(aioloop_subprocess *p) {
    aioloop *loop = p->resource.loop;
    if (p->begun && !p->told) {
        p->told = true;
        if (p->protocol->process_exited != NULL) {
            aiol_frame frame = aiol_enter(loop, &p->resource.context);
            int raised;
            p->protocol->process_exited(p, p->self);
            raised = aiol_leave(loop, &frame);
            if (AIOL_UNLIKELY(raised != 0))
                aiol_subprocess_report(p, raised, "Error in process_exited");
        }
    }
    aiol_subprocess_end_if_over(p);
}

/* The watch's done(). */
static size_t aiol_subprocess_exited(aiol_op *op, int64_t n, const void *data) {
    aioloop_subprocess *p = AIOL_CONTAINER(op, aioloop_subprocess, watch);
    aioloop *loop = p->resource.loop;
    int err;
    (void)n;
    (void)data;
    if (p->exited) { /* the engine lets go late */
        aioloop_subprocess_unref(p);
        return 0;
    }
    /* If the engine gave up watching there is nothing left but to wait. */
    err = aiol_child_reap(&p->child, op->state == AIOL_OP_IDLE, &p->status);
    if (err == 0)
        return 0;
    if (err < 0) {
        p->status = 255;
        aiol_warn(loop, p->resource.site, "the end of child %d was told to somebody else: its exit status is unknown", p->child.pid);
    }
    p->exited = true;
    aioloop_subprocess_ref(p);
    if (aiol_op_cancel(loop->engine, &p->watch) == 0)
        aioloop_subprocess_unref(p);
    aiol_child_unwatch(&p->child, true);
    aiol_subprocess_tell_exited(p);
    aioloop_subprocess_unref(p);
    aiol_callback_end(loop);
    return 0;
}

static void aiol_subprocess_kill(aioloop_subprocess *p) {
    if (!p->exited)
        (void)aiol_child_signal(&p->child, SIGKILL);
}

/* ---- the pipes ---- */

AIOL_INLINE int aiol_subprocess_number(const aiol_subprocess_pipe *pipe) {
    return (int)(pipe - pipe->process->pipes);
}

static void aiol_subprocess_pipe_data(aioloop_transport *transport, void *self, const void *data, size_t size) {
    aiol_subprocess_pipe *pipe = (aiol_subprocess_pipe *)self;
    aioloop_subprocess *p = pipe->process;
    aiol_frame frame;
    int raised;
    (void)transport;
    if (p->protocol->pipe_data_received == NULL)
        return;
    frame = aiol_enter(p->resource.loop, &p->resource.context);
    p->protocol->pipe_data_received(p, p->self, aiol_subprocess_number(pipe), data, size);
    raised = aiol_leave(p->resource.loop, &frame);
    if (AIOL_UNLIKELY(raised != 0)) /* the pipe stays: the child is not to hear of it */
        aiol_subprocess_report(p, raised, "Error in pipe_data_received");
}

static void aiol_subprocess_pipe_lost(aioloop_transport *transport, void *self, int error) {
    aiol_subprocess_pipe *pipe = (aiol_subprocess_pipe *)self;
    aioloop_subprocess *p = pipe->process;
    (void)transport;
    pipe->lost = true;
    if (p->protocol->pipe_connection_lost != NULL)
        p->protocol->pipe_connection_lost(p, p->self, aiol_subprocess_number(pipe), error);
    aiol_subprocess_end_if_over(p);
}

static void aiol_subprocess_pipe_pause(aioloop_transport *transport, void *self) {
    aioloop_subprocess *p = ((aiol_subprocess_pipe *)self)->process;
    (void)transport;
    if (p->protocol->pause_writing != NULL)
        p->protocol->pause_writing(p, p->self);
}

static void aiol_subprocess_pipe_resume(aioloop_transport *transport, void *self) {
    aioloop_subprocess *p = ((aiol_subprocess_pipe *)self)->process;
    (void)transport;
    if (p->protocol->resume_writing != NULL)
        p->protocol->resume_writing(p, p->self);
}

static const aioloop_protocol aiol_subprocess_pipe_protocol = {0,
                                                               NULL,
                                                               NULL,
                                                               aiol_subprocess_pipe_data,
                                                               NULL,
                                                               aiol_subprocess_pipe_lost,
                                                               aiol_subprocess_pipe_pause,
                                                               aiol_subprocess_pipe_resume,
                                                               NULL,
                                                               NULL,
                                                               NULL,
                                                               NULL};

/* Those that have not begun go. */
static void aiol_subprocess_drop_pipes(aioloop_subprocess *p) {
    int i;
    for (i = 0; i < 3; i++) {
        aioloop_transport *t = p->pipes[i].transport;
        p->pipes[i].transport = NULL;
        if (t == NULL)
            continue;
        aiol_stream_drop(t);
        aioloop_transport_unref(t);
    }
}

/* Makes transports of the loop's ends, which are closed if that fails. */
static int aiol_subprocess_make_pipes(aioloop_subprocess *p, const aiol_spawn *s) {
    aiol_engine *e = p->resource.loop->engine;
    aiol_pipe_kind kind;
    aiol_stream_setup setup;
    int err = 0;
    int i;
    memset(&kind, 0, sizeof(kind));
    memset(&setup, 0, sizeof(setup));
    kind.one_way = true;
    setup.loop = p->resource.loop;
    setup.protocol = &aiol_subprocess_pipe_protocol;
    setup.context = p->resource.context;
    setup.site = p->resource.site;
    for (i = 0; i < 3; i++) {
        if (s->parent[i] == -1)
            continue;
        p->pipes[i].process = p;
        setup.socket = s->parent[i];
        setup.arg = &p->pipes[i];
        if (err == 0)
            err = aiol_pipe_new(&setup, &kind, i == 0, &p->pipes[i].transport);
        if (err == 0)
            aioloop_transport_ref(p->pipes[i].transport);
        else
            e->sockets->close(e, s->parent[i]);
    }
    return err;
}

/* ---- the beginning ---- */

/* It was given up before it began: nobody is told anything. */
static void aiol_subprocess_give_up(aioloop_subprocess *p) {
    aiol_subprocess_kill(p);
    aiol_subprocess_drop_pipes(p);
}

static bool aiol_subprocess_cancel(aioloop_future *future, void *owner) {
    aioloop_subprocess *p = (aioloop_subprocess *)owner;
    if (p == NULL)
        return true; /* of a closed loop */
    p->future = NULL;
    future->of.owner = NULL;
    aiol_future_release(future);
    if (p->begun)
        aioloop_subprocess_close(p);
    else
        aiol_subprocess_give_up(p);
    return true;
}

static int aiol_subprocess_call_factory(aioloop_subprocess *p) {
    aioloop *loop = p->resource.loop;
    aiol_frame frame;
    int raised;
    int err;
    if (p->protocol->factory == NULL)
        return 0;
    frame = aiol_enter(loop, &p->resource.context);
    aiol_error_clear(&loop->error);
    err = p->protocol->factory(p->self, p->arg);
    raised = aiol_leave(loop, &frame);
    if (err >= 0)
        err = raised < 0 ? raised : 0;
    if (err == AIOLOOP_EFATAL)
        aiol_loop_halt(loop);
    return err;
}

static void aiol_subprocess_call_made(aioloop_subprocess *p) {
    aioloop *loop = p->resource.loop;
    aiol_frame frame;
    int raised;
    if (p->protocol->connection_made == NULL)
        return;
    frame = aiol_enter(loop, &p->resource.context);
    p->protocol->connection_made(p, p->self);
    raised = aiol_leave(loop, &frame);
    if (AIOL_UNLIKELY(raised != 0))
        aiol_subprocess_report(p, raised, "Error in connection_made");
}

/* As a future's dispose. */
static void aiol_subprocess_dispose(void *pointer) {
    aioloop_subprocess_unref((aioloop_subprocess *)pointer);
}

/* Below 0: the call fails with that. */
static void aiol_subprocess_settle(aioloop_subprocess *p, int err) {
    aioloop_future *f = p->future;
    if (f == NULL)
        return;
    p->future = NULL;
    f->of.owner = NULL;
    if (err < 0)
        aiol_future_fail(f, err, aiol_detail(p->resource.loop, err));
    else
        aiol_future_finish(f, p->child.pid, aioloop_subprocess_ref(p), aiol_subprocess_dispose);
    aiol_future_release(f);
}

static void aiol_subprocess_begin(aioloop *loop, aiol_node *node) {
    aioloop_subprocess *p = AIOL_CONTAINER(node, aioloop_subprocess, node);
    int err = 0;
    int i;
    aioloop_subprocess_ref(p);
    p->started = true;
    if (p->future != NULL)
        err = aiol_subprocess_call_factory(p);
    if (err < 0) {
        aiol_subprocess_give_up(p);
        aiol_subprocess_settle(p, err);
    } else if (p->future != NULL) {
        p->begun = true;
        for (i = 0; i < 3; i++) /* nothing is delivered before this returns */
            if (p->pipes[i].transport != NULL)
                (void)aiol_pipe_begin(p->pipes[i].transport, NULL);
        aiol_subprocess_call_made(p);
        aiol_subprocess_settle(p, 0);
    }
    if (p->exited)
        aiol_subprocess_tell_exited(p);
    aioloop_subprocess_unref(p);
    aiol_callback_end(loop);
}

/* ---- the calls ---- */

static int aiol_subprocess_stdio(aioloop *loop, int option, int i, int *stdio) {
    if (option < AIOLOOP_STDIO_DEVNULL || (option == AIOLOOP_STDIO_STDOUT && i != 2))
        return aiol_fail(loop, AIOLOOP_EINVAL, "%d is not what a standard stream can be", option);
    *stdio = option == AIOLOOP_STDIO_PIPE      ? (int)AIOL_SPAWN_PIPE
             : option == AIOLOOP_STDIO_INHERIT ? (int)AIOL_SPAWN_INHERIT
             : option == AIOLOOP_STDIO_STDOUT  ? (int)AIOL_SPAWN_STDOUT
             : option == AIOLOOP_STDIO_DEVNULL ? (int)AIOL_SPAWN_DEVNULL
                                               : option - 1;
    return 0;
}

/* What the options mean. */
static int aiol_subprocess_plan(aioloop *loop, const aioloop_subprocess_options *o, aiol_spawn *s) {
    size_t i;
    int err = aiol_subprocess_stdio(loop, o->std_in, 0, &s->stdio[0]);
    if (err == 0)
        err = aiol_subprocess_stdio(loop, o->std_out, 1, &s->stdio[1]);
    if (err == 0)
        err = aiol_subprocess_stdio(loop, o->std_err, 2, &s->stdio[2]);
    if (err < 0)
        return err;
    if (o->process_group < -1)
        return aiol_fail(loop, AIOLOOP_EINVAL, "%d is not a process group", o->process_group);
    if ((o->pass_fds == NULL && o->pass_fds_count != 0) || (o->extra_groups == NULL && o->extra_groups_count != 0))
        return aiol_fail(loop, AIOLOOP_EINVAL, "a count without a list");
    for (i = 0; i < o->pass_fds_count; i++)
        if (o->pass_fds[i] < 3)
            return aiol_fail(loop, AIOLOOP_EINVAL, "descriptor %d cannot be passed on: it is no number from 3 on", o->pass_fds[i]);
    s->cwd = o->cwd;
    s->env = o->env != NULL ? (char *const *)(uintptr_t)o->env : aiol_spawn_environment();
    s->keep = o->pass_fds;
    s->keep_count = o->pass_fds_count;
    s->new_session = o->start_new_session;
    s->process_group = o->process_group;
    s->set_user = o->set_user;
    s->set_group = o->set_group;
    s->set_groups = o->extra_groups != NULL;
    s->set_umask = o->set_umask;
    s->keep_signals = o->keep_signals;
    s->user = o->user;
    s->group = o->group;
    s->groups = o->extra_groups;
    s->groups_count = o->extra_groups_count;
    s->umask = o->umask;
    s->preexec = o->preexec;
    s->preexec_arg = o->preexec_arg;
    return 0;
}

/* Where programs are looked for: as the child's environment says. */
static const char *aiol_subprocess_path(char *const *env) {
    for (; env != NULL && *env != NULL; env++)
        if (strncmp(*env, "PATH=", 5) == 0)
            return *env + 5;
    return "/bin:/usr/bin";
}

static int aiol_subprocess_failed(aioloop *loop, const aiol_spawn *s, int err) {
    static const char *const steps[] = {"start",     "standard stream", "chdir to",         "setsid for",  "setpgid for",
                                        "setgroups for", "setgid for",   "setuid for",       "pass_fds: descriptor", "preexec of",
                                        "exec"};
    const char *what = steps[s->step];
    if (s->step == AIOL_SPAWN_STDIO || s->step == AIOL_SPAWN_PASS)
        return aiol_fail(loop, err, "%s %d of \"%.100s\": %s", what, s->which, s->file, aioloop_strerror(err));
    return aiol_fail(loop, err, "%s \"%.100s\": %s%s", what, s->step == AIOL_SPAWN_CHDIR ? s->cwd : s->file,
                     aioloop_strerror(err), s->lacks_interpreter ? ", which is its interpreter (#!)" : "");
}

/* Starts the program. The child's number, or a code with its message stored. */
static int aiol_subprocess_spawn(aioloop *loop, const char *const *args, const aioloop_subprocess_options *o, aiol_spawn *s) {
    const size_t room = AIOL_SPAWN_STACK + 16;
    char *stack;
    int pid = aiol_subprocess_plan(loop, o, s);
    if (pid < 0)
        return pid;
    s->file = o->executable != NULL ? o->executable : args[0];
    s->args = (char *const *)(uintptr_t)args;
    s->path = aiol_subprocess_path(s->env);
    stack = (char *)aiol_alloc(&loop->allocator, room);
    if (stack == NULL)
        return aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
    s->stack = stack + (16 - (uintptr_t)stack % 16);
    pid = loop->engine->sockets->spawn(loop->engine, s);
    aiol_free(&loop->allocator, stack, room);
    return pid > 0 ? pid : aiol_subprocess_failed(loop, s, pid);
}

/* Has the engine watch for the end of the child. */
static int aiol_subprocess_watch(aioloop_subprocess *p) {
    aiol_engine *e = p->resource.loop->engine;
    int64_t n;
    int err = aiol_child_watch(&p->child, e->without);
    if (err < 0)
        return err;
    p->watch.kind = AIOL_OP_POLL;
    p->watch.fd = p->child.watch;
    p->watch.done = aiol_subprocess_exited;
    p->watch.u.poll.events = AIOL_POLL_READABLE;
    n = e->calls->attach(e, p->child.watch, AIOL_OWNER_WATCHER);
    if (n == 0)
        n = aiol_op_submit(e, &p->watch);
    return n == AIOL_PENDING ? 0 : (int)n;
}

/* With its future, and one reference. NULL: no memory. */
static aioloop_subprocess *aiol_subprocess_new(aioloop *loop, const aioloop_subprocess_protocol *protocol, void *arg) {
    size_t start = aiol_align(sizeof(aioloop_subprocess));
    size_t size = start + protocol->instance_size;
    aioloop_subprocess *p = NULL;
    if (protocol->instance_size <= SIZE_MAX / 2)
        p = (aioloop_subprocess *)aiol_alloc_zero(&loop->allocator, size);
    if (p == NULL)
        return NULL;
    p->future = aiol_future_new(loop, aiol_subprocess_cancel, p);
    if (p->future == NULL) {
        aiol_free(&loop->allocator, p, size);
        return NULL;
    }
    p->block_size = size;
    p->protocol = protocol;
    p->arg = arg;
    p->self = protocol->instance_size != 0 ? (void *)((char *)p + start) : arg;
    p->child.watch = AIOL_NO_SOCKET;
    p->node.run = aiol_subprocess_begin;
    p->resource.refs = 1;
    p->resource.site = p->future->site;
    p->resource.context = aiol_map_ref(aiol_thread.map);
    aiol_resource_add(loop, &p->resource, &aiol_subprocess_resource);
    return p;
}

/* The call fails; there is no child, or it is ended. */
static aioloop_future *aiol_subprocess_undo(aioloop_subprocess *p, int err) {
    aioloop *loop = p->resource.loop;
    aioloop_future *f = p->future;
    aiol_subprocess_drop_pipes(p);
    if (p->child.pid > 0)
        aiol_subprocess_kill_and_reap(p);
    f->of.owner = NULL;
    aiol_future_fail(f, err, aiol_detail(loop, err));
    aiol_future_release(f);
    aiol_subprocess_destroy(&p->resource);
    return f;
}

static aioloop_future *aiol_subprocess_start(aioloop *loop, const aioloop_subprocess_protocol *protocol, void *arg,
                                             const char *const *args, const aioloop_subprocess_options *o) {
    aioloop_subprocess *p;
    aiol_spawn s;
    int err;
    p = aiol_subprocess_new(loop, protocol, arg);
    if (p == NULL)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    memset(&s, 0, sizeof(s));
    err = aiol_subprocess_spawn(loop, args, o, &s);
    if (err < 0)
        return aiol_subprocess_undo(p, err);
    p->child.pid = err;
    p->child.watch = s.pidfd;
    err = aiol_subprocess_make_pipes(p, &s);
    if (err == 0)
        err = aiol_subprocess_watch(p);
    if (err < 0)
        return aiol_subprocess_undo(p, aiol_fail(loop, err, NULL));
    aioloop_subprocess_ref(p); /* as long as it is watched */
    aiol_queue_push(&loop->ready, &p->node);
    return p->future;
}

AIOLOOP_API aioloop_future *(aioloop_subprocess_exec)(aioloop *loop, const aioloop_subprocess_protocol *protocol, void *arg,
                                                      const char *const *args, const aioloop_subprocess_options *options) {
    static const aioloop_subprocess_options defaults = AIOLOOP_ZERO;
    aioloop_future *refused = aiol_refuse(loop, (const aioloop_protocol *)(const void *)protocol);
    if (refused != NULL)
        return refused;
    if (args == NULL || args[0] == NULL)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_EINVAL, "a program is needed"));
    return aiol_subprocess_start(loop, protocol, arg, args, options != NULL ? options : &defaults);
}

AIOLOOP_API aioloop_future *(aioloop_subprocess_shell)(aioloop *loop, const aioloop_subprocess_protocol *protocol,
                                                       void *arg, const char *command,
                                                       const aioloop_subprocess_options *options) {
    const char *args[4] = {"/bin/sh", "-c", NULL, NULL};
    aioloop_future *refused = aiol_refuse(loop, (const aioloop_protocol *)(const void *)protocol);
    if (refused != NULL)
        return refused;
    if (command == NULL)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_EINVAL, "a command line is needed"));
    args[2] = command;
    return (aioloop_subprocess_exec)(loop, protocol, arg, args, options);
}

/* ---- the transport ---- */

AIOLOOP_API aioloop_subprocess *aioloop_subprocess_ref(aioloop_subprocess *transport) {
    if (transport != NULL)
        transport->resource.refs++;
    return transport;
}

AIOLOOP_API void aioloop_subprocess_unref(aioloop_subprocess *transport) {
    if (transport == NULL)
        return;
    AIOL_ASSERT(transport->resource.refs != 0);
    if (--transport->resource.refs == 0 && !transport->resource.loop->freeing)
        aiol_subprocess_destroy(&transport->resource);
}

AIOLOOP_API aioloop *aioloop_subprocess_get_loop(const aioloop_subprocess *transport) {
    return transport == NULL ? NULL : transport->resource.loop;
}

AIOLOOP_API int aioloop_subprocess_get_pid(const aioloop_subprocess *transport) {
    return transport == NULL ? AIOLOOP_EINVAL + 0 : transport->child.pid;
}

AIOLOOP_API bool aioloop_subprocess_get_returncode(const aioloop_subprocess *transport, int *code) {
    if (transport == NULL || !transport->exited)
        return false;
    if (code != NULL)
        *code = transport->status;
    return true;
}

AIOLOOP_API aioloop_transport *aioloop_subprocess_get_pipe_transport(const aioloop_subprocess *transport, int fd) {
    return transport == NULL || fd < 0 || fd > 2 ? NULL : transport->pipes[fd].transport;
}

AIOLOOP_API int aioloop_subprocess_send_signal(aioloop_subprocess *transport, int signal) {
    if (transport == NULL || signal <= 0)
        return AIOLOOP_EINVAL;
    if (transport->lost || transport->resource.loop->closed)
        return aiol_fail(transport->resource.loop, AIOLOOP_ESRCH, "the child has ended");
    return transport->exited ? 0 : aiol_child_signal(&transport->child, signal);
}

AIOLOOP_API int aioloop_subprocess_terminate(aioloop_subprocess *transport) {
    return aioloop_subprocess_send_signal(transport, SIGTERM);
}

AIOLOOP_API int aioloop_subprocess_kill(aioloop_subprocess *transport) {
    return aioloop_subprocess_send_signal(transport, SIGKILL);
}

AIOLOOP_API void aioloop_subprocess_close(aioloop_subprocess *transport) {
    int i;
    if (transport == NULL || transport->closed || transport->resource.loop->closed)
        return;
    transport->closed = true;
    for (i = 0; i < 3; i++)
        aioloop_transport_close(transport->pipes[i].transport);
    aiol_subprocess_kill(transport);
}

AIOLOOP_API bool aioloop_subprocess_is_closing(const aioloop_subprocess *transport) {
    return transport == NULL || transport->closed || transport->lost;
}

#endif
