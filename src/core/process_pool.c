/*
 * process_pool.c - functions that run in other processes.                       (concurrent.futures: process.py)
 *
 * Three kinds of processes. The PROGRAM has a thread pool: a job of it takes a worker that is idle, sends it a call and
 * blocks until the answer is there. So everything that a loop sees of a pool, cancelling, closing and the like, is the
 * thread pool's. The SERVER was forked when the pool was made and has one thread: it forks the workers, and sends the
 * program one end of a channel to each. It keeps the other end, too: so a channel ends when the server has heard how
 * its worker has died, and not earlier, whoever else has a copy. A WORKER answers calls.
 *
 * The server ends when the channel to it does, and kills the workers: the program has closed or shut it, or has gone;
 * in either case there is nobody to answer. A process that the program forks has the descriptors, too. So the server
 * watches the program, where the system lets it, and the program does not wait for a server that has ended. What has a
 * descriptor is cleared before that is closed: a forked child closes no other that has got the number meanwhile.
 *
 * The program and the server each have the table of workers, with their own ends.
 */
#ifndef AIOL_CORE_PROCESS_POOL_C
#define AIOL_CORE_PROCESS_POOL_C

#include "api/process_pool.h"
#include "core/executor.c"
#include "sys/process_posix.c"

typedef struct aiol_process_worker {
    struct aiol_process_worker *next; /* in the program: the next idle one */
    int pid;                          /* 0: it is not there */
    int channel;
    int status; /* in the server: how it has died */
} aiol_process_worker;

struct aioloop_process_pool {
    int process;
    aioloop_allocator allocator;
    size_t size;
    char name[AIOL_POOL_NAME];
    aioloop_thread_pool *threads; /* as many as workers */
    unsigned max_workers;
    aiol_mutex asking; /* one question to the server at a time; taken before the other */
    aiol_mutex mutex;  /* guards the rest, and is not held for long */
    int server;        /* 0: it has ended. It changes with both held */
    int channel;       /* to it */
    aiol_process_worker *idle; /* the last one used comes first, so no more are made than are needed */
    aiol_process_worker *workers;
};

#define AIOL_PROCESS_PATIENCE 100 /* milliseconds without a reply, until it is asked whether there is a server */

typedef enum aiol_process_order { AIOL_PROCESS_START, AIOL_PROCESS_END } aiol_process_order;

/* From the program to the server. END: a worker that does not answer, dead or alive. */
typedef struct aiol_process_question {
    uint32_t order;
    uint32_t worker;
} aiol_process_question;

typedef struct aiol_process_reply {
    int error;
    int pid;
    int status;
} aiol_process_reply;

/* From the program to a worker; size bytes follow. */
typedef struct aiol_process_request {
    aioloop_process_function fn;
    uint64_t size;
} aiol_process_request;

/* And back; the text of an error and size bytes follow. */
typedef struct aiol_process_answer {
    int64_t number;
    uint64_t size;
    uint64_t text_size;
} aiol_process_answer;

/* A function to call, in the program; its input follows. */
typedef struct aiol_process_call {
    aioloop_process_pool *pool; /* there as long as the call has not returned */
    aioloop_allocator allocator;
    aiol_process_request request;
} aiol_process_call;

/* ---- outputs ---- */

/* In a worker the bytes are a block of their own, which grows; in the program they follow. */
typedef struct aiol_output {
    aioloop_output bytes;
    aioloop_allocator allocator;
    char *block;
    size_t capacity;
    int error;
} aiol_output;

AIOLOOP_API int aioloop_output_write(aioloop_output *out, const void *data, size_t size) {
    aiol_output *o = (aiol_output *)(void *)out;
    uintptr_t offset; /* in what was written before, which moves */
    bool own;
    if (o == NULL || (data == NULL && size != 0))
        return AIOLOOP_EINVAL;
    offset = (uintptr_t)data - (uintptr_t)o->block;
    own = o->block != NULL && offset < o->bytes.size;
    if (o->error == 0 && size > AIOLOOP_PROCESS_SIZE_MAX - o->bytes.size)
        o->error = AIOLOOP_EMSGSIZE;
    if (o->error == 0)
        o->error = aiol_grow(&o->allocator, &o->block, &o->capacity, 1, o->bytes.size + size);
    if (o->error < 0)
        return o->error;
    if (size != 0)
        memcpy(o->block + o->bytes.size, own ? o->block + offset : (const char *)data, size);
    o->bytes.data = o->block;
    o->bytes.size += size;
    return 0;
}

/* One in the program, to be filled; NULL when there is no memory. */
static aiol_output *aiol_output_new(const aioloop_allocator *a, size_t size) {
    aiol_output *o = (aiol_output *)aiol_alloc(a, sizeof(*o) + size + 1);
    if (o == NULL)
        return NULL;
    memset(o, 0, sizeof(*o));
    o->allocator = *a;
    o->block = (char *)(o + 1);
    o->block[size] = '\0';
    o->bytes.data = o->block;
    o->bytes.size = size;
    return o;
}

AIOLOOP_API void aioloop_output_free(aioloop_output *output) {
    aiol_output *o = (aiol_output *)(void *)output;
    aioloop_allocator allocator;
    if (o == NULL)
        return;
    allocator = o->allocator;
    aiol_free(&allocator, o, sizeof(*o) + o->bytes.size + 1);
}

static void aiol_output_dispose(void *pointer) {
    aioloop_output_free((aioloop_output *)pointer);
}

/* ---- a worker ---- */

/* Reads what cannot be kept. */
static int aiol_process_skip(size_t size) {
    char bytes[4096];
    int err = 0;
    while (size != 0 && err == 0) {
        size_t part = aiol_min_size(size, sizeof(bytes));
        err = aiol_channel_recv(AIOL_PROCESS_CHANNEL, bytes, part);
        size -= part;
    }
    return err;
}

/* Sends what a function has returned; of a failure the message, else the output. */
static int aiol_process_send_answer(int64_t number, const aiol_output *out) {
    const struct aioloop_error *error = &aiol_thread.error.error;
    aiol_process_answer answer;
    aioloop_buf pieces[3];
    if (number >= 0 && out->error < 0)
        number = out->error;
    if (number < INT_MIN)
        number = AIOLOOP_EINVAL;
    answer.number = number;
    answer.size = number < 0 ? 0 : out->bytes.size;
    answer.text_size = number < 0 && error->code == number && error->text != NULL ? strlen(error->text) : 0;
    pieces[0].data = &answer;
    pieces[0].size = sizeof(answer);
    pieces[1].data = error->text;
    pieces[1].size = (size_t)answer.text_size;
    pieces[2].data = out->bytes.data;
    pieces[2].size = (size_t)answer.size;
    return aiol_channel_send(AIOL_PROCESS_CHANNEL, pieces, 3, -1);
}

/* Answers one call. */
static int aiol_process_answer_call(const aioloop_process_pool *pool) {
    aiol_process_request request;
    aiol_output out;
    char *input;
    size_t size;
    int64_t number = AIOLOOP_ENOMEM;
    int err = aiol_channel_recv(AIOL_PROCESS_CHANNEL, &request, sizeof(request));
    if (err < 0)
        return err;
    memset(&out, 0, sizeof(out));
    out.allocator = pool->allocator;
    aiol_error_clear(&aiol_thread.error);
    size = (size_t)request.size;
    input = (char *)aiol_alloc(&pool->allocator, size + 1);
    err = input == NULL ? aiol_process_skip(size) : aiol_channel_recv(AIOL_PROCESS_CHANNEL, input, size);
    if (err == 0 && input != NULL) {
        input[size] = '\0';
        number = request.fn(input, size, &out.bytes);
    }
    fflush(stdout);
    if (err == 0)
        err = aiol_process_send_answer(number, &out);
    aiol_free(&pool->allocator, input, size + 1);
    aiol_free(&pool->allocator, out.block, out.capacity);
    return err;
}

/* A forked process has one thread, which was in the middle of something that is not its business. */
static void aiol_process_begin(const aioloop_process_pool *pool) {
    memset(&aiol_thread, 0, sizeof(aiol_thread));
    aiol_thread.counted = true;
    aiol_thread.first = true;
    aiol_thread_set_name(pool->name);
    aiol_thread_give_way();
}

static void aiol_process_work(const aioloop_process_pool *pool, int channel, int server) {
    int err = aiol_process_become_worker(channel, server);
    aiol_process_begin(pool);
    while (err == 0)
        err = aiol_process_answer_call(pool);
    aiol_process_exit(0);
}

/* ---- the server ---- */

/* A worker has died: now its channel ends. */
static void aiol_process_bury(aiol_process_worker *w, int status) {
    w->pid = 0;
    w->status = status;
    aiol_channel_shut(w->channel);
    aiol_channel_close(w->channel);
}

static void aiol_process_reap(aioloop_process_pool *pool) {
    int status = 0;
    int pid;
    while ((pid = aiol_process_wait(-1, false, &status)) > 0) {
        unsigned i;
        for (i = 0; i < pool->max_workers; i++)
            if (pool->workers[i].pid == pid)
                aiol_process_bury(&pool->workers[i], status);
    }
}

/* *descriptor: the program's end of the channel. */
static int aiol_process_fork_worker(aioloop_process_pool *pool, aiol_process_worker *w, int *descriptor) {
    int ends[2];
    int server = aiol_process_id();
    int err = aiol_channel_pair(ends);
    if (err < 0)
        return err;
    w->pid = aiol_process_fork();
    if (w->pid == 0) {
        aiol_channel_close(ends[0]);
        aiol_process_work(pool, ends[1], server);
    }
    if (w->pid < 0) {
        err = w->pid;
        w->pid = 0;
        aiol_channel_close(ends[0]);
        aiol_channel_close(ends[1]);
        return err;
    }
    w->channel = ends[1];
    *descriptor = ends[0];
    return 0;
}

static void aiol_process_kill_all(aioloop_process_pool *pool) {
    unsigned i;
    for (i = 0; i < pool->max_workers; i++)
        if (pool->workers[i].pid != 0)
            aiol_process_kill(pool->workers[i].pid);
}

/* Ends one that may have died. 0, or why nothing is known of it. */
static int aiol_process_end_worker(aiol_process_worker *w) {
    int status = 0;
    int err;
    aiol_process_kill(w->pid);
    err = aiol_process_wait(w->pid, true, &status);
    aiol_process_bury(w, status);
    return err;
}

static int aiol_process_send_reply(aiol_process_reply *reply, int descriptor) {
    aioloop_buf piece;
    piece.data = reply;
    piece.size = sizeof(*reply);
    return aiol_channel_send(AIOL_PROCESS_CHANNEL, &piece, 1, descriptor);
}

/* Does what it is asked to, and says so. */
static int aiol_process_obey(aioloop_process_pool *pool) {
    aiol_process_question question;
    aiol_process_reply reply;
    aiol_process_worker *w;
    int descriptor = -1;
    int err = aiol_channel_recv(AIOL_PROCESS_CHANNEL, &question, sizeof(question));
    if (err < 0)
        return err;
    memset(&reply, 0, sizeof(reply));
    w = &pool->workers[question.worker];
    if (question.order == AIOL_PROCESS_START)
        reply.error = aiol_process_fork_worker(pool, w, &descriptor);
    else if (w->pid != 0)
        reply.error = aiol_process_end_worker(w);
    reply.pid = w->pid;
    reply.status = w->status;
    err = aiol_process_send_reply(&reply, descriptor);
    if (descriptor == -1)
        return err;
    aiol_channel_close(descriptor);
    if (err == 0)
        return 0;
    reply.error = err; /* too many descriptors are under way, it may be, and a reply without one arrives */
    (void)aiol_process_end_worker(w);
    return aiol_process_send_reply(&reply, -1);
}

static void aiol_process_serve(aioloop_process_pool *pool) {
    int status;
    int err = aiol_process_become_server(pool->channel);
    int program = aiol_process_watch_parent();
    aiol_process_begin(pool);
    while (err == 0) {
        err = aiol_process_await(AIOL_PROCESS_CHANNEL, program);
        aiol_process_reap(pool);
        if (err == 0)
            err = aiol_process_obey(pool);
        else if (err == AIOLOOP_EINTR)
            err = 0;
    }
    aiol_process_kill_all(pool);
    while (aiol_process_wait(-1, true, &status) > 0)
        ;
    aiol_process_exit(0);
}

/* ---- the program: workers ---- */

/* With the lock of those that ask held: there is no server from now on, and its channel ends. Its number, to wait for;
 * 0: there was none. */
static int aiol_process_part(aioloop_process_pool *pool) {
    int server = pool->server;
    if (server == 0)
        return 0;
    aiol_mutex_lock(&pool->mutex);
    pool->server = 0;
    aiol_mutex_unlock(&pool->mutex);
    aiol_channel_shut(pool->channel);
    aiol_channel_close(pool->channel);
    return server;
}

/* Waits until the server has replied, or has ended: then its channel need not, for a process that the program has
 * forked may have a copy of the other end. */
static int aiol_process_await_reply(aioloop_process_pool *pool) {
    int status;
    while (aiol_channel_await(pool->channel, AIOL_PROCESS_PATIENCE) < 0)
        if (aiol_process_wait(pool->server, false, &status) != 0) {
            (void)aiol_process_part(pool);
            return AIOLOOP_EPIPE;
        }
    return 0;
}

/* Asks the server. *descriptor, unless descriptor is NULL: what came with the reply; AIOLOOP_EMFILE: nothing did. After
 * another failure no question has an answer. */
static int aiol_process_ask(aioloop_process_pool *pool, aiol_process_order order, const aiol_process_worker *w,
                            aiol_process_reply *reply, int *descriptor) {
    aiol_process_question question;
    aioloop_buf piece;
    int err;
    question.order = (uint32_t)order;
    question.worker = (uint32_t)(w - pool->workers);
    piece.data = &question;
    piece.size = sizeof(question);
    aiol_mutex_lock(&pool->asking);
    err = pool->server == 0 ? AIOLOOP_EPIPE + 0 : aiol_channel_send(pool->channel, &piece, 1, -1);
    if (err == 0)
        err = aiol_process_await_reply(pool);
    if (err == 0 && descriptor != NULL)
        err = aiol_channel_recv_descriptor(pool->channel, reply, sizeof(*reply), descriptor);
    else if (err == 0)
        err = aiol_channel_recv(pool->channel, reply, sizeof(*reply));
    if (err < 0 && err != AIOLOOP_EMFILE && pool->server != 0)
        aiol_channel_shut(pool->channel);
    aiol_mutex_unlock(&pool->asking);
    return err;
}

static int aiol_process_no_server(void) {
    return aioloop_raise(NULL, AIOLOOP_EBROKENPROCESS, "the processes of the pool have died or were killed");
}

static int aiol_process_start(aioloop_process_pool *pool, aiol_process_worker *w) {
    aiol_process_reply reply;
    int err = aiol_process_ask(pool, AIOL_PROCESS_START, w, &reply, &w->channel);
    if (err < 0 && err != AIOLOOP_EMFILE)
        return aiol_process_no_server();
    if (err < 0 && reply.error == 0) {
        aiol_process_reply end;
        (void)aiol_process_ask(pool, AIOL_PROCESS_END, w, &end, NULL);
    } else if (reply.error < 0) {
        err = reply.error;
    }
    if (err < 0)
        return aioloop_raise(NULL, err, "a process of the pool could not be made: %s", aioloop_strerror(err));
    w->pid = reply.pid;
    return 0;
}

/* A worker that could not be talked to, which is told to end if it has not. Answers the code for the future. */
static int aiol_process_lost(aioloop_process_pool *pool, aiol_process_worker *w, int err) {
    aiol_process_reply reply;
    int pid = w->pid;
    int asked = aiol_process_ask(pool, AIOL_PROCESS_END, w, &reply, NULL);
    w->pid = 0;
    aiol_channel_close(w->channel);
    if (err != AIOLOOP_EPIPE && err != AIOLOOP_ECONNRESET)
        return aioloop_raise(NULL, err, "process %d of the pool: %s", pid, aioloop_strerror(err));
    if (asked < 0)
        return aiol_process_no_server();
    if (reply.status < 0)
        return aioloop_raise(NULL, AIOLOOP_EBROKENPROCESS, "process %d of the pool was killed by signal %d", pid,
                             -reply.status);
    return aioloop_raise(NULL, AIOLOOP_EBROKENPROCESS, "process %d of the pool ended with status %d", pid,
                         reply.status);
}

static aiol_process_worker *aiol_process_take(aioloop_process_pool *pool) {
    aiol_process_worker *w;
    aiol_mutex_lock(&pool->mutex);
    w = pool->idle; /* there are as many as threads */
    pool->idle = w->next;
    aiol_mutex_unlock(&pool->mutex);
    return w;
}

static void aiol_process_give(aioloop_process_pool *pool, aiol_process_worker *w) {
    aiol_mutex_lock(&pool->mutex);
    w->next = pool->idle;
    pool->idle = w;
    aiol_mutex_unlock(&pool->mutex);
}

/* ---- the program: calls ---- */

static int aiol_process_send_call(const aiol_process_worker *w, const aiol_process_call *call) {
    aioloop_buf pieces[2];
    pieces[0].data = &call->request;
    pieces[0].size = sizeof(call->request);
    pieces[1].data = call + 1;
    pieces[1].size = (size_t)call->request.size;
    return aiol_channel_send(w->channel, pieces, 2, -1);
}

/* Receives an answer: 0, with what the function has returned in *number, and *out. */
static int aiol_process_recv_answer(const aiol_process_worker *w, const aiol_process_call *call, int64_t *number,
                                    void **out) {
    aiol_process_answer answer;
    char text[AIOL_ERROR_TEXT_SIZE];
    aiol_output *o = NULL;
    int err = aiol_channel_recv(w->channel, &answer, sizeof(answer));
    if (err == 0 && (answer.text_size >= sizeof(text) || answer.size > AIOLOOP_PROCESS_SIZE_MAX))
        return AIOLOOP_EMSGSIZE; /* something else has written there */
    if (err == 0)
        err = aiol_channel_recv(w->channel, text, (size_t)answer.text_size);
    if (err == 0 && answer.size != 0 && (o = aiol_output_new(&call->allocator, (size_t)answer.size)) == NULL)
        err = AIOLOOP_ENOMEM;
    if (err == 0 && o != NULL && (err = aiol_channel_recv(w->channel, o->block, o->bytes.size)) < 0)
        aioloop_output_free(&o->bytes);
    if (err < 0)
        return err;
    *number = answer.number;
    *out = o;
    text[answer.text_size] = '\0';
    if (answer.text_size != 0)
        aioloop_raise(NULL, (int)answer.number, "%s", text);
    return 0;
}

/* In a thread of the pool. */
static int64_t aiol_process_call_run(void *arg, void **out) {
    aiol_process_call *call = (aiol_process_call *)arg;
    aioloop_process_pool *pool = call->pool;
    aiol_process_worker *w = aiol_process_take(pool);
    int64_t number = 0;
    bool again;
    do {
        bool fresh = w->pid == 0;
        int err = fresh ? aiol_process_start(pool, w) : 0;
        again = false;
        if (err < 0) {
            number = err;
        } else if ((err = aiol_process_send_call(w, call)) < 0) {
            number = aiol_process_lost(pool, w, err);
            again = !fresh; /* it had died between two calls, and this one has not begun */
            if (again)
                aiol_error_clear(&aiol_thread.error);
        } else if ((err = aiol_process_recv_answer(w, call, &number, out)) < 0) {
            number = aiol_process_lost(pool, w, err);
        }
    } while (again);
    aiol_process_give(pool, w);
    return number;
}

static void aiol_process_call_free(void *arg) {
    aiol_process_call *call = (aiol_process_call *)arg;
    aioloop_allocator allocator = call->allocator;
    aiol_free(&allocator, call, sizeof(*call) + (size_t)call->request.size);
}

static int aiol_process_check(aioloop *loop, aioloop_process_pool *pool, aioloop_process_function fn, const void *input,
                              size_t size) {
    int err = aiol_executor_check(loop, fn == NULL ? NULL : aiol_process_call_run, NULL, NULL);
    if (err < 0)
        return err;
    if (pool == NULL || (input == NULL && size != 0))
        return aiol_fail(loop, AIOLOOP_EINVAL, "%s is needed, not NULL", pool == NULL ? "a pool" : "an input");
    if (pool->process != aiol_process_id())
        return aiol_fail(loop, AIOLOOP_EMISUSE, "a pool of the process that forked");
    if (size > AIOLOOP_PROCESS_SIZE_MAX)
        return aiol_fail(loop, AIOLOOP_EMSGSIZE, NULL);
    return 0;
}

AIOLOOP_API aioloop_future *(aioloop_run_in_process)(aioloop *loop, aioloop_process_pool *pool,
                                                     aioloop_process_function fn, const void *input, size_t size) {
    aioloop_executor_options options;
    aiol_process_call *call;
    int err = aiol_process_check(loop, pool, fn, input, size);
    if (err == AIOLOOP_EMISUSE || err == AIOLOOP_EMSGSIZE)
        return aiol_combine_failed(loop, err);
    if (err < 0)
        return aiol_future_failed(err);
    call = (aiol_process_call *)aiol_alloc(&pool->allocator, sizeof(*call) + size);
    if (call == NULL)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    memset(call, 0, sizeof(*call));
    call->pool = pool;
    call->allocator = pool->allocator;
    call->request.fn = fn;
    call->request.size = size;
    if (size != 0)
        memcpy(call + 1, input, size);
    memset(&options, 0, sizeof(options));
    options.dispose = aiol_process_call_free;
    options.dispose_result = aiol_output_dispose;
    return aiol_executor_submit(loop, pool->threads, aiol_process_call_run, call, &options, false);
}

/* ---- making and ending ---- */

/* A server to be, and what came of it. */
typedef struct aiol_process_birth {
    aioloop_process_pool *pool;
    int err;
} aiol_process_birth;

/* On a stack that is large: it is the workers' too. */
static void aiol_process_fork_server(void *arg) {
    aiol_process_birth *birth = (aiol_process_birth *)arg;
    aioloop_process_pool *pool = birth->pool;
    int ends[2];
    birth->err = aiol_channel_pair(ends);
    if (birth->err < 0)
        return;
    fflush(stdout); /* or what is waiting there were printed by each worker */
    pool->channel = ends[1];
    pool->server = aiol_process_fork();
    if (pool->server == 0) {
        aiol_channel_close(ends[0]); /* also if it is a standard descriptor, which were closed then */
        aiol_process_serve(pool);
    }
    aiol_channel_close(ends[1]);
    pool->channel = ends[0];
    if (pool->server < 0) {
        birth->err = pool->server;
        aiol_channel_close(ends[0]);
    }
}

static aioloop_process_pool *aiol_process_pool_alloc(const aioloop_process_pool_options *options,
                                                     aioloop_thread_pool *threads) {
    size_t count = threads->max_workers;
    size_t size = sizeof(aioloop_process_pool) + count * sizeof(aiol_process_worker);
    aioloop_process_pool *pool;
    size_t i;
    if (count > (SIZE_MAX - sizeof(*pool)) / sizeof(aiol_process_worker))
        return NULL;
    pool = (aioloop_process_pool *)aiol_alloc_zero(&threads->allocator, size);
    if (pool == NULL)
        return NULL;
    pool->process = aiol_process_id();
    pool->allocator = threads->allocator;
    pool->size = size;
    pool->threads = threads;
    pool->max_workers = threads->max_workers;
    pool->workers = (aiol_process_worker *)(void *)(pool + 1);
    snprintf(pool->name, sizeof(pool->name), "%s", options->name != NULL ? options->name : "aioloop");
    for (i = count; i-- > 0;) {
        pool->workers[i].next = pool->idle;
        pool->idle = &pool->workers[i];
    }
    return pool;
}

static int aiol_process_pool_init(aioloop_process_pool *pool) {
    int err = aiol_mutex_init(&pool->mutex);
    if (err == 0 && (err = aiol_mutex_init(&pool->asking)) < 0)
        aiol_mutex_destroy(&pool->mutex);
    return err;
}

/* NULL with *err; threads is the pool's, unless this fails. */
static aioloop_process_pool *aiol_process_pool_make(const aioloop_process_pool_options *options,
                                                    aioloop_thread_pool *threads, int *err) {
    aioloop *loop = aioloop_get_running_loop();
    aiol_process_birth birth;
    aioloop_process_pool *pool = aiol_process_pool_alloc(options, threads);
    *err = pool == NULL ? AIOLOOP_ENOMEM + 0 : aiol_process_pool_init(pool);
    if (*err == 0) {
        birth.pool = pool;
        birth.err = 0;
        if (loop != NULL)
            aiol_on_loop_stack(loop, aiol_process_fork_server, &birth);
        else
            aiol_process_fork_server(&birth);
        *err = birth.err;
        if (*err < 0) {
            aiol_mutex_destroy(&pool->asking);
            aiol_mutex_destroy(&pool->mutex);
        }
    }
    if (*err == 0)
        return pool;
    if (pool != NULL)
        aiol_free(&threads->allocator, pool, pool->size);
    return NULL;
}

AIOLOOP_API aioloop_process_pool *aioloop_process_pool_new(const aioloop_process_pool_options *options) {
    static const aioloop_process_pool_options defaults = {0, 0, NULL, NULL};
    aioloop_thread_pool_options threads_options;
    aioloop_thread_pool *threads;
    aioloop_process_pool *pool;
    int err;
    if (options == NULL)
        options = &defaults;
    if (options->max_workers < 0) {
        aiol_fail(NULL, AIOLOOP_EINVAL, "a pool cannot have %d processes", options->max_workers);
        return NULL;
    }
    memset(&threads_options, 0, sizeof(threads_options));
    threads_options.max_workers = options->max_workers != 0 ? options->max_workers : (int)aiol_processor_count();
    threads_options.queue_limit = options->queue_limit;
    threads_options.allocator = options->allocator;
    threads_options.name = options->name;
    threads = aioloop_thread_pool_new(&threads_options);
    if (threads == NULL)
        return NULL;
    pool = aiol_process_pool_make(options, threads, &err);
    if (pool == NULL) {
        aioloop_thread_pool_free(threads);
        aiol_fail(NULL, err, "a process pool could not be made: %s", aioloop_strerror(err));
    }
    return pool;
}

/* When no thread uses a worker any more. May be repeated. */
static void aiol_process_pool_end(aioloop_process_pool *pool) {
    int server;
    int status;
    unsigned i;
    aiol_mutex_lock(&pool->asking);
    for (i = 0; i < pool->max_workers; i++) {
        aiol_process_worker *w = &pool->workers[i];
        int pid = w->pid;
        w->pid = 0;
        if (pid != 0)
            aiol_channel_close(w->channel);
    }
    server = aiol_process_part(pool);
    if (server != 0)
        (void)aiol_process_wait(server, true, &status); /* fails if the program waits for all its children */
    aiol_mutex_unlock(&pool->asking);
}

AIOLOOP_API int aioloop_process_pool_shutdown(aioloop_process_pool *pool, bool wait, bool cancel_pending) {
    int err = pool == NULL ? AIOLOOP_EINVAL + 0 : aioloop_thread_pool_shutdown(pool->threads, wait, cancel_pending);
    if (err == 0 && wait)
        aiol_process_pool_end(pool);
    return err;
}

AIOLOOP_API int aioloop_process_pool_kill(aioloop_process_pool *pool) {
    int err = aioloop_process_pool_shutdown(pool, false, true);
    if (err < 0)
        return err;
    aiol_mutex_lock(&pool->mutex);
    if (pool->server != 0)
        aiol_channel_shut(pool->channel);
    aiol_mutex_unlock(&pool->mutex);
    return 0;
}

/* In a forked child: the channels are the parent's too, and go on. */
static void aiol_process_pool_forget(aioloop_process_pool *pool) {
    unsigned i;
    for (i = 0; i < pool->max_workers; i++)
        if (pool->workers[i].pid != 0)
            aiol_channel_close(pool->workers[i].channel);
    if (pool->server != 0)
        aiol_channel_close(pool->channel);
}

AIOLOOP_API void aioloop_process_pool_free(aioloop_process_pool *pool) {
    aioloop_allocator allocator;
    aioloop_thread_pool *threads;
    if (pool == NULL)
        return;
    allocator = pool->allocator;
    threads = pool->threads;
    if (pool->process != aiol_process_id()) {
        aiol_process_pool_forget(pool);
    } else {
        (void)aioloop_process_pool_shutdown(pool, true, false);
        aiol_mutex_destroy(&pool->asking);
        aiol_mutex_destroy(&pool->mutex);
    }
    aiol_free(&allocator, pool, pool->size);
    aioloop_thread_pool_free(threads);
}

#endif
