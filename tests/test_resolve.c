/*
 * test_resolve.c - looking up names.
 *
 * Nothing here asks a name server: "localhost" (but not its IPv6 address, which /etc/hosts may lack), numbers, and what
 * the system refuses without asking. A look-up that is to hang does so in test_call_hook, at a gate that the test
 * opens.
 */
#include "awaits.h"

/* ---- a resolver of one's own: needs no threads ---- */

typedef struct resolve_own {
    int calls;
    char host[256];
    char service[256];
    aioloop_getaddrinfo_options options;
    aioloop_future *future; /* of the last call, while it is pending */
    int cancelled;
    bool at_once;
    int code; /* to fail with */
} resolve_own;

static bool resolve_own_cancel(aioloop_future *future, void *owner) {
    resolve_own *own = (resolve_own *)owner;
    CHECK_PTR(own->future, future);
    own->future = NULL;
    own->cancelled++;
    aioloop_future_unref(future);
    return true;
}

static void resolve_own_answer(resolve_own *own) {
    aioloop_future *future = own->future;
    own->future = NULL;
    if (own->code < 0) {
        CHECK_EQ(aioloop_future_set_exception(future, own->code, "nobody knows %s", own->host), 0);
    } else {
        aioloop_addrinfo items[2];
        aioloop_addrinfo *list;
        memset(items, 0, sizeof(items));
        CHECK_EQ(aioloop_address_parse(&items[0].address, "192.0.2.7", 80), 0);
        CHECK_EQ(aioloop_address_parse(&items[1].address, "2001:db8::7", 80), 0);
        items[0].canonname = own->host;
        list = aioloop_addrinfo_copy(items, 2);
        /* Nothing is checked that may fail: a resolver that a test leaves by a jump leaves the loop resolving. */
        if (list != NULL)
            aioloop_future_set_result(future, 2, list, aioloop_freeaddrinfo);
        else
            aioloop_future_set_exception(future, AIOLOOP_ENOMEM, NULL);
    }
    aioloop_future_unref(future);
}

static void resolve_own_later(aioloop *loop, void *arg) {
    (void)loop;
    resolve_own_answer((resolve_own *)arg);
}

static aioloop_future *resolve_by_own(aioloop *loop, void *arg, const char *host, const char *service,
                                      const aioloop_getaddrinfo_options *options) {
    resolve_own *own = (resolve_own *)arg;
    aioloop_future *f = aioloop_create_operation(loop, resolve_own_cancel, own);
    own->calls++;
    snprintf(own->host, sizeof(own->host), "%s", host != NULL ? host : "(none)");
    snprintf(own->service, sizeof(own->service), "%s", service != NULL ? service : "(none)");
    own->options = *options;
    if (aioloop_future_done(f))
        return f; /* no memory */
    own->future = f;
    if (own->at_once)
        resolve_own_answer(own);
    return f;
}

static void resolve_check_own(const aioloop_addrinfo *list, const char *host) {
    char text[64];
    CHECK(list != NULL);
    aioloop_address_format(&list[0].address, text, sizeof(text));
    CHECK_STR(text, "192.0.2.7:80");
    CHECK_STR(list[0].canonname, host);
    aioloop_address_format(&list[1].address, text, sizeof(text));
    CHECK_STR(text, "[2001:db8::7]:80");
    CHECK_STR(list[1].canonname, NULL);
}

static void resolve_asks_own(aioloop *loop, await_style style) {
    resolve_own own = AIOLOOP_ZERO;
    aioloop_getaddrinfo_options options = AIOLOOP_ZERO;
    awaiter a = AIOLOOP_ZERO;
    aioloop_handle h;
    options.family = AIOLOOP_INET6;
    options.type = AIOLOOP_SOCK_DGRAM;
    options.protocol = 17;
    options.flags = AIOLOOP_AI_PASSIVE;
    CHECK_EQ(aioloop_set_resolver(loop, resolve_by_own, &own), 0);
    own.at_once = true;
    CHECK_EQ(await_now(&a, loop, style, aioloop_getaddrinfo(loop, "a.example", NULL, &options)), 2);
    resolve_check_own((const aioloop_addrinfo *)a.pointer, "a.example");
    aioloop_freeaddrinfo(a.pointer);
    CHECK_STR(own.service, "(none)");
    CHECK_MEM(&own.options, &options, sizeof(options));
    own.at_once = false;
    memset(&a, 0, sizeof(a));
    await_begin(&a, loop, style, aioloop_getaddrinfo(loop, NULL, "http", NULL));
    test_spin(loop, 3);
    CHECK_EQ(a.done, 0);
    h = aioloop_call_soon(loop, resolve_own_later, &own);
    CHECK(!aioloop_handle_is_null(&h));
    CHECK_EQ(await_end(&a), 2);
    resolve_check_own((const aioloop_addrinfo *)a.pointer, "(none)");
    aioloop_freeaddrinfo(a.pointer);
    CHECK_STR(own.service, "http");
    CHECK_EQ(own.options.flags, 0);
    own.at_once = true;
    own.code = AIOLOOP_EAI_AGAIN;
    CHECK_EQ(await_now(&a, loop, style, aioloop_getaddrinfo(loop, "b.example", "1", NULL)), AIOLOOP_EAI_AGAIN);
    CHECK_STR(a.message, "nobody knows b.example");
    CHECK_EQ(own.calls, 3);
}

TEST(resolver_of_ones_own_answers_at_once_later_and_with_errors, "DNS-01") {
    await_in_all_styles(resolve_asks_own);
}

static void resolve_own_never_answers(aioloop *loop, await_style style) {
    resolve_own own = AIOLOOP_ZERO;
    awaiter a = AIOLOOP_ZERO;
    CHECK_EQ(aioloop_set_resolver(loop, resolve_by_own, &own), 0);
    await_begin(&a, loop, style, aioloop_getaddrinfo(loop, "never.example", NULL, NULL));
    test_spin(loop, 3);
    CHECK_EQ(a.done, 0);
    await_cancel(&a, NULL);
    CHECK_EQ(await_end(&a), AIOLOOP_ECANCELED);
    CHECK_EQ(own.cancelled, 1);
    CHECK_EQ(aioloop_run_until_complete(
                 loop, aioloop_wait_for(aioloop_getaddrinfo(loop, "never.example", NULL, NULL), AIOLOOP_MS(2)), NULL),
             AIOLOOP_ETIMEDOUT);
    CHECK_EQ(own.cancelled, 2);
}

TEST(resolver_of_ones_own_need_not_answer, "DNS-04") {
    await_in_all_styles(resolve_own_never_answers);
}

static aioloop_future *resolve_with_nothing(aioloop *loop, void *arg, const char *host, const char *service,
                                            const aioloop_getaddrinfo_options *options) {
    (void)loop;
    (void)arg;
    (void)host;
    (void)service;
    (void)options;
    return NULL;
}

/* What a look-up in error comes to. */
static int64_t resolve_code(aioloop *loop, aioloop_future *f) {
    return aioloop_run_until_complete(loop, f, NULL);
}

TEST(resolver_gets_what_was_checked, "DNS-01") {
    aioloop *loop = test_loop();
    resolve_own own = AIOLOOP_ZERO;
    aioloop_getaddrinfo_options options = AIOLOOP_ZERO;
    char name[300];
    void *list = NULL;
    own.at_once = true;
    CHECK_EQ(aioloop_set_resolver(loop, resolve_by_own, &own), 0);
    CHECK_EQ(resolve_code(loop, aioloop_getaddrinfo(loop, NULL, NULL, NULL)), AIOLOOP_EAI_NONAME);
    memset(name, 'n', sizeof(name));
    name[256] = '\0';
    CHECK_EQ(resolve_code(loop, aioloop_getaddrinfo(loop, name, NULL, NULL)), AIOLOOP_EINVAL);
    CHECK_STR(aioloop_error_message(aioloop_last_error(loop)), "a host or service has at most 255 bytes");
    CHECK_EQ(resolve_code(loop, aioloop_getaddrinfo(loop, "localhost", name, NULL)), AIOLOOP_EINVAL);
    options.family = AIOLOOP_UNIX;
    CHECK_EQ(resolve_code(loop, aioloop_getaddrinfo(loop, "x", NULL, &options)), AIOLOOP_EINVAL);
    CHECK_STR(aioloop_error_message(aioloop_last_error(loop)), "family 1 is none of AIOLOOP_UNSPEC, AIOLOOP_INET and AIOLOOP_INET6");
    options.family = AIOLOOP_UNSPEC;
    options.type = 4;
    CHECK_EQ(resolve_code(loop, aioloop_getaddrinfo(loop, "x", NULL, &options)), AIOLOOP_EINVAL);
    options.type = 6;
    CHECK_EQ(resolve_code(loop, aioloop_getaddrinfo(loop, "x", NULL, &options)), AIOLOOP_EINVAL);
    options.type = -1;
    CHECK_EQ(resolve_code(loop, aioloop_getaddrinfo(loop, "x", NULL, &options)), AIOLOOP_EINVAL);
    options.type = AIOLOOP_SOCK_ANY;
    options.protocol = -1;
    CHECK_EQ(resolve_code(loop, aioloop_getaddrinfo(loop, "x", NULL, &options)), AIOLOOP_EINVAL);
    options.protocol = 0;
    options.flags = 128;
    CHECK_EQ(resolve_code(loop, aioloop_getaddrinfo(loop, "x", NULL, &options)), AIOLOOP_EINVAL);
    CHECK_STR(aioloop_error_message(aioloop_last_error(loop)), "unknown flags: 0x80");
    CHECK_EQ(own.calls, 0);
    name[255] = '\0';
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_getaddrinfo(loop, name, name, NULL), &list), 2);
    CHECK_STR(own.host, name);
    CHECK_STR(own.service, name);
    aioloop_freeaddrinfo(list);
    CHECK_EQ(aioloop_set_resolver(loop, resolve_with_nothing, NULL), 0);
    CHECK_EQ(resolve_code(loop, aioloop_getaddrinfo(loop, "x", NULL, NULL)), AIOLOOP_EMISUSE);
    test_end(loop);
}

TEST(resolver_calls_on_no_loop_and_on_a_closed_one_are_refused, "RUN-17") {
    aioloop *loop = test_loop();
    aioloop_address address;
    resolve_own own = AIOLOOP_ZERO;
    CHECK_EQ(aioloop_address_parse(&address, "127.0.0.1", 1), 0);
    CHECK_EQ(aioloop_future_exception(aioloop_getaddrinfo(NULL, "x", NULL, NULL)), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_exception(aioloop_getnameinfo(NULL, &address, 0)), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_set_resolver(NULL, resolve_by_own, &own), AIOLOOP_EINVAL);
    CHECK_EQ(resolve_code(loop, aioloop_getnameinfo(loop, NULL, 0)), AIOLOOP_EINVAL);
    CHECK_EQ(resolve_code(loop, aioloop_getnameinfo(loop, &address, 32)), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_address_unix(&address, "/x", 0), 0);
    CHECK_EQ(resolve_code(loop, aioloop_getnameinfo(loop, &address, 0)), AIOLOOP_EAI_FAMILY);
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK_EQ(aioloop_future_exception(aioloop_getaddrinfo(loop, "x", NULL, NULL)), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_future_exception(aioloop_getnameinfo(loop, &address, 0)), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_set_resolver(loop, resolve_by_own, &own), AIOLOOP_ECLOSED);
    CHECK(aioloop_addrinfo_copy(NULL, 1) == NULL);
    aioloop_freeaddrinfo(NULL);
    aioloop_freenameinfo(NULL);
    CHECK_EQ(own.calls, 0);
    test_end(loop);
}

#if !defined(AIOLOOP_USE_THREADS) || AIOLOOP_USE_THREADS != 0

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- the gate ---- */

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int asked;  /* look-ups that have begun */
    int sticks; /* how many more are to hang */
    int inside;
    int hanging; /* those that have not gone on */
    int let;     /* the first so many may */
    bool open;
} resolve_gate;

static void resolve_at_gate(const char *name) {
    if (strcmp(name, "getaddrinfo") != 0)
        return;
    pthread_mutex_lock(&resolve_gate.mutex);
    resolve_gate.asked++;
    if (resolve_gate.sticks > 0) {
        int number = ++resolve_gate.inside;
        resolve_gate.sticks--;
        resolve_gate.hanging++;
        pthread_cond_broadcast(&resolve_gate.changed);
        while (!resolve_gate.open && number > resolve_gate.let)
            pthread_cond_wait(&resolve_gate.changed, &resolve_gate.mutex);
        resolve_gate.hanging--;
        pthread_cond_broadcast(&resolve_gate.changed);
    }
    pthread_mutex_unlock(&resolve_gate.mutex);
}

/* The next n look-ups hang. */
static void resolve_stick(int n) {
    static bool ready;
    if (!ready) {
        pthread_mutex_init(&resolve_gate.mutex, NULL);
        pthread_cond_init(&resolve_gate.changed, NULL);
        ready = true;
    }
    pthread_mutex_lock(&resolve_gate.mutex);
    resolve_gate.asked = 0;
    resolve_gate.sticks = n;
    resolve_gate.inside = 0;
    resolve_gate.let = 0;
    resolve_gate.open = false;
    pthread_mutex_unlock(&resolve_gate.mutex);
    test_call_hook = resolve_at_gate;
}

/* Until n look-ups have come there. Where a fault has kept a thread from beginning they may never. */
static void resolve_wait_inside(int n) {
    int err = 0;
    int inside;
    pthread_mutex_lock(&resolve_gate.mutex);
    while (resolve_gate.inside < n && err == 0) {
        struct timespec end;
        clock_gettime(CLOCK_REALTIME, &end);
        end.tv_sec++;
        err = pthread_cond_timedwait(&resolve_gate.changed, &resolve_gate.mutex, &end);
        if (err == ETIMEDOUT && !test_injected())
            err = 0;
    }
    inside = resolve_gate.inside;
    pthread_mutex_unlock(&resolve_gate.mutex);
    CHECK_GE(inside, n);
}

static int resolve_asked(void) {
    int n;
    pthread_mutex_lock(&resolve_gate.mutex);
    n = resolve_gate.asked;
    pthread_mutex_unlock(&resolve_gate.mutex);
    return n;
}

/* The first n go on. */
static void resolve_let(int n) {
    pthread_mutex_lock(&resolve_gate.mutex);
    resolve_gate.let = n;
    pthread_cond_broadcast(&resolve_gate.changed);
    pthread_mutex_unlock(&resolve_gate.mutex);
}

/* All of them go on, and others do not hang any more. */
static void resolve_open(void) {
    pthread_mutex_lock(&resolve_gate.mutex);
    resolve_gate.sticks = 0;
    resolve_gate.open = true;
    pthread_cond_broadcast(&resolve_gate.changed);
    while (resolve_gate.hanging != 0)
        pthread_cond_wait(&resolve_gate.changed, &resolve_gate.mutex);
    pthread_mutex_unlock(&resolve_gate.mutex);
}

/* A claimed future of a look-up that is under way. */
static aioloop_future *resolve_begin(aioloop *loop) {
    aioloop_future *f = aioloop_getaddrinfo(loop, "localhost", "80", NULL);
    CHECK_EQ(aioloop_future_done(f) ? aioloop_future_exception(f) : 0, 0);
    CHECK(!aioloop_future_done(f));
    return aioloop_future_ref(f);
}

/* The n-th hangs, and is given up. */
static void resolve_give_up(aioloop *loop, int n) {
    aioloop_future *f = resolve_begin(loop);
    resolve_wait_inside(n);
    CHECK(aioloop_future_cancel(f, NULL));
    CHECK(aioloop_future_cancelled(f));
    aioloop_future_unref(f);
}

/* How many addresses localhost has. Where a fault has kept a thread from beginning, the look-up waits for those that
 * hang. */
static int64_t resolve_ask(aioloop *loop, void **list) {
    aioloop_future *f = aioloop_getaddrinfo(loop, "localhost", "80", NULL);
    if (test_injected())
        f = aioloop_wait_for(f, AIOLOOP_MS(300));
    return aioloop_run_until_complete(loop, f, list);
}

static void resolve_works(aioloop *loop) {
    void *list = NULL;
    CHECK_GE(resolve_ask(loop, &list), 1);
    CHECK(list != NULL);
    CHECK_EQ(((aioloop_addrinfo *)list)->address.port, 80);
    aioloop_freeaddrinfo(list);
}

/* After the last loop: until the threads that were let go have put everything away. */
static void resolve_end(void) {
    resolve_open();
    test_wait_until_freed();
}

/* ---- as the system does ---- */

/* Our code for what the system's calls answer. */
static int resolve_answer(int answer) {
    switch (answer) {
    case EAI_AGAIN:
        return AIOLOOP_EAI_AGAIN;
    case EAI_BADFLAGS:
        return AIOLOOP_EAI_BADFLAGS;
    case EAI_FAIL:
        return AIOLOOP_EAI_FAIL;
    case EAI_FAMILY:
        return AIOLOOP_EAI_FAMILY;
    case EAI_NONAME:
        return AIOLOOP_EAI_NONAME;
    case EAI_SERVICE:
        return AIOLOOP_EAI_SERVICE;
    case EAI_SOCKTYPE:
        return AIOLOOP_EAI_SOCKTYPE;
#ifdef EAI_ADDRFAMILY
    case EAI_ADDRFAMILY:
        return AIOLOOP_EAI_ADDRFAMILY;
#endif
#if defined(EAI_NODATA) && EAI_NODATA != EAI_NONAME
    case EAI_NODATA:
        return AIOLOOP_EAI_NODATA;
#endif
    default:
        FAIL("the system's resolver answered %d", answer);
    }
}

typedef struct resolve_case {
    const char *host;
    const char *service;
    int family;
    int type;
    int protocol;
    unsigned flags;
} resolve_case;

static int resolve_system_flags(unsigned flags) {
    int here = 0;
    here |= (flags & AIOLOOP_AI_PASSIVE) != 0 ? AI_PASSIVE : 0;
    here |= (flags & AIOLOOP_AI_CANONNAME) != 0 ? AI_CANONNAME : 0;
    here |= (flags & AIOLOOP_AI_NUMERICHOST) != 0 ? AI_NUMERICHOST : 0;
    here |= (flags & AIOLOOP_AI_NUMERICSERV) != 0 ? AI_NUMERICSERV : 0;
    here |= (flags & AIOLOOP_AI_V4MAPPED) != 0 ? AI_V4MAPPED : 0;
    here |= (flags & AIOLOOP_AI_ALL) != 0 ? AI_ALL : 0;
    here |= (flags & AIOLOOP_AI_ADDRCONFIG) != 0 ? AI_ADDRCONFIG : 0;
    return here;
}

static int resolve_system_type(int type) {
    return type == AIOLOOP_SOCK_STREAM  ? SOCK_STREAM
           : type == AIOLOOP_SOCK_DGRAM ? SOCK_DGRAM
           : type == AIOLOOP_SOCK_RAW   ? SOCK_RAW
           : type == AIOLOOP_SOCK_ANY   ? 0
                                        : SOCK_SEQPACKET;
}

static void resolve_compare_item(const aioloop_addrinfo *item, const struct addrinfo *system) {
    if (system->ai_family == AF_INET) {
        struct sockaddr_in v4;
        memcpy(&v4, system->ai_addr, sizeof(v4));
        CHECK_EQ(item->address.family, AIOLOOP_INET);
        CHECK_EQ(item->address.port, ntohs(v4.sin_port));
        CHECK_MEM(item->address.u.ip, &v4.sin_addr, 4);
    } else {
        struct sockaddr_in6 v6;
        memcpy(&v6, system->ai_addr, sizeof(v6));
        CHECK_EQ(system->ai_family, AF_INET6);
        CHECK_EQ(item->address.family, AIOLOOP_INET6);
        CHECK_EQ(item->address.port, ntohs(v6.sin6_port));
        CHECK_EQ(item->address.scope_id, v6.sin6_scope_id);
        CHECK_MEM(item->address.u.ip, &v6.sin6_addr, 16);
    }
    CHECK_EQ(resolve_system_type(item->type), system->ai_socktype);
    CHECK_EQ(item->protocol, system->ai_protocol);
    CHECK_STR(item->canonname, system->ai_canonname);
}

static void resolve_compare(aioloop *loop, const resolve_case *c) {
    aioloop_getaddrinfo_options options = AIOLOOP_ZERO;
    struct addrinfo hints;
    struct addrinfo *system = NULL;
    const struct addrinfo *at;
    void *pointer = NULL;
    int64_t count;
    int64_t i = 0;
    int answer;
    memset(&hints, 0, sizeof(hints));
    hints.ai_family = c->family == AIOLOOP_INET ? AF_INET : c->family == AIOLOOP_INET6 ? AF_INET6 : AF_UNSPEC;
    hints.ai_socktype = resolve_system_type(c->type);
    hints.ai_protocol = c->protocol;
    hints.ai_flags = resolve_system_flags(c->flags);
    options.family = c->family;
    options.type = c->type;
    options.protocol = c->protocol;
    options.flags = c->flags;
    NOTE("%s %s family %d type %d protocol %d flags %u", c->host != NULL ? c->host : "NULL",
         c->service != NULL ? c->service : "NULL", c->family, c->type, c->protocol, c->flags);
    count = aioloop_run_until_complete(loop, aioloop_getaddrinfo(loop, c->host, c->service, &options), &pointer);
    answer = getaddrinfo(c->host, c->service, &hints, &system);
    if (answer != 0) {
        CHECK_EQ(count, resolve_answer(answer));
        return;
    }
    for (at = system; at != NULL && i < count; at = at->ai_next)
        resolve_compare_item(&((const aioloop_addrinfo *)pointer)[i++], at);
    CHECK(at == NULL);
    CHECK_EQ(i, count);
    CHECK_GE(count, 1);
    freeaddrinfo(system);
    aioloop_freeaddrinfo(pointer);
}

TEST_WITH(resolver_finds_what_the_system_finds_in_its_order, "DNS-01", TEST_THREADS) {
    static const resolve_case cases[] = {
        {"localhost", NULL, 0, 0, 0, 0},
        {"localhost", "80", 0, 0, 0, 0},
        {"localhost", "80", AIOLOOP_INET, 0, 0, 0},
        {"localhost", "80", 0, AIOLOOP_SOCK_STREAM, 0, 0},
        {"localhost", "80", 0, AIOLOOP_SOCK_DGRAM, 0, 0},
        {"localhost", "80", 0, AIOLOOP_SOCK_STREAM, 6, 0},
        {"localhost", "80", 0, 0, 17, 0},
        {"localhost", "80", 0, AIOLOOP_SOCK_DGRAM, 6, 0},
        {"localhost", NULL, 0, AIOLOOP_SOCK_RAW, 0, 0},
        {"localhost", NULL, 0, AIOLOOP_SOCK_SEQPACKET, 0, 0},
        {"localhost", "80", 0, 0, 0, AIOLOOP_AI_CANONNAME},
        {"127.0.0.1", "65535", 0, AIOLOOP_SOCK_STREAM, 0, AIOLOOP_AI_CANONNAME},
        {"::1", "0", 0, AIOLOOP_SOCK_STREAM, 0, AIOLOOP_AI_NUMERICHOST | AIOLOOP_AI_NUMERICSERV},
        {"fe80::1%1", "1", 0, AIOLOOP_SOCK_STREAM, 0, AIOLOOP_AI_NUMERICHOST},
        {"127.1", "1", 0, AIOLOOP_SOCK_STREAM, 0, 0},
        {"127.0.0.1", "1", AIOLOOP_INET6, AIOLOOP_SOCK_STREAM, 0, AIOLOOP_AI_NUMERICHOST},
        {"127.0.0.1", "1", AIOLOOP_INET6, AIOLOOP_SOCK_STREAM, 0, AIOLOOP_AI_V4MAPPED},
        {"127.0.0.1", "1", AIOLOOP_INET6, AIOLOOP_SOCK_STREAM, 0, AIOLOOP_AI_V4MAPPED | AIOLOOP_AI_ALL},
        {"::1", "1", AIOLOOP_INET, AIOLOOP_SOCK_STREAM, 0, AIOLOOP_AI_NUMERICHOST},
        {"127.0.0.1", "1", 0, AIOLOOP_SOCK_STREAM, 0, AIOLOOP_AI_ADDRCONFIG},
        {NULL, "80", 0, AIOLOOP_SOCK_STREAM, 0, 0},
        {NULL, "80", 0, AIOLOOP_SOCK_STREAM, 0, AIOLOOP_AI_PASSIVE},
        {NULL, "80", AIOLOOP_INET, AIOLOOP_SOCK_STREAM, 0, AIOLOOP_AI_PASSIVE},
        {NULL, "80", 0, AIOLOOP_SOCK_STREAM, 0, AIOLOOP_AI_CANONNAME},
        {"localhost", "no-such-service", 0, AIOLOOP_SOCK_STREAM, 0, 0},
        {"localhost", "no-such-service", 0, AIOLOOP_SOCK_STREAM, 0, AIOLOOP_AI_NUMERICSERV},
        {"localhost", "1", 0, AIOLOOP_SOCK_STREAM, 0, AIOLOOP_AI_NUMERICHOST},
        {"not a name", "1", 0, AIOLOOP_SOCK_STREAM, 0, 0},
        {"", "1", 0, AIOLOOP_SOCK_STREAM, 0, 0},
    };
    aioloop *loop = test_loop();
    size_t i;
    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        resolve_compare(loop, &cases[i]);
    test_end(loop);
}

static void resolve_compare_names(aioloop *loop, const char *host, int port, unsigned flags) {
    aioloop_address address;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    struct sockaddr *name;
    socklen_t size;
    char system_host[1025];
    char system_service[64];
    void *pointer = NULL;
    int64_t got;
    int here = 0;
    int answer;
    here |= (flags & AIOLOOP_NI_NUMERICHOST) != 0 ? NI_NUMERICHOST : 0;
    here |= (flags & AIOLOOP_NI_NUMERICSERV) != 0 ? NI_NUMERICSERV : 0;
    here |= (flags & AIOLOOP_NI_NOFQDN) != 0 ? NI_NOFQDN : 0;
    here |= (flags & AIOLOOP_NI_NAMEREQD) != 0 ? NI_NAMEREQD : 0;
    here |= (flags & AIOLOOP_NI_DGRAM) != 0 ? NI_DGRAM : 0;
    CHECK_EQ(aioloop_address_parse(&address, host, port), 0);
    if (address.family == AIOLOOP_INET) {
        memset(&v4, 0, sizeof(v4));
        v4.sin_family = AF_INET;
        v4.sin_port = htons((uint16_t)port);
        memcpy(&v4.sin_addr, address.u.ip, 4);
        name = (struct sockaddr *)(void *)&v4;
        size = (socklen_t)sizeof(v4);
    } else {
        memset(&v6, 0, sizeof(v6));
        v6.sin6_family = AF_INET6;
        v6.sin6_port = htons((uint16_t)port);
        memcpy(&v6.sin6_addr, address.u.ip, 16);
        name = (struct sockaddr *)(void *)&v6;
        size = (socklen_t)sizeof(v6);
    }
    NOTE("%s %d flags %u", host, port, flags);
    got = aioloop_run_until_complete(loop, aioloop_getnameinfo(loop, &address, flags), &pointer);
    answer = getnameinfo(name, size, system_host, (socklen_t)sizeof(system_host), system_service,
                         (socklen_t)sizeof(system_service), here);
    if (answer != 0) {
        CHECK_EQ(got, resolve_answer(answer));
        return;
    }
    CHECK_EQ(got, 0);
    CHECK(pointer != NULL);
    CHECK_STR(((const aioloop_nameinfo *)pointer)->host, system_host);
    CHECK_STR(((const aioloop_nameinfo *)pointer)->service, system_service);
    aioloop_freenameinfo(pointer);
}

TEST_WITH(resolver_names_addresses_as_the_system_does, "DNS-02", TEST_THREADS) {
    const unsigned numeric = AIOLOOP_NI_NUMERICHOST | AIOLOOP_NI_NUMERICSERV;
    aioloop *loop = test_loop();
    resolve_compare_names(loop, "127.0.0.1", 80, 0);
    resolve_compare_names(loop, "127.0.0.1", 80, AIOLOOP_NI_NAMEREQD);
    resolve_compare_names(loop, "127.0.0.1", 80, AIOLOOP_NI_NUMERICSERV | AIOLOOP_NI_NOFQDN);
    resolve_compare_names(loop, "127.0.0.1", 514, AIOLOOP_NI_NUMERICHOST); /* shell, and syslog of UDP */
    resolve_compare_names(loop, "127.0.0.1", 514, AIOLOOP_NI_NUMERICHOST | AIOLOOP_NI_DGRAM);
    resolve_compare_names(loop, "192.0.2.1", 65535, numeric);
    resolve_compare_names(loop, "2001:db8::1", 0, numeric);
    resolve_compare_names(loop, "192.0.2.1", 1, numeric | AIOLOOP_NI_NAMEREQD); /* no name can be looked for */
    test_end(loop);
}

static void resolve_message(aioloop *loop, const char *host, const char *service, unsigned flags, int code,
                            const char *text) {
    aioloop_getaddrinfo_options options = AIOLOOP_ZERO;
    options.flags = flags;
    options.type = AIOLOOP_SOCK_STREAM;
    CHECK_EQ(resolve_code(loop, aioloop_getaddrinfo(loop, host, service, &options)), code);
    CHECK_STR(aioloop_error_message(aioloop_last_error(loop)), text);
}

TEST_WITH(resolver_failures_have_the_resolvers_code_and_a_text, "DNS-02", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_address address;
    char name[256];
    char text[256];
    memset(name, 'n', 255);
    name[255] = '\0';
    resolve_message(loop, "localhost", NULL, AIOLOOP_AI_NUMERICHOST, AIOLOOP_EAI_NONAME,
                    "look up \"localhost\": name or service not known");
    resolve_message(loop, NULL, "http", AIOLOOP_AI_NUMERICSERV, AIOLOOP_EAI_NONAME,
                    "look up \"http\": name or service not known");
    snprintf(text, sizeof(text), "look up \"%.100s...\": name or service not known", name);
    resolve_message(loop, name, "80", AIOLOOP_AI_NUMERICHOST, AIOLOOP_EAI_NONAME, text);
    resolve_message(loop, "127.0.0.1", "no-such-service", 0, AIOLOOP_EAI_SERVICE,
                    "look up \"no-such-service\": service not known for this type of socket");
    CHECK_EQ(aioloop_address_parse(&address, "192.0.2.1", 80), 0);
    CHECK_EQ(resolve_code(loop, aioloop_getnameinfo(loop, &address, AIOLOOP_NI_NAMEREQD | AIOLOOP_NI_NUMERICHOST)),
             AIOLOOP_EAI_NONAME);
    CHECK_STR(aioloop_error_message(aioloop_last_error(loop)), "look up \"192.0.2.1:80\": name or service not known");
    test_end(loop);
}

TEST_WITH(resolver_may_be_changed_and_changed_back, "DNS-01", TEST_THREADS) {
    aioloop *loop = test_loop();
    resolve_own own = AIOLOOP_ZERO;
    void *list = NULL;
    own.at_once = true;
    CHECK_EQ(aioloop_set_resolver(loop, resolve_by_own, &own), 0);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_getaddrinfo(loop, "localhost", "80", NULL), &list), 2);
    aioloop_freeaddrinfo(list);
    CHECK_EQ(aioloop_set_resolver(loop, NULL, NULL), 0);
    resolve_works(loop);
    CHECK_EQ(own.calls, 1);
    test_end(loop);
}

/* ---- beside the loop ---- */

/* As test_run_until, but threads need real time where the loop's is virtual. */
static void resolve_run_until(aioloop *loop, const int *count, int wanted) {
    while (*count < wanted)
        CHECK_GE(aioloop_run_once(loop, AIOLOOP_FOREVER), 0);
}

static void resolve_awaits(aioloop *loop, await_style style) {
    awaiter a = AIOLOOP_ZERO;
    awaiter b = AIOLOOP_ZERO;
    aioloop_address address;
    CHECK_EQ(aioloop_address_parse(&address, "192.0.2.1", 80), 0);
    await_begin(&a, loop, style, aioloop_getaddrinfo(loop, "localhost", "80", NULL));
    await_begin(&b, loop, style, aioloop_getnameinfo(loop, &address, AIOLOOP_NI_NUMERICHOST | AIOLOOP_NI_NUMERICSERV));
    resolve_run_until(loop, &a.done, 1);
    resolve_run_until(loop, &b.done, 1);
    CHECK_GE(await_end(&a), 1);
    CHECK_EQ(((const aioloop_addrinfo *)a.pointer)->address.port, 80);
    CHECK_EQ(await_end(&b), 0);
    CHECK_STR(((const aioloop_nameinfo *)b.pointer)->host, "192.0.2.1");
    CHECK_STR(((const aioloop_nameinfo *)b.pointer)->service, "80");
    aioloop_freeaddrinfo(a.pointer);
    aioloop_freenameinfo(b.pointer);
    memset(&a, 0, sizeof(a));
    await_begin(&a, loop, style, aioloop_getaddrinfo(loop, "not a name", NULL, NULL));
    resolve_run_until(loop, &a.done, 1);
    CHECK_EQ(await_end(&a), AIOLOOP_EAI_NONAME);
    CHECK_STR(a.message, "look up \"not a name\": name or service not known");
}

TEST_WITH(resolver_answers_callbacks_and_coroutines, "DNS-01 DNS-02", TEST_THREADS) {
    await_in_all_styles(resolve_awaits);
}

/* Who may change the names while they are looked up. */
TEST_WITH(resolver_copies_what_it_looks_up, "DNS-01", TEST_THREADS) {
    aioloop *loop = test_loop();
    char host[] = "localhost";
    char service[] = "81";
    aioloop_getaddrinfo_options options = AIOLOOP_ZERO;
    aioloop_future *f;
    aioloop_addrinfo *list = NULL;
    void *pointer = NULL;
    options.type = AIOLOOP_SOCK_STREAM;
    resolve_stick(1);
    f = aioloop_future_ref(aioloop_getaddrinfo(loop, host, service, &options));
    memset(host, 'x', sizeof(host) - 1);
    memset(service, 'x', sizeof(service) - 1);
    memset(&options, 0xff, sizeof(options));
    resolve_open();
    CHECK_GE(aioloop_run_until_complete(loop, f, &pointer), 1);
    list = (aioloop_addrinfo *)pointer;
    CHECK_EQ(list->address.port, 81);
    CHECK_EQ(list->type, AIOLOOP_SOCK_STREAM);
    aioloop_freeaddrinfo(list);
    aioloop_future_unref(f);
    test_end(loop);
}

static void resolve_tick(aioloop *loop, void *arg) {
    (void)loop;
    ++*(int *)arg;
}

TEST_WITH(resolver_lets_the_loop_run_on, "DNS-03", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_future *f;
    aioloop_timer_handle timer;
    int ticks = 0;
    resolve_stick(1);
    f = resolve_begin(loop);
    resolve_wait_inside(1);
    timer = aioloop_call_later(loop, AIOLOOP_MS(1), resolve_tick, &ticks);
    CHECK(!aioloop_handle_is_null(&timer.handle));
    test_run_until(loop, &ticks, 1, "a timer");
    CHECK(!aioloop_future_done(f));
    resolve_open();
    CHECK_GE(aioloop_run_until_complete(loop, f, NULL), 1);
    aioloop_future_unref(f);
    test_end(loop);
}

TEST_WITH(resolver_looks_up_several_at_once, "DNS-03", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_future *fs[5];
    int i;
    resolve_stick(5);
    for (i = 0; i < 5; i++)
        fs[i] = resolve_begin(loop);
    resolve_wait_inside(5);
    resolve_works(loop); /* past all of them */
    resolve_open();
    for (i = 0; i < 5; i++) {
        CHECK_GE(aioloop_run_until_complete(loop, fs[i], NULL), 1);
        aioloop_future_unref(fs[i]);
    }
    test_end(loop);
}

TEST_WITH(resolver_lane_has_sixteen_threads_of_its_own, "DNS-03", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_future *fs[20];
    aioloop_future *f;
    int i;
    f = aioloop_shutdown_default_executor(loop, 0); /* that is another one */
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), 0);
    resolve_stick(20);
    for (i = 0; i < 20; i++)
        fs[i] = resolve_begin(loop);
    resolve_wait_inside(16);
    test_spin(loop, 3);
    CHECK_EQ(resolve_asked(), 16);
    CHECK(aioloop_future_cancel(fs[0], NULL)); /* its place is free at once */
    resolve_wait_inside(17);
    CHECK(aioloop_future_cancel(fs[19], NULL)); /* has not begun, and will not */
    resolve_open();
    for (i = 0; i < 20; i++) {
        int64_t n = aioloop_run_until_complete(loop, fs[i], NULL);
        if (i == 0 || i == 19)
            CHECK_EQ(n, AIOLOOP_ECANCELED);
        else
            CHECK_GE(n, 1);
        aioloop_future_unref(fs[i]);
    }
    test_end(loop);
    resolve_end();
    CHECK_EQ(resolve_asked(), 19);
}

static pthread_key_t resolve_key;
static int resolve_threads;

/* In no two threads at a time. */
static void resolve_count_threads(const char *name) {
    if (strcmp(name, "getaddrinfo") != 0 || pthread_getspecific(resolve_key) != NULL)
        return;
    resolve_threads++;
    pthread_setspecific(resolve_key, &resolve_threads);
}

TEST_WITH(resolver_uses_its_idle_thread_again, "DNS-03", TEST_THREADS) {
    aioloop *loop = test_loop();
    int i;
    CHECK_EQ(pthread_key_create(&resolve_key, NULL), 0);
    test_call_hook = resolve_count_threads;
    for (i = 0; i < 100; i++)
        resolve_works(loop);
    test_end(loop);
    CHECK_GE(resolve_threads, 1);
    CHECK_LE(resolve_threads, 16);
    pthread_key_delete(resolve_key);
}

/* ---- giving up ---- */

static void resolve_cancelled_at_once(aioloop *loop, await_style style) {
    awaiter a = AIOLOOP_ZERO;
    resolve_stick(1);
    await_begin(&a, loop, style, aioloop_getaddrinfo(loop, "localhost", NULL, NULL));
    test_spin(loop, 2);
    resolve_wait_inside(1);
    await_cancel(&a, NULL);
    CHECK_EQ(await_end(&a), AIOLOOP_ECANCELED);
    resolve_works(loop);
    resolve_open();
    resolve_works(loop);
    CHECK_EQ(a.done, 1); /* the late answer disturbs nobody */
}

TEST_WITH(resolver_cancelled_ends_the_wait_at_once, "DNS-04", TEST_THREADS) {
    await_in_all_styles(resolve_cancelled_at_once);
    test_wait_until_freed();
}

TEST_WITH(resolver_late_answer_is_dropped, "DNS-04", TEST_THREADS) {
    aioloop *loop = test_loop();
    resolve_stick(2);
    resolve_give_up(loop, 1);
    resolve_give_up(loop, 2);
    resolve_open();
    resolve_works(loop);
    test_spin(loop, 3);
    test_end(loop);
    resolve_end();
    CHECK_EQ(resolve_asked(), 3);
}

TEST_WITH(resolver_that_answers_too_late_times_out, "DNS-04", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_future *f;
    resolve_stick(1);
    f = aioloop_wait_for(aioloop_getaddrinfo(loop, "localhost", NULL, NULL), AIOLOOP_MS(2));
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), AIOLOOP_ETIMEDOUT);
    test_end(loop);
    resolve_end();
}

static int64_t resolve_in_pool(void *arg, void **out) {
    (void)out;
    return *(const int *)arg;
}

TEST_WITH(resolver_that_hangs_delays_neither_others_nor_the_executor, "DNS-04", TEST_THREADS) {
    aioloop *loop = test_loop();
    int seven = 7;
    int i;
    resolve_stick(20);
    for (i = 1; i <= 20; i++)
        resolve_give_up(loop, i);
    resolve_works(loop);
    CHECK_EQ(resolve_code(loop, aioloop_run_in_executor(loop, NULL, resolve_in_pool, &seven, NULL)), 7);
    resolve_works(loop);
    CHECK_EQ(resolve_asked(), 22);
    test_end(loop);
    resolve_end();
}

TEST_WITH(resolver_lane_grows_to_a_bound, "DNS-04", TEST_THREADS) {
    const int most = 128;
    aioloop *loop = test_loop();
    aioloop_future *f;
    int i;
    resolve_stick(most + 1);
    for (i = 1; i <= most; i++)
        resolve_give_up(loop, i);
    f = resolve_begin(loop); /* finds no thread, and gets none */
    test_spin(loop, 3);
    CHECK(!aioloop_future_done(f));
    CHECK_EQ(resolve_asked(), most);
    resolve_open();
    CHECK_GE(aioloop_run_until_complete(loop, f, NULL), 1);
    aioloop_future_unref(f);
    resolve_works(loop);
    test_end(loop);
    resolve_end();
}

TEST_WITH(resolver_lane_beyond_its_bound_works_when_one_comes_back, "DNS-04", TEST_THREADS) {
    const int most = 128;
    aioloop *loop = test_loop();
    aioloop_future *f;
    int i;
    resolve_stick(most);
    for (i = 1; i <= most; i++)
        resolve_give_up(loop, i);
    f = resolve_begin(loop);
    resolve_let(1); /* one of those that have left; the last sixteen could not, and hang on */
    while (!aioloop_future_done(f)) {
        if (test_injected())
            resolve_open(); /* no thread may take the place of another */
        CHECK_GE(aioloop_run_once(loop, 0), 0);
        usleep(50);
    }
    CHECK_GE(aioloop_run_until_complete(loop, f, NULL), 1);
    aioloop_future_unref(f);
    resolve_works(loop);
    test_end(loop);
    resolve_end();
}

/* A thread is not given up where it is the last and there is no other. */
TEST_WITH(resolver_that_gets_no_thread_uses_one_that_comes_back, "DNS-04", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_future *f;
    aioloop_future *g;
    resolve_stick(1);
    f = resolve_begin(loop);
    resolve_wait_inside(1);
    test_fail_calls("pthread_create", EAGAIN);
    g = resolve_begin(loop);
    CHECK(aioloop_future_cancel(f, NULL));
    aioloop_future_unref(f);
    test_spin(loop, 2);
    CHECK(!aioloop_future_done(g));
    resolve_open();
    CHECK_GE(aioloop_run_until_complete(loop, g, NULL), 1);
    aioloop_future_unref(g);
    resolve_works(loop);
    test_fail_calls(NULL, 0);
    test_end(loop);
    resolve_end();
}

TEST_WITH(resolver_that_got_no_thread_gets_one_with_the_next, "DNS-04", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_future *f;
    aioloop_future *g;
    resolve_stick(1);
    f = resolve_begin(loop);
    resolve_wait_inside(1);
    test_fail_calls("pthread_create", EAGAIN);
    g = resolve_begin(loop);
    CHECK(aioloop_future_cancel(f, NULL));
    aioloop_future_unref(f);
    test_fail_calls(NULL, 0);
    resolve_works(loop); /* while the first still hangs */
    if (!test_injected())
        CHECK_GE(aioloop_run_until_complete(loop, g, NULL), 1);
    aioloop_future_unref(g);
    test_end(loop);
    resolve_end();
}

/* ---- the end ---- */

TEST_WITH(resolver_that_hangs_delays_neither_close_nor_free, "DNS-04 RUN-16", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_future *running;
    aioloop_future *waiting[16];
    int i;
    resolve_stick(17);
    resolve_give_up(loop, 1);
    running = resolve_begin(loop);
    for (i = 0; i < 16; i++)
        waiting[i] = resolve_begin(loop);
    resolve_wait_inside(17);
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK(!aioloop_future_done(running));
    CHECK(!aioloop_future_done(waiting[15]));
    CHECK(aioloop_future_cancel(running, NULL));
    aioloop_future_unref(running);
    for (i = 0; i < 16; i++)
        aioloop_future_unref(waiting[i]);
    test_end(loop);
    resolve_end();
    CHECK_EQ(resolve_asked(), 17); /* the last did not begin any more */
}

TEST_WITH(resolver_answers_may_come_while_the_loop_ends, "DNS-04 RUN-16", TEST_THREADS) {
    int round, i;
    for (round = 0; round < 20; round++) {
        aioloop *loop = test_loop();
        for (i = 0; i < 4; i++)
            aioloop_future_unref(resolve_begin(loop));
        if (round % 2 == 0)
            resolve_works(loop);
        test_end(loop);
    }
    test_wait_until_freed();
}

TEST_WITH(resolver_cancels_race_with_the_answers, "DNS-04", TEST_THREADS) {
    aioloop *loop = test_loop();
    bool cancelled;
    int i;
    for (i = 0; i < 200; i++) {
        aioloop_future *f = resolve_begin(loop);
        aioloop_future *g = resolve_begin(loop);
        if (i % 4 == 0)
            resolve_works(loop);
        cancelled = aioloop_future_cancel(f, NULL);
        CHECK_EQ(aioloop_future_cancelled(f), cancelled);
        if (i % 3 == 0) {
            cancelled = aioloop_future_cancel(g, NULL);
            CHECK_EQ(aioloop_future_cancelled(g), cancelled);
        }
        aioloop_future_unref(f);
        aioloop_future_unref(g);
    }
    resolve_works(loop);
    test_end(loop);
    test_wait_until_freed();
}

/* The loops of the children stay reachable for those who look for leaks. */
static aioloop *resolve_left;

/* A program that ends while look-ups hang: one that was given up, one that somebody waits for, and threads at rest. */
static void resolve_leave(bool tidy) {
    aioloop_future *f;
    int i;
    resolve_left = aioloop_new_event_loop(NULL);
    if (resolve_left == NULL)
        _exit(1);
    for (i = 0; i < 2; i++) {
        f = aioloop_getaddrinfo(resolve_left, "localhost", NULL, NULL);
        if (aioloop_future_done(f))
            _exit(1);
        resolve_wait_inside(i + 1);
        if (i == 0)
            aioloop_future_cancel(f, NULL);
    }
    if (resolve_ask(resolve_left, NULL) < 1)
        _exit(1);
    if (tidy && aioloop_free(resolve_left) != 0)
        _exit(1);
    exit(0);
}

TEST_WITH(resolver_that_hangs_does_not_delay_the_end_of_the_program, "DNS-04", TEST_THREADS) {
    int tidy;
    for (tidy = 0; tidy < 2; tidy++) {
        int status = -1;
        pid_t child;
        resolve_stick(2);
        fflush(stdout);
        fflush(stderr);
        child = fork();
        if (child == 0)
            resolve_leave(tidy != 0);
        CHECK_GT(child, 0);
        CHECK_EQ(waitpid(child, &status, 0), child);
        CHECK_EQ(status, 0);
    }
}

TEST_WITH(resolver_of_the_parent_is_memory_in_a_forked_child, "GET-06", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_future *f;
    int status = -1;
    pid_t child;
    resolve_stick(2);
    resolve_give_up(loop, 1);
    f = resolve_begin(loop);
    resolve_wait_inside(2);
    resolve_works(loop); /* a thread is at rest */
    fflush(stdout);
    fflush(stderr);
    child = fork();
    if (child == 0) {
        bool cancelled = aioloop_future_cancel(f, NULL);
        aioloop_future_unref(f);
        _exit(cancelled && aioloop_free(loop) == 0 ? 0 : 1);
    }
    CHECK_GT(child, 0);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    resolve_open();
    CHECK_GE(aioloop_run_until_complete(loop, f, NULL), 1);
    aioloop_future_unref(f);
    test_end(loop);
    resolve_end();
}

/* Nobody waits for it any more, so a simulated loop does not either. */
TEST_WITH(resolver_given_up_is_nothing_to_wait_for, "DNS-04", TEST_THREADS | TEST_SLOW) {
    aioloop *loop = test_loop();
    int64_t n;
    if (!test_simulated(loop)) {
        test_end(loop);
        SKIP("needs the simulation");
    }
    resolve_stick(1);
    resolve_give_up(loop, 1);
    test_spin(loop, 2);
    n = aioloop_run_forever(loop);
    CHECK_EQ(n, AIOLOOP_EDEADLK);
    test_end(loop);
    resolve_end();
}

#else

TEST(resolver_without_threads_says_so, "") {
    aioloop *loop = test_loop();
    aioloop_address address;
    CHECK_EQ(aioloop_address_parse(&address, "127.0.0.1", 80), 0);
    CHECK_EQ(aioloop_future_exception(aioloop_getaddrinfo(loop, "localhost", NULL, NULL)), AIOLOOP_ENOTAVAILABLE);
    CHECK_EQ(aioloop_future_exception(aioloop_getnameinfo(loop, &address, 0)), AIOLOOP_ENOTAVAILABLE);
    test_end(loop);
}

#endif
