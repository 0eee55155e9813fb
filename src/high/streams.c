/*
 * streams.c - connections for coroutines.                                                     (asyncio: streams.py)
 *
 * What was received lies in one block, from start to end. A read gives its beginning away without a copy, and goes on
 * owning its future: only when the next read begins is it known whether anybody looked at the result, and thus whether
 * the bytes are used up. Until then they do not move: what arrives meanwhile and finds no room goes, with all of it,
 * into a new block, and the old one is held for the reader.
 *
 * A stream goes when it has no owner and its connection is lost; with the loop it goes as a resource.
 */
#ifndef AIOL_HIGH_STREAMS_C
#define AIOL_HIGH_STREAMS_C

#include "api/stream.h"
#include "core/core.h"

#define AIOL_STREAM_LIMIT 65536u
#define AIOL_STREAM_ROOM 256u  /* the first block */
#define AIOL_STREAM_KEPT 4096u /* an empty block up to this size is kept */
#define AIOL_STREAM_SEPARATOR 16u

typedef enum aiol_streams_kind {
    AIOL_STREAMS_SOME,
    AIOL_STREAMS_ALL,
    AIOL_STREAMS_EXACTLY,
    AIOL_STREAMS_UNTIL
} aiol_streams_kind;

/* What a read is for. */
typedef struct aiol_streams_want {
    aiol_streams_kind kind;
    bool line;                     /* UNTIL: aioloop_stream_readline's */
    size_t size;                   /* SOME, EXACTLY: bytes */
    const aioloop_buf *separators; /* UNTIL */
    size_t count;
    size_t searched; /* UNTIL: none begins before this */
} aiol_streams_want;

/* A drain or wait_closed that waits. */
typedef struct aiol_streams_waiter {
    aiol_link link;
    aioloop_stream *stream;
    aioloop_future *future;
    aioloop_handle later; /* a drain that is decided in the next iteration */
} aiol_streams_waiter;

struct aioloop_stream {
    aiol_resource resource;
    aioloop_transport *transport; /* a reference; NULL: it is fed by hand */
    char *buffer;
    size_t capacity; /* more than end: there is room for a zero */
    size_t start;
    size_t end;
    size_t limit;

    aioloop_future *given; /* the last read that was given bytes; held until the next one */
    const char *given_data;
    size_t given_size;
    char *held; /* the block that they are in, if that is not the buffer any more */
    size_t held_capacity;
    char covered; /* the byte in whose place the zero behind them stands */

    bool connected; /* connection_lost is still to come */
    bool eof;
    bool reading_paused;
    bool writing_paused;
    int lost; /* what the connection was lost with, once it is not connected */
    int code; /* what reads fail with; 0: nothing */
    struct aioloop_error *error; /* its message, or NULL */

    aioloop_future *reading; /* the read that waits; held */
    aiol_streams_want want;
    void *separators; /* those of want, in a block of this size; */
    size_t separators_size;
    aioloop_buf separator; /* or a single short one, */
    char separator_bytes[AIOL_STREAM_SEPARATOR]; /* here */
    size_t consumed; /* of the last overrun */

    aiol_link drains;
    aiol_link closers;
    aioloop_future *opening;    /* aioloop_open_connection's, or aioloop_stream_start_tls's; held */
    aioloop_future *connecting; /* aioloop_create_connection's, or aioloop_start_tls's; held */
    bool accepted;              /* by a server */
};

static void aiol_streams_settle(aioloop_stream *s);
static void aiol_streams_end_read(aioloop_stream *s);

/* ---- life ---- */

static void aiol_streams_free_waiters(aioloop_stream *s, aiol_link *list) {
    while (!aiol_list_empty(list)) {
        aiol_streams_waiter *w = AIOL_CONTAINER(list->next, aiol_streams_waiter, link);
        aiol_list_remove(&w->link);
        aiol_free(&s->resource.loop->allocator, w, sizeof(*w));
    }
}

static void aiol_streams_destroy(aiol_resource *resource) {
    aioloop_stream *s = AIOL_CONTAINER(resource, aioloop_stream, resource);
    const aioloop_allocator *a = &resource->loop->allocator;
    aiol_resource_remove(resource);
    aiol_streams_free_waiters(s, &s->drains);
    aiol_streams_free_waiters(s, &s->closers);
    aiol_error_free(a, s->error);
    aiol_free(a, s->separators, s->separators_size);
    aiol_free(a, s->held, s->held_capacity);
    aiol_free(a, s->buffer, s->capacity);
    aiol_free(a, s, sizeof(*s));
}

static void aiol_streams_loop_closed(aiol_resource *resource) {
    (void)resource; /* its transport ends; what waits stays pending */
}

static bool aiol_streams_is_open(const aiol_resource *resource) {
    (void)resource; /* the transport says it */
    return false;
}

static const aiol_resource_calls aiol_streams_resource = {"stream", aiol_streams_loop_closed, aiol_streams_destroy,
                                                          aiol_streams_is_open};

/* With one reference; NULL, and the message stored, when there is no memory. */
static aioloop_stream *aiol_streams_make(aioloop *loop, size_t limit) {
    aioloop_stream *s = (aioloop_stream *)aiol_alloc_zero(&loop->allocator, sizeof(*s));
    if (s == NULL) {
        aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
        return NULL;
    }
    s->limit = limit;
    s->resource.refs = 1;
    aiol_list_init(&s->drains);
    aiol_list_init(&s->closers);
    aiol_resource_add(loop, &s->resource, &aiol_streams_resource);
    return s;
}

/* The limit that an option means, or the error. Twice as much has to fit into a size. */
static int aiol_streams_limit(aioloop *loop, int64_t option, size_t *limit) {
    if (option < 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "the limit of a stream must be positive");
    *limit = option == 0 ? AIOL_STREAM_LIMIT : (uint64_t)option > SIZE_MAX / 4 ? SIZE_MAX / 4 : (size_t)option;
    return 0;
}

AIOLOOP_API aioloop_stream *(aioloop_stream_new)(aioloop *loop, int64_t limit) {
    size_t size = 0;
    if (loop == NULL || loop->closed) {
        aiol_fail(loop, loop == NULL ? AIOLOOP_EINVAL : AIOLOOP_ECLOSED, NULL);
        return NULL;
    }
    return aiol_streams_limit(loop, limit, &size) < 0 ? NULL : aiol_streams_make(loop, size);
}

AIOLOOP_API aioloop_stream *aioloop_stream_ref(aioloop_stream *stream) {
    if (stream != NULL)
        stream->resource.refs++;
    return stream;
}

/* Nobody needs it any more, neither an owner nor the connection. */
static void aiol_streams_drop(aioloop_stream *s) {
    aioloop_transport *transport = s->transport;
    aiol_streams_destroy(&s->resource);
    aioloop_transport_unref(transport);
}

AIOLOOP_API void aioloop_stream_unref(aioloop_stream *stream) {
    if (stream == NULL)
        return;
    AIOL_ASSERT(stream->resource.refs != 0);
    if (--stream->resource.refs != 0 || stream->resource.loop->freeing)
        return;
    if (stream->reading != NULL) {
        aioloop_future_set_cancelled(stream->reading);
        aiol_streams_end_read(stream);
    }
    aiol_streams_settle(stream);
    aioloop_transport_close(stream->transport);
    if (!stream->connected)
        aiol_streams_drop(stream);
}

/* As a future's dispose. */
static void aiol_streams_dispose(void *pointer) {
    aioloop_stream_unref((aioloop_stream *)pointer);
}

/* ---- futures ---- */

static bool aiol_streams_is_static(const aioloop_future *f) {
    return aioloop_future_get_loop(f) == NULL;
}

static void aiol_streams_fail(aioloop_future *f, int code, const char *text) {
    if (text == NULL)
        aioloop_future_set_exception(f, code, NULL);
    else
        aioloop_future_set_exception(f, code, "%s", text);
}

/* One that is done: with the number 0, or a code. */
static aioloop_future *aiol_streams_done(aioloop *loop, int code, const char *text) {
    aioloop_future *f = (aioloop_create_operation)(loop, NULL, NULL);
    if (aiol_streams_is_static(f))
        return f;
    if (code < 0)
        aiol_streams_fail(f, code, text);
    else
        aioloop_future_set_result(f, 0, NULL, NULL);
    aiol_future_release(f);
    return f;
}

/* A call that is refused. */
static aioloop_future *aiol_streams_refuse(aioloop *loop, int code, const char *text) {
    return aiol_future_failed(aiol_fail(loop, code, "%s", text));
}

/* The message of a code, if it is what reads fail with; else NULL. */
static const char *aiol_streams_text(const aioloop_stream *s, int code) {
    return code != s->code || s->error == NULL ? NULL : aioloop_error_message(s->error);
}

/* With the error that reads fail with. */
static aioloop_future *aiol_streams_broken(const aioloop_stream *s) {
    return aiol_streams_done(s->resource.loop, s->code, aiol_streams_text(s, s->code));
}

/* ---- the buffer ---- */

/* What was received and not given to anybody. */
static size_t aiol_streams_size(const aioloop_stream *s) {
    return s->end - s->start - s->given_size;
}

/* Makes room for size more bytes and a zero. Bytes that somebody has do not move. 0 or AIOLOOP_ENOMEM. */
static int aiol_streams_reserve(aioloop_stream *s, size_t size) {
    const aioloop_allocator *a = &s->resource.loop->allocator;
    size_t live = s->end - s->start;
    bool lent = s->given != NULL && s->held == NULL;
    size_t capacity;
    char *block;
    if (size < s->capacity - s->end)
        return 0;
    if (!lent && s->start >= live && size < s->capacity - live) {
        memcpy(s->buffer, s->buffer + s->start, live);
        s->start = 0;
        s->end = live;
        return 0;
    }
    if (size > SIZE_MAX / 2 - live)
        return AIOLOOP_ENOMEM;
    capacity = live + size + 1;
    if (capacity < live + live / 2)
        capacity = live + live / 2;
    if (capacity < AIOL_STREAM_ROOM)
        capacity = AIOL_STREAM_ROOM;
    block = (char *)aiol_alloc(a, capacity);
    if (block == NULL)
        return AIOLOOP_ENOMEM;
    if (live != 0)
        memcpy(block, s->buffer + s->start, live);
    if (lent) {
        block[s->given_size] = s->covered;
        s->held = s->buffer;
        s->held_capacity = s->capacity;
    } else {
        aiol_free(a, s->buffer, s->capacity);
    }
    s->buffer = block;
    s->capacity = capacity;
    s->start = 0;
    s->end = live;
    return 0;
}

static int aiol_streams_append(aioloop_stream *s, const void *data, size_t size) {
    int err = aiol_streams_reserve(s, size);
    size_t at = s->end;
    if (err < 0)
        return err;
    memcpy(s->buffer + at, data, size);
    s->end += size;
    if (s->given != NULL && s->held == NULL && s->start + s->given_size == at) {
        s->covered = s->buffer[at];
        s->buffer[at] = '\0';
    }
    return 0;
}

/* Gives the first size bytes, at least one, to the read that f is of. f is done after this, or was before. */
static void aiol_streams_give(aioloop_stream *s, aioloop_future *f, size_t size) {
    size_t behind = s->start + size;
    s->given = f;
    s->given_data = s->buffer + s->start;
    s->given_size = size;
    s->covered = behind == s->end ? '\0' : s->buffer[behind];
    s->buffer[behind] = '\0';
}

/* Whether whoever made the last read has had its outcome. */
static bool aiol_streams_taken(const aioloop_future *f) {
    return (f->flags & (f->state == AIOL_FUTURE_FINISHED ? AIOL_FUTURE_TAKEN : AIOL_FUTURE_LOOKED_AT)) != 0;
}

/* The last read is over: what it gave is used up, or is still there if nobody looked at it. */
static void aiol_streams_settle(aioloop_stream *s) {
    const aioloop_allocator *a = &s->resource.loop->allocator;
    aioloop_future *f = s->given;
    if (f == NULL)
        return;
    if (s->held == NULL)
        s->buffer[s->start + s->given_size] = s->covered;
    aiol_free(a, s->held, s->held_capacity);
    s->held = NULL;
    if (aiol_streams_taken(f))
        s->start += s->given_size;
    s->given = NULL;
    s->given_size = 0;
    if (s->start == s->end) {
        s->start = 0;
        s->end = 0;
        if (s->capacity > AIOL_STREAM_KEPT) {
            aiol_free(a, s->buffer, s->capacity);
            s->buffer = NULL;
            s->capacity = 0;
        }
    }
    if (f->refs == 1)
        (void)aioloop_future_exception(f); /* it was let go of, and nothing is lost: no reason to report it */
    aiol_future_release(f);
}

/* Too much waits to be read: the transport pauses, until it is less or a read needs more. */
static void aiol_streams_flow(aioloop_stream *s) {
    size_t size = aiol_streams_size(s);
    if (s->transport == NULL)
        return;
    if (s->reading_paused && (s->reading != NULL || size <= s->limit)) {
        s->reading_paused = false;
        aioloop_transport_resume_reading(s->transport);
    } else if (!s->reading_paused && s->reading == NULL && size > 2 * s->limit) {
        s->reading_paused = true;
        aioloop_transport_pause_reading(s->transport);
    }
}

/* ---- searching ---- */

#define AIOL_STREAMS_NOWHERE SIZE_MAX

/* Where a separator begins, not before from. */
static size_t aiol_streams_find(const char *data, size_t size, size_t from, const aioloop_buf *separator) {
    const char *bytes = (const char *)separator->data;
    while (from < size && separator->size <= size - from) {
        const char *at = (const char *)memchr(data + from, bytes[0], size - from - separator->size + 1);
        if (at == NULL)
            break;
        from = (size_t)(at - data);
        if (memcmp(at, bytes, separator->size) == 0)
            return from;
        from++;
    }
    return AIOL_STREAMS_NOWHERE;
}

/* Looks for the separator that ends first. 1: *size bytes up to its end. 0: there may be one when more has come. An
 * error: of the *size bytes a line that is too long consists of, 0 if they are kept. */
static int aiol_streams_search(aioloop_stream *s, aiol_streams_want *w, size_t *size) {
    size_t there = s->end - s->start;
    const char *data = there == 0 ? NULL : s->buffer + s->start;
    size_t best = AIOL_STREAMS_NOWHERE;
    size_t end = there;
    size_t longest = 1;
    size_t i;
    for (i = 0; i < w->count && there != 0; i++) {
        const aioloop_buf *separator = &w->separators[i];
        size_t at = aiol_streams_find(data, end, w->searched, separator);
        if (separator->size > longest)
            longest = separator->size;
        if (at != AIOL_STREAMS_NOWHERE && (best == AIOL_STREAMS_NOWHERE || at + separator->size < end || at > best)) {
            best = at;
            end = at + separator->size;
        }
    }
    if (best != AIOL_STREAMS_NOWHERE && best <= s->limit) {
        *size = end;
        return 1;
    }
    if (best == AIOL_STREAMS_NOWHERE) {
        w->searched = there < longest ? 0 : there + 1 - longest;
        if (w->searched <= s->limit)
            return 0;
        end = there;
    }
    s->consumed = best != AIOL_STREAMS_NOWHERE ? best : w->searched;
    *size = w->line ? end : 0;
    return w->line ? (int)AIOLOOP_EINVAL : (int)AIOLOOP_EOVERRUN;
}

/* What a read can have now. 1: *size bytes. 0: it has to wait. An error: *size bytes are used up by it. */
static int aiol_streams_look(aioloop_stream *s, aiol_streams_want *w, size_t *size) {
    size_t there = s->end - s->start;
    int found = 0;
    *size = there;
    switch (w->kind) {
    case AIOL_STREAMS_SOME:
        *size = aiol_min_size(there, w->size);
        return *size != 0 || s->eof || w->size == 0;
    case AIOL_STREAMS_ALL:
        return s->eof;
    case AIOL_STREAMS_EXACTLY:
        if (there >= w->size) {
            *size = w->size;
            return 1;
        }
        break;
    case AIOL_STREAMS_UNTIL:
        found = aiol_streams_search(s, w, size);
        if (found == 0 && s->eof && w->line)
            return 1;
        break;
    }
    return found == 0 && s->eof ? (int)AIOLOOP_EINCOMPLETE : found;
}

/* ---- reading ---- */

/* The dispose of what a read gives: nothing, since settle looks whether it was taken; but with one, whatever hands the
 * result on (aioloop_wait_for and its kin) tells when it was. */
static void aiol_streams_untaken(void *pointer) {
    (void)pointer;
}

static char aiol_streams_no_bytes[1];

/* Completes a read; found as aiol_streams_look says. */
static void aiol_streams_complete(aioloop_stream *s, aioloop_future *f, int found, size_t size) {
    if (size != 0)
        aiol_streams_give(s, f, size);
    if (found == 1 && size != 0)
        aioloop_future_set_grant(f, (int64_t)size, s->buffer + s->start, aiol_streams_untaken);
    else if (found == 1)
        aioloop_future_set_result(f, 0, aiol_streams_no_bytes, NULL);
    else if (found == AIOLOOP_EINCOMPLETE)
        aioloop_future_set_exception(f, found, "the stream ended after %zu bytes", size);
    else
        aioloop_future_set_exception(f, found, "the separator was not found within the limit of %zu bytes", s->limit);
    if (size == 0)
        aiol_future_release(f);
}

/* The read that waits does so no more; its future is settled by the caller, or will be. */
static void aiol_streams_end_read(aioloop_stream *s) {
    aioloop_future *f = s->reading;
    s->reading = NULL;
    aiol_free(&s->resource.loop->allocator, s->separators, s->separators_size);
    s->separators = NULL;
    aiol_future_release(f);
}

/* Something has come: the read that waits may have it. */
static void aiol_streams_progress(aioloop_stream *s) {
    aioloop_future *f = s->reading;
    size_t size = 0;
    int found = f == NULL ? 0 : aiol_streams_look(s, &s->want, &size);
    if (found == 0) {
        aiol_streams_flow(s);
        return;
    }
    aiol_future_hold(f); /* once for complete, */
    aiol_future_hold(f); /* and once more: letting go of a failure that nobody waits for may report it, to user code */
    aiol_streams_end_read(s);
    aiol_streams_complete(s, f, found, size);
    aiol_streams_flow(s);
    aiol_future_release(f);
}

static bool aiol_streams_read_cancelled(aioloop_future *future, void *owner) {
    (void)future;
    aiol_streams_end_read((aioloop_stream *)owner);
    return true;
}

/* Copies the separators that want points to: the read has to wait. 0 or AIOLOOP_ENOMEM. */
static int aiol_streams_keep_separators(aioloop_stream *s, const aiol_streams_want *want) {
    aioloop_buf *list = &s->separator;
    char *bytes = s->separator_bytes;
    size_t size = want->count * sizeof(*list);
    size_t i;
    for (i = 0; i < want->count; i++)
        size += want->separators[i].size;
    if (want->count > 1 || size - sizeof(*list) > AIOL_STREAM_SEPARATOR) {
        list = (aioloop_buf *)aiol_alloc(&s->resource.loop->allocator, size);
        if (list == NULL)
            return AIOLOOP_ENOMEM;
        s->separators = list;
        s->separators_size = size;
        bytes = (char *)(list + want->count);
    }
    for (i = 0; i < want->count; i++) {
        size = want->separators[i].size;
        memcpy(bytes, want->separators[i].data, size);
        list[i].data = bytes;
        list[i].size = size;
        bytes += size;
    }
    s->want.separators = list;
    return 0;
}

/* The read has to wait, if there is the memory to remember what for. */
static void aiol_streams_wait(aioloop_stream *s, aioloop_future *f, const aiol_streams_want *want) {
    s->want = *want;
    if (want->kind == AIOL_STREAMS_UNTIL && aiol_streams_keep_separators(s, want) < 0) {
        aioloop_future_set_exception(f, AIOLOOP_ENOMEM, NULL);
        aiol_future_release(f);
        return;
    }
    s->reading = f;
}

static aioloop_future *aiol_streams_read(aioloop_stream *s, aiol_streams_want *want) {
    aioloop *loop = s->resource.loop;
    aioloop_future *f;
    size_t size = 0;
    int found;
    if (loop->closed)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ECLOSED, NULL));
    if (s->code != 0)
        return aiol_streams_broken(s);
    if (s->reading != NULL)
        return aiol_streams_refuse(loop, AIOLOOP_EMISUSE, "another read of this stream waits");
    if (s->given != NULL && !aiol_streams_taken(s->given) && s->given->refs > 1)
        return aiol_streams_refuse(loop, AIOLOOP_EMISUSE, "nobody has looked at what the last read gave");
    f = (aioloop_create_operation)(loop, aiol_streams_read_cancelled, s);
    if (aiol_streams_is_static(f))
        return f;
    aiol_streams_settle(s);
    found = aiol_streams_look(s, want, &size);
    if (found != 0)
        aiol_streams_complete(s, f, found, size);
    else
        aiol_streams_wait(s, f, want);
    aiol_streams_flow(s);
    return f;
}

AIOLOOP_API aioloop_future *(aioloop_stream_read)(aioloop_stream *stream, int64_t n) {
    aiol_streams_want want;
    if (stream == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    memset(&want, 0, sizeof(want));
    want.kind = n < 0 ? AIOL_STREAMS_ALL : AIOL_STREAMS_SOME;
    want.size = n < 0 ? 0 : (uint64_t)n > SIZE_MAX ? SIZE_MAX : (size_t)n;
    return aiol_streams_read(stream, &want);
}

AIOLOOP_API aioloop_future *(aioloop_stream_readexactly)(aioloop_stream *stream, int64_t n) {
    aiol_streams_want want;
    if (stream == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    if (n < 0)
        return aiol_streams_refuse(stream->resource.loop, AIOLOOP_EINVAL, "a number of bytes must not be negative");
    memset(&want, 0, sizeof(want));
    want.kind = AIOL_STREAMS_EXACTLY;
    want.size = (uint64_t)n > SIZE_MAX ? SIZE_MAX : (size_t)n;
    return aiol_streams_read(stream, &want);
}

AIOLOOP_API aioloop_future *(aioloop_stream_readline)(aioloop_stream *stream) {
    static const aioloop_buf newline = {"\n", 1};
    aiol_streams_want want;
    if (stream == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    memset(&want, 0, sizeof(want));
    want.kind = AIOL_STREAMS_UNTIL;
    want.line = true;
    want.separators = &newline;
    want.count = 1;
    return aiol_streams_read(stream, &want);
}

AIOLOOP_API aioloop_future *(aioloop_stream_readuntil_any)(aioloop_stream *stream, const aioloop_buf *separators,
                                                           size_t count) {
    aiol_streams_want want;
    size_t i;
    if (stream == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    if (separators == NULL || count == 0)
        return aiol_streams_refuse(stream->resource.loop, AIOLOOP_EINVAL, "a separator is needed");
    for (i = 0; i < count; i++)
        if (separators[i].data == NULL || separators[i].size == 0)
            return aiol_streams_refuse(stream->resource.loop, AIOLOOP_EINVAL, "a separator must not be empty");
    memset(&want, 0, sizeof(want));
    want.kind = AIOL_STREAMS_UNTIL;
    want.separators = separators;
    want.count = count;
    return aiol_streams_read(stream, &want);
}

AIOLOOP_API aioloop_future *(aioloop_stream_readuntil)(aioloop_stream *stream, const void *separator, size_t size) {
    aioloop_buf one;
    one.data = separator;
    one.size = size;
    return (aioloop_stream_readuntil_any)(stream, &one, 1);
}

AIOLOOP_API size_t aioloop_stream_partial(const aioloop_stream *stream, const char **data) {
    bool is = stream != NULL && stream->given != NULL && stream->given->code == AIOLOOP_EINCOMPLETE;
    if (data != NULL)
        *data = is ? stream->given_data : aiol_streams_no_bytes;
    return is ? stream->given_size : 0;
}

AIOLOOP_API size_t aioloop_stream_consumed(const aioloop_stream *stream) {
    return stream == NULL ? 0 : stream->consumed;
}

AIOLOOP_API bool aioloop_stream_at_eof(const aioloop_stream *stream) {
    bool unread = stream != NULL && stream->given != NULL && !aiol_streams_taken(stream->given); /* it has them back then */
    return stream == NULL || (stream->eof && !unread && aiol_streams_size(stream) == 0);
}

AIOLOOP_API int aioloop_stream_exception(const aioloop_stream *stream) {
    return stream == NULL ? (int)AIOLOOP_EINVAL : stream->code;
}

/* ---- feeding ---- */

AIOLOOP_API int aioloop_stream_feed_data(aioloop_stream *stream, const void *data, size_t size) {
    int err;
    if (stream == NULL || (data == NULL && size != 0))
        return AIOLOOP_EINVAL;
    if (stream->resource.loop->closed)
        return AIOLOOP_ECLOSED;
    if (stream->eof)
        return aiol_fail(stream->resource.loop, AIOLOOP_EMISUSE, "data behind the end of the stream");
    if (size == 0)
        return 0;
    err = aiol_streams_append(stream, data, size);
    if (err < 0)
        return aiol_fail(stream->resource.loop, err, NULL);
    aiol_streams_progress(stream);
    return 0;
}

AIOLOOP_API int aioloop_stream_feed_eof(aioloop_stream *stream) {
    if (stream == NULL)
        return AIOLOOP_EINVAL;
    if (stream->resource.loop->closed)
        return AIOLOOP_ECLOSED;
    stream->eof = true;
    aiol_streams_progress(stream);
    return 0;
}

AIOLOOP_API int aioloop_stream_set_exception(aioloop_stream *stream, int code, const char *message) {
    const aioloop_allocator *a;
    if (stream == NULL || code >= 0 || code == AIOLOOP_ECANCELED)
        return AIOLOOP_EINVAL;
    if (stream->resource.loop->closed)
        return AIOLOOP_ECLOSED;
    a = &stream->resource.loop->allocator;
    aiol_error_free(a, stream->error);
    stream->code = code;
    stream->error = message == NULL ? NULL : aiol_error_new(a, code, message, 0);
    if (stream->reading != NULL) {
        aiol_streams_fail(stream->reading, code, message);
        aiol_streams_end_read(stream);
    }
    return 0;
}

/* ---- writing ---- */

AIOLOOP_API int aioloop_stream_write(aioloop_stream *stream, const void *data, size_t size) {
    if (stream == NULL)
        return AIOLOOP_EINVAL;
    if (stream->transport == NULL)
        return aiol_fail(stream->resource.loop, AIOLOOP_EMISUSE, "the stream has no connection");
    return aioloop_transport_write(stream->transport, data, size);
}

AIOLOOP_API int aioloop_stream_writelines(aioloop_stream *stream, const aioloop_buf *pieces, size_t count) {
    if (stream == NULL)
        return AIOLOOP_EINVAL;
    if (stream->transport == NULL)
        return aiol_fail(stream->resource.loop, AIOLOOP_EMISUSE, "the stream has no connection");
    return aioloop_transport_writelines(stream->transport, pieces, count);
}

AIOLOOP_API int aioloop_stream_write_eof(aioloop_stream *stream) {
    if (stream == NULL)
        return AIOLOOP_EINVAL;
    if (stream->transport == NULL)
        return aiol_fail(stream->resource.loop, AIOLOOP_EMISUSE, "the stream has no connection");
    return aioloop_transport_write_eof(stream->transport);
}

AIOLOOP_API bool aioloop_stream_can_write_eof(const aioloop_stream *stream) {
    return stream != NULL && aioloop_transport_can_write_eof(stream->transport);
}

AIOLOOP_API void aioloop_stream_close(aioloop_stream *stream) {
    if (stream != NULL)
        aioloop_transport_close(stream->transport);
}

AIOLOOP_API bool aioloop_stream_is_closing(const aioloop_stream *stream) {
    return stream == NULL || aioloop_transport_is_closing(stream->transport);
}

AIOLOOP_API const void *aioloop_stream_get_extra_info(const aioloop_stream *stream, const char *name,
                                                      const void *fallback) {
    return stream == NULL ? fallback : aioloop_transport_get_extra_info(stream->transport, name, fallback);
}

AIOLOOP_API aioloop_transport *aioloop_stream_get_transport(const aioloop_stream *stream) {
    return stream == NULL ? NULL : stream->transport;
}

/* ---- waiting for the connection ---- */

static void aiol_streams_waiter_free(aiol_streams_waiter *w) {
    aioloop_future *f = w->future;
    aiol_list_remove(&w->link);
    aiol_free(&f->loop->allocator, w, sizeof(*w));
    aiol_future_release(f);
}

static void aiol_streams_wake(aiol_streams_waiter *w, int code) {
    if (code < 0)
        aiol_streams_fail(w->future, code, aiol_streams_text(w->stream, code));
    else
        aioloop_future_set_result(w->future, 0, NULL, NULL);
}

/* Completes what waits; later: what becomes of those that were to be decided later, 0: they still are. */
static void aiol_streams_wake_all(aiol_link *list, int code, int later) {
    aiol_link woken;
    aiol_link *link;
    aiol_link *next;
    aiol_list_init(&woken);
    for (link = list->next; link != list; link = next) {
        aiol_streams_waiter *w = AIOL_CONTAINER(link, aiol_streams_waiter, link);
        next = link->next;
        if (aioloop_handle_is_null(&w->later)) {
            aiol_streams_wake(w, code);
        } else if (later != 0) {
            aioloop_handle_cancel(&w->later);
            aiol_streams_wake(w, later);
        } else {
            continue;
        }
        aiol_list_remove(link);
        aiol_list_append(&woken, link);
    }
    while (!aiol_list_empty(&woken)) /* letting go of a failure that nobody waits for may report it, to user code */
        aiol_streams_waiter_free(AIOL_CONTAINER(woken.next, aiol_streams_waiter, link));
}

static bool aiol_streams_wait_cancelled(aioloop_future *future, void *owner) {
    aiol_streams_waiter *w = (aiol_streams_waiter *)owner;
    (void)future;
    aioloop_handle_cancel(&w->later);
    aiol_streams_waiter_free(w);
    return true;
}

/* NULL when there is no memory. */
static aiol_streams_waiter *aiol_streams_waiter_new(aioloop_stream *s, aiol_link *list) {
    const aioloop_allocator *a = &s->resource.loop->allocator;
    aiol_streams_waiter *w = (aiol_streams_waiter *)aiol_alloc_zero(a, sizeof(*w));
    if (w == NULL)
        return NULL;
    w->stream = s;
    w->future = (aioloop_create_operation)(s->resource.loop, aiol_streams_wait_cancelled, w);
    if (aiol_streams_is_static(w->future)) {
        aiol_free(a, w, sizeof(*w));
        return NULL;
    }
    aiol_list_append(list, &w->link);
    return w;
}

/* The loop had its turn since the drain: the loss of a connection that was closing may have been told. */
static void aiol_streams_drain_later(aioloop *loop, void *arg) {
    aiol_streams_waiter *w = (aiol_streams_waiter *)arg;
    (void)loop;
    memset(&w->later, 0, sizeof(w->later));
    if (w->stream->connected && w->stream->writing_paused)
        return;
    aiol_streams_wake(w, w->stream->connected ? 0 : (int)AIOLOOP_ECONNRESET);
    aiol_streams_waiter_free(w);
}

AIOLOOP_API aioloop_future *(aioloop_stream_drain)(aioloop_stream *stream) {
    aiol_streams_waiter *w;
    aioloop_future *f;
    aioloop *loop;
    bool closing;
    if (stream == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    loop = stream->resource.loop;
    if (loop->closed)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ECLOSED, NULL));
    if (stream->transport == NULL)
        return aiol_streams_refuse(loop, AIOLOOP_EMISUSE, "the stream has no connection");
    if (stream->code != 0)
        return aiol_streams_broken(stream);
    if (!stream->connected)
        return aiol_streams_done(loop, AIOLOOP_ECONNRESET, "the connection is closed");
    closing = aioloop_transport_is_closing(stream->transport);
    if (!closing && !stream->writing_paused)
        return aiol_future_nothing(loop);
    w = aiol_streams_waiter_new(stream, &stream->drains);
    if (w == NULL)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    f = w->future;
    if (!closing)
        return f;
    w->later = (aioloop_call_soon)(loop, aiol_streams_drain_later, w);
    if (aioloop_handle_is_null(&w->later)) {
        aiol_streams_wake(w, AIOLOOP_ENOMEM);
        aiol_streams_waiter_free(w);
    }
    return f;
}

AIOLOOP_API aioloop_future *(aioloop_stream_wait_closed)(aioloop_stream *stream) {
    aiol_streams_waiter *w;
    aioloop *loop;
    if (stream == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    loop = stream->resource.loop;
    if (loop->closed)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ECLOSED, NULL));
    if (stream->transport == NULL)
        return aiol_streams_refuse(loop, AIOLOOP_EMISUSE, "the stream has no connection");
    if (!stream->connected)
        return aiol_streams_done(loop, stream->lost, aiol_streams_text(stream, stream->lost));
    w = aiol_streams_waiter_new(stream, &stream->closers);
    return w == NULL ? aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL)) : w->future;
}

/* ---- the protocol ---- */

static void aiol_streams_made(aioloop_transport *transport, void *self) {
    aioloop_stream *s = (aioloop_stream *)self;
    s->transport = aioloop_transport_ref(transport);
    s->connected = true;
}

static void aiol_streams_received(aioloop_transport *transport, void *self, const void *data, size_t size) {
    aioloop_stream *s = (aioloop_stream *)self;
    (void)transport;
    if (aiol_streams_append(s, data, size) < 0)
        aioloop_raise(s->resource.loop, AIOLOOP_ENOMEM, NULL); /* which ends the connection */
    else
        aiol_streams_progress(s);
}

/* TLS cannot stay half open, and is not asked to. */
static bool aiol_streams_ended(aioloop_transport *transport, void *self) {
    aioloop_stream_feed_eof((aioloop_stream *)self);
    return aioloop_transport_can_write_eof(transport);
}

static void aiol_streams_lost(aioloop_transport *transport, void *self, int error) {
    aioloop_stream *s = (aioloop_stream *)self;
    (void)transport;
    aioloop_stream_ref(s); /* until everybody is told */
    s->connected = false;
    s->lost = error;
    if (error == 0)
        aioloop_stream_feed_eof(s);
    else
        aioloop_stream_set_exception(s, error, aiol_detail(s->resource.loop, error));
    aiol_streams_wake_all(&s->drains, error, AIOLOOP_ECONNRESET);
    aiol_streams_wake_all(&s->closers, error, 0);
    aioloop_stream_unref(s);
}

static void aiol_streams_pause(aioloop_transport *transport, void *self) {
    (void)transport;
    ((aioloop_stream *)self)->writing_paused = true;
}

static void aiol_streams_resume(aioloop_transport *transport, void *self) {
    aioloop_stream *s = (aioloop_stream *)self;
    (void)transport;
    s->writing_paused = false;
    aiol_streams_wake_all(&s->drains, 0, 0);
}

static const aioloop_protocol aiol_streams_protocol = {0,
                                                       NULL,
                                                       aiol_streams_made,
                                                       aiol_streams_received,
                                                       aiol_streams_ended,
                                                       aiol_streams_lost,
                                                       aiol_streams_pause,
                                                       aiol_streams_resume,
                                                       NULL,
                                                       NULL, NULL, NULL};

/* ---- opening ---- */

/* The connection is made, or will not be. */
static void aiol_streams_opened(aioloop_future *connecting, void *arg) {
    aioloop_stream *s = (aioloop_stream *)arg;
    aioloop_future *f = s->opening;
    bool made = aioloop_future_exception(connecting) == 0;
    s->opening = NULL;
    s->connecting = NULL;
    if (made && !aioloop_future_done(f)) {
        aioloop_future_set_result(f, 0, s, aiol_streams_dispose);
    } else {
        if (!aioloop_future_done(f))
            aioloop_future_copy(f, connecting);
        aioloop_stream_unref(s); /* which closes it, if it was made */
    }
    aiol_future_release(f);
    aiol_future_release(connecting);
}

static bool aiol_streams_open_cancelled(aioloop_future *future, void *owner) {
    (void)future;
    aioloop_future_cancel(((aioloop_stream *)owner)->connecting, NULL); /* and opened gives everything back */
    return true;
}

/* The future that goes on where connecting ends. */
static aioloop_future *aiol_streams_open(aioloop_stream *s, aioloop_future *connecting) {
    aioloop *loop = s->resource.loop;
    aioloop_future *f;
    if (aioloop_future_done(connecting)) { /* a connection is never made at once */
        aioloop_stream_unref(s);
        return connecting;
    }
    f = (aioloop_create_operation)(loop, aiol_streams_open_cancelled, s);
    s->connecting = aioloop_future_ref(connecting);
    if (!aiol_streams_is_static(f)) {
        s->opening = f;
        f->site = connecting->site;
        if ((aioloop_future_add_done_callback)(connecting, aiol_streams_opened, s) == 0)
            return f;
        aiol_future_release(f);
        aioloop_future_unref(f);
    }
    aioloop_future_cancel(connecting, NULL);
    aiol_future_release(connecting);
    aioloop_stream_unref(s);
    return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
}

/* ---- TLS on a stream ---- */

/* The handshake is done: the stream goes on over the new transport. Or the connection is lost. */
static void aiol_streams_upgraded(aioloop_future *connecting, void *arg) {
    aioloop_stream *s = (aioloop_stream *)arg;
    aioloop_future *f = s->opening;
    aioloop_transport *t = NULL;
    s->opening = NULL;
    s->connecting = NULL;
    if (aioloop_future_result(connecting, &t) == 0) {
        aioloop_transport_unref(s->transport);
        s->transport = t;
        if (s->reading_paused) /* by what came before this callback: the old one is, and resumes with the new one */
            aioloop_transport_pause_reading(t);
    }
    if (!aioloop_future_done(f)) {
        if (t != NULL)
            aioloop_future_set_result(f, 0, NULL, NULL);
        else
            aioloop_future_copy(f, connecting);
    } else if (t != NULL) {
        aioloop_transport_abort(t); /* cancelled as it was done */
    }
    aiol_future_release(f);
    aiol_future_release(connecting);
    aioloop_stream_unref(s);
}

static int aiol_streams_upgrade_check(aioloop_stream *s, const aioloop_start_tls_options *o) {
    aioloop *loop = s->resource.loop;
    if (loop->closed)
        return aiol_fail(loop, AIOLOOP_ECLOSED, NULL);
    if (s->transport == NULL || !s->connected)
        return aiol_fail(loop, AIOLOOP_EINVAL, "the stream has no connection to be upgraded");
    if (o->leftover != NULL || o->protocol != NULL)
        return aiol_fail(loop, AIOLOOP_EINVAL, "leftover and protocol are the stream's own");
    if (s->connecting != NULL)
        return aiol_fail(loop, AIOLOOP_EMISUSE, "the stream is being upgraded");
    if (s->reading != NULL || (s->given != NULL && !aiol_streams_taken(s->given)))
        return aiol_fail(loop, AIOLOOP_EMISUSE, "a read waits, or nobody has looked at its outcome");
    return 0;
}

AIOLOOP_API aioloop_future *(aioloop_stream_start_tls)(aioloop_stream *stream, aioloop_ssl_context *ssl,
                                                       const aioloop_start_tls_options *options) {
    static const aioloop_start_tls_options defaults = AIOLOOP_ZERO;
    aioloop_start_tls_options o = options != NULL ? *options : defaults;
    aioloop_stream *s = stream;
    aioloop_future *connecting;
    aioloop_future *f;
    aioloop *loop;
    int err;
    if (s == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    loop = s->resource.loop;
    err = aiol_streams_upgrade_check(s, &o);
    if (err < 0)
        return aiol_combine_failed(loop, err);
    aiol_streams_settle(s);
    o.server_side = o.server_side || s->accepted;
    o.leftover = s->end == s->start ? NULL : s->buffer + s->start; /* behind what was read it is TLS's already */
    o.leftover_size = s->end - s->start;
    f = (aioloop_create_operation)(loop, aiol_streams_open_cancelled, s);
    if (aiol_streams_is_static(f))
        return f;
    connecting = (aioloop_start_tls)(loop, s->transport, ssl, &o);
    if (!aioloop_future_done(connecting)) {
        s->connecting = aioloop_future_ref(connecting);
        s->opening = f;
        if ((aioloop_future_add_done_callback)(connecting, aiol_streams_upgraded, s) == 0) {
            aioloop_stream_ref(s); /* as long as it is upgraded */
            s->start = 0;
            s->end = 0;
            s->reading_paused = false;
            return f;
        }
        s->connecting = NULL;
        s->opening = NULL;
        aioloop_future_cancel(connecting, NULL); /* which closes the connection */
        aioloop_future_unref(connecting);
        connecting = aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    }
    aiol_future_release(f);
    aioloop_future_unref(f);
    return connecting;
}

/* A stream for the call that opens one; or NULL, and *refused is what it returns. */
static aioloop_stream *aiol_streams_to_open(aioloop *loop, int64_t limit, aioloop_future **refused) {
    aioloop_stream *s;
    size_t size = 0;
    int err = loop == NULL ? (int)AIOLOOP_EINVAL : aiol_streams_limit(loop, limit, &size);
    if (err == 0 && loop->closed)
        err = aiol_fail(loop, AIOLOOP_ECLOSED, NULL);
    if (err < 0) {
        *refused = aiol_future_failed(err);
        return NULL;
    }
    s = aiol_streams_make(loop, size);
    if (s == NULL)
        *refused = aiol_future_failed(AIOLOOP_ENOMEM);
    return s;
}

AIOLOOP_API aioloop_future *(aioloop_open_connection)(aioloop *loop, const char *host, int port,
                                                      const aioloop_stream_options *options) {
    aioloop_future *refused = NULL;
    aioloop_stream *s = aiol_streams_to_open(loop, options == NULL ? 0 : options->limit, &refused);
    if (s == NULL)
        return refused;
    return aiol_streams_open(s, (aioloop_create_connection)(loop, &aiol_streams_protocol, s, host, port,
                                                            options == NULL ? NULL : &options->connection));
}

AIOLOOP_API aioloop_future *(aioloop_open_unix_connection)(aioloop *loop, const char *path,
                                                           const aioloop_unix_stream_options *options) {
    aioloop_future *refused = NULL;
    aioloop_stream *s = aiol_streams_to_open(loop, options == NULL ? 0 : options->limit, &refused);
    if (s == NULL)
        return refused;
    return aiol_streams_open(s, (aioloop_create_unix_connection)(loop, &aiol_streams_protocol, s, path,
                                                                 options == NULL ? NULL : &options->connection));
}

/* ---- serving ---- */

/* What a handler's task is given a copy of. */
typedef struct aiol_streams_call {
    aioloop_stream_frame frame;
    aioloop_stream_handler handler;
} aiol_streams_call;

/* What all connections of a server need: its protocol's arg. Goes when the server is closed and they are lost. */
typedef struct aiol_streams_server {
    aiol_resource resource;
    aioloop_future *starting; /* aioloop_create_server's, while its hosts are looked up; held */
    aioloop_future *opening;  /* and the one that the call returned; held */
    size_t limit;
    size_t stack_size;
    void *arg;
    aioloop_step step;
    aioloop_stream_callback callback;
    size_t call_size;
    aiol_streams_call call; /* or, with step, a frame of call_size bytes that begins here */
} aiol_streams_server;

/* Of the block. */
static size_t aiol_streams_server_size(size_t call_size) {
    size_t least = sizeof(aiol_streams_call);
    return offsetof(aiol_streams_server, call) + (call_size > least ? call_size : least);
}

static void aiol_streams_server_destroy(aiol_resource *resource) {
    aiol_streams_server *server = AIOL_CONTAINER(resource, aiol_streams_server, resource);
    aiol_resource_remove(resource);
    aiol_free(&server->resource.loop->allocator, server, aiol_streams_server_size(server->call_size));
}

static const aiol_resource_calls aiol_streams_server_resource = {"stream server", aiol_streams_loop_closed,
                                                                 aiol_streams_server_destroy, aiol_streams_is_open};

static void aiol_streams_report(aioloop_stream *s, int code, const char *detail, aioloop_task *task) {
    aioloop_exception_context context;
    memset(&context, 0, sizeof(context));
    context.message = "Unhandled error in the handler of a connection";
    context.detail = detail;
    context.future = task;
    context.task = task;
    context.transport = s->transport;
    aiol_report(s->resource.loop, code, 0, &context);
}

/* The dispose of a handler's argument or frame. */
static void aiol_streams_call_over(void *arg) {
    aioloop_stream_unref(((aioloop_stream_frame *)arg)->stream);
}

static int64_t aiol_streams_call_handler(aioloop *loop, void *arg, void **out) {
    aiol_streams_call *call = (aiol_streams_call *)arg;
    (void)out;
    return call->handler(loop, call->frame.stream, call->frame.arg);
}

/* A handler's task is done. */
static void aiol_streams_handled(aioloop_future *task, void *arg) {
    aioloop_stream *s = (aioloop_stream *)arg;
    int code = aioloop_future_exception(task);
    if (code < 0 && code != AIOLOOP_ECANCELED && code != AIOLOOP_EFATAL) /* which has ended the run already */
        aiol_streams_report(s, code, aioloop_error_message(aioloop_future_error(task)), task);
    if (code < 0)
        aioloop_stream_close(s);
    aioloop_stream_unref(s);
}

/* Runs the handler as a task, which has the reference of s. */
static void aiol_streams_spawn(aiol_streams_server *server, aioloop_stream *s) {
    aioloop *loop = s->resource.loop;
    aioloop_task_options options;
    aioloop_task *task;
    int err;
    memset(&options, 0, sizeof(options));
    options.stack_size = server->stack_size;
    options.copy_size = server->call_size;
    options.dispose = aiol_streams_call_over;
    server->call.frame.stream = s;
    server->call.frame.arg = server->arg;
    aioloop_stream_ref(s);
    if (server->step != NULL)
        task = (aioloop_create_task_frame)(loop, server->step, &server->call.frame.frame, &options);
    else
        task = (aioloop_create_task)(loop, aiol_streams_call_handler, &server->call, &options);
    err = (aioloop_future_add_done_callback)(task, aiol_streams_handled, s);
    if (err < 0) {
        aiol_streams_report(s, err, NULL, NULL);
        aioloop_future_cancel(task, NULL);
        aioloop_transport_abort(s->transport);
        aioloop_stream_unref(s);
    }
    aioloop_future_unref(task);
}

/* Calls a plain handler, and lets its reference go. */
static void aiol_streams_call_back(aiol_streams_server *server, aioloop_stream *s) {
    aioloop *loop = s->resource.loop;
    int raised;
    server->callback(loop, s, server->arg);
    raised = loop->raised;
    if (raised != 0) {
        loop->raised = 0;
        aiol_streams_report(s, raised, NULL, NULL);
        aioloop_stream_close(s);
    }
    aioloop_stream_unref(s);
}

/* connection_made of a server's connection: it gets a stream, which is its protocol from then on. */
static void aiol_streams_accepted(aioloop_transport *transport, void *self) {
    aiol_streams_server *server = (aiol_streams_server *)self;
    aioloop_stream *s = aiol_streams_make(server->resource.loop, server->limit);
    if (s == NULL) {
        aioloop_transport_abort(transport);
        aioloop_raise(server->resource.loop, AIOLOOP_ENOMEM, NULL);
        return;
    }
    s->accepted = true;
    aioloop_transport_set_protocol(transport, &aiol_streams_protocol, s);
    aiol_streams_made(transport, s);
    if (server->callback != NULL)
        aiol_streams_call_back(server, s);
    else
        aiol_streams_spawn(server, s);
}

static const aioloop_protocol aiol_streams_accept_protocol = {0,    NULL, aiol_streams_accepted, NULL, NULL, NULL,
                                                              NULL, NULL, NULL,                  NULL, NULL, NULL};

static void aiol_streams_server_over(aioloop_future *future, void *arg) {
    (void)aioloop_future_exception(future);
    aiol_streams_server_destroy(&((aiol_streams_server *)arg)->resource);
}

/* The server listens, or will not. What cannot be waited for, for want of memory, goes with the loop. */
static void aiol_streams_started(aioloop_future *starting, void *arg) {
    aiol_streams_server *server = (aiol_streams_server *)arg;
    aioloop_future *closed;
    if (starting->state == AIOL_FUTURE_FINISHED) { /* without taking the result: that is the caller's */
        closed = aioloop_server_wait_closed((aioloop_server *)starting->of.pointer);
        (void)(aioloop_future_then)(closed, aiol_streams_server_over, server);
    } else {
        aiol_streams_server_destroy(&server->resource);
    }
}

/* It was looked up where to listen, and what comes of it. */
static void aiol_streams_listening(aioloop_future *starting, void *arg) {
    aiol_streams_server *server = (aiol_streams_server *)arg;
    aioloop_future *f = server->opening;
    bool given_up = aioloop_future_done(f);
    aioloop_server *listening = NULL;
    if (!given_up)
        aioloop_future_copy(f, starting);
    aiol_streams_started(starting, server); /* may free it */
    if (given_up && aioloop_future_result(starting, &listening) >= 0) {
        aioloop_server_close(listening);
        aioloop_server_unref(listening);
    }
    aiol_future_release(f);
    aiol_future_release(starting);
}

static bool aiol_streams_start_cancelled(aioloop_future *future, void *owner) {
    (void)future;
    aioloop_future_cancel(((aiol_streams_server *)owner)->starting, NULL); /* and listening gives everything back */
    return true;
}

static aioloop_future *aiol_streams_start(aiol_streams_server *server, aioloop_future *starting) {
    aioloop *loop = server->resource.loop;
    aioloop_future *f;
    if (aioloop_future_done(starting)) {
        aiol_streams_started(starting, server);
        return starting;
    }
    f = (aioloop_create_operation)(loop, aiol_streams_start_cancelled, server);
    server->starting = aioloop_future_ref(starting);
    if (!aiol_streams_is_static(f)) {
        server->opening = f;
        f->site = starting->site;
        if ((aioloop_future_add_done_callback)(starting, aiol_streams_listening, server) == 0)
            return f;
        aiol_future_release(f);
        aioloop_future_unref(f);
    }
    aioloop_future_cancel(starting, NULL);
    aiol_future_release(starting);
    aiol_streams_server_destroy(&server->resource);
    return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
}

static int aiol_streams_server_check(aioloop *loop, aioloop_stream_handler handler,
                                     const aioloop_stream_server_options *o) {
    if (loop->closed)
        return aiol_fail(loop, AIOLOOP_ECLOSED, NULL);
    if ((handler != NULL) + (o->step != NULL) + (o->callback != NULL) != 1)
        return aiol_fail(loop, AIOLOOP_EINVAL, "one of handler, step and callback is needed");
    if (o->step != NULL && (o->frame_size < sizeof(aioloop_stream_frame) || o->frame_size > UINT32_MAX / 2))
        return aiol_fail(loop, AIOLOOP_EINVAL, "a handler's frame begins with an aioloop_stream_frame");
    if (o->step == NULL && o->frame_size != 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "frame_size without step");
#if !AIOLOOP_USE_COROUTINES
    if (handler != NULL)
        return aiol_fail(loop, AIOLOOP_ENOTAVAILABLE, "built with AIOLOOP_USE_COROUTINES 0");
#endif
    return 0;
}

/* NULL, and *refused is what the call returns. */
static aiol_streams_server *aiol_streams_server_new(aioloop *loop, aioloop_stream_handler handler, void *arg,
                                                    const aioloop_stream_server_options *o, aioloop_future **refused) {
    aiol_streams_server *server = NULL;
    size_t call_size = o->step != NULL ? o->frame_size : sizeof(aiol_streams_call);
    size_t limit = 0;
    int err = loop == NULL ? (int)AIOLOOP_EINVAL : aiol_streams_server_check(loop, handler, o);
    if (err == 0)
        err = aiol_streams_limit(loop, o->limit, &limit);
    if (err == 0) {
        server = (aiol_streams_server *)aiol_alloc_zero(&loop->allocator, aiol_streams_server_size(call_size));
        if (server == NULL)
            err = aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
    }
    if (err < 0) {
        *refused = aiol_future_failed(err);
        return NULL;
    }
    server->limit = limit;
    server->stack_size = o->stack_size;
    server->arg = arg;
    server->step = o->step;
    server->callback = o->callback;
    server->call_size = call_size;
    if (handler != NULL)
        server->call.handler = handler;
    aiol_resource_add(loop, &server->resource, &aiol_streams_server_resource);
    return server;
}

AIOLOOP_API aioloop_future *(aioloop_start_server)(aioloop *loop, aioloop_stream_handler handler, void *arg,
                                                   const char *host, int port,
                                                   const aioloop_stream_server_options *options) {
    static const aioloop_stream_server_options defaults = AIOLOOP_ZERO;
    const aioloop_stream_server_options *o = options != NULL ? options : &defaults;
    aioloop_future *refused = NULL;
    aiol_streams_server *server = aiol_streams_server_new(loop, handler, arg, o, &refused);
    if (server == NULL)
        return refused;
    return aiol_streams_start(
        server, (aioloop_create_server)(loop, &aiol_streams_accept_protocol, server, host, port, &o->server));
}

AIOLOOP_API aioloop_future *(aioloop_start_unix_server)(aioloop *loop, aioloop_stream_handler handler, void *arg,
                                                        const char *path,
                                                        const aioloop_unix_stream_server_options *options) {
    aioloop_stream_server_options o;
    aioloop_future *refused = NULL;
    aiol_streams_server *server;
    memset(&o, 0, sizeof(o));
    if (options != NULL) {
        o.limit = options->limit;
        o.stack_size = options->stack_size;
        o.step = options->step;
        o.frame_size = options->frame_size;
        o.callback = options->callback;
    }
    server = aiol_streams_server_new(loop, handler, arg, &o, &refused);
    if (server == NULL)
        return refused;
    return aiol_streams_start(server, (aioloop_create_unix_server)(loop, &aiol_streams_accept_protocol, server, path,
                                                                   options == NULL ? NULL : &options->server));
}

#endif
