/*
 * inbox.c - callbacks from other threads.                        (asyncio: loop.call_soon_threadsafe)
 *
 * A stack that any thread pushes to and the loop empties in one go and turns round; no locks. The loop says when it
 * sleeps, and whoever finds it asleep wakes it, once: posts to a busy loop cost no system call.
 *
 * The slots come from a pool of their own: a stack of indices in which half a word names the top and the other half
 * counts, so that a slot that was taken and given back meanwhile is noticed (the ABA problem). Its chunks never move,
 * so reading a slot that another thread has just taken is harmless. A chunk is made by the thread that finds the pool
 * empty.
 *
 * A slot of the pool keeps its index in the lower half of u.when for ever, and how often it was used in the upper;
 * while it is free, `site` is the index + 1 of the next one.
 */
#ifndef AIOL_CORE_INBOX_C
#define AIOL_CORE_INBOX_C

#include "core/timer.c"

#if AIOLOOP_USE_THREADS

#define AIOL_REMOTE_FIRST 64u  /* slots of chunk 0; each next one has twice as many, */
#define AIOL_REMOTE_DOUBLED 10u /* up to this one, and the rest have as many as it */
#define AIOL_REMOTE_BITS (sizeof(uintptr_t) * 4)
#define AIOL_REMOTE_MASK (((uintptr_t)1 << AIOL_REMOTE_BITS) - 1)

static size_t aiol_remote_chunk_size(unsigned k) {
    return (size_t)AIOL_REMOTE_FIRST << (k < AIOL_REMOTE_DOUBLED ? k : AIOL_REMOTE_DOUBLED);
}

static size_t aiol_remote_chunk_start(unsigned k) {
    unsigned doubled = k < AIOL_REMOTE_DOUBLED + 1 ? k : AIOL_REMOTE_DOUBLED + 1;
    return (((size_t)1 << doubled) - 1) * AIOL_REMOTE_FIRST +
           (size_t)(k - doubled) * aiol_remote_chunk_size(AIOL_REMOTE_DOUBLED);
}

static aiol_slot *aiol_remote_slot(aioloop *loop, size_t index) {
    unsigned k = 0;
    while (index >= aiol_remote_chunk_start(k + 1))
        k++;
    return aiol_slot_chunk_slots((aiol_slot_chunk *)aiol_load(&loop->remote_chunks[k])) + (index - aiol_remote_chunk_start(k));
}

static uint32_t aiol_remote_index(const aiol_slot *slot) {
    return (uint32_t)(uint64_t)slot->u.when;
}

/* What the handle has from the beginning and the slot once the loop has looked: handles of earlier uses may still be
 * asked for, in the loop's thread, while another thread fills the slot anew. */
static uint64_t aiol_remote_sequence(const aiol_slot *slot) {
    return AIOL_HANDLE_REMOTE | (uint64_t)slot->u.when;
}

/* Gives back a chain from first to last, linked through `site` already but for the last. */
static void aiol_remote_push(aioloop *loop, aiol_slot *first, aiol_slot *last) {
    void *top = aiol_load(&loop->remote_free);
    uintptr_t word;
    do {
        aiol_store(&last->site, (uint32_t)((uintptr_t)top & AIOL_REMOTE_MASK));
        word = (((uintptr_t)top >> AIOL_REMOTE_BITS) + 1) << AIOL_REMOTE_BITS | ((uintptr_t)aiol_remote_index(first) + 1);
    } while (!aiol_cas_pointer(&loop->remote_free, &top, (void *)word));
}

static aiol_slot *aiol_remote_pop(aioloop *loop) {
    void *top = aiol_load(&loop->remote_free);
    for (;;) {
        uintptr_t index = (uintptr_t)top & AIOL_REMOTE_MASK;
        aiol_slot *slot;
        uintptr_t word;
        if (index == 0)
            return NULL;
        slot = aiol_remote_slot(loop, index - 1);
        word = (((uintptr_t)top >> AIOL_REMOTE_BITS) + 1) << AIOL_REMOTE_BITS | aiol_load(&slot->site);
        if (aiol_cas_pointer(&loop->remote_free, &top, (void *)word))
            return slot;
    }
}

/* Makes a chunk, keeps its first slot for the caller; NULL when there is no memory. */
static AIOL_NOINLINE aiol_slot *aiol_remote_more(aioloop *loop) {
    unsigned k;
    for (k = 0; k < AIOL_REMOTE_CHUNKS; k++) {
        size_t start = aiol_remote_chunk_start(k);
        size_t size = aiol_remote_chunk_size(k);
        aiol_slot_chunk *chunk;
        aiol_slot *slots;
        void *none = NULL;
        size_t i;
        if (aiol_load(&loop->remote_chunks[k]) != NULL)
            continue;
        if (start + size >= AIOL_REMOTE_MASK)
            return NULL;
        chunk = aiol_slot_chunk_new(loop, size, AIOL_SLOT_REMOTE);
        if (chunk == NULL)
            return NULL;
        slots = aiol_slot_chunk_slots(chunk);
        for (i = 0; i < size; i++) {
            slots[i].u.when = (aioloop_time)(start + i);
            slots[i].site = (uint32_t)(start + i + 2);
        }
        if (aiol_cas_pointer(&loop->remote_chunks[k], &none, chunk)) {
            aiol_remote_push(loop, &slots[1], &slots[size - 1]);
            return &slots[0];
        }
        aiol_slot_chunk_free(loop, chunk); /* another thread was faster; its chunk may have a slot for us */
        slots = aiol_remote_pop(loop);
        if (slots != NULL)
            return slots;
    }
    return NULL;
}

/* A slot to post with; NULL when there is no memory. */
static aiol_slot *aiol_remote_take(aioloop *loop) {
    aiol_slot *slot = aiol_remote_pop(loop);
    return slot != NULL ? slot : aiol_remote_more(loop);
}

/* Gives back one that was not used. */
static void aiol_remote_give_back(aioloop *loop, aiol_slot *slot) {
    aiol_remote_push(loop, slot, slot);
}

/* Puts a slot that has all it needs into the inbox, and wakes the loop if it sleeps. */
static void aiol_inbox_push(aioloop *loop, aiol_slot *slot) {
    void *top = aiol_load(&loop->inbox);
    do {
        slot->at.node.next = (aiol_node *)top;
    } while (!aiol_cas_pointer(&loop->inbox, &top, slot));
    if (aiol_load(&loop->sleeping) != 0) {
        aiol_add_u32(&loop->wakers, 1); /* keeps aioloop_close from taking the engine away */
        if (aiol_exchange_u32(&loop->sleeping, 0) != 0)
            loop->engine->calls->wake(loop->engine);
        aiol_add_u32(&loop->wakers, (uint32_t)-1);
    }
}

/* Posts with a slot that was taken before; cannot fail. When the loop has been closed meanwhile, nobody hears of it. */
static aioloop_handle aiol_remote_post(aioloop *loop, aiol_slot *slot, aioloop_callback fn, void *arg, aioloop_context *context) {
    aioloop_handle handle;
    slot->u.when = (aioloop_time)(((uint64_t)slot->u.when + ((uint64_t)1 << 32)) & (UINT64_MAX >> 2));
    slot->fn.call = fn;
    slot->arg = arg;
    slot->at.node.run = aiol_run_call_carefully;
    aiol_store(&slot->site, 0);
    aiol_slot_capture(slot, context);
    handle.slot = slot; /* now: it may run and be free as soon as it is in the inbox */
    handle.sequence = aiol_remote_sequence(slot);
    aiol_inbox_push(loop, slot);
    return handle;
}

static aioloop_handle aiol_call_soon_threadsafe(aioloop *loop, aioloop_callback fn, void *arg, aioloop_context *context) {
    aiol_slot *slot;
    aiol_thread.site_file = NULL;
    if (loop == NULL || fn == NULL || aiol_load(&loop->posts_refused) != 0)
        return aiol_handle_null();
    slot = aiol_remote_take(loop);
    return slot == NULL ? aiol_handle_null() : aiol_remote_post(loop, slot, fn, arg, context);
}

AIOL_INLINE bool aiol_inbox_full(const aioloop *loop) {
    return aiol_load_relaxed(&loop->inbox) != NULL;
}

/* Queues what other threads have posted. */
AIOLOOP_INTERNAL AIOL_NOINLINE void aiol_inbox_drain(aioloop *loop) {
    aiol_node *node;
    aiol_node *turned = NULL;
    if (aiol_load_relaxed(&loop->inbox) == NULL)
        return;
    node = (aiol_node *)aiol_exchange_pointer(&loop->inbox, NULL);
    while (node != NULL) {
        aiol_node *next = node->next;
        node->next = turned;
        turned = node;
        node = next;
    }
    while (turned != NULL) {
        aiol_node *next = turned->next;
        aiol_slot *slot = (aiol_slot *)(void *)turned;
        slot->sequence = aiol_remote_sequence(slot);
        aiol_queue_push(&loop->ready, turned);
        turned = next;
    }
}

/* Gives the slots back that have run. */
AIOLOOP_INTERNAL void aiol_inbox_return(aioloop *loop) {
    aiol_slot *first = loop->remote_done;
    aiol_slot *last = first;
    if (first == NULL)
        return;
    loop->remote_done = NULL;
    while (last->at.node.next != NULL) {
        aiol_slot *next = (aiol_slot *)(void *)last->at.node.next;
        aiol_store(&last->site, aiol_remote_index(next) + 1);
        last = next;
    }
    aiol_remote_push(loop, first, last);
}

AIOLOOP_INTERNAL void aiol_inbox_free(aioloop *loop) {
    unsigned k;
    for (k = 0; k < AIOL_REMOTE_CHUNKS; k++)
        if (loop->remote_chunks[k] != NULL)
            aiol_slot_chunk_free(loop, (aiol_slot_chunk *)loop->remote_chunks[k]);
}

/* Whether the loop may sleep: says that it does, and looks once more. Undone by aiol_inbox_awake. */
AIOL_INLINE bool aiol_inbox_sleep(aioloop *loop) {
    aiol_store(&loop->sleeping, 1);
    return aiol_load(&loop->inbox) == NULL;
}

/* Nobody need see it at once: who still believes in the sleep only wakes for nothing. */
AIOL_INLINE void aiol_inbox_awake(aioloop *loop) {
    aiol_store_relaxed(&loop->sleeping, 0);
}

/* Whether something was posted that the loop has not seen. */
AIOL_INLINE bool aiol_inbox_waits(aioloop *loop) {
    return aiol_load(&loop->inbox) != NULL;
}

/* No post is accepted any more, and none is about to touch the engine when this returns. */
AIOLOOP_INTERNAL void aiol_inbox_refuse(aioloop *loop) {
    aiol_store(&loop->posts_refused, 1);
    aiol_store(&loop->sleeping, 0);
    while (aiol_load(&loop->wakers) != 0 && loop->process == aiol_process_id())
        ; /* a thread between two instructions of a wake-up; rare and short (a forked child has no such thread) */
}

#else /* AIOLOOP_USE_THREADS */

static aioloop_handle aiol_call_soon_threadsafe(aioloop *loop, aioloop_callback fn, void *arg, aioloop_context *context) {
    (void)fn;
    (void)arg;
    (void)context;
    if (loop != NULL)
        aiol_fail(loop, AIOLOOP_ENOTAVAILABLE, "built without threads");
    return aiol_handle_null();
}

static void aiol_inbox_push(aioloop *loop, aiol_slot *slot) {
    (void)loop;
    (void)slot;
}

static aiol_slot *aiol_remote_take(aioloop *loop) {
    (void)loop;
    return NULL;
}

static void aiol_remote_give_back(aioloop *loop, aiol_slot *slot) {
    (void)loop;
    (void)slot;
}

static aioloop_handle aiol_remote_post(aioloop *loop, aiol_slot *slot, aioloop_callback fn, void *arg, aioloop_context *context) {
    (void)slot;
    return aiol_call_soon_threadsafe(loop, fn, arg, context);
}

#define aiol_inbox_full(loop) ((void)(loop), false)
#define aiol_inbox_drain(loop) ((void)(loop))
#define aiol_inbox_return(loop) ((void)(loop))
#define aiol_inbox_free(loop) ((void)(loop))
#define aiol_inbox_sleep(loop) ((void)(loop), true)
#define aiol_inbox_awake(loop) ((void)(loop))
#define aiol_inbox_waits(loop) ((void)(loop), false)
#define aiol_inbox_refuse(loop) ((void)(loop))

#endif

AIOLOOP_API aioloop_handle(aioloop_call_soon_threadsafe)(aioloop *loop, aioloop_callback fn, void *arg) {
    if (AIOL_KNOWS_ITS_THREAD && loop != NULL && aiol_thread.running == loop)
        return (aioloop_call_soon)(loop, fn, arg);
    return aiol_call_soon_threadsafe(loop, fn, arg, NULL);
}

AIOLOOP_API aioloop_handle(aioloop_call_soon_threadsafe_context)(aioloop *loop, aioloop_callback fn, void *arg,
                                                                 aioloop_context *context) {
    if (AIOL_KNOWS_ITS_THREAD && loop != NULL && aiol_thread.running == loop)
        return aiol_call_soon_carefully(loop, fn, arg, context);
    return aiol_call_soon_threadsafe(loop, fn, arg, context);
}

#endif
