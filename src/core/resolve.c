/*
 * resolve.c - names to addresses, and back.                       (asyncio: base_events.getaddrinfo, getnameinfo)
 *
 * A look-up is a job of the loop's lane (executor.c) that carries copies of the names along.
 */
#ifndef AIOL_CORE_RESOLVE_C
#define AIOL_CORE_RESOLVE_C

#include "core/executor.c"
#include "sys/resolve.c"

#define AIOL_RESOLVE_NAME 255u /* bytes of a host or a service: what a name may have on the wire */
#define AIOL_RESOLVE_SHOWN 100 /* of them in a message, so that there is room for the reason */
#define AIOL_RESOLVE_FLAGS                                                                                             \
    ((unsigned)AIOLOOP_AI_PASSIVE | AIOLOOP_AI_CANONNAME | AIOLOOP_AI_NUMERICHOST | AIOLOOP_AI_NUMERICSERV |           \
     AIOLOOP_AI_V4MAPPED | AIOLOOP_AI_ALL | AIOLOOP_AI_ADDRCONFIG)
#define AIOL_RESOLVE_NAME_FLAGS                                                                                        \
    ((unsigned)AIOLOOP_NI_NUMERICHOST | AIOLOOP_NI_NUMERICSERV | AIOLOOP_NI_NOFQDN | AIOLOOP_NI_NAMEREQD |             \
     AIOLOOP_NI_DGRAM)

/* The argument of a look-up's job, copied up to the end of the texts. */
typedef struct aiol_resolve_question {
    aioloop_getaddrinfo_options options;
    bool has_host;
    bool has_service;
    char texts[2 * (AIOL_RESOLVE_NAME + 1)]; /* the host, the service */
} aiol_resolve_question;

typedef struct aiol_resolve_address {
    aioloop_address address;
    unsigned flags;
} aiol_resolve_address;

static const aioloop_getaddrinfo_options aiol_resolve_everything = AIOLOOP_ZERO;

/* ---- in the lane's threads ---- */

static int aiol_resolve_told(int code, const char *what) {
    const char *more = strlen(what) > AIOL_RESOLVE_SHOWN ? "..." : "";
    return aioloop_raise(NULL, code, "look up \"%.*s%s\": %s", AIOL_RESOLVE_SHOWN, what, more, aioloop_strerror(code));
}

static int64_t aiol_resolve_run(void *arg, void **out) {
    const aiol_resolve_question *question = (const aiol_resolve_question *)arg;
    const char *text = question->texts;
    aioloop_addrinfo *list = NULL;
    aiol_lookup what;
    int64_t count;
    what.options = question->options;
    what.host = question->has_host ? text : NULL;
    text += question->has_host ? strlen(text) + 1 : 0;
    what.service = question->has_service ? text : NULL;
    count = aiol_resolve_addresses(&what, &list);
    if (count < 0) {
        bool about_service = what.host == NULL || (count == AIOLOOP_EAI_SERVICE && what.service != NULL);
        return aiol_resolve_told((int)count, about_service ? what.service : what.host);
    }
    *out = list;
    return count;
}

static int64_t aiol_resolve_run_back(void *arg, void **out) {
    const aiol_resolve_address *question = (const aiol_resolve_address *)arg;
    aioloop_nameinfo *names = NULL;
    char text[64];
    int err = aiol_resolve_names(&question->address, question->flags, &names);
    if (err < 0) {
        (void)aioloop_address_format(&question->address, text, sizeof(text));
        return aiol_resolve_told(err, text);
    }
    *out = names;
    return 0;
}

/* ---- in the loop's ---- */

/* A future that failed, with the message that stands in the loop's error. */
static aioloop_future *aiol_resolve_failed(aioloop *loop, int err) {
    return loop == NULL || err == AIOLOOP_ENOMEM || err == AIOLOOP_ENOTAVAILABLE || err == AIOLOOP_EMISUSE
               ? aiol_future_failed(err)
               : aiol_combine_failed(loop, err);
}

static int aiol_resolve_check(aioloop *loop, const char *host, const char *service,
                              const aioloop_getaddrinfo_options *options) {
    if (host == NULL && service == NULL)
        return aiol_fail(loop, AIOLOOP_EAI_NONAME, "neither a host nor a service to look up");
    if ((host != NULL && strlen(host) > AIOL_RESOLVE_NAME) || (service != NULL && strlen(service) > AIOL_RESOLVE_NAME))
        return aiol_fail(loop, AIOLOOP_EINVAL, "a host or service has at most %u bytes", AIOL_RESOLVE_NAME);
    if (options->family != AIOLOOP_UNSPEC && options->family != AIOLOOP_INET && options->family != AIOLOOP_INET6)
        return aiol_fail(loop, AIOLOOP_EINVAL, "family %d is none of AIOLOOP_UNSPEC, AIOLOOP_INET and AIOLOOP_INET6", options->family);
    if (options->type < 0 || options->type > AIOLOOP_SOCK_SEQPACKET || options->type == 4)
        return aiol_fail(loop, AIOLOOP_EINVAL, "no type of socket: %d", options->type);
    if (options->protocol < 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "no protocol: %d", options->protocol);
    if ((options->flags & ~AIOL_RESOLVE_FLAGS) != 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "unknown flags: %#x", options->flags & ~AIOL_RESOLVE_FLAGS);
    return 0;
}

/* A job of the lane with a copy of what it needs. */
static aioloop_future *aiol_resolve_start(aioloop *loop, aioloop_executor_function fn, void *arg, size_t size,
                                          void (*dispose_result)(void *pointer)) {
    int err;
    aioloop_thread_pool *lane = aiol_executor_lane(loop, &err);
    aioloop_executor_options options;
    if (lane == NULL)
        return aiol_executor_failed(loop, err);
    memset(&options, 0, sizeof(options));
    options.copy_size = size;
    options.dispose_result = dispose_result;
    return aiol_executor_submit(loop, lane, fn, arg, &options, false);
}

static aioloop_future *aiol_resolve_by_system(aioloop *loop, const char *host, const char *service,
                                              const aioloop_getaddrinfo_options *options) {
    aiol_resolve_question question;
    char *end = question.texts;
    question.options = *options;
    question.has_host = host != NULL;
    question.has_service = service != NULL;
    (void)aiol_text_keep(&end, host);
    (void)aiol_text_keep(&end, service);
    return aiol_resolve_start(loop, aiol_resolve_run, &question, (size_t)(end - (char *)&question),
                              aioloop_freeaddrinfo);
}

AIOLOOP_API aioloop_future *(aioloop_getaddrinfo)(aioloop *loop, const char *host, const char *service,
                                                  const aioloop_getaddrinfo_options *options) {
    struct aiol_task *task;
    aioloop_future *f;
    int err = loop == NULL ? AIOLOOP_EINVAL + 0 : aiol_check(loop);
    if (options == NULL)
        options = &aiol_resolve_everything;
    if (err == 0)
        err = aiol_resolve_check(loop, host, service, options);
    if (err < 0)
        return aiol_resolve_failed(loop, err);
    if (loop->resolver == NULL || loop->resolving)
        return aiol_resolve_by_system(loop, host, service, options);
    task = loop->task;
    loop->task = NULL; /* it cannot wait, nor run or close the loop */
    loop->resolving = true;
    f = loop->resolver(loop, loop->resolver_arg, host, service, options);
    loop->resolving = false;
    loop->task = task;
    return f != NULL ? f : aiol_future_failed(aiol_fail(loop, AIOLOOP_EMISUSE, "the resolver returned no future"));
}

AIOLOOP_API aioloop_future *(aioloop_getnameinfo)(aioloop *loop, const aioloop_address *address, unsigned flags) {
    aiol_resolve_address question;
    int err = loop == NULL ? AIOLOOP_EINVAL + 0 : aiol_check(loop);
    if (err == 0 && address == NULL)
        err = aiol_fail(loop, AIOLOOP_EINVAL, "an address is needed, not NULL");
    if (err == 0 && address->family != AIOLOOP_INET && address->family != AIOLOOP_INET6)
        err = aiol_fail(loop, AIOLOOP_EAI_FAMILY, "only addresses of the internet have names");
    if (err == 0 && (flags & ~AIOL_RESOLVE_NAME_FLAGS) != 0)
        err = aiol_fail(loop, AIOLOOP_EINVAL, "unknown flags: %#x", flags & ~AIOL_RESOLVE_NAME_FLAGS);
    if (err < 0)
        return aiol_resolve_failed(loop, err);
    question.address = *address;
    question.flags = flags;
    return aiol_resolve_start(loop, aiol_resolve_run_back, &question, sizeof(question), aioloop_freenameinfo);
}

AIOLOOP_API int aioloop_set_resolver(aioloop *loop, aioloop_resolver resolver, void *arg) {
    int err = loop == NULL ? AIOLOOP_EINVAL + 0 : aiol_check(loop);
    if (err < 0)
        return err;
    loop->resolver = resolver;
    loop->resolver_arg = arg;
    return 0;
}

#endif
