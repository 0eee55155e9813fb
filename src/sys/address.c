/*
 * address.c - addresses as values and as text. No call of the system.
 */
#ifndef AIOL_SYS_ADDRESS_C
#define AIOL_SYS_ADDRESS_C

#include "sys/sys.h"

/* ---- parsing ---- */

static bool aiol_address_parse_v4(const char *text, size_t size, uint8_t *ip) {
    size_t i = 0;
    int part;
    for (part = 0; part < 4; part++) {
        unsigned value = 0;
        size_t start = i;
        while (i < size && text[i] >= '0' && text[i] <= '9' && i - start < 3)
            value = value * 10 + (unsigned)(text[i++] - '0');
        if (i == start || value > 255 || (i - start > 1 && text[start] == '0'))
            return false;
        ip[part] = (uint8_t)value;
        if (part < 3 && (i >= size || text[i++] != '.'))
            return false;
    }
    return i == size;
}

static int aiol_address_hex(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

static bool aiol_address_parse_v6(const char *text, size_t size, uint8_t *ip) {
    uint8_t bytes[16];
    size_t n = 0;        /* bytes filled */
    size_t gap = SIZE_MAX; /* where "::" stands */
    size_t i = 0;
    memset(bytes, 0, sizeof(bytes));
    if (size >= 2 && text[0] == ':' && text[1] == ':') {
        gap = 0;
        i = 2;
    }
    while (i < size) {
        unsigned value = 0;
        size_t start = i;
        while (i < size && aiol_address_hex(text[i]) >= 0 && i - start < 4)
            value = value * 16 + (unsigned)aiol_address_hex(text[i++]);
        if (i < size && text[i] == '.') { /* the last four bytes as IPv4 */
            if (n > 12 || !aiol_address_parse_v4(text + start, size - start, bytes + n))
                return false;
            n += 4;
            i = size;
            break;
        }
        if (i == start || n >= 16)
            return false;
        bytes[n++] = (uint8_t)(value >> 8);
        bytes[n++] = (uint8_t)value;
        if (i == size)
            break;
        if (text[i++] != ':' || i == size)
            return false;
        if (text[i] == ':') {
            if (gap != SIZE_MAX)
                return false;
            gap = n;
            i++;
        }
    }
    if (gap == SIZE_MAX ? n != 16 : n > 14)
        return false;
    memset(ip, 0, 16);
    if (gap == SIZE_MAX)
        gap = n;
    memcpy(ip, bytes, gap);
    memcpy(ip + 16 - (n - gap), bytes + gap, n - gap);
    return true;
}

AIOLOOP_API int aioloop_address_parse(aioloop_address *address, const char *host, int port) {
    aioloop_address parsed;
    size_t size;
    if (address == NULL || host == NULL || port < 0 || port > 65535)
        return AIOLOOP_EINVAL;
    size = strlen(host);
    memset(&parsed, 0, sizeof(parsed));
    parsed.port = (uint16_t)port;
    if (aiol_address_parse_v4(host, size, parsed.u.ip))
        parsed.family = AIOLOOP_INET;
    else if (aiol_address_parse_v6(host, size, parsed.u.ip))
        parsed.family = AIOLOOP_INET6;
    else
        return AIOLOOP_EINVAL;
    *address = parsed;
    return 0;
}

/* A path has a zero behind. */
AIOLOOP_INTERNAL size_t aiol_address_path_max(const char *path) {
    return path[0] == '\0' ? 108 : 107;
}

AIOLOOP_API int aioloop_address_unix(aioloop_address *address, const char *path, size_t size) {
    if (address == NULL || path == NULL)
        return AIOLOOP_EINVAL;
    if (size == 0)
        size = strlen(path);
    if (size == 0)
        return AIOLOOP_EINVAL;
    if (path[0] != '\0' && memchr(path, '\0', size) != NULL)
        return AIOLOOP_EINVAL;
    if (size > aiol_address_path_max(path))
        return AIOLOOP_ENAMETOOLONG;
    memset(address, 0, sizeof(*address));
    address->family = AIOLOOP_UNIX;
    address->path_size = (uint32_t)size;
    address->u.path = path;
    return 0;
}

/* ---- formatting ---- */

/* A writer that counts what did not fit. */
typedef struct aiol_text {
    char *to;
    size_t size;
    size_t length;
} aiol_text;

static void aiol_text_char(aiol_text *t, char c) {
    if (t->length + 1 < t->size)
        t->to[t->length] = c;
    t->length++;
}

static void aiol_text_number(aiol_text *t, unsigned value, unsigned base) {
    char digits[12];
    int n = 0;
    do {
        digits[n++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value != 0);
    while (n > 0)
        aiol_text_char(t, digits[--n]);
}

static size_t aiol_text_end(aiol_text *t) {
    if (t->size != 0)
        t->to[t->length < t->size ? t->length : t->size - 1] = '\0';
    return t->length;
}

static void aiol_text_v4(aiol_text *t, const uint8_t *ip) {
    int i;
    for (i = 0; i < 4; i++) {
        if (i != 0)
            aiol_text_char(t, '.');
        aiol_text_number(t, ip[i], 10);
    }
}

/* RFC 5952: the longest run of zero groups, of two at least, becomes "::". */
static void aiol_text_v6(aiol_text *t, const uint8_t *ip) {
    unsigned group[8];
    int best = -1;
    int best_size = 1;
    int i;
    for (i = 0; i < 8; i++)
        group[i] = (unsigned)ip[2 * i] << 8 | ip[2 * i + 1];
    for (i = 0; i < 8; i++) {
        int end = i;
        while (end < 8 && group[end] == 0)
            end++;
        if (end - i > best_size) {
            best = i;
            best_size = end - i;
        }
    }
    if (best == 0 && best_size == 5 && group[5] == 0xffff) { /* an IPv4 address mapped */
        const char *prefix = "::ffff:";
        while (*prefix != '\0')
            aiol_text_char(t, *prefix++);
        aiol_text_v4(t, ip + 12);
        return;
    }
    for (i = 0; i < 8; i++) {
        if (i == best) {
            aiol_text_char(t, ':');
            aiol_text_char(t, ':');
            i += best_size - 1;
            continue;
        }
        if (i != 0 && (best < 0 || i != best + best_size))
            aiol_text_char(t, ':');
        aiol_text_number(t, group[i], 16);
    }
}

static void aiol_text_host(aiol_text *t, const aioloop_address *a) {
    uint32_t i;
    if (a->family == AIOLOOP_INET) {
        aiol_text_v4(t, a->u.ip);
    } else if (a->family == AIOLOOP_INET6) {
        aiol_text_v6(t, a->u.ip);
        if (a->scope_id != 0) {
            aiol_text_char(t, '%');
            aiol_text_number(t, a->scope_id, 10);
        }
    } else if (a->family == AIOLOOP_UNIX) {
        for (i = 0; i < a->path_size && a->u.path != NULL; i++)
            aiol_text_char(t, a->u.path[i] == '\0' ? '@' : a->u.path[i]);
    }
}

AIOLOOP_API size_t aioloop_address_host(const aioloop_address *address, char *text, size_t size) {
    aiol_text t;
    t.to = text;
    t.size = text == NULL ? 0 : size;
    t.length = 0;
    if (address != NULL)
        aiol_text_host(&t, address);
    return aiol_text_end(&t);
}

AIOLOOP_API size_t aioloop_address_format(const aioloop_address *address, char *text, size_t size) {
    aiol_text t;
    t.to = text;
    t.size = text == NULL ? 0 : size;
    t.length = 0;
    if (address != NULL) {
        if (address->family == AIOLOOP_INET6)
            aiol_text_char(&t, '[');
        aiol_text_host(&t, address);
        if (address->family == AIOLOOP_INET6)
            aiol_text_char(&t, ']');
        if (address->family == AIOLOOP_INET || address->family == AIOLOOP_INET6) {
            aiol_text_char(&t, ':');
            aiol_text_number(&t, address->port, 10);
        }
    }
    return aiol_text_end(&t);
}

AIOLOOP_API bool aioloop_address_equal(const aioloop_address *a, const aioloop_address *b) {
    if (a == NULL || b == NULL || a->family != b->family)
        return a == b;
    switch (a->family) {
    case AIOLOOP_INET:
        return a->port == b->port && memcmp(a->u.ip, b->u.ip, 4) == 0;
    case AIOLOOP_INET6:
        return a->port == b->port && a->scope_id == b->scope_id && memcmp(a->u.ip, b->u.ip, 16) == 0;
    case AIOLOOP_UNIX:
        return a->path_size == b->path_size && (a->path_size == 0 || memcmp(a->u.path, b->u.path, a->path_size) == 0);
    default:
        return true;
    }
}

#endif
