/*
 * resolve.c - the system's resolver, and what it answers as blocks of memory that no loop owns.
 *
 *   a) Numbers of families, types of sockets, flags and errors differ between systems. A flag that one has not is a bad
 *      flag there.
 *   b) EAI_NODATA and EAI_ADDRFAMILY are gone from newer standards; some systems lack them, or give them the number of
 *      EAI_NONAME.
 *   c) EAI_SYSTEM means errno.
 *   d) The BSDs, macOS among them, have the size of an address in it too, and their getnameinfo looks.
 *
 * Without threads, or without an operating system, looking up answers AIOLOOP_ENOTAVAILABLE.
 */
#ifndef AIOL_SYS_RESOLVE_C
#define AIOL_SYS_RESOLVE_C

#include "api/resolve.h"
#include "sys/sys.h"

/* What is looked for; the copies of what the names may be are the caller's. */
typedef struct aiol_lookup {
    const char *host;    /* NULL: none */
    const char *service; /* likewise */
    aioloop_getaddrinfo_options options;
} aiol_lookup;

/* ---- the blocks ---- */

AIOLOOP_API void aioloop_freeaddrinfo(void *list) {
    aiol_free(&aiol_default_allocator, list, 0); /* which asks for no size */
}

AIOLOOP_API void aioloop_freenameinfo(void *names) {
    aiol_free(&aiol_default_allocator, names, 0);
}

/* With the zero; 0 for NULL. */
static size_t aiol_text_size(const char *text) {
    return text == NULL ? 0 : strlen(text) + 1;
}

/* Copies a text to *to, which moves behind it; returns where the copy is. NULL stays NULL. */
static const char *aiol_text_keep(char **to, const char *text) {
    char *copy = *to;
    if (text == NULL)
        return NULL;
    memcpy(copy, text, aiol_text_size(text));
    *to += aiol_text_size(text);
    return copy;
}

AIOLOOP_API aioloop_addrinfo *aioloop_addrinfo_copy(const aioloop_addrinfo *items, size_t count) {
    aioloop_addrinfo *list;
    char *names;
    size_t size;
    size_t i;
    if (items == NULL || count == 0 || count > SIZE_MAX / 2 / sizeof(*items))
        return NULL;
    size = count * sizeof(*items);
    for (i = 0; i < count; i++)
        size += aiol_text_size(items[i].canonname);
    list = (aioloop_addrinfo *)aiol_alloc(&aiol_default_allocator, size);
    if (list == NULL)
        return NULL;
    names = (char *)(list + count);
    memcpy(list, items, count * sizeof(*items));
    for (i = 0; i < count; i++)
        list[i].canonname = aiol_text_keep(&names, items[i].canonname);
    return list;
}

#if AIOL_HAVE_PTHREAD

/* ---- what things are called here ---- */

typedef struct aiol_number {
    unsigned ours;
    int theirs;
} aiol_number;

/* a) */
static const aiol_number aiol_addrinfo_flags[] = {
#ifdef AI_PASSIVE
    {AIOLOOP_AI_PASSIVE, AI_PASSIVE},
#endif
#ifdef AI_CANONNAME
    {AIOLOOP_AI_CANONNAME, AI_CANONNAME},
#endif
#ifdef AI_NUMERICHOST
    {AIOLOOP_AI_NUMERICHOST, AI_NUMERICHOST},
#endif
#ifdef AI_NUMERICSERV
    {AIOLOOP_AI_NUMERICSERV, AI_NUMERICSERV},
#endif
#ifdef AI_V4MAPPED
    {AIOLOOP_AI_V4MAPPED, AI_V4MAPPED},
#endif
#ifdef AI_ALL
    {AIOLOOP_AI_ALL, AI_ALL},
#endif
#ifdef AI_ADDRCONFIG
    {AIOLOOP_AI_ADDRCONFIG, AI_ADDRCONFIG},
#endif
};

static const aiol_number aiol_nameinfo_flags[] = {
    {AIOLOOP_NI_NUMERICHOST, NI_NUMERICHOST}, {AIOLOOP_NI_NUMERICSERV, NI_NUMERICSERV}, {AIOLOOP_NI_NOFQDN, NI_NOFQDN},
    {AIOLOOP_NI_NAMEREQD, NI_NAMEREQD},       {AIOLOOP_NI_DGRAM, NI_DGRAM},
};

static const aiol_number aiol_socket_types[] = {
    {AIOLOOP_SOCK_STREAM, SOCK_STREAM}, {AIOLOOP_SOCK_DGRAM, SOCK_DGRAM},         {AIOLOOP_SOCK_RAW, SOCK_RAW},
    {AIOLOOP_SOCK_SEQPACKET, SOCK_SEQPACKET},
};

#define AIOL_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* AIOLOOP_EAI_BADFLAGS for one that this system has not. */
static int aiol_flags_translate(const aiol_number *numbers, size_t count, unsigned flags, int *theirs) {
    size_t i;
    *theirs = 0;
    for (i = 0; i < count; i++) {
        if ((flags & numbers[i].ours) != 0)
            *theirs |= numbers[i].theirs;
        flags &= ~numbers[i].ours;
    }
    return flags == 0 ? 0 : AIOLOOP_EAI_BADFLAGS;
}

static int aiol_socket_type_here(int type) {
    size_t i;
    for (i = 0; i < AIOL_COUNT(aiol_socket_types); i++)
        if ((int)aiol_socket_types[i].ours == type)
            return aiol_socket_types[i].theirs;
    return 0;
}

static int aiol_socket_type_ours(int type) {
    size_t i;
    for (i = 0; i < AIOL_COUNT(aiol_socket_types); i++)
        if (aiol_socket_types[i].theirs == type)
            return (int)aiol_socket_types[i].ours;
    return type;
}

/* The code of what the resolver answered; number is errno's after it. */
static int aiol_error_from_resolver(int answer, int number) {
    switch (answer) {
    case EAI_AGAIN:
        return AIOLOOP_EAI_AGAIN;
    case EAI_BADFLAGS:
        return AIOLOOP_EAI_BADFLAGS;
    case EAI_FAMILY:
        return AIOLOOP_EAI_FAMILY;
    case EAI_MEMORY:
        return AIOLOOP_ENOMEM;
    case EAI_NONAME:
        return AIOLOOP_EAI_NONAME;
    case EAI_SERVICE:
        return AIOLOOP_EAI_SERVICE;
    case EAI_SOCKTYPE:
        return AIOLOOP_EAI_SOCKTYPE;
    case EAI_SYSTEM:
        return aiol_error_from_errno(number); /* c) */
#if defined(EAI_ADDRFAMILY) && EAI_ADDRFAMILY != EAI_NONAME /* b) */
    case EAI_ADDRFAMILY:
        return AIOLOOP_EAI_ADDRFAMILY;
#endif
#if defined(EAI_NODATA) && EAI_NODATA != EAI_NONAME
    case EAI_NODATA:
        return AIOLOOP_EAI_NODATA;
#endif
#ifdef EAI_OVERFLOW
    case EAI_OVERFLOW:
        return AIOLOOP_EAI_OVERFLOW;
#endif
    default:
        return AIOLOOP_EAI_FAIL;
    }
}

/* ---- the calls ---- */

/* The first address of the internet in what the resolver found: there are no others but in theory. */
static const struct addrinfo *aiol_addrinfo_from(const struct addrinfo *found) {
    while (found != NULL && ((found->ai_family != AF_INET && found->ai_family != AF_INET6) || found->ai_addr == NULL))
        found = found->ai_next;
    return found;
}

static void aiol_addrinfo_read(const struct addrinfo *found, aioloop_addrinfo *item, char **names) {
    aiol_sockaddr name;
    aiol_path_room room; /* for addresses of another family */
    memset(&name, 0, sizeof(name));
    memcpy(&name, found->ai_addr, aiol_min_size((size_t)found->ai_addrlen, sizeof(name)));
    aiol_sockaddr_read(&name, found->ai_addrlen, &item->address, &room);
    item->type = aiol_socket_type_ours(found->ai_socktype);
    item->protocol = found->ai_protocol;
    item->canonname = aiol_text_keep(names, found->ai_canonname);
}

/* All of them in a block of our own, and how many they are. */
static int64_t aiol_addrinfo_take(const struct addrinfo *found, aioloop_addrinfo **out) {
    const struct addrinfo *at;
    aioloop_addrinfo *list;
    char *names;
    size_t count = 0;
    size_t size = 0;
    for (at = aiol_addrinfo_from(found); at != NULL; at = aiol_addrinfo_from(at->ai_next)) {
        count++;
        size += sizeof(*list) + aiol_text_size(at->ai_canonname);
    }
    if (count == 0)
        return AIOLOOP_EAI_NONAME;
    list = (aioloop_addrinfo *)aiol_alloc(&aiol_default_allocator, size);
    if (list == NULL)
        return AIOLOOP_ENOMEM;
    *out = list;
    names = (char *)(list + count);
    for (at = aiol_addrinfo_from(found); at != NULL; at = aiol_addrinfo_from(at->ai_next))
        aiol_addrinfo_read(at, list++, &names);
    return (int64_t)count;
}

/* Blocks. How many addresses there are, with them at *out; or a code. */
AIOLOOP_INTERNAL int64_t aiol_resolve_addresses(const aiol_lookup *what, aioloop_addrinfo **out) {
    struct addrinfo hints;
    struct addrinfo *found = NULL;
    int64_t count;
    int answer;
    memset(&hints, 0, sizeof(hints));
    answer = aiol_flags_translate(aiol_addrinfo_flags, AIOL_COUNT(aiol_addrinfo_flags), what->options.flags,
                                  &hints.ai_flags);
    if (answer < 0)
        return answer;
    hints.ai_family = what->options.family == AIOLOOP_UNSPEC ? AF_UNSPEC : aiol_sockaddr_family(what->options.family);
    hints.ai_socktype = aiol_socket_type_here(what->options.type);
    hints.ai_protocol = what->options.protocol;
    if (AIOL_SYS(getaddrinfo, 0) < 0)
        return aiol_error_from_errno(errno);
    answer = getaddrinfo(what->host, what->service, &hints, &found);
    if (answer != 0)
        return aiol_error_from_resolver(answer, errno);
    count = aiol_addrinfo_take(found, out);
    freeaddrinfo(found);
    return count;
}

#define AIOL_HOST_MOST 1025u /* NI_MAXHOST and NI_MAXSERV, which not every system tells */
#define AIOL_SERVICE_MOST 64u

/* Blocks. 0, with both names at *out; or a code. */
AIOLOOP_INTERNAL int aiol_resolve_names(const aioloop_address *address, unsigned flags, aioloop_nameinfo **out) {
    char host[AIOL_HOST_MOST];
    char service[AIOL_SERVICE_MOST];
    aiol_sockaddr name;
    aioloop_nameinfo *names;
    socklen_t size = aiol_sockaddr_make(&name, address);
    char *text;
    int here;
    int answer = aiol_flags_translate(aiol_nameinfo_flags, AIOL_COUNT(aiol_nameinfo_flags), flags, &here);
    if (answer < 0)
        return answer;
#if defined(__APPLE__) || defined(__FreeBSD__) || defined(__NetBSD__) || defined(__OpenBSD__) || defined(__DragonFly__)
    name.any.sa_len = (unsigned char)size; /* d) */
#endif
    if (AIOL_SYS(getnameinfo, 0) < 0)
        return aiol_error_from_errno(errno);
    answer = getnameinfo(&name.any, size, host, (socklen_t)sizeof(host), service, (socklen_t)sizeof(service), here);
    if (answer != 0)
        return aiol_error_from_resolver(answer, errno);
    names = (aioloop_nameinfo *)aiol_alloc(&aiol_default_allocator,
                                           sizeof(*names) + aiol_text_size(host) + aiol_text_size(service));
    if (names == NULL)
        return AIOLOOP_ENOMEM;
    text = (char *)(names + 1);
    names->host = aiol_text_keep(&text, host);
    names->service = aiol_text_keep(&text, service);
    *out = names;
    return 0;
}

#else

AIOLOOP_INTERNAL int64_t aiol_resolve_addresses(const aiol_lookup *what, aioloop_addrinfo **out) {
    (void)what;
    (void)out;
    return AIOLOOP_ENOTAVAILABLE;
}

AIOLOOP_INTERNAL int aiol_resolve_names(const aioloop_address *address, unsigned flags, aioloop_nameinfo **out) {
    (void)address;
    (void)flags;
    (void)out;
    return AIOLOOP_ENOTAVAILABLE;
}

#endif

#endif
