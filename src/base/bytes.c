/*
 * bytes.c - a queue of bytes in chunks: what was written and not yet sent.
 *
 * Bytes are copied into the last chunk or a new one, or a chunk stands for memory that was lent. Chunks do not move, so
 * an operation may point into them while more is appended. Appending takes all or nothing. A lent chunk that is used
 * up, or dropped, goes to the `done` list; its release function is user code and is called by the owner when
 * that is allowed (aiol_bytes_release_first), never from in here.
 */
#ifndef AIOL_BASE_BYTES_C
#define AIOL_BASE_BYTES_C

#include "base/mem.c"

#define AIOL_CHUNK_SIZE 4096u
#define AIOL_CHUNK_LARGE 17408u /* the largest record of TLS, and some */
#define AIOL_CHUNK_KINDS 2
#define AIOL_OWN_SIZE 1536u

typedef void (*aiol_release_fn)(const void *data, size_t size, void *arg);

typedef struct aiol_chunk {
    struct aiol_chunk *next;
    const unsigned char *start; /* the first byte still there */
    size_t size;                /* bytes still there */
    size_t room;                /* bytes that fit behind them; 0 for lent memory */
    size_t block_size;          /* of this allocation */
    aiol_release_fn release;    /* lent memory: NULL if not */
    void *arg;
    const void *lent;
    size_t lent_size;
} aiol_chunk;

/* Chunks of the two sizes that are not used, kept so that a connection that sends for ever needs no memory for it. */
typedef struct aiol_chunk_stock {
    aiol_chunk *first[AIOL_CHUNK_KINDS];
    unsigned count[AIOL_CHUNK_KINDS];
} aiol_chunk_stock;

typedef struct aiol_bytes {
    aiol_chunk *head;
    aiol_chunk *tail;
    aiol_chunk *done; /* lent chunks to be released, and the last of them */
    aiol_chunk *done_tail;
    size_t size;
    aiol_chunk *own; /* NULL, or one of AIOL_OWN_SIZE bytes that is there anyway: spares small writes an allocation */
    aiol_chunk_stock *stock; /* NULL, or where its chunks come from and go to */
} aiol_bytes;

static const size_t aiol_chunk_sizes[AIOL_CHUNK_KINDS] = {AIOL_CHUNK_SIZE, AIOL_CHUNK_LARGE};
static const unsigned aiol_chunk_most[AIOL_CHUNK_KINDS] = {16, 8};

/* One with room for so many bytes, its block_size set; NULL when there is no memory. */
static aiol_chunk *aiol_chunk_get(aiol_chunk_stock *stock, const aioloop_allocator *a, size_t room) {
    size_t block = room + sizeof(aiol_chunk);
    aiol_chunk *chunk = NULL;
    unsigned kind = 0;
    while (kind < AIOL_CHUNK_KINDS && block > aiol_chunk_sizes[kind])
        kind++;
    if (kind < AIOL_CHUNK_KINDS) {
        block = aiol_chunk_sizes[kind];
        chunk = stock == NULL ? NULL : stock->first[kind];
    }
    if (chunk != NULL) {
        stock->first[kind] = chunk->next;
        stock->count[kind]--;
    } else {
        chunk = (aiol_chunk *)aiol_alloc(a, block);
    }
    if (chunk != NULL)
        chunk->block_size = block;
    return chunk;
}

static void aiol_chunk_put(aiol_chunk_stock *stock, const aioloop_allocator *a, aiol_chunk *chunk) {
    unsigned kind = 0;
    while (kind < AIOL_CHUNK_KINDS && chunk->block_size != aiol_chunk_sizes[kind])
        kind++;
    if (stock == NULL || kind == AIOL_CHUNK_KINDS || stock->count[kind] >= aiol_chunk_most[kind]) {
        aiol_free(a, chunk, chunk->block_size);
        return;
    }
    chunk->next = stock->first[kind];
    stock->first[kind] = chunk;
    stock->count[kind]++;
}

AIOLOOP_INTERNAL void aiol_chunk_stock_free(aiol_chunk_stock *stock, const aioloop_allocator *a) {
    unsigned kind;
    for (kind = 0; kind < AIOL_CHUNK_KINDS; kind++) {
        while (stock->first[kind] != NULL) {
            aiol_chunk *chunk = stock->first[kind];
            stock->first[kind] = chunk->next;
            aiol_free(a, chunk, chunk->block_size);
        }
        stock->count[kind] = 0;
    }
}

static void aiol_bytes_link(aiol_bytes *q, aiol_chunk *chunk) {
    chunk->next = NULL;
    if (q->tail == NULL)
        q->head = chunk;
    else
        q->tail->next = chunk;
    q->tail = chunk;
    q->size += chunk->size;
}

/* 0 or AIOLOOP_ENOMEM with nothing taken. */
AIOLOOP_INTERNAL int aiol_bytes_append(aiol_bytes *q, const aioloop_allocator *a, const void *data, size_t size) {
    const unsigned char *from = (const unsigned char *)data;
    size_t here = q->tail == NULL ? 0 : aiol_min_size(q->tail->room, size);
    aiol_chunk *chunk = NULL;
    if (here < size) {
        size_t rest = size - here;
        size_t block = AIOL_OWN_SIZE;
        if (rest > SIZE_MAX - sizeof(*chunk))
            return AIOLOOP_ENOMEM;
        if (q->tail == NULL && rest <= AIOL_OWN_SIZE - sizeof(*chunk) && q->own != NULL) {
            chunk = q->own;
        } else {
            chunk = aiol_chunk_get(q->stock, a, rest);
            if (chunk == NULL)
                return AIOLOOP_ENOMEM;
            block = chunk->block_size;
        }
        memset(chunk, 0, sizeof(*chunk));
        chunk->block_size = block;
        chunk->start = (unsigned char *)(chunk + 1);
        chunk->size = rest;
        chunk->room = block - sizeof(*chunk) - rest;
        memcpy(chunk + 1, from + here, rest);
    }
    if (here != 0) {
        aiol_chunk *tail = q->tail;
        memcpy((unsigned char *)tail + tail->block_size - tail->room, from, here);
        tail->room -= here;
        tail->size += here;
        q->size += here;
    }
    if (chunk != NULL)
        aiol_bytes_link(q, chunk);
    return 0;
}

/* Appends lent memory. 0 or AIOLOOP_ENOMEM, and then it is not lent. */
AIOLOOP_INTERNAL int aiol_bytes_lend(aiol_bytes *q, const aioloop_allocator *a, const void *data, size_t size,
                                     aiol_release_fn release, void *arg) {
    aiol_chunk *chunk = (aiol_chunk *)aiol_alloc_zero(a, sizeof(*chunk));
    if (chunk == NULL)
        return AIOLOOP_ENOMEM;
    chunk->block_size = sizeof(*chunk);
    chunk->start = (const unsigned char *)data;
    chunk->size = size;
    chunk->release = release;
    chunk->arg = arg;
    chunk->lent = data;
    chunk->lent_size = size;
    aiol_bytes_link(q, chunk);
    return 0;
}

/* Moves everything of from, which becomes empty, behind q. */
AIOLOOP_INTERNAL void aiol_bytes_join(aiol_bytes *q, aiol_bytes *from) {
    if (from->head == NULL)
        return;
    if (q->tail == NULL)
        q->head = from->head;
    else
        q->tail->next = from->head;
    q->tail = from->tail;
    q->size += from->size;
    memset(from, 0, sizeof(*from));
}

/* Describes the first bytes in at most max pieces; returns how many. They stay where they are until consumed. */
AIOLOOP_INTERNAL int aiol_bytes_pieces(const aiol_bytes *q, aioloop_buf *pieces, int max) {
    const aiol_chunk *chunk;
    int n = 0;
    for (chunk = q->head; chunk != NULL && n < max; chunk = chunk->next) {
        if (chunk->size == 0)
            continue;
        pieces[n].data = chunk->start;
        pieces[n].size = chunk->size;
        n++;
    }
    return n;
}

static void aiol_bytes_pop(aiol_bytes *q, const aioloop_allocator *a) {
    aiol_chunk *chunk = q->head;
    q->head = chunk->next;
    if (q->head == NULL)
        q->tail = NULL;
    q->size -= chunk->size;
    if (chunk->release == NULL) {
        if (chunk != q->own)
            aiol_chunk_put(q->stock, a, chunk);
        return;
    }
    chunk->next = NULL;
    if (q->done == NULL)
        q->done = chunk;
    else
        q->done_tail->next = chunk;
    q->done_tail = chunk;
}

/* Drops the first n bytes. */
AIOLOOP_INTERNAL void aiol_bytes_consume(aiol_bytes *q, const aioloop_allocator *a, size_t n) {
    AIOL_ASSERT(n <= q->size);
    while (q->head != NULL && n >= q->head->size) {
        n -= q->head->size;
        aiol_bytes_pop(q, a);
    }
    if (n != 0) {
        q->head->start += n;
        q->head->size -= n;
        q->size -= n;
    }
}

/* Drops everything. */
AIOLOOP_INTERNAL void aiol_bytes_clear(aiol_bytes *q, const aioloop_allocator *a) {
    while (q->head != NULL)
        aiol_bytes_pop(q, a);
    AIOL_ASSERT(q->size == 0);
}

/* Gives the first of the done list back to its owner. Calls user code, which may do anything to q, also end it. */
AIOLOOP_INTERNAL void aiol_bytes_release_first(aiol_bytes *q, const aioloop_allocator *a) {
    aiol_chunk *chunk = q->done;
    const aiol_chunk was = *chunk;
    q->done = was.next;
    aiol_free(a, chunk, was.block_size);
    was.release(was.lent, was.lent_size, was.arg);
}

#endif
