/*
 * unit_stack.c - the memory of stacks: pools, slabs, guards, what is given back; on pages of other sizes than this machine's.
 */
static long unit_page = 4096;
static int unit_guards_fail; /* 1: the system knows no guards without a mapping; 2: nor has it a mapping left */

#if !defined(AIOLOOP_USE_COROUTINES) || AIOLOOP_USE_COROUTINES != 0
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <unistd.h>
#ifdef __cplusplus
extern "C" {
#endif
long unit_sysconf(int name);
#ifdef __cplusplus
}
#endif
#define sysconf unit_sysconf
#undef AIOLOOP_FAULT
#define AIOLOOP_FAULT unit_fault
#endif

#define AIOLOOP_IMPLEMENTATION
#include "aioloop.h"
#include "test.h"

#if AIOLOOP_USE_COROUTINES

#undef sysconf

long unit_sysconf(int name) {
    return name == _SC_PAGESIZE ? unit_page : sysconf(name);
}

int unit_fault(const char *name) {
    if (unit_guards_fail >= 1 && strcmp(name, "madvise") == 0)
        return EINVAL;
    if (unit_guards_fail >= 2 && strcmp(name, "mprotect") == 0)
        return ENOMEM;
    return test_fault(name);
}

/* A loop that coroutines can be made for; its pages are as large as is said. */
static aioloop *unit_loop(long page) {
    aioloop *loop;
    if (sysconf(_SC_PAGESIZE) > page)
        SKIP("the pages of this machine are larger");
    unit_page = page;
    loop = aioloop_new_event_loop(NULL);
    CHECK(loop != NULL);
    return loop;
}

static void unit_end(aioloop *loop) {
    unit_page = sysconf(_SC_PAGESIZE);
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK_EQ(aioloop_free(loop), 0);
}

static aiol_coro *unit_coro(aioloop *loop, size_t size) {
    aiol_coro *co = aiol_coro_new(loop, NULL, size);
    CHECK(co != NULL);
    return co;
}

static size_t unit_room(const aiol_coro *co) {
    return (size_t)((const char *)co - co->fiber.base);
}

TEST(stack_has_room_whatever_the_page, "") {
    long page;
    for (page = 4096; page <= 65536; page *= 4) {
        aioloop *loop = unit_loop(page);
        static const size_t sizes[] = {1024, 4096, 10000, 65536, 262144, 20000000};
        aiol_coro *coros[6];
        int i;
        for (i = 0; i < 6; i++) {
            coros[i] = unit_coro(loop, sizes[i]);
            CHECK_GE(unit_room(coros[i]) + sizeof(aiol_coro) + 64, sizes[i]);
            CHECK_EQ((uintptr_t)coros[i]->fiber.base % (size_t)sysconf(_SC_PAGESIZE), 0);
            memset(coros[i]->fiber.base, 1, unit_room(coros[i]) > 8192 ? unit_room(coros[i]) - 4096 : 1);
        }
        for (i = 0; i < 6; i++)
            aiol_coro_free(loop, coros[i], false);
        unit_end(loop);
    }
}

/* Takes count of the usual stacks and gives them back. */
static void unit_use(aioloop *loop, aiol_coro **coros, size_t count) {
    size_t i;
    for (i = 0; i < count; i++)
        coros[i] = unit_coro(loop, 0);
    for (i = 0; i < count; i++)
        aiol_coro_free(loop, coros[i], false);
}

TEST(pool_cools_what_was_not_needed_for_an_age, "") {
    aioloop *loop = unit_loop(sysconf(_SC_PAGESIZE));
    aiol_coro *coros[100];
    aiol_stack_pool *pool;
    size_t i;
    unit_use(loop, coros, 100);
    pool = loop->stacks->usual;
    for (i = 0; i < 2 * AIOL_STACKS_AGE; i += 100) /* all of them are needed, again and again */
        unit_use(loop, coros, 100);
    CHECK_EQ(pool->warm_count, 100);
    CHECK(aiol_list_empty(&pool->cold));
    for (i = 0; i < 2 * AIOL_STACKS_AGE; i += 30) /* from here on no more than 30 at once */
        unit_use(loop, coros, 30);
    CHECK_LE(pool->warm_count, 30);
    CHECK(!aiol_list_empty(&pool->cold));
    unit_use(loop, coros, 100);
    CHECK(aiol_list_empty(&pool->cold));
    CHECK_EQ(pool->warm_count, 100);
    unit_end(loop);
}

TEST(pool_cools_two_at_a_time_and_the_coldest_first, "") {
    aioloop *loop = unit_loop(sysconf(_SC_PAGESIZE));
    aiol_coro *coros[100];
    aiol_coro *hot;
    aiol_stack_pool *pool;
    unit_use(loop, coros, 100);
    pool = loop->stacks->usual;
    while (pool->surplus == 0)
        unit_use(loop, coros, 1);
    hot = coros[0];
    CHECK_EQ(pool->surplus, 97);
    CHECK_EQ(pool->warm_count, 98);
    while (pool->surplus != 0) {
        size_t before = pool->warm_count;
        unit_use(loop, coros, 1);
        CHECK_LE(before - pool->warm_count, 2);
        CHECK(coros[0] == hot);
    }
    CHECK_EQ(pool->warm_count, 1);
    unit_end(loop);
}

#if AIOL_OS_LINUX
/* Pages that are in memory. */
static int unit_resident(char *from, char *to) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char is[64];
    int n = 0;
    for (; from < to; from += page) {
        CHECK(mincore(from, page, is) == 0);
        n += is[0] & 1;
    }
    return n;
}

TEST(cold_stack_keeps_only_its_end, "") {
    long page;
    for (page = 4096; page <= 65536; page *= 4) {
        aioloop *loop = unit_loop(page);
        aiol_coro *co = unit_coro(loop, 0);
        char *base = co->fiber.base;
        char *end = (char *)co - 4096;
        int before;
        end -= (uintptr_t)end % (size_t)page;
        memset(base, 1, (size_t)(end - base));
        before = unit_resident(base, end);
        CHECK_EQ(before, (end - base) / sysconf(_SC_PAGESIZE));
        aiol_coro_cool(co);
        before = unit_resident(base, end);
        CHECK_EQ(before, 0);
        aiol_coro_free(loop, co, false);
        unit_end(loop);
    }
}
#endif

/* True if the system may read what is there: asked in a way that is no fault. */
static bool unit_may_be_touched(const char *p) {
    int ends[2];
    bool may;
    CHECK(pipe(ends) == 0);
    may = write(ends[1], p, 1) == 1;
    close(ends[0]);
    close(ends[1]);
    return may;
}

static void unit_check_guards(int fail, bool guarded, bool by_mapping) {
    aioloop *loop = unit_loop(sysconf(_SC_PAGESIZE));
    aiol_coro *coros[10];
    int i;
    unit_guards_fail = fail;
    for (i = 0; i < 10; i++) {
        coros[i] = unit_coro(loop, i == 9 ? 20000000 : 16384);
        CHECK_EQ(coros[i]->guarded, guarded);
        CHECK_EQ(coros[i]->by_mapping, by_mapping);
        CHECK_EQ(unit_may_be_touched(coros[i]->fiber.base - 1), !guarded);
        CHECK(unit_may_be_touched(coros[i]->fiber.base));
    }
    CHECK_EQ(loop->stacks->guards, by_mapping ? 10 : 0);
    for (i = 0; i < 10; i++)
        aiol_coro_free(loop, coros[i], false);
    CHECK_EQ(loop->stacks->guards, by_mapping ? 9 : 0);
    unit_guards_fail = 0;
    unit_end(loop);
}

TEST(guard_is_a_mapping_where_the_system_knows_no_other, "") {
    unit_check_guards(1, true, true);
}

TEST(stack_without_a_guard_serves_when_there_is_no_mapping, "") {
    unit_check_guards(2, false, false);
}

TEST(guards_take_a_bounded_number_of_mappings, "") {
    aioloop *loop = unit_loop(sysconf(_SC_PAGESIZE));
    size_t count = AIOL_STACKS_GUARDED + 100;
    size_t i;
    unit_guards_fail = 1;
    for (i = 0; i < count; i++) {
        aiol_coro *co = unit_coro(loop, 1024); /* dropped, as at the end of a loop */
        CHECK_EQ(co->guarded, i < AIOL_STACKS_GUARDED);
        aiol_coro_free(loop, co, true);
    }
    CHECK_EQ(loop->stacks->guards, AIOL_STACKS_GUARDED);
    unit_guards_fail = 0;
    unit_end(loop);
}

TEST(slabs_grow_up_to_a_bound, "") {
    aioloop *loop = unit_loop(sysconf(_SC_PAGESIZE));
    aiol_coro *first = unit_coro(loop, 0);
    size_t i;
    CHECK_EQ(loop->stacks->pools->slabs->count, AIOL_STACKS_FIRST);
    for (i = 1; i < 200; i++) {
        aiol_coro *co = unit_coro(loop, 0);
        CHECK(co != first);
        aiol_coro_free(loop, co, true);
    }
    CHECK_EQ(loop->stacks->pools->slabs->count, AIOL_STACKS_MOST / loop->stacks->pools->size + 1);
    aiol_coro_free(loop, first, false);
    unit_end(loop);
}

#else

TEST(no_stacks, "") {
    unit_page += unit_guards_fail;
    CHECK_EQ(unit_page, 4096);
}

#endif
