/*
 * children.c - what is too much for the suite: real programs with large amounts, many children at once, many starts.
 *
 *     make children        (BYTES=1073741824 SPAWNS=10000 AT_ONCE=500)
 *
 * Each part checks that neither descriptors nor zombies are left, and that memory has not grown.
 */
#define AIOLOOP_IMPLEMENTATION
#include "aioloop.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#define PIECE 65536u

static aioloop *loop;
static int failed;

static void check(bool good, const char *what) {
    if (good)
        return;
    printf("    FAILED: %s\n", what);
    failed = 1;
}

static int descriptors(void) {
    int count = 0;
    DIR *folder = opendir("/proc/self/fd");
    if (folder == NULL)
        return 0;
    while (readdir(folder) != NULL)
        count++;
    closedir(folder);
    return count;
}

static long resident(void) {
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL)
        return 0;
    if (fscanf(file, "%*d %ld", &pages) != 1)
        pages = 0;
    fclose(file);
    return pages * 4;
}

static void check_left(int before) {
    check(descriptors() == before, "descriptors are left");
    check(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD, "children are left");
}

/* ---- bytes through cat ---- */

typedef struct flood {
    uint64_t total;
    uint64_t written;
    uint64_t received;
    bool paused;
    bool wrong;
    int status;
} flood;

/* The byte at a place; pieces of it are made at once, of the period's length. */
#define PERIOD 65521u
static unsigned char pattern[PERIOD + PIECE];

static void flood_write(flood *f, aioloop_subprocess *child) {
    aioloop_transport *in = aioloop_subprocess_get_pipe_transport(child, 0);
    while (!f->paused && f->written < f->total) {
        uint64_t size = f->total - f->written < PIECE ? f->total - f->written : PIECE;
        if (aioloop_transport_write(in, pattern + f->written % PERIOD, (size_t)size) < 0)
            break;
        f->written += size;
    }
    if (f->written == f->total)
        aioloop_transport_close(in);
}

static void flood_made(aioloop_subprocess *child, void *self) {
    flood_write((flood *)self, child);
}

static void flood_data(aioloop_subprocess *child, void *self, int fd, const void *data, size_t size) {
    flood *f = (flood *)self;
    const unsigned char *at = (const unsigned char *)data;
    (void)child;
    (void)fd;
    while (size != 0) {
        size_t n = size < PIECE ? size : PIECE;
        f->wrong |= memcmp(at, pattern + f->received % PERIOD, n) != 0;
        f->received += n;
        at += n;
        size -= n;
    }
}

static void flood_pause(aioloop_subprocess *child, void *self) {
    (void)child;
    ((flood *)self)->paused = true;
}

static void flood_resume(aioloop_subprocess *child, void *self) {
    ((flood *)self)->paused = false;
    flood_write((flood *)self, child);
}

static void flood_lost(aioloop_subprocess *child, void *self, int error) {
    (void)error;
    aioloop_subprocess_get_returncode(child, &((flood *)self)->status);
    aioloop_stop(loop);
}

static void run_flood(const char *command, uint64_t bytes) {
    static const aioloop_subprocess_protocol protocol = {0,    NULL,       flood_made,  flood_data,  NULL,
                                                         NULL, flood_lost, flood_pause, flood_resume};
    int before = descriptors();
    long memory = resident();
    aioloop_time start = aioloop_now(loop);
    flood f = AIOLOOP_ZERO;
    int64_t rc;
    f.total = bytes;
    f.status = -1;
    rc = aioloop_run_until_complete(loop, aioloop_subprocess_shell(loop, &protocol, &f, command, NULL), NULL);
    check(rc > 0, "started");
    if (rc > 0 && f.status == -1)
        aioloop_run_forever(loop);
    check(f.received == bytes && !f.wrong, "all bytes came back as they were");
    check(f.status == 0, "the program succeeded");
    check(resident() - memory < 20000, "memory stayed small");
    check_left(before);
    printf("%s: %.0f MiB in %.1f s\n", command, (double)bytes / 1048576, (double)(aioloop_now(loop) - start) / 1e9);
}

/* ---- many ---- */

typedef struct crowd {
    long to_start;
    long running;
    long at_once;
    long wrong;
    long started;
} crowd;

static void crowd_start(crowd *c);

static void crowd_lost(aioloop_subprocess *child, void *self, int error) {
    crowd *c = (crowd *)self;
    int status = -1;
    (void)error;
    aioloop_subprocess_get_returncode(child, &status);
    c->wrong += status != 0;
    c->running--;
    crowd_start(c);
    if (c->running == 0)
        aioloop_stop(loop);
}

static void crowd_start(crowd *c) {
    static const aioloop_subprocess_protocol protocol = {0, NULL, NULL, NULL, NULL, NULL, crowd_lost, NULL, NULL};
    static const char *const args[] = {"true", NULL};
    while (c->running < c->at_once && c->to_start > 0) {
        aioloop_future *f = aioloop_subprocess_exec(loop, &protocol, c, args, NULL);
        bool good = !aioloop_future_done(f);
        aioloop_future_unref(f);
        c->to_start--;
        if (!good) {
            c->wrong++;
            continue;
        }
        c->running++;
        c->started++;
    }
}

static void run_crowd(long count, long at_once) {
    int before = descriptors();
    aioloop_time start = aioloop_now(loop);
    crowd c = AIOLOOP_ZERO;
    long memory;
    c.to_start = at_once;
    c.at_once = at_once;
    crowd_start(&c);
    aioloop_run_forever(loop);
    memory = resident();
    c.to_start = count;
    crowd_start(&c);
    aioloop_run_forever(loop);
    check(c.wrong == 0, "every child succeeded");
    check(c.started == count + at_once, "all were started");
    check(resident() - memory < 2000, "memory has not grown");
    check_left(before);
    printf("%ld children, %ld at once: %.2f ms each\n", count, at_once, (double)(aioloop_now(loop) - start) / 1e6 / (double)(count + at_once));
}

int main(int argc, char **argv) {
    uint64_t bytes = argc > 1 ? strtoull(argv[1], NULL, 10) : (uint64_t)1 << 30;
    long spawns = argc > 2 ? atol(argv[2]) : 10000;
    long at_once = argc > 3 ? atol(argv[3]) : 500;
    size_t i;
    for (i = 0; i < sizeof(pattern); i++)
        pattern[i] = (unsigned char)(i % PERIOD * 13 + i % PERIOD / 251);
    loop = aioloop_new_event_loop(NULL);
    if (loop == NULL)
        return 2;
    printf("on %s\n", aioloop_backend_name(loop));
    run_flood("cat", bytes);
    run_flood("gzip -1 -c | gunzip", bytes / 16);
    run_crowd(at_once, at_once);
    run_crowd(spawns, 8);
    aioloop_free(loop);
    return failed;
}
