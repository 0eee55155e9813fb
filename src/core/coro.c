/*
 * coro.c - coroutines with a stack of their own.
 *
 * A coroutine lies at the top of its stack. It runs when a task's step enters it, and goes back to whoever that was when it waits or
 * ends; entering nests (an eager task is entered from its creator's stack). One that has ended waits to be used again: its stack
 * is parked at the end of a loop that runs one coroutine after another.
 *
 * Stacks of the usual size come from slabs, address space for several at once; a page below each catches an overflow. The busy ends
 * of neighbours lie at different places of a page, or they would all want the same few lines of the cache. A free stack keeps
 * the memory that it has touched, until it was not needed for AIOL_STACKS_AGE uses of others.
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
#define AIOL_STACKS_FIRST 4u
#define AIOL_STACKS_MOST 64u /* in a slab */

enum { AIOL_CORO_POOLED, AIOL_CORO_MAPPED, AIOL_CORO_GIVEN };

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
    char *memory;
    size_t memory_size;
    uint8_t kind;
    bool ended;
} aiol_coro;

typedef struct aiol_slab {
    struct aiol_slab *next;
    char *memory;
    size_t count; /* of stacks */
    size_t used;
} aiol_slab;

typedef struct aiol_stacks {
    aiol_link free; /* the last one is the next to be used */
    aiol_link cold; /* free too, and without the memory that they had touched */
    size_t free_count;
    size_t lowest;  /* what free_count was at least during this age */
    size_t surplus; /* how many of the free ones are to give their memory back */
    unsigned age;   /* in stacks that were freed */
    aiol_slab *slabs; /* the newest first */
    void *watch;      /* debug mode: where a handler of overflows runs */
} aiol_stacks;

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
    if (co == NULL) {
        fn(arg);
        return;
    }
    co->request = fn;
    co->request_arg = arg;
    aiol_fiber_leave(&co->fiber);
}

/* ---- stacks ---- */

/* Asked by the handler of a signal. */
static const char *aiol_stacks_fault(const char *address) {
    const aioloop *loop = aiol_thread.running;
    const aiol_coro *co = loop == NULL ? NULL : loop->coro;
    size_t page = aiol_page_size();
    if (co == NULL || co->kind == AIOL_CORO_GIVEN || address >= co->fiber.base || co->fiber.base - address > (ptrdiff_t)page)
        return NULL;
    return "aioloop: broken: the stack of a coroutine has overflowed: give its task a larger stack_size\n";
}

static aiol_stacks *aiol_stacks_of(aioloop *loop) {
    if (loop->stacks == NULL) {
        loop->stacks = (aiol_stacks *)aiol_alloc_zero(&loop->allocator, sizeof(*loop->stacks));
        if (loop->stacks != NULL) {
            aiol_list_init(&loop->stacks->free);
            aiol_list_init(&loop->stacks->cold);
        }
    }
    if (loop->stacks != NULL && AIOL_UNLIKELY(loop->debug) && loop->stacks->watch == NULL) {
        loop->stacks->watch = aiol_alloc(&loop->allocator, AIOL_STACK_WATCH_SIZE);
        if (loop->stacks->watch != NULL)
            aiol_stack_watch(loop->stacks->watch, aiol_stacks_fault);
    }
    return loop->stacks;
}

/* A coroutine at the top of memory, or so many bytes below it; the lowest guard bytes are not to be touched. */
static aiol_coro *aiol_coro_place(char *memory, size_t size, size_t guard, size_t below, uint8_t kind) {
    char *top = memory + size - below - sizeof(aiol_coro);
    aiol_coro *co;
    if (guard != 0 && aiol_stack_guard(memory, guard) < 0)
        return NULL;
    co = (aiol_coro *)(void *)(top - ((uintptr_t)top & 63));
    memset(co, 0, sizeof(*co));
    co->kind = kind;
    co->memory = memory;
    co->memory_size = size;
    aiol_fiber_begin(&co->fiber, memory + guard, (size_t)((char *)co - memory) - guard, aiol_coro_entry);
    return co;
}

/* The next stack of a slab. */
static aiol_coro *aiol_stacks_carve(aioloop *loop, aiol_stacks *stacks) {
    aiol_slab *slab = stacks->slabs;
    size_t size = AIOL_STACK_SIZE + aiol_page_size();
    aiol_coro *co;
    if (slab == NULL || slab->used == slab->count) {
        size_t count = slab == NULL ? AIOL_STACKS_FIRST : aiol_min_size(slab->count * 2, AIOL_STACKS_MOST);
        slab = (aiol_slab *)aiol_alloc(&loop->allocator, sizeof(*slab));
        if (slab == NULL)
            return NULL;
        slab->memory = (char *)aiol_stack_map(&loop->allocator, count * size);
        if (slab->memory == NULL) {
            aiol_free(&loop->allocator, slab, sizeof(*slab));
            return NULL;
        }
        slab->count = count;
        slab->used = 0;
        slab->next = stacks->slabs;
        stacks->slabs = slab;
    }
    co = aiol_coro_place(slab->memory + slab->used * size, size, aiol_page_size(),
                         slab->used * AIOL_STACK_COLOUR % AIOL_STACK_COLOURS, AIOL_CORO_POOLED);
    if (co != NULL)
        slab->used++;
    return co;
}

/* A stack of another size than the usual one. */
static aiol_coro *aiol_stacks_map(aioloop *loop, size_t size) {
    size_t page = aiol_page_size();
    char *memory;
    aiol_coro *co;
    if (page != 0)
        size = (size + page - 1) / page * page + page;
    memory = (char *)aiol_stack_map(&loop->allocator, size);
    if (memory == NULL)
        return NULL;
    co = aiol_coro_place(memory, size, page, 0, AIOL_CORO_MAPPED);
    if (co == NULL)
        aiol_stack_unmap(&loop->allocator, memory, size);
    return co;
}

/* A coroutine that is to run fn(arg); NULL when there is no memory. The stack's size was checked. */
static aiol_coro *aiol_coro_new(aioloop *loop, void *stack, size_t size) {
    aiol_stacks *stacks = aiol_stacks_of(loop);
    aiol_coro *co;
    if (stacks == NULL)
        return NULL;
    if (stack != NULL)
        return aiol_coro_place((char *)stack, size, 0, 0, AIOL_CORO_GIVEN);
    if (size != 0 && size != AIOL_STACK_SIZE)
        return aiol_stacks_map(loop, size);
    if (AIOL_LIKELY(!aiol_list_empty(&stacks->free))) {
        co = AIOL_CONTAINER(stacks->free.prev, aiol_coro, link);
        if (--stacks->free_count < stacks->lowest)
            stacks->lowest = stacks->free_count;
    } else if (!aiol_list_empty(&stacks->cold)) {
        co = AIOL_CONTAINER(stacks->cold.prev, aiol_coro, link);
    } else {
        return aiol_stacks_carve(loop, stacks);
    }
    aiol_list_remove(&co->link);
    return co;
}

/* Gives back what a free stack has touched, but for its upper end, where it is parked. */
static void aiol_coro_cool(aiol_coro *co) {
    size_t page = aiol_page_size();
    char *end = (char *)co - 2048;
    if (page == 0)
        return;
    end -= (uintptr_t)end % page;
    if (end > co->fiber.base)
        aiol_stack_discard(co->fiber.base, (size_t)(end - co->fiber.base));
}

/* An age is over: what was not needed in it gives its memory back. */
static AIOL_NOINLINE void aiol_stacks_grow_old(aiol_stacks *stacks) {
    stacks->surplus = stacks->lowest;
    stacks->lowest = stacks->free_count;
    stacks->age = 0;
}

/* A few at a time, each a system call: those that were not used for longest. */
static AIOL_NOINLINE void aiol_stacks_cool(aiol_stacks *stacks) {
    int i;
    stacks->surplus = aiol_min_size(stacks->surplus, stacks->free_count);
    for (i = 0; i < 2 && stacks->surplus != 0; i++) {
        aiol_coro *co = AIOL_CONTAINER(stacks->free.next, aiol_coro, link);
        aiol_list_remove(&co->link);
        aiol_list_append(&stacks->cold, &co->link);
        aiol_coro_cool(co);
        stacks->free_count--;
        stacks->surplus--;
    }
    stacks->lowest = aiol_min_size(stacks->lowest, stacks->free_count);
}

/* It has ended, or never began; dropped: it waits, and its stack cannot be used again. */
static void aiol_coro_free(aioloop *loop, aiol_coro *co, bool dropped) {
    aiol_stacks *stacks = loop->stacks;
    if (co->kind == AIOL_CORO_POOLED && !dropped) {
        aiol_list_append(&stacks->free, &co->link);
        stacks->free_count++;
        if (AIOL_UNLIKELY(++stacks->age == AIOL_STACKS_AGE))
            aiol_stacks_grow_old(stacks);
        if (AIOL_UNLIKELY(stacks->surplus != 0))
            aiol_stacks_cool(stacks);
        return;
    }
    aiol_fiber_end(&co->fiber);
    if (co->kind == AIOL_CORO_MAPPED && loop->coro == NULL)
        aiol_stack_unmap(&loop->allocator, co->memory, co->memory_size);
}

static void aiol_stacks_end_fibers(aiol_link *list) {
    aiol_link *link;
    for (link = list->next; link != list; link = link->next)
        aiol_fiber_end(&AIOL_CONTAINER(link, aiol_coro, link)->fiber);
}

/* With the loop; every task is gone. A forked child may do so on one of the stacks, and then their memory stays. */
AIOLOOP_INTERNAL void aiol_stacks_free(aioloop *loop) {
    aiol_stacks *stacks = loop->stacks;
    if (stacks == NULL)
        return;
    aiol_stacks_end_fibers(&stacks->free);
    aiol_stacks_end_fibers(&stacks->cold);
    while (stacks->slabs != NULL) {
        aiol_slab *slab = stacks->slabs;
        stacks->slabs = slab->next;
        if (loop->coro == NULL)
            aiol_stack_unmap(&loop->allocator, slab->memory, slab->count * (AIOL_STACK_SIZE + aiol_page_size()));
        aiol_free(&loop->allocator, slab, sizeof(*slab));
    }
    if (stacks->watch != NULL) {
        aiol_stack_unwatch(stacks->watch);
        aiol_free(&loop->allocator, stacks->watch, AIOL_STACK_WATCH_SIZE);
    }
    aiol_free(&loop->allocator, stacks, sizeof(*stacks));
    loop->stacks = NULL;
}

#else

AIOLOOP_INTERNAL void aiol_on_loop_stack(aioloop *loop, void (*fn)(void *arg), void *arg) {
    (void)loop;
    fn(arg);
}

AIOLOOP_INTERNAL void aiol_stacks_free(aioloop *loop) {
    (void)loop;
}

#endif

#endif
