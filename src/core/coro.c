/*
 * coro.c - coroutines with a stack of their own.
 *
 * A coroutine lies at the top of its stack. It runs when a task's step enters it, and goes back to whoever that was
 * when it waits or ends; entering nests (an eager task is entered from its creator's stack). One that has ended waits
 * to be used again: its stack is parked at the end of a loop that runs one coroutine after another.
 *
 * Stacks come from pools, one for each size; a pool takes address space for several at once, a slab. A region below
 * each stack catches an overflow. The busy ends of neighbours lie at different places of a page, or they would all
 * want the same few lines of the cache. A free stack keeps the memory that it has touched, until it was not needed for
 * AIOL_STACKS_AGE uses of others; then it is cold, and used after the warm ones.
 */
#ifndef AIOL_CORE_CORO_C
#define AIOL_CORE_CORO_C

#include "core/future.c"
#include "sys/stack.c"

#if AIOLOOP_USE_COROUTINES

#define AIOL_STACK_SIZE (sizeof(void *) == 8 ? (size_t)262144 : (size_t)65536)
#define AIOL_STACK_LEAST 512u /* besides what the library needs of it */
#define AIOL_STACKS_AGE 4096u
#define AIOL_STACK_COLOUR 320u
#define AIOL_STACK_COLOURS 2048u /* bytes over which they are spread */
#define AIOL_STACK_GUARD ((size_t)65536) /* below each stack, of any page size: what a large frame may step over is not less */
#define AIOL_STACKS_FIRST 4u /* stacks in the first slab of a pool */
#define AIOL_STACKS_MOST ((size_t)1 << 24) /* bytes of a slab; a larger stack is mapped alone */
#define AIOL_STACKS_GUARDED 10000u /* with a mapping of its own below each */

enum { AIOL_CORO_POOLED, AIOL_CORO_ALONE, AIOL_CORO_GIVEN };

typedef struct aiol_coro {
    aiol_fiber fiber;
    aiol_link link; /* free */
    struct aiol_coro *outer; /* on whose stack it was entered; NULL: the loop's */
    aioloop_coroutine fn;
    void *arg;
    void *out;
    int64_t result;
    void (*dispose)(void *arg);
    void (*request)(void *arg); /* to be done on the stack below */
    void *request_arg;
    struct aiol_stack_pool *pool;
    char *memory; /* of a stack alone */
    size_t memory_size;
    uint8_t kind;
    bool guarded;    /* an overflow is a fault */
    bool by_mapping; /* and that took one */
    bool ended;
} aiol_coro;

typedef struct aiol_slab {
    struct aiol_slab *next;
    char *memory;
    size_t count; /* of stacks */
    size_t used;
} aiol_slab;

typedef struct aiol_stack_pool {
    struct aiol_stack_pool *next;
    size_t size; /* of a stack and the page below it */
    aiol_link warm; /* the last one is the next to be used */
    aiol_link cold;
    size_t warm_count;
    size_t lowest;  /* what warm_count was at least during this age */
    size_t surplus; /* how many of the warm ones are to give their memory back */
    unsigned age;   /* in stacks that were freed */
    aiol_slab *slabs; /* the newest first */
} aiol_stack_pool;

typedef struct aiol_stacks {
    aiol_stack_pool *pools;
    aiol_stack_pool *usual; /* of those without a size of their own; NULL until the first */
    unsigned guards; /* mappings that are guards */
    bool watched;    /* debug mode: this run has seen to it that an overflow is told */
    void *watch;     /* where that is done */
} aiol_stacks;

/* ---- overflows ---- */

/* Asked by the handler of a signal. */
static const char *aiol_stacks_fault(const char *address) {
    const aioloop *loop = aiol_thread.running;
    const aiol_coro *co = loop == NULL ? NULL : loop->coro;
    if (co == NULL || !co->guarded || address >= co->fiber.base || (size_t)(co->fiber.base - address) > AIOL_STACK_GUARD)
        return NULL;
    return "aioloop: broken: the stack of a coroutine has overflowed: give its task a larger stack_size\n";
}

/* Debug mode: from now on until the run ends an overflow in this thread is told. */
static AIOL_NOINLINE void aiol_stacks_watch(aioloop *loop) {
    aiol_stacks *stacks = loop->stacks;
    if (stacks->watched)
        return;
    stacks->watched = true;
    if (stacks->watch == NULL)
        stacks->watch = aiol_alloc(&loop->allocator, AIOL_STACK_WATCH_SIZE);
    if (stacks->watch != NULL)
        aiol_stack_watch(stacks->watch, aiol_stacks_fault);
}

/* At the end of a run: the thread is the program's again. */
AIOLOOP_INTERNAL void aiol_stacks_unwatch(aioloop *loop) {
    if (loop->stacks == NULL || !loop->stacks->watched)
        return;
    loop->stacks->watched = false;
    aiol_stack_unwatch(loop->stacks->watch);
}

/* ---- running ---- */

/* What runs on each stack, for ever: the coroutines that are given to it. */
static void aiol_coro_entry(void) {
    aiol_coro *co = aiol_thread.running->coro;
    aiol_fiber_arrive(&co->fiber);
    for (;;) {
        co->result = co->fn(aiol_thread.running, co->arg, &co->out);
        co->ended = true;
        aiol_fiber_leave(&co->fiber);
    }
}

/* Lets it run until it waits or ends. What it asks to be done on this stack is done meanwhile. */
static void aiol_coro_enter(aioloop *loop, aiol_coro *co) {
    co->outer = loop->coro;
    if (AIOL_UNLIKELY(loop->debug))
        aiol_stacks_watch(loop);
    for (;;) {
        loop->coro = co;
        aiol_fiber_enter(&co->fiber);
        loop->coro = co->outer;
        if (AIOL_LIKELY(co->request == NULL))
            return;
        aiol_on_loop_stack(loop, co->request, co->request_arg);
        co->request = NULL;
    }
}

/* Goes back to whoever entered it, until it is entered again. */
AIOL_INLINE void aiol_coro_leave(aiol_coro *co) {
    aiol_fiber_leave(&co->fiber);
}

/* Calls fn on the loop's stack, which is large, whichever is the current one. fn must not wait. */
AIOLOOP_INTERNAL void aiol_on_loop_stack(aioloop *loop, void (*fn)(void *arg), void *arg) {
    aiol_coro *co = loop->coro;
    if (co == NULL || aiol_thread.running != loop) {
        fn(arg);
        return;
    }
    co->request = fn;
    co->request_arg = arg;
    aiol_fiber_leave(&co->fiber);
}

/* ---- stacks ---- */

static aiol_stacks *aiol_stacks_of(aioloop *loop) {
    if (loop->stacks == NULL)
        loop->stacks = (aiol_stacks *)aiol_alloc_zero(&loop->allocator, sizeof(*loop->stacks));
    return loop->stacks;
}

/* A coroutine at the top of memory, or so many bytes below it, with a guard at its lower end if it is the loop's
 * own. */
static aiol_coro *aiol_coro_place(aioloop *loop, char *memory, size_t size, size_t below, uint8_t kind) {
    size_t guard = kind == AIOL_CORO_GIVEN || aiol_page_size() == 0 ? 0 : AIOL_STACK_GUARD;
    char *top = memory + size - below - sizeof(aiol_coro);
    aiol_coro *co = (aiol_coro *)(void *)(top - ((uintptr_t)top & 63));
    memset(co, 0, sizeof(*co));
    co->kind = kind;
    if (guard != 0) {
        int how = aiol_stack_guard(memory, guard, loop->stacks->guards < AIOL_STACKS_GUARDED);
        co->guarded = how >= 0;
        co->by_mapping = how == 1;
        loop->stacks->guards += co->by_mapping;
    }
    aiol_fiber_begin(&co->fiber, memory + guard, (size_t)((char *)co - memory) - guard, aiol_coro_entry);
    return co;
}

/* The pool of stacks of a size, made if need be. */
static aiol_stack_pool *aiol_stacks_pool(aioloop *loop, size_t size) {
    aiol_stacks *stacks = loop->stacks;
    aiol_stack_pool *pool = stacks->pools;
    while (pool != NULL && pool->size != size)
        pool = pool->next;
    if (pool == NULL) {
        pool = (aiol_stack_pool *)aiol_alloc_zero(&loop->allocator, sizeof(*pool));
        if (pool == NULL)
            return NULL;
        pool->size = size;
        aiol_list_init(&pool->warm);
        aiol_list_init(&pool->cold);
        pool->next = stacks->pools;
        stacks->pools = pool;
    }
    return pool;
}

/* The next stack of a slab, or of a new one, twice as large as the last. */
static aiol_coro *aiol_stacks_carve(aioloop *loop, aiol_stack_pool *pool) {
    aiol_slab *slab = pool->slabs;
    size_t below = pool->size - AIOL_STACK_GUARD < 8 * AIOL_STACK_COLOURS ? 0 : AIOL_STACK_COLOUR;
    aiol_coro *co;
    if (slab == NULL || slab->used == slab->count) {
        size_t count = aiol_min_size(slab == NULL ? AIOL_STACKS_FIRST : slab->count * 2, AIOL_STACKS_MOST / pool->size + 1);
        slab = (aiol_slab *)aiol_alloc(&loop->allocator, sizeof(*slab));
        if (slab == NULL)
            return NULL;
        slab->memory = (char *)aiol_stack_map(&loop->allocator, count * pool->size);
        if (slab->memory == NULL) {
            aiol_free(&loop->allocator, slab, sizeof(*slab));
            return NULL;
        }
        slab->count = count;
        slab->used = 0;
        slab->next = pool->slabs;
        pool->slabs = slab;
    }
    co = aiol_coro_place(loop, slab->memory + slab->used * pool->size, pool->size,
                         slab->used * below % AIOL_STACK_COLOURS, AIOL_CORO_POOLED);
    co->pool = pool;
    slab->used++;
    return co;
}

/* A stack that goes when its coroutine does: a huge one, or any where memory is all real. */
static aiol_coro *aiol_stacks_map(aioloop *loop, size_t size) {
    char *memory = (char *)aiol_stack_map(&loop->allocator, size);
    aiol_coro *co;
    if (memory == NULL)
        return NULL;
    co = aiol_coro_place(loop, memory, size, 0, AIOL_CORO_ALONE);
    co->memory = memory;
    co->memory_size = size;
    return co;
}

/* One of the pool's: what ran last is warm, what never ran is last. */
static aiol_coro *aiol_stacks_take(aioloop *loop, aiol_stack_pool *pool) {
    aiol_coro *co;
    if (pool == NULL)
        return NULL;
    if (AIOL_LIKELY(!aiol_list_empty(&pool->warm))) {
        co = AIOL_CONTAINER(pool->warm.prev, aiol_coro, link);
        if (--pool->warm_count < pool->lowest)
            pool->lowest = pool->warm_count;
    } else if (!aiol_list_empty(&pool->cold)) {
        co = AIOL_CONTAINER(pool->cold.prev, aiol_coro, link);
    } else {
        return aiol_stacks_carve(loop, pool);
    }
    aiol_list_remove(&co->link);
    aiol_fiber_renew(&co->fiber, aiol_coro_entry);
    return co;
}

/* A coroutine that is to run fn(arg); NULL when there is no memory. The stack's size was checked. */
static aiol_coro *aiol_coro_new(aioloop *loop, void *stack, size_t size) {
    size_t page;
    size_t rounded;
    if (stack == NULL && size == 0 && loop->stacks != NULL && loop->stacks->usual != NULL)
        return aiol_stacks_take(loop, loop->stacks->usual);
    if (aiol_stacks_of(loop) == NULL)
        return NULL;
    if (stack != NULL)
        return aiol_coro_place(loop, (char *)stack, size, 0, AIOL_CORO_GIVEN);
    page = aiol_page_size();
    if (size == 0 && page != 0) {
        loop->stacks->usual = aiol_stacks_pool(loop, AIOL_STACK_SIZE + AIOL_STACK_GUARD);
        return aiol_stacks_take(loop, loop->stacks->usual);
    }
    if (size == 0)
        size = AIOL_STACK_SIZE;
    if (page == 0)
        return aiol_stacks_map(loop, size);
    if (size > SIZE_MAX / 4)
        return NULL;
    if (size > AIOL_STACKS_MOST)
        return aiol_stacks_map(loop, (size + page - 1) / page * page + AIOL_STACK_GUARD);
    size += AIOL_STACK_COLOURS;
    for (rounded = page; rounded < size; rounded *= 2) /* so that there are few pools; what is not touched is free */
        continue;
    return aiol_stacks_take(loop, aiol_stacks_pool(loop, rounded + AIOL_STACK_GUARD));
}

/* Gives back what a free stack has touched, but for its upper end, where it is parked. */
static void aiol_coro_cool(aiol_coro *co) {
    char *end = (char *)co - 2048;
    end -= (uintptr_t)end % aiol_page_size();
    if (end > co->fiber.base)
        aiol_stack_discard(co->fiber.base, (size_t)(end - co->fiber.base));
}

/* An age is over: what was not needed in it gives its memory back. */
static AIOL_NOINLINE void aiol_stacks_grow_old(aiol_stack_pool *pool) {
    pool->surplus = pool->lowest;
    pool->lowest = pool->warm_count;
    pool->age = 0;
}

/* A few at a time, for each is a system call: those that were not used for longest. */
static AIOL_NOINLINE void aiol_stacks_cool(aiol_stack_pool *pool) {
    int i;
    pool->surplus = aiol_min_size(pool->surplus, pool->warm_count);
    for (i = 0; i < 2 && pool->surplus != 0; i++) {
        aiol_coro *co = AIOL_CONTAINER(pool->warm.next, aiol_coro, link);
        aiol_list_remove(&co->link);
        aiol_list_append(&pool->cold, &co->link);
        aiol_coro_cool(co);
        pool->warm_count--;
        pool->surplus--;
    }
    pool->lowest = aiol_min_size(pool->lowest, pool->warm_count);
}

/* It has ended, or never began; dropped: it waits, and its stack cannot be used again. */
static void aiol_coro_free(aioloop *loop, aiol_coro *co, bool dropped) {
    aiol_stack_pool *pool = co->pool;
    if (pool != NULL && !dropped) {
        aiol_list_append(&pool->warm, &co->link);
        pool->warm_count++;
        if (AIOL_UNLIKELY(++pool->age == AIOL_STACKS_AGE))
            aiol_stacks_grow_old(pool);
        if (AIOL_UNLIKELY(pool->surplus != 0))
            aiol_stacks_cool(pool);
        return;
    }
    if (dropped && loop->coro != NULL)
        return; /* a forked child frees the loop on one of its stacks: all of them stay */
    aiol_fiber_end(&co->fiber);
    if (co->kind == AIOL_CORO_ALONE) {
        loop->stacks->guards -= co->by_mapping;
        aiol_stack_unmap(&loop->allocator, co->memory, co->memory_size);
    }
}

static void aiol_stacks_free_list(aiol_link *list) {
    aiol_link *link;
    for (link = list->next; link != list; link = link->next)
        aiol_fiber_end(&AIOL_CONTAINER(link, aiol_coro, link)->fiber);
}

static void aiol_stacks_free_pool(aioloop *loop, aiol_stack_pool *pool) {
    bool stays = loop->coro != NULL; /* this runs on one of them */
    if (!stays) {
        aiol_stacks_free_list(&pool->warm);
        aiol_stacks_free_list(&pool->cold);
    }
    while (pool->slabs != NULL) {
        aiol_slab *slab = pool->slabs;
        pool->slabs = slab->next;
        if (!stays)
            aiol_stack_unmap(&loop->allocator, slab->memory, slab->count * pool->size);
        aiol_free(&loop->allocator, slab, sizeof(*slab));
    }
    aiol_free(&loop->allocator, pool, sizeof(*pool));
}

/* With the loop; every task is gone. A forked child may do so on one of the stacks, and then their memory stays. */
AIOLOOP_INTERNAL void aiol_stacks_free(aioloop *loop) {
    aiol_stacks *stacks = loop->stacks;
    if (stacks == NULL)
        return;
    aiol_stacks_unwatch(loop);
    while (stacks->pools != NULL) {
        aiol_stack_pool *pool = stacks->pools;
        stacks->pools = pool->next;
        aiol_stacks_free_pool(loop, pool);
    }
    if (stacks->watch != NULL)
        aiol_free(&loop->allocator, stacks->watch, AIOL_STACK_WATCH_SIZE);
    aiol_free(&loop->allocator, stacks, sizeof(*stacks));
    loop->stacks = NULL;
}

#else

AIOLOOP_INTERNAL void aiol_on_loop_stack(aioloop *loop, void (*fn)(void *arg), void *arg) {
    (void)loop;
    fn(arg);
}

AIOLOOP_INTERNAL void aiol_stacks_unwatch(aioloop *loop) {
    (void)loop;
}

AIOLOOP_INTERNAL void aiol_stacks_free(aioloop *loop) {
    (void)loop;
}

#endif

#endif
